//! Messages as clients send and receive them: bodies, attributes, batches, long polls, limits.
#![allow(clippy::unwrap_used, reason = "tests")]

mod sqs_support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqs_support::{Queues, numbered, url};

#[tokio::test]
async fn a_message_arrives_as_it_was_sent_with_only_what_was_asked_for() {
    let queues = Queues::with("mail", &[]).await;
    let body = "Grüße 漢字 🚀\t\"quoted\"\n";
    let sent = queues
        .ok(
            "SendMessage",
            json!({
                "QueueUrl": url("mail"),
                "MessageBody": body,
                "MessageAttributes": {
                    "kind": {"DataType": "String", "StringValue": "news"},
                    "mail.count": {"DataType": "Number.int", "StringValue": "12"},
                    "mail.raw": {"DataType": "Binary", "BinaryValue": "AAEC/w=="},
                },
                "MessageSystemAttributes": {"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1-5"}},
                "MessageGroupId": "tenant-1",
            }),
        )
        .await;
    for checksum in ["MD5OfMessageBody", "MD5OfMessageAttributes", "MD5OfMessageSystemAttributes"] {
        assert_eq!(sent[checksum].as_str().unwrap().len(), 32, "{checksum}");
    }

    let receive = |system: Value, own: Value| json!({"QueueUrl": url("mail"), "VisibilityTimeout": 0, "AttributeNames": system, "MessageAttributeNames": own});
    let bare = queues.ok("ReceiveMessage", receive(json!([]), json!([]))).await["Messages"][0].clone();
    let keys: Vec<&String> = bare.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["Body", "MD5OfBody", "MessageId", "ReceiptHandle"]);
    assert_eq!(
        (&bare["Body"], &bare["MD5OfBody"], &bare["MessageId"]),
        (&json!(body), &sent["MD5OfMessageBody"], &sent["MessageId"])
    );

    let all = queues.ok("ReceiveMessage", receive(json!(["All"]), json!(["All"]))).await["Messages"][0].clone();
    assert_eq!(all["MD5OfMessageAttributes"], sent["MD5OfMessageAttributes"]);
    assert_eq!(all["MessageAttributes"]["mail.raw"], json!({"DataType": "Binary", "BinaryValue": "AAEC/w=="}));
    let system: Vec<&String> = all["Attributes"].as_object().unwrap().keys().collect();
    assert_eq!(
        system,
        [
            "AWSTraceHeader",
            "ApproximateFirstReceiveTimestamp",
            "ApproximateReceiveCount",
            "MessageGroupId",
            "SenderId",
            "SentTimestamp"
        ]
    );
    assert!(all["Attributes"].as_object().unwrap().values().all(Value::is_string));

    let some =
        queues.ok("ReceiveMessage", receive(json!(["SentTimestamp"]), json!(["mail.*"]))).await["Messages"][0].clone();
    assert_eq!(some["Attributes"].as_object().unwrap().len(), 1);
    assert_eq!(some["MessageAttributes"].as_object().unwrap().len(), 2);
    assert_ne!(some["MD5OfMessageAttributes"], sent["MD5OfMessageAttributes"], "the checksum covers what is returned");
}

#[tokio::test]
async fn a_receive_gives_at_most_what_was_asked_for_in_the_order_of_sending() {
    let queues = Queues::with("mail", &[]).await;
    queues.ok("SendMessageBatch", numbered(10, |number| json!({"MessageBody": format!("{number}")}))).await;
    queues.send("mail", "10").await;
    let one = queues.ok("ReceiveMessage", json!({"QueueUrl": url("mail")})).await;
    assert_eq!(one["Messages"].as_array().unwrap().len(), 1);
    let ten: Vec<_> =
        queues.receive("mail").await.iter().map(|message| message["Body"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ten, ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]);
    assert_eq!(queues.ok("ReceiveMessage", json!({"QueueUrl": url("mail")})).await, json!({}));
}

#[tokio::test]
async fn a_waiting_receiver_is_woken_by_a_send_at_once() {
    let queues = Queues::with("mail", &[]).await;
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let request = json!({"QueueUrl": url("mail"), "WaitTimeSeconds": 20});
        let receive = queues.call("ReceiveMessage", request);
        tokio::pin!(receive);
        // One round, so that it waits already; its next look at Redis would be 200 ms later.
        let round = Duration::from_millis(20);
        assert!(tokio::time::timeout(round, &mut receive).await.is_err());
        let sent = Instant::now();
        queues.send("mail", "now").await;
        assert_eq!(receive.await.unwrap()["Messages"][0]["Body"], "now");
        fastest = fastest.min(sent.elapsed());
    }
    assert!(fastest < Duration::from_millis(100), "{fastest:?}");
}

#[tokio::test]
async fn a_waiting_receiver_finds_what_another_process_sent() {
    let queues = Queues::with("mail", &[("ReceiveMessageWaitTimeSeconds", "20")]).await;
    let other =
        local_cloud::sqs::Sqs::connect(&sqs_support::redis_url(), &queues.prefix, "http://other").await.unwrap();
    let receive = queues.call("ReceiveMessage", json!({"QueueUrl": url("mail")}));
    tokio::pin!(receive);
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut receive).await.is_err());
    let sent = Instant::now();
    other.send("mail", "from elsewhere", Duration::ZERO).await.unwrap();
    assert_eq!(receive.await.unwrap()["Messages"][0]["Body"], "from elsewhere");
    assert!(sent.elapsed() < Duration::from_secs(2), "{:?}", sent.elapsed());
}

#[tokio::test]
async fn many_receivers_at_once_share_the_messages_without_a_double() {
    let queues = Queues::with("mail", &[]).await;
    for _ in 0..20 {
        queues.ok("SendMessageBatch", numbered(10, |_| json!({"MessageBody": "x"}))).await;
    }
    let receivers = (0..20).map(|_| async { [queues.receive("mail").await, queues.receive("mail").await].concat() });
    let received = futures_util::future::join_all(receivers).await.concat();
    let ids: std::collections::HashSet<&str> =
        received.iter().map(|message| message["MessageId"].as_str().unwrap()).collect();
    assert_eq!((received.len(), ids.len()), (200, 200));
}

#[tokio::test]
async fn parameters_out_of_range_get_the_sentences_of_aws() {
    let queues = Queues::with("mail", &[]).await;
    for (operation, parameter, value, reason) in [
        ("ReceiveMessage", "MaxNumberOfMessages", 11, "Must be between 1 and 10, if provided."),
        ("ReceiveMessage", "MaxNumberOfMessages", 0, "Must be between 1 and 10, if provided."),
        ("ReceiveMessage", "WaitTimeSeconds", 21, "Must be >= 0 and <= 20, if provided."),
        ("ReceiveMessage", "VisibilityTimeout", 43_201, "Must be >= 0 and <= 43200, if provided."),
        ("SendMessage", "DelaySeconds", 901, "DelaySeconds must be >= 0 and <= 900."),
    ] {
        let refusal =
            queues.refused(operation, json!({"QueueUrl": url("mail"), "MessageBody": "x", parameter: value})).await;
        assert_eq!(refusal.message, format!("Value {value} for parameter {parameter} is invalid. Reason: {reason}"));
        assert_eq!((refusal.status, refusal.code.as_str()), (400, "InvalidParameterValue;Sender"));
    }
    let refusal =
        queues.refused("ReceiveMessage", json!({"QueueUrl": url("mail"), "AttributeNames": ["Colour"]})).await;
    assert_eq!(refusal.code, "InvalidAttributeName;Sender");
    let refusal = queues.refused("SendMessage", json!({"QueueUrl": url("mail"), "MessageBody": ""})).await;
    assert_eq!(
        (refusal.code.as_str(), refusal.message.as_str()),
        ("MissingParameter;Sender", "The request must contain the parameter MessageBody.")
    );
    let refusal = queues.refused("SendMessage", json!({"QueueUrl": url("mail"), "MessageBody": "\u{0}"})).await;
    assert_eq!(refusal.code, "InvalidMessageContents;Sender");
    let refusal = queues
        .refused("SendMessage", json!({"QueueUrl": url("mail"), "MessageBody": "x", "MessageDeduplicationId": "a"}))
        .await;
    assert_eq!(
        refusal.message,
        "Value a for parameter MessageDeduplicationId is invalid. Reason: The request include parameter that is not valid for this queue type."
    );
}

#[tokio::test]
async fn sizes_are_limited_by_the_queue_the_service_and_the_request() {
    let queues = Queues::with("mail", &[]).await;
    let mib = 1_048_576;
    let send = |length: usize| json!({"QueueUrl": url("mail"), "MessageBody": "x".repeat(length)});
    queues.ok("SendMessage", send(mib)).await;
    assert_eq!(
        queues.refused("SendMessage", send(mib + 1)).await.message,
        "One or more parameters are invalid. Reason: Message must be shorter than 1048576 bytes."
    );
    let refusal = queues
        .refused("SendMessageBatch", numbered(2, |number| json!({"MessageBody": "x".repeat(mib / 2 + number)})))
        .await;
    assert_eq!(refusal.code, "AWS.SimpleQueueService.BatchRequestTooLong;Sender");
    assert_eq!(refusal.message, "Batch requests cannot be longer than 1048576 bytes. You have sent 1048577 bytes.");
    assert_eq!(queues.counts("mail").await, (1, 0, 0));

    queues.ensure("mail", &[("MaximumMessageSize", "1024")]).await;
    let mut with_attribute = send(1015);
    with_attribute["MessageAttributes"] = json!({"a": {"DataType": "String", "StringValue": "b"}});
    queues.ok("SendMessage", with_attribute.clone()).await;
    with_attribute["MessageAttributes"]["a"]["StringValue"] = "bcd".into();
    assert_eq!(
        queues.refused("SendMessage", with_attribute).await.message,
        "One or more parameters are invalid. Reason: Message must be shorter than 1024 bytes."
    );
    let answer =
        queues.ok("SendMessageBatch", numbered(2, |number| json!({"MessageBody": "x".repeat(1024 + number)}))).await;
    assert_eq!(answer["Successful"][0]["Id"], "entry-0");
    assert_eq!(
        answer["Failed"],
        json!([{
            "Id": "entry-1",
            "SenderFault": true,
            "Code": "InvalidParameterValue",
            "Message": "One or more parameters cannot be validated. Reason: Message must be shorter than 1024 bytes.",
        }])
    );
    assert!(queues.sqs.send("mail", &"x".repeat(1025), Duration::ZERO).await.is_err());
}

#[tokio::test]
async fn a_handle_that_was_never_issued_is_invalid() {
    let queues = Queues::with("mail", &[]).await;
    for operation in ["DeleteMessage", "ChangeMessageVisibility"] {
        let refusal = queues
            .refused(operation, json!({"QueueUrl": url("mail"), "ReceiptHandle": "garbage", "VisibilityTimeout": 1}))
            .await;
        assert_eq!(
            (refusal.kind.as_str(), refusal.code.as_str()),
            ("ReceiptHandleIsInvalid", "ReceiptHandleIsInvalid;Sender")
        );
    }
}
