//! Sending, one message or a batch.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::message::{MessageAttribute, Stored, TRACE_HEADER, md5_of_attributes, too_long};
use super::super::store::NewMessage;
use super::super::{Fault, Result, Sqs, batch as batches};
use super::{queue_of, within};

/// Most bytes of one request, over all its messages.
const MAX_REQUEST: usize = 1_048_576;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct One {
    queue_url: Option<String>,
    #[serde(flatten)]
    message: Message,
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
    #[serde(flatten)]
    message: Message,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Message {
    message_body: Option<String>,
    delay_seconds: Option<i64>,
    message_attributes: Option<BTreeMap<String, MessageAttribute>>,
    message_system_attributes: Option<BTreeMap<String, MessageAttribute>>,
    message_group_id: Option<String>,
    message_deduplication_id: Option<String>,
}

impl Message {
    fn checked(self) -> Result<(Stored, Option<Duration>)> {
        let delay = within("DelaySeconds", self.delay_seconds, 0..=900, "DelaySeconds must be >= 0 and <= 900.")?;
        if let Some(id) = self.message_deduplication_id {
            return Err(Fault::InvalidParameterValue.because(format!(
                "Value {id} for parameter MessageDeduplicationId is invalid. Reason: The request include parameter that is not valid for this queue type."
            )));
        }
        if let Some(group) = &self.message_group_id {
            let punctuation_or_letter = |c: char| c.is_ascii_graphic();
            if !(1..=128).contains(&group.len()) || !group.chars().all(punctuation_or_letter) {
                return Err(Fault::InvalidParameterValue.because(format!(
                    "Value {group} for parameter MessageGroupId is invalid. Reason: MessageGroupId can only include alphanumeric and punctuation characters. 1 to 128 in length."
                )));
            }
        }
        let mut system = self.message_system_attributes.unwrap_or_default();
        let trace = system.remove(TRACE_HEADER);
        if let Some(name) = system.keys().next() {
            return Err(Fault::InvalidParameterValue.because(format!(
                "Message system attribute name '{name}' is invalid: only {TRACE_HEADER} can be sent."
            )));
        }
        let body = self.message_body.unwrap_or_default();
        let stored = Stored::checked(body, self.message_attributes.unwrap_or_default(), trace, self.message_group_id)?;
        Ok((stored, delay.map(|seconds| Duration::from_secs(seconds.into()))))
    }
}

/// What the sender is told, so that it can compare checksums.
fn receipt(id: &str, message: &Stored) -> serde_json::Map<String, Value> {
    let mut answer = serde_json::Map::new();
    answer.insert("MessageId".to_owned(), id.into());
    answer.insert("MD5OfMessageBody".to_owned(), message.md5.as_str().into());
    if let Some(md5) = md5_of_attributes(&message.attributes) {
        answer.insert("MD5OfMessageAttributes".to_owned(), md5.into());
    }
    if let Some(md5) = message.md5_of_system_attributes() {
        answer.insert("MD5OfMessageSystemAttributes".to_owned(), md5.into());
    }
    answer
}

fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

pub(super) async fn one(sqs: &Sqs, request: One) -> Result<Value> {
    let queue = queue_of(request.queue_url)?;
    let (message, delay) = request.message.checked()?;
    let id = new_id();
    let answer = receipt(&id, &message);
    let new = NewMessage { id, size: message.size(), message: &message, delay };
    match sqs.post(&queue, vec![new]).await?.first() {
        Some(Err(limit)) => Err(too_long(*limit)),
        _ => Ok(answer.into()),
    }
}

pub(super) async fn batch(sqs: &Sqs, request: Batch) -> Result<Value> {
    let queue = queue_of(request.queue_url)?;
    let entries = request.entries.unwrap_or_default();
    batches::check("SendMessageBatchRequestEntry", entries.iter().map(|entry| entry.id.as_str()))?;

    let mut answer = batches::Answer::default();
    let mut good = Vec::new();
    for entry in entries {
        match entry.message.checked() {
            Ok((message, delay)) => good.push((entry.id, new_id(), message, delay)),
            Err(error) => answer.failure(&entry.id, error)?,
        }
    }
    let total: usize = good.iter().map(|(_, _, message, _)| message.size()).sum();
    if total > MAX_REQUEST {
        return Err(Fault::BatchRequestTooLong.because(format!(
            "Batch requests cannot be longer than {MAX_REQUEST} bytes. You have sent {total} bytes."
        )));
    }
    let new = good
        .iter()
        .map(|(_, id, message, delay)| NewMessage { id: id.clone(), size: message.size(), message, delay: *delay })
        .collect();
    for ((entry, id, message, _), stored) in good.iter().zip(sqs.post(&queue, new).await?) {
        match stored {
            Ok(()) => {
                let mut success = receipt(id, message);
                success.insert("Id".to_owned(), entry.as_str().into());
                answer.success(json!(success));
            }
            Err(limit) => answer.failure(
                entry,
                Fault::InvalidParameterValue.because(format!(
                    "One or more parameters cannot be validated. Reason: Message must be shorter than {limit} bytes."
                )),
            )?,
        }
    }
    Ok(answer.into_json())
}
