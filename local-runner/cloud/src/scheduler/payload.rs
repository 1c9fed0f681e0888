//! What a function receives when a schedule fires, byte for byte as the two services send it.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;

use crate::bundle::{ACCOUNT, REGION, Schedule, ScheduleKind};

/// One delivery of one tick.
#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    /// When the schedule was due.
    pub due: DateTime<Utc>,
    /// The same for every attempt at this tick.
    pub execution_id: String,
    /// 1 for the first attempt.
    pub attempt: u32,
}

/// ARN of the schedule or rule.
pub fn arn(schedule: &Schedule) -> String {
    match schedule.kind {
        ScheduleKind::Scheduler => format!("arn:aws:scheduler:{REGION}:{ACCOUNT}:schedule/default/{}", schedule.id),
        ScheduleKind::Rule => format!("arn:aws:events:{REGION}:{ACCOUNT}:rule/{}", schedule.id),
    }
}

/// The payload for `tick`: the schedule's `Input`, in which only the scheduler replaces keywords, or the service's own
/// envelope when there is none.
pub fn payload(schedule: &Schedule, tick: &Tick) -> String {
    match (schedule.kind, &schedule.input) {
        (ScheduleKind::Rule, Some(input)) => input.clone(),
        (ScheduleKind::Scheduler, Some(input)) => {
            replace_keywords(input, &arn(schedule), &instant(tick.due), &tick.execution_id, &tick.attempt.to_string())
        }
        // The detail of a rule is an object, that of a schedule the text of one.
        (ScheduleKind::Rule, None) => envelope(schedule, tick, "aws.events", json!({})),
        (ScheduleKind::Scheduler, None) => envelope(schedule, tick, "aws.scheduler", json!("{}")),
    }
}

/// An `Input` with its keywords replaced by harmless values, so that its JSON can be checked before anything is due.
pub(crate) fn with_sample_keywords(input: &str) -> String {
    replace_keywords(input, "arn", "2026-01-01T00:00:00Z", "id", "1")
}

fn replace_keywords(input: &str, arn: &str, time: &str, execution_id: &str, attempt: &str) -> String {
    input
        .replace("<aws.scheduler.schedule-arn>", arn)
        .replace("<aws.scheduler.scheduled-time>", time)
        .replace("<aws.scheduler.execution-id>", execution_id)
        .replace("<aws.scheduler.attempt-number>", attempt)
}

fn envelope(schedule: &Schedule, tick: &Tick, source: &str, detail: serde_json::Value) -> String {
    json!({
        "version": "0",
        "id": tick.execution_id,
        "detail-type": "Scheduled Event",
        "source": source,
        "account": ACCOUNT,
        "time": instant(tick.due),
        "region": REGION,
        "resources": [arn(schedule)],
        "detail": detail,
    })
    .to_string()
}

fn instant(due: DateTime<Utc>) -> String {
    due.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn schedule(kind: ScheduleKind, input: Option<&str>) -> Schedule {
        Schedule {
            id: "CleanNightly".to_owned(),
            expression: "rate(1 minute)".to_owned(),
            time_zone: "UTC".to_owned(),
            kind,
            input: input.map(str::to_owned),
            max_event_age: Duration::from_secs(60),
            max_retries: 0,
            dead_letter: None,
            enabled: true,
        }
    }

    fn tick() -> Tick {
        let due = "2026-11-21T02:00:00.5Z".parse().expect("the test writes RFC 3339");
        Tick { due, execution_id: "e-1".to_owned(), attempt: 2 }
    }

    #[test]
    fn the_scheduler_replaces_its_keywords() {
        let input = r#"{"at":"<aws.scheduler.scheduled-time>","by":"<aws.scheduler.schedule-arn>","run":"<aws.scheduler.execution-id>","try":<aws.scheduler.attempt-number>,"x":"<aws.scheduler.unknown>"}"#;
        assert_eq!(
            payload(&schedule(ScheduleKind::Scheduler, Some(input)), &tick()),
            r#"{"at":"2026-11-21T02:00:00Z","by":"arn:aws:scheduler:us-east-1:000000000000:schedule/default/CleanNightly","run":"e-1","try":2,"x":"<aws.scheduler.unknown>"}"#
        );
    }

    #[test]
    fn a_rule_hands_its_input_on_as_it_stands() {
        let input = r#"{"at":"<aws.scheduler.scheduled-time>"}"#;
        assert_eq!(payload(&schedule(ScheduleKind::Rule, Some(input)), &tick()), input);
    }

    #[test]
    fn without_input_the_services_send_their_own_envelopes() {
        let event: serde_json::Value =
            serde_json::from_str(&payload(&schedule(ScheduleKind::Rule, None), &tick())).expect("the envelope is JSON");
        assert_eq!(
            event,
            json!({
                "version": "0", "id": "e-1", "detail-type": "Scheduled Event", "source": "aws.events",
                "account": "000000000000", "time": "2026-11-21T02:00:00Z", "region": "us-east-1",
                "resources": ["arn:aws:events:us-east-1:000000000000:rule/CleanNightly"], "detail": {},
            })
        );
        let event: serde_json::Value =
            serde_json::from_str(&payload(&schedule(ScheduleKind::Scheduler, None), &tick()))
                .expect("the envelope is JSON");
        assert_eq!((&event["source"], &event["detail"]), (&json!("aws.scheduler"), &json!("{}")));
    }
}
