//! The operations of the JSON protocol: parameters in, AWS's answers out.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::respond;
use super::{Fault, Result, Sqs, SqsError};
use crate::bundle;

mod messages;
mod queues;
mod send;

/// Runs the operation `target` and answers it, errors included.
pub(super) async fn handle(sqs: &Sqs, target: &str, body: &[u8]) -> Response<Full<Bytes>> {
    match dispatch(sqs, target, body).await {
        Ok(answer) => respond(StatusCode::OK, None, &answer),
        Err(error) => {
            match &error {
                SqsError::Unavailable { .. } => {
                    tracing::warn!("could not answer SQS {target}: {error}")
                }
                SqsError::NoSuchQueue(_) | SqsError::Refused { .. } => {
                    tracing::debug!("refused SQS {target}: {error}")
                }
            }
            error.response()
        }
    }
}

async fn dispatch(sqs: &Sqs, target: &str, body: &[u8]) -> Result<Value> {
    match target {
        "ChangeMessageVisibility" => messages::change_visibility(sqs, parse(body)?).await,
        "ChangeMessageVisibilityBatch" => messages::change_visibility_batch(sqs, parse(body)?).await,
        "CreateQueue" => queues::create(sqs, parse(body)?).await,
        "DeleteMessage" => messages::delete(sqs, parse(body)?).await,
        "DeleteMessageBatch" => messages::delete_batch(sqs, parse(body)?).await,
        "DeleteQueue" => queues::delete(sqs, parse(body)?).await,
        "GetQueueAttributes" => queues::get_attributes(sqs, parse(body)?).await,
        "GetQueueUrl" => queues::get_url(sqs, parse(body)?).await,
        "ListQueues" => queues::list(sqs, parse(body)?).await,
        "PurgeQueue" => queues::purge(sqs, parse(body)?).await,
        "ReceiveMessage" => messages::receive(sqs, parse(body)?).await,
        "SendMessage" => send::one(sqs, parse(body)?).await,
        "SendMessageBatch" => send::batch(sqs, parse(body)?).await,
        "SetQueueAttributes" => queues::set_attributes(sqs, parse(body)?).await,
        "AddPermission"
        | "CancelMessageMoveTask"
        | "ListDeadLetterSourceQueues"
        | "ListMessageMoveTasks"
        | "ListQueueTags"
        | "RemovePermission"
        | "StartMessageMoveTask"
        | "TagQueue"
        | "UntagQueue" => {
            Err(Fault::UnsupportedOperation.because(format!("The local cloud does not offer {target} of SQS.")))
        }
        _ => Err(Fault::UnknownOperation.because(format!("SQS has no operation {target}."))),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    serde_json::from_slice(body)
        .map_err(|error| Fault::Serialization.because(format!("The request body cannot be read: {error}.")))
}

fn required(name: &str, value: Option<String>) -> Result<String> {
    value
        .filter(|value| !value.is_empty())
        .ok_or_else(|| Fault::MissingParameter.because(format!("The request must contain the parameter {name}.")))
}

/// Name in a queue URL: the last part of its path, behind the account. The host is ignored, since clients know us by many.
fn queue_of(url: Option<String>) -> Result<String> {
    let url = required("QueueUrl", url)?;
    let path = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
    let mut parts = path.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/').rsplit('/');
    match (parts.next(), parts.next()) {
        (Some(name), Some(bundle::ACCOUNT)) if !name.is_empty() => Ok(name.to_owned()),
        (Some(name), Some(account))
            if !name.is_empty() && !account.is_empty() && account.bytes().all(|b| b.is_ascii_digit()) =>
        {
            Err(SqsError::NoSuchQueue(name.to_owned()))
        }
        _ => Err(Fault::InvalidAddress.because(format!("The address {url} is not valid for this endpoint."))),
    }
}

/// A number that clients may leave out.
fn within(name: &str, value: Option<i64>, range: std::ops::RangeInclusive<i64>, reason: &str) -> Result<Option<u32>> {
    match value {
        None => Ok(None),
        Some(value) if range.contains(&value) => Ok(u32::try_from(value).ok()),
        Some(value) => Err(Fault::InvalidParameterValue
            .because(format!("Value {value} for parameter {name} is invalid. Reason: {reason}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_url_counts_by_its_path_whatever_its_host() {
        for url in [
            "http://localhost:9000/000000000000/mail",
            "https://sqs.us-east-1.amazonaws.com/000000000000/mail",
            "http://127.0.0.1:1/behind/a/proxy/000000000000/mail/",
            "/000000000000/mail",
        ] {
            assert_eq!(queue_of(Some(url.to_owned())).expect(url), "mail");
        }
    }

    #[test]
    fn an_address_without_account_or_of_another_is_refused() {
        let refusal = |url: &str| queue_of(Some(url.to_owned())).expect_err(url);
        assert!(matches!(refusal("http://localhost/111111111111/mail"), SqsError::NoSuchQueue(_)));
        for url in ["mail", "http://localhost/mail", "http://localhost/000000000000/"] {
            assert!(matches!(refusal(url), SqsError::Refused { fault: Fault::InvalidAddress, .. }), "{url}");
        }
        assert!(matches!(queue_of(None), Err(SqsError::Refused { fault: Fault::MissingParameter, .. })));
    }
}
