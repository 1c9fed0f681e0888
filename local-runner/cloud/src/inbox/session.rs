//! One SMTP conversation.

use std::io;
use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::sync::CancellationToken;

use super::command::{self, Command, Path};
use super::message::{self, Content};
use super::rules::{ContentAnswer, Rules, Verdict};
use super::store::Store;
use super::{Envelope, InboxOptions};

/// RFC 5321 asks for 512 and extensions for some more; AUTH is the longest with 12,288.
const MAX_LINE: usize = 12 * 1024;
/// RFC 5321 asks for 100 at least.
const MAX_RECIPIENTS: usize = 1000;
/// Lines that were no command before the client is hung up on.
const MAX_ERRORS: u32 = 20;
/// Commands without a mail before the client is hung up on: above the recipients of one mail, below an endless loop.
const MAX_COMMANDS: u32 = 5000;

const BYE_SHUTDOWN: &str = "421 4.3.2 Shutting down";
const BYE_IDLE: &str = "421 4.4.2 Nothing heard for too long";

pub(super) struct Session {
    input: BufReader<OwnedReadHalf>,
    output: OwnedWriteHalf,
    /// Replies not sent yet: those to pipelined commands leave together.
    replies: Vec<u8>,
    options: Arc<InboxOptions>,
    rules: Arc<Rules>,
    store: Arc<Store>,
    shutdown: CancellationToken,
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

/// What the client sent next.
enum Line {
    Whole(Vec<u8>),
    TooLong,
    /// The connection was closed by the client.
    End,
    /// It must be closed, with this farewell.
    Bye(&'static str),
}

impl Session {
    pub(super) fn new(
        stream: TcpStream,
        options: Arc<InboxOptions>,
        rules: Arc<Rules>,
        store: Arc<Store>,
        shutdown: CancellationToken,
    ) -> Self {
        let (input, output) = stream.into_split();
        Self {
            input: BufReader::with_capacity(32 * 1024, input),
            output,
            replies: Vec::new(),
            options,
            rules,
            store,
            shutdown,
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
        self.reply("421 4.3.2 Too many connections");
        self.flush().await.ok();
    }

    async fn converse(&mut self) -> io::Result<()> {
        let greeting = format!(
            "220 {} ESMTP Nightshift inbox, catches all mail",
            self.options.hostname
        );
        self.reply(&greeting);
        let (mut errors, mut commands) = (0, 0);
        loop {
            let next = match self.read_line().await? {
                Line::End => return Ok(()),
                Line::Bye(farewell) => {
                    self.reply(farewell);
                    return self.flush().await;
                }
                Line::TooLong => {
                    errors += 1;
                    self.reply("500 5.5.2 Line too long");
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
                            self.reply(reply);
                            Next::Go
                        }
                    }
                }
            };
            if matches!(next, Next::Close) {
                return self.flush().await;
            }
            if errors >= MAX_ERRORS || commands >= MAX_COMMANDS {
                self.reply("421 4.7.0 Too many errors or commands");
                return self.flush().await;
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
                self.reply("221 2.0.0 Bye");
                return Ok(Next::Close);
            }
            Command::Noop => self.reply("250 2.0.0 OK"),
            Command::Vrfy => self.reply("252 2.1.5 Try it"),
            Command::Help => self.help(),
            Command::Rset => {
                self.transaction = None;
                self.reply("250 2.0.0 OK");
            }
            _ if !self.greeted => self.reply("503 5.5.1 Say EHLO first"),
            Command::Auth { mechanism, initial } => {
                return self.authenticate(&mechanism, initial).await;
            }
            _ if self.options.credentials.is_some() && !self.authenticated => {
                self.reply("530 5.7.0 Authentication required");
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
            return self.reply(&line);
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
        self.reply_lines("250", &lines);
    }

    fn help(&mut self) {
        let mut lines =
            vec!["2.0.0 This inbox accepts all mail and delivers none, except:".to_owned()];
        lines.extend(self.rules.explain().map(|line| format!("2.0.0 {line}")));
        lines.push("2.0.0 No other name is special".to_owned());
        self.reply_lines("214", &lines);
    }

    fn mail(&mut self, from: Path) {
        let reply = if self.transaction.is_some() {
            "503 5.5.1 One sender is enough"
        } else if from
            .size
            .is_some_and(|size| size > self.options.max_size as u64)
        {
            "552 5.3.4 Message too large"
        } else if !from.address.is_ascii() && !from.utf8 {
            "553 5.6.7 Say SMTPUTF8 for such an address"
        } else {
            self.transaction = Some(Transaction {
                from,
                to: Vec::new(),
                content_answer: None,
            });
            "250 2.1.0 OK"
        };
        self.reply(reply);
    }

    async fn recipient(&mut self, path: Path) -> io::Result<()> {
        let Some(transaction) = &mut self.transaction else {
            self.reply("503 5.5.1 Say MAIL first");
            return Ok(());
        };
        if transaction.to.len() >= MAX_RECIPIENTS {
            self.reply("452 4.5.3 Too many recipients");
            return Ok(());
        }
        if !path.address.is_ascii() && !transaction.from.utf8 {
            self.reply("553 5.6.7 Say SMTPUTF8 for such an address");
            return Ok(());
        }
        let pause = match self.rules.judge(&path.address) {
            Verdict::Refuse(reply) => {
                self.reply(&reply);
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
            self.flush().await?;
            tokio::time::sleep(pause).await;
        }
        self.reply("250 2.1.5 OK");
        Ok(())
    }

    async fn data(&mut self) -> io::Result<Next> {
        let Some(transaction) = self.transaction.take() else {
            self.reply("503 5.5.1 Say MAIL first");
            return Ok(Next::Go);
        };
        if transaction.to.is_empty() {
            self.transaction = Some(transaction);
            self.reply("554 5.5.1 No valid recipients");
            return Ok(Next::Go);
        }
        self.reply("354 End with a dot on a line of its own");
        let mut content = Content::new(self.options.max_size);
        let mut received = 0;
        loop {
            if let Some(line) = self.wait_for_input().await? {
                if let Line::Bye(farewell) = line {
                    self.reply(farewell);
                }
                return Ok(Next::Close);
            }
            let (taken, done) = content.feed(self.input.buffer());
            self.input.consume(taken);
            received += taken;
            if done {
                break;
            }
            // A client may overshoot before it learns that the mail is too large; it may not go on for ever.
            if received / 4 > self.options.max_size {
                self.reply("552 5.3.4 Message much too large");
                return Ok(Next::Close);
            }
        }
        let Some(raw) = content.finish() else {
            self.reply("552 5.3.4 Message too large");
            return Ok(Next::Go);
        };
        if !self.options.delay.is_zero() {
            self.flush().await?;
            tokio::time::sleep(self.options.delay).await;
        }
        if let Some(ContentAnswer::Refuse(reply)) = transaction.content_answer {
            self.reply(&reply);
            return Ok(Next::Go);
        }
        let envelope = Envelope {
            from: transaction.from.address,
            to: transaction.to,
        };
        let subject = message::subject(&raw);
        match self.store.keep(envelope, subject, raw).await {
            Ok(_) if transaction.content_answer == Some(ContentAnswer::HangUp) => {
                return Ok(Next::Close);
            }
            Ok(id) => self.reply(&format!("250 2.0.0 Kept as {id}")),
            Err(_) => self.reply("452 4.3.1 The inbox cannot write to its folder"),
        }
        Ok(Next::Go)
    }

    async fn authenticate(&mut self, mechanism: &str, initial: Option<String>) -> io::Result<Next> {
        if self.authenticated {
            self.reply("503 5.5.1 Authenticated already");
            return Ok(Next::Go);
        }
        let mut parts = Vec::new();
        // Base64 of `Username:` and `Password:`.
        let prompts: &[&str] = match mechanism {
            "PLAIN" => &["334 "],
            "LOGIN" => &["334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6"],
            _ => {
                self.reply("504 5.5.4 PLAIN and LOGIN are offered");
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
                    self.reply(prompt);
                    match self.read_line().await? {
                        Line::Whole(line) => line.trim_ascii_end().to_vec(),
                        Line::TooLong => b"*".to_vec(),
                        Line::End => return Ok(Next::Close),
                        Line::Bye(farewell) => {
                            self.reply(farewell);
                            return Ok(Next::Close);
                        }
                    }
                }
            };
            // `*` cancels, and is no Base64 either.
            let Ok(part) = BASE64_STANDARD.decode(&answer) else {
                self.reply("501 5.5.2 Not Base64");
                return Ok(Next::Go);
            };
            parts.push(part);
        }
        if mechanism == "PLAIN" {
            // authorization identity, user, password
            parts = parts
                .concat()
                .split(|byte| *byte == 0)
                .skip(1)
                .map(<[u8]>::to_vec)
                .collect();
        }
        let [user, password] = parts.as_slice() else {
            self.reply("501 5.5.2 User and password are needed");
            return Ok(Next::Go);
        };
        let accepted =
            self.options
                .credentials
                .as_ref()
                .is_none_or(|(known_user, known_password)| {
                    known_user.as_bytes() == user.as_slice()
                        && known_password.as_bytes() == password.as_slice()
                });
        self.authenticated = accepted;
        self.reply(if accepted {
            "235 2.7.0 Welcome"
        } else {
            "535 5.7.8 User or password is wrong"
        });
        Ok(Next::Go)
    }

    fn reply(&mut self, line: &str) {
        self.replies.extend_from_slice(line.as_bytes());
        self.replies.extend_from_slice(b"\r\n");
    }

    fn reply_lines(&mut self, code: &str, lines: &[String]) {
        for (index, line) in lines.iter().enumerate() {
            let separator = if index + 1 == lines.len() { ' ' } else { '-' };
            self.reply(&format!("{code}{separator}{line}"));
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        let patience = self.options.idle_timeout;
        let write = self.output.write_all(&self.replies);
        // A client that does not read its replies is as idle as one that sends nothing.
        tokio::time::timeout(patience, write)
            .await
            .map_err(|_| io::ErrorKind::TimedOut)??;
        self.replies.clear();
        Ok(())
    }

    /// Sends replies and waits for input; `None` when there is some, otherwise why not.
    async fn wait_for_input(&mut self) -> io::Result<Option<Line>> {
        if !self.input.buffer().is_empty() {
            return Ok(None);
        }
        self.flush().await?;
        let filled = tokio::select! {
            filled = tokio::time::timeout(self.options.idle_timeout, self.input.fill_buf()) => filled,
            () = self.shutdown.cancelled() => return Ok(Some(Line::Bye(BYE_SHUTDOWN))),
        };
        match filled {
            Err(_) => Ok(Some(Line::Bye(BYE_IDLE))),
            Ok(bytes) => Ok(bytes?.is_empty().then_some(Line::End)),
        }
    }

    /// The next line without its end. One that is too long is read to its end and forgotten.
    async fn read_line(&mut self) -> io::Result<Line> {
        let mut line = Vec::new();
        let mut too_long = false;
        loop {
            if let Some(end) = self.wait_for_input().await? {
                return Ok(end);
            }
            let bytes = self.input.buffer();
            let newline = bytes.iter().position(|byte| *byte == b'\n');
            let part = newline.map_or(bytes, |at| &bytes[..at]);
            too_long |= line.len() + part.len() > MAX_LINE;
            if !too_long {
                line.extend_from_slice(part);
            }
            let taken = newline.map_or(bytes.len(), |at| at + 1);
            self.input.consume(taken);
            if newline.is_some() {
                if too_long {
                    return Ok(Line::TooLong);
                }
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Ok(Line::Whole(line));
            }
        }
    }
}
