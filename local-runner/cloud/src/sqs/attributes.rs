//! Names and attributes of queues: which there are, their defaults, and what SQS refuses.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::Deserialize;
use serde_json::Value;

use super::{Fault, Result, arn, queue_name};

/// Attributes with a number in a range, and their defaults.
const NUMBERS: [(&str, RangeInclusive<u64>, u64); 5] = [
    ("DelaySeconds", 0..=900, 0),
    ("MaximumMessageSize", 1024..=1_048_576, 1_048_576),
    ("MessageRetentionPeriod", 60..=1_209_600, 345_600),
    ("ReceiveMessageWaitTimeSeconds", 0..=20, 0),
    ("VisibilityTimeout", 0..=43_200, 30),
];

/// Attributes that are kept and answered, and change nothing here.
const KEPT: [&str; 5] =
    ["KmsDataKeyReusePeriodSeconds", "KmsMasterKeyId", "Policy", "RedriveAllowPolicy", "SqsManagedSseEnabled"];

/// Attributes that SQS computes.
const COMPUTED: [&str; 6] = [
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesDelayed",
    "ApproximateNumberOfMessagesNotVisible",
    "CreatedTimestamp",
    "LastModifiedTimestamp",
    "QueueArn",
];

const REDRIVE: &str = "RedrivePolicy";
const DEAD_LETTER_QUEUE: &str = "-dead-letter-queue";
const MAX_RECEIVES: &str = "-max-receives";

/// `RedrivePolicy` as the template and clients write it; the count comes as a number or as text.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Redrive {
    dead_letter_target_arn: String,
    max_receive_count: Value,
}

/// What a queue has where nothing else is said.
pub(super) fn defaults() -> Vec<(&'static str, String)> {
    let mut defaults: Vec<_> = NUMBERS.into_iter().map(|(name, _, value)| (name, value.to_string())).collect();
    defaults.push(("SqsManagedSseEnabled", "true".to_owned()));
    defaults
}

/// Refuses names that SQS refuses, and FIFO queues.
pub(super) fn check_name(name: &str) -> Result<()> {
    if name.ends_with(".fifo") {
        return Err(no_fifo(name));
    }
    let letters = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if (1..=80).contains(&name.len()) && name.chars().all(letters) {
        Ok(())
    } else {
        Err(Fault::InvalidParameterValue
            .because("Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length"))
    }
}

fn no_fifo(name: &str) -> super::SqsError {
    Fault::UnsupportedOperation
        .because(format!("Queue {name}: FIFO queues are not supported here yet; declare a standard queue."))
}

/// Refuses what cannot be set at creation; otherwise as [`checked`].
pub(super) fn checked_for_creation(queue: &str, given: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    match given.get("FifoQueue").map(String::as_str) {
        Some("true") => return Err(no_fifo(queue)),
        Some(_) => return Err(unknown("FifoQueue")),
        None => {}
    }
    checked(queue, given)
}

/// The given attributes in the form in which they are stored. An empty value of a policy takes the attribute away.
pub(super) fn checked(queue: &str, given: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    let mut stored = BTreeMap::new();
    for (name, value) in given {
        if let Some((_, range, _)) = NUMBERS.iter().find(|(known, ..)| known == name) {
            match value.trim().parse::<u64>() {
                Ok(number) if range.contains(&number) => {
                    stored.insert(name.clone(), number.to_string());
                }
                _ => {
                    return Err(
                        Fault::InvalidAttributeValue.because(format!("Invalid value for the parameter {name}."))
                    );
                }
            }
        } else if name == REDRIVE {
            stored.extend(redrive(queue, value)?);
        } else if KEPT.contains(&name.as_str()) {
            stored.insert(name.clone(), value.clone());
        } else {
            return Err(refused_name(name));
        }
    }
    Ok(stored)
}

fn refused_name(name: &str) -> super::SqsError {
    match name {
        "FifoQueue" => Fault::InvalidAttributeValue
            .because("Invalid value for the parameter FifoQueue. Reason: Modifying queue type is not supported."),
        "DeduplicationScope" | "FifoThroughputLimit" => Fault::InvalidAttributeName
            .because(format!("You can specify the {name} only when FifoQueue is set to true.")),
        _ => unknown(name),
    }
}

pub(super) fn unknown(name: &str) -> super::SqsError {
    Fault::InvalidAttributeName.because(format!("Unknown Attribute {name}."))
}

fn redrive(queue: &str, value: &str) -> Result<[(String, String); 3]> {
    let names = [REDRIVE, DEAD_LETTER_QUEUE, MAX_RECEIVES].map(str::to_owned);
    if value.is_empty() {
        return Ok(names.map(|name| (name, String::new())));
    }
    let refuse = |reason: &str| {
        Fault::InvalidParameterValue
            .because(format!("Value {value} for parameter RedrivePolicy is invalid. Reason: {reason}"))
    };
    let policy: Redrive = serde_json::from_str(value)
        .map_err(|_| refuse("Redrive policy is not a valid JSON map of deadLetterTargetArn and maxReceiveCount."))?;
    let count = match &policy.max_receive_count {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    let Some(count) = count.filter(|count| (1..=1000).contains(count)) else {
        return Err(refuse("Invalid value for maxReceiveCount: must be between 1 and 1000."));
    };
    let target = queue_name(&policy.dead_letter_target_arn);
    if policy.dead_letter_target_arn != arn(target) {
        return Err(refuse("Dead letter target does not exist."));
    }
    if target == queue {
        return Err(refuse("Dead letter target cannot be the queue itself."));
    }
    check_name(target)?;
    let written =
        serde_json::json!({"deadLetterTargetArn": policy.dead_letter_target_arn, "maxReceiveCount": count}).to_string();
    let values = [written, target.to_owned(), count.to_string()];
    let [a, b, c] = names;
    let [x, y, z] = values;
    Ok([(a, x), (b, y), (c, z)])
}

/// Queue to which the checked attributes send dead letters.
pub(super) fn dead_letter_queue(stored: &BTreeMap<String, String>) -> Option<&str> {
    stored.get(DEAD_LETTER_QUEUE).map(String::as_str).filter(|name| !name.is_empty())
}

/// The name under which clients know a stored attribute.
pub(super) fn public_name(stored: &str) -> &str {
    if stored.starts_with('-') { REDRIVE } else { stored }
}

/// Whether clients may ask for it. Those of FIFO queues are none of a standard queue's.
pub(super) fn is_known(name: &str) -> bool {
    name == REDRIVE
        || COMPUTED.contains(&name)
        || KEPT.contains(&name)
        || NUMBERS.iter().any(|(known, ..)| *known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &str) -> Result<BTreeMap<String, String>> {
        checked("mail", &BTreeMap::from([(name.to_owned(), value.to_owned())]))
    }

    #[test]
    fn numbers_outside_their_range_are_refused() {
        for (name, value) in [
            ("DelaySeconds", "901"),
            ("MaximumMessageSize", "1023"),
            ("MessageRetentionPeriod", "59"),
            ("ReceiveMessageWaitTimeSeconds", "21"),
            ("VisibilityTimeout", "43201"),
            ("VisibilityTimeout", "-1"),
            ("VisibilityTimeout", "soon"),
        ] {
            let error = check(name, value).expect_err(value).to_string();
            assert_eq!(error, format!("Invalid value for the parameter {name}."));
        }
    }

    #[test]
    fn a_receive_count_may_be_text_and_is_answered_as_a_number() {
        let policy = format!(r#"{{"maxReceiveCount":"5","deadLetterTargetArn":"{}"}}"#, arn("dead"));
        let stored = check(REDRIVE, &policy).expect("valid");
        assert_eq!(stored[REDRIVE], format!(r#"{{"deadLetterTargetArn":"{}","maxReceiveCount":5}}"#, arn("dead")));
        assert_eq!(dead_letter_queue(&stored), Some("dead"));
    }

    #[test]
    fn a_queue_cannot_be_its_own_dead_letter_queue() {
        let policy = format!(r#"{{"maxReceiveCount":5,"deadLetterTargetArn":"{}"}}"#, arn("mail"));
        assert!(check(REDRIVE, &policy).is_err());
    }

    #[test]
    fn fifo_attributes_get_the_answers_that_aws_gives_on_standard_queues() {
        let sentence = |name| check(name, "true").expect_err(name).to_string();
        assert_eq!(sentence("ContentBasedDeduplication"), "Unknown Attribute ContentBasedDeduplication.");
        assert_eq!(
            sentence("DeduplicationScope"),
            "You can specify the DeduplicationScope only when FifoQueue is set to true."
        );
        assert_eq!(
            sentence("FifoQueue"),
            "Invalid value for the parameter FifoQueue. Reason: Modifying queue type is not supported."
        );
    }
}
