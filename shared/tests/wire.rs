//! Groups of commands towards servers that bear them, and towards servers that only say so: none may cost a mail or send
//! one twice, and each is spoken to as it can bear from then on.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shared::accounts::{Account, Security};
use shared::mail::Outgoing;
use shared::smtp::{Connection, Envelope, Failure, Manners, Opened, Phase, Server, SmtpError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PATIENCE: Duration = Duration::from_secs(10);

/// What a server does with what stands in one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// Takes it all (RFC 2920).
    Polite,
    /// Calls it a violation of the protocol and closes, as a strict one does that offers the extension by mistake.
    Objects,
    /// Throws away what stands behind a final dot.
    Discards,
    /// Closes without an answer when something stands behind a final dot.
    HangsUp,
    /// Says 354 although it refused the recipient.
    DataForNobody,
    /// Answers an envelope behind a content with 503.
    Confused,
}

#[derive(Debug, Default)]
struct Seen {
    /// Recipients of accepted mails.
    accepted: Vec<String>,
    connections: usize,
    /// Reads after which something was said.
    turns: usize,
}

/// A server with a habit; recipients called `nobody` do not exist.
struct Double {
    habit: Habit,
    seen: Arc<Mutex<Seen>>,
}

impl Double {
    async fn listen(habit: Habit) -> (Server, Arc<Mutex<Seen>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let port = listener.local_addr().expect("address").port();
        let seen = Arc::<Mutex<Seen>>::default();
        let double = Arc::new(Self { habit, seen: Arc::clone(&seen) });
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let double = Arc::clone(&double);
                double.see(|seen| seen.connections += 1);
                tokio::spawn(async move { double.talk(stream).await });
            }
        });
        let account = Account {
            id: 1,
            name: "double".to_owned(),
            host: "127.0.0.1".to_owned(),
            port,
            security: Security::Plain,
            credentials: None,
            from_email: "news@example.test".to_owned(),
            from_name: None,
            reply_to: None,
            max_connections: 1,
            paused_until: None,
            manners: Manners::default(),
        };
        (Server::of(&account, None), seen)
    }

    fn see(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().expect("no panic while held"));
    }

    async fn talk(&self, mut stream: TcpStream) -> Option<()> {
        stream.write_all(b"220 double ESMTP\r\n").await.ok()?;
        let (mut recipient, mut in_content) = (None::<String>, false);
        let mut input = String::new();
        loop {
            let mut chunk = [0; 4096];
            let read = stream.read(&mut chunk).await.ok()?;
            if read == 0 {
                return None;
            }
            input.push_str(std::str::from_utf8(&chunk[..read]).expect("ASCII"));
            let mut answers = String::new();
            let mut content_before = false;
            if self.habit == Habit::Objects && !in_content && input.matches("\r\n").count() > 1 {
                stream.write_all(b"554 5.5.0 SMTP synchronization error\r\n").await.ok()?;
                return None;
            }
            while let Some(end) = input.find("\r\n") {
                let line: String = input.drain(..end + 2).collect();
                let line = line.trim_end();
                if in_content {
                    if line == "." {
                        in_content = false;
                        if self.habit == Habit::HangsUp && !input.is_empty() {
                            return None;
                        }
                        if self.habit == Habit::Discards {
                            input.clear();
                        }
                        match recipient.take() {
                            Some(recipient) => self.see(|seen| seen.accepted.push(recipient)),
                            None => panic!("a mail to nobody"),
                        }
                        content_before = true;
                        answers.push_str("250 2.0.0 taken\r\n");
                    }
                    continue;
                }
                let confused = self.habit == Habit::Confused && content_before;
                answers.push_str(match line.split([' ', ':']).next().expect("a word") {
                    _ if confused => "503 5.5.1 bad sequence of commands\r\n",
                    "EHLO" => "250-double\r\n250 PIPELINING\r\n",
                    "RCPT" if line.contains("nobody") => "550 5.1.1 no such user\r\n",
                    "RCPT" => {
                        let address = line.split(['<', '>']).nth(1).expect("an address");
                        recipient = Some(address.to_owned());
                        "250 ok\r\n"
                    }
                    "DATA" if recipient.is_none() && self.habit != Habit::DataForNobody => {
                        "503 5.5.1 no valid recipients\r\n"
                    }
                    "DATA" => {
                        in_content = true;
                        "354 go on\r\n"
                    }
                    "QUIT" => return None,
                    _ => "250 ok\r\n",
                });
            }
            if !answers.is_empty() {
                self.see(|seen| seen.turns += 1);
                stream.write_all(answers.as_bytes()).await.ok()?;
            }
        }
    }
}

fn mail(to: &str) -> Outgoing {
    let address = |text: &str| text.parse().expect("address");
    Outgoing {
        envelope: Envelope { from: address("news@example.test"), to: address(to) },
        content: "Subject: x\r\n\r\nhello\r\n.\r\nQUIT\r\n".to_owned(),
    }
}

/// What became of the mails of a run.
#[derive(Debug, Default)]
struct Outcome {
    sent: Vec<String>,
    refused: Vec<String>,
    uncertain: Vec<String>,
}

/// Sends as a function does: what was not judged is tried again over another connection.
async fn deliver(server: &Server, recipients: &[&str]) -> Outcome {
    let mut waiting: VecDeque<Outgoing> = recipients.iter().map(|to| mail(to)).collect();
    let mut outcome = Outcome::default();
    let mut open: Option<Connection> = None;
    let mut ahead: Option<(Outgoing, Opened)> = None;
    let mut connects = 0;
    loop {
        if let Some(stale) = open.take_if(|connection| ahead.is_none() && !connection.is_fresh()) {
            stale.quit().await;
        }
        let connection = match &mut open {
            Some(connection) => connection,
            None => {
                connects += 1;
                assert!(connects < 30, "it connects for ever: {outcome:?}");
                open.insert(Connection::open(server).await.expect("connected"))
            }
        };
        let (mail, opened) = match ahead.take() {
            Some(opened) => opened,
            None => {
                let Some(mail) = waiting.pop_front() else { break };
                match connection.envelope(&mail, true).await {
                    Ok(opened) => (mail, opened),
                    Err(error) => {
                        let good = judge(error, mail, connection.deserves_another(), &mut waiting, &mut outcome);
                        if !good {
                            open = None;
                        }
                        continue;
                    }
                }
            }
        };
        let to = mail.envelope.to.to_string();
        if opened == Opened::Envelope {
            connection.data().await.expect("data");
        }
        let next = if connection.chains() { waiting.pop_front() } else { None };
        match connection.content(&mail, next.as_ref(), true, PATIENCE).await {
            Ok(_) => outcome.sent.push(to),
            Err(error) => {
                assert_eq!(error.phase, Phase::Content, "{error}");
                outcome.uncertain.push(to);
                waiting.extend(next);
                open = None;
                continue;
            }
        }
        let Some(next) = next else { continue };
        match connection.opened().await.expect("an envelope went out") {
            Ok(opened) => ahead = Some((next, opened)),
            Err(error) => {
                if !judge(error, next, connection.deserves_another(), &mut waiting, &mut outcome) {
                    open = None;
                }
            }
        }
    }
    if let Some(connection) = open {
        connection.quit().await;
    }
    outcome
}

/// Whether the connection can still be used.
fn judge(
    error: SmtpError,
    mail: Outgoing,
    innocent: bool,
    waiting: &mut VecDeque<Outgoing>,
    outcome: &mut Outcome,
) -> bool {
    match error.failure {
        Failure::Refused { .. } => {
            outcome.refused.push(mail.envelope.to.to_string());
            true
        }
        _ => {
            assert!(innocent, "nobody would try this mail again: {error}");
            waiting.push_front(mail);
            false
        }
    }
}

const FIVE: [&str; 5] = ["a@x.test", "b@x.test", "nobody@x.test", "c@x.test", "d@x.test"];
const FOUR: [&str; 4] = ["a@x.test", "b@x.test", "c@x.test", "d@x.test"];

/// Every mail arrives once and every refusal is the recipient's own, whatever the server is like.
async fn arrives_once(habit: Habit) -> (Manners, usize, usize) {
    let (server, seen) = Double::listen(habit).await;
    let outcome = deliver(&server, &FIVE).await;
    let seen = seen.lock().expect("seen");
    let mut accepted = seen.accepted.clone();
    accepted.sort();
    assert_eq!(accepted, FOUR, "{habit:?}: {outcome:?}");
    assert_eq!(outcome.refused, ["nobody@x.test"], "{habit:?}");
    assert_eq!(outcome.sent.len(), 4, "{habit:?}: {outcome:?}");
    (server.manners(), seen.connections, seen.turns)
}

#[tokio::test]
async fn a_polite_server_needs_one_round_trip_a_mail_and_a_refusal_no_connection() {
    let (manners, connections, turns) = arrives_once(Habit::Polite).await;
    assert_eq!(manners, Manners::default());
    assert_eq!(connections, 1);
    // EHLO twice, the first envelope, one for each of three contents with an envelope behind, one for the envelope
    // behind the refused one, and the last content.
    assert_eq!(turns, 2 + 1 + 3 + 1 + 1);
}

#[tokio::test]
async fn a_server_that_objects_to_groups_gets_single_commands() {
    let (manners, connections, _) = arrives_once(Habit::Objects).await;
    assert!(!manners.grouped);
    assert_eq!(connections, 2);
}

#[tokio::test]
async fn a_server_that_throws_away_what_stands_behind_a_content_gets_plain_groups() {
    let (manners, connections, _) = arrives_once(Habit::Discards).await;
    assert!(manners.grouped && !manners.chained, "{manners:?}");
    assert_eq!(connections, 2);
}

#[tokio::test]
async fn a_server_that_is_confused_by_what_stands_behind_a_content_gets_plain_groups() {
    let (manners, connections, _) = arrives_once(Habit::Confused).await;
    assert!(manners.grouped && !manners.chained, "{manners:?}");
    assert_eq!(connections, 2);
}

#[tokio::test]
async fn a_server_that_wants_content_for_nobody_gets_no_mail_for_it_and_no_data_in_groups() {
    let (manners, connections, _) = arrives_once(Habit::DataForNobody).await;
    assert!(manners.grouped && manners.chained && !manners.data_in_group, "{manners:?}");
    assert_eq!(connections, 2, "only the one that waits for content is given up");
}

#[tokio::test]
async fn a_server_that_hangs_up_on_a_content_with_more_behind_leaves_one_mail_in_doubt_and_no_second() {
    let (server, seen) = Double::listen(Habit::HangsUp).await;
    let outcome = deliver(&server, &FOUR).await;
    assert_eq!(outcome.uncertain, ["a@x.test"]);
    let mut accepted = seen.lock().expect("seen").accepted.clone();
    accepted.sort();
    assert_eq!(accepted, ["b@x.test", "c@x.test", "d@x.test"]);
    assert!(!server.manners().chained);
}
