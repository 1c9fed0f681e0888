//! Random expressions against a matcher that knows nothing but "does this minute match": it walks minute by minute.

use std::collections::{BTreeSet, HashSet};

use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveDateTime, TimeDelta, TimeZone, Timelike, Utc};
use chrono_tz::Tz;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use schedule_expression::{Dialect, ScheduleExpression};

/// A field as text together with the values it stands for.
struct Part {
    text: String,
    values: BTreeSet<u32>,
}

/// A random field over `least..=most`: star, values, ranges (wrapping too) and steps, in lists.
fn part(random: &mut StdRng, least: u32, most: u32) -> Part {
    if random.random_bool(0.3) {
        return Part { text: "*".to_owned(), values: (least..=most).collect() };
    }
    let mut texts = Vec::new();
    let mut values = BTreeSet::new();
    for _ in 0..random.random_range(1..=3) {
        let (first, last) = (random.random_range(least..=most), random.random_range(least..=most));
        let step = random.random_range(1..=most.min(20));
        // Walks round the field one value after the other, which no arithmetic of the crate does.
        let walk = |mut value: u32, end: u32| {
            let mut walked = vec![value];
            while value != end {
                value = if value == most { least } else { value + 1 };
                walked.push(value);
            }
            walked
        };
        let (text, walked) = match random.random_range(0..5) {
            0 => (first.to_string(), vec![first]),
            1 => (format!("{first}-{last}"), walk(first, last)),
            2 => (format!("{first}-{last}/{step}"), every(walk(first, last), step)),
            3 => (format!("{first}/{step}"), every(walk(first, most), step)),
            _ => (format!("*/{step}"), every(walk(least, most), step)),
        };
        texts.push(text);
        values.extend(walked);
    }
    Part { text: texts.join(","), values }
}

fn every(values: Vec<u32>, step: u32) -> Vec<u32> {
    values.into_iter().step_by(step as usize).collect()
}

/// A day rule as text of both day fields, with its matcher.
type DayRule = (String, String, Box<dyn Fn(NaiveDate) -> bool>);

fn day_rule(random: &mut StdRng) -> DayRule {
    let weekday = random.random_range(1..=7);
    let day = random.random_range(1..=31);
    let nth = random.random_range(1..=5);
    let star = || "?".to_owned();
    let same_month = |date: NaiveDate, other: NaiveDate| (date.year(), date.month()) == (other.year(), other.month());
    let is_workday = |date: NaiveDate| (2..=6).contains(&date.weekday().number_from_sunday());
    let on_weekday = move |date: NaiveDate| date.weekday().number_from_sunday() == weekday;
    match random.random_range(0..8) {
        0 | 1 => {
            let days = part(random, 1, 31);
            (days.text, star(), Box::new(move |date| days.values.contains(&date.day())))
        }
        2 | 3 => {
            let days = part(random, 1, 7);
            (star(), days.text, Box::new(move |date| days.values.contains(&date.weekday().number_from_sunday())))
        }
        4 if random.random_bool(0.5) => {
            ("L".to_owned(), star(), Box::new(move |date| !same_month(date, date + Days::new(1))))
        }
        4 => (
            "LW".to_owned(),
            star(),
            Box::new(move |date| {
                is_workday(date)
                    && (1..=3).all(|ahead| {
                        let later = date + Days::new(ahead);
                        !same_month(date, later) || !is_workday(later)
                    })
            }),
        ),
        5 => (
            format!("{day}W"),
            star(),
            // The closest workday of the month; on the weekend's own days the closer side wins, of its month only.
            Box::new(move |date| {
                let Some(aim) = date.with_day(day) else {
                    return false;
                };
                let distance = |other: NaiveDate| (other - aim).num_days().abs();
                (1..=31)
                    .filter_map(|number| date.with_day(number))
                    .filter(|other| is_workday(*other))
                    .min_by_key(|other| distance(*other))
                    == Some(date)
            }),
        ),
        6 => (
            star(),
            format!("{weekday}L"),
            Box::new(move |date| on_weekday(date) && !same_month(date, date + Days::new(7))),
        ),
        _ => (
            star(),
            format!("{weekday}#{nth}"),
            Box::new(move |date| {
                let earlier =
                    (1..=date.day()).filter_map(|number| date.with_day(number)).filter(|day| on_weekday(*day));
                on_weekday(date) && earlier.count() == nth
            }),
        ),
    }
}

#[test]
fn every_minute_around_clock_changes_is_judged_as_by_a_plain_matcher() {
    let places = [
        (Tz::Europe__Berlin, "2026-03-28T06:00:00Z"),
        (Tz::Europe__Berlin, "2026-10-24T06:00:00Z"),
        (Tz::Australia__Lord_Howe, "2026-04-04T00:00:00Z"),
        (Tz::Australia__Lord_Howe, "2026-10-03T00:00:00Z"),
        (Tz::America__Sao_Paulo, "2018-11-03T06:00:00Z"),
        (Tz::Pacific__Apia, "2011-12-29T06:00:00Z"),
        (Tz::Asia__Kathmandu, "2026-12-30T06:00:00Z"),
        (Tz::UTC, "2028-02-28T06:00:00Z"),
    ];
    let mut random = StdRng::seed_from_u64(20_261_121);
    for round in 0..400 {
        let (zone, start) = places[round % places.len()];
        let start: DateTime<Utc> = start.parse().expect("the test writes RFC 3339");
        let (minutes, hours) = (part(&mut random, 0, 59), part(&mut random, 0, 23));
        let text = format!("cron({} {} * * ? *)", minutes.text, hours.text);
        let schedule = ScheduleExpression::parse(&text, Dialect::Scheduler).expect("generated expressions are valid");

        let mut seen: HashSet<NaiveDateTime> = HashSet::new();
        let expected: Vec<DateTime<Utc>> = (-180..3 * 24 * 60)
            .map(|minute| start + TimeDelta::minutes(minute))
            .filter(|instant| {
                let local = instant.with_timezone(&zone).naive_local();
                seen.insert(local) && minutes.values.contains(&local.minute()) && hours.values.contains(&local.hour())
            })
            .filter(|instant| *instant > start)
            .collect();
        let end = start + TimeDelta::minutes(3 * 24 * 60 - 1);
        let got: Vec<DateTime<Utc>> = std::iter::successors(schedule.next_after(start, zone, start), |last| {
            schedule.next_after(*last, zone, start)
        })
        .take_while(|run| *run <= end)
        .collect();
        assert_eq!(got, expected, "{text} in {zone} from {start}");

        // Walking back is judged on some of them only; it looks at whole days each time.
        if round % 7 != 0 {
            continue;
        }
        let mut backwards: Vec<DateTime<Utc>> =
            std::iter::successors(schedule.latest_until(end, zone, start), |last| {
                schedule.latest_until(*last - TimeDelta::seconds(1), zone, start)
            })
            .take_while(|run| *run > start)
            .collect();
        backwards.reverse();
        assert_eq!(backwards, expected, "{text} in {zone} back from {end}");
    }
}

#[test]
fn every_day_of_eight_years_is_judged_as_by_a_plain_matcher() {
    let mut random = StdRng::seed_from_u64(29_022_028);
    let start = Utc.with_ymd_and_hms(2023, 12, 31, 23, 59, 0).single().expect("the instant exists");
    let first = NaiveDate::from_ymd_opt(2024, 1, 1).expect("the day exists");
    for _ in 0..400 {
        let (of_month, of_week, matches) = day_rule(&mut random);
        let months = part(&mut random, 1, 12);
        let text = format!("cron(30 12 {of_month} {} {of_week} 2024-2031)", months.text);
        let schedule = ScheduleExpression::parse(&text, Dialect::Rule).expect("generated expressions are valid");
        let expected: Vec<NaiveDate> = first
            .iter_days()
            .take_while(|day| day.year() < 2032)
            .filter(|day| months.values.contains(&day.month()) && matches(*day))
            .collect();
        let got: Vec<NaiveDate> = std::iter::successors(schedule.next_after(start, Tz::UTC, start), |last| {
            schedule.next_after(*last, Tz::UTC, start)
        })
        .map(|run| run.date_naive())
        .collect();
        assert_eq!(got, expected, "{text}");
    }
}
