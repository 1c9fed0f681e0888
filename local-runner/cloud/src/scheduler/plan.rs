//! Which ticks are due: pure decisions over instants, without clock and without Redis.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use schedule_expression::{Dialect, ParseError, ScheduleExpression};

use crate::bundle::{Schedule, ScheduleKind};

/// First wait before a tick that could not be handed over is tried again; it doubles.
const FIRST_RETRY_SECONDS: u64 = 1;
/// Longest wait between two attempts. Longer would leave a repaired function idle, shorter would hammer a broken one.
const LONGEST_RETRY_SECONDS: u64 = 300;

/// When a schedule is due, understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Timing {
    expression: ScheduleExpression,
    zone: Tz,
    max_age: TimeDelta,
}

/// What the ledger remembers of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// When the schedule came to be with its present expression; `rate(…)` counts from here.
    pub anchor: DateTime<Utc>,
    /// Ticks up to this instant are in the ledger or have been given up.
    pub planned_until: DateTime<Utc>,
}

/// What to do with the ticks since the ledger was last looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The tick to fire: the latest that has come due, unless it is too old.
    pub fire: Option<DateTime<Utc>>,
    /// A latest tick that came due but is older than the retry policy allows; it is only remembered.
    pub expired: Option<DateTime<Utc>>,
    /// When the schedule is due again.
    pub next: Option<DateTime<Utc>>,
}

impl Timing {
    /// Understands a schedule of the bundle.
    pub fn of(schedule: &Schedule) -> Result<Self, ParseError> {
        let dialect = match schedule.kind {
            ScheduleKind::Scheduler => Dialect::Scheduler,
            ScheduleKind::Rule => Dialect::Rule,
        };
        Ok(Self {
            expression: ScheduleExpression::parse(&schedule.expression, dialect)?,
            // The template's reader has refused unknown zones already.
            zone: schedule.time_zone.parse().unwrap_or(Tz::UTC),
            max_age: TimeDelta::from_std(schedule.max_event_age).unwrap_or(TimeDelta::MAX),
        })
    }

    /// Of the ticks between `memory.planned_until` and `now` only the latest counts: a runner that was down for a day
    /// makes up for one run, not for a thousand.
    pub fn plan(&self, memory: Memory, now: DateTime<Utc>) -> Plan {
        let latest =
            self.expression.latest_until(now, self.zone, memory.anchor).filter(|due| *due > memory.planned_until);
        let (fire, expired) = match latest {
            Some(due) if self.is_expired(due, now) => (None, Some(due)),
            other => (other, None),
        };
        Plan { fire, expired, next: self.next_after(now, memory.anchor) }
    }

    /// When the schedule is due after `now`.
    pub fn next_after(&self, now: DateTime<Utc>, anchor: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.expression.next_after(now, self.zone, anchor)
    }

    /// Whether a tick is older than the retry policy's `MaximumEventAgeInSeconds`.
    pub fn is_expired(&self, due: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        now - due > self.max_age
    }
}

/// How long to wait after attempt number `attempt` (from 1) has failed.
pub fn retry_delay(attempt: u32) -> Duration {
    let doublings = attempt.saturating_sub(1).min(16);
    Duration::from_secs((FIRST_RETRY_SECONDS << doublings).min(LONGEST_RETRY_SECONDS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().expect("the test writes RFC 3339")
    }

    fn timing(expression: &str, zone: &str, max_age_seconds: u64) -> Timing {
        Timing::of(&Schedule {
            id: "S".to_owned(),
            expression: expression.to_owned(),
            time_zone: zone.to_owned(),
            kind: ScheduleKind::Scheduler,
            input: None,
            max_event_age: Duration::from_secs(max_age_seconds),
            max_retries: 0,
            dead_letter: None,
            enabled: true,
        })
        .expect("the expression is valid")
    }

    fn memory(anchor: &str, planned_until: &str) -> Memory {
        Memory { anchor: utc(anchor), planned_until: utc(planned_until) }
    }

    #[test]
    fn nothing_is_due_before_the_first_tick() {
        let plan = timing("rate(1 minute)", "UTC", 300)
            .plan(memory("2026-11-21T10:00:30Z", "2026-11-21T10:00:30Z"), utc("2026-11-21T10:01:29.999Z"));
        assert_eq!(plan, Plan { fire: None, expired: None, next: Some(utc("2026-11-21T10:01:30Z")) });
    }

    #[test]
    fn a_tick_is_due_at_its_instant() {
        let plan = timing("rate(1 minute)", "UTC", 300)
            .plan(memory("2026-11-21T10:00:30Z", "2026-11-21T10:00:30Z"), utc("2026-11-21T10:01:30Z"));
        assert_eq!(plan.fire, Some(utc("2026-11-21T10:01:30Z")));
        assert_eq!(plan.next, Some(utc("2026-11-21T10:02:30Z")));
    }

    #[test]
    fn a_planned_tick_is_not_planned_again() {
        let plan = timing("cron(0 * * * ? *)", "UTC", 300)
            .plan(memory("2026-11-20T00:00:00Z", "2026-11-21T10:00:00Z"), utc("2026-11-21T10:00:01Z"));
        assert_eq!((plan.fire, plan.expired), (None, None));
    }

    #[test]
    fn after_a_downtime_only_the_latest_missed_tick_is_made_up_for() {
        let plan = timing("rate(1 minute)", "UTC", 300)
            .plan(memory("2026-11-21T10:00:00Z", "2026-11-21T10:05:00Z"), utc("2026-11-21T14:17:40Z"));
        assert_eq!(plan.fire, Some(utc("2026-11-21T14:17:00Z")));
    }

    #[test]
    fn a_missed_tick_older_than_the_maximum_age_is_given_up() {
        let nightly = timing("cron(0 2 * * ? *)", "Europe/Berlin", 3_600);
        let plan = nightly.plan(memory("2026-11-01T00:00:00Z", "2026-11-20T01:00:00Z"), utc("2026-11-21T02:00:01Z"));
        assert_eq!((plan.fire, plan.expired), (None, Some(utc("2026-11-21T01:00:00Z"))));
        let plan = nightly.plan(memory("2026-11-01T00:00:00Z", "2026-11-20T01:00:00Z"), utc("2026-11-21T02:00:00Z"));
        assert_eq!(plan.fire, Some(utc("2026-11-21T01:00:00Z")));
    }

    #[test]
    fn a_single_instant_comes_once() {
        let once = timing("at(2026-11-21T10:00:00)", "UTC", 300);
        let plan = once.plan(memory("2026-11-21T09:00:00Z", "2026-11-21T09:00:00Z"), utc("2026-11-21T10:00:00Z"));
        assert_eq!((plan.fire, plan.next), (Some(utc("2026-11-21T10:00:00Z")), None));
        let plan = once.plan(memory("2026-11-21T09:00:00Z", "2026-11-21T10:00:00Z"), utc("2026-11-21T10:00:01Z"));
        assert_eq!(plan, Plan { fire: None, expired: None, next: None });
    }

    #[test]
    fn waits_between_attempts_double_up_to_five_minutes() {
        let waits: Vec<u64> = [1, 2, 3, 9, 10, 185].map(|attempt| retry_delay(attempt).as_secs()).to_vec();
        assert_eq!(waits, [1, 2, 4, 256, 300, 300]);
    }
}
