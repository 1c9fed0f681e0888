//! `dispatch-campaigns`: every minute, and when queue `campaigns` rings, turns due campaigns into batches and rings the
//! batches that wait.
//!
//! A message says only that there is something to do; every invocation does all there is, so a second delivery finds
//! nothing left.

use std::time::Duration;

use anyhow::{Context as _, Result};
use aws_lambda_events::sqs::SqsEvent;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use shared::batches::{self, Timing};
use shared::campaigns;
use shared::config::{self, ConfigError};
use shared::deadline::Deadline;
use shared::job_runs::{self, Trigger};
use shared::queue::BatchQueues;
use sqlx::PgPool;

/// Name of this job in `nightshift.job_runs`.
pub const JOB: &str = "dispatch-campaigns";
/// After this long a run of the same tick counts as killed. Longer than the function's `Timeout`.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(600);

/// What the function needs, made once per cold start.
#[derive(Debug, Clone)]
pub struct Ctx {
    db: PgPool,
    queues: BatchQueues,
    settings: Settings,
}

/// Settings from the template.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Recipients in one batch.
    pub batch_size: i32,
    /// Leases and rings.
    pub timing: Timing,
    /// When to stop taking work.
    pub soft_timeout: Duration,
}

impl Ctx {
    /// Reads the environment.
    pub async fn from_env() -> Result<Self, ConfigError> {
        let settings = Settings {
            batch_size: config::parsed_or("EMAIL_BATCH_SIZE", 200)?,
            timing: Timing::from_env()?,
            soft_timeout: config::seconds_or("SOFT_TIMEOUT_SECONDS", Duration::from_secs(240))?,
        };
        if settings.batch_size < 1 {
            return Err(ConfigError::Invalid { name: "EMAIL_BATCH_SIZE", problem: "must be at least 1".to_owned() });
        }
        Ok(Self { db: shared::database::connect_lazily()?, queues: BatchQueues::from_env().await?, settings })
    }
}

/// What invokes it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Event {
    /// Queue `campaigns`.
    Messages(SqsEvent),
    /// The schedule, with the `Input` of the template.
    Tick {
        /// The instant it stands for.
        scheduled_time: DateTime<Utc>,
    },
    /// By hand, with anything else.
    Manual(serde_json::Value),
}

/// What one run did.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dispatched {
    /// Campaigns planned.
    pub planned: usize,
    /// Campaigns sent back to draft.
    pub rejected: usize,
    /// Batches rung.
    pub rung: usize,
    /// Campaigns closed.
    pub closed: usize,
    /// Mails of dead connections settled.
    pub settled: i64,
    /// Open mails of cancelled campaigns cancelled.
    pub cancelled: u64,
}

/// The answer to whoever invoked the function.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// For SQS: every message is done.
    #[serde(rename = "batchItemFailures")]
    failed_messages: [(); 0],
    #[serde(flatten)]
    dispatched: Dispatched,
}

impl From<Dispatched> for Answer {
    fn from(dispatched: Dispatched) -> Self {
        Self { failed_messages: [], dispatched }
    }
}

/// Does all there is to do. Messages are never handed back: what they announced is in the database, and the next tick
/// finds it. Harmless when delivered twice.
pub async fn handle(ctx: &Ctx, event: Event, deadline_ms: u64) -> Result<Dispatched> {
    let trigger = match event {
        Event::Messages(_) => Trigger::Queue,
        Event::Tick { scheduled_time } => Trigger::Schedule(scheduled_time),
        Event::Manual(_) => Trigger::Manual,
    };
    let Some(run) = job_runs::start(&ctx.db, JOB, trigger, GIVEN_UP_AFTER).await.context("open the job run")? else {
        tracing::info!("this tick has run already");
        return Ok(Dispatched::default());
    };
    let deadline = Deadline::of_invocation(deadline_ms, ctx.settings.soft_timeout);
    let outcome = dispatch(&ctx.db, &ctx.queues, ctx.settings, Utc::now(), deadline).await;
    let (counts, error) = match &outcome {
        Ok(done) => (serde_json::to_value(done)?, None),
        Err(error) => (serde_json::json!({}), Some(format!("{error:#}"))),
    };
    job_runs::finish(&ctx.db, run, &counts, error.as_deref()).await.context("close the job run")?;
    outcome
}

/// Plans what is due at `now`, settles what dead connections held, closes what is finished and rings what waits.
pub async fn dispatch(
    db: &PgPool,
    queues: &BatchQueues,
    settings: Settings,
    now: DateTime<Utc>,
    deadline: Deadline,
) -> Result<Dispatched> {
    let mut done = Dispatched::default();
    while !deadline.soft_passed() {
        match campaigns::plan_next_due(db, now, settings.batch_size).await? {
            None => break,
            Some(Ok(planned)) => {
                done.planned += 1;
                tracing::info!(
                    campaign.id = planned.campaign_id,
                    "planned campaign {}: {} mails in {} batches, {} suppressed, {} duplicates left out",
                    planned.campaign_id,
                    planned.deliveries,
                    planned.batches,
                    planned.suppressed,
                    planned.duplicates,
                );
            }
            Some(Err(reason)) => {
                done.rejected += 1;
                tracing::warn!("a campaign went back to draft: {reason}");
            }
        }
    }
    done.settled = batches::settle_dead_connections(db).await.context("settle dead connections")?;
    if done.settled > 0 {
        tracing::warn!("{} mails were handed over by functions that ended before the answer", done.settled);
    }
    done.cancelled = campaigns::cancel_open(db, || deadline.soft_passed()).await.context("cancel open mails")?;
    done.rung = batches::ring_due(db, queues, settings.timing).await.context("ring due batches")?;
    for campaign in campaigns::close_finished(db).await.context("close finished campaigns")? {
        done.closed += 1;
        tracing::info!(campaign.id = campaign, "campaign {campaign} is sent");
    }
    Ok(done)
}
