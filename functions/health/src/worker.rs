//! Is the worker alive? Judged by evidence: the queues answer, and jobs ran when they should have.

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use futures_util::future::try_join_all;
use schedule_expression::{Dialect, ScheduleExpression};
use shared::config::ConfigError;
use shared::job_runs::{self, Evidence};

use crate::{Condition, Ctx, within};

/// A job may be late by its own interval and this much, for the queue, the cold start and the run itself.
const GRACE: chrono::Duration = chrono::Duration::minutes(2);

/// A job with its schedule, as the template hands it over.
#[derive(Debug, Clone)]
pub struct ScheduledJob {
    name: String,
    schedule: ScheduleExpression,
}

/// Reads `HEALTH_SCHEDULES`: `job=expression`, separated by `;`.
pub(crate) fn jobs_from(text: &str) -> Result<Vec<ScheduledJob>, ConfigError> {
    let invalid = |problem: String| ConfigError::Invalid { name: "HEALTH_SCHEDULES", problem };
    text.split(';')
        .filter(|part| !part.trim().is_empty())
        .map(|part| {
            let (name, expression) =
                part.split_once('=').ok_or_else(|| invalid(format!("{part:?} is not job=expression")))?;
            let schedule = ScheduleExpression::parse(expression.trim(), Dialect::Scheduler)
                .map_err(|error| invalid(format!("{name}: {error}")))?;
            Ok(ScheduledJob { name: name.trim().to_owned(), schedule })
        })
        .collect()
}

/// How a job stands against its schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lateness {
    /// Its last success is where it should be, or it could not have run yet.
    InTime,
    /// A run is overdue since then.
    LateSince(DateTime<Utc>),
}

/// Judges by the last success, or by the time of installation where there is none: the first tick that had to come
/// after it must have succeeded, with grace.
pub fn judge_lateness(job: &ScheduledJob, evidence: &Evidence) -> Lateness {
    let since = evidence.last_success.unwrap_or(evidence.installed_at);
    match job.schedule.next_after(since, chrono_tz::Tz::UTC, since) {
        Some(due) if due + GRACE < evidence.now => Lateness::LateSince(due),
        _ => Lateness::InTime,
    }
}

/// `error` when a queue or the evidence cannot be had, `warning` when a job is late.
pub(crate) async fn check(ctx: &Ctx) -> Condition {
    let queues = try_join_all(ctx.queues.iter().map(|queue| queue.depth()));
    let jobs = try_join_all(ctx.jobs.iter().map(async |job| {
        let evidence =
            job_runs::evidence(&ctx.db, &job.name).await.with_context(|| format!("read the runs of {}", job.name))?;
        Ok::<_, anyhow::Error>((job, judge_lateness(job, &evidence)))
    }));
    let asked = within(async { tokio::try_join!(queues, jobs) }).await;
    match asked {
        Err(error) => {
            tracing::error!(check = "worker", "worker is down: {error:#}");
            Condition::Error
        }
        Ok((_, jobs)) => {
            let mut condition = Condition::Ok;
            for (job, lateness) in jobs {
                if let Lateness::LateSince(due) = lateness {
                    tracing::warn!(check = "worker", "{} should have run at {due}", job.name);
                    condition = Condition::Warning;
                }
            }
            condition
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(expression: &str) -> ScheduledJob {
        jobs_from(&format!("dispatch-campaigns={expression}")).expect("schedule").remove(0)
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("time")
    }

    #[test]
    fn a_first_start_has_grace_and_a_silent_job_none() {
        let job = job("rate(1 minute)");
        let mut evidence =
            Evidence { last_success: None, installed_at: at("2026-01-01T00:00:00Z"), now: at("2026-01-01T00:02:30Z") };
        assert_eq!(judge_lateness(&job, &evidence), Lateness::InTime);
        evidence.now = at("2026-01-01T00:03:01Z");
        assert_eq!(judge_lateness(&job, &evidence), Lateness::LateSince(at("2026-01-01T00:01:00Z")));
        evidence.last_success = Some(at("2026-01-01T00:03:00Z"));
        assert_eq!(judge_lateness(&job, &evidence), Lateness::InTime);
    }

    #[test]
    fn a_daily_job_is_late_only_after_its_hour() {
        let job = job("cron(0 2 * * ? *)");
        let mut evidence = Evidence {
            last_success: Some(at("2026-01-01T02:00:10Z")),
            installed_at: at("2025-01-01T00:00:00Z"),
            now: at("2026-01-02T02:01:00Z"),
        };
        assert_eq!(judge_lateness(&job, &evidence), Lateness::InTime);
        evidence.now = at("2026-01-02T02:03:00Z");
        assert_eq!(judge_lateness(&job, &evidence), Lateness::LateSince(at("2026-01-02T02:00:00Z")));
    }
}
