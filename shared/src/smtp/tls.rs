//! TLS from the first byte (RFC 8314), as a transport of the SMTP client.

use std::sync::{Arc, OnceLock};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::{CONNECT_TIMEOUT, Phase, SmtpError, lost, within};

/// Agrees on TLS before anything is said.
pub(super) async fn implicit_tls(stream: TcpStream, host: &str) -> Result<TlsStream, SmtpError> {
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

/// The encrypted stream; a type of our own, because the client's trait is not implemented for it.
#[derive(Debug)]
pub(super) struct TlsStream {
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
