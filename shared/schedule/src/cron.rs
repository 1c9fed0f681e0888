//! `cron(…)`: six fields, the days they select, and the instants of those days.

use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveTime, TimeDelta, Utc, Weekday};
use chrono_tz::Tz;

use crate::error::{Field, Problem};
use crate::field::{Text, Wrong};
use crate::to_utc;

/// A cron expression that has been understood; values are sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cron {
    /// Times of day, sorted.
    times: Vec<NaiveTime>,
    days: DayRule,
    months: Vec<u16>,
    years: Vec<u16>,
}

/// Which days of a month are selected: the one of the two day fields that is not `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum DayRule {
    /// `1,15`, `*`.
    OfMonth(Vec<u16>),
    /// `L`: the last day of the month.
    LastOfMonth,
    /// `LW`: the last Monday to Friday of the month.
    LastWorkday,
    /// `15W`: the Monday to Friday closest to the day, in the same month.
    Workday(u16),
    /// `2-6`, `MON-FRI`: 1 is Sunday.
    OfWeek(Vec<u16>),
    /// `6L`: the last Friday of the month.
    LastOfWeek(u16),
    /// `6#3`: the third Friday of the month.
    NthOfWeek(u16, u16),
}

/// How far `longest_gap` looks, in days: nine years hold two leap days, so that even a run on each 29 February has a gap.
const GAP_HORIZON_DAYS: u64 = 9 * 366;

impl Cron {
    pub(crate) fn parse(inner: &str) -> Result<Self, Wrong> {
        let parts: Vec<&str> = inner.split(' ').collect();
        let &[minutes, hours, day_of_month, month, day_of_week, year] = parts.as_slice() else {
            return Err(Wrong { field: None, position: 0, problem: Problem::FieldCount(parts.len()) });
        };
        let mut position = 0;
        let mut next = |field, text: &'_ str| {
            let here = position;
            position += text.len() + 1;
            (field, here)
        };
        let [minutes, hours, day_of_month, month, day_of_week, year] = [
            (next(Field::Minutes, minutes), minutes),
            (next(Field::Hours, hours), hours),
            (next(Field::DayOfMonth, day_of_month), day_of_month),
            (next(Field::Month, month), month),
            (next(Field::DayOfWeek, day_of_week), day_of_week),
            (next(Field::Year, year), year),
        ]
        .map(|((field, position), text)| Text { field, text, position });

        let minutes = minutes.values()?;
        let hours = hours.values()?;
        let days = match (day_of_month.text, day_of_week.text) {
            ("?", "?") => return Err(day_of_week.wrong(Problem::DayFields)),
            (_, "?") => day_of_month_rule(day_of_month)?,
            ("?", _) => day_of_week_rule(day_of_week)?,
            _ => return Err(day_of_week.wrong(Problem::DayFields)),
        };
        let months = month.values()?;
        let years = year.values()?;
        let times = hours
            .iter()
            .flat_map(|hour| minutes.iter().map(|minute| (u32::from(*hour), u32::from(*minute))))
            .filter_map(|(hour, minute)| NaiveTime::from_hms_opt(hour, minute, 0))
            .collect();
        Ok(Self { times, days, months, years })
    }

    /// Taking the earlier instant of a repeated local time keeps instants in the order of local times: nothing before
    /// the local time of `instant` can follow it, and the first candidate that is late enough is the answer.
    pub(crate) fn next_after(&self, instant: DateTime<Utc>, zone: Tz) -> Option<DateTime<Utc>> {
        let now = instant.with_timezone(&zone).naive_local();
        let mut day = now.date();
        loop {
            day = self.day_from(day)?;
            let passed = self.times.partition_point(|time| day.and_time(*time) <= now);
            let due = self.times[passed..]
                .iter()
                .filter_map(|time| to_utc(day.and_time(*time), zone))
                .find(|due| *due > instant);
            if due.is_some() {
                return due;
            }
            day = day.succ_opt()?;
        }
    }

    pub(crate) fn latest_until(&self, instant: DateTime<Utc>, zone: Tz) -> Option<DateTime<Utc>> {
        let mut day = instant.with_timezone(&zone).date_naive();
        loop {
            day = self.day_until(day)?;
            let due = self
                .times
                .iter()
                .rev()
                .filter_map(|time| to_utc(day.and_time(*time), zone))
                .find(|due| *due <= instant);
            if due.is_some() {
                return due;
            }
            day = day.pred_opt()?;
        }
    }

    pub(crate) fn longest_gap(&self, from: DateTime<Utc>, zone: Tz) -> Option<TimeDelta> {
        let start = from.with_timezone(&zone).date_naive();
        let end = start.checked_add_days(Days::new(GAP_HORIZON_DAYS))?;
        let within_day = self.times.windows(2).map(|pair| pair[1] - pair[0]).max();
        let mut longest = None;
        let mut last_run: Option<DateTime<Utc>> = None;
        let mut day = start;
        while let Some(selected) = self.day_from(day).filter(|selected| *selected <= end) {
            let runs = || self.times.iter().filter_map(|time| to_utc(selected.and_time(*time), zone));
            if let (Some(previous), Some(first)) = (last_run, runs().next()) {
                longest = longest.max(Some(first - previous));
            }
            let mut backwards = self.times.iter().rev().filter_map(|time| to_utc(selected.and_time(*time), zone));
            if let Some(last) = backwards.next() {
                last_run = Some(last);
                longest = longest.max(within_day);
            }
            day = selected.succ_opt()?;
        }
        longest
    }

    /// The first selected day from `day` on.
    fn day_from(&self, mut day: NaiveDate) -> Option<NaiveDate> {
        loop {
            let year = self.years.iter().map(|year| i32::from(*year)).find(|year| *year >= day.year())?;
            if year > day.year() {
                day = NaiveDate::from_ymd_opt(year, 1, 1)?;
            }
            let first = self.months.iter().map(|month| u32::from(*month)).find(|month| *month >= day.month());
            match first {
                None => day = NaiveDate::from_ymd_opt(day.year() + 1, 1, 1)?,
                Some(month) if month > day.month() => day = NaiveDate::from_ymd_opt(day.year(), month, 1)?,
                Some(_) if self.days.selects(day) => return Some(day),
                Some(_) => day = day.succ_opt()?,
            }
        }
    }

    /// The last selected day up to `day`.
    fn day_until(&self, mut day: NaiveDate) -> Option<NaiveDate> {
        loop {
            let year = self.years.iter().rev().map(|year| i32::from(*year)).find(|year| *year <= day.year())?;
            if year < day.year() {
                day = NaiveDate::from_ymd_opt(year, 12, 31)?;
            }
            let last = self.months.iter().rev().map(|month| u32::from(*month)).find(|month| *month <= day.month());
            match last {
                None => day = NaiveDate::from_ymd_opt(day.year() - 1, 12, 31)?,
                Some(month) if month < day.month() => {
                    day = NaiveDate::from_ymd_opt(day.year(), month + 1, 1)?.pred_opt()?;
                }
                Some(_) if self.days.selects(day) => return Some(day),
                Some(_) => day = day.pred_opt()?,
            }
        }
    }
}

fn day_of_month_rule(text: Text<'_>) -> Result<DayRule, Wrong> {
    if !text.text.contains(['L', 'W']) {
        return Ok(DayRule::OfMonth(text.values()?));
    }
    match text.text {
        "L" => Ok(DayRule::LastOfMonth),
        "LW" => Ok(DayRule::LastWorkday),
        list if list.contains(',') => Err(text.wrong(Problem::NotAlone)),
        day => {
            day.strip_suffix('W').and_then(|day| text.value(day)).map(DayRule::Workday).ok_or_else(|| text.refused())
        }
    }
}

fn day_of_week_rule(text: Text<'_>) -> Result<DayRule, Wrong> {
    if text.text == "L" {
        // Without a day, L is the last day of the week.
        return Ok(DayRule::OfWeek(vec![7]));
    }
    if !text.text.contains(['L', '#']) {
        return Ok(DayRule::OfWeek(text.values()?));
    }
    if text.text.contains(',') {
        return Err(text.wrong(Problem::NotAlone));
    }
    if let Some(day) = text.text.strip_suffix('L') {
        return text.value(day).map(DayRule::LastOfWeek).ok_or_else(|| text.refused());
    }
    let nth = text.text.split_once('#').and_then(|(day, nth)| {
        let nth = nth.parse::<u16>().ok().filter(|number| nth.len() == 1 && (1..=5).contains(number))?;
        Some(DayRule::NthOfWeek(text.value(day)?, nth))
    });
    nth.ok_or_else(|| text.refused())
}

impl DayRule {
    fn selects(&self, date: NaiveDate) -> bool {
        let (day, weekday) = (date.day(), date.weekday().number_from_sunday());
        let is = |wanted: &u16, value: u32| u32::from(*wanted) == value;
        match self {
            Self::OfMonth(days) => days.iter().any(|wanted| is(wanted, day)),
            Self::OfWeek(days) => days.iter().any(|wanted| is(wanted, weekday)),
            Self::LastOfMonth => day == days_in_month(date),
            Self::LastWorkday => nearest_workday(date, days_in_month(date)) == Some(day),
            Self::Workday(wanted) => nearest_workday(date, u32::from(*wanted)) == Some(day),
            Self::LastOfWeek(wanted) => is(wanted, weekday) && day + 7 > days_in_month(date),
            Self::NthOfWeek(wanted, nth) => is(wanted, weekday) && is(nth, day.div_ceil(7)),
        }
    }
}

/// The Monday to Friday closest to day `wanted` of the month of `date`, without leaving that month; none when the month
/// has no such day.
fn nearest_workday(date: NaiveDate, wanted: u32) -> Option<u32> {
    let last = days_in_month(date);
    let aim = date.with_day(wanted)?;
    Some(match aim.weekday() {
        Weekday::Sat if wanted == 1 => 3,
        Weekday::Sat => wanted - 1,
        Weekday::Sun if wanted == last => wanted - 2,
        Weekday::Sun => wanted + 1,
        Weekday::Mon | Weekday::Tue | Weekday::Wed | Weekday::Thu | Weekday::Fri => wanted,
    })
}

fn days_in_month(date: NaiveDate) -> u32 {
    u32::from(date.num_days_in_month())
}
