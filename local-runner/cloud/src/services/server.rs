//! A server from binaries, as a process: found, adopted, started, stopped.

use std::io::{self, Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;

use super::{Service, ServicesError, ServicesOptions, postgres, redis, search};
use crate::state::{ProcessId, State, StateError, processes_in};

/// How long a server may take until it answers: recovery after a crash reads the whole log.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// How long one that runs already may take to answer before it is replaced.
const ADOPT_LIMIT: Duration = Duration::from_secs(10);
/// Starts before giving up. The usual reasons to repeat are a port that somebody took meanwhile and processes of a
/// killed predecessor that are just ending.
const ATTEMPTS: u32 = 5;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(200);
/// Asked, urged, killed: how long each step may take.
const FAST_STOP: Duration = Duration::from_secs(20);
const URGENT_STOP: Duration = Duration::from_secs(5);

/// Why one way of providing a server did not work. The text is for a person.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// It is not there.
    #[error("{0}")]
    Missing(String),
    /// It is there and does not work.
    #[error("{0}")]
    Failed(String),
    /// Its process ended before it answered; another attempt, on another port, may do better.
    #[error("{0}")]
    Ended(String),
    #[error(transparent)]
    State(#[from] StateError),
}

impl StartError {
    pub(super) fn failed(what: &str, path: &Path, error: &io::Error) -> Self {
        Self::Failed(format!("{what} {}: {error}", path.display()))
    }
}

/// What is written down of a server, in `<service>.json` of the state folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// Absent after an orderly stop.
    pub(super) process: Option<ProcessId>,
    /// Kept over a stop: people and tools remember it.
    pub(super) port: u16,
}

/// A server that can be started from binaries.
#[derive(Debug)]
pub(super) struct Server {
    state: State,
    service: Service,
    program: PathBuf,
    data: PathBuf,
    password: String,
    durable: bool,
}

impl Server {
    /// Finds binaries for a service.
    pub(super) async fn find(state: &State, options: &ServicesOptions, service: Service) -> Result<Self, StartError> {
        let data = data_dir(state, service);
        let program = match service {
            Service::Postgres => postgres::find(state, options, &data).await?,
            Service::Redis => redis::find(state, options).await?,
        };
        Ok(Self {
            state: state.clone(),
            service,
            program,
            data,
            password: password(state, service)?,
            durable: options.durable,
        })
    }

    pub(super) fn service(&self) -> Service {
        self.service
    }

    /// Adopts the one that runs on our data, or starts one. Returns its URL once it answers.
    pub(super) async fn provide(&self) -> Result<String, StartError> {
        let former = record(&self.state, self.service)?;
        if let Some(Record { process: Some(process), port }) = &former
            && process.is_alive()
            && self.ready(process, *port, ADOPT_LIMIT).await.is_ok()
        {
            tracing::info!("adopted {} (pid {})", self.service, process.pid);
            return Ok(self.url(*port));
        }
        // What runs on our data without a record, or without answering, must go: two servers would destroy the data.
        stop(&self.state, self.service).await.map_err(|error| StartError::Failed(error.to_string()))?;
        match self.service {
            Service::Postgres => {
                postgres::prepare(&self.state, &self.program, &self.data, &self.password, self.durable).await?
            }
            Service::Redis => drop(self.state.server_dir(data_name(self.service))?),
        }
        let mut port = former.map(|former| former.port).filter(|port| is_free(*port));
        let mut attempt = 1;
        loop {
            let chosen = match port.take() {
                Some(port) => port,
                None => free_port().map_err(|error| StartError::Failed(format!("no free port: {error}")))?,
            };
            match self.launch(chosen).await {
                Ok(()) => return Ok(self.url(chosen)),
                Err(StartError::Ended(note)) if attempt < ATTEMPTS => {
                    tracing::debug!("attempt {attempt} to start {} failed: {note}", self.service);
                    tokio::time::sleep(BETWEEN_ATTEMPTS * attempt).await;
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Starts it again on the port it had, since functions know that one.
    pub(super) async fn restart(&self) -> Result<(), StartError> {
        match record(&self.state, self.service)? {
            Some(record) => self.launch(record.port).await,
            None => Err(StartError::Failed("it was stopped by another command".to_owned())),
        }
    }

    /// One attempt on one port.
    async fn launch(&self, port: u16) -> Result<(), StartError> {
        let (log, log_path) = self.state.log(data_name(self.service))?;
        let log_start = log.metadata().map(|metadata| metadata.len()).unwrap_or_default();
        let duplicate = log.try_clone().map_err(|error| StartError::failed("cannot open", &log_path, &error))?;
        let mut command = search::command(&self.program, self.state.run_as(), &self.data);
        command.stdout(log).stderr(duplicate);
        match self.service {
            Service::Postgres => {
                postgres::configure(&mut command, &self.data, port, self.durable);
                command.stdin(Stdio::null());
            }
            Service::Redis => {
                command.arg("-").stdin(Stdio::piped());
            }
        }
        in_own_session(&mut command);
        let mut child = command.spawn().map_err(|error| StartError::failed("cannot run", &self.program, &error))?;
        let process = child.id().and_then(ProcessId::of);
        if process.is_some() {
            // Before anything else, so that a runner killed from here on finds it again.
            let record = Record { process: process.clone(), port };
            self.state.write_json(&record_name(self.service), &record)?;
        }
        if let Some(mut stdin) = child.stdin.take() {
            let text = redis::configuration(port, &self.password, self.durable);
            // A server that died at once does not read it; its log says why.
            stdin.write_all(text.as_bytes()).await.ok();
        }
        // Dropping the handle lets the runtime reap it; it is never killed that way.
        drop(child);
        let explain = |reason: &str| {
            let said = tail(&log_path, log_start);
            format!("{reason}; {} ends with: {said}", log_path.display())
        };
        let Some(process) = process else {
            return Err(StartError::Ended(explain("it ended at once")));
        };
        match self.ready(&process, port, READY_LIMIT).await {
            Ok(()) => Ok(()),
            Err(reason) if !process.is_alive() => Err(StartError::Ended(explain(&reason))),
            Err(reason) => {
                end(self.service, &process).await.ok();
                Err(StartError::Failed(explain(&reason)))
            }
        }
    }

    /// Waits until it accepts our password. Fails when its process ends, or at the limit.
    async fn ready(&self, process: &ProcessId, port: u16, limit: Duration) -> Result<(), String> {
        let deadline = Instant::now() + limit;
        loop {
            let answer = match self.service {
                Service::Postgres => postgres::answers(port, &self.password).await,
                Service::Redis => redis::answers(port, &self.password).await,
            };
            // Only an answer of this very process counts: another server of ours on the port would be a leftover.
            match answer {
                _ if !process.is_alive() => return Err("it ended".to_owned()),
                Ok(()) => return Ok(()),
                Err(reason) if reason.contains("password authentication failed") => {
                    return Err(format!(
                        "the data in {} was made with another password than the one in {}",
                        self.data.display(),
                        self.state.dir().join("secrets").display()
                    ));
                }
                Err(reason) if Instant::now() >= deadline => {
                    return Err(format!("it does not answer within {limit:?} ({reason})"));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    fn url(&self, port: u16) -> String {
        match self.service {
            Service::Postgres => postgres::url(port, &self.password),
            Service::Redis => redis::url(port, &self.password),
        }
    }
}

/// Stops whatever runs on the state's data: the recorded process, and one whose record was lost.
pub(super) async fn stop(state: &State, service: Service) -> Result<(), ServicesError> {
    let mut processes = Vec::new();
    if let Some(Record { process: Some(process), port }) = record(state, service)? {
        // Withdrawn first, so that a runner that watches does not start it again.
        state.write_json(&record_name(service), &Record { process: None, port })?;
        processes.push(process);
    }
    processes.extend(without_record(state, service));
    for process in processes {
        end(service, &process).await.map_err(|error| ServicesError::Stop { service, reason: error.to_string() })?;
    }
    Ok(())
}

fn without_record(state: &State, service: Service) -> Vec<ProcessId> {
    let data = data_dir(state, service);
    match service {
        // Its sessions work in the same folder under the same name; they go with the one that is asked to.
        Service::Postgres => {
            let main = postgres::postmaster(&data);
            let mut found = processes_in(&data, "postgres");
            found.retain(|process| Some(process.pid) == main);
            found
        }
        Service::Redis => {
            ["redis-server", "valkey-server"].into_iter().flat_map(|name| processes_in(&data, name)).collect()
        }
    }
}

async fn end(service: Service, process: &ProcessId) -> io::Result<()> {
    let steps = match service {
        // Fast shutdown: sessions are cut, data is complete. Then the immediate one, repaired at the next start.
        Service::Postgres => [(Signal::SIGINT, FAST_STOP), (Signal::SIGQUIT, URGENT_STOP)],
        Service::Redis => [(Signal::SIGTERM, FAST_STOP), (Signal::SIGKILL, URGENT_STOP)],
    };
    for (signal, patience) in steps {
        process.signal(signal)?;
        if process.ended_within(patience).await {
            return Ok(());
        }
        tracing::warn!("{service} (pid {}) has not ended within {patience:?} after {signal}", process.pid);
    }
    process.signal(Signal::SIGKILL)?;
    if process.ended_within(URGENT_STOP).await {
        Ok(())
    } else {
        Err(io::Error::other(format!("process {} does not end", process.pid)))
    }
}

/// Its record, if there is one; says nothing about whether it lives.
pub(super) fn record(state: &State, service: Service) -> Result<Option<Record>, StateError> {
    state.read_json(&record_name(service))
}

/// Whether binaries have kept data for this service here.
pub(super) fn has_data(state: &State, service: Service) -> bool {
    match service {
        Service::Postgres => data_dir(state, service).join("PG_VERSION").exists(),
        Service::Redis => std::fs::read_dir(data_dir(state, service)).is_ok_and(|mut files| files.next().is_some()),
    }
}

/// Password of a service of this state, usable in a URL as it stands.
pub(super) fn password(state: &State, service: Service) -> Result<String, StateError> {
    let secret = state.secret(data_name(service))?;
    Ok(secret.trim_end_matches('=').to_owned())
}

/// A port that nobody listens on at this moment.
pub(super) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Whether nobody listens on it at this moment.
pub(super) fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

fn data_name(service: Service) -> &'static str {
    match service {
        Service::Postgres => "postgres",
        Service::Redis => "redis",
    }
}

fn record_name(service: Service) -> String {
    format!("{}.json", data_name(service))
}

fn data_dir(state: &State, service: Service) -> PathBuf {
    let home = state.dir().join(data_name(service));
    match service {
        // One level down, so that the user it runs as can rename a finished folder into place.
        Service::Postgres => home.join("data"),
        Service::Redis => home,
    }
}

/// A session of its own: neither Ctrl-C in the terminal nor the end of the runner reaches it.
fn in_own_session(command: &mut tokio::process::Command) {
    #[expect(
        unsafe_code,
        reason = "setsid must happen between fork and exec; it is async-signal-safe and allocates nothing"
    )]
    // SAFETY: the closure makes one system call and touches no memory that another thread could hold locked.
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(io::Error::from));
    }
}

/// The last lines that were written to a log since `start`, in one line.
fn tail(path: &Path, start: u64) -> String {
    let read = || {
        let mut file = std::fs::File::open(path)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(start.max(end.saturating_sub(4096))))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        io::Result::Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(4)..].join(" | ")
}
