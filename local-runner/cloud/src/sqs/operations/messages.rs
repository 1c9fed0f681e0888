//! What receivers do: receive, delete, change the visibility.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::super::message::{is_asked_for, md5_of_attributes};
use super::super::store::{Changed, Received};
use super::super::{Fault, Receipt, Result, Sqs, SqsError, attributes, batch};
use super::{queue_of, required, within};

/// System attributes that a receiver may ask for; the last two belong to FIFO queues and are never there.
const SYSTEM_ATTRIBUTES: [&str; 9] = [
    "SenderId",
    "SentTimestamp",
    "ApproximateReceiveCount",
    "ApproximateFirstReceiveTimestamp",
    "AWSTraceHeader",
    "DeadLetterQueueSourceArn",
    "MessageGroupId",
    "MessageDeduplicationId",
    "SequenceNumber",
];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Receive {
    queue_url: Option<String>,
    attribute_names: Option<Vec<String>>,
    message_system_attribute_names: Option<Vec<String>>,
    message_attribute_names: Option<Vec<String>>,
    max_number_of_messages: Option<i64>,
    visibility_timeout: Option<i64>,
    wait_time_seconds: Option<i64>,
}

pub(super) async fn receive(sqs: &Sqs, request: Receive) -> Result<Value> {
    let queue = queue_of(request.queue_url)?;
    let most = within(
        "MaxNumberOfMessages",
        request.max_number_of_messages,
        1..=10,
        "Must be between 1 and 10, if provided.",
    )?;
    let wait = within("WaitTimeSeconds", request.wait_time_seconds, 0..=20, "Must be >= 0 and <= 20, if provided.")?;
    let visibility = checked_visibility(request.visibility_timeout)?;
    let mut system = request.attribute_names.unwrap_or_default();
    system.extend(request.message_system_attribute_names.unwrap_or_default());
    if let Some(name) = system.iter().find(|name| *name != "All" && !SYSTEM_ATTRIBUTES.contains(&name.as_str())) {
        return Err(attributes::unknown(name));
    }
    let asked = request.message_attribute_names.unwrap_or_default();

    let wait = wait.map(|seconds| Duration::from_secs(seconds.into()));
    let most = most.unwrap_or(1) as usize;
    // A client that hangs up ends the waiting: its request is dropped.
    let received = sqs.receive(&queue, most, visibility, wait, &CancellationToken::new()).await?;
    let messages: Vec<Value> = received.messages.into_iter().map(|message| shown(message, &system, &asked)).collect();
    Ok(if messages.is_empty() { json!({}) } else { json!({"Messages": messages}) })
}

fn checked_visibility(value: Option<i64>) -> Result<Option<u32>> {
    within("VisibilityTimeout", value, 0..=43_200, "Must be >= 0 and <= 43200, if provided.")
}

/// The message with those attributes that were asked for.
fn shown(received: Received, system: &[String], asked: &[String]) -> Value {
    let mut chosen = received.system_attributes();
    chosen.retain(|name, _| system.iter().any(|wanted| wanted == "All" || wanted == name));
    let mut own = received.message.attributes;
    own.retain(|name, _| is_asked_for(name, asked));

    let mut shown = serde_json::Map::new();
    shown.insert("MessageId".to_owned(), received.id.into());
    shown.insert("ReceiptHandle".to_owned(), received.handle.into());
    shown.insert("MD5OfBody".to_owned(), received.message.md5.into());
    shown.insert("Body".to_owned(), received.message.body.into());
    if !chosen.is_empty() {
        shown.insert("Attributes".to_owned(), json!(chosen));
    }
    if let Some(md5) = md5_of_attributes(&own) {
        shown.insert("MD5OfMessageAttributes".to_owned(), md5.into());
        shown.insert("MessageAttributes".to_owned(), json!(own));
    }
    shown.into()
}

impl Received {
    /// All system attributes; their values are always text.
    pub(crate) fn system_attributes(&self) -> BTreeMap<&'static str, String> {
        let mut attributes = BTreeMap::from([
            ("SenderId", SENDER_ID.to_owned()),
            ("SentTimestamp", self.sent_ms.to_string()),
            ("ApproximateReceiveCount", self.receive_count.to_string()),
            ("ApproximateFirstReceiveTimestamp", self.first_received_ms.to_string()),
        ]);
        for (name, value) in [
            ("AWSTraceHeader", &self.message.trace),
            ("DeadLetterQueueSourceArn", &self.origin),
            ("MessageGroupId", &self.message.group),
        ] {
            if let Some(value) = value {
                attributes.insert(name, value.clone());
            }
        }
        attributes
    }
}

/// Every sender here, in the form of a user's id.
const SENDER_ID: &str = "AIDALOCALCLOUD0000000";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Delete {
    queue_url: Option<String>,
    receipt_handle: Option<String>,
}

pub(super) async fn delete(sqs: &Sqs, request: Delete) -> Result<Value> {
    let queue = queue_of(request.queue_url)?;
    let handle = required("ReceiptHandle", request.receipt_handle)?;
    // An unknown queue is reported before a bad handle.
    let receipt = match Receipt::read(&queue, &handle) {
        Ok(receipt) => receipt,
        Err(error) => {
            sqs.inner.store.describe(&queue).await?;
            return Err(error);
        }
    };
    sqs.inner.store.delete_messages(&queue, &[&receipt.message_id]).await?;
    Ok(json!({}))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Batch {
    queue_url: Option<String>,
    entries: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(default)]
    id: String,
    receipt_handle: Option<String>,
    visibility_timeout: Option<i64>,
}

pub(super) async fn delete_batch(sqs: &Sqs, request: Batch) -> Result<Value> {
    let queue = queue_of(request.queue_url)?;
    let entries = request.entries.unwrap_or_default();
    batch::check("DeleteMessageBatchRequestEntry", entries.iter().map(|entry| entry.id.as_str()))?;
    let mut answer = batch::Answer::default();
    let mut messages = Vec::new();
    for entry in entries {
        let receipt = required("ReceiptHandle", entry.receipt_handle).and_then(|handle| Receipt::read(&queue, &handle));
        match receipt {
            Ok(receipt) => {
                messages.push(receipt.message_id);
                answer.success(json!({"Id": entry.id}));
            }
            Err(error) => answer.failure(&entry.id, error)?,
        }
    }
    let messages: Vec<&str> = messages.iter().map(String::as_str).collect();
    sqs.inner.store.delete_messages(&queue, &messages).await?;
    Ok(answer.into_json())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ChangeVisibility {
    queue_url: Option<String>,
    receipt_handle: Option<String>,
    visibility_timeout: Option<i64>,
}

pub(super) async fn change_visibility(sqs: &Sqs, request: ChangeVisibility) -> Result<Value> {
    let queue = queue_of(request.queue_url)?;
    let handle = required("ReceiptHandle", request.receipt_handle)?;
    let seconds = required_visibility(request.visibility_timeout)?;
    let receipt = match Receipt::read(&queue, &handle) {
        Ok(receipt) => receipt,
        Err(error) => {
            sqs.inner.store.describe(&queue).await?;
            return Err(error);
        }
    };
    let changed = sqs.inner.store.change_visibility(&queue, &[(&receipt.message_id, seconds)]).await?;
    if seconds == 0 {
        sqs.ring(&queue);
    }
    changed.first().map_or(Ok(()), |changed| outcome(*changed, &handle))?;
    Ok(json!({}))
}

fn required_visibility(value: Option<i64>) -> Result<u32> {
    checked_visibility(value)?
        .ok_or_else(|| Fault::MissingParameter.because("The request must contain the parameter VisibilityTimeout."))
}

fn outcome(changed: Changed, handle: &str) -> Result<(), SqsError> {
    match changed {
        Changed::Done => Ok(()),
        Changed::NotInFlight => Err(Fault::InvalidParameterValue.because(format!(
            "Value {handle} for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not available for visibility timeout change."
        ))),
        Changed::TooLong => Err(Fault::InvalidParameterValue
            .because("Total VisibilityTimeout for the message is beyond the limit [43200 seconds]")),
    }
}

pub(super) async fn change_visibility_batch(sqs: &Sqs, request: Batch) -> Result<Value> {
    let queue = queue_of(request.queue_url)?;
    let entries = request.entries.unwrap_or_default();
    batch::check("ChangeMessageVisibilityBatchRequestEntry", entries.iter().map(|entry| entry.id.as_str()))?;
    let mut answer = batch::Answer::default();
    let mut good = Vec::new();
    for entry in entries {
        let checked = required("ReceiptHandle", entry.receipt_handle).and_then(|handle| {
            let receipt = Receipt::read(&queue, &handle)?;
            Ok((handle, receipt.message_id, required_visibility(entry.visibility_timeout)?))
        });
        match checked {
            Ok((handle, message, seconds)) => good.push((entry.id, handle, message, seconds)),
            Err(error) => answer.failure(&entry.id, error)?,
        }
    }
    let timeouts: Vec<(&str, u32)> = good.iter().map(|(_, _, message, seconds)| (message.as_str(), *seconds)).collect();
    let changed = sqs.inner.store.change_visibility(&queue, &timeouts).await?;
    sqs.ring(&queue);
    for ((id, handle, ..), changed) in good.iter().zip(changed) {
        match outcome(changed, handle) {
            Ok(()) => answer.success(json!({"Id": id})),
            Err(error) => answer.failure(id, error)?,
        }
    }
    Ok(answer.into_json())
}
