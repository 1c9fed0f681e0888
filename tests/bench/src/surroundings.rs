//! The machine and the servers, as far as they decide what a rate means.

use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;
use sqlx::{PgPool, Row};

/// What the figures hold for.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Surroundings {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: f64,
    /// Runnable processes before the measurement, on average over a minute: what else the machine does.
    pub(crate) load_before: f64,
    pub(crate) postgres: Postgres,
    pub(crate) redis: Redis,
}

/// Postgres, and what of it survives a loss of power.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Postgres {
    pub(crate) version: String,
    pub(crate) fsync: String,
    pub(crate) synchronous_commit: String,
    pub(crate) full_page_writes: String,
    pub(crate) wal_sync_method: String,
}

/// Redis, and what of it does.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Redis {
    pub(crate) version: String,
    pub(crate) appendonly: String,
    pub(crate) appendfsync: String,
}

impl Surroundings {
    /// Asks the machine and the runner's servers.
    pub(crate) async fn read(db: &PgPool) -> Result<Self> {
        let processor = read("/proc/cpuinfo")?
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_owned()))
            .unwrap_or_else(|| std::env::consts::ARCH.to_owned());
        let memory_kib = field_kib(&read("/proc/meminfo")?, "MemTotal:").unwrap_or_default();
        let load_before = read("/proc/loadavg")?.split(' ').next().and_then(|load| load.parse().ok());
        Ok(Self {
            processor,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: memory_kib as f64 / 1024.0 / 1024.0,
            load_before: load_before.unwrap_or_default(),
            postgres: postgres(db).await.context("ask Postgres for its settings")?,
            redis: redis().await.context("ask Redis for its settings")?,
        })
    }
}

impl Postgres {
    /// A recorded outcome survives a loss of power.
    pub(crate) fn is_durable(&self) -> bool {
        self.fsync == "on" && self.synchronous_commit != "off"
    }
}

async fn postgres(db: &PgPool) -> Result<Postgres, sqlx::Error> {
    let row = sqlx::query(
        "select
             current_setting('server_version'),
             current_setting('fsync'),
             current_setting('synchronous_commit'),
             current_setting('full_page_writes'),
             current_setting('wal_sync_method')",
    )
    .fetch_one(db)
    .await?;
    Ok(Postgres {
        version: row.try_get(0)?,
        fsync: row.try_get(1)?,
        synchronous_commit: row.try_get(2)?,
        full_page_writes: row.try_get(3)?,
        wal_sync_method: row.try_get(4)?,
    })
}

async fn redis() -> Result<Redis> {
    let url = std::env::var("REDIS_URL").context("REDIS_URL does not name the runner's Redis")?;
    let mut connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    let info: String = redis::cmd("INFO").arg("server").query_async(&mut connection).await?;
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("?").trim().to_owned();
    let mut setting = async |name: &str| -> Result<String> {
        let (_, value): (String, String) =
            redis::cmd("CONFIG").arg("GET").arg(name).query_async(&mut connection).await?;
        Ok(value)
    };
    Ok(Redis { version, appendonly: setting("appendonly").await?, appendfsync: setting("appendfsync").await? })
}

/// Highest resident memory of the sending functions that the runner above this process keeps warm, in KiB.
pub(crate) fn peak_memory_of_senders() -> Result<u64> {
    let runner = std::os::unix::process::parent_id();
    let mut peak = 0;
    for entry in fs::read_dir("/proc").context("list processes")? {
        // A process may end while it is looked at; that is no error.
        let Some(status) = entry.ok().and_then(|entry| fs::read_to_string(entry.path().join("status")).ok()) else {
            continue;
        };
        let is_sender = field(&status, "Name:").is_some_and(|name| name.starts_with("send-emails"));
        let is_ours = field(&status, "PPid:").and_then(|parent| parent.parse().ok()) == Some(runner);
        if is_sender && is_ours {
            peak = peak.max(field_kib(&status, "VmHWM:").unwrap_or_default());
        }
    }
    Ok(peak)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {path}"))
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn field_kib(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.split(' ').next()?.parse().ok()
}
