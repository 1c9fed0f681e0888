//! What real servers say, and whose fault it is: a table of replies in `fixtures/replies.tsv`, and what must hold for
//! any reply at all.
//!
//! The replies are facts known from the providers' lists of SMTP errors, from bounce catalogues and from the messages
//! of common mail servers; names and IP addresses are made up. A reply that was judged wrongly belongs into the table.

use std::collections::HashSet;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use shared::smtp::{Failure, Phase, SmtpError};
use shared::verdict::{Verdict, judge};

const PHASES: [Phase; 7] =
    [Phase::Connect, Phase::Tls, Phase::Auth, Phase::Mail, Phase::Rcpt, Phase::Data, Phase::Content];

fn refused(phase: Phase, code: u16, text: &str) -> Verdict {
    judge(&SmtpError { phase, failure: Failure::Refused { code, text: text.to_owned() } })
}

struct Reply<'a> {
    provider: &'a str,
    phase: Phase,
    code: u16,
    text: String,
    verdict: &'a str,
}

/// Columns: provider, phase, code, text (`\n` between lines), verdict.
fn replies() -> impl Iterator<Item = Reply<'static>> {
    include_str!("fixtures/replies.tsv").lines().skip(1).map(|line| {
        let columns: Vec<&str> = line.split('\t').collect();
        let [provider, phase, code, text, verdict] = columns[..] else { panic!("not five columns: {line}") };
        let named = |candidate: &&Phase| format!("{candidate:?}") == phase;
        Reply {
            provider,
            phase: *PHASES.iter().find(named).unwrap_or_else(|| panic!("no phase {phase}: {line}")),
            code: code.parse().expect("a reply code"),
            text: text.replace(r"\n", "\n"),
            verdict,
        }
    })
}

#[test]
fn replies_of_real_servers_are_judged_as_written_in_the_table() {
    let wrong: Vec<String> = replies()
        .filter_map(|reply| {
            let verdict = format!("{:?}", refused(reply.phase, reply.code, &reply.text));
            let Reply { provider, phase, code, text, .. } = &reply;
            let expected = reply.verdict;
            (verdict != expected).then(|| format!("{verdict}, not {expected}: {provider} {phase:?} {code} {text}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_table_is_large_and_says_nothing_twice() {
    let rows: HashSet<_> =
        replies().map(|reply| (reply.provider, reply.phase.to_string(), reply.code, reply.text)).collect();
    assert_eq!(rows.len(), replies().count());
    assert!(rows.len() >= 100, "{} replies", rows.len());
}

#[test]
fn lines_joined_by_spaces_or_newlines_are_judged_alike() {
    for reply in replies() {
        let (spaces, lines) = (reply.text.replace('\n', " "), reply.text.replace(' ', "\r\n"));
        assert_eq!(
            refused(reply.phase, reply.code, &spaces),
            refused(reply.phase, reply.code, &lines),
            "{} {spaces}",
            reply.code
        );
    }
}

/// Texts as servers might write them: pieces of the table, enhanced codes of any kind, and noise.
fn random_text(random: &mut StdRng, pieces: &[String]) -> String {
    let mut text = String::new();
    if random.random_bool(0.5) {
        let (class, subject, detail) =
            (random.random_range(0..10), random.random_range(0..10), random.random_range(0..1200));
        text = format!("{class}.{subject}.{detail} ");
    }
    for _ in 0..random.random_range(0..6) {
        if random.random_bool(0.7) {
            text += pieces.choose(random).expect("the table has words");
        } else {
            text.extend((0..random.random_range(0..12)).map(|_| random.random::<char>()));
        }
        text.push(if random.random_bool(0.9) { ' ' } else { '\n' });
    }
    text
}

#[test]
fn no_reply_whatever_its_text_is_judged_against_the_rules() {
    let mut random = StdRng::seed_from_u64(5321);
    let pieces: Vec<String> =
        replies().flat_map(|reply| reply.text.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect();
    let texts: Vec<String> = replies().map(|reply| reply.text).collect();
    for code in 400..=599 {
        for phase in PHASES {
            let random_texts = (0..60).map(|_| random_text(&mut random, &pieces));
            for text in texts.iter().cloned().chain(random_texts) {
                let verdict = refused(phase, code, &text);
                let reply = format!("{verdict:?}: {phase:?} {code} {text:?}");
                assert_ne!(verdict, Verdict::Unknown, "a refusal is an answer: {reply}");
                let fails_the_recipient = verdict == Verdict::RecipientForGood;
                assert!(!fails_the_recipient || code >= 500, "failed for good by a temporary reply: {reply}");
                let recipients = fails_the_recipient || verdict == Verdict::RecipientForNow;
                let known = matches!(phase, Phase::Rcpt | Phase::Data | Phase::Content);
                assert!(!recipients || known, "a recipient's fault before any was named: {reply}");
                let content_known = !matches!(phase, Phase::Connect | Phase::Tls | Phase::Auth);
                assert!(verdict != Verdict::Message || content_known, "the content's fault too early: {reply}");
            }
        }
    }
}

#[test]
fn what_a_blocklist_or_a_policy_says_fails_no_recipient() {
    for text in [
        "5.7.1 You are listed",
        "5.7.1 Recipient address rejected: Access denied",
        "5.7.999 A code of the future",
        "User unknown, and your IP address is on a blocklist",
        "5.7.1 User unknown; relay access denied",
        "blocked using dnsbl.example: user unknown",
        "Message rejected as spam, user unknown",
        "Nobody knows why",
    ] {
        for phase in [Phase::Rcpt, Phase::Data, Phase::Content] {
            for code in 500..=599 {
                if code != 556 {
                    assert_ne!(refused(phase, code, text), Verdict::RecipientForGood, "{phase:?} {code} {text}");
                }
            }
        }
    }
}

#[test]
fn a_silence_after_the_content_is_unknown_and_before_it_the_providers() {
    for phase in PHASES {
        for failure in [Failure::Lost("connection reset".to_owned()), Failure::TimedOut(Duration::from_secs(300))] {
            let verdict = judge(&SmtpError { phase, failure });
            let expected = if phase == Phase::Content { Verdict::Unknown } else { Verdict::Provider };
            assert_eq!(verdict, expected, "{phase:?}");
        }
    }
}

#[test]
fn what_the_server_does_not_offer_fails_a_recipient_only_for_the_recipients_own_address() {
    for phase in PHASES {
        let verdict = judge(&SmtpError { phase, failure: Failure::NotOffered("an extension") });
        assert_eq!(verdict == Verdict::RecipientForGood, phase == Phase::Rcpt, "{phase:?}");
    }
}
