//! Postgres: a pool that connects when it is first used, and the schema.

use std::borrow::Cow;
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use crate::config::{self, ConfigError};

/// All migrations of schema `nightshift`. Their bookkeeping stands in that schema too, so that a host application's own
/// `_sqlx_migrations` is never touched.
pub static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!();
    migrator.create_schemas = Cow::Borrowed(&[Cow::Borrowed("nightshift")]);
    migrator.table_name = Cow::Borrowed("nightshift._sqlx_migrations");
    migrator
});

/// Connections a function opens at most. One sandbox serves one invocation, so few are enough; a thousand sandboxes
/// times this number is what the database has to bear.
const MAX_CONNECTIONS: u32 = 3;

/// The pool for `DATABASE_URL`; nothing is connected yet, so `health` can answer while Postgres is down.
pub fn connect_lazily() -> Result<PgPool, ConfigError> {
    let url = config::required("DATABASE_URL")?;
    pool(&url, MAX_CONNECTIONS)
        .map_err(|error| ConfigError::Invalid { name: "DATABASE_URL", problem: error.to_string() })
}

/// A lazy pool for `url` with at most `connections`; waits 10 s at most for a free one.
pub fn pool(url: &str, connections: u32) -> Result<PgPool, sqlx::Error> {
    let options = PgConnectOptions::from_str(url)?.application_name("nightshift");
    Ok(PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(10))
        .idle_timeout(Duration::from_secs(300))
        .connect_lazy_with(options))
}
