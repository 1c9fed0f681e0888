//! SMTP, driven phase by phase over the library's low-level connection: a refusal costs a RSET and not the connection,
//! each phase has its own timer (RFC 5321, 4.5.3.2), and commands go out in groups where the server takes them
//! (RFC 2920).

mod connection;
mod manners;
mod tls;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lettre::Address;
use lettre::transport::smtp::extension::ClientId;
use tokio::time::timeout;

use crate::accounts::{Account, Security};
use crate::config::Secret;

pub use connection::{Connection, Opened};
use manners::Learned;
pub use manners::Manners;

/// TCP, TLS, and every reply before MAIL: RFC 5321 asks for 5 minutes, but a function has better things to do, and
/// nothing is lost by trying again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// MAIL and RCPT (RFC 5321, 4.5.3.2.2 and .3).
const COMMAND_TIMEOUT: Duration = Duration::from_secs(300);
/// DATA (4.5.3.2.4).
const DATA_TIMEOUT: Duration = Duration::from_secs(120);
/// The answer to the content (4.5.3.2.6). Shorter timers make copies: the server may have taken the mail.
const CONTENT_TIMEOUT: Duration = Duration::from_secs(600);
/// RSET and QUIT: pleasantries.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);

/// Where in the conversation something went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// TCP, greeting and EHLO.
    Connect,
    /// STARTTLS or implicit TLS.
    Tls,
    /// AUTH.
    Auth,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// DATA.
    Data,
    /// Content, final dot and its answer.
    Content,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connecting",
            Self::Tls => "TLS",
            Self::Auth => "login",
            Self::Mail => "MAIL FROM",
            Self::Rcpt => "RCPT TO",
            Self::Data => "DATA",
            Self::Content => "content",
        })
    }
}

/// A failure in a phase; [`crate::verdict::judge`] says what it means.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{failure} ({phase})")]
pub struct SmtpError {
    /// Where.
    pub phase: Phase,
    /// What.
    pub failure: Failure,
}

impl SmtpError {
    /// There is nothing to speak through.
    pub fn no_connection() -> Self {
        Self { phase: Phase::Connect, failure: Failure::Lost("there is no connection".to_owned()) }
    }
}

/// How a phase failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The server said no.
    #[error("{code} {text}")]
    Refused {
        /// Reply code, 400 to 599.
        code: u16,
        /// Its text, lines joined.
        text: String,
    },
    /// The server does not offer what is needed.
    #[error("the server does not offer {0}")]
    NotOffered(&'static str),
    /// The connection broke, or the server spoke no SMTP.
    #[error("{0}")]
    Lost(String),
    /// No answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
}

/// What a connection needs to know of its server.
#[derive(Debug, Clone)]
pub struct Server {
    host: String,
    port: u16,
    security: Security,
    login: Option<(String, Secret)>,
    hello: ClientId,
    learned: Arc<Learned>,
}

impl Server {
    /// The server of an account, with its password decrypted.
    pub fn of(account: &Account, password: Option<Secret>) -> Self {
        Self::with_login(account, account.credentials.as_ref().map(|(username, _)| username.clone()).zip(password))
    }

    /// The server of an account, with another login than the stored one.
    pub fn with_login(account: &Account, login: Option<(String, Secret)>) -> Self {
        Self {
            host: account.host.clone(),
            port: account.port,
            security: account.security,
            login,
            hello: ClientId::default(),
            learned: Arc::new(Learned::new(account.manners)),
        }
    }

    /// How commands are sent to it, by what its connections have met so far.
    pub fn manners(&self) -> Manners {
        self.learned.now()
    }
}

/// Who a mail is from and for.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Return path.
    pub from: Address,
    /// Recipient.
    pub to: Address,
}

async fn within<T>(phase: Phase, patience: Duration, work: impl Future<Output = T>) -> Result<T, SmtpError> {
    timeout(patience, work).await.map_err(|_| SmtpError { phase, failure: Failure::TimedOut(patience) })
}

fn lost(phase: Phase, error: impl fmt::Display) -> SmtpError {
    SmtpError { phase, failure: Failure::Lost(error.to_string()) }
}

fn failed(phase: Phase, error: lettre::transport::smtp::Error) -> SmtpError {
    let source = std::error::Error::source(&error).map(ToString::to_string);
    match error.status() {
        Some(code) => {
            SmtpError { phase, failure: Failure::Refused { code: code.into(), text: source.unwrap_or_default() } }
        }
        None => lost(phase, error),
    }
}
