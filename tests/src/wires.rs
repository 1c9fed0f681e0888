//! The wires between functions and the world: everything that a function says to Postgres, to a mail server, to the queue
//! endpoint and to the Runtime API passes here, is recognised as an effect, and can be struck at any of them.
//!
//! One port carries all wires. Of the address 127.W.H.L that a function connects to, W names the kind of wire and H·256+L
//! the port of 127.0.0.1 that is meant, so nothing has to be told here when a server comes back elsewhere. Linux takes
//! all of 127.0.0.0/8 for this machine.

mod binaries;
mod http;
mod line;
mod owner;
mod postgres;
mod smtp;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::processes::Process;
use binaries::WiredBinaries;

/// What a wire carries; the number stands in the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// The ledger.
    Postgres = 11,
    /// Queues.
    Queues = 12,
    /// Events and answers of a function.
    Runtime = 13,
    /// Mail.
    Smtp = 14,
}

impl Wire {
    fn of(number: u8) -> Option<Self> {
        [Self::Postgres, Self::Queues, Self::Runtime, Self::Smtp].into_iter().find(|wire| *wire as u8 == number)
    }
}

/// On which half of its way an effect is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Said by the function, not yet heard.
    Sent,
    /// Done by the other end; the function does not know yet.
    Answered,
}

/// Something that a function does to the world, or hears of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Effect {
    /// Binary of the function.
    pub function: String,
    /// What: "commit", "ring", "SMTP MAIL".
    pub what: String,
    /// Which half.
    pub side: Side,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            Side::Sent => "sent",
            Side::Answered => "answered",
        };
        write!(f, "{}: {} {side}", self.function, self.what)
    }
}

/// What happens to a function or a wire at an effect.
pub(crate) enum Blow {
    /// `kill -9`; the bytes do not pass.
    Kill,
    /// The function stops in its tracks; the bytes pass.
    Freeze,
    /// The connection is reset; the bytes do not pass.
    Cut,
    /// Half of the bytes pass, then the connection is reset.
    CutHalf,
    /// From here on nothing passes, in neither direction, until the function ends.
    Stall,
    /// These bytes do not pass; later ones do.
    Swallow,
    /// The bytes pass, and this is done at once.
    Strike(Box<dyn FnOnce() + Send>),
}

impl fmt::Debug for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "Kill",
            Self::Freeze => "Freeze",
            Self::Cut => "Cut",
            Self::CutHalf => "CutHalf",
            Self::Stall => "Stall",
            Self::Swallow => "Swallow",
            Self::Strike(_) => "Strike",
        })
    }
}

/// A blow that fell.
#[derive(Debug, Clone)]
pub(crate) struct Struck {
    /// The function's process.
    pub(crate) owner: Process,
    /// When.
    pub(crate) at: Instant,
}

/// The wires of one runner's functions. Dropping them cuts all.
#[derive(Debug)]
pub(crate) struct Wires {
    port: u16,
    exchange: Arc<Exchange>,
    binaries: WiredBinaries,
    _listening: JoinSet<()>,
}

impl Wires {
    /// Listens, and lays out binaries that use the wires. Must be called within the runtime that carries them.
    pub(crate) async fn lay() -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        let port = listener.local_addr()?.port();
        let exchange = Arc::new(Exchange::default());
        let mut listening = JoinSet::new();
        listening.spawn(connect(listener, Arc::clone(&exchange)));
        Ok(Self { port, exchange, binaries: WiredBinaries::new(port)?, _listening: listening })
    }

    /// Folder with every function; those that send mail use the wires.
    pub(crate) fn binaries(&self) -> &Path {
        self.binaries.folder()
    }

    /// Where a mail server is that listens on this port.
    pub(crate) fn smtp(&self, port: u16) -> SocketAddrV4 {
        let [high, low] = port.to_be_bytes();
        SocketAddrV4::new(Ipv4Addr::new(127, Wire::Smtp as u8, high, low), self.port)
    }

    /// Lets a blow fall at the effect's `nth` occurrence from now on, counted from 1. What was planned before and has not
    /// happened is dropped.
    pub(crate) fn arm(&self, effect: Effect, nth: usize, blow: Blow) -> mpsc::UnboundedReceiver<Struck> {
        let (tell, told) = mpsc::unbounded_channel();
        *self.exchange.armed() = Some(Armed { effect, left: nth, blow, tell });
        told
    }

    /// Forgets what was planned, and ends what is stalled.
    pub(crate) fn disarm(&self) {
        *self.exchange.armed() = None;
        self.exchange.released.send_modify(|times| *times += 1);
    }

    /// How often each effect has happened since the last time this was asked.
    pub(crate) fn take_seen(&self) -> BTreeMap<Effect, usize> {
        std::mem::take(&mut *self.exchange.seen())
    }
}

struct Armed {
    effect: Effect,
    left: usize,
    blow: Blow,
    tell: mpsc::UnboundedSender<Struck>,
}

/// What the lines share.
#[derive(Default)]
struct Exchange {
    armed: Mutex<Option<Armed>>,
    seen: Mutex<BTreeMap<Effect, usize>>,
    /// Counts how often stalled lines were told to end.
    released: watch::Sender<u64>,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl Exchange {
    /// Notes an effect; returns the blow that has to fall now.
    fn happens(&self, effect: Effect) -> Option<Armed> {
        let mut armed = self.armed();
        let due = match &mut *armed {
            Some(waiting) if waiting.effect == effect => {
                waiting.left = waiting.left.saturating_sub(1);
                waiting.left == 0
            }
            _ => false,
        };
        *self.seen().entry(effect).or_default() += 1;
        if due { armed.take() } else { None }
    }

    fn armed(&self) -> MutexGuard<'_, Option<Armed>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<Effect, usize>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connect(listener: TcpListener, exchange: Arc<Exchange>) {
    let mut lines = JoinSet::new();
    loop {
        while lines.try_join_next().is_some() {}
        // A client that was gone at once.
        let Ok((client, _)) = listener.accept().await else { continue };
        let exchange = Arc::clone(&exchange);
        lines.spawn(async move {
            // Whoever cannot be connected is hung up on, as by a port where nobody listens.
            let _ = begin(client, exchange).await;
        });
    }
}

async fn begin(client: TcpStream, exchange: Arc<Exchange>) -> std::io::Result<()> {
    let (std::net::SocketAddr::V4(here), std::net::SocketAddr::V4(there)) = (client.local_addr()?, client.peer_addr()?)
    else {
        return Ok(());
    };
    let [127, number, high, low] = here.ip().octets() else { return Ok(()) };
    let Some(wire) = Wire::of(number) else { return Ok(()) };
    let owner = owner::of(there, here);
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, u16::from_be_bytes([high, low]))).await;
    let Ok(server) = server else {
        return client.set_zero_linger();
    };
    line::carry(client, server, wire, owner, exchange).await
}
