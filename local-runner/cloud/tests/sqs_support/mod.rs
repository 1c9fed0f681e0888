//! What the tests of queues share: queues under a prefix of their own in a real Redis, and a way to lose that Redis.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test file uses a part of this")]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use local_cloud::bundle::{ACCOUNT, Queue, REGION};
use local_cloud::sqs::Sqs;
use serde_json::{Value, json};

pub mod lossy;

pub const PUBLIC_URL: &str = "http://localhost:9000";

/// Queues that vanish with the test.
pub struct Queues {
    pub sqs: Sqs,
    pub prefix: String,
}

pub fn redis_url() -> String {
    std::env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379/15".to_owned())
}

impl Queues {
    pub async fn new() -> Self {
        Self::through(&redis_url()).await
    }

    /// Queues reached by another way, such as a proxy.
    pub async fn through(url: &str) -> Self {
        let prefix = format!("test:{}:", uuid::Uuid::new_v4());
        let sqs = Sqs::connect_with_movable_clock(url, &prefix, PUBLIC_URL)
            .await
            .expect("these tests need a Redis; REDIS_URL names another than redis://127.0.0.1:6379/15");
        Self { sqs, prefix }
    }

    pub async fn with(name: &str, attributes: &[(&str, &str)]) -> Self {
        let queues = Self::new().await;
        queues.ensure(name, attributes).await;
        queues
    }

    pub async fn ensure(&self, name: &str, attributes: &[(&str, &str)]) {
        self.sqs.ensure_queue(&queue(name, attributes)).await.expect("a valid queue");
    }

    pub async fn call(&self, operation: &str, request: Value) -> Result<Value, Refusal> {
        let response = self.sqs.handle(operation, Bytes::from(request.to_string())).await;
        let (parts, body) = response.into_parts();
        let body: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!(parts.headers["content-type"], "application/x-amz-json-1.0");
        if parts.status == StatusCode::OK {
            return Ok(body);
        }
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        Err(Refusal {
            status: parts.status.as_u16(),
            kind: text("__type").rsplit('#').next().unwrap_or_default().to_owned(),
            code: parts.headers["x-amzn-query-error"].to_str().unwrap().to_owned(),
            message: text("message"),
        })
    }

    pub async fn ok(&self, operation: &str, request: Value) -> Value {
        self.call(operation, request).await.unwrap_or_else(|refusal| panic!("{operation}: {refusal:?}"))
    }

    pub async fn refused(&self, operation: &str, request: Value) -> Refusal {
        match self.call(operation, request).await {
            Err(refusal) => refusal,
            Ok(answer) => panic!("{operation} was not refused: {answer}"),
        }
    }

    pub async fn send(&self, queue: &str, body: &str) -> String {
        self.sqs.send(queue, body, Duration::ZERO).await.expect("sent")
    }

    /// Up to ten messages, with all their attributes.
    pub async fn receive(&self, queue: &str) -> Vec<Value> {
        let request = json!({
            "QueueUrl": url(queue), "MaxNumberOfMessages": 10, "WaitTimeSeconds": 0,
            "MessageSystemAttributeNames": ["All"], "MessageAttributeNames": ["All"],
        });
        let answer = self.ok("ReceiveMessage", request).await;
        answer["Messages"].as_array().cloned().unwrap_or_default()
    }

    pub async fn advance(&self, seconds: u64) {
        self.sqs.advance_clock(Duration::from_secs(seconds)).await.expect("a movable clock");
    }

    /// Visible, in flight, delayed.
    pub async fn counts(&self, queue: &str) -> (u64, u64, u64) {
        let counts = self.sqs.counts(queue).await.expect("a queue");
        (counts.visible, counts.in_flight, counts.delayed)
    }

    /// Names of this test's keys in Redis.
    pub fn keys(&self) -> Vec<String> {
        keys(&self.prefix)
    }
}

fn keys(prefix: &str) -> Vec<String> {
    let client = redis::Client::open(redis_url()).unwrap();
    let mut connection = client.get_connection().unwrap();
    redis::cmd("KEYS").arg(format!("{prefix}*")).query(&mut connection).unwrap()
}

impl Drop for Queues {
    fn drop(&mut self) {
        let client = redis::Client::open(redis_url()).unwrap();
        let Ok(mut connection) = client.get_connection() else {
            return;
        };
        for key in keys(&self.prefix) {
            let _: Result<(), _> = redis::cmd("UNLINK").arg(key).query(&mut connection);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub kind: String,
    pub code: String,
    pub message: String,
}

pub fn queue(name: &str, attributes: &[(&str, &str)]) -> Queue {
    let attributes: BTreeMap<_, _> =
        attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Queue { logical_id: name.to_owned(), name: name.to_owned(), attributes }
}

pub fn url(queue: &str) -> String {
    format!("{PUBLIC_URL}/{ACCOUNT}/{queue}")
}

pub fn arn(queue: &str) -> String {
    format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}")
}

pub fn redrive(queue: &str, count: u32) -> String {
    json!({"deadLetterTargetArn": arn(queue), "maxReceiveCount": count}).to_string()
}

/// A request with so many entries for queue `mail`, their ids `entry-0`, `entry-1`, ….
pub fn numbered(count: usize, entry: impl Fn(usize) -> Value) -> Value {
    let entries: Vec<Value> = (0..count)
        .map(|number| {
            let mut entry = entry(number);
            entry["Id"] = format!("entry-{number}").into();
            entry
        })
        .collect();
    json!({"QueueUrl": url("mail"), "Entries": entries})
}

/// Bodies in alphabetical order.
pub fn bodies(messages: &[Value]) -> Vec<&str> {
    let mut bodies: Vec<_> = messages.iter().map(|message| message["Body"].as_str().unwrap()).collect();
    bodies.sort_unstable();
    bodies
}

/// Waits for a condition, at most ten seconds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "not within ten seconds: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
