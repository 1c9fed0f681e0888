//! Named cases: what AWS accepts, what it refuses, and the instants on which cron libraries disagree.

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use schedule_expression::{Dialect, Field, ParseError, Problem, ScheduleExpression};

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().expect("the test writes RFC 3339")
}

fn scheduler(text: &str) -> Result<ScheduleExpression, ParseError> {
    ScheduleExpression::parse(text, Dialect::Scheduler)
}

fn valid(text: &str) -> ScheduleExpression {
    scheduler(text).expect("the expression is valid")
}

/// The first `count` runs after `from`, as RFC 3339 in the zone, so that the expected values read like a clock.
fn runs(text: &str, zone: Tz, from: &str, count: usize) -> Vec<String> {
    let schedule = valid(text);
    let anchor = utc(from);
    let following = std::iter::successors(schedule.next_after(anchor, zone, anchor), |last| {
        schedule.next_after(*last, zone, anchor)
    });
    following.take(count).map(|run| run.with_timezone(&zone).format("%Y-%m-%dT%H:%M%:z").to_string()).collect()
}

/// Days only, in UTC.
fn days(text: &str, from: &str, count: usize) -> Vec<String> {
    runs(text, Tz::UTC, from, count).iter().map(|run| run[..10].to_owned()).collect()
}

#[test]
fn what_aws_was_seen_to_accept_is_accepted() {
    for text in [
        "cron(0-15/1 8-8 ? * 2,3,4,5,6,7 *)",
        "cron(1-31/30 1-1 ? * 1,7 *)",
        "cron(*/15 * * * ? *)",
        "cron(0-59/10 0-23/2 ? * * *)",
        "cron(0 10 * * ? *)",
        "cron(15 12 * * ? *)",
        "cron(0 18 ? * MON-FRI *)",
        "cron(0 8 1 * ? *)",
        "cron(0/10 * ? * MON-FRI *)",
        "cron(0/5 8-17 ? * MON-FRI *)",
        "cron(15 10 ? * 6L 2019-2022)",
        "cron(0 9 LW * ? *)",
        "rate(1 minute)",
        "rate(5 minutes)",
        "rate(1 hour)",
        "rate(7 days)",
    ] {
        for dialect in [Dialect::Scheduler, Dialect::Rule] {
            assert!(ScheduleExpression::parse(text, dialect).is_ok(), "{text} for {dialect:?}");
        }
    }
    assert!(scheduler("at(2026-11-20T13:00:00)").is_ok());
    assert!(scheduler("rate(1 minutes)").is_ok());
}

#[test]
fn what_aws_was_seen_to_refuse_is_refused_with_its_words() {
    for text in [
        "cron(0 1 * * * *)",
        "rate(10 seconds)",
        "rate(10 years)",
        "rate( 10 minutes )",
        " rate(10 minutes)",
        "rate(10 minutes) ",
        "at(2026-11-20T13:00:00Z)",
        "at(2026-11-20)",
        "at(2026-02-30T00:00:00)",
        "at(2026-1-01T00:00:00)",
        "at(2026-11-20T13:00:60)",
        "RATE(1 minute)",
        "Cron(0 1 * * ? *)",
        "rate(1 MINUTE)",
        "rate(0 minutes)",
        "rate(-5 minutes)",
        "rate(+5 minutes)",
        "rate(1.5 hours)",
        "rate(5)",
        "rate(99999999999999999999 days)",
        "rate(999999999999 days)",
        "cron(0 1 ? * ? *)",
        "cron(0 1 * * ?)",
        "cron(0  1 * * ? *)",
        "cron(60 1 * * ? *)",
        "cron(0 24 * * ? *)",
        "cron(0 1 0 * ? *)",
        "cron(0 1 32 * ? *)",
        "cron(0 1 * 13 ? *)",
        "cron(0 1 ? * 0 *)",
        "cron(0 1 ? * 8 *)",
        "cron(0 1 * * ? 1969)",
        "cron(0 1 * * ? 2200)",
        "cron(0 1 * * ? 2030-2020)",
        "cron(0/0 1 * * ? *)",
        "cron(*/0 1 * * ? *)",
        "cron(0/60 1 * * ? *)",
        "cron(0/ 1 * * ? *)",
        "cron(/5 1 * * ? *)",
        "cron(1- 1 * * ? *)",
        "cron(1,,2 1 * * ? *)",
        "cron(? 1 * * ? *)",
        "cron(0 1 L,15 * ? *)",
        "cron(0 1 15W,1 * ? *)",
        "cron(0 1 L-3 * ? *)",
        "cron(0 1 W * ? *)",
        "cron(0 1 ? * 3#1,6#3 *)",
        "cron(0 1 ? * 6#6 *)",
        "cron(0 1 ? * 6#0 *)",
        "cron(0 1 ? * #2 *)",
        "cron(0 1 ? * 6L,2 *)",
        "cron(0 1 ? * MON-FRIDAY *)",
        "cron()",
        "cron",
        "",
        "each minute",
        "cron(0 1 * * ? *",
        "cron(ä 1 * * ? *)",
    ] {
        let error = scheduler(text).expect_err(text);
        assert!(error.to_string().starts_with(&format!("Invalid Schedule Expression {text}.")), "{error}");
    }
}

#[test]
fn rules_are_stricter_than_the_scheduler() {
    for text in ["rate(1 minutes)", "rate(10 minute)", "rate(2 hour)", "rate(1 days)", "at(2026-11-20T13:00:00)"] {
        let error = ScheduleExpression::parse(text, Dialect::Rule).expect_err(text);
        assert!(error.to_string().starts_with("Parameter ScheduleExpression is not valid."), "{error}");
    }
}

#[test]
fn an_error_names_field_character_and_what_is_allowed() {
    let error = scheduler("cron(0 25 * * ? *)").expect_err("25 is no hour");
    assert_eq!((error.field, error.position), (Some(Field::Hours), 8));
    assert_eq!(
        error.to_string(),
        "Invalid Schedule Expression cron(0 25 * * ? *). In \"cron(0 25 * * ? *)\", field hours, character 8: \
         \"25\" is not allowed; allowed: 0-23 with , - * /"
    );
    let error = scheduler("cron(0,15,70 1 * * ? *)").expect_err("70 is no minute");
    assert_eq!((error.field, error.position), (Some(Field::Minutes), 11));
    let error = scheduler("cron(0/0 1 * * ? *)").expect_err("a step of 0 would never end");
    assert_eq!(error.problem, Problem::Step(59));
    let error = scheduler("cron(0 1 * * * *)").expect_err("both day fields are set");
    assert_eq!((error.field, error.problem), (Some(Field::DayOfWeek), Problem::DayFields));
}

#[test]
fn the_last_workday_of_the_month() {
    assert_eq!(
        days("cron(0 9 LW * ? *)", "2026-01-01T00:00:00Z", 5),
        ["2026-01-30", "2026-02-27", "2026-03-31", "2026-04-30", "2026-05-29"]
    );
}

#[test]
fn the_workday_nearest_to_a_day_stays_in_its_month() {
    // 1 August 2026 is a Saturday: Monday the 3rd, not Friday in July. 1 November 2026 is a Sunday.
    assert_eq!(days("cron(0 9 1W 8 ? *)", "2026-01-01T00:00:00Z", 1), ["2026-08-03"]);
    assert_eq!(days("cron(0 9 1W 11 ? *)", "2026-01-01T00:00:00Z", 1), ["2026-11-02"]);
    // 31 May 2026 is a Sunday; February, April and June have no 31st and so no run.
    assert_eq!(days("cron(0 9 31W * ? *)", "2026-01-31T12:00:00Z", 3), ["2026-03-31", "2026-05-29", "2026-07-31"]);
    // Saturday 15 August 2026 and Sunday 15 November 2026.
    assert_eq!(days("cron(0 9 15W 8,11 ? *)", "2026-01-01T00:00:00Z", 2), ["2026-08-14", "2026-11-16"]);
}

#[test]
fn weekdays_count_from_sunday_and_l_alone_is_saturday() {
    assert_eq!(days("cron(0 9 ? * 1 *)", "2026-11-01T12:00:00Z", 1), ["2026-11-08"]);
    assert_eq!(days("cron(0 9 ? * L *)", "2026-11-01T12:00:00Z", 2), ["2026-11-07", "2026-11-14"]);
    assert_eq!(days("cron(0 9 ? * 6L *)", "2026-11-01T12:00:00Z", 2), ["2026-11-27", "2026-12-25"]);
    assert_eq!(days("cron(0 9 ? * FRIL *)", "2026-11-01T12:00:00Z", 1), ["2026-11-27"]);
    assert_eq!(days("cron(0 9 ? * 6#3 *)", "2026-11-01T12:00:00Z", 2), ["2026-11-20", "2026-12-18"]);
    // Not every month has a fifth Monday.
    assert_eq!(days("cron(0 9 ? * 2#5 *)", "2026-01-01T00:00:00Z", 3), ["2026-03-30", "2026-06-29", "2026-08-31"]);
    assert_eq!(
        days("cron(0 9 ? * FRI-MON *)", "2026-11-17T12:00:00Z", 5),
        ["2026-11-20", "2026-11-21", "2026-11-22", "2026-11-23", "2026-11-27"]
    );
}

#[test]
fn the_29th_of_february_comes_in_leap_years() {
    assert_eq!(days("cron(0 0 29 2 ? *)", "2026-01-01T00:00:00Z", 2), ["2028-02-29", "2032-02-29"]);
    assert_eq!(days("cron(0 0 29 2 ? *)", "2096-03-01T00:00:00Z", 1), ["2104-02-29"]);
    assert_eq!(days("cron(0 0 30 2 ? *)", "2026-01-01T00:00:00Z", 1), Vec::<String>::new());
}

#[test]
fn a_step_from_a_value_runs_to_the_end_of_its_field() {
    assert_eq!(
        runs("cron(5/20 * * * ? *)", Tz::UTC, "2026-11-20T10:50:00Z", 4),
        ["2026-11-20T11:05+00:00", "2026-11-20T11:25+00:00", "2026-11-20T11:45+00:00", "2026-11-20T12:05+00:00"]
    );
    assert_eq!(
        days("cron(0 0 1 1/3 ? *)", "2026-01-02T00:00:00Z", 4),
        ["2026-04-01", "2026-07-01", "2026-10-01", "2027-01-01"]
    );
    assert_eq!(
        runs("cron(0 22-2/2 * * ? *)", Tz::UTC, "2026-11-20T10:50:00Z", 4),
        ["2026-11-20T22:00+00:00", "2026-11-21T00:00+00:00", "2026-11-21T02:00+00:00", "2026-11-21T22:00+00:00"]
    );
}

#[test]
fn years_limit_and_past_years_never_come() {
    assert_eq!(days("cron(0 0 1 1 ? 2020)", "2026-01-01T00:00:00Z", 1), Vec::<String>::new());
    assert_eq!(days("cron(0 0 1 1 ? 2027/3)", "2026-01-01T00:00:00Z", 2), ["2027-01-01", "2030-01-01"]);
    assert_eq!(runs("cron(59 23 31 12 ? *)", Tz::UTC, "2199-12-31T23:59:00Z", 1), Vec::<String>::new());
}

#[test]
fn the_instant_itself_is_not_after_itself() {
    assert_eq!(runs("cron(0 9 * * ? *)", Tz::UTC, "2026-11-20T09:00:00Z", 1), ["2026-11-21T09:00+00:00"]);
    assert_eq!(runs("cron(0 9 * * ? *)", Tz::UTC, "2026-11-20T08:59:59.999Z", 1), ["2026-11-20T09:00+00:00"]);
}

#[test]
fn a_local_time_that_does_not_exist_is_skipped() {
    assert_eq!(
        runs("cron(30 2 * * ? *)", Tz::Europe__Berlin, "2026-03-27T12:00:00Z", 2),
        ["2026-03-28T02:30+01:00", "2026-03-30T02:30+02:00"]
    );
    // Midnight of 4 November 2018 was missing in Sao Paulo.
    assert_eq!(
        runs("cron(0 0 * * ? *)", Tz::America__Sao_Paulo, "2018-11-03T12:00:00Z", 1),
        ["2018-11-05T00:00-02:00"]
    );
    // Lord Howe leaves out half an hour: 02:00 to 02:30 on 4 October 2026.
    assert_eq!(
        runs("cron(0,15,30 2 * * ? *)", Tz::Australia__Lord_Howe, "2026-10-03T12:00:00Z", 2),
        ["2026-10-04T02:30+11:00", "2026-10-05T02:00+11:00"]
    );
    assert_eq!(runs("at(2026-03-29T02:30:00)", Tz::Europe__Berlin, "2026-01-01T00:00:00Z", 1), Vec::<String>::new());
}

#[test]
fn a_local_time_that_comes_twice_counts_once() {
    assert_eq!(
        runs("cron(30 2 * * ? *)", Tz::Europe__Berlin, "2026-10-24T12:00:00Z", 2),
        ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]
    );
    assert_eq!(
        runs("cron(45 1 * * ? *)", Tz::Australia__Lord_Howe, "2026-04-04T10:00:00Z", 2),
        ["2026-04-05T01:45+11:00", "2026-04-06T01:45+10:30"]
    );
    // Asked in the middle of the repetition, the first pass is over.
    assert_eq!(runs("cron(45 2 * * ? *)", Tz::Europe__Berlin, "2026-10-25T01:15:00Z", 1), ["2026-10-26T02:45+01:00"]);
    assert_eq!(
        runs("at(2026-10-25T02:30:00)", Tz::Europe__Berlin, "2026-01-01T00:00:00Z", 2),
        ["2026-10-25T02:30+02:00"]
    );
}

#[test]
fn a_rate_of_one_day_is_24_hours_also_when_the_clock_changes() {
    assert_eq!(
        runs("rate(1 day)", Tz::Europe__Berlin, "2026-03-28T11:00:00Z", 2),
        ["2026-03-29T13:00+02:00", "2026-03-30T13:00+02:00"]
    );
}

#[test]
fn a_rate_counts_from_its_anchor() {
    let schedule = valid("rate(5 minutes)");
    let anchor = utc("2026-11-20T10:02:30Z");
    let next = |from: &str| schedule.next_after(utc(from), Tz::UTC, anchor);
    assert_eq!(next("2026-11-20T09:00:00Z"), Some(utc("2026-11-20T10:07:30Z")));
    assert_eq!(next("2026-11-20T10:02:30Z"), Some(utc("2026-11-20T10:07:30Z")));
    assert_eq!(next("2026-11-20T10:07:29.5Z"), Some(utc("2026-11-20T10:07:30Z")));
    assert_eq!(next("2026-11-20T10:07:30Z"), Some(utc("2026-11-20T10:12:30Z")));
    let latest = |until: &str| schedule.latest_until(utc(until), Tz::UTC, anchor);
    assert_eq!(latest("2026-11-20T10:07:29.5Z"), None);
    assert_eq!(latest("2026-11-20T10:07:30Z"), Some(utc("2026-11-20T10:07:30Z")));
    assert_eq!(latest("2026-11-20T11:00:00Z"), Some(utc("2026-11-20T10:57:30Z")));
    assert_eq!(latest("2026-11-20T10:02:29.5Z"), None);
}

#[test]
fn the_longest_gap_tells_when_silence_is_lateness() {
    let from = utc("2026-01-01T00:00:00Z");
    let gap = |text: &str, zone: Tz| valid(text).longest_gap(from, zone);
    assert_eq!(gap("rate(90 minutes)", Tz::UTC), Some(TimeDelta::minutes(90)));
    assert_eq!(valid("rate(90 minutes)").interval(), Some(TimeDelta::minutes(90)));
    assert_eq!(gap("cron(0/5 * * * ? *)", Tz::UTC), Some(TimeDelta::minutes(5)));
    assert_eq!(gap("cron(0/5 9-17 * * ? *)", Tz::UTC), Some(TimeDelta::minutes(15 * 60 + 5)));
    assert_eq!(gap("cron(0 9 ? * MON-FRI *)", Tz::UTC), Some(TimeDelta::days(3)));
    // A night with a repeated hour is 25 hours long, and one run is skipped in spring.
    assert_eq!(gap("cron(0 12 * * ? *)", Tz::Europe__Berlin), Some(TimeDelta::hours(25)));
    assert_eq!(gap("cron(30 2 * * ? *)", Tz::Europe__Berlin), Some(TimeDelta::hours(47)));
    assert_eq!(gap("cron(0 0 29 2 ? *)", Tz::UTC), Some(TimeDelta::days(1461)));
    assert_eq!(gap("cron(0 0 1 1 ? 2020)", Tz::UTC), None);
    assert_eq!(gap("at(2026-11-20T13:00:00)", Tz::UTC), None);
}
