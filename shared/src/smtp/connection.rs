//! One connection and what is said on it.
//!
//! A mail takes two steps here: its envelope is opened (MAIL, RCPT and, where the server takes it, DATA), and its
//! content is handed over. On a server that offers PIPELINING the envelope goes out in one write, and the envelope of
//! the next mail in one write with the content of this one, so that a kept connection needs one round trip a mail.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use lettre::Address;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, AsyncTokioStream, TlsParameters};
use lettre::transport::smtp::commands::{Data, Ehlo, Mail, Rcpt, Rset};
use lettre::transport::smtp::extension::{Extension, MailBodyParameter, MailParameter};
use lettre::transport::smtp::response::Response;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::manners::{Learned, Step};
use super::tls::implicit_tls;
use super::{
    COMMAND_TIMEOUT, CONNECT_TIMEOUT, CONTENT_TIMEOUT, DATA_TIMEOUT, FAREWELL_TIMEOUT, Failure, Phase, Server,
    SmtpError, failed, lost, within,
};
use crate::accounts::Security;
use crate::mail::Outgoing;

/// A connection unused for longer is closed, as servers do on their side.
const MAX_IDLE: Duration = Duration::from_secs(60);
/// Servers limit a connection's age and its mails; these stay below what large providers allow.
const MAX_AGE: Duration = Duration::from_secs(600);
const MAX_MAILS: u32 = 1000;
/// A server that threw away what stood behind the content never answers it. Once it has answered such a group in order,
/// it has the full time of RFC 5321.
const FIRST_CHAIN_TIMEOUT: Duration = Duration::from_secs(15);

/// An open connection, logged in.
pub struct Connection {
    smtp: AsyncSmtpConnection,
    learned: Arc<Learned>,
    offers_pipelining: bool,
    opened: Instant,
    used: Instant,
    mails: u32,
    /// An envelope was begun that the next mail must not inherit: its commands begin with RSET.
    half_open: bool,
    /// The server waits for content: a command would become text of a mail.
    in_data: bool,
    /// What was sent and is not answered yet.
    unanswered: Option<Unanswered>,
    /// A server that did not bear a group was met here, and is spoken to otherwise from now on.
    fell_back: bool,
}

/// How far the server has followed an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// MAIL and RCPT are accepted; [`Connection::data`] comes next.
    Envelope,
    /// DATA too: content comes next and nothing else can. A mail that must not be sent costs the connection.
    Data,
}

/// Commands of an envelope that were sent.
#[derive(Debug, Clone, Copy)]
struct Unanswered {
    reset: bool,
    data: bool,
    /// In which kind of group; `None` where it was no group.
    step: Option<Step>,
}

impl Connection {
    /// Connects, protects the connection as the account says, and logs in.
    pub async fn open(server: &Server) -> Result<Self, SmtpError> {
        let stream = within(Phase::Connect, CONNECT_TIMEOUT, TcpStream::connect((server.host.as_str(), server.port)))
            .await?
            .map_err(|error| lost(Phase::Connect, format!("{}:{}: {error}", server.host, server.port)))?;
        // Commands are small writes that wait for an answer: with Nagle's algorithm each would cost 40 ms.
        stream.set_nodelay(true).map_err(|error| lost(Phase::Connect, error))?;
        let stream: Box<dyn AsyncTokioStream> = match server.security {
            Security::Tls => Box::new(implicit_tls(stream, &server.host).await?),
            Security::Starttls | Security::Plain => Box::new(stream),
        };
        let greeting = AsyncSmtpConnection::connect_with_transport(stream, &server.hello);
        let mut smtp =
            within(Phase::Connect, CONNECT_TIMEOUT, greeting).await?.map_err(|error| failed(Phase::Connect, error))?;
        if server.security == Security::Starttls {
            if !smtp.can_starttls() {
                return Err(SmtpError { phase: Phase::Tls, failure: Failure::NotOffered("STARTTLS") });
            }
            let tls = TlsParameters::new(server.host.clone()).map_err(|error| failed(Phase::Tls, error))?;
            within(Phase::Tls, CONNECT_TIMEOUT, smtp.starttls(tls, &server.hello))
                .await?
                .map_err(|error| failed(Phase::Tls, error))?;
        }
        if let Some((username, password)) = &server.login {
            let credentials = Credentials::new(username.clone(), password.expose().to_owned());
            let mechanisms = [Mechanism::Plain, Mechanism::Login];
            if smtp.server_info().get_auth_mechanism(&mechanisms).is_none() {
                return Err(SmtpError { phase: Phase::Auth, failure: Failure::NotOffered("AUTH PLAIN or LOGIN") });
            }
            within(Phase::Auth, CONNECT_TIMEOUT, smtp.auth(&mechanisms, &credentials))
                .await?
                .map_err(|error| failed(Phase::Auth, error))?;
        }
        let offers_pipelining = server.learned.now().grouped && offers_pipelining(&mut smtp, server).await?;
        let now = Instant::now();
        Ok(Self {
            smtp,
            learned: Arc::clone(&server.learned),
            offers_pipelining,
            opened: now,
            used: now,
            mails: 0,
            half_open: false,
            in_data: false,
            unanswered: None,
            fell_back: false,
        })
    }

    /// Whether it may carry another mail: not broken or waiting for content, not idle, old or used for too long.
    pub fn is_fresh(&self) -> bool {
        !self.smtp.has_broken()
            && !self.in_data
            && self.unanswered.is_none()
            && self.used.elapsed() < MAX_IDLE
            && self.opened.elapsed() < MAX_AGE
            && self.mails < MAX_MAILS
    }

    /// A failure now may be nobody's fault but the connection's: it has carried a mail before, so that the server may
    /// have closed it in between, or the server did not bear how it was spoken to.
    pub fn deserves_another(&self) -> bool {
        self.mails > 0 || self.fell_back
    }

    /// Whether the next envelope may go out with the content of the mail before.
    pub fn chains(&self) -> bool {
        let manners = self.learned.now();
        // A group of its own goes first: where that fails, no mail is in doubt.
        self.offers_pipelining
            && manners.grouped
            && manners.chained
            && self.learned.is_proven(Step::Group)
            && self.mails + 1 < MAX_MAILS
            && self.opened.elapsed() < MAX_AGE
    }

    /// Opens the mail's envelope. With `early_data` DATA is said at once where the server takes that. After a refusal
    /// the connection can take the next mail; after anything else it must be dropped.
    pub async fn envelope(&mut self, mail: &Outgoing, early_data: bool) -> Result<Opened, SmtpError> {
        let (from, to) = self.commands(mail)?;
        self.used = Instant::now();
        if self.offers_pipelining && self.learned.now().grouped {
            let mut group = String::new();
            let sent = self.push_group(&mut group, (from, to), early_data, Step::Group);
            return self.hear_envelope(sent, Some(group)).await;
        }
        if self.half_open {
            self.say(Phase::Mail, FAREWELL_TIMEOUT, Rset.to_string()).await?;
            self.half_open = false;
        }
        self.say(Phase::Mail, COMMAND_TIMEOUT, from.to_string()).await?;
        self.half_open = true;
        self.say(Phase::Rcpt, COMMAND_TIMEOUT, to.to_string()).await?;
        Ok(Opened::Envelope)
    }

    /// DATA, where the envelope did not say it. Nothing is handed over yet.
    pub async fn data(&mut self) -> Result<(), SmtpError> {
        let answer = self.say(Phase::Data, DATA_TIMEOUT, Data.to_string()).await?;
        self.in_data = true;
        in_step(Phase::Data, &answer)
    }

    /// Content and final dot; returns the server's words. Waits `patience` for them, ten minutes at most.
    ///
    /// `next` opens the envelope of another mail in the same write; what becomes of it tells [`Connection::opened`].
    pub async fn content(
        &mut self,
        mail: &Outgoing,
        next: Option<&Outgoing>,
        early_data: bool,
        patience: Duration,
    ) -> Result<String, SmtpError> {
        self.mails += 1;
        self.half_open = false;
        self.in_data = false;
        let mut text = String::with_capacity(mail.content.len() + 512);
        push_content(&mut text, &mail.content);
        // What the server lacks for the next mail is told when that is opened on its own.
        if let Some(commands) = next.and_then(|next| self.commands(next).ok()) {
            self.unanswered = Some(self.push_group(&mut text, commands, early_data, Step::Chain));
        }
        let answer = self.say(Phase::Content, patience.min(CONTENT_TIMEOUT), text).await;
        self.used = Instant::now();
        if self.unanswered.is_some() && answer.as_ref().is_err_and(is_lost) {
            self.blame(Step::Chain, "no answer to a content that opened the next group");
        }
        let answer = answer?;
        in_step(Phase::Content, &answer)?;
        Ok(words(&answer))
    }

    /// What became of the envelope that went out with the last content. `None`: there was none.
    pub async fn opened(&mut self) -> Option<Result<Opened, SmtpError>> {
        let sent = self.unanswered?;
        Some(self.hear_envelope(sent, None).await)
    }

    /// Says QUIT, and does not wait long for the answer. Where it would become text of a mail, it is left out.
    pub async fn quit(mut self) {
        if !self.in_data && self.unanswered.is_none() {
            // A server that does not answer its QUIT loses nothing.
            let _ = timeout(FAREWELL_TIMEOUT, self.smtp.quit()).await;
        }
    }

    /// MAIL and RCPT of the mail, or what the server lacks for it.
    fn commands(&self, mail: &Outgoing) -> Result<(Mail, Rcpt), SmtpError> {
        let mut parameters = vec![];
        // What needs the extension is named by the phase: the sender's address, the recipient's, or the content.
        let international = |address: &Address| !(address.as_ref() as &str).is_ascii();
        let envelope = &mail.envelope;
        if international(&envelope.from) || international(&envelope.to) {
            if !self.smtp.server_info().supports_feature(Extension::SmtpUtfEight) {
                let phase = if international(&envelope.from) { Phase::Mail } else { Phase::Rcpt };
                return Err(SmtpError { phase, failure: Failure::NotOffered("SMTPUTF8") });
            }
            parameters.push(MailParameter::SmtpUtfEight);
        }
        if !mail.content.is_ascii() {
            if !self.smtp.server_info().supports_feature(Extension::EightBitMime) {
                return Err(SmtpError { phase: Phase::Data, failure: Failure::NotOffered("8BITMIME") });
            }
            parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        Ok((Mail::new(Some(envelope.from.clone()), parameters), Rcpt::new(envelope.to.clone(), vec![])))
    }

    fn push_group(&self, group: &mut String, (from, to): (Mail, Rcpt), early_data: bool, step: Step) -> Unanswered {
        let sent = Unanswered {
            reset: self.half_open,
            data: early_data && self.learned.now().data_in_group,
            step: Some(step),
        };
        // Writing to a String cannot fail.
        if sent.reset {
            let _ = write!(group, "{Rset}");
        }
        let _ = write!(group, "{from}{to}");
        if sent.data {
            let _ = write!(group, "{Data}");
        }
        sent
    }

    /// Reads the answer to each command of a group, after writing it if it is not on its way already. Every answer is
    /// read, whatever the one before said.
    async fn hear_envelope(&mut self, sent: Unanswered, mut group: Option<String>) -> Result<Opened, SmtpError> {
        self.unanswered = Some(sent);
        let answers = self.hear_group(sent, &mut group).await;
        let [mail, rcpt, data] = match answers {
            Ok(answers) => answers,
            Err(error) => {
                let blamed = match sent.step.filter(|_| is_lost(&error) || speaks_of_order(&error)) {
                    Some(step) => self.blame(step, &error.to_string()),
                    None => false,
                };
                return Err(if blamed { lost(error.phase, error) } else { error });
            }
        };
        self.unanswered = None;
        self.half_open = mail.is_ok();
        let data_accepted = sent.data && data.is_ok();
        self.in_data = data_accepted;
        let refused_before_data = mail.is_err() || rcpt.is_err();
        if data_accepted && refused_before_data {
            self.blame(Step::DataInGroup, "the server wants content for a recipient that it refused");
        }
        // The first refusal explains those behind it.
        let refusal = mail.and(rcpt).and(data);
        if let (Err(refusal), Some(step)) = (&refusal, sent.step)
            && speaks_of_order(refusal)
        {
            let step = if refusal.phase == Phase::Data { Step::DataInGroup } else { step };
            if self.blame(step, &refusal.to_string()) {
                return Err(lost(refusal.phase, refusal));
            }
        } else if let Some(step) = sent.step {
            self.learned.prove(step);
        }
        refusal.map(|()| if sent.data { Opened::Data } else { Opened::Envelope })
    }

    async fn hear_group(
        &mut self,
        sent: Unanswered,
        group: &mut Option<String>,
    ) -> Result<[Result<(), SmtpError>; 3], SmtpError> {
        let patience = match sent.step {
            Some(Step::Chain) if !self.learned.is_proven(Step::Chain) => FIRST_CHAIN_TIMEOUT,
            Some(_) | None => COMMAND_TIMEOUT,
        };
        if sent.reset {
            // Nothing that has to be undone: a refusal here is told by what follows.
            self.hear(Phase::Mail, patience, group).await?.ok();
        }
        let mail = self.hear(Phase::Mail, patience, group).await?;
        let rcpt = self.hear(Phase::Rcpt, COMMAND_TIMEOUT, group).await?;
        let data = match sent.data {
            true => self.hear(Phase::Data, DATA_TIMEOUT, group).await?,
            false => Ok(()),
        };
        Ok([mail, rcpt, data])
    }

    /// One answer, after `text` is written, if there is any left to write. The outer error means that there is none.
    async fn hear(
        &mut self,
        phase: Phase,
        patience: Duration,
        text: &mut Option<String>,
    ) -> Result<Result<(), SmtpError>, SmtpError> {
        let answer = match text.take() {
            Some(text) => self.say(phase, patience, text).await,
            None => within(phase, patience, self.smtp.read_response()).await?.map_err(|error| failed(phase, error)),
        };
        match answer {
            Ok(response) => in_step(phase, &response).map(Ok),
            Err(error) if matches!(error.failure, Failure::Refused { code, .. } if code != 421) => Ok(Err(error)),
            // 421 closes the channel: nothing more will come.
            Err(error) => Err(error),
        }
    }

    async fn say(&mut self, phase: Phase, patience: Duration, text: String) -> Result<Response, SmtpError> {
        within(phase, patience, self.smtp.command(text)).await?.map_err(|error| failed(phase, error))
    }

    /// Does without the step towards this host from now on, unless it has worked before. Returns whether it changes
    /// how the next attempt is made.
    fn blame(&mut self, step: Step, what: &str) -> bool {
        if self.learned.is_proven(step) {
            return false;
        }
        self.learned.give_up(step);
        self.fell_back = true;
        tracing::warn!("commands are grouped less for this host from now on: {what}");
        true
    }
}

/// The client library keeps no notes of this extension, so the server is asked once more.
async fn offers_pipelining(smtp: &mut AsyncSmtpConnection, server: &Server) -> Result<bool, SmtpError> {
    let answer = within(Phase::Connect, CONNECT_TIMEOUT, smtp.command(Ehlo::new(server.hello.clone())))
        .await?
        .map_err(|error| failed(Phase::Connect, error));
    let answer = match answer {
        Ok(answer) => answer,
        // Odd, and nothing that has to stop a mail.
        Err(SmtpError { failure: Failure::Refused { code, .. }, .. }) if code != 421 => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(answer.message().any(|line| line.trim().eq_ignore_ascii_case("PIPELINING")))
}

/// Transparency (RFC 5321, 4.5.2) and the final dot. Every line ends with CRLF, whatever it ended with: a bare LF before
/// a dot is where some servers see the end of a mail and others do not.
fn push_content(text: &mut String, content: &str) {
    for line in content.split_inclusive('\n') {
        if line.starts_with('.') {
            text.push('.');
        }
        text.push_str(line.trim_end_matches(['\r', '\n']));
        text.push_str("\r\n");
    }
    text.push_str(".\r\n");
}

/// An answer that is neither a refusal nor what the phase calls for belongs to another command: nothing that follows
/// can be trusted.
fn in_step(phase: Phase, answer: &Response) -> Result<(), SmtpError> {
    let code = u16::from(answer.code());
    let expected = if phase == Phase::Data { code == 354 } else { (200..300).contains(&code) };
    if expected { Ok(()) } else { Err(lost(phase, format!("the server answers out of step: {}", words(answer)))) }
}

fn is_lost(error: &SmtpError) -> bool {
    matches!(error.failure, Failure::Lost(_) | Failure::TimedOut(_))
}

/// The server complains about the order of commands, or about their coming together.
fn speaks_of_order(error: &SmtpError) -> bool {
    match &error.failure {
        Failure::Refused { code, text } => {
            let text = text.to_ascii_lowercase();
            *code == 503 || text.contains("synchroni") || text.contains("pipelin")
        }
        Failure::NotOffered(_) | Failure::Lost(_) | Failure::TimedOut(_) => false,
    }
}

fn words(response: &Response) -> String {
    format!("{} {}", response.code(), response.message().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::push_content;

    #[test]
    fn dots_are_doubled_and_lines_end_as_they_must() {
        let mut text = String::new();
        push_content(&mut text, ".one\r\ntwo.\r\n..\n.\r\nlast");
        assert_eq!(text, "..one\r\ntwo.\r\n...\r\n..\r\nlast\r\n.\r\n");
    }
}
