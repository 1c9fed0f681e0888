//! Batches of messages: rules for the whole, an answer per entry.
#![allow(clippy::unwrap_used, reason = "tests")]

mod sqs_support;

use serde_json::json;
use sqs_support::{Queues, bodies, numbered};

#[tokio::test]
async fn batches_that_are_malformed_are_refused_as_a_whole() {
    let queues = Queues::with("mail", &[]).await;
    let code = |code: &str| format!("AWS.SimpleQueueService.{code};Sender");
    for operation in ["SendMessageBatch", "DeleteMessageBatch", "ChangeMessageVisibilityBatch"] {
        let entry = |_| json!({"MessageBody": "x", "ReceiptHandle": "x", "VisibilityTimeout": 1});
        assert_eq!(queues.refused(operation, numbered(0, entry)).await.code, code("EmptyBatchRequest"));
        let refusal = queues.refused(operation, numbered(20, entry)).await;
        assert_eq!(refusal.code, code("TooManyEntriesInBatchRequest"));
        assert_eq!(refusal.message, "Maximum number of entries per request are 10. You have sent 20.");
        let mut entries = numbered(2, entry);
        entries["Entries"][1]["Id"] = "entry-0".into();
        assert_eq!(queues.refused(operation, entries.clone()).await.code, code("BatchEntryIdsNotDistinct"));
        for id in ["", "a b", &"x".repeat(81)] {
            entries["Entries"][1]["Id"] = id.into();
            let refusal = queues.refused(operation, entries.clone()).await;
            assert_eq!(refusal.code, code("InvalidBatchEntryId"));
            assert_eq!(
                refusal.message,
                "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can be at most 80 letters long."
            );
        }
    }
}

#[tokio::test]
async fn entries_of_a_batch_succeed_and_fail_each_for_itself() {
    let queues = Queues::with("mail", &[]).await;
    queues.ensure("other", &[]).await;
    let answer = queues
        .ok("SendMessageBatch", numbered(3, |number| json!({"MessageBody": (["good", "", "\u{1}"][number])})))
        .await;
    assert_eq!(answer["Successful"].as_array().unwrap().len(), 1);
    let codes: Vec<_> =
        answer["Failed"].as_array().unwrap().iter().map(|failed| failed["Code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["InvalidParameterValue", "InvalidMessageContents"]);

    queues.send("mail", "second").await;
    queues.send("other", "elsewhere").await;
    let messages = queues.receive("mail").await;
    let foreign = queues.receive("other").await[0]["ReceiptHandle"].clone();
    let handles =
        [messages[0]["ReceiptHandle"].clone(), json!("garbage"), foreign, messages[1]["ReceiptHandle"].clone()];
    let answer = queues
        .ok(
            "ChangeMessageVisibilityBatch",
            numbered(4, |number| json!({"ReceiptHandle": (handles[number]), "VisibilityTimeout": 0})),
        )
        .await;
    assert_eq!(answer["Successful"], json!([{"Id": "entry-0"}, {"Id": "entry-3"}]));
    assert_eq!(bodies(&queues.receive("mail").await), ["good", "second"]);
    let answer =
        queues.ok("DeleteMessageBatch", numbered(4, |number| json!({"ReceiptHandle": (handles[number])}))).await;
    assert_eq!(answer["Successful"], json!([{"Id": "entry-0"}, {"Id": "entry-3"}]));
    for failed in answer["Failed"].as_array().unwrap() {
        assert_eq!(failed["Code"], "ReceiptHandleIsInvalid");
    }
    assert_eq!(queues.counts("mail").await, (0, 0, 0));
    assert_eq!(queues.counts("other").await, (0, 1, 0));
}
