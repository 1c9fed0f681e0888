//! `monitor-campaigns`: every five minutes, and by hand, finds work that does not go on, and resumes it.
//!
//! The scheduled run resumes without being told to: everything that resuming does is what dispatch and senders do anyway,
//! it can neither send twice nor lose anything, and the alternative is a person who gets up at night to type `--fix`. A
//! run by hand only reports unless it is asked for more: who asks what is wrong wants to see it as it is.
//!
//! A second run, also at the same time, finds less to do or nothing.

use std::time::Duration;

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use shared::batches::Timing;
use shared::config::{self, ConfigError};
use shared::job_runs::{self, Trigger};
use shared::monitor::{self, Report, Resumed};
use shared::queue::BatchQueues;
use sqlx::PgPool;

/// Name of this job in `nightshift.job_runs`.
pub const JOB: &str = "monitor-campaigns";
/// After this long a run of the same tick counts as killed. Longer than the function's `Timeout`.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(240);

/// What the function needs, made once per cold start.
#[derive(Debug, Clone)]
pub struct Ctx {
    db: PgPool,
    queues: BatchQueues,
    timing: Timing,
    no_progress: Duration,
}

impl Ctx {
    /// Reads the environment.
    pub async fn from_env() -> Result<Self, ConfigError> {
        let no_progress = match config::parsed_or("NO_PROGRESS_MINUTES", 0_u32)? {
            0 => monitor::NO_PROGRESS,
            minutes => self::minutes(minutes),
        };
        Ok(Self {
            db: shared::database::connect_lazily()?,
            queues: BatchQueues::from_env().await?,
            timing: Timing::from_env()?,
            no_progress,
        })
    }
}

/// What invokes it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Event {
    /// The schedule, with the `Input` of the template.
    Tick {
        /// The instant it stands for.
        scheduled_time: DateTime<Utc>,
    },
    /// By hand.
    Manual {
        /// Resume what is found.
        #[serde(default)]
        fix: bool,
        /// Minutes without progress that count as stuck, where they are not the usual ones.
        timeout: Option<u32>,
    },
}

/// The answer: what was found, and what was done about it.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// As it was before anything was done; `None` when this tick has run already.
    #[serde(flatten)]
    pub found: Option<Report>,
    /// `None` when nothing was to be done.
    pub resumed: Option<Resumed>,
}

/// Looks, reports and, when asked or on schedule, resumes.
pub async fn handle(ctx: &Ctx, event: Event) -> Result<Answer> {
    let (trigger, fix, limit) = match event {
        Event::Tick { scheduled_time } => (Trigger::Schedule(scheduled_time), true, ctx.no_progress),
        Event::Manual { fix, timeout } => (Trigger::Manual, fix, timeout.map_or(ctx.no_progress, minutes)),
    };
    let Some(run) = job_runs::start(&ctx.db, JOB, trigger, GIVEN_UP_AFTER).await.context("open the job run")? else {
        tracing::info!("this tick has run already");
        return Ok(Answer { found: None, resumed: None });
    };
    let outcome = monitor(ctx, Utc::now(), limit, fix).await;
    let (counts, error) = match &outcome {
        Ok(answer) => (counts(answer), None),
        Err(error) => (serde_json::json!({}), Some(format!("{error:#}"))),
    };
    job_runs::finish(&ctx.db, run, &counts, error.as_deref()).await.context("close the job run")?;
    outcome
}

async fn monitor(ctx: &Ctx, now: DateTime<Utc>, limit: Duration, fix: bool) -> Result<Answer> {
    let found = monitor::judge(&monitor::look(&ctx.db).await?, now, limit);
    tell(&found);
    let resumed = match fix {
        true => Some(monitor::resume(&ctx.db, &ctx.queues, ctx.timing).await?),
        false => None,
    };
    if let Some(done) = resumed.as_ref().filter(|done| **done != Resumed::default()) {
        tracing::info!(
            "settled {} mails, cleared {} leases, halved {} batches, held {} mails, closed {} campaigns, rang {} batches",
            done.settled,
            done.leases_cleared,
            done.halved,
            done.held.len(),
            done.closed.len(),
            done.rung,
        );
    }
    Ok(Answer { found: Some(found), resumed })
}

/// Writes what was found to the log, where alarms read it.
fn tell(found: &Report) {
    for campaign in &found.campaigns {
        tracing::warn!(
            campaign.id = campaign.campaign_id,
            "campaign {} has had no progress since {}, {} mails wait: {}; {}",
            campaign.campaign_id,
            campaign.since,
            campaign.open,
            campaign.why,
            campaign.why.advice(),
        );
    }
    for single in &found.single_mails {
        tracing::warn!(
            account = single.account,
            "nobody has taken the single mails of account {} since {}, {} wait; see whether send-emails is invoked for queue \
             transactional",
            single.account,
            single.since,
            single.open,
        );
    }
    for lease in found.leases.iter().filter(|lease| !lease.waits) {
        tracing::info!(
            batch.id = lease.batch_id,
            "the lease of batch {} ran out at {}",
            lease.batch_id,
            lease.ran_out_at
        );
    }
    for killer in &found.killers {
        tracing::warn!(
            batch.id = killer.batch_id,
            "batch {} was claimed {} times in a row without an outcome",
            killer.batch_id,
            killer.fruitless_claims,
        );
    }
    for account in found.paused_accounts.iter().filter(|account| account.again_and_again) {
        tracing::warn!(
            account = account.account,
            "account {} is paused again and again, now until {}: {}",
            account.account,
            account.until,
            account.reason.as_deref().unwrap_or("no reason given"),
        );
    }
}

fn counts(answer: &Answer) -> serde_json::Value {
    let found = answer.found.as_ref().map(|found| {
        serde_json::json!({
            "stuck_campaigns": found.campaigns.len(),
            "stuck_single_mails": found.single_mails.iter().map(|stuck| stuck.open).sum::<i64>(),
            "lost_leases": found.leases.len(),
            "killing_batches": found.killers.len(),
            "dead_connections": found.in_flight.len(),
            "paused_accounts": found.paused_accounts.len(),
        })
    });
    serde_json::json!({ "found": found, "resumed": answer.resumed })
}

fn minutes(minutes: u32) -> Duration {
    Duration::from_secs(u64::from(minutes) * 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_resumes_and_a_hand_only_reports_unless_it_says_so() {
        let event = |text: &str| serde_json::from_str::<Event>(text).expect("event");
        let tick = event(r#"{"trigger":"schedule","scheduled_time":"2026-01-01T00:05:00Z"}"#);
        assert!(matches!(tick, Event::Tick { .. }));
        assert!(matches!(event("{}"), Event::Manual { fix: false, timeout: None }));
        assert!(matches!(event(r#"{"fix":true,"timeout":30}"#), Event::Manual { fix: true, timeout: Some(30) }));
    }
}
