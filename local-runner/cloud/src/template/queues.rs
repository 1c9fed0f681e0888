//! `AWS::SQS::Queue`: names, attributes and the rules between queues.

use std::collections::BTreeMap;

use serde_json::json;

use super::node::{Node, Place};
use super::reader::Reader;
use crate::bundle::Queue;

/// A queue and where it is declared.
pub(super) struct PlacedQueue {
    pub(super) queue: Queue,
    pub(super) place: Place,
}

/// Numeric attributes with their smallest and largest values.
const NUMBERS: [(&str, u32, u32); 6] = [
    ("DelaySeconds", 0, 900),
    ("MaximumMessageSize", 1_024, 1_048_576),
    ("MessageRetentionPeriod", 60, 1_209_600),
    ("ReceiveMessageWaitTimeSeconds", 0, 20),
    ("VisibilityTimeout", 0, 43_200),
    ("KmsDataKeyReusePeriodSeconds", 60, 86_400),
];
const BOOLEANS: [&str; 3] = ["ContentBasedDeduplication", "FifoQueue", "SqsManagedSseEnabled"];
const WORDS: [(&str, [&str; 2]); 2] =
    [("DeduplicationScope", ["queue", "messageGroup"]), ("FifoThroughputLimit", ["perQueue", "perMessageGroupId"])];
/// Read elsewhere, or without meaning on one machine.
const OTHERS: [&str; 5] = ["QueueName", "RedrivePolicy", "RedriveAllowPolicy", "KmsMasterKeyId", "Tags"];

/// Seconds of `VisibilityTimeout` when a queue does not say.
pub(super) const DEFAULT_VISIBILITY_SECONDS: u32 = 30;

/// The queue's name: `QueueName`, or the logical id (with `.fifo` where that is needed). It is wanted before anything
/// else is read, because other resources refer to it.
pub(super) fn name(reader: &mut Reader<'_>, logical_id: &str, properties: Option<&Node>) -> String {
    let Some(properties) = properties else {
        return logical_id.to_owned();
    };
    let fifo = reader.boolean(properties, "FifoQueue").unwrap_or(false);
    let Some((name, place)) = reader.placed_text(properties, "QueueName") else {
        return if fifo { format!("{logical_id}.fifo") } else { logical_id.to_owned() };
    };
    let base = name.strip_suffix(".fifo");
    if fifo != base.is_some() {
        let message = "The name of a FIFO queue can only include alphanumeric characters, hyphens, or underscores, must end \
                       with .fifo suffix and be 1 to 80 in length.";
        reader.findings.add(place, format!("{message} Other names must not end so ({name:?}, FifoQueue: {fifo})."));
    }
    let plain = base.unwrap_or(&name);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if plain.is_empty() || name.len() > 80 || !plain.bytes().all(allowed) {
        let message = "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length";
        reader.findings.add(place, format!("QueueName {name:?}: {message}"));
    }
    name
}

/// Reads a queue's attributes into SQS's own text form.
pub(super) fn read(reader: &mut Reader<'_>, logical_id: &str, name: String, resource: &Node) -> PlacedQueue {
    let mut attributes = BTreeMap::new();
    let queue = |attributes| PlacedQueue {
        queue: Queue { logical_id: logical_id.to_owned(), name, attributes },
        place: resource.place,
    };
    let Some(properties) = reader.map(resource, "Properties") else {
        return queue(attributes);
    };
    let known = |key: &str| {
        NUMBERS.iter().any(|(name, ..)| *name == key)
            || BOOLEANS.contains(&key)
            || WORDS.iter().any(|(name, _)| *name == key)
            || OTHERS.contains(&key)
    };
    for (key, value) in properties.entries().iter().filter(|(key, _)| !known(key)) {
        reader.findings.add(value.place, format!("{key} is no property of a queue"));
    }
    for (key, least, most) in NUMBERS {
        if let Some(value) = reader.integer(&properties, key, least..=most) {
            attributes.insert(key.to_owned(), value.to_string());
        }
    }
    for key in BOOLEANS {
        if let Some(value) = reader.boolean(&properties, key) {
            // SQS refuses `FifoQueue=false`; a standard queue does not have the attribute.
            if value || key == "SqsManagedSseEnabled" {
                attributes.insert(key.to_owned(), value.to_string());
            }
        }
    }
    let fifo = attributes.contains_key("FifoQueue");
    for (key, words) in WORDS {
        if let Some((value, place)) = reader.placed_text(&properties, key) {
            if !words.contains(&value.as_str()) {
                reader.findings.add(place, format!("{key} must be one of {}, not {value:?}", words.join(", ")));
            }
            attributes.insert(key.to_owned(), value);
        }
    }
    for key in ["ContentBasedDeduplication", "DeduplicationScope", "FifoThroughputLimit"] {
        if attributes.contains_key(key) && !fifo {
            reader.findings.add(resource.place, format!("{key} needs FifoQueue: true"));
        }
    }
    if let Some(policy) = reader.map(&properties, "RedrivePolicy") {
        let target = reader.required(&policy, "deadLetterTargetArn", "RedrivePolicy");
        let count = reader.integer(&policy, "maxReceiveCount", 1..=1_000);
        if policy.get("maxReceiveCount").is_none() {
            reader.findings.add(policy.place, "RedrivePolicy needs maxReceiveCount");
        }
        if let (Some((target, _)), Some(count)) = (target, count) {
            let policy = json!({"deadLetterTargetArn": target, "maxReceiveCount": count});
            attributes.insert("RedrivePolicy".to_owned(), policy.to_string());
        }
    }
    if let Some(policy) = reader.map(&properties, "RedriveAllowPolicy") {
        let mut allow = serde_json::Map::new();
        if let Some(permission) = reader.text(&policy, "redrivePermission") {
            allow.insert("redrivePermission".to_owned(), permission.into());
        }
        if policy.get("sourceQueueArns").is_some() {
            allow.insert("sourceQueueArns".to_owned(), reader.texts(&policy, "sourceQueueArns").into());
        }
        attributes.insert("RedriveAllowPolicy".to_owned(), serde_json::Value::Object(allow).to_string());
    }
    queue(attributes)
}

/// A queue that SAM makes because a destination names none.
pub(super) fn automatic(logical_id: String, place: Place) -> PlacedQueue {
    PlacedQueue { queue: Queue { name: logical_id.clone(), logical_id, attributes: BTreeMap::new() }, place }
}

impl PlacedQueue {
    pub(super) fn is_fifo(&self) -> bool {
        self.queue.attributes.contains_key("FifoQueue")
    }

    pub(super) fn visibility_seconds(&self) -> u32 {
        let stated = self.queue.attributes.get("VisibilityTimeout").and_then(|text| text.parse().ok());
        stated.unwrap_or(DEFAULT_VISIBILITY_SECONDS)
    }

    /// ARN of the queue's own dead letter queue.
    pub(super) fn dead_letter_arn(&self) -> Option<String> {
        let policy: serde_json::Value = serde_json::from_str(self.queue.attributes.get("RedrivePolicy")?).ok()?;
        policy["deadLetterTargetArn"].as_str().map(str::to_owned)
    }
}
