//! One connection to a sink: what is read is worked off completely, then all replies go out in one write.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::ledger::Ledger;
use crate::{DEAF, LATER, MUTE, Manners, Mood};

/// As much as a client's whole group of commands with content around it, so that it is one read where it is one write.
const READ_BYTES: usize = 256 * 1024;
/// The content's end; the line break before the dot belongs to the content.
const END_OF_CONTENT: &[u8] = b"\r\n.\r\n";

pub(crate) struct Session {
    stream: TcpStream,
    manners: Arc<Manners>,
    ledger: Arc<Ledger>,
    mood: watch::Receiver<Mood>,
    /// Read and not yet understood.
    input: Vec<u8>,
    replies: Vec<u8>,
    logged_in: bool,
    sender: bool,
    recipients: Vec<String>,
    in_content: bool,
    mails: u32,
    close: bool,
}

impl Session {
    pub(crate) fn new(
        stream: TcpStream,
        manners: Arc<Manners>,
        ledger: Arc<Ledger>,
        mood: watch::Receiver<Mood>,
    ) -> Self {
        let logged_in = !manners.wants_login;
        Self {
            stream,
            manners,
            ledger,
            mood,
            input: vec![],
            replies: vec![],
            logged_in,
            sender: false,
            recipients: vec![],
            in_content: false,
            mails: 0,
            close: false,
        }
    }

    /// Talks until one side has had enough.
    pub(crate) async fn run(mut self) {
        let mut mood = self.mood.clone();
        tokio::select! {
            // A client that vanished is what sinks are for.
            _ = self.converse() => {}
            _ = mood.wait_for(|mood| *mood == Mood::Down) => {}
        }
    }

    async fn converse(&mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        self.reply("220 sink.example ESMTP");
        self.flush().await?;
        let mut chunk = vec![0; READ_BYTES];
        loop {
            let read = self.stream.read(&mut chunk).await?;
            if read == 0 {
                return Ok(());
            }
            self.ledger.read(read);
            self.input.extend_from_slice(&chunk[..read]);
            self.work_off();
            if !self.replies.is_empty() {
                self.ledger.turned();
                self.flush().await?;
            }
            if self.close {
                return Ok(());
            }
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.manners.delay.is_zero() {
            tokio::time::sleep(self.manners.delay).await;
        }
        self.stream.write_all(&self.replies).await?;
        self.replies.clear();
        Ok(())
    }

    fn reply(&mut self, line: &str) {
        self.replies.extend_from_slice(line.as_bytes());
        self.replies.extend_from_slice(b"\r\n");
    }

    /// Understands as much of the input as is complete.
    fn work_off(&mut self) {
        let input = std::mem::take(&mut self.input);
        let mut rest = input.as_slice();
        while !self.close {
            if self.in_content {
                let Some((content, after)) = split_content(rest) else { break };
                self.content(content);
                rest = after;
            } else {
                let Some(end) = rest.iter().position(|&byte| byte == b'\n') else { break };
                let line = String::from_utf8_lossy(&rest[..end]).trim_end().to_owned();
                self.command(&line);
                rest = &rest[end + 1..];
            }
        }
        self.input = rest.to_vec();
    }

    fn command(&mut self, line: &str) {
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" => self.hello(),
            "HELO" => self.reply("250 sink.example"),
            "AUTH" if *self.mood.borrow() == Mood::Suspicious => {
                self.reply("535 5.7.8 Authentication credentials invalid");
            }
            "AUTH" => {
                self.logged_in = true;
                self.reply("235 2.7.0 Welcome");
            }
            "MAIL" if !self.logged_in => self.reply("530 5.7.0 Authentication required"),
            "MAIL" if self.sender => self.reply("503 5.5.1 One mail at a time"),
            "MAIL" => {
                self.sender = true;
                self.reply("250 2.1.0 Sender fine");
            }
            "RCPT" if !self.sender => self.reply("503 5.5.1 MAIL first"),
            "RCPT" => self.recipient(line),
            "DATA" if self.recipients.is_empty() && !(self.sender && self.manners.takes_data_for_nobody) => {
                self.reply("503 5.5.1 No valid recipients");
            }
            "DATA" => {
                self.in_content = true;
                self.reply("354 Go on");
            }
            "RSET" => {
                self.forget();
                self.reply("250 2.0.0 Forgotten");
            }
            "NOOP" => self.reply("250 2.0.0 Nothing done"),
            "QUIT" => {
                self.reply("221 2.0.0 Bye");
                self.close = true;
            }
            _ => self.reply("500 5.5.2 Not understood"),
        }
    }

    fn hello(&mut self) {
        self.forget();
        self.reply("250-sink.example");
        if !self.manners.hides_pipelining {
            self.reply("250-PIPELINING");
        }
        if self.manners.wants_login {
            self.reply("250-AUTH PLAIN");
        }
        self.reply("250-8BITMIME");
        self.reply("250-SMTPUTF8");
        self.reply("250 ENHANCEDSTATUSCODES");
    }

    fn recipient(&mut self, line: &str) {
        let address = line.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(address, _)| address);
        match address {
            None => self.reply("501 5.5.4 Whom do you mean?"),
            Some(address) if self.manners.refuses(address) => {
                self.ledger.refused();
                self.reply("550 5.1.1 No such user here");
            }
            Some(address) if address.starts_with(LATER) && self.ledger.is_new(address) => {
                self.reply("451 4.2.1 Come back later");
            }
            Some(address) if address.starts_with(DEAF) && self.ledger.is_new(address) => {}
            Some(address) => {
                self.recipients.push(address.to_owned());
                self.reply("250 2.1.5 Recipient fine");
            }
        }
    }

    fn content(&mut self, content: &[u8]) {
        self.in_content = false;
        let recipients = std::mem::take(&mut self.recipients);
        self.forget();
        if recipients.is_empty() {
            self.reply("554 5.5.1 No valid recipients");
            return;
        }
        if *self.mood.borrow() == Mood::Mute || recipients.iter().any(|recipient| recipient.starts_with(MUTE)) {
            return;
        }
        self.ledger.accept(&message_id(content), recipients);
        self.reply("250 2.0.0 Taken");
        self.mails += 1;
        self.close |= self.manners.mails_per_connection.is_some_and(|most| self.mails >= most);
    }

    fn forget(&mut self) {
        self.sender = false;
        self.recipients.clear();
    }
}

/// Content and what follows its final dot.
fn split_content(input: &[u8]) -> Option<(&[u8], &[u8])> {
    if let Some(after) = input.strip_prefix(b".\r\n") {
        return Some((b"", after));
    }
    let end = input.windows(END_OF_CONTENT.len()).position(|window| window == END_OF_CONTENT)?;
    Some((&input[..end], &input[end + END_OF_CONTENT.len()..]))
}

/// The `Message-ID` among the headers.
fn message_id(content: &[u8]) -> String {
    let headers = content.windows(4).position(|window| window == b"\r\n\r\n").map_or(content, |end| &content[..end]);
    String::from_utf8_lossy(headers)
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("message-id"))
        .map(|(_, id)| id.trim().trim_matches(['<', '>']).to_owned())
        .unwrap_or_default()
}
