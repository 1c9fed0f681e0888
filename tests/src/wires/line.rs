//! One connection on a wire: bytes go back and forth until a blow falls.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::http::Http;
use super::owner::Owner;
use super::postgres::Postgres;
use super::smtp::Smtp;
use super::{Armed, Blow, Effect, Exchange, Side, Struck, Wire};

/// A reset may overtake bytes that were written a moment before; what was let through must arrive.
const BEFORE_RESET: Duration = Duration::from_millis(20);

/// Recognises effects in what passes.
pub(super) trait Protocol: Send {
    /// The effect that these bytes complete, if they do.
    fn see(&mut self, side: Side, bytes: &[u8]) -> Option<String>;
}

struct Line {
    owner: Option<Owner>,
    exchange: Arc<Exchange>,
    protocol: Mutex<Box<dyn Protocol>>,
    stalled: AtomicBool,
}

/// Carries a connection to its end. Whatever ends it other than both sides' farewell resets both sides.
pub(super) async fn carry(
    mut client: TcpStream,
    mut server: TcpStream,
    wire: Wire,
    owner: Option<Owner>,
    exchange: Arc<Exchange>,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let protocol: Box<dyn Protocol> = match wire {
        Wire::Postgres => Box::<Postgres>::default(),
        Wire::Smtp => Box::<Smtp>::default(),
        Wire::Queues => Box::new(Http::queues()),
        Wire::Runtime => Box::new(Http::runtime()),
    };
    let line = Line { owner, exchange, protocol: Mutex::new(protocol), stalled: AtomicBool::new(false) };
    let ended = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::try_join!(
            line.pump(Side::Sent, from_client, to_server),
            line.pump(Side::Answered, from_server, to_client),
        )
    };
    if ended.is_err() {
        client.set_zero_linger()?;
        server.set_zero_linger()?;
    }
    Ok(())
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl Line {
    async fn pump(&self, side: Side, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
        let mut released = self.exchange.released.subscribe();
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let read = tokio::select! {
                read = from.read(&mut chunk) => read?,
                _ = released.changed() => {
                    if self.is_stalled() {
                        return Err(reset());
                    }
                    continue;
                }
            };
            if read == 0 {
                if self.is_stalled() {
                    return Err(reset());
                }
                return to.shutdown().await;
            }
            let bytes = &chunk[..read];
            if self.is_stalled() {
                continue;
            }
            match self.blow(side, bytes) {
                None => to.write_all(bytes).await?,
                Some((armed, owner)) => self.strike(armed, &owner, bytes, &mut to).await?,
            }
        }
    }

    /// The blow that falls at these bytes.
    fn blow(&self, side: Side, bytes: &[u8]) -> Option<(Armed, Owner)> {
        let owner = self.owner.as_ref()?;
        let what = self.protocol.lock().unwrap_or_else(PoisonError::into_inner).see(side, bytes)?;
        let armed = self.exchange.happens(Effect { function: owner.function.to_owned(), what, side })?;
        Some((armed, owner.clone()))
    }

    async fn strike(&self, armed: Armed, owner: &Owner, bytes: &[u8], to: &mut WriteHalf<'_>) -> io::Result<()> {
        let at = Instant::now();
        let lives_on = match armed.blow {
            Blow::Kill => {
                owner.process.signal(Signal::SIGKILL)?;
                false
            }
            Blow::Freeze => {
                owner.process.signal(Signal::SIGSTOP)?;
                to.write_all(bytes).await?;
                true
            }
            Blow::Cut => false,
            Blow::CutHalf => {
                to.write_all(&bytes[..bytes.len() / 2]).await?;
                tokio::time::sleep(BEFORE_RESET).await;
                false
            }
            Blow::Stall => {
                self.stalled.store(true, Ordering::Relaxed);
                true
            }
            Blow::Swallow => true,
            Blow::Strike(deed) => {
                to.write_all(bytes).await?;
                deed();
                true
            }
        };
        // Whoever planned it may have stopped waiting.
        let _ = armed.tell.send(Struck { owner: owner.process.clone(), at });
        if lives_on { Ok(()) } else { Err(reset()) }
    }

    fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }
}
