//! Operations on queues themselves.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::store::Purged;
use super::super::{Fault, Result, Sqs, SqsError, arn, attributes};
use super::{queue_of, required, within};
use crate::bundle;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Create {
    queue_name: Option<String>,
    attributes: Option<BTreeMap<String, String>>,
}

pub(super) async fn create(sqs: &Sqs, request: Create) -> Result<Value> {
    let name = required("QueueName", request.queue_name)?;
    attributes::check_name(&name)?;
    let given = attributes::checked_for_creation(&name, &request.attributes.unwrap_or_default())?;
    check_dead_letter_queue(sqs, &given).await?;
    sqs.inner.store.create(&name, &given, false).await?;
    Ok(json!({"QueueUrl": sqs.url(&name)}))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GetUrl {
    queue_name: Option<String>,
    #[serde(rename = "QueueOwnerAWSAccountId")]
    owner: Option<String>,
}

pub(super) async fn get_url(sqs: &Sqs, request: GetUrl) -> Result<Value> {
    let name = required("QueueName", request.queue_name)?;
    if request.owner.is_some_and(|owner| owner != bundle::ACCOUNT) {
        return Err(SqsError::NoSuchQueue(name));
    }
    sqs.inner.store.describe(&name).await?;
    Ok(json!({"QueueUrl": sqs.url(&name)}))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct List {
    queue_name_prefix: Option<String>,
    max_results: Option<i64>,
    next_token: Option<String>,
}

pub(super) async fn list(sqs: &Sqs, request: List) -> Result<Value> {
    let most = within("MaxResults", request.max_results, 1..=1000, "Must be between 1 and 1000, if provided.")?;
    let page = most.unwrap_or(1000) as usize;
    let prefix = request.queue_name_prefix.unwrap_or_default();
    let mut names = sqs.inner.store.list(&prefix, request.next_token.as_deref(), page + 1).await?;
    let more = names.len() > page;
    names.truncate(page);
    let mut answer = serde_json::Map::new();
    if !names.is_empty() {
        answer.insert("QueueUrls".to_owned(), names.iter().map(|name| sqs.url(name)).collect());
    }
    // AWS pages only for those who say how many they want.
    if more && most.is_some() {
        answer.insert("NextToken".to_owned(), names.last().cloned().into());
    }
    Ok(answer.into())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GetAttributes {
    queue_url: Option<String>,
    attribute_names: Option<Vec<String>>,
}

pub(super) async fn get_attributes(sqs: &Sqs, request: GetAttributes) -> Result<Value> {
    let queue = queue_of(request.queue_url)?;
    let names = request.attribute_names.unwrap_or_default();
    let described = sqs.inner.store.describe(&queue).await?;
    if let Some(name) = names.iter().find(|name| *name != "All" && !attributes::is_known(name)) {
        return Err(attributes::unknown(name));
    }
    let mut all = described.attributes;
    all.insert("QueueArn".to_owned(), arn(&queue));
    for (name, count) in [
        ("ApproximateNumberOfMessages", described.counts.visible),
        ("ApproximateNumberOfMessagesDelayed", described.counts.delayed),
        ("ApproximateNumberOfMessagesNotVisible", described.counts.in_flight),
    ] {
        all.insert(name.to_owned(), count.to_string());
    }
    let every = names.iter().any(|name| name == "All");
    all.retain(|name, _| every || names.contains(name));
    Ok(if all.is_empty() { json!({}) } else { json!({"Attributes": all}) })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SetAttributes {
    queue_url: Option<String>,
    attributes: Option<BTreeMap<String, String>>,
}

pub(super) async fn set_attributes(sqs: &Sqs, request: SetAttributes) -> Result<Value> {
    let queue = queue_of(request.queue_url)?;
    let Some(given) = request.attributes.filter(|given| !given.is_empty()) else {
        return Err(Fault::MissingParameter.because("The request must contain the parameter Attributes."));
    };
    let given = attributes::checked(&queue, &given)?;
    check_dead_letter_queue(sqs, &given).await?;
    sqs.inner.store.set_attributes(&queue, &given).await?;
    Ok(json!({}))
}

/// AWS wants the dead-letter queue to exist first.
async fn check_dead_letter_queue(sqs: &Sqs, given: &BTreeMap<String, String>) -> Result<()> {
    let Some(target) = attributes::dead_letter_queue(given) else {
        return Ok(());
    };
    match sqs.inner.store.describe(target).await {
        Ok(_) => Ok(()),
        Err(SqsError::NoSuchQueue(_)) => {
            let policy = given.get("RedrivePolicy").map(String::as_str).unwrap_or_default();
            Err(Fault::InvalidParameterValue.because(format!(
                "Value {policy} for parameter RedrivePolicy is invalid. Reason: Dead letter target does not exist."
            )))
        }
        Err(other) => Err(other),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct OfQueue {
    queue_url: Option<String>,
}

pub(super) async fn delete(sqs: &Sqs, request: OfQueue) -> Result<Value> {
    let queue = queue_of(request.queue_url)?;
    sqs.inner.store.delete_queue(&queue).await?;
    sqs.forget_bell(&queue);
    Ok(json!({}))
}

pub(super) async fn purge(sqs: &Sqs, request: OfQueue) -> Result<Value> {
    let queue = queue_of(request.queue_url)?;
    match sqs.inner.store.purge(&queue, true).await? {
        Purged::Messages(_) => Ok(json!({})),
        Purged::TooSoon => Err(Fault::PurgeQueueInProgress
            .because(format!("Only one PurgeQueue operation on {queue} is allowed every 60 seconds."))),
    }
}
