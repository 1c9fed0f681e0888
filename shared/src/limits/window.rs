//! Sending windows: the hours of the week in which mail may leave.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, Days, Duration, NaiveDate, NaiveDateTime, NaiveTime, TimeZone, Utc, Weekday};
use chrono_tz::Tz;

/// How many days ahead an opening is looked for: two weeks, because one opening may fall into an hour that a change of
/// the clocks leaves out.
const LOOK_AHEAD_DAYS: u64 = 14;

/// When mail may leave, by the clock on the wall: `mon-fri 09:00-20:00, sat 10:00-16:00`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    spans: Vec<Span>,
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    first: Weekday,
    last: Weekday,
    opens: NaiveTime,
    closes: NaiveTime,
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let spans = text.split(',').map(|span| span.trim().parse()).collect::<Result<Vec<Span>, String>>()?;
        let text = spans.iter().map(Span::to_string).collect::<Vec<_>>().join(", ");
        Ok(Self { spans, text })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no sending window; write it like \"mon-fri 09:00-20:00\" or \"08:00-22:00\"");
        let (days, hours) = text.rsplit_once(' ').map_or((None, text), |(days, hours)| (Some(days), hours));
        let (first, last) = match days {
            None => (Weekday::Mon, Weekday::Sun),
            Some(days) => {
                let (first, last) = days.split_once('-').unwrap_or((days, days));
                (weekday(first).ok_or_else(wrong)?, weekday(last).ok_or_else(wrong)?)
            }
        };
        let (opens, closes) = hours.split_once('-').ok_or_else(wrong)?;
        if opens == closes {
            return Err(format!("{text:?} closes when it opens; for a whole day write 00:00-24:00"));
        }
        let closes = if closes == "24:00" { "00:00" } else { closes };
        let (opens, closes) = (time(opens).ok_or_else(wrong)?, time(closes).ok_or_else(wrong)?);
        Ok(Self { first, last, opens, closes })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |day: Weekday| day.to_string().to_lowercase();
        if self.first == self.last {
            write!(f, "{} ", name(self.first))?;
        } else if (self.first, self.last) != (Weekday::Mon, Weekday::Sun) {
            write!(f, "{}-{} ", name(self.first), name(self.last))?;
        }
        write!(f, "{}-", self.opens.format("%H:%M"))?;
        if self.closes == NaiveTime::MIN { f.write_str("24:00") } else { write!(f, "{}", self.closes.format("%H:%M")) }
    }
}

fn weekday(text: &str) -> Option<Weekday> {
    // The name's three letters and nothing longer, as the table's check has it.
    if text.len() == 3 { text.parse().ok() } else { None }
}

fn time(text: &str) -> Option<NaiveTime> {
    if text.len() == 5 { NaiveTime::parse_from_str(text, "%H:%M").ok() } else { None }
}

impl Span {
    fn is_on(&self, day: Weekday) -> bool {
        let from_first = |day: Weekday| (day.num_days_from_monday() + 7 - self.first.num_days_from_monday()) % 7;
        from_first(day) <= from_first(self.last)
    }

    fn holds(&self, local: NaiveDateTime) -> bool {
        let (day, time) = (local.weekday(), local.time());
        if self.opens < self.closes {
            return self.is_on(day) && self.opens <= time && time < self.closes;
        }
        // Over midnight.
        (self.is_on(day) && self.opens <= time) || (self.is_on(day.pred()) && time < self.closes)
    }
}

impl Window {
    /// Mail may leave `now`.
    pub fn is_open(&self, now: DateTime<Utc>, zone: Tz) -> bool {
        let local = now.with_timezone(&zone).naive_local();
        self.spans.iter().any(|span| span.holds(local))
    }

    /// When it opens after `now`, where it is closed then. A window that opens in an hour which a change of the clocks
    /// leaves out opens right after.
    pub fn opens_after(&self, now: DateTime<Utc>, zone: Tz) -> DateTime<Utc> {
        let today = now.with_timezone(&zone).date_naive();
        (0..=LOOK_AHEAD_DAYS)
            .filter_map(|days| today.checked_add_days(Days::new(days)))
            .flat_map(|day| self.openings(day, zone))
            .filter(|opening| *opening > now && self.is_open(*opening, zone))
            .min()
            // Never, as far as one can see: look again tomorrow.
            .unwrap_or(now + Duration::days(1))
    }

    fn openings(&self, day: NaiveDate, zone: Tz) -> impl Iterator<Item = DateTime<Utc>> {
        self.spans
            .iter()
            .filter(move |span| span.is_on(day.weekday()))
            .filter_map(move |span| first_instant(day.and_time(span.opens), zone))
    }
}

/// The first instant at which the clocks show this time or, where they leave it out, a later one.
pub(super) fn first_instant(local: NaiveDateTime, zone: Tz) -> Option<DateTime<Utc>> {
    (0..24 * 4).find_map(|quarter| {
        let local = local + Duration::minutes(15 * quarter);
        zone.from_local_datetime(&local).earliest().map(|instant| instant.with_timezone(&Utc))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono_tz::Europe::Berlin;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("time")
    }

    fn window(text: &str) -> Window {
        text.parse().expect("window")
    }

    #[test]
    fn office_hours_open_on_monday_after_the_weekend() {
        let window = window("Mon-Fri 09:00-20:00");
        assert_eq!(window.to_string(), "mon-fri 09:00-20:00");
        assert!(window.is_open(at("2026-03-06T18:59:59Z"), Berlin));
        assert!(!window.is_open(at("2026-03-06T19:00:00Z"), Berlin), "20:00 on Friday");
        assert_eq!(window.opens_after(at("2026-03-06T19:00:00Z"), Berlin), at("2026-03-09T08:00:00Z"));
        assert_eq!(window.opens_after(at("2026-03-10T05:00:00Z"), Berlin), at("2026-03-10T08:00:00Z"), "today");
    }

    #[test]
    fn it_opens_by_the_clock_on_the_wall_over_a_change_of_the_clocks() {
        let window = window("09:00-20:00");
        let closed = at("2026-03-28T20:00:00Z");
        assert_eq!(window.opens_after(closed, Berlin), at("2026-03-29T07:00:00Z"), "one hour sooner in UTC");
        let closed = at("2026-10-24T20:00:00Z");
        assert_eq!(window.opens_after(closed, Berlin), at("2026-10-25T08:00:00Z"), "one hour later");
    }

    #[test]
    fn an_opening_that_the_clocks_leave_out_is_right_after() {
        // On 29 March 2026, Berlin goes from 02:00 to 03:00.
        let window = window("02:30-04:00");
        assert_eq!(window.opens_after(at("2026-03-28T20:00:00Z"), Berlin), at("2026-03-29T01:00:00Z"));
        let inside = self::window("02:15-02:45");
        assert_eq!(inside.opens_after(at("2026-03-28T20:00:00Z"), Berlin), at("2026-03-30T00:15:00Z"), "not that day");
    }

    #[test]
    fn an_hour_that_comes_twice_is_open_twice() {
        // On 25 October 2026, Berlin has 02:00 to 03:00 twice.
        let window = window("02:00-03:00");
        assert!(window.is_open(at("2026-10-25T00:30:00Z"), Berlin));
        assert!(window.is_open(at("2026-10-25T01:30:00Z"), Berlin));
        assert!(!window.is_open(at("2026-10-25T02:00:00Z"), Berlin));
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_it_opens_on() {
        let window = window("fri 22:00-06:00");
        assert!(window.is_open(at("2026-03-07T04:59:00Z"), Berlin), "Saturday, 05:59");
        assert!(!window.is_open(at("2026-03-06T04:59:00Z"), Berlin), "Friday, 05:59");
        assert!(!window.is_open(at("2026-03-07T22:00:00Z"), Berlin), "Saturday, 23:00");
    }

    #[test]
    fn days_may_wrap_and_a_day_may_be_whole() {
        let window = window("sat-mon 00:00-24:00");
        for (time, open) in
            [("2026-03-06T12:00:00Z", false), ("2026-03-07T12:00:00Z", true), ("2026-03-09T22:59:59Z", true)]
        {
            assert_eq!(window.is_open(at(time), Berlin), open, "{time}");
        }
        assert!(!window.is_open(at("2026-03-09T23:00:00Z"), Berlin), "Tuesday, 00:00");
    }

    #[test]
    fn what_is_no_window_is_refused_with_an_example() {
        for text in ["", "9-20", "mon 9:00-20:00", "monday 09:00-20:00", "mon-fri", "25:00-26:00", "mon,tue"] {
            let error = text.parse::<Window>().expect_err(text);
            assert!(error.contains("mon-fri 09:00-20:00"), "{error}");
        }
    }
}
