//! Servers as containers, by the project's `infra/docker-compose.yml`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::sync::Mutex;

use super::server::{self, StartError};
use super::{Service, ServicesError, ServicesOptions, postgres, redis, search};
use crate::state::{State, short_hash};

const RECORD: &str = "docker.json";
/// An engine that hangs must not hang the runner.
const ASK_LIMIT: Duration = Duration::from_secs(15);
/// Pulling two images over a slow line.
const UP_LIMIT: Duration = Duration::from_secs(600);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Attempts with other ports, for one that was taken meanwhile.
const ATTEMPTS: u32 = 3;

/// What is written down of containers that have been made.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Record {
    program: PathBuf,
    compose_file: PathBuf,
    project: String,
    postgres_port: Option<u16>,
    redis_port: Option<u16>,
}

impl Record {
    fn port(&mut self, service: Service) -> &mut Option<u16> {
        match service {
            Service::Postgres => &mut self.postgres_port,
            Service::Redis => &mut self.redis_port,
        }
    }
}

/// Docker for one state folder. Calls of the compose plugin happen one after the other.
#[derive(Debug)]
pub(super) struct Docker {
    state: State,
    program: Option<PathBuf>,
    environment: BTreeMap<String, String>,
    compose_file: PathBuf,
    project: String,
    passwords: [String; 2],
    former: Record,
    /// The record, and whether the engine is known to answer.
    current: Mutex<(Record, Option<Result<(), String>>)>,
}

impl Docker {
    pub(super) fn new(state: &State, options: &ServicesOptions) -> Result<Self, ServicesError> {
        let passwords = [server::password(state, Service::Postgres)?, server::password(state, Service::Redis)?];
        let former: Record = state.read_json(RECORD)?.unwrap_or_default();
        Ok(Self {
            state: state.clone(),
            program: search::candidates("docker", options.path(), options.standard_folders).into_iter().next(),
            environment: options.environment.clone(),
            compose_file: options.project.join("infra/docker-compose.yml"),
            // With the password in the name a new state folder gets new volumes, instead of old ones with a password
            // that nobody knows any more.
            project: format!("nightshift-{}", short_hash(format!("{}{}", state.id(), passwords[0]).as_bytes())),
            passwords,
            current: Mutex::new((former.clone(), None)),
            former,
        })
    }

    /// Whether containers have kept data for this service here.
    pub(super) fn has_data(&self, service: Service) -> bool {
        self.former.clone().port(service).is_some()
    }

    /// Adopts a container or makes one; returns its URL once it answers.
    pub(super) async fn provide(&self, service: Service) -> Result<String, StartError> {
        let mut current = self.current.lock().await;
        let (record, engine) = &mut *current;
        if let Some(port) = *record.port(service)
            && self.answers(service, port).await.is_ok()
        {
            tracing::info!("adopted the container of {service}");
            return Ok(self.url(service, port));
        }
        let Some(program) = &self.program else {
            return Err(StartError::Missing("no `docker` on the path".to_owned()));
        };
        if engine.is_none() {
            *engine = Some(self.probe(program).await);
        }
        if let Some(Err(note)) = engine {
            return Err(StartError::Missing(note.clone()));
        }
        let mut note = String::new();
        for _ in 0..ATTEMPTS {
            let port = match record.port(service).filter(|port| server::is_free(*port)) {
                Some(port) => port,
                None => server::free_port().map_err(|error| StartError::Failed(format!("no free port: {error}")))?,
            };
            *record.port(service) = Some(port);
            match self.up(program, service, record).await {
                Ok(()) => {
                    record.program.clone_from(program);
                    record.compose_file.clone_from(&self.compose_file);
                    record.project.clone_from(&self.project);
                    self.state.write_json(RECORD, record)?;
                    return match self.ready(service, port).await {
                        Ok(()) => Ok(self.url(service, port)),
                        Err(note) => Err(StartError::Failed(format!("its container does not answer: {note}"))),
                    };
                }
                Err(reason) => {
                    note = reason;
                    *record.port(service) = None;
                    let taken = note.contains("already allocated") || note.contains("already in use");
                    if !taken {
                        break;
                    }
                }
            }
        }
        Err(StartError::Missing(format!("Docker cannot start its container: {note}")))
    }

    /// Whether engine and compose plugin answer.
    async fn probe(&self, program: &std::path::Path) -> Result<(), String> {
        if !self.compose_file.is_file() {
            return Err(format!("Docker is not used, there is no {}", self.compose_file.display()));
        }
        let mut version = self.command(program);
        version.args(["version", "--format", "{{.Server.Version}}"]);
        run(version, ASK_LIMIT).await.map_err(|reason| format!("Docker's engine does not answer: {reason}"))?;
        let mut compose = self.command(program);
        compose.args(["compose", "version"]);
        run(compose, ASK_LIMIT).await.map_err(|reason| format!("Docker's compose plugin does not answer: {reason}"))
    }

    async fn up(&self, program: &std::path::Path, service: Service, record: &Record) -> Result<(), String> {
        let mut up = self.command(program);
        // An `.env` file beside the compose file says nothing here.
        up.args(["compose", "--env-file", "/dev/null", "-p", &self.project, "-f"]).arg(&self.compose_file).args([
            "up",
            "--detach",
            "--wait",
            container(service),
        ]);
        for (name, port) in
            [("NIGHTSHIFT_POSTGRES_PORT", record.postgres_port), ("NIGHTSHIFT_REDIS_PORT", record.redis_port)]
        {
            if let Some(port) = port {
                up.env(name, port.to_string());
            }
        }
        run(up, UP_LIMIT).await
    }

    fn command(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .envs(&self.environment)
            .env("NIGHTSHIFT_POSTGRES_PASSWORD", &self.passwords[0])
            .env("NIGHTSHIFT_REDIS_PASSWORD", &self.passwords[1]);
        command
    }

    async fn answers(&self, service: Service, port: u16) -> Result<(), String> {
        match service {
            Service::Postgres => postgres::answers(port, &self.passwords[0]).await,
            Service::Redis => redis::answers(port, &self.passwords[1]).await,
        }
    }

    async fn ready(&self, service: Service, port: u16) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + READY_LIMIT;
        loop {
            match self.answers(service, port).await {
                Ok(()) => return Ok(()),
                Err(reason) if tokio::time::Instant::now() >= deadline => return Err(reason),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    fn url(&self, service: Service, port: u16) -> String {
        match service {
            Service::Postgres => postgres::url(port, &self.passwords[0]),
            Service::Redis => redis::url(port, &self.passwords[1]),
        }
    }
}

/// Stops the containers of a state folder, if it has any. They and their volumes stay.
pub(super) async fn stop(state: &State) -> Result<(), ServicesError> {
    let Some(record) = state.read_json::<Record>(RECORD)? else {
        return Ok(());
    };
    let mut stop = Command::new(&record.program);
    stop.args(["compose", "--env-file", "/dev/null", "-p", &record.project, "-f"])
        .arg(&record.compose_file)
        .arg("stop");
    run(stop, STOP_LIMIT).await.map_err(|reason| ServicesError::Stop {
        service: match record.postgres_port {
            Some(_) => Service::Postgres,
            None => Service::Redis,
        },
        reason: format!("Docker says: {reason}"),
    })
}

fn container(service: Service) -> &'static str {
    match service {
        Service::Postgres => "postgres",
        Service::Redis => "redis",
    }
}

/// Runs to the end; the error is the last thing it said.
async fn run(mut command: Command, limit: Duration) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = match tokio::time::timeout(limit, output).await {
        Err(_) => return Err(format!("no answer within {limit:?}")),
        Ok(Err(error)) => return Err(error.to_string()),
        Ok(Ok(output)) => output,
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().map(str::trim).rfind(|line| !line.is_empty());
    Err(last.map_or_else(|| output.status.to_string(), str::to_owned))
}
