//! Recipients that the inbox does not simply accept.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long the answer for a `slow` recipient takes.
const SLOW: Duration = Duration::from_secs(2);

/// What happens to a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// `RCPT` gets this reply: code, enhanced code and text in one line.
    Refuse(String),
    /// `RCPT` gets this reply the first time an address is seen since the inbox started; from then on it is accepted.
    RefuseOnce(String),
    /// The final dot gets this reply, and the mail is not kept.
    RefuseContent(String),
    /// The recipient is accepted after this pause.
    Slow(Duration),
    /// The mail is kept, and the connection is closed instead of an answer to the final dot.
    HangUp,
}

/// An answer for all recipients whose local part begins with a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The word, in lower case. It ends where no further letter follows: `later` fits `later@…`, `later-7@…` and `LATER7@…`,
    /// and leaves Mrs Laterza alone.
    pub word: String,
    /// What happens.
    pub answer: Answer,
}

/// `bounce` is refused with 550, `full` with 452, `later` with 451 once per address, `spam` with 554 at the final dot,
/// `slow` is accepted after two seconds, `hangup` is kept without an answer. All others are accepted.
pub fn default_rules() -> Vec<Rule> {
    let rule = |word: &str, answer| Rule { word: word.to_owned(), answer };
    vec![
        rule("bounce", Answer::Refuse("550 5.1.1 No such user here".to_owned())),
        rule("full", Answer::Refuse("452 4.2.2 Mailbox is full".to_owned())),
        rule("later", Answer::RefuseOnce("451 4.7.1 Greylisted, try again later".to_owned())),
        rule("spam", Answer::RefuseContent("554 5.7.1 Message refused for its content".to_owned())),
        rule("slow", Answer::Slow(SLOW)),
        rule("hangup", Answer::HangUp),
    ]
}

impl Rule {
    fn fits(&self, address: &str) -> bool {
        let local = address.rsplit_once('@').map_or(address, |(local, _)| local).to_lowercase();
        local.strip_prefix(self.word.as_str()).is_some_and(|rest| !rest.starts_with(char::is_alphabetic))
    }

    /// One line of the answer to `HELP`.
    pub(super) fn explain(&self) -> String {
        let what = match &self.answer {
            Answer::Refuse(reply) => format!("is refused: {reply}"),
            Answer::RefuseOnce(reply) => format!("is refused the first time: {reply}"),
            Answer::RefuseContent(reply) => format!("is refused after its content: {reply}"),
            Answer::Slow(pause) => format!("is accepted after {pause:?}"),
            Answer::HangUp => "is kept, and the connection closed without an answer".to_owned(),
        };
        format!("{}@..., {}-1@...: {what}", self.word, self.word)
    }
}

/// What `RCPT` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Refuse(String),
    AcceptAfter(Duration),
    /// Accepted, with consequences at the final dot.
    AtContent(ContentAnswer),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ContentAnswer {
    Refuse(String),
    HangUp,
}

/// The rules with what they remember.
#[derive(Debug)]
pub(super) struct Rules {
    rules: Vec<Rule>,
    seen: Mutex<HashSet<String>>,
}

impl Rules {
    pub(super) fn new(rules: Vec<Rule>) -> Self {
        Self { rules, seen: Mutex::default() }
    }

    pub(super) fn explain(&self) -> impl Iterator<Item = String> {
        self.rules.iter().map(Rule::explain)
    }

    pub(super) fn judge(&self, address: &str) -> Verdict {
        let Some(rule) = self.rules.iter().find(|rule| rule.fits(address)) else {
            return Verdict::Accept;
        };
        match &rule.answer {
            Answer::Refuse(reply) => Verdict::Refuse(reply.clone()),
            Answer::RefuseOnce(reply) => {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.insert(address.to_lowercase()) { Verdict::Refuse(reply.clone()) } else { Verdict::Accept }
            }
            Answer::RefuseContent(reply) => Verdict::AtContent(ContentAnswer::Refuse(reply.clone())),
            Answer::Slow(pause) => Verdict::AcceptAfter(*pause),
            Answer::HangUp => Verdict::AtContent(ContentAnswer::HangUp),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_fits_whole_words_in_any_case() {
        let rules = Rules::new(default_rules());
        for address in ["bounce@x.test", "BOUNCE-1@x.test", "bounce7@x.test", "bounce+tag@x.test"] {
            assert!(
                matches!(rules.judge(address), Verdict::Refuse(reply) if reply.starts_with("550 5.1.1")),
                "{address}"
            );
        }
        for address in ["laterza@x.test", "fuller@x.test", "bouncer@x.test", "ann@bounce.test", "ann.later@x.test"] {
            assert_eq!(rules.judge(address), Verdict::Accept, "{address}");
        }
    }

    #[test]
    fn each_later_address_is_refused_once() {
        let rules = Rules::new(default_rules());
        assert!(matches!(rules.judge("later@x.test"), Verdict::Refuse(_)));
        assert!(matches!(rules.judge("later-2@x.test"), Verdict::Refuse(_)));
        assert_eq!(rules.judge("Later@X.test"), Verdict::Accept);
        assert_eq!(rules.judge("later@x.test"), Verdict::Accept);
    }
}
