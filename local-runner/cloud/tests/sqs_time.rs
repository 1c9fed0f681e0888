//! What time does to messages: delay, visibility, dead letters, retention. The tests move the queues' clock.
#![allow(clippy::unwrap_used, reason = "tests")]

mod sqs_support;

use std::time::Duration;

use serde_json::json;
use sqs_support::{Queues, arn, bodies, redrive, url};

#[tokio::test]
async fn a_received_message_is_invisible_until_its_timeout_and_then_counted_again() {
    let queues = Queues::with("mail", &[("VisibilityTimeout", "60")]).await;
    queues.send("mail", "one").await;

    let first = queues.receive("mail").await;
    assert_eq!(first[0]["Attributes"]["ApproximateReceiveCount"], "1");
    assert_eq!(queues.counts("mail").await, (0, 1, 0));
    queues.advance(59).await;
    assert!(queues.receive("mail").await.is_empty());

    queues.advance(1).await;
    let second = queues.receive("mail").await;
    assert_eq!(second[0]["MessageId"], first[0]["MessageId"]);
    assert_ne!(second[0]["ReceiptHandle"], first[0]["ReceiptHandle"]);
    assert_eq!(second[0]["Attributes"]["ApproximateReceiveCount"], "2");
    for unchanged in ["SentTimestamp", "ApproximateFirstReceiveTimestamp"] {
        assert_eq!(second[0]["Attributes"][unchanged], first[0]["Attributes"][unchanged]);
    }
}

#[tokio::test]
async fn an_old_receipt_handle_still_deletes() {
    let queues = Queues::with("mail", &[]).await;
    queues.send("mail", "one").await;
    let first = queues.receive("mail").await;
    queues.advance(31).await;
    assert_eq!(queues.receive("mail").await.len(), 1);
    for _ in 0..2 {
        queues.ok("DeleteMessage", json!({"QueueUrl": url("mail"), "ReceiptHandle": first[0]["ReceiptHandle"]})).await;
    }
    queues.advance(31).await;
    assert_eq!(queues.counts("mail").await, (0, 0, 0));
}

#[tokio::test]
async fn delays_hold_messages_back_and_the_messages_own_delay_wins() {
    let queues = Queues::with("mail", &[("DelaySeconds", "100")]).await;
    queues.ok("SendMessage", json!({"QueueUrl": url("mail"), "MessageBody": "as the queue says"})).await;
    queues.ok("SendMessage", json!({"QueueUrl": url("mail"), "MessageBody": "at once", "DelaySeconds": 0})).await;
    queues.sqs.send("mail", "later", Duration::from_secs(300)).await.unwrap();

    assert_eq!(queues.counts("mail").await, (1, 0, 2));
    assert_eq!(bodies(&queues.receive("mail").await), ["at once"]);
    queues.advance(100).await;
    assert_eq!(bodies(&queues.receive("mail").await), ["as the queue says", "at once"]);
    queues.advance(200).await;
    assert_eq!(bodies(&queues.receive("mail").await), ["as the queue says", "at once", "later"]);
}

#[tokio::test]
async fn visibility_can_be_ended_prolonged_and_not_beyond_twelve_hours() {
    let queues = Queues::with("mail", &[]).await;
    queues.send("mail", "one").await;
    let change = |handle: &serde_json::Value, seconds: u32| json!({"QueueUrl": url("mail"), "ReceiptHandle": handle, "VisibilityTimeout": seconds});
    let handle = queues.receive("mail").await[0]["ReceiptHandle"].clone();

    queues.ok("ChangeMessageVisibility", change(&handle, 1000)).await;
    queues.advance(999).await;
    assert_eq!(queues.counts("mail").await, (0, 1, 0));
    let refusal = queues.refused("ChangeMessageVisibility", change(&handle, 43_200)).await;
    assert_eq!(refusal.message, "Total VisibilityTimeout for the message is beyond the limit [43200 seconds]");
    queues.ok("ChangeMessageVisibility", change(&handle, 0)).await;
    assert_eq!(queues.counts("mail").await, (1, 0, 0));

    let refusal = queues.refused("ChangeMessageVisibility", change(&handle, 10)).await;
    assert_eq!(refusal.code, "InvalidParameterValue;Sender");
    assert!(
        refusal.message.ends_with("Reason: Message does not exist or is not available for visibility timeout change.")
    );
}

#[tokio::test]
async fn a_receive_may_set_its_own_visibility_timeout() {
    let queues = Queues::with("mail", &[]).await;
    queues.send("mail", "one").await;
    let receive =
        |seconds: u32| json!({"QueueUrl": url("mail"), "VisibilityTimeout": seconds, "MaxNumberOfMessages": 10});
    for _ in 0..3 {
        let answer = queues.ok("ReceiveMessage", receive(0)).await;
        assert_eq!(answer["Messages"].as_array().unwrap().len(), 1, "visible at once, and only once in an answer");
    }
    queues.ok("ReceiveMessage", receive(600)).await;
    queues.advance(599).await;
    assert_eq!(queues.counts("mail").await, (0, 1, 0));
}

#[tokio::test]
async fn a_message_moves_to_the_dead_letters_when_its_count_would_exceed_the_maximum() {
    let queues = Queues::with("mail", &[("RedrivePolicy", &redrive("dead", 2))]).await;
    queues.ensure("dead", &[("DelaySeconds", "900")]).await;
    let id = queues.send("mail", "poison").await;
    let sent = queues.receive("mail").await[0]["Attributes"]["SentTimestamp"].clone();
    queues.advance(31).await;
    assert_eq!(queues.receive("mail").await.len(), 1, "equal to the maximum is not beyond it");
    queues.advance(31).await;
    assert_eq!(queues.counts("mail").await, (1, 0, 0), "it moves at the next receive, not before");

    assert!(queues.receive("mail").await.is_empty());
    assert_eq!(queues.counts("mail").await, (0, 0, 0));
    let dead = queues.receive("dead").await;
    assert_eq!(dead[0]["MessageId"], id);
    assert_eq!(dead[0]["Body"], "poison");
    assert_eq!(dead[0]["Attributes"]["SentTimestamp"], sent);
    assert_eq!(dead[0]["Attributes"]["DeadLetterQueueSourceArn"], arn("mail"));
}

#[tokio::test]
async fn dead_letters_do_not_use_up_the_places_of_good_messages() {
    let queues = Queues::with("mail", &[("RedrivePolicy", &redrive("dead", 1))]).await;
    queues.ensure("dead", &[]).await;
    for _ in 0..25 {
        queues.send("mail", "poison").await;
    }
    for _ in 0..3 {
        queues.receive("mail").await;
    }
    queues.advance(31).await;
    queues.send("mail", "good").await;
    assert_eq!(bodies(&queues.receive("mail").await), ["good"]);
    assert_eq!(queues.counts("dead").await, (25, 0, 0));
}

#[tokio::test]
async fn without_its_dead_letter_queue_a_message_stays_where_it_is() {
    let queues = Queues::with("mail", &[("RedrivePolicy", &redrive("missing", 1))]).await;
    queues.send("mail", "one").await;
    for count in ["1", "2", "3"] {
        assert_eq!(queues.receive("mail").await[0]["Attributes"]["ApproximateReceiveCount"], count);
        queues.advance(31).await;
    }
}

#[tokio::test]
async fn messages_expire_after_the_retention_also_those_in_flight_and_dead_ones_by_their_first_enqueue() {
    let queues =
        Queues::with("mail", &[("MessageRetentionPeriod", "100"), ("RedrivePolicy", &redrive("dead", 1))]).await;
    queues.ensure("dead", &[("MessageRetentionPeriod", "150")]).await;
    queues.send("mail", "poison").await;
    queues.receive("mail").await;
    queues.advance(31).await;
    queues.receive("mail").await;
    assert_eq!(queues.counts("dead").await, (1, 0, 0));

    queues.send("mail", "waits").await;
    queues.send("mail", "is in flight").await;
    queues.ok("ReceiveMessage", json!({"QueueUrl": url("mail"), "VisibilityTimeout": 1000})).await;
    queues.advance(99).await;
    assert_eq!(queues.counts("mail").await, (1, 1, 0));
    assert_eq!(queues.counts("dead").await, (1, 0, 0));
    queues.advance(1).await;
    assert!(queues.receive("mail").await.is_empty());
    assert_eq!(queues.counts("mail").await, (0, 0, 0));
    queues.advance(19).await;
    assert_eq!(queues.counts("dead").await, (0, 0, 0));
}

#[tokio::test]
async fn nothing_is_left_in_redis_of_messages_that_are_gone() {
    let queues = Queues::with("mail", &[("RedrivePolicy", &redrive("dead", 1))]).await;
    queues.ensure("dead", &[("MessageRetentionPeriod", "60")]).await;
    let before = queues.keys().len();
    for body in ["deleted", "dead"] {
        queues.send("mail", body).await;
    }
    for message in queues.receive("mail").await {
        if message["Body"] == "deleted" {
            queues
                .ok("DeleteMessage", json!({"QueueUrl": url("mail"), "ReceiptHandle": message["ReceiptHandle"]}))
                .await;
        }
    }
    queues.advance(61).await;
    assert!(queues.receive("mail").await.is_empty());
    assert!(queues.receive("dead").await.is_empty());
    // The clock's offset is the one key that moving it adds.
    assert_eq!(queues.keys().len(), before + 1, "{:?}", queues.keys());
}
