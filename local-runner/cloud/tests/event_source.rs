//! Event source mappings over real queues, with a double for the function.
#![allow(clippy::unwrap_used, reason = "tests")]

mod event_source_support;
mod sqs_support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use event_source_support::{Double, function, records, serve, source};
use local_cloud::bundle::{EventSource, Function};
use local_cloud::event_source::{self, MappingError, Outcome};
use serde_json::{Value, json};
use sqs_support::lossy::Lossy;
use sqs_support::{Queues, arn, eventually, redrive, url};

const DRAIN: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_function_sees_records_as_lambda_makes_them_and_finished_messages_are_deleted() {
    let queues = Queues::with("mail", &[]).await;
    let request = json!({
        "QueueUrl": url("mail"), "MessageBody": "{\"id\":7}",
        "MessageAttributes": {"attribName1": {"DataType": "String", "StringValue": "attribValue 1"}, "raw": {"DataType": "Binary", "BinaryValue": "AAE="}},
    });
    let sent = queues.ok("SendMessage", request).await;
    let double = Double::answering(json!({"batchItemFailures": []}));
    let served = serve(&queues, source(), &double, DRAIN);
    double.was_invoked(1).await;
    eventually("the message is deleted", async || queues.counts("mail").await == (0, 0, 0)).await;
    served.stop().await;

    let mut record = records(&double.events()[0])[0].clone();
    assert!(!record["receiptHandle"].take().as_str().unwrap().is_empty());
    for attribute in ["SentTimestamp", "ApproximateFirstReceiveTimestamp"] {
        let milliseconds = record["attributes"][attribute].take().as_str().unwrap().parse::<u64>().unwrap();
        assert!(milliseconds > 1_700_000_000_000, "{milliseconds}");
    }
    assert!(record["attributes"]["SenderId"].take().is_string());
    assert_eq!(
        record,
        json!({
            "messageId": sent["MessageId"],
            "receiptHandle": null,
            "body": "{\"id\":7}",
            "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": null, "SenderId": null, "ApproximateFirstReceiveTimestamp": null},
            "messageAttributes": {
                "attribName1": {"stringValue": "attribValue 1", "stringListValues": [], "binaryListValues": [], "dataType": "String"},
                "raw": {"binaryValue": "AAE=", "stringListValues": [], "binaryListValues": [], "dataType": "Binary"},
            },
            "md5OfMessageAttributes": sent["MD5OfMessageAttributes"],
            "md5OfBody": sent["MD5OfMessageBody"],
            "eventSource": "aws:sqs",
            "eventSourceARN": arn("mail"),
            "awsRegion": "us-east-1",
        })
    );
}

#[tokio::test]
async fn only_the_reported_messages_come_back_when_their_visibility_timeout_ends() {
    let queues = Queues::with("mail", &[("VisibilityTimeout", "60")]).await;
    for body in ["good", "bad", "fine"] {
        queues.send("mail", body).await;
    }
    let double = Double::new(|number, event| async move {
        let failed = records(&event).iter().filter(|record| number == 0 && record["body"] == "bad");
        let items: Vec<Value> = failed.map(|record| json!({"itemIdentifier": record["messageId"]})).collect();
        Outcome::Answered(Bytes::from(json!({"batchItemFailures": items}).to_string()))
    });
    let served = serve(&queues, source(), &double, DRAIN);
    eventually("two of three are deleted", async || queues.counts("mail").await == (0, 1, 0)).await;
    queues.advance(60).await;
    double.was_invoked(2).await;
    eventually("the third is deleted", async || queues.counts("mail").await == (0, 0, 0)).await;
    served.stop().await;
    assert_eq!(double.batches(), [vec!["good", "bad", "fine"], vec!["bad"]]);
    assert_eq!(records(&double.events()[1])[0]["attributes"]["ApproximateReceiveCount"], "2");
}

#[tokio::test]
async fn failed_batches_come_back_until_they_are_dead_letters() {
    let queues = Queues::with("mail", &[("RedrivePolicy", &redrive("dead", 2))]).await;
    queues.ensure("dead", &[]).await;
    queues.send("mail", "poison").await;
    let double = Double::new(|number, _| async move {
        match number {
            0 => Outcome::Failed("panicked".to_owned()),
            _ => Outcome::Answered(Bytes::from(r#"{"batchItemFailures":[{"itemIdentifier":"stranger"}]}"#)),
        }
    });
    let served = serve(&queues, source(), &double, DRAIN);
    for attempt in 1..=2 {
        double.was_invoked(attempt).await;
        eventually("the invocation ended", async || double.running.load(Ordering::SeqCst) == 0).await;
        assert_eq!(queues.counts("mail").await, (0, 1, 0), "stays invisible after attempt {attempt}");
        queues.advance(30).await;
    }
    eventually("it is a dead letter", async || queues.counts("dead").await == (1, 0, 0)).await;
    served.stop().await;
    assert_eq!(double.events().len(), 2);
}

#[tokio::test]
async fn without_reports_any_answer_is_success() {
    let queues = Queues::with("mail", &[]).await;
    let id = queues.send("mail", "one").await;
    let double = Double::answering(json!({"batchItemFailures": [{"itemIdentifier": id}]}));
    let served = serve(&queues, EventSource { reports_item_failures: false, ..source() }, &double, DRAIN);
    double.was_invoked(1).await;
    eventually("it is deleted", async || queues.counts("mail").await == (0, 0, 0)).await;
    served.stop().await;
}

#[tokio::test]
async fn as_many_invocations_run_at_once_as_the_mapping_allows() {
    let queues = Queues::with("mail", &[]).await;
    for _ in 0..12 {
        queues.send("mail", "x").await;
    }
    let meeting = Arc::new(tokio::sync::Barrier::new(3));
    let double = Double::new(move |_, _| {
        let meeting = Arc::clone(&meeting);
        async move {
            meeting.wait().await;
            Outcome::Answered(Bytes::from("{}"))
        }
    });
    let source = EventSource { batch_size: 1, max_concurrency: Some(3), ..source() };
    let served = serve(&queues, source, &double, DRAIN);
    eventually("all are done", async || queues.counts("mail").await == (0, 0, 0)).await;
    served.stop().await;
    assert_eq!(double.peak.load(Ordering::SeqCst), 3);
    assert_eq!(double.events().len(), 12);
}

#[tokio::test]
async fn a_window_gathers_more_than_one_receive_can_bring_and_a_full_batch_does_not_wait_for_it() {
    let queues = Queues::with("mail", &[]).await;
    for _ in 0..33 {
        queues.send("mail", "x").await;
    }
    let double = Double::answering(json!({}));
    let source = EventSource { batch_size: 15, batching_window: Duration::from_secs(1), ..source() };
    let served = serve(&queues, source, &double, DRAIN);
    double.was_invoked(3).await;
    eventually("all are done", async || queues.counts("mail").await == (0, 0, 0)).await;
    served.stop().await;
    let sizes: Vec<usize> = double.batches().iter().map(Vec::len).collect();
    assert_eq!(sizes, [15, 15, 3]);
}

#[tokio::test]
async fn a_batch_closes_before_its_payload_is_too_large_for_an_invocation() {
    let queues = Queues::with("mail", &[]).await;
    // Quotes take two bytes in JSON: ten of these are 14 MB.
    for _ in 0..10 {
        queues.send("mail", &"\"".repeat(700_000)).await;
    }
    let double = Double::answering(json!({}));
    let served = serve(&queues, source(), &double, DRAIN);
    eventually("all are done", async || queues.counts("mail").await == (0, 0, 0)).await;
    served.stop().await;
    for event in double.events() {
        assert!(event.to_string().len() <= 6 * 1024 * 1024, "{}", event.to_string().len());
    }
    assert_eq!(double.batches().iter().map(Vec::len).sum::<usize>(), 10);
}

#[tokio::test]
async fn a_throttled_batch_is_tried_again_as_it_is() {
    let queues = Queues::with("mail", &[]).await;
    queues.send("mail", "one").await;
    let double = Double::new(|number, _| async move {
        if number < 2 { Outcome::Throttled } else { Outcome::Answered(Bytes::new()) }
    });
    let served = serve(&queues, source(), &double, DRAIN);
    eventually("it is deleted", async || queues.counts("mail").await == (0, 0, 0)).await;
    served.stop().await;
    let events = double.events();
    assert_eq!(events.len(), 3);
    assert!(events.iter().all(|event| *event == events[0]));
}

#[tokio::test]
async fn throttling_can_use_up_the_receives_so_that_a_message_dies_without_ever_running() {
    let queues = Queues::with("mail", &[("VisibilityTimeout", "1"), ("RedrivePolicy", &redrive("dead", 2))]).await;
    queues.ensure("dead", &[]).await;
    queues.send("mail", "one").await;
    let double = Double::new(|_, _| async { Outcome::Throttled });
    let served = serve(&queues, source(), &double, DRAIN);
    eventually("it is a dead letter", async || queues.counts("dead").await == (1, 0, 0)).await;
    served.stop().await;
    let last = double.events().last().unwrap().clone();
    assert_eq!(records(&last)[0]["attributes"]["ApproximateReceiveCount"], "2");
}

#[tokio::test]
async fn shutdown_lets_running_invocations_end_and_takes_nothing_new() {
    let queues = Queues::with("mail", &[]).await;
    queues.send("mail", "one").await;
    let (release, released) = tokio::sync::watch::channel(false);
    let double = Double::new(move |_, _| {
        let mut released = released.clone();
        async move {
            released.wait_for(|released| *released).await.unwrap();
            Outcome::Answered(Bytes::new())
        }
    });
    let served = serve(&queues, source(), &double, DRAIN);
    double.was_invoked(1).await;
    served.stop.cancel();
    queues.send("mail", "two").await;
    release.send(true).unwrap();
    served.stop().await;
    assert_eq!(queues.counts("mail").await, (1, 0, 0), "the first is deleted, the second untouched");
    assert_eq!(double.events().len(), 1);
}

#[tokio::test]
async fn what_does_not_end_in_time_at_shutdown_comes_back_and_what_was_only_gathered_does_at_once() {
    let queues = Queues::with("mail", &[]).await;
    queues.send("mail", "stuck").await;
    let double = Double::new(|_, _| std::future::pending());
    let served = serve(&queues, source(), &double, Duration::from_millis(50));
    double.was_invoked(1).await;
    served.stop().await;
    assert_eq!(queues.counts("mail").await, (0, 1, 0));
    queues.advance(30).await;
    assert_eq!(queues.counts("mail").await, (1, 0, 0));

    let double = Double::answering(json!({}));
    let source = EventSource { batch_size: 100, batching_window: Duration::from_secs(300), ..source() };
    let served = serve(&queues, source, &double, DRAIN);
    eventually("it is gathered", async || queues.counts("mail").await == (0, 1, 0)).await;
    served.stop().await;
    assert_eq!(queues.counts("mail").await, (1, 0, 0));
    assert!(double.events().is_empty());
}

#[tokio::test]
async fn it_waits_while_redis_is_gone_and_goes_on_when_it_is_back() {
    let way = Lossy::start().await;
    let queues = Queues::through(&way.url()).await;
    queues.ensure("mail", &[]).await;
    let double = Double::answering(json!({}));
    let served = serve(&queues, source(), &double, DRAIN);
    queues.send("mail", "before").await;
    double.was_invoked(1).await;
    way.cut();
    let attempt = json!({"QueueUrl": url("mail"), "WaitTimeSeconds": 0});
    assert_eq!(queues.refused("ReceiveMessage", attempt).await.status, 500);
    way.repair();
    eventually("it can be sent again", async || queues.sqs.send("mail", "after", Duration::ZERO).await.is_ok()).await;
    double.was_invoked(2).await;
    served.stop().await;
}

#[tokio::test]
async fn a_mapping_that_is_disabled_or_that_aws_refuses_takes_nothing() {
    let queues = Queues::with("mail", &[("VisibilityTimeout", "0")]).await;
    queues.send("mail", "one").await;
    let double = Double::answering(json!({}));
    for source in [EventSource { enabled: false, ..source() }, source()] {
        serve(&queues, source, &double, DRAIN).task.await.unwrap();
    }
    assert!(double.events().is_empty());

    let refusal = |source: EventSource, visibility| {
        event_source::check(&source, &function(), Duration::from_secs(visibility)).map_err(|e| e.to_string())
    };
    assert_eq!(
        refusal(source(), 0).unwrap_err(),
        "Queue visibility timeout: 0 seconds is less than Function timeout: 1 seconds"
    );
    assert_eq!(
        refusal(EventSource { batch_size: 11, ..source() }, 1).unwrap_err(),
        "Maximum batch window in seconds must be greater than 0 if maximum batch size is greater than 10"
    );
    let narrow = Function { reserved_concurrency: Some(2), ..function() };
    let wide = EventSource { max_concurrency: Some(3), ..source() };
    assert_eq!(
        event_source::check(&wide, &narrow, Duration::from_secs(30)),
        Err(MappingError::ConcurrencyAboveReserved { maximum: 3, reserved: 2 })
    );
    for bad in [Some(1), Some(1001)] {
        assert!(refusal(EventSource { max_concurrency: bad, ..source() }, 30).is_err());
    }
    assert_eq!(refusal(source(), 30), Ok(()));
}
