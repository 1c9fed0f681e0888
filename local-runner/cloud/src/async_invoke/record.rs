//! The record that an `OnFailure` destination gets.

use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};

use super::store::Entry;

/// Why an invocation was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// The function failed as often as it may.
    RetriesExhausted,
    /// It was throttled for too long.
    EventAgeExceeded,
}

impl Condition {
    fn name(self) -> &'static str {
        match self {
            Self::RetriesExhausted => "RetriesExhausted",
            Self::EventAgeExceeded => "EventAgeExceeded",
        }
    }
}

/// The record, version 1.0, with the function's last answer if there was one.
pub(super) fn body(entry: &Entry, function_arn: &str, condition: Condition, answer: Option<&[u8]>) -> String {
    let mut record = json!({
        "version": "1.0",
        "timestamp": Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true),
        "requestContext": {
            "requestId": entry.request_id.to_string(),
            "functionArn": format!("{function_arn}:$LATEST"),
            "condition": condition.name(),
            "approximateInvokeCount": entry.failures,
        },
        "requestPayload": json_or_text(&entry.payload),
    });
    if let Some(answer) = answer {
        record["responseContext"] =
            json!({"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"});
        record["responsePayload"] = json_or_text(answer);
    }
    record.to_string()
}

fn json_or_text(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(bytes).into_owned()))
}
