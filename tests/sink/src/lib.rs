//! An SMTP server that takes mail, stores none and counts: the judge of what really left.
//!
//! It shares no code with what it judges. It offers PIPELINING and takes commands in whatever packets they come, also
//! directly behind the content of the mail before. A mail counts as accepted at the moment its final dot is seen and
//! agreed to, whether or not the sender lives to read the answer.

mod ledger;
mod session;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

use ledger::Ledger;
pub use ledger::{Accepted, Figures};
use session::Session;

/// Local parts that begin so are refused at RCPT.
pub const NOBODY: &str = "nobody-";
/// Local parts that begin so are refused with a 451 the first time, and accepted later.
pub const LATER: &str = "later-";
/// Local parts that begin so get no answer to their RCPT the first time, and are accepted later.
pub const DEAF: &str = "deaf-";
/// Local parts that begin so get no answer to their content, ever.
pub const MUTE: &str = "mute-";

/// How a sink treats those who come.
#[derive(Debug, Clone, Default)]
pub struct Manners {
    /// Share of recipients that are refused at RCPT beside [`NOBODY`], in percent. Which ones depends on the address
    /// alone.
    pub refused_percent: u32,
    /// How long each burst of replies is held back, as a far-away server's would be. What arrives meanwhile is read
    /// afterwards.
    pub delay: Duration,
    /// Closes a connection after so many mails, without a word.
    pub mails_per_connection: Option<u32>,
    /// Keeps quiet about PIPELINING, and takes groups of commands all the same.
    pub hides_pipelining: bool,
    /// Says 354 although every recipient was refused (RFC 2920, 3.1); the lone dot that follows gets a 554.
    pub takes_data_for_nobody: bool,
    /// Wants a login before the first mail.
    pub wants_login: bool,
}

/// How a sink feels at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Takes mail.
    Well,
    /// Closes its connections, and every new one at once.
    Down,
    /// Finds every password wrong.
    Suspicious,
    /// Takes content and never answers it.
    Mute,
}

/// A running sink. Dropping it closes everything.
#[derive(Debug)]
pub struct Sink {
    address: SocketAddr,
    manners: Arc<Manners>,
    ledger: Arc<Ledger>,
    mood: watch::Sender<Mood>,
    _listening: JoinSet<()>,
}

impl Sink {
    /// Listens on a free port of 127.0.0.1.
    pub async fn start(manners: Manners) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let listener = socket.listen(1024)?;
        let address = listener.local_addr()?;
        let (mood, feels) = watch::channel(Mood::Well);
        let (manners, ledger) = (Arc::new(manners), Arc::new(Ledger::default()));
        let mut listening = JoinSet::new();
        listening.spawn(accept(listener, Arc::clone(&manners), Arc::clone(&ledger), feels));
        Ok(Self { address, manners, ledger, mood, _listening: listening })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes how it feels; connections that are open notice too.
    pub fn set_mood(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// Every mail that was accepted, in order, once for each recipient.
    pub fn accepted(&self) -> Vec<Accepted> {
        self.ledger.accepted()
    }

    /// How many mails were accepted, over all recipients.
    pub fn count(&self) -> usize {
        self.ledger.count()
    }

    /// What it counted so far.
    pub fn figures(&self) -> Figures {
        self.ledger.figures()
    }

    /// Whether this recipient is among those that are refused.
    pub fn refuses(&self, recipient: &str) -> bool {
        self.manners.refuses(recipient)
    }
}

impl Manners {
    fn refuses(&self, recipient: &str) -> bool {
        if recipient.starts_with(NOBODY) {
            return true;
        }
        // FNV-1a: the same on every machine and in every run.
        let hash = recipient.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0000_0100_0000_01b3)
        });
        (hash >> 16) % 100 < u64::from(self.refused_percent)
    }
}

async fn accept(listener: TcpListener, manners: Arc<Manners>, ledger: Arc<Ledger>, mood: watch::Receiver<Mood>) {
    let mut sessions = JoinSet::new();
    loop {
        while sessions.try_join_next().is_some() {}
        // Out of file descriptors, or a client that was gone at once: the next one may do better.
        let Ok((stream, _)) = listener.accept().await else { continue };
        if *mood.borrow() == Mood::Down {
            continue;
        }
        ledger.connected();
        let session = Session::new(stream, Arc::clone(&manners), Arc::clone(&ledger), mood.clone());
        sessions.spawn(session.run());
    }
}
