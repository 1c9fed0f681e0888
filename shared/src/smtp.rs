//! One SMTP connection, driven phase by phase: a refusal costs a RSET and not the connection, each phase has its own
//! timer (RFC 5321, 4.5.3.2), and nothing is sent between gate and final dot but the content.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lettre::Address;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, AsyncTokioStream, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt, Rset};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use lettre::transport::smtp::response::Response;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::accounts::{Account, Security};
use crate::config::Secret;

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

/// A connection unused for longer is closed, as servers do on their side.
const MAX_IDLE: Duration = Duration::from_secs(60);
/// Servers limit a connection's age and its mails; these stay below what large providers allow.
const MAX_AGE: Duration = Duration::from_secs(600);
const MAX_MAILS: u32 = 1000;

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
        }
    }
}

/// An open connection, logged in.
pub struct Connection {
    smtp: AsyncSmtpConnection,
    opened: Instant,
    used: Instant,
    mails: u32,
}

/// Who a mail is from and for.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Return path.
    pub from: Address,
    /// Recipient.
    pub to: Address,
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
        let now = Instant::now();
        Ok(Self { smtp, opened: now, used: now, mails: 0 })
    }

    /// Whether it may carry another mail: not broken, not idle, old or used for too long.
    pub fn is_fresh(&self) -> bool {
        !self.smtp.has_broken()
            && self.used.elapsed() < MAX_IDLE
            && self.opened.elapsed() < MAX_AGE
            && self.mails < MAX_MAILS
    }

    /// Has carried a mail before, so that a failure now may only mean that the server closed it in between.
    pub fn is_used(&self) -> bool {
        self.mails > 0
    }

    /// MAIL and RCPT. After a refusal the connection is as before; after anything else it must be dropped.
    pub async fn envelope(&mut self, envelope: &Envelope, ascii_content: bool) -> Result<(), SmtpError> {
        let mut parameters = vec![];
        // What needs the extension is named by the phase: the sender's address, the recipient's, or the content.
        let international = |address: &Address| !(address.as_ref() as &str).is_ascii();
        if international(&envelope.from) || international(&envelope.to) {
            if !self.smtp.server_info().supports_feature(Extension::SmtpUtfEight) {
                let phase = if international(&envelope.from) { Phase::Mail } else { Phase::Rcpt };
                return Err(SmtpError { phase, failure: Failure::NotOffered("SMTPUTF8") });
            }
            parameters.push(MailParameter::SmtpUtfEight);
        }
        if !ascii_content {
            if !self.smtp.server_info().supports_feature(Extension::EightBitMime) {
                return Err(SmtpError { phase: Phase::Data, failure: Failure::NotOffered("8BITMIME") });
            }
            parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        self.used = Instant::now();
        self.command(Phase::Mail, COMMAND_TIMEOUT, Mail::new(Some(envelope.from.clone()), parameters)).await?;
        let rcpt = self.command(Phase::Rcpt, COMMAND_TIMEOUT, Rcpt::new(envelope.to.clone(), vec![])).await;
        if let Err(SmtpError { failure: Failure::Refused { .. }, .. }) = rcpt {
            self.reset().await?;
        }
        rcpt.map(|_| ())
    }

    /// DATA. Nothing is handed over yet.
    pub async fn data(&mut self) -> Result<(), SmtpError> {
        let data = self.command(Phase::Data, DATA_TIMEOUT, Data).await;
        if let Err(SmtpError { failure: Failure::Refused { .. }, .. }) = data {
            self.reset().await?;
        }
        data.map(|_| ())
    }

    /// Content and final dot; returns the server's words. Waits `patience` for them, ten minutes at most.
    pub async fn content(&mut self, content: &[u8], patience: Duration) -> Result<String, SmtpError> {
        self.mails += 1;
        let patience = patience.min(CONTENT_TIMEOUT);
        let answer = within(Phase::Content, patience, self.smtp.message(content)).await?;
        self.used = Instant::now();
        answer.map(|response| words(&response)).map_err(|error| failed(Phase::Content, error))
    }

    /// Forgets the envelope, so that the next mail can use the connection.
    pub async fn reset(&mut self) -> Result<(), SmtpError> {
        self.command(Phase::Mail, FAREWELL_TIMEOUT, Rset).await.map(|_| ())
    }

    /// Says QUIT, and does not wait long for the answer.
    pub async fn quit(mut self) {
        // A server that does not answer its QUIT loses nothing.
        let _ = timeout(FAREWELL_TIMEOUT, self.smtp.quit()).await;
    }

    async fn command<C: fmt::Display>(
        &mut self,
        phase: Phase,
        patience: Duration,
        command: C,
    ) -> Result<Response, SmtpError> {
        within(phase, patience, self.smtp.command(command)).await?.map_err(|error| failed(phase, error))
    }
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

fn words(response: &Response) -> String {
    format!("{} {}", response.code(), response.message().collect::<Vec<_>>().join(" "))
}

async fn implicit_tls(stream: TcpStream, host: &str) -> Result<TlsStream, SmtpError> {
    let peer = stream.peer_addr().map_err(|error| lost(Phase::Connect, error))?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| lost(Phase::Tls, error))?;
    let connector = TlsConnector::from(tls_config()?);
    let stream = within(Phase::Tls, CONNECT_TIMEOUT, connector.connect(name, stream))
        .await?
        .map_err(|error| lost(Phase::Tls, error))?;
    Ok(TlsStream { stream, peer })
}

/// The machine's own certificate store, read once per process.
fn tls_config() -> Result<Arc<ClientConfig>, SmtpError> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(config.clone());
    }
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(lost(Phase::Tls, "this machine has no trusted certificates; install ca-certificates"));
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(CONFIG.get_or_init(|| Arc::new(config)).clone())
}

/// TLS from the first byte, as a transport of the SMTP client.
#[derive(Debug)]
struct TlsStream {
    stream: tokio_rustls::client::TlsStream<TcpStream>,
    peer: std::net::SocketAddr,
}

impl AsyncTokioStream for TlsStream {
    fn peer_addr(&self) -> std::io::Result<std::net::SocketAddr> {
        Ok(self.peer)
    }
}

mod forward {
    //! Reads and writes of [`TlsStream`] go to the stream inside.

    use std::io::Result;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::TlsStream;

    impl AsyncRead for TlsStream {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
            Pin::new(&mut self.stream).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for TlsStream {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
            Pin::new(&mut self.stream).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
            Pin::new(&mut self.stream).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(cx)
        }
    }
}
