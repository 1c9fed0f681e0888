//! A double for the function, and a mapping that is being served.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "shared by a test file")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use local_cloud::bundle::{AsyncFailure, EventSource, Function};
use local_cloud::event_source::{self, Invoke, Outcome};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::sqs_support::{Queues, arn, eventually};

type Behaviour = dyn Fn(usize, Value) -> BoxFuture<'static, Outcome> + Send + Sync;

/// A function that notes what it got and answers as told, by the number of the invocation and its event.
#[derive(Clone)]
pub struct Double {
    behaviour: Arc<Behaviour>,
    pub events: Arc<Mutex<Vec<Value>>>,
    pub running: Arc<AtomicUsize>,
    pub peak: Arc<AtomicUsize>,
}

impl Double {
    pub fn new<F: Future<Output = Outcome> + Send + 'static>(
        behaviour: impl Fn(usize, Value) -> F + Send + Sync + 'static,
    ) -> Self {
        Self {
            behaviour: Arc::new(move |number, event| Box::pin(behaviour(number, event))),
            events: Arc::default(),
            running: Arc::default(),
            peak: Arc::default(),
        }
    }

    pub fn answering(answer: Value) -> Self {
        Self::new(move |_, _| {
            let answer = Bytes::from(answer.to_string());
            async { Outcome::Answered(answer) }
        })
    }

    pub fn events(&self) -> Vec<Value> {
        self.events.lock().unwrap().clone()
    }

    /// Bodies of each invocation.
    pub fn batches(&self) -> Vec<Vec<String>> {
        let bodies =
            |event: &Value| records(event).iter().map(|record| record["body"].as_str().unwrap().to_owned()).collect();
        self.events().iter().map(bodies).collect()
    }

    pub async fn was_invoked(&self, times: usize) {
        eventually(&format!("{times} invocations"), async || self.events().len() >= times).await;
    }
}

impl Invoke for Double {
    async fn invoke(&self, function_arn: &str, payload: Bytes) -> Outcome {
        assert_eq!(function_arn, "arn:aws:lambda:us-east-1:000000000000:function:worker");
        let event: Value = serde_json::from_slice(&payload).expect("an event is JSON");
        let number = {
            let mut events = self.events.lock().unwrap();
            events.push(event.clone());
            events.len() - 1
        };
        self.peak.fetch_max(self.running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let outcome = (self.behaviour)(number, event).await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        outcome
    }
}

pub fn records(event: &Value) -> &Vec<Value> {
    event["Records"].as_array().unwrap()
}

pub fn source() -> EventSource {
    EventSource {
        id: "WorkerRung".to_owned(),
        queue_arn: arn("mail"),
        batch_size: 10,
        batching_window: Duration::ZERO,
        max_concurrency: None,
        reports_item_failures: true,
        enabled: true,
    }
}

pub fn function() -> Function {
    Function {
        logical_id: "Worker".to_owned(),
        name: "worker".to_owned(),
        binary: "worker".to_owned(),
        timeout: Duration::from_secs(1),
        memory_mib: 128,
        environment: BTreeMap::new(),
        reserved_concurrency: None,
        on_async_failure: AsyncFailure { max_retries: 2, max_age: Duration::from_secs(60), destination: None },
        invoke_at_start: false,
        event_sources: Vec::new(),
        schedules: Vec::new(),
        routes: Vec::new(),
    }
}

/// A mapping that is being served.
pub struct Served {
    pub stop: CancellationToken,
    pub task: JoinHandle<()>,
}

pub fn serve(queues: &Queues, source: EventSource, double: &Double, drain: Duration) -> Served {
    let stop = CancellationToken::new();
    let task =
        tokio::spawn(event_source::run(source, function(), queues.sqs.clone(), double.clone(), stop.clone(), drain));
    Served { stop, task }
}

impl Served {
    pub async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.task).await.expect("ends in time").unwrap();
    }
}
