//! `migrate`: brings the schema up to date. Invoked after each deploy, and by the local runner before anything else.

use anyhow::{Context, Result};
use serde::Serialize;
use sqlx::PgPool;

/// What a migration came to.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Migrated {
    /// Version of the newest migration in this build; the schema is at it now.
    pub version: i64,
}

/// Applies every migration that is missing. Twice at once is safe: the second waits on Postgres's advisory lock and
/// finds nothing to do. A second delivery is harmless for the same reason.
pub async fn migrate(db: &PgPool) -> Result<Migrated> {
    shared::database::MIGRATOR.run(db).await.context("migrate schema nightshift")?;
    let version = shared::database::MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or_default();
    tracing::info!(schema.version = version, "schema nightshift is at version {version}");
    Ok(Migrated { version })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[sqlx::test(migrations = false)]
    async fn twice_at_once_applies_everything_once(db: PgPool) {
        let (one, other) = tokio::join!(migrate(&db), migrate(&db));
        assert_eq!(one.expect("first"), other.expect("second"));
        let applied: i64 =
            sqlx::query_scalar("select count(*) from nightshift._sqlx_migrations").fetch_one(&db).await.expect("count");
        assert_eq!(applied, shared::database::MIGRATOR.iter().count() as i64);
        let foreign: Option<String> = sqlx::query_scalar("select to_regclass('public._sqlx_migrations')::text")
            .fetch_one(&db)
            .await
            .expect("regclass");
        assert_eq!(foreign, None, "a host's own bookkeeping table is not ours to make");
    }
}
