//! Schedule expressions of AWS: `rate(…)`, `cron(…)` and `at(…)`, and the instants they name.
//!
//! The crate does no I/O and never reads a clock: every instant is an argument, so that midnight, leap days and changes
//! of the clock are ordinary tests.
//!
//! ```
//! use chrono::{TimeZone, Utc};
//! use schedule_expression::{Dialect, ScheduleExpression};
//!
//! let daily = ScheduleExpression::parse("cron(0 2 * * ? *)", Dialect::Scheduler)?;
//! let noon = Utc.with_ymd_and_hms(2026, 7, 1, 12, 0, 0).unwrap();
//! let next = daily.next_after(noon, chrono_tz::Europe::Berlin, noon);
//! assert_eq!(next, Some(Utc.with_ymd_and_hms(2026, 7, 2, 0, 0, 0).unwrap()));
//! # Ok::<(), schedule_expression::ParseError>(())
//! ```

mod cron;
mod error;
mod field;

use std::fmt;

use chrono::{DateTime, NaiveDateTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

use crate::cron::Cron;
pub use crate::error::{Field, ParseError, Problem};

/// Which service an expression is written for; they accept different things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// EventBridge Scheduler (SAM `ScheduleV2`): time zones, `at(…)`, and no quarrel about `rate(1 minutes)`.
    Scheduler,
    /// A scheduled rule (SAM `Schedule`): UTC, no `at(…)`, and singular after 1, plural after anything else.
    Rule,
}

/// A schedule that has been understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleExpression {
    text: String,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Rate(TimeDelta),
    Cron(Cron),
    At(NaiveDateTime),
}

/// Longest `rate(…)` that is accepted, in days: the years a cron expression can name. Larger numbers would overflow the
/// arithmetic of instants long before anybody waited for them.
const LONGEST_RATE_DAYS: i64 = 366 * 230;

impl ScheduleExpression {
    /// Understands `text` as `dialect` writes it; the error names the field, the character and what is allowed there.
    pub fn parse(text: &str, dialect: Dialect) -> Result<Self, ParseError> {
        let fail = |position: usize, problem: Problem| ParseError::new(text, dialect, None, position, problem);
        let (name, inner) =
            text.strip_suffix(')').and_then(|open| open.split_once('(')).ok_or_else(|| fail(0, Problem::Form))?;
        let offset = name.len() + 1;
        let kind = match name {
            "rate" => Kind::Rate(rate(inner, dialect).map_err(|problem| fail(offset, problem))?),
            "cron" => Kind::Cron(Cron::parse(inner).map_err(|wrong| {
                ParseError::new(text, dialect, wrong.field, offset + wrong.position, wrong.problem)
            })?),
            "at" if dialect == Dialect::Scheduler => Kind::At(at(inner).ok_or_else(|| fail(offset, Problem::At))?),
            _ => return Err(fail(0, Problem::Form)),
        };
        Ok(Self { text: text.to_owned(), kind })
    }

    /// The first instant after `instant` (never `instant` itself) at which the schedule is due, or `None` when there is
    /// none before the year 2200.
    ///
    /// `cron` and `at` follow the wall clock of `zone`: a local time that a change of the clock leaves out is skipped, one
    /// that it repeats counts once, the first time. `rate` counts whole intervals from `anchor`, the moment at which the
    /// schedule was created, whatever the clocks do; it is first due one interval after it.
    pub fn next_after(&self, instant: DateTime<Utc>, zone: Tz, anchor: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match &self.kind {
            Kind::Rate(every) => {
                let passed = intervals(anchor, instant, *every).max(0);
                multiple(anchor, *every, passed + 1)
            }
            Kind::Cron(cron) => cron.next_after(instant, zone),
            Kind::At(local) => to_utc(*local, zone).filter(|due| *due > instant),
        }
    }

    /// The last instant up to and including `instant` at which the schedule was due, or `None` when it never was.
    /// Follows the rules of [`next_after`](Self::next_after).
    pub fn latest_until(&self, instant: DateTime<Utc>, zone: Tz, anchor: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match &self.kind {
            Kind::Rate(every) => match intervals(anchor, instant, *every) {
                passed if passed >= 1 => multiple(anchor, *every, passed),
                _ => None,
            },
            Kind::Cron(cron) => cron.latest_until(instant, zone),
            Kind::At(local) => to_utc(*local, zone).filter(|due| *due <= instant),
        }
    }

    /// The interval of a `rate(…)`; `None` for `cron` and `at`, whose gaps vary.
    pub fn interval(&self) -> Option<TimeDelta> {
        match self.kind {
            Kind::Rate(every) => Some(every),
            Kind::Cron(_) | Kind::At(_) => None,
        }
    }

    /// The longest time between two runs that follow each other in the nine years after `from`, so that whoever watches
    /// the schedule knows when silence is lateness. `None` when fewer than two runs are left.
    pub fn longest_gap(&self, from: DateTime<Utc>, zone: Tz) -> Option<TimeDelta> {
        match &self.kind {
            Kind::Rate(every) => Some(*every),
            Kind::Cron(cron) => cron.longest_gap(from, zone),
            Kind::At(_) => None,
        }
    }
}

impl fmt::Display for ScheduleExpression {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

/// The instant of a local time: the earlier one when the clock shows it twice, none when it never shows it.
fn to_utc(local: NaiveDateTime, zone: Tz) -> Option<DateTime<Utc>> {
    zone.from_local_datetime(&local).earliest().map(|instant| instant.to_utc())
}

/// Whole intervals between `anchor` and `instant`, rounded towards the past.
fn intervals(anchor: DateTime<Utc>, instant: DateTime<Utc>, every: TimeDelta) -> i64 {
    let passed = instant - anchor;
    let whole = passed.num_seconds().div_euclid(every.num_seconds());
    // `num_seconds` rounds towards zero: just before the anchor that is a second too late.
    if passed < TimeDelta::zero() && whole == 0 { -1 } else { whole }
}

fn multiple(anchor: DateTime<Utc>, every: TimeDelta, count: i64) -> Option<DateTime<Utc>> {
    let seconds = every.num_seconds().checked_mul(count)?;
    anchor.checked_add_signed(TimeDelta::try_seconds(seconds)?)
}

fn rate(inner: &str, dialect: Dialect) -> Result<TimeDelta, Problem> {
    let (count, unit) = inner.split_once(' ').ok_or(Problem::Rate)?;
    if count.is_empty() || !count.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Problem::Rate);
    }
    let value: i64 = count.parse().map_err(|_| Problem::RateTooLong)?;
    let (unit_minutes, plural) = match unit {
        "minute" => (1, false),
        "minutes" => (1, true),
        "hour" => (60, false),
        "hours" => (60, true),
        "day" => (60 * 24, false),
        "days" => (60 * 24, true),
        _ => return Err(Problem::Rate),
    };
    if value == 0 {
        return Err(Problem::RateZero);
    }
    if dialect == Dialect::Rule && plural == (value == 1) {
        return Err(Problem::RatePlural);
    }
    value
        .checked_mul(unit_minutes)
        .filter(|minutes| *minutes <= LONGEST_RATE_DAYS * 60 * 24)
        .map(TimeDelta::minutes)
        .ok_or(Problem::RateTooLong)
}

fn at(inner: &str) -> Option<NaiveDateTime> {
    // The shape is checked by hand because chrono would also take one-digit months and signs.
    let shape = inner.len() == 19
        && inner.bytes().enumerate().all(|(index, byte)| match index {
            4 | 7 => byte == b'-',
            10 => byte == b'T',
            13 | 16 => byte == b':',
            _ => byte.is_ascii_digit(),
        });
    // A leap second would be accepted as :60.
    shape
        .then(|| NaiveDateTime::parse_from_str(inner, "%Y-%m-%dT%H:%M:%S").ok())
        .flatten()
        .filter(|_| !inner.ends_with(":60"))
}
