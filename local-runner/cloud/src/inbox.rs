//! An SMTP server that catches all mail: nothing that functions send here reaches a person.
//!
//! Accepted mails stand in a folder that [`Mailbox`] reads, also after the server has ended. Some recipients are refused on
//! purpose, so that failures can be seen; [`default_rules`] says which, and so does the server's answer to `HELP`.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod command;
mod mailbox;
mod message;
mod rules;
mod session;
mod store;
mod wire;

pub use mailbox::{Envelope, Filter, Mail, Mailbox, Summary};
pub use rules::{Answer, Rule, default_rules};

use rules::Rules;
use session::Session;
use store::Store;

/// Connections at once. More would need more file descriptors than a process usually gets (1,024).
const MAX_CONNECTIONS: usize = 800;
/// A burst of new connections beyond this is refused by the kernel.
const BACKLOG: u32 = 1024;

/// Why there is no inbox.
#[derive(Debug, thiserror::Error)]
pub enum InboxError {
    /// The address cannot be listened on.
    #[error("the inbox cannot listen on {address}: {source}; choose another port, or 0 for any")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The folder cannot be used.
    #[error("the inbox cannot use {path}", path = path.display())]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another server writes into the folder.
    #[error("another inbox writes into {path}", path = path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
}

/// How the inbox behaves.
#[derive(Debug, Clone)]
pub struct InboxOptions {
    /// Folder of the mails; made when missing.
    pub dir: PathBuf,
    /// Where to listen; port 0 takes any.
    pub address: SocketAddr,
    /// Name in the greeting.
    pub hostname: String,
    /// Largest mail in bytes.
    pub max_size: usize,
    /// Recipients that are not simply accepted; the first rule that fits counts.
    pub rules: Vec<Rule>,
    /// User and password that a client must give. Without, any are accepted and none are needed.
    pub credentials: Option<(String, String)>,
    /// Pause before the answer to each mail, to resemble a distant server.
    pub delay: Duration,
    /// A client that says nothing for this long is hung up on.
    pub idle_timeout: Duration,
}

impl InboxOptions {
    /// The usual behaviour: mails up to 25 MB, the default rules, no credentials, five minutes of patience.
    pub fn new(dir: impl Into<PathBuf>, address: SocketAddr) -> Self {
        Self {
            dir: dir.into(),
            address,
            hostname: "inbox.localhost".to_owned(),
            max_size: 25 * 1024 * 1024,
            rules: default_rules(),
            credentials: None,
            delay: Duration::ZERO,
            idle_timeout: Duration::from_secs(300),
        }
    }
}

/// A running SMTP server.
#[derive(Debug)]
pub struct Inbox {
    address: SocketAddr,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Inbox {
    /// Listens, and serves in the background until [`Inbox::shutdown`] or until the value is dropped.
    pub async fn start(options: InboxOptions) -> Result<Self, InboxError> {
        let store = Store::open(&options.dir)?;
        let listener =
            listen(options.address).map_err(|source| InboxError::Listen { address: options.address, source })?;
        let address =
            listener.local_addr().map_err(|source| InboxError::Listen { address: options.address, source })?;
        let shutdown = CancellationToken::new();
        let tasks = TaskTracker::new();
        let rules = Arc::new(Rules::new(options.rules.clone()));
        let server = Server {
            listener,
            options: Arc::new(options),
            rules,
            store: Arc::new(store),
            shutdown: shutdown.clone(),
            tasks: tasks.clone(),
        };
        tasks.spawn(server.run());
        tasks.close();
        Ok(Self { address, shutdown, tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening, tells clients so and waits until the last mail is stored.
    pub async fn shutdown(self) {
        self.shutdown.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

struct Server {
    listener: TcpListener,
    options: Arc<InboxOptions>,
    rules: Arc<Rules>,
    store: Arc<Store>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    async fn run(self) {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most of all: those that close make room.
                    tracing::warn!("the inbox cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            stream.set_nodelay(true).ok();
            let session = Session::new(
                stream,
                Arc::clone(&self.options),
                Arc::clone(&self.rules),
                Arc::clone(&self.store),
                self.shutdown.clone(),
            );
            match Arc::clone(&room).try_acquire_owned() {
                Ok(permit) => {
                    self.tasks.spawn(async move {
                        session.run().await;
                        drop(permit);
                    });
                }
                Err(_) => drop(self.tasks.spawn(session.refuse())),
            }
        }
    }
}
