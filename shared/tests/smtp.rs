//! SMTP connections against a server that speaks TLS: STARTTLS, implicit TLS and AUTH, and no way around them.
//!
//! The certificate is made up, and trusted through `SSL_CERT_FILE` as a private authority would be. That variable is
//! read once per process, so each conversation runs in a process of its own: this test file, started again.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lettre::Address;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use shared::accounts::{Account, Security};
use shared::config::Secret;
use shared::mail::Outgoing;
use shared::smtp::{Connection, Envelope, Failure, Manners, Opened, Phase, Server, SmtpError};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufStream};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// `AUTH PLAIN` for user `u`, password `p`.
const LOGIN: &str = "AHUAcA==";

/// What the server has heard, commands and content alike, with a mark where TLS began.
type Heard = Arc<Mutex<Vec<String>>>;

#[derive(Clone)]
struct Double {
    security: Security,
    offers_starttls: bool,
    acceptor: TlsAcceptor,
    heard: Heard,
}

impl Double {
    /// Listens with a fresh certificate for `localhost`; returns the port and the certificate.
    async fn listen(security: Security, offers_starttls: bool) -> (u16, String, Heard) {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).expect("certificate");
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("key");
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .expect("server configuration");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let port = listener.local_addr().expect("address").port();
        let heard = Heard::default();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let double = Self { security, offers_starttls, acceptor, heard: heard.clone() };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let double = double.clone();
                tokio::spawn(async move {
                    if double.security == Security::Tls {
                        if let Ok(stream) = double.acceptor.accept(stream).await {
                            double.hear("<TLS>");
                            double.talk(BufStream::new(stream), true, true).await;
                        }
                    } else if let Some(stream) = double.talk(BufStream::new(stream), false, true).await
                        && let Ok(stream) = double.acceptor.accept(stream.into_inner()).await
                    {
                        double.hear("<TLS>");
                        double.talk(BufStream::new(stream), true, false).await;
                    }
                });
            }
        });
        (port, cert.pem(), heard)
    }

    fn hear(&self, line: &str) {
        self.heard.lock().expect("no panic while held").push(line.to_owned());
    }

    /// Speaks SMTP until QUIT; hands the stream back when the client wants TLS.
    async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut stream: BufStream<S>,
        secure: bool,
        greet: bool,
    ) -> Option<BufStream<S>> {
        if greet {
            say(&mut stream, "220 double ESMTP").await?;
        }
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            let line = line.trim_end().to_owned();
            self.hear(&line);
            let answer = match line.split_whitespace().next().unwrap_or_default() {
                "EHLO" if !secure && self.offers_starttls => "250-double\r\n250 STARTTLS",
                "EHLO" => "250-double\r\n250-8BITMIME\r\n250 AUTH PLAIN LOGIN",
                "STARTTLS" => {
                    say(&mut stream, "220 go ahead").await?;
                    return Some(stream);
                }
                "AUTH" if line == format!("AUTH PLAIN {LOGIN}") => "235 2.7.0 welcome",
                "AUTH" => "535 5.7.8 who are you",
                "RCPT" if line.contains("nobody@") => "550 5.1.1 no such user",
                "DATA" => {
                    say(&mut stream, "354 go on").await?;
                    loop {
                        let mut line = String::new();
                        stream.read_line(&mut line).await.ok()?;
                        if line == ".\r\n" {
                            break;
                        }
                        self.hear(line.trim_end());
                    }
                    "250 2.0.0 taken"
                }
                "QUIT" => {
                    say(&mut stream, "221 bye").await;
                    return None;
                }
                _ => "250 ok",
            };
            say(&mut stream, answer).await?;
        }
    }
}

async fn say<S: AsyncWrite + Unpin>(stream: &mut S, line: &str) -> Option<()> {
    stream.write_all(format!("{line}\r\n").as_bytes()).await.ok()?;
    stream.flush().await.ok()
}

fn server(port: u16, security: Security, password: &str) -> Server {
    let account = Account {
        id: 1,
        name: "double".to_owned(),
        host: "localhost".to_owned(),
        port,
        security,
        credentials: None,
        from_email: "news@example.test".to_owned(),
        from_name: None,
        reply_to: None,
        max_connections: 1,
        paused_until: None,
        manners: Manners::default(),
    };
    let login = (!password.is_empty()).then(|| ("u".to_owned(), Secret::new(password)));
    Server::with_login(&account, login)
}

fn mail(to: &str) -> Outgoing {
    let address = |text: &str| text.parse::<Address>().expect("address");
    Outgoing {
        envelope: Envelope { from: address("news@example.test"), to: address(to) },
        content: "Subject: x\r\n\r\n.hidden dot\r\n".to_owned(),
    }
}

/// The part that runs in a process of its own; does nothing in an ordinary run.
#[tokio::test]
async fn one_conversation() {
    let Ok(port) = std::env::var("DOUBLE_PORT") else { return };
    let security: Security = std::env::var("DOUBLE_SECURITY").expect("security").parse().expect("security");
    let password = std::env::var("DOUBLE_PASSWORD").unwrap_or_default();
    let server = server(port.parse().expect("port"), security, &password);
    match Connection::open(&server).await {
        Ok(mut connection) => {
            let refused = connection.envelope(&mail("nobody@example.test"), true).await.expect_err("refused");
            println!("OUTCOME {refused}");
            let ann = mail("ann@example.test");
            let opened = connection.envelope(&ann, true).await.expect("a refusal costs no connection");
            assert_eq!(opened, Opened::Envelope, "this server offers no pipelining");
            connection.data().await.expect("data");
            let reply = connection.content(&ann, None, true, Duration::from_secs(5)).await;
            println!("OUTCOME {}", reply.expect("taken"));
            connection.quit().await;
        }
        Err(error) => println!("OUTCOME {error}"),
    }
}

/// Runs the conversation in a process that trusts `certificate`, and returns its outcomes.
async fn converse(port: u16, security: Security, password: &str, certificate: &str) -> Vec<String> {
    let trusted = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(trusted.path(), certificate).expect("write");
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command
        .args(["one_conversation", "--exact", "--nocapture"])
        .env("DOUBLE_PORT", port.to_string())
        .env("DOUBLE_SECURITY", security.column())
        .env("DOUBLE_PASSWORD", password)
        .env("SSL_CERT_FILE", trusted.path());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("task").expect("process");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text.lines().filter_map(|line| line.split_once("OUTCOME ").map(|(_, outcome)| outcome.to_owned())).collect()
}

const DELIVERED: [&str; 2] = ["550 5.1.1 no such user (RCPT TO)", "250 2.0.0 taken"];

#[tokio::test]
async fn starttls_comes_before_login_and_mail() {
    let (port, certificate, heard) = Double::listen(Security::Starttls, true).await;
    assert_eq!(converse(port, Security::Starttls, "p", &certificate).await, DELIVERED);
    let heard = heard.lock().expect("heard").clone();
    let tls = heard.iter().position(|line| line == "<TLS>").expect("TLS began");
    assert!(heard[..tls].iter().all(|line| line.starts_with("EHLO") || line == "STARTTLS"), "{heard:?}");
    assert!(heard[tls..].contains(&format!("AUTH PLAIN {LOGIN}")), "{heard:?}");
    assert!(heard[tls..].contains(&"..hidden dot".to_owned()), "{heard:?}");
}

#[tokio::test]
async fn implicit_tls_says_nothing_in_the_clear() {
    let (port, certificate, heard) = Double::listen(Security::Tls, false).await;
    assert_eq!(converse(port, Security::Tls, "p", &certificate).await, DELIVERED);
    assert_eq!(heard.lock().expect("heard")[0], "<TLS>");
}

#[tokio::test]
async fn a_server_without_starttls_gets_neither_login_nor_mail() {
    let (port, certificate, heard) = Double::listen(Security::Starttls, false).await;
    let outcome = converse(port, Security::Starttls, "p", &certificate).await;
    assert_eq!(outcome, ["the server does not offer STARTTLS (TLS)"]);
    let heard = heard.lock().expect("heard").clone();
    assert!(heard.iter().all(|line| line.starts_with("EHLO") || line == "QUIT"), "{heard:?}");
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    for security in [Security::Starttls, Security::Tls] {
        let (port, _, heard) = Double::listen(security, true).await;
        let (_, other, _) = Double::listen(security, true).await;
        let outcome = converse(port, security, "p", &other).await;
        assert!(outcome[0].contains("certificate"), "{outcome:?}");
        let heard = heard.lock().expect("heard").clone();
        assert!(!heard.iter().any(|line| line.starts_with("AUTH") || line.starts_with("MAIL")), "{heard:?}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_the_logins_fault() {
    let (port, certificate, _) = Double::listen(Security::Starttls, true).await;
    let outcome = converse(port, Security::Starttls, "wrong", &certificate).await;
    assert_eq!(outcome, ["535 5.7.8 who are you (login)"]);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_connection_failure() {
    let port = TcpListener::bind("127.0.0.1:0").await.expect("port").local_addr().expect("address").port();
    let Err(error) = Connection::open(&server(port, Security::Plain, "")).await else { panic!("connected") };
    assert!(matches!(&error, SmtpError { phase: Phase::Connect, failure: Failure::Lost(_) }), "{error}");
}
