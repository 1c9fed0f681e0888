//! An SQS message as a Lambda function sees it.

use serde_json::{Map, Value, json};

use crate::bundle::REGION;
use crate::sqs::{Received, md5_of_attributes};

/// The record's JSON.
pub(super) fn json(received: &Received, queue_arn: &str) -> String {
    let message = &received.message;
    let attributes: Map<String, Value> = message
        .attributes
        .iter()
        .map(|(name, attribute)| {
            let mut value = Map::new();
            if let Some(text) = &attribute.string_value {
                value.insert("stringValue".to_owned(), text.as_str().into());
            }
            if let Some(base64) = &attribute.binary_value {
                value.insert("binaryValue".to_owned(), base64.as_str().into());
            }
            value.insert("stringListValues".to_owned(), json!([]));
            value.insert("binaryListValues".to_owned(), json!([]));
            value.insert("dataType".to_owned(), attribute.data_type.as_str().into());
            (name.clone(), value.into())
        })
        .collect();
    json!({
        "messageId": received.id,
        "receiptHandle": received.handle,
        "body": message.body,
        "attributes": received.system_attributes(),
        "messageAttributes": attributes,
        "md5OfMessageAttributes": md5_of_attributes(&message.attributes),
        "md5OfBody": message.md5,
        "eventSource": "aws:sqs",
        "eventSourceARN": queue_arn,
        "awsRegion": REGION,
    })
    .to_string()
}
