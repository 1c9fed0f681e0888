//! How much mail may leave: what a limit still has room for, and when it will have room again. Nothing here reads a
//! clock or a database; the gate brings both.

use chrono::{DateTime, Days, Duration, NaiveTime, TimeZone, Utc};
use chrono_tz::Tz;

/// A sliding period is counted in this many slices. The oldest slice counts in full until it has left the period
/// entirely, so a limit is never exceeded, and at most one slice of its allowance (1/60) stays unused.
const SLICES: i64 = 60;

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

/// When a limit has room again, and the sentence that says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exhausted {
    /// From then on at least one mail fits.
    pub until: DateTime<Utc>,
    /// For people: which limit, and until when in the account's own time.
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

    /// Mails that may still leave `now`.
    pub fn room(&self, now: DateTime<Utc>, zone: Tz) -> i64 {
        let from = self.forget_before(now, zone);
        let used: i64 = self.usage.iter().filter(|(start, _)| *start >= from).map(|(_, used)| used).sum();
        (self.maximum - used).max(0)
    }

    /// When the next mail fits, for a limit without room.
    pub fn exhausted(&self, now: DateTime<Utc>, zone: Tz) -> Exhausted {
        let until = match self.period.sliding() {
            None => next_day_start(now, zone),
            Some(period) => {
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
        };
        let local = until.with_timezone(&zone);
        Exhausted {
            until,
            reason: format!(
                "{} limit of {} reached, continues {} {}",
                self.period.adjective(),
                self.subject,
                local.format(if self.period == Period::Day { "%H:%M" } else { "%H:%M:%S" }),
                zone.name()
            ),
        }
    }
}

/// First instant of the local calendar day; where midnight does not exist, the first that does.
fn day_start(now: DateTime<Utc>, zone: Tz) -> DateTime<Utc> {
    first_instant(now.with_timezone(&zone).date_naive(), zone).unwrap_or(now)
}

fn next_day_start(now: DateTime<Utc>, zone: Tz) -> DateTime<Utc> {
    let tomorrow = now.with_timezone(&zone).date_naive() + Days::new(1);
    first_instant(tomorrow, zone).unwrap_or(now + Duration::days(1))
}

fn first_instant(day: chrono::NaiveDate, zone: Tz) -> Option<DateTime<Utc>> {
    (0..24 * 4).find_map(|quarter| {
        let local = day.and_time(NaiveTime::MIN) + Duration::minutes(15 * quarter);
        zone.from_local_datetime(&local).earliest().map(|instant| instant.with_timezone(&Utc))
    })
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
        let exhausted = limit.exhausted(at("2026-03-10T12:00:00Z"), moscow);
        assert_eq!(exhausted.until, at("2026-03-10T21:00:00Z"));
        assert_eq!(exhausted.reason, "daily limit of account news reached, continues 00:00 Europe/Moscow");
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
        let exhausted = limit.exhausted(at("2026-01-01T00:00:45Z"), utc);
        assert_eq!(exhausted.until, at("2026-01-01T00:01:01.001Z"));
        assert_eq!(limit.room(exhausted.until, utc), 4, "what the sentence promises holds");
    }
}
