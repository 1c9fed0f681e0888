//! The tick ledger in Redis: one entry for each due instant of each schedule, due → fired, at least once.
//!
//! Keys, all below the prefix: `schedule:ID` (hash: timing, anchor, planned_until, last run), `schedule:ID:open` (sorted
//! set: due instant → when it may be taken), `schedule:ID:tick:DUE` (hash, removed a week after the tick is closed). Every
//! step is one script, so that a runner killed anywhere leaves nothing half done and two runners share one ledger.

use std::time::Duration;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use redis::aio::ConnectionManager;
use redis::{AsyncCommands, Script};

use super::payload::Tick;
use super::plan::Memory;
use crate::bundle::Schedule;

/// How long a runner may take to hand a tick over before another takes it. Longer delays a tick whose runner died,
/// shorter fires it twice when Redis is slow.
const LEASE: Duration = Duration::from_secs(30);
/// How long a closed tick can be looked up.
const REMEMBER: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Access to the ledger; cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    connection: ConnectionManager,
    prefix: String,
}

/// What a look for work found.
#[derive(Debug, Clone, PartialEq)]
pub enum Leased {
    /// A tick to hand over; nobody else gets it while the lease lasts.
    Tick(Tick),
    /// Nothing now; something open may be taken at this instant.
    Later(DateTime<Utc>),
    /// Nothing is open.
    Nothing,
}

/// How a tick ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The function's queue of invocations has it.
    Fired,
    /// It could not be delivered and went to the dead letter queue.
    DeadLettered,
    /// It could not be delivered and there is no dead letter queue.
    Dropped,
}

/// The last run of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRun {
    /// When it was due.
    pub due: DateTime<Utc>,
    /// When it was handed over.
    pub fired: DateTime<Utc>,
}

/// What the ledger says of one schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// None while no runner has seen the schedule.
    pub memory: Option<Memory>,
    /// None while it has never fired.
    pub last_run: Option<LastRun>,
    /// Ticks that are due and not delivered yet.
    pub open: u64,
}

impl Ledger {
    /// Connects to Redis; all keys stand below `prefix`. The connection restores itself when Redis comes back.
    pub async fn connect(redis_url: &str, prefix: &str) -> Result<Self> {
        let client = redis::Client::open(redis_url).context("the Redis URL of the schedule ledger is not valid")?;
        let connection = ConnectionManager::new(client).await.context("cannot reach Redis for the schedule ledger")?;
        Ok(Self { connection, prefix: prefix.to_owned() })
    }

    /// Makes a schedule known at `now`. Its anchor is kept while expression, time zone and kind are unchanged; a changed or
    /// new one begins at `now`. Ticks that fell into a time when it was disabled are passed over.
    pub async fn register(&self, schedule: &Schedule, now: DateTime<Utc>) -> Result<Memory> {
        let script = Script::new(include_str!("register.lua"));
        let (anchor, planned_until): (i64, i64) = script
            .key(self.schedule_key(schedule))
            .key(self.open_key(schedule))
            .arg(timing(schedule))
            .arg(now.timestamp_millis())
            .arg(u8::from(schedule.enabled))
            .arg(self.tick_prefix(schedule))
            .invoke_async(&mut self.connection.clone())
            .await
            .with_context(|| format!("cannot register schedule {}", schedule.id))?;
        Ok(Memory { anchor: instant(anchor)?, planned_until: instant(planned_until)? })
    }

    /// Makes an enabled schedule known again as it was remembered, if Redis has lost it; a lost one would take no ticks.
    /// `true` when it was lost.
    pub async fn restore(&self, schedule: &Schedule, memory: Memory) -> Result<bool> {
        let script = Script::new(include_str!("restore.lua"));
        script
            .key(self.schedule_key(schedule))
            .arg(timing(schedule))
            .arg(memory.anchor.timestamp_millis())
            .arg(memory.planned_until.timestamp_millis())
            .invoke_async(&mut self.connection.clone())
            .await
            .with_context(|| format!("cannot look for schedule {}", schedule.id))
    }

    /// Writes the tick of `due` down, to be fired, or only to be remembered when it is `expired`. `false` when it was
    /// written down before.
    pub async fn open(&self, schedule: &Schedule, due: DateTime<Utc>, expired: bool) -> Result<bool> {
        let script = Script::new(include_str!("open.lua"));
        script
            .key(self.schedule_key(schedule))
            .key(self.open_key(schedule))
            .key(self.tick_key(schedule, due))
            .arg(timing(schedule))
            .arg(due.timestamp_millis())
            .arg(uuid::Uuid::new_v4().to_string())
            .arg(u8::from(!expired))
            .arg(REMEMBER.as_secs())
            .invoke_async(&mut self.connection.clone())
            .await
            .with_context(|| format!("cannot write down a tick of schedule {}", schedule.id))
    }

    /// Takes an open tick that is ready at `now`. Who takes one closes it or puts it off before the lease of half a minute
    /// ends; otherwise it is handed out again.
    pub async fn lease(&self, schedule: &Schedule, now: DateTime<Utc>) -> Result<Leased> {
        let script = Script::new(include_str!("lease.lua"));
        let found: Vec<String> = script
            .key(self.open_key(schedule))
            .arg(now.timestamp_millis())
            .arg(LEASE.as_millis() as u64)
            .arg(self.tick_prefix(schedule))
            .invoke_async(&mut self.connection.clone())
            .await
            .with_context(|| format!("cannot take a tick of schedule {}", schedule.id))?;
        let millis = |text: &str| -> Result<DateTime<Utc>> {
            instant(text.parse::<f64>().context("the ledger holds an instant that is no number")? as i64)
        };
        Ok(match found.as_slice() {
            [due, execution_id, attempt] => Leased::Tick(Tick {
                due: millis(due)?,
                execution_id: execution_id.clone(),
                attempt: attempt.parse().context("the ledger holds an attempt that is no number")?,
            }),
            [later] => Leased::Later(millis(later)?),
            _ => Leased::Nothing,
        })
    }

    /// Closes a tick for good.
    pub async fn finish(
        &self,
        schedule: &Schedule,
        due: DateTime<Utc>,
        outcome: Outcome,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let state = match outcome {
            Outcome::Fired => "fired",
            Outcome::DeadLettered => "dead-lettered",
            Outcome::Dropped => "dropped",
        };
        let script = Script::new(include_str!("finish.lua"));
        let _: i64 = script
            .key(self.schedule_key(schedule))
            .key(self.open_key(schedule))
            .key(self.tick_key(schedule, due))
            .arg(due.timestamp_millis())
            .arg(state)
            .arg(now.timestamp_millis())
            .arg(REMEMBER.as_secs())
            .invoke_async(&mut self.connection.clone())
            .await
            .with_context(|| format!("cannot close a tick of schedule {}", schedule.id))?;
        Ok(())
    }

    /// Puts a taken tick off until `ready`.
    pub async fn postpone(&self, schedule: &Schedule, due: DateTime<Utc>, ready: DateTime<Utc>) -> Result<()> {
        // XX: a tick that somebody else closed meanwhile stays closed.
        redis::cmd("ZADD")
            .arg(self.open_key(schedule))
            .arg("XX")
            .arg(ready.timestamp_millis())
            .arg(due.timestamp_millis())
            .query_async::<()>(&mut self.connection.clone())
            .await
            .with_context(|| format!("cannot put off a tick of schedule {}", schedule.id))
    }

    /// What is known of a schedule, for people.
    pub async fn standing(&self, schedule: &Schedule) -> Result<Standing> {
        let mut connection = self.connection.clone();
        let context = || format!("cannot read schedule {}", schedule.id);
        let fields = ["timing", "anchor", "planned_until", "last_due", "last_fired"];
        let found: [Option<String>; 5] = redis::cmd("HMGET")
            .arg(self.schedule_key(schedule))
            .arg(&fields)
            .query_async(&mut connection)
            .await
            .with_context(context)?;
        let open = connection.zcard(self.open_key(schedule)).await.with_context(context)?;
        let [known, anchor, planned_until, last_due, last_fired] = found;
        let millis = |text: Option<String>| -> Option<DateTime<Utc>> { instant(text?.parse().ok()?).ok() };
        let memory = match (millis(anchor), millis(planned_until)) {
            (Some(anchor), Some(planned_until)) if known == Some(timing(schedule)) => {
                Some(Memory { anchor, planned_until })
            }
            _ => None,
        };
        let last_run = match (millis(last_due), millis(last_fired)) {
            (Some(due), Some(fired)) => Some(LastRun { due, fired }),
            _ => None,
        };
        Ok(Standing { memory, last_run, open })
    }

    fn schedule_key(&self, schedule: &Schedule) -> String {
        format!("{}schedule:{}", self.prefix, schedule.id)
    }

    fn open_key(&self, schedule: &Schedule) -> String {
        format!("{}schedule:{}:open", self.prefix, schedule.id)
    }

    fn tick_prefix(&self, schedule: &Schedule) -> String {
        format!("{}schedule:{}:tick:", self.prefix, schedule.id)
    }

    fn tick_key(&self, schedule: &Schedule, due: DateTime<Utc>) -> String {
        format!("{}{}", self.tick_prefix(schedule), due.timestamp_millis())
    }
}

/// What must stay the same for the anchor to be kept.
fn timing(schedule: &Schedule) -> String {
    format!("{:?} {} {}", schedule.kind, schedule.expression, schedule.time_zone)
}

fn instant(millis: i64) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp_millis(millis).context("the ledger holds an instant out of range")
}
