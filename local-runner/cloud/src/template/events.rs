//! What invokes a function: queues, schedules and routes.

use std::time::Duration;

use chrono_tz::Tz;
use schedule_expression::{Dialect, ScheduleExpression};

use super::functions::PlacedFunction;
use super::node::{Node, Place};
use super::queues::{PlacedQueue, automatic};
use super::reader::Reader;
use crate::bundle::{EventSource, Route, Schedule, ScheduleKind};
use crate::scheduler::payload;

/// Records of one SQS batch when the mapping does not say.
const DEFAULT_BATCH_SIZE: u32 = 10;
/// Both schedule services keep trying for a day unless told otherwise.
const DEFAULT_EVENT_AGE_SECONDS: u32 = 86_400;
/// Both schedule services try so often again unless told otherwise.
const DEFAULT_SCHEDULE_RETRIES: u32 = 185;
/// Largest `Input` of a schedule.
const INPUT_LIMIT_BYTES: usize = 256 * 1_024;

/// Reads one event of `owner` into it.
pub(super) fn read(
    reader: &mut Reader<'_>,
    owner: &mut PlacedFunction,
    event_id: &str,
    event: &Node,
    queues: &mut Vec<PlacedQueue>,
) {
    let id = format!("{}{event_id}", owner.function.logical_id);
    let Some((kind, place)) = reader.required(event, "Type", &format!("event {event_id}")) else {
        return;
    };
    let empty = Node { place: event.place, data: super::node::Data::Map(Vec::new()) };
    let properties = reader.map(event, "Properties").unwrap_or(empty);
    match kind.as_str() {
        "SQS" => {
            if let Some(source) = queue_source(reader, id, &properties) {
                owner.function.event_sources.push(source);
                owner.source_places.push(event.place);
            }
        }
        "Schedule" | "ScheduleV2" => {
            let kind = if kind == "Schedule" { ScheduleKind::Rule } else { ScheduleKind::Scheduler };
            if let Some(schedule) = schedule(reader, id, kind, &properties, queues) {
                owner.function.schedules.push(schedule);
                owner.schedule_places.push(event.place);
            }
        }
        "HttpApi" => {
            if let Some(route) = route(reader, &properties) {
                owner.function.routes.push(route);
                owner.route_places.push(event.place);
            }
        }
        other => reader.findings.add(
            place,
            format!(
                "events of type {other} are not served by the local runner; known: SQS, Schedule, ScheduleV2, HttpApi"
            ),
        ),
    }
}

fn queue_source(reader: &mut Reader<'_>, id: String, properties: &Node) -> Option<EventSource> {
    let (queue_arn, _) = reader.required(properties, "Queue", &id)?;
    reader.unsupported(properties, &["FilterCriteria", "ProvisionedPollerConfig"], &id);
    let mut reports_item_failures = false;
    for kind in reader.texts(properties, "FunctionResponseTypes") {
        if kind == "ReportBatchItemFailures" {
            reports_item_failures = true;
        } else {
            let message = format!("FunctionResponseTypes takes only ReportBatchItemFailures, not {kind:?}");
            reader.findings.add(properties.place, message);
        }
    }
    let scaling = reader.map(properties, "ScalingConfig");
    let window = reader.integer(properties, "MaximumBatchingWindowInSeconds", 0..=300).unwrap_or(0);
    Some(EventSource {
        queue_arn,
        batch_size: reader.integer(properties, "BatchSize", 1..=10_000).unwrap_or(DEFAULT_BATCH_SIZE),
        batching_window: Duration::from_secs(u64::from(window)),
        max_concurrency: scaling.and_then(|scaling| reader.integer(&scaling, "MaximumConcurrency", 2..=1_000)),
        reports_item_failures,
        enabled: reader.boolean(properties, "Enabled").unwrap_or(true),
        id,
    })
}

fn schedule(
    reader: &mut Reader<'_>,
    id: String,
    kind: ScheduleKind,
    properties: &Node,
    queues: &mut Vec<PlacedQueue>,
) -> Option<Schedule> {
    let (key, dialect) = match kind {
        ScheduleKind::Scheduler => ("ScheduleExpression", Dialect::Scheduler),
        ScheduleKind::Rule => ("Schedule", Dialect::Rule),
    };
    let expression = reader.required(properties, key, &id);
    if let Some((text, place)) = &expression
        && let Err(error) = ScheduleExpression::parse(text, dialect)
    {
        reader.findings.add(*place, error.to_string());
    }
    let (time_zone, enabled) = match kind {
        ScheduleKind::Scheduler => {
            reader.unsupported(properties, &["StartDate", "EndDate"], &id);
            (time_zone(reader, properties), reader.enabled_state(properties))
        }
        ScheduleKind::Rule => {
            if properties.get("State").is_some() && properties.get("Enabled").is_some() {
                reader.findings.add(properties.place, "State and Enabled Properties cannot both be specified.");
            }
            let enabled = reader.boolean(properties, "Enabled");
            (Tz::UTC.name().to_owned(), enabled.or_else(|| reader.enabled_state(properties)))
        }
    };
    let input = reader.placed_text(properties, "Input");
    if let Some((text, place)) = &input {
        check_input(reader, text, *place);
    }
    let retry = reader.map(properties, "RetryPolicy");
    let (age, retries) = match &retry {
        Some(policy) => (
            reader.integer(policy, "MaximumEventAgeInSeconds", 60..=86_400),
            reader.integer(policy, "MaximumRetryAttempts", 0..=185),
        ),
        None => (None, None),
    };
    let dead_letter = dead_letter(reader, &id, properties, queues);
    Some(Schedule {
        expression: expression?.0,
        time_zone,
        kind,
        input: input.map(|(text, _)| text),
        max_event_age: Duration::from_secs(u64::from(age.unwrap_or(DEFAULT_EVENT_AGE_SECONDS))),
        max_retries: retries.unwrap_or(DEFAULT_SCHEDULE_RETRIES),
        dead_letter,
        enabled: enabled.unwrap_or(true),
        id,
    })
}

fn time_zone(reader: &mut Reader<'_>, properties: &Node) -> String {
    let Some((name, place)) = reader.placed_text(properties, "ScheduleExpressionTimezone") else {
        return Tz::UTC.name().to_owned();
    };
    if name.parse::<Tz>().is_err() {
        let example = "for example Europe/Berlin";
        reader.findings.add(place, format!("ScheduleExpressionTimezone {name:?} is no IANA time zone, {example}"));
    }
    name
}

fn check_input(reader: &mut Reader<'_>, text: &str, place: Place) {
    if text.len() > INPUT_LIMIT_BYTES {
        reader.findings.add(place, format!("Input must not be longer than 256 KB, it has {} bytes", text.len()));
    }
    if let Err(error) = serde_json::from_str::<serde_json::Value>(&payload::with_sample_keywords(text)) {
        reader.findings.add(place, format!("Input must be JSON, a function takes nothing else: {error}"));
    }
}

fn dead_letter(reader: &mut Reader<'_>, id: &str, properties: &Node, queues: &mut Vec<PlacedQueue>) -> Option<String> {
    let config = reader.map(properties, "DeadLetterConfig")?;
    let arn = reader.text(&config, "Arn");
    match (arn, reader.placed_text(&config, "Type")) {
        (Some(_), Some((_, place))) => {
            reader.findings.add(place, "You can either define 'Arn' or 'Type' property of DeadLetterConfig.");
            None
        }
        (Some(arn), None) => Some(arn),
        (None, Some((kind, _))) if kind == "SQS" => {
            let named = reader.text(&config, "QueueLogicalId");
            let queue = automatic(named.unwrap_or_else(|| format!("{id}Queue")), config.place);
            let arn = queue.queue.arn();
            queues.push(queue);
            Some(arn)
        }
        (None, Some((_, place))) => {
            reader.findings.add(place, "The only valid value for 'Type' property of DeadLetterConfig is 'SQS'.");
            None
        }
        (None, None) => {
            reader.findings.add(config.place, "No 'Arn' or 'Type' property provided for DeadLetterConfig.");
            None
        }
    }
}

fn route(reader: &mut Reader<'_>, properties: &Node) -> Option<Route> {
    let path = reader.placed_text(properties, "Path");
    let method = reader.placed_text(properties, "Method");
    match (path, method) {
        (None, None) => Some(Route { method: "ANY".to_owned(), path: "$default".to_owned() }),
        (Some((path, place)), Some((method, method_place))) => {
            if path != "$default" && !path.starts_with('/') {
                reader.findings.add(place, format!("Path must begin with /, not {path:?}"));
            }
            let method = method.to_ascii_uppercase();
            // SAM's own word for every method.
            let method = if method == "X-AMAZON-APIGATEWAY-ANY-METHOD" { "ANY".to_owned() } else { method };
            let known = ["ANY", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
            if !known.contains(&method.as_str()) {
                reader
                    .findings
                    .add(method_place, format!("Method must be one of {}, not {method:?}", known.join(", ")));
            }
            Some(Route { method, path })
        }
        (Some((_, place)), None) | (None, Some((_, place))) => {
            reader.findings.add(place, "a route needs both Path and Method, or neither to be the default route");
            None
        }
    }
}
