//! Job runs: every invocation of a job leaves a row, and a tick that fires twice runs once.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

/// What started a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// Its schedule, for this instant.
    Schedule(DateTime<Utc>),
    /// A message.
    Queue,
    /// A person.
    Manual,
}

/// Opens a run. `None`: this tick has run, or runs right now, so there is nothing to do.
///
/// A tick whose run failed, or has been silent for longer than `hard_limit` (its function was killed), is taken again.
pub async fn start(
    db: impl PgExecutor<'_>,
    job: &str,
    trigger: Trigger,
    hard_limit: Duration,
) -> Result<Option<i64>, sqlx::Error> {
    let (name, scheduled_for) = match trigger {
        Trigger::Schedule(tick) => ("schedule", Some(tick)),
        Trigger::Queue => ("queue", None),
        Trigger::Manual => ("manual", None),
    };
    sqlx::query_scalar!(
        r#"
        insert into nightshift.job_runs (job, trigger, scheduled_for)
        values ($1, $2, $3)
        on conflict (job, scheduled_for) do update
        set started_at = now(),
            finished_at = null,
            outcome = null,
            error = null
        where job_runs.outcome = 'failed'
            or (job_runs.outcome is null and job_runs.started_at < now() - make_interval(secs => $4))
        returning id
        "#,
        job,
        name,
        scheduled_for,
        hard_limit.as_secs_f64(),
    )
    .fetch_optional(db)
    .await
}

/// Closes a run with its figures, or with its error.
pub async fn finish(
    db: impl PgExecutor<'_>,
    id: i64,
    counts: &serde_json::Value,
    error: Option<&str>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        update nightshift.job_runs
        set finished_at = now(),
            outcome = case when $3::text is null then 'ok' else 'failed' end,
            counts = $2,
            error = $3
        where id = $1
        "#,
        id,
        counts,
        error,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// What is known of a job: when it last succeeded, and since when it could have run at all.
#[derive(Debug, Clone, Copy)]
pub struct Evidence {
    /// Start of the latest run that succeeded.
    pub last_success: Option<DateTime<Utc>>,
    /// When the schema was set up; before that nothing could run.
    pub installed_at: DateTime<Utc>,
    /// The database's time.
    pub now: DateTime<Utc>,
}

/// Reads the evidence for a job.
pub async fn evidence(db: impl PgExecutor<'_>, job: &str) -> Result<Evidence, sqlx::Error> {
    sqlx::query_as!(
        Evidence,
        r#"
        select
            (
                select max(started_at)
                from nightshift.job_runs
                where job = $1
                    and outcome = 'ok'
                    and started_at > now() - interval '14 days'
            ) as last_success,
            installed_at,
            now() as "now!"
        from nightshift.installation
        "#,
        job,
    )
    .fetch_one(db)
    .await
}
