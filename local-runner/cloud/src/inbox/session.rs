//! One SMTP conversation.

use std::io;
use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::command::{self, Command, Path};
use super::message::{self, Content};
use super::rules::{ContentAnswer, Rules, Verdict};
use super::store::Store;
use super::wire::{Line, Wire};
use super::{Envelope, InboxOptions};

/// RFC 5321 asks for 100 at least.
const MAX_RECIPIENTS: usize = 1000;
/// Lines that were no command before the client is hung up on.
const MAX_ERRORS: u32 = 20;
/// Commands without a mail before the client is hung up on: above the recipients of one mail, below an endless loop.
const MAX_COMMANDS: u32 = 5000;

pub(super) struct Session {
    wire: Wire,
    options: Arc<InboxOptions>,
    rules: Arc<Rules>,
    store: Arc<Store>,
    greeted: bool,
    authenticated: bool,
    transaction: Option<Transaction>,
}

struct Transaction {
    from: Path,
    to: Vec<String>,
    content_answer: Option<ContentAnswer>,
}

/// Whether the conversation goes on.
enum Next {
    Go,
    Close,
}

impl Session {
    pub(super) fn new(
        stream: TcpStream,
        options: Arc<InboxOptions>,
        rules: Arc<Rules>,
        store: Arc<Store>,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            wire: Wire::new(stream, options.idle_timeout, shutdown),
            options,
            rules,
            store,
            greeted: false,
            authenticated: false,
            transaction: None,
        }
    }

    /// Talks until one side has had enough.
    pub(super) async fn run(mut self) {
        // A client that vanished is no event.
        if let Err(error) = self.converse().await {
            tracing::debug!("an SMTP connection ended: {error}");
        }
    }

    /// There is no room for this one.
    pub(super) async fn refuse(mut self) {
        self.wire.reply("421 4.3.2 Too many connections");
        self.wire.flush().await.ok();
    }

    async fn converse(&mut self) -> io::Result<()> {
        let greeting = format!("220 {} ESMTP Nightshift inbox, catches all mail", self.options.hostname);
        self.wire.reply(&greeting);
        let (mut errors, mut commands) = (0, 0);
        loop {
            let next = match self.wire.read_line().await? {
                Line::End => return Ok(()),
                Line::Bye(farewell) => {
                    self.wire.reply(farewell);
                    return self.wire.flush().await;
                }
                Line::TooLong => {
                    errors += 1;
                    self.wire.reply("500 5.5.2 Line too long");
                    Next::Go
                }
                Line::Whole(line) => {
                    commands += 1;
                    match command::parse(&line) {
                        Ok(command) => {
                            if command == Command::Data {
                                commands = 0;
                            }
                            self.execute(command).await?
                        }
                        Err(reply) => {
                            // A refused address is an answer; anything else is a client that does not speak SMTP.
                            errors += u32::from(reply.starts_with("500"));
                            self.wire.reply(reply);
                            Next::Go
                        }
                    }
                }
            };
            if matches!(next, Next::Close) {
                return self.wire.flush().await;
            }
            if errors >= MAX_ERRORS || commands >= MAX_COMMANDS {
                self.wire.reply("421 4.7.0 Too many errors or commands");
                return self.wire.flush().await;
            }
        }
    }

    async fn execute(&mut self, command: Command) -> io::Result<Next> {
        match command {
            Command::Helo { extended } => {
                self.greeted = true;
                self.transaction = None;
                self.hello(extended);
            }
            Command::Quit => {
                self.wire.reply("221 2.0.0 Bye");
                return Ok(Next::Close);
            }
            Command::Noop => self.wire.reply("250 2.0.0 OK"),
            Command::Vrfy => self.wire.reply("252 2.1.5 Try it"),
            Command::Help => self.help(),
            Command::Rset => {
                self.transaction = None;
                self.wire.reply("250 2.0.0 OK");
            }
            _ if !self.greeted => self.wire.reply("503 5.5.1 Say EHLO first"),
            Command::Auth { mechanism, initial } => {
                return self.authenticate(&mechanism, initial).await;
            }
            _ if self.options.credentials.is_some() && !self.authenticated => {
                self.wire.reply("530 5.7.0 Authentication required");
            }
            Command::Mail(path) => self.mail(path),
            Command::Rcpt(path) => self.recipient(path).await?,
            Command::Data => return self.data().await,
        }
        Ok(Next::Go)
    }

    fn hello(&mut self, extended: bool) {
        if !extended {
            let line = format!("250 {}", self.options.hostname);
            return self.wire.reply(&line);
        }
        let lines = [
            self.options.hostname.clone(),
            "PIPELINING".to_owned(),
            "8BITMIME".to_owned(),
            "SMTPUTF8".to_owned(),
            "ENHANCEDSTATUSCODES".to_owned(),
            "AUTH PLAIN LOGIN".to_owned(),
            "HELP".to_owned(),
            format!("SIZE {}", self.options.max_size),
        ];
        self.wire.reply_lines("250", &lines);
    }

    fn help(&mut self) {
        let mut lines = vec!["2.0.0 This inbox accepts all mail and delivers none, except:".to_owned()];
        lines.extend(self.rules.explain().map(|line| format!("2.0.0 {line}")));
        lines.push("2.0.0 No other name is special".to_owned());
        self.wire.reply_lines("214", &lines);
    }

    fn mail(&mut self, from: Path) {
        let reply = if self.transaction.is_some() {
            "503 5.5.1 One sender is enough"
        } else if from.size.is_some_and(|size| size > self.options.max_size as u64) {
            "552 5.3.4 Message too large"
        } else if !from.address.is_ascii() && !from.utf8 {
            "553 5.6.7 Say SMTPUTF8 for such an address"
        } else {
            self.transaction = Some(Transaction { from, to: Vec::new(), content_answer: None });
            "250 2.1.0 OK"
        };
        self.wire.reply(reply);
    }

    async fn recipient(&mut self, path: Path) -> io::Result<()> {
        let Some(transaction) = &mut self.transaction else {
            self.wire.reply("503 5.5.1 Say MAIL first");
            return Ok(());
        };
        if transaction.to.len() >= MAX_RECIPIENTS {
            self.wire.reply("452 4.5.3 Too many recipients");
            return Ok(());
        }
        if !path.address.is_ascii() && !transaction.from.utf8 {
            self.wire.reply("553 5.6.7 Say SMTPUTF8 for such an address");
            return Ok(());
        }
        let pause = match self.rules.judge(&path.address) {
            Verdict::Refuse(reply) => {
                self.wire.reply(&reply);
                return Ok(());
            }
            Verdict::AtContent(answer) => {
                transaction.content_answer.get_or_insert(answer);
                None
            }
            Verdict::AcceptAfter(pause) => Some(pause),
            Verdict::Accept => None,
        };
        transaction.to.push(path.address);
        if let Some(pause) = pause {
            self.wire.flush().await?;
            tokio::time::sleep(pause).await;
        }
        self.wire.reply("250 2.1.5 OK");
        Ok(())
    }

    async fn data(&mut self) -> io::Result<Next> {
        let Some(transaction) = self.transaction.take() else {
            self.wire.reply("503 5.5.1 Say MAIL first");
            return Ok(Next::Go);
        };
        if transaction.to.is_empty() {
            self.transaction = Some(transaction);
            self.wire.reply("554 5.5.1 No valid recipients");
            return Ok(Next::Go);
        }
        self.wire.reply("354 End with a dot on a line of its own");
        let mut content = Content::new(self.options.max_size);
        let mut received = 0;
        loop {
            if let Some(line) = self.wire.wait_for_input().await? {
                if let Line::Bye(farewell) = line {
                    self.wire.reply(farewell);
                }
                return Ok(Next::Close);
            }
            let (taken, done) = content.feed(self.wire.buffer());
            self.wire.consume(taken);
            received += taken;
            if done {
                break;
            }
            // A client may overshoot before it learns that the mail is too large; it may not go on for ever.
            if received / 4 > self.options.max_size {
                self.wire.reply("552 5.3.4 Message much too large");
                return Ok(Next::Close);
            }
        }
        let Some(raw) = content.finish() else {
            self.wire.reply("552 5.3.4 Message too large");
            return Ok(Next::Go);
        };
        if !self.options.delay.is_zero() {
            self.wire.flush().await?;
            tokio::time::sleep(self.options.delay).await;
        }
        if let Some(ContentAnswer::Refuse(reply)) = transaction.content_answer {
            self.wire.reply(&reply);
            return Ok(Next::Go);
        }
        let envelope = Envelope { from: transaction.from.address, to: transaction.to };
        let subject = message::subject(&raw);
        match self.store.keep(envelope, subject, raw).await {
            Ok(_) if transaction.content_answer == Some(ContentAnswer::HangUp) => {
                return Ok(Next::Close);
            }
            Ok(id) => self.wire.reply(&format!("250 2.0.0 Kept as {id}")),
            Err(_) => self.wire.reply("452 4.3.1 The inbox cannot write to its folder"),
        }
        Ok(Next::Go)
    }

    async fn authenticate(&mut self, mechanism: &str, initial: Option<String>) -> io::Result<Next> {
        if self.authenticated {
            self.wire.reply("503 5.5.1 Authenticated already");
            return Ok(Next::Go);
        }
        let mut parts = Vec::new();
        // Base64 of `Username:` and `Password:`.
        let prompts: &[&str] = match mechanism {
            "PLAIN" => &["334 "],
            "LOGIN" => &["334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6"],
            _ => {
                self.wire.reply("504 5.5.4 PLAIN and LOGIN are offered");
                return Ok(Next::Go);
            }
        };
        let mut initial = initial;
        for prompt in prompts {
            let answer = match initial.take() {
                // RFC 4954: `=` is an empty answer.
                Some(initial) if initial == "=" => Vec::new(),
                Some(initial) => initial.into_bytes(),
                None => {
                    self.wire.reply(prompt);
                    match self.wire.read_line().await? {
                        Line::Whole(line) => line.trim_ascii_end().to_vec(),
                        Line::TooLong => b"*".to_vec(),
                        Line::End => return Ok(Next::Close),
                        Line::Bye(farewell) => {
                            self.wire.reply(farewell);
                            return Ok(Next::Close);
                        }
                    }
                }
            };
            // `*` cancels, and is no Base64 either.
            let Ok(part) = BASE64_STANDARD.decode(&answer) else {
                self.wire.reply("501 5.5.2 Not Base64");
                return Ok(Next::Go);
            };
            parts.push(part);
        }
        if mechanism == "PLAIN" {
            // authorization identity, user, password
            parts = parts.concat().split(|byte| *byte == 0).skip(1).map(<[u8]>::to_vec).collect();
        }
        let [user, password] = parts.as_slice() else {
            self.wire.reply("501 5.5.2 User and password are needed");
            return Ok(Next::Go);
        };
        let accepted = self.options.credentials.as_ref().is_none_or(|(known_user, known_password)| {
            known_user.as_bytes() == user.as_slice() && known_password.as_bytes() == password.as_slice()
        });
        self.authenticated = accepted;
        self.wire.reply(if accepted { "235 2.7.0 Welcome" } else { "535 5.7.8 User or password is wrong" });
        Ok(Next::Go)
    }
}
