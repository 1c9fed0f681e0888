//! Queues as clients see them: create, find, describe, change, purge, delete.
#![allow(clippy::unwrap_used, reason = "tests")]

mod sqs_support;

use serde_json::{Value, json};
use sqs_support::{Queues, Refusal, arn, queue, redrive, url};

fn refusal(kind: &str, code: &str, message: &str) -> Refusal {
    Refusal { status: 400, kind: kind.to_owned(), code: format!("{code};Sender"), message: message.to_owned() }
}

async fn attributes(queues: &Queues, names: &[&str]) -> Value {
    queues.ok("GetQueueAttributes", json!({"QueueUrl": url("mail"), "AttributeNames": names})).await["Attributes"]
        .clone()
}

#[tokio::test]
async fn a_new_queue_has_the_documented_defaults_and_no_others() {
    let queues = Queues::new().await;
    let answer = queues.ok("CreateQueue", json!({"QueueName": "mail"})).await;
    assert_eq!(answer, json!({"QueueUrl": url("mail")}));

    let mut all = attributes(&queues, &["All"]).await;
    let created = all["CreatedTimestamp"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(created > 1_700_000_000 && created < 10_000_000_000, "seconds: {created}");
    all["CreatedTimestamp"].take();
    all["LastModifiedTimestamp"].take();
    assert_eq!(
        all,
        json!({
            "ApproximateNumberOfMessages": "0",
            "ApproximateNumberOfMessagesDelayed": "0",
            "ApproximateNumberOfMessagesNotVisible": "0",
            "CreatedTimestamp": null,
            "DelaySeconds": "0",
            "LastModifiedTimestamp": null,
            "MaximumMessageSize": "1048576",
            "MessageRetentionPeriod": "345600",
            "QueueArn": arn("mail"),
            "ReceiveMessageWaitTimeSeconds": "0",
            "SqsManagedSseEnabled": "true",
            "VisibilityTimeout": "30",
        })
    );
    assert_eq!(attributes(&queues, &["QueueArn", "RedrivePolicy"]).await, json!({"QueueArn": arn("mail")}));
    assert_eq!(queues.ok("GetQueueAttributes", json!({"QueueUrl": url("mail")})).await, json!({}));
    assert_eq!(
        queues.refused("GetQueueAttributes", json!({"QueueUrl": url("mail"), "AttributeNames": ["FifoQueue"]})).await,
        refusal("InvalidAttributeName", "InvalidAttributeName", "Unknown Attribute FifoQueue.")
    );
}

#[tokio::test]
async fn creating_again_succeeds_while_the_given_attributes_match() {
    let queues = Queues::new().await;
    let create = |attributes: Value| json!({"QueueName": "mail", "Attributes": attributes});
    queues.ok("CreateQueue", create(json!({"VisibilityTimeout": "60"}))).await;
    queues.ok("CreateQueue", create(json!({}))).await;
    queues.ok("CreateQueue", create(json!({"VisibilityTimeout": "60", "DelaySeconds": "0"}))).await;
    assert_eq!(
        queues.refused("CreateQueue", create(json!({"VisibilityTimeout": "61"}))).await,
        refusal(
            "QueueNameExists",
            "QueueAlreadyExists",
            "A queue already exists with the same name and a different value for attribute VisibilityTimeout"
        )
    );
}

#[tokio::test]
async fn names_and_attributes_that_sqs_does_not_know_are_refused() {
    let queues = Queues::new().await;
    for name in ["a b", "a.b", &"x".repeat(81)] {
        assert_eq!(
            queues.refused("CreateQueue", json!({"QueueName": name})).await.code,
            "InvalidParameterValue;Sender"
        );
    }
    assert_eq!(
        queues.refused("CreateQueue", json!({})).await,
        refusal(
            "MissingRequiredParameterException",
            "MissingParameter",
            "The request must contain the parameter QueueName."
        )
    );
    assert_eq!(
        queues.refused("CreateQueue", json!({"QueueName": "mail", "Attributes": {"FifoQueue": "false"}})).await,
        refusal("InvalidAttributeName", "InvalidAttributeName", "Unknown Attribute FifoQueue.")
    );
    for fifo in [json!({"QueueName": "mail.fifo"}), json!({"QueueName": "mail", "Attributes": {"FifoQueue": "true"}})] {
        let refusal = queues.refused("CreateQueue", fifo).await;
        assert_eq!(refusal.kind, "UnsupportedOperation");
        assert!(refusal.message.contains("FIFO"), "{}", refusal.message);
    }
    let policy = redrive("missing", 3);
    assert_eq!(
        queues.refused("CreateQueue", json!({"QueueName": "mail", "Attributes": {"RedrivePolicy": policy}})).await,
        refusal(
            "InvalidParameterValueException",
            "InvalidParameterValue",
            &format!(
                "Value {policy} for parameter RedrivePolicy is invalid. Reason: Dead letter target does not exist."
            )
        )
    );
    assert!(queues.keys().is_empty(), "{:?}", queues.keys());
}

#[tokio::test]
async fn attributes_can_be_set_and_policies_taken_away_again() {
    let queues = Queues::with("mail", &[]).await;
    queues.ensure("dead", &[]).await;
    let set = |attributes: Value| json!({"QueueUrl": url("mail"), "Attributes": attributes});
    queues.ok("SetQueueAttributes", set(json!({"VisibilityTimeout": "5", "RedrivePolicy": redrive("dead", 1)}))).await;
    let named = attributes(&queues, &["VisibilityTimeout", "RedrivePolicy"]).await;
    assert_eq!(named, json!({"VisibilityTimeout": "5", "RedrivePolicy": redrive("dead", 1)}));

    queues.ok("SetQueueAttributes", set(json!({"RedrivePolicy": ""}))).await;
    assert_eq!(attributes(&queues, &["VisibilityTimeout", "RedrivePolicy"]).await, json!({"VisibilityTimeout": "5"}));
    queues.send("mail", "never dies").await;
    for _ in 0..3 {
        assert_eq!(queues.receive("mail").await.len(), 1);
        queues.advance(6).await;
    }
    assert_eq!(
        queues.refused("SetQueueAttributes", set(json!({"VisibilityTimeout": "43201"}))).await,
        refusal("InvalidAttributeValue", "InvalidAttributeValue", "Invalid value for the parameter VisibilityTimeout.")
    );
}

#[tokio::test]
async fn an_ensured_queue_takes_over_new_attributes_and_keeps_its_messages() {
    let queues = Queues::with("mail", &[("VisibilityTimeout", "60"), ("DelaySeconds", "0")]).await;
    queues.send("mail", "stays").await;
    queues.ensure("mail", &[("VisibilityTimeout", "90")]).await;
    assert_eq!(attributes(&queues, &["VisibilityTimeout"]).await, json!({"VisibilityTimeout": "90"}));
    assert_eq!(queues.counts("mail").await, (1, 0, 0));
    let error = queues.sqs.ensure_queue(&queue("mail", &[("VisibilityTimeOut", "1")])).await.unwrap_err();
    assert_eq!(error.to_string(), "Unknown Attribute VisibilityTimeOut.");
}

#[tokio::test]
async fn queues_are_found_by_name_and_listed_by_prefix_in_pages() {
    let queues = Queues::new().await;
    assert_eq!(queues.ok("ListQueues", json!({})).await, json!({}));
    for name in ["mail-2", "mail-1", "other", "mail-3"] {
        queues.ensure(name, &[]).await;
    }
    assert_eq!(queues.ok("GetQueueUrl", json!({"QueueName": "other"})).await, json!({"QueueUrl": url("other")}));
    let all = queues.ok("ListQueues", json!({})).await;
    assert_eq!(all, json!({"QueueUrls": [url("mail-1"), url("mail-2"), url("mail-3"), url("other")]}));
    let first = queues.ok("ListQueues", json!({"QueueNamePrefix": "mail", "MaxResults": 2})).await;
    assert_eq!(first["QueueUrls"], json!([url("mail-1"), url("mail-2")]));
    let second = queues
        .ok("ListQueues", json!({"QueueNamePrefix": "mail", "MaxResults": 2, "NextToken": first["NextToken"]}))
        .await;
    assert_eq!(second, json!({"QueueUrls": [url("mail-3")]}));
    assert_eq!(queues.sqs.queue_names().await.unwrap(), ["mail-1", "mail-2", "mail-3", "other"]);
}

#[tokio::test]
async fn every_operation_on_a_missing_queue_says_so() {
    let queues = Queues::new().await;
    let expected =
        refusal("QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", "The specified queue does not exist.");
    let entry = json!([{"Id": "a", "MessageBody": "b", "ReceiptHandle": "c", "VisibilityTimeout": 1}]);
    for operation in [
        "ChangeMessageVisibility",
        "DeleteMessage",
        "DeleteQueue",
        "GetQueueAttributes",
        "PurgeQueue",
        "ReceiveMessage",
        "SendMessage",
        "SendMessageBatch",
        "DeleteMessageBatch",
        "ChangeMessageVisibilityBatch",
        "SetQueueAttributes",
        "GetQueueUrl",
    ] {
        let request = json!({
            "QueueUrl": url("mail"), "QueueName": "mail", "MessageBody": "b", "ReceiptHandle": "c", "VisibilityTimeout": 1,
            "Attributes": {"DelaySeconds": "0"}, "Entries": entry,
        });
        assert_eq!(queues.refused(operation, request).await, expected, "{operation}");
    }
    assert!(queues.sqs.send("mail", "b", std::time::Duration::ZERO).await.is_err());
    assert!(queues.sqs.counts("mail").await.is_err());
}

#[tokio::test]
async fn purging_removes_everything_and_is_allowed_once_a_minute_through_the_api() {
    let queues = Queues::with("mail", &[]).await;
    for body in ["visible", "in flight"] {
        queues.send("mail", body).await;
    }
    queues.ok("ReceiveMessage", json!({"QueueUrl": url("mail")})).await;
    queues.sqs.send("mail", "delayed", std::time::Duration::from_secs(60)).await.unwrap();
    assert_eq!(queues.counts("mail").await, (1, 1, 1));
    assert_eq!(queues.sqs.purge("mail").await.unwrap(), 3);
    assert_eq!(queues.counts("mail").await, (0, 0, 0));
    assert_eq!(queues.sqs.purge(&arn("mail")).await.unwrap(), 0);

    let purge = json!({"QueueUrl": url("mail")});
    queues.ok("PurgeQueue", purge.clone()).await;
    queues.advance(59).await;
    let expected = Refusal {
        status: 403,
        ..refusal(
            "PurgeQueueInProgress",
            "AWS.SimpleQueueService.PurgeQueueInProgress",
            "Only one PurgeQueue operation on mail is allowed every 60 seconds.",
        )
    };
    assert_eq!(queues.refused("PurgeQueue", purge.clone()).await, expected);
    queues.advance(1).await;
    queues.ok("PurgeQueue", purge).await;
}

#[tokio::test]
async fn a_deleted_queue_is_gone_with_its_messages_and_its_name_rests_for_a_minute() {
    let queues = Queues::with("mail", &[]).await;
    queues.send("mail", "lost").await;
    queues.ok("DeleteQueue", json!({"QueueUrl": url("mail")})).await;
    assert_eq!(queues.ok("ListQueues", json!({})).await, json!({}));
    let refusal = queues.refused("CreateQueue", json!({"QueueName": "mail"})).await;
    assert_eq!(refusal.code, "AWS.SimpleQueueService.QueueDeletedRecently;Sender");
    queues.advance(60).await;
    queues.ok("CreateQueue", json!({"QueueName": "mail"})).await;
    assert_eq!(queues.counts("mail").await, (0, 0, 0));
}

#[tokio::test]
async fn operations_that_are_not_offered_and_those_that_do_not_exist_are_told_apart() {
    let queues = Queues::with("mail", &[]).await;
    assert_eq!(queues.refused("StartMessageMoveTask", json!({})).await.kind, "UnsupportedOperation");
    assert_eq!(queues.refused("MakeCoffee", json!({})).await.kind, "UnknownOperationException");
    assert_eq!(queues.refused("SendMessage", json!({"QueueUrl": 5})).await.kind, "SerializationException");
}
