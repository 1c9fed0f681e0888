//! How much mail may leave: what a limit still has room for, and when it will have room again. Nothing in this file reads
//! a clock or a database; the gate brings both.

mod rows;
mod window;

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Days, Duration, NaiveTime, TimeZone, Timelike, Utc};
use chrono_tz::Tz;
use serde::Serialize;

pub use rows::{Listed, Scope, Subject, list, remove, set, set_window};
pub(crate) use rows::{Scoped, usage_of, window, zone};
pub use window::Window;
use window::first_instant;

/// A sliding period is counted in this many slices. The oldest slice counts in full until it has left the period
/// entirely, so a limit is never exceeded, and at most one slice of its allowance (1/60) stays unused.
const SLICES: i64 = 60;
/// Openings that are tried until one finds all windows open.
const MOST_OPENINGS: usize = 32;

/// The time that a limit counts over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// Sliding second.
    Second,
    /// Sliding minute.
    Minute,
    /// Sliding hour.
    Hour,
    /// Calendar day in the account's time zone.
    Day,
}

impl Period {
    /// As it stands in column `period`.
    pub fn column(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    /// Reads the column `period`.
    pub fn from_column(text: &str) -> Option<Self> {
        match text {
            "second" => Some(Self::Second),
            "minute" => Some(Self::Minute),
            "hour" => Some(Self::Hour),
            "day" => Some(Self::Day),
            _ => None,
        }
    }

    fn adjective(self) -> &'static str {
        match self {
            Self::Second => "per-second",
            Self::Minute => "per-minute",
            Self::Hour => "hourly",
            Self::Day => "daily",
        }
    }

    fn sliding(self) -> Option<Duration> {
        match self {
            Self::Second => Some(Duration::seconds(1)),
            Self::Minute => Some(Duration::minutes(1)),
            Self::Hour => Some(Duration::hours(1)),
            Self::Day => None,
        }
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::from_column(text).ok_or_else(|| format!("{text:?} is none of second, minute, hour, day"))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.column())
    }
}

/// A limit with what it has let through, as the gate read it under its lock.
#[derive(Debug, Clone)]
pub struct Limit {
    /// Row in `nightshift.limits`.
    pub id: i64,
    /// What is limited, for people: `account newsletter`, `domain example.org`.
    pub subject: String,
    /// Time it counts over.
    pub period: Period,
    /// Most mails in that time.
    pub maximum: i64,
    /// Slices with their use, any order.
    pub usage: Vec<(DateTime<Utc>, i64)>,
}

/// Why nothing may leave now, and from when on something may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wait {
    /// From then on at least one mail may leave.
    pub until: DateTime<Utc>,
    /// For people: what is reached or closed, and when it continues in the account's own time.
    pub reason: String,
}

impl Limit {
    /// The slice that mail leaving `now` counts into.
    pub fn slice_at(&self, now: DateTime<Utc>, zone: Tz) -> DateTime<Utc> {
        match self.period.sliding() {
            Some(period) => {
                let width = period.num_milliseconds() / SLICES;
                let start = now.timestamp_millis().div_euclid(width) * width;
                Utc.timestamp_millis_opt(start).single().unwrap_or(now)
            }
            None => day_start(now, zone),
        }
    }

    /// Slices that began before this no longer count and may be removed.
    pub fn forget_before(&self, now: DateTime<Utc>, zone: Tz) -> DateTime<Utc> {
        match self.period.sliding() {
            Some(period) => now - period - period / SLICES as i32,
            None => day_start(now, zone),
        }
    }

    /// Counts one mail that leaves `now`, and returns the slice that it counts into.
    pub fn take(&mut self, now: DateTime<Utc>, zone: Tz) -> DateTime<Utc> {
        let slice = self.slice_at(now, zone);
        match self.usage.iter_mut().find(|(start, _)| *start == slice) {
            Some((_, used)) => *used += 1,
            None => self.usage.push((slice, 1)),
        }
        slice
    }

    /// Mails that may still leave `now`.
    pub fn room(&self, now: DateTime<Utc>, zone: Tz) -> i64 {
        let from = self.forget_before(now, zone);
        let used: i64 = self.usage.iter().filter(|(start, _)| *start >= from).map(|(_, used)| used).sum();
        (self.maximum - used).max(0)
    }

    /// When the next mail fits, for a limit without room.
    fn frees_at(&self, now: DateTime<Utc>, zone: Tz) -> DateTime<Utc> {
        let Some(period) = self.period.sliding() else { return next_day_start(now, zone) };
        let from = self.forget_before(now, zone);
        let mut counted: Vec<_> = self.usage.iter().filter(|(start, _)| *start >= from).collect();
        counted.sort();
        let mut used: i64 = counted.iter().map(|(_, used)| used).sum();
        let mut until = now;
        for (start, count) in counted {
            if used < self.maximum {
                break;
            }
            used -= count;
            until = *start + period + period / SLICES as i32 + Duration::milliseconds(1);
        }
        until
    }
}

/// The windows that must be open for a mail, with what people call their owners.
pub(crate) fn windows<'a>(
    account: &'a str,
    of_account: Option<&'a Window>,
    of_campaign: Option<&'a Window>,
) -> Vec<(&'a str, &'a Window)> {
    let of_account = of_account.map(|window| (account, window));
    let of_campaign = of_campaign.map(|window| ("the campaign", window));
    of_account.into_iter().chain(of_campaign).collect()
}

/// Why nothing may leave `now` under limits without room and windows that must be open, each with its owner's name;
/// `None` when something may. A limit that has room again while a window is closed continues when that opens.
pub fn wait(full: &[&Limit], windows: &[(&str, &Window)], now: DateTime<Utc>, zone: Tz) -> Option<Wait> {
    let last = full.iter().map(|limit| (limit.frees_at(now, zone), *limit)).max_by_key(|(until, _)| *until);
    let closed = windows.iter().find(|(_, window)| !window.is_open(now, zone));
    let what = match (last, closed) {
        (Some((_, limit)), _) => format!("{} limit of {} reached", limit.period.adjective(), limit.subject),
        (None, Some((owner, window))) => format!("outside the sending window of {owner} ({window})"),
        (None, None) => return None,
    };
    let mut until = last.map_or(now, |(until, _)| until);
    // Two windows that open in turn meet after a few steps, or never.
    for _ in 0..MOST_OPENINGS {
        match windows.iter().find(|(_, window)| !window.is_open(until, zone)) {
            Some((_, window)) => until = window.opens_after(until, zone),
            None => break,
        }
    }
    let local = until.with_timezone(&zone);
    let time = match until - now {
        long if long >= Duration::days(1) => "%a %H:%M",
        _ if local.second() == 0 && local.nanosecond() == 0 => "%H:%M",
        _ => "%H:%M:%S",
    };
    Some(Wait { until, reason: format!("{what}, continues {} {}", local.format(time), zone.name()) })
}

/// First instant of the local calendar day; where midnight does not exist, the first that does.
fn day_start(now: DateTime<Utc>, zone: Tz) -> DateTime<Utc> {
    first_instant(now.with_timezone(&zone).date_naive().and_time(NaiveTime::MIN), zone).unwrap_or(now)
}

fn next_day_start(now: DateTime<Utc>, zone: Tz) -> DateTime<Utc> {
    let tomorrow = now.with_timezone(&zone).date_naive() + Days::new(1);
    first_instant(tomorrow.and_time(NaiveTime::MIN), zone).unwrap_or(now + Duration::days(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("time")
    }

    fn limit(period: Period, maximum: i64, usage: &[(&str, i64)]) -> Limit {
        Limit {
            id: 1,
            subject: "account news".to_owned(),
            period,
            maximum,
            usage: usage.iter().map(|(start, used)| (at(start), *used)).collect(),
        }
    }

    #[test]
    fn a_day_begins_at_local_midnight() {
        let moscow: Tz = chrono_tz::Europe::Moscow;
        let limit = limit(Period::Day, 10, &[("2026-03-09T21:00:00Z", 10)]);
        assert_eq!(limit.room(at("2026-03-10T20:59:59Z"), moscow), 0);
        assert_eq!(limit.room(at("2026-03-10T21:00:00Z"), moscow), 10);
        let wait = wait(&[&limit], &[], at("2026-03-10T12:00:00Z"), moscow).expect("it is used up");
        assert_eq!(wait.until, at("2026-03-10T21:00:00Z"));
        assert_eq!(wait.reason, "daily limit of account news reached, continues 00:00 Europe/Moscow");
    }

    #[test]
    fn a_day_without_midnight_begins_when_it_does() {
        let sao_paulo: Tz = chrono_tz::America::Sao_Paulo;
        let limit = limit(Period::Day, 1, &[]);
        assert_eq!(limit.slice_at(at("2018-11-04T12:00:00Z"), sao_paulo), at("2018-11-04T03:00:00Z"));
    }

    #[test]
    fn a_sliding_minute_lets_go_slice_by_slice() {
        let limit = limit(Period::Minute, 10, &[("2026-01-01T00:00:00Z", 4), ("2026-01-01T00:00:30Z", 6)]);
        let utc = Tz::UTC;
        assert_eq!(limit.room(at("2026-01-01T00:00:45Z"), utc), 0);
        assert_eq!(limit.room(at("2026-01-01T00:01:01Z"), utc), 0, "the first slice has not left entirely");
        assert_eq!(limit.room(at("2026-01-01T00:01:01.001Z"), utc), 4);
        let wait = wait(&[&limit], &[], at("2026-01-01T00:00:45Z"), utc).expect("it is used up");
        assert_eq!(wait.until, at("2026-01-01T00:01:01.001Z"));
        assert_eq!(wait.reason, "per-minute limit of account news reached, continues 00:01:01 UTC");
        assert_eq!(limit.room(wait.until, utc), 4, "what the sentence promises holds");
    }

    #[test]
    fn a_day_of_23_hours_ends_at_its_midnight() {
        let berlin: Tz = chrono_tz::Europe::Berlin;
        let limit = limit(Period::Day, 10, &[("2026-03-28T23:00:00Z", 10)]);
        assert_eq!(limit.room(at("2026-03-29T21:59:59Z"), berlin), 0);
        assert_eq!(limit.room(at("2026-03-29T22:00:00Z"), berlin), 10);
    }

    #[test]
    fn a_new_day_continues_when_the_window_opens() {
        let moscow: Tz = chrono_tz::Europe::Moscow;
        let limit = limit(Period::Day, 10, &[("2026-03-09T21:00:00Z", 10)]);
        let office: Window = "mon-fri 09:00-20:00".parse().expect("window");
        let windows = [("account news", &office)];
        let tuesday = wait(&[&limit], &windows, at("2026-03-10T12:00:00Z"), moscow).expect("it is used up");
        assert_eq!(tuesday.until, at("2026-03-11T06:00:00Z"));
        assert_eq!(tuesday.reason, "daily limit of account news reached, continues 09:00 Europe/Moscow");

        let friday = wait(&[], &windows, at("2026-03-13T18:00:00Z"), moscow).expect("it is closed");
        assert_eq!(friday.until, at("2026-03-16T06:00:00Z"));
        assert_eq!(
            friday.reason,
            "outside the sending window of account news (mon-fri 09:00-20:00), continues Mon 09:00 Europe/Moscow"
        );
        assert_eq!(wait(&[], &windows, at("2026-03-13T12:00:00Z"), moscow), None);
    }

    #[test]
    fn two_windows_continue_when_both_are_open() {
        let office: Window = "mon-fri 09:00-20:00".parse().expect("window");
        let evening: Window = "19:00-23:00".parse().expect("window");
        let windows = [("account news", &office), ("campaign 7", &evening)];
        let waits = wait(&[], &windows, at("2026-03-13T20:00:00Z"), Tz::UTC).expect("the office is closed");
        assert_eq!(waits.until, at("2026-03-16T19:00:00Z"));
    }
}
