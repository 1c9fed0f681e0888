//! A way to Redis that can be cut and that can fall silent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// A proxy in front of the tests' Redis.
pub struct Lossy {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    down: AtomicBool,
    silent: AtomicBool,
    cut: Notify,
}

impl Lossy {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                if !shared.down.load(Ordering::SeqCst) {
                    tokio::spawn(forward(client, Arc::clone(&shared)));
                }
            }
        });
        Self { port, state }
    }

    /// The tests' Redis, reached through here.
    pub fn url(&self) -> String {
        let url = super::redis_url();
        let (place, database) = url.rsplit_once('/').unwrap_or((&url, "0"));
        let login =
            place.strip_prefix("redis://").unwrap_or_default().rsplit_once('@').map(|(login, _)| format!("{login}@"));
        format!("redis://{}127.0.0.1:{}/{database}", login.unwrap_or_default(), self.port)
    }

    /// Breaks all connections and takes no new ones.
    pub fn cut(&self) {
        self.state.down.store(true, Ordering::SeqCst);
        self.state.cut.notify_waiters();
    }

    /// Connections stay, answers stop.
    pub fn fall_silent(&self) {
        self.state.silent.store(true, Ordering::SeqCst);
        self.state.cut.notify_waiters();
    }

    pub fn repair(&self) {
        self.state.down.store(false, Ordering::SeqCst);
        self.state.silent.store(false, Ordering::SeqCst);
    }
}

async fn forward(mut client: TcpStream, state: Arc<State>) {
    let info = redis::Client::open(super::redis_url()).unwrap();
    let address = info.get_connection_info().addr().to_string();
    let mut server = TcpStream::connect(address).await.unwrap();
    let cut = state.cut.notified();
    if state.silent.load(Ordering::SeqCst) {
        return std::future::pending().await;
    }
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        () = cut => {
            if state.silent.load(Ordering::SeqCst) {
                // The sockets stay open, nobody reads them.
                std::future::pending::<()>().await;
            }
        }
    }
}
