//! Redis goes away, falls silent, forgets its scripts: errors within bounds, and no restart of ours.
#![allow(clippy::unwrap_used, reason = "tests")]

mod sqs_support;

use std::time::{Duration, Instant};

use serde_json::json;
use sqs_support::lossy::Lossy;
use sqs_support::{Queues, Refusal, bodies, eventually, queue, redis_url, url};

fn internal_error() -> Refusal {
    Refusal {
        status: 500,
        kind: "InternalError".to_owned(),
        code: "InternalError;Receiver".to_owned(),
        message: "We encountered an internal error. Please try again.".to_owned(),
    }
}

async fn works_again(queues: &Queues) {
    let receive = json!({"QueueUrl": url("mail"), "WaitTimeSeconds": 0});
    eventually("the queue answers again", async || queues.call("ReceiveMessage", receive.clone()).await.is_ok()).await;
}

#[tokio::test]
async fn a_cut_connection_is_an_internal_error_until_redis_is_back() {
    let way = Lossy::start().await;
    let queues = Queues::through(&way.url()).await;
    queues.ensure("mail", &[("VisibilityTimeout", "0")]).await;
    queues.send("mail", "survives").await;

    way.cut();
    for _ in 0..3 {
        let asked = Instant::now();
        let refusal = queues.refused("SendMessage", json!({"QueueUrl": url("mail"), "MessageBody": "x"})).await;
        assert_eq!(refusal, internal_error());
        assert!(asked.elapsed() < Duration::from_secs(6));
    }
    way.repair();
    works_again(&queues).await;
    assert_eq!(bodies(&queues.receive("mail").await), ["survives"]);
}

#[tokio::test]
async fn a_silent_redis_is_given_up_within_bounds() {
    let way = Lossy::start().await;
    let queues = Queues::through(&way.url()).await;
    queues.ensure("mail", &[]).await;

    way.fall_silent();
    let asked = Instant::now();
    assert_eq!(queues.refused("ReceiveMessage", json!({"QueueUrl": url("mail")})).await, internal_error());
    assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
    way.repair();
    works_again(&queues).await;
}

#[tokio::test]
async fn scripts_that_redis_forgot_are_sent_again() {
    let queues = Queues::with("mail", &[]).await;
    queues.send("mail", "one").await;
    let mut connection = redis::Client::open(redis_url()).unwrap().get_connection().unwrap();
    let _: () = redis::cmd("SCRIPT").arg("FLUSH").query(&mut connection).unwrap();
    queues.send("mail", "two").await;
    assert_eq!(bodies(&queues.receive("mail").await), ["one", "two"]);
}

#[tokio::test]
async fn a_queue_that_redis_lost_is_made_again_and_one_that_is_there_keeps_its_messages() {
    let declared = queue("mail", &[("VisibilityTimeout", "7")]);
    let queues = Queues::with("mail", &[("VisibilityTimeout", "7")]).await;
    queues.send("mail", "one").await;
    assert!(!queues.sqs.restore_queue(&declared).await.unwrap());
    assert_eq!(queues.counts("mail").await.0, 1);

    let mut connection = redis::Client::open(redis_url()).unwrap().get_connection().unwrap();
    let _: () = redis::cmd("DEL").arg(queues.keys()).query(&mut connection).unwrap();
    assert!(queues.sqs.restore_queue(&declared).await.unwrap());
    queues.send("mail", "two").await;
    let received = queues.receive("mail").await;
    assert_eq!(bodies(&received), ["two"]);
    let attributes = json!({"QueueUrl": url("mail"), "AttributeNames": ["VisibilityTimeout"]});
    assert_eq!(queues.ok("GetQueueAttributes", attributes).await["Attributes"]["VisibilityTimeout"], "7");
}

#[tokio::test]
async fn without_redis_connecting_fails_with_the_place_and_without_the_password() {
    let error = local_cloud::sqs::Sqs::connect("redis://:secret@127.0.0.1:1/0", "x:", "http://localhost")
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("127.0.0.1:1"), "{error}");
    assert!(!error.contains("secret"), "{error}");
}
