//! Schedules: each due instant is written into a durable ledger and handed to its function, at least once.
//!
//! A tick that fires twice is rare (a runner killed between handing over and noting it) and harmless, because a job's own
//! run is unique by its scheduled time.

mod ledger;
pub mod payload;
pub mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

pub use self::ledger::{LastRun, Leased, Ledger, Outcome, Standing};
use self::payload::Tick;
use self::plan::{Memory, Timing, retry_delay};
use crate::bundle::{Function, Schedule};

/// Longest sleep without a look at the clock, which may be set or stand still with a suspended machine meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(20);
/// Wait after Redis has failed. Shorter fills the log, longer delays the next tick after it is back.
const REDIS_PAUSE: Duration = Duration::from_secs(2);

/// Where ticks go.
pub trait Target: Clone + Send + Sync + 'static {
    /// Takes an asynchronous invocation of the function with that logical id; `Ok` means that it is stored durably.
    fn submit(&self, function: &str, payload: Bytes) -> impl Future<Output = Result<()>> + Send;

    /// Takes a tick that could not be submitted.
    fn dead_letter(&self, letter: DeadLetter) -> impl Future<Output = Result<()>> + Send;
}

/// A tick that could not be delivered, as it goes to the `DeadLetterConfig` of its schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// ARN of the queue.
    pub queue_arn: String,
    /// The payload that the function would have received.
    pub body: String,
    /// Message attributes (all text): why it was given up.
    pub attributes: BTreeMap<String, String>,
}

/// A schedule as people want to see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Overview {
    /// Logical id of the function.
    pub function: String,
    /// Id of the schedule.
    pub schedule: String,
    /// Its expression.
    pub expression: String,
    /// Its IANA time zone.
    pub time_zone: String,
    /// Whether it fires at all.
    pub enabled: bool,
    /// When it is due next; none when it is disabled or its time is over.
    pub next: Option<DateTime<Utc>>,
    /// Its last run; none while there was none.
    pub last_run: Option<LastRun>,
    /// Ticks that are due and not delivered yet.
    pub open: u64,
}

/// Serves the schedules until `shutdown`: one task each, so that a function that cannot be reached delays no other. Redis
/// may go away and come back; a tick that is being handed over is finished before this returns.
pub async fn run<T: Target>(
    schedules: Vec<(Function, Schedule)>,
    ledger: Ledger,
    target: T,
    shutdown: CancellationToken,
) {
    let mut tasks = JoinSet::new();
    for (function, schedule) in schedules {
        match Timing::of(&schedule) {
            Ok(timing) => {
                let clerk = Clerk { function, schedule, timing, ledger: ledger.clone(), target: target.clone() };
                tasks.spawn(clerk.serve(shutdown.clone()));
            }
            Err(wrong) => error!(schedule.id = schedule.id, "schedule {} is not served: {wrong}", schedule.id),
        }
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(failure) = ended {
            error!("a schedule's task ended: {failure}");
        }
    }
}

/// Next and last run of each schedule, in the given order.
pub async fn overview(
    schedules: &[(Function, Schedule)],
    ledger: &Ledger,
    now: DateTime<Utc>,
) -> Result<Vec<Overview>> {
    let mut overviews = Vec::with_capacity(schedules.len());
    for (function, schedule) in schedules {
        let standing = ledger.standing(schedule).await?;
        // A schedule that no runner has seen would begin now.
        let anchor = standing.memory.map_or(now, |memory| memory.anchor);
        let next = match Timing::of(schedule) {
            Ok(timing) if schedule.enabled => timing.next_after(now, anchor),
            _ => None,
        };
        overviews.push(Overview {
            function: function.logical_id.clone(),
            schedule: schedule.id.clone(),
            expression: schedule.expression.clone(),
            time_zone: schedule.time_zone.clone(),
            enabled: schedule.enabled,
            next,
            last_run: standing.last_run,
            open: standing.open,
        });
    }
    Ok(overviews)
}

/// Looks after one schedule.
struct Clerk<T> {
    function: Function,
    schedule: Schedule,
    timing: Timing,
    ledger: Ledger,
    target: T,
}

impl<T: Target> Clerk<T> {
    async fn serve(self, shutdown: CancellationToken) {
        let mut memory = None;
        while !shutdown.is_cancelled() {
            let pause = match self.round(&mut memory).await {
                Ok(None) => return,
                Ok(Some(wake)) => (wake - Utc::now()).to_std().unwrap_or_default().min(LONGEST_SLEEP),
                Err(failure) => {
                    let id = &self.schedule.id;
                    warn!(schedule.id = id, "schedule {id} waits for its ledger: {failure:#}");
                    REDIS_PAUSE
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Writes down what has come due and delivers what is open. Returns when to look again; none when the schedule is
    /// disabled and only had to be registered.
    async fn round(&self, known: &mut Option<Memory>) -> Result<Option<DateTime<Utc>>> {
        let memory = match *known {
            Some(memory) => memory,
            None => self.ledger.register(&self.schedule, Utc::now()).await?,
        };
        *known = Some(memory);
        if !self.schedule.enabled {
            return Ok(None);
        }
        let plan = self.timing.plan(memory, Utc::now());
        if let Some(due) = plan.fire.or(plan.expired) {
            if self.ledger.restore(&self.schedule, memory).await? {
                let id = &self.schedule.id;
                warn!(schedule.id = id, "Redis had lost schedule {id}; it goes on where it was");
            }
            let written = self.ledger.open(&self.schedule, due, plan.fire.is_none()).await?;
            if written && plan.fire.is_none() {
                let id = &self.schedule.id;
                warn!(schedule.id = id, %due, "schedule {id} missed its run of {due}, which is too old to be made up for");
            }
            *known = Some(Memory { planned_until: due, ..memory });
        }
        let retry = self.deliver_open().await?;
        let forever = Utc::now() + TimeDelta::days(1);
        Ok(Some(plan.next.unwrap_or(forever).min(retry.unwrap_or(forever))))
    }

    /// Delivers every tick that is ready; returns when the next one is.
    async fn deliver_open(&self) -> Result<Option<DateTime<Utc>>> {
        loop {
            match self.ledger.lease(&self.schedule, Utc::now()).await? {
                Leased::Tick(tick) => self.deliver(&tick).await?,
                Leased::Later(ready) => return Ok(Some(ready)),
                Leased::Nothing => return Ok(None),
            }
        }
    }

    async fn deliver(&self, tick: &Tick) -> Result<()> {
        let (id, due) = (&self.schedule.id, tick.due);
        if self.timing.is_expired(due, Utc::now()) {
            return self.give_up(tick, "MaximumEventAgeInSeconds", "the event is too old").await;
        }
        // A tick whose dead letter could not be sent comes back with its attempts used up.
        if tick.attempt > self.schedule.max_retries.saturating_add(1) {
            return self.give_up(tick, "MaximumRetryAttempts", "no attempt is left").await;
        }
        let payload = payload::payload(&self.schedule, tick);
        match self.target.submit(&self.function.logical_id, Bytes::from(payload)).await {
            Ok(()) => {
                debug!(schedule.id = id, %due, "schedule {id} fired for {due}");
                self.ledger.finish(&self.schedule, due, Outcome::Fired, Utc::now()).await
            }
            Err(failure) if tick.attempt > self.schedule.max_retries => {
                self.give_up(tick, "MaximumRetryAttempts", &format!("{failure:#}")).await
            }
            Err(failure) => {
                warn!(schedule.id = id, %due, attempt = tick.attempt, "schedule {id} could not fire: {failure:#}");
                self.postpone(tick).await
            }
        }
    }

    async fn postpone(&self, tick: &Tick) -> Result<()> {
        let wait = TimeDelta::from_std(retry_delay(tick.attempt)).unwrap_or(TimeDelta::MAX);
        self.ledger.postpone(&self.schedule, tick.due, Utc::now() + wait).await
    }

    async fn give_up(&self, tick: &Tick, condition: &str, reason: &str) -> Result<()> {
        let (id, due) = (&self.schedule.id, tick.due);
        let Some(queue_arn) = self.schedule.dead_letter.clone() else {
            error!(schedule.id = id, %due, "schedule {id} gave its run of {due} up, and has no dead letter queue: {reason}");
            return self.ledger.finish(&self.schedule, due, Outcome::Dropped, Utc::now()).await;
        };
        let letter = DeadLetter {
            queue_arn,
            body: payload::payload(&self.schedule, tick),
            attributes: BTreeMap::from([
                ("ERROR_CODE".to_owned(), "DELIVERY_FAILED".to_owned()),
                ("ERROR_MESSAGE".to_owned(), reason.to_owned()),
                ("EXHAUSTED_RETRY_CONDITION".to_owned(), condition.to_owned()),
                ("SCHEDULE_ARN".to_owned(), payload::arn(&self.schedule)),
                ("TARGET_ARN".to_owned(), self.function.arn()),
            ]),
        };
        match self.target.dead_letter(letter).await {
            Ok(()) => {
                info!(schedule.id = id, %due, "schedule {id} gave its run of {due} up to the dead letter queue: {reason}");
                self.ledger.finish(&self.schedule, due, Outcome::DeadLettered, Utc::now()).await
            }
            Err(failure) => {
                warn!(schedule.id = id, %due, "the dead letter of schedule {id} could not be sent: {failure:#}");
                self.postpone(tick).await
            }
        }
    }
}
