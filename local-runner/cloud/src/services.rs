//! Postgres and Redis for the functions: somebody's own where that is asked for, otherwise servers of the state folder.
//!
//! Servers of the state folder come from Debian's binaries or from Docker. They listen on free ports of 127.0.0.1, want a
//! password that only the state folder knows, survive the death of the runner and are adopted at its next start. The
//! password is also what identifies them: a server that accepts it has our data.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::state::{State, StateError};

mod configured;
mod docker;
mod postgres;
mod redis;
mod search;
mod server;

use server::{Server, StartError};

/// How often [`Services::watch`] looks. Longer leaves functions without a server for longer.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
const FIRST_BACK_OFF: Duration = Duration::from_millis(500);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(30);
/// A server that ran this long is not failing in a loop: its next restart is immediate again.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// One of the two servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// PostgreSQL 13 or later.
    Postgres,
    /// Redis 6 or later.
    Redis,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgres => "Postgres",
            Self::Redis => "Redis",
        })
    }
}

/// Whose servers may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Servers of the state folder only, whatever the environment says: binaries first, then Docker.
    Own,
    /// `DATABASE_URL` and `REDIS_URL` of the environment, then of the project's `.env`; for what they leave open servers
    /// of the state folder: Docker first, then binaries. A state that has data stays with what keeps it.
    Configured,
}

/// Where a server comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A URL that somebody set; never started or stopped here.
    Configured,
    /// Server binaries of this machine.
    Binaries,
    /// A container.
    Docker,
}

/// What [`Services::start`] may use.
#[derive(Debug, Clone)]
pub struct ServicesOptions {
    /// Whose servers may be used.
    pub mode: Mode,
    /// Folder with `.env` and `infra/docker-compose.yml`.
    pub project: PathBuf,
    /// Whether a commit survives a crash of the machine. Without it tests run faster.
    pub durable: bool,
    /// Environment variables: the URLs, `PATH`, and what Docker's client reads.
    pub environment: BTreeMap<String, String>,
    /// Whether binaries are also looked for where Debian keeps them, beyond `PATH`.
    pub standard_folders: bool,
}

impl ServicesOptions {
    /// Durable servers for a project, with the environment of this process.
    pub fn new(project: impl Into<PathBuf>, mode: Mode) -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self { mode, project: project.into(), durable: true, environment, standard_folders: true }
    }

    fn path(&self) -> &str {
        self.environment.get("PATH").map_or("", String::as_str)
    }
}

/// Why there are no servers.
#[derive(Debug, thiserror::Error)]
pub enum ServicesError {
    /// Neither binaries nor Docker.
    #[error("there is no {service} on this machine ({}); install it with: {command}", .notes.join("; "))]
    Missing {
        /// Which server.
        service: Service,
        /// What was tried.
        notes: Vec<String>,
        /// The command that installs it.
        command: String,
    },
    /// It is there and does not start.
    #[error("{service} cannot be started: {}", .notes.join("; "))]
    Failed {
        /// Which server.
        service: Service,
        /// What was tried, and what it said.
        notes: Vec<String>,
    },
    /// A server does not go away.
    #[error("cannot stop {service}: {reason}")]
    Stop {
        /// Which server.
        service: Service,
        /// What was tried, and what it said.
        reason: String,
    },
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The `.env` file of the project cannot be read.
    #[error("cannot read {path}", path = path.display())]
    EnvFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Running servers. Dropping it leaves them running.
#[derive(Debug)]
pub struct Services {
    state: State,
    postgres: Provided,
    redis: Provided,
}

#[derive(Debug)]
struct Provided {
    url: String,
    origin: Origin,
    /// How to start it again, for servers from binaries.
    server: Option<Server>,
}

impl Services {
    /// Adopts or starts what is needed and waits until it answers. The caller holds the lock of the state.
    pub async fn start(state: &State, options: &ServicesOptions) -> Result<Self, ServicesError> {
        let urls = match options.mode {
            Mode::Own => configured::Urls::default(),
            Mode::Configured => configured::Urls::find(&options.environment, &options.project)?,
        };
        let docker = docker::Docker::new(state, options)?;
        let (postgres, redis) = tokio::join!(
            provide(state, options, &docker, Service::Postgres, urls.database),
            provide(state, options, &docker, Service::Redis, urls.redis),
        );
        Ok(Self { state: state.clone(), postgres: postgres?, redis: redis? })
    }

    /// URL of the database, with password.
    pub fn database_url(&self) -> &str {
        &self.postgres.url
    }

    /// URL of Redis' database 0, with password.
    pub fn redis_url(&self) -> &str {
        &self.redis.url
    }

    /// Where a server comes from.
    pub fn origin(&self, service: Service) -> Origin {
        match service {
            Service::Postgres => self.postgres.origin,
            Service::Redis => self.redis.origin,
        }
    }

    /// Restarts servers from binaries that die, on the port they had, with back-off, until `shutdown`. A server that
    /// [`stop`] has stopped stays so. Containers are restarted by Docker, configured servers are left alone.
    pub async fn watch(&self, shutdown: CancellationToken) {
        let servers = [&self.postgres, &self.redis].into_iter().filter_map(|provided| provided.server.as_ref());
        let watches = servers.map(|server| watch_one(&self.state, server));
        tokio::select! {
            () = shutdown.cancelled() => {}
            _ = futures_util::future::join_all(watches) => shutdown.cancelled().await,
        }
    }

    /// Stops what belongs to the state folder, Redis before Postgres.
    pub async fn stop(self) -> Result<(), ServicesError> {
        stop(&self.state).await
    }
}

/// Stops the servers of a state folder, whoever started them: Redis, then Postgres, each asked first and forced after a
/// while. Data stays. Nothing to stop is a success.
pub async fn stop(state: &State) -> Result<(), ServicesError> {
    // All are tried, the first failure is reported.
    let docker = docker::stop(state).await;
    let redis = server::stop(state, Service::Redis).await;
    let postgres = server::stop(state, Service::Postgres).await;
    docker.and(redis).and(postgres)
}

async fn provide(
    state: &State,
    options: &ServicesOptions,
    docker: &docker::Docker,
    service: Service,
    configured: Option<String>,
) -> Result<Provided, ServicesError> {
    if let Some(url) = configured {
        return Ok(Provided { url, origin: Origin::Configured, server: None });
    }
    let docker_first = if server::has_data(state, service) {
        false
    } else if docker.has_data(service) {
        true
    } else {
        options.mode == Mode::Configured
    };
    let order = if docker_first { [Origin::Docker, Origin::Binaries] } else { [Origin::Binaries, Origin::Docker] };
    let mut notes = Vec::new();
    let mut missing = true;
    for origin in order {
        let attempt = match origin {
            Origin::Docker => docker.provide(service).await.map(|url| (url, None)),
            _ => match Server::find(state, options, service).await {
                Ok(server) => server.provide().await.map(|url| (url, Some(server))),
                Err(error) => Err(error),
            },
        };
        match attempt {
            Ok((url, server)) => {
                return Ok(Provided { url, origin, server });
            }
            Err(StartError::Missing(note)) => {
                tracing::info!("{service}: {note}");
                notes.push(note);
            }
            Err(StartError::Failed(note) | StartError::Ended(note)) => {
                tracing::warn!("{service}: {note}");
                notes.push(note);
                missing = false;
            }
            Err(StartError::State(error)) => return Err(error.into()),
        }
    }
    Err(if missing {
        ServicesError::Missing { service, notes, command: install_command(options) }
    } else {
        ServicesError::Failed { service, notes }
    })
}

fn install_command(options: &ServicesOptions) -> String {
    let script = options.project.join("infra/install-servers.sh");
    let quoted = format!("'{}'", script.to_string_lossy().replace('\'', r"'\''"));
    if crate::state::is_root() { format!("sh {quoted}") } else { format!("sudo sh {quoted}") }
}

async fn watch_one(state: &State, server: &Server) {
    let service = server.service();
    let mut back_off = FIRST_BACK_OFF;
    let mut up_since = Instant::now();
    loop {
        tokio::time::sleep(WATCH_INTERVAL).await;
        match server::record(state, service).map(|record| record.and_then(|record| record.process)) {
            Ok(Some(process)) if process.is_alive() => {
                if up_since.elapsed() >= HEALTHY_AFTER {
                    back_off = FIRST_BACK_OFF;
                }
                continue;
            }
            Ok(Some(_)) => {}
            Ok(None) => {
                tracing::info!("{service} was stopped by another command");
                return;
            }
            Err(error) => {
                tracing::warn!("cannot tell whether {service} runs: {error}");
                continue;
            }
        }
        tracing::warn!("{service} has died; starting it again");
        match server.restart().await {
            Ok(()) => tracing::info!("{service} runs again"),
            Err(error) => tracing::error!(
                back_off_ms = back_off.as_millis(),
                "{service} does not start: {error}; next attempt in {back_off:?}"
            ),
        }
        up_since = Instant::now();
        tokio::time::sleep(back_off).await;
        back_off = (back_off * 2).min(LONGEST_BACK_OFF);
    }
}
