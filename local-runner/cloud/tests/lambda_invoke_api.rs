//! The Invoke API over HTTP, and asynchronous invocations in a real Redis.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use local_cloud::async_invoke::{AsyncInvoker, AsyncOptions, Destination};
use local_cloud::bundle::Function;
use local_cloud::lambda::{Lambda, routes};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use lambda_support::{Reply, eventually, json, probe, redis_url, send, serve, start};

mod lambda_support;

/// Asynchronous invocations under a prefix of their own; removed by [`Queue::end`].
struct Queue {
    invoker: AsyncInvoker,
    prefix: String,
    records: Arc<Mutex<Vec<(String, Value)>>>,
    stop: CancellationToken,
    runs: Vec<tokio::task::JoinHandle<()>>,
}

fn short_waits() -> AsyncOptions {
    AsyncOptions {
        retry_delays: [Duration::from_millis(60), Duration::from_millis(120)],
        throttle_delay: Duration::from_millis(20),
        max_throttle_delay: Duration::from_millis(100),
        lease: Duration::from_millis(400),
        poll: Duration::from_millis(20),
        ..AsyncOptions::default()
    }
}

impl Queue {
    fn of(lambda: &Lambda) -> Self {
        Self::at(lambda, format!("test-{}:", uuid::Uuid::new_v4().simple()))
    }

    fn at(lambda: &Lambda, prefix: String) -> Self {
        let records = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&records);
        let destination: Destination = Arc::new(move |queue, body| {
            let kept = Arc::clone(&kept);
            Box::pin(async move {
                let mut kept = kept.lock().expect("no panic while it is held");
                // The first try fails, so that every test sees a destination that needs another.
                if kept.is_empty() {
                    kept.push(("refused".to_owned(), Value::Null));
                    anyhow::bail!("the queue does not answer");
                }
                kept.push((queue, json(body.as_bytes())));
                Ok(())
            })
        });
        let invoker = AsyncInvoker::connect(&redis_url(), &prefix, lambda.clone(), destination, short_waits())
            .expect("the URL is one");
        Self { invoker, prefix, records, stop: CancellationToken::new(), runs: Vec::new() }
    }

    fn run(mut self) -> Self {
        self.runs.push(tokio::spawn(self.invoker.clone().run(self.stop.clone())));
        self
    }

    async fn empty(&self) {
        eventually("all invocations are done", async || {
            (self.invoker.pending().await.expect("Redis answers") == 0).then_some(())
        })
        .await;
    }

    fn records(&self) -> Vec<(String, Value)> {
        self.records.lock().expect("no panic while it is held").iter().skip(1).cloned().collect()
    }

    async fn end(self) {
        self.stop.cancel();
        for run in self.runs {
            run.await.expect("no panic");
        }
        let client = redis::Client::open(redis_url()).expect("the URL is one");
        let mut connection = client.get_multiplexed_async_connection().await.expect("Redis at REDIS_URL answers");
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg(format!("{}*", self.prefix))
            .query_async(&mut connection)
            .await
            .expect("Redis answers");
        assert_eq!(keys, Vec::<String>::new(), "a test left something behind");
    }
}

fn failing_into(destination: &str, max_retries: u32) -> Function {
    let mut function = probe();
    function.on_async_failure.destination = Some(destination.to_owned());
    function.on_async_failure.max_retries = max_retries;
    function
}

async fn invoke(url: &str, function: &str, headers: &[(&str, &str)], body: &'static str) -> Reply {
    send("POST", &format!("{url}/2015-03-31/functions/{function}/invocations"), headers, body).await
}

#[tokio::test]
async fn a_synchronous_invocation_answers_with_result_version_and_tail() {
    let lambda = start(probe()).await;
    let queue = Queue::of(&lambda);
    let url = serve(routes(lambda.clone(), queue.invoker.clone())).await;
    let body = r#"{"do":"echo","ä":1}"#;
    let arn = "arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Afunction%3Aprobe-function";
    let echoed = invoke(&url, arn, &[("X-Amz-Log-Type", "Tail")], body).await;
    assert_eq!((echoed.status, echoed.json()), (200, json(body.as_bytes())));
    assert_eq!(echoed.headers["x-amz-executed-version"], "$LATEST");
    assert!(!echoed.headers.contains_key("x-amz-function-error"));
    let tail = base64::engine::general_purpose::STANDARD
        .decode(echoed.headers["x-amz-log-result"].as_bytes())
        .expect("the tail is Base64");
    assert!(String::from_utf8_lossy(&tail).contains("REPORT RequestId: "));

    let failed = invoke(&url, "Probe", &[], r#"{"do":"fail"}"#).await;
    assert_eq!((failed.status, failed.json()["errorMessage"].as_str()), (200, Some("as the event wished")));
    assert_eq!(failed.headers["x-amz-function-error"], "Unhandled");
    assert!(!failed.headers.contains_key("x-amz-log-result"));

    let dry = invoke(&url, "Probe", &[("X-Amz-Invocation-Type", "DryRun")], "{}").await;
    assert_eq!((dry.status, dry.body.len()), (204, 0));
    lambda.shutdown(Duration::from_secs(1)).await;
    queue.end().await;
}

#[tokio::test]
async fn refusals_carry_the_names_and_messages_that_clients_know() {
    let lambda = start(Function { reserved_concurrency: Some(0), ..probe() }).await;
    let queue = Queue::of(&lambda);
    let url = serve(routes(lambda.clone(), queue.invoker.clone())).await;
    let refused = async |function: &str, headers: &[(&str, &str)], body: &'static str| {
        let reply = invoke(&url, function, headers, body).await;
        let name = reply.headers["x-amzn-errortype"].to_str().expect("text").to_owned();
        (reply.status, name, reply.json()["message"].as_str().expect("text").to_owned())
    };
    let arn = "arn:aws:lambda:us-east-1:000000000000:function:Nobody";
    let (status, name, message) = refused("Nobody", &[], "{}").await;
    assert_eq!((status, name.as_str()), (404, "ResourceNotFoundException"));
    assert_eq!(message, format!("Function not found: {arn}"));
    let (status, name, message) = refused("Probe:7", &[], "{}").await;
    assert_eq!((status, name.as_str()), (404, "ResourceNotFoundException"));
    assert!(message.ends_with(":Probe:7"));
    let (status, name, message) = refused("Probe", &[], "{nonsense").await;
    assert_eq!((status, name.as_str()), (400, "InvalidRequestContentException"));
    assert!(message.starts_with("Could not parse request body into json: "));
    let (status, name, message) = refused("Probe", &[], "{}").await;
    assert_eq!((status, name.as_str(), message.as_str()), (429, "TooManyRequestsException", "Rate Exceeded."));
    let (status, name, _) = refused("Probe", &[("X-Amz-Invocation-Type", "Sometimes")], "{}").await;
    assert_eq!((status, name.as_str()), (400, "InvalidParameterValueException"));
    let event = [("X-Amz-Invocation-Type", "Event")];
    assert_eq!(refused("Nobody", &event, "{}").await.0, 404);
    let large: &'static str = Box::leak(format!("\"{}\"", "x".repeat(1024 * 1024)).into_boxed_str());
    let (status, name, _) = refused("Probe", &event, large).await;
    assert_eq!((status, name.as_str()), (413, "RequestTooLargeException"));
    queue.end().await;
}

#[tokio::test]
async fn an_event_is_retried_with_the_same_id_and_then_recorded_at_its_destination() {
    let notes = tempfile::NamedTempFile::new().expect("a file can be made");
    let lambda = start(failing_into("arn:aws:sqs:us-east-1:000000000000:lost", 2)).await;
    let queue = Queue::of(&lambda).run();
    let url = serve(routes(lambda.clone(), queue.invoker.clone())).await;
    let event = json!({"do": "fail-and-note", "file": notes.path()}).to_string();
    let body: &'static str = Box::leak(event.clone().into_boxed_str());
    let accepted = invoke(&url, "Probe", &[("X-Amz-Invocation-Type", "Event")], body).await;
    assert_eq!((accepted.status, accepted.body.len()), (202, 0));
    let id = accepted.headers["x-amzn-requestid"].to_str().expect("text").to_owned();
    queue.empty().await;

    let noted = std::fs::read_to_string(notes.path()).expect("the function noted its invocations");
    assert_eq!(noted.lines().collect::<Vec<_>>(), [&id, &id, &id]);
    let records = queue.records();
    assert_eq!(records.len(), 1);
    let (target, record) = &records[0];
    assert_eq!(target, "arn:aws:sqs:us-east-1:000000000000:lost");
    assert_eq!(record["version"], "1.0");
    assert_eq!(
        record["requestContext"],
        json!({
            "requestId": id, "condition": "RetriesExhausted", "approximateInvokeCount": 3,
            "functionArn": "arn:aws:lambda:us-east-1:000000000000:function:probe-function:$LATEST",
        })
    );
    assert_eq!(record["requestPayload"], json(event.as_bytes()));
    assert_eq!(
        record["responseContext"],
        json!({"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"})
    );
    assert_eq!(record["responsePayload"]["errorMessage"], "as the event wished");
    lambda.shutdown(Duration::from_secs(1)).await;
    queue.end().await;
}

#[tokio::test]
async fn an_event_waits_while_its_function_has_no_room() {
    let lambda = start(Function { reserved_concurrency: Some(1), ..failing_into("unused", 0) }).await;
    let queue = Queue::of(&lambda).run();
    let busy = lambda.invoke("Probe", r#"{"do":"sleep","ms":300}"#.into());
    let submitted = async {
        eventually("it is busy", async || (lambda.activity()[0].running == 1).then_some(())).await;
        queue.invoker.submit("Probe", r#"{"do":"say","text":"at last"}"#.into()).await
    };
    let (busy, submitted) = tokio::join!(busy, submitted);
    assert!(busy.is_ok() && submitted.is_ok());
    queue.empty().await;
    assert!(queue.records().is_empty());
    lambda.shutdown(Duration::from_secs(1)).await;
    queue.end().await;
}

#[tokio::test]
async fn an_event_that_is_too_old_or_has_no_function_to_run_is_recorded() {
    let mut old = failing_into("lost", 2);
    old.on_async_failure.max_age = Duration::ZERO;
    for (function, condition) in [
        (old, "EventAgeExceeded"),
        (Function { reserved_concurrency: Some(0), ..failing_into("lost", 2) }, "RetriesExhausted"),
    ] {
        let lambda = start(function).await;
        let queue = Queue::of(&lambda);
        queue.invoker.submit("Probe", "{}".into()).await.expect("Redis answers");
        tokio::time::sleep(Duration::from_millis(5)).await;
        let queue = queue.run();
        queue.empty().await;
        let records = queue.records();
        assert_eq!(records[0].1["requestContext"]["condition"], condition);
        assert_eq!(records[0].1["requestContext"]["approximateInvokeCount"], 0);
        queue.end().await;
    }
}

#[tokio::test]
async fn an_invocation_survives_a_runner_that_vanishes_in_the_middle() {
    let lambda = start(probe()).await;
    let queue = Queue::of(&lambda);
    queue.invoker.submit("Probe", r#"{"do":"sleep","ms":1000}"#.into()).await.expect("Redis answers");
    let prefix = queue.prefix.clone();
    tokio::task::spawn_blocking(move || vanish_in_the_middle(prefix)).await.expect("no panic");
    assert_eq!(queue.invoker.pending().await.expect("Redis answers"), 1);
    let queue = queue.run();
    let ran = async || (lambda.activity()[0].idle.len() == 1).then_some(());
    eventually("the second runner ran it", ran).await;
    queue.empty().await;
    lambda.shutdown(Duration::from_secs(1)).await;
    queue.end().await;
}

/// A runner on a runtime of its own, which ends as abruptly as a process does while an invocation runs.
fn vanish_in_the_middle(prefix: String) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    runtime.block_on(async {
        let lambda = start(probe()).await;
        let _queue = Queue::at(&lambda, prefix).run();
        eventually("it runs", async || (lambda.activity()[0].running == 1).then_some(())).await;
    });
    runtime.shutdown_background();
}

#[tokio::test]
async fn a_long_invocation_keeps_its_lease_and_runs_once() {
    let lambda = start(probe()).await;
    let queue = Queue::of(&lambda).run();
    queue.invoker.submit("Probe", r#"{"do":"sleep","ms":1200}"#.into()).await.expect("Redis answers");
    queue.empty().await;
    assert_eq!(lambda.activity()[0].idle.len(), 1, "a second process would mean a second invocation");
    lambda.shutdown(Duration::from_secs(1)).await;
    queue.end().await;
}

#[tokio::test]
async fn an_event_is_not_accepted_while_redis_is_down() {
    let lambda = start(probe()).await;
    let destination: Destination = Arc::new(|_, _| Box::pin(async { Ok(()) }));
    let nowhere = "redis://127.0.0.1:1";
    let invoker =
        AsyncInvoker::connect(nowhere, "test:", lambda.clone(), destination, short_waits()).expect("the URL is one");
    let url = serve(routes(lambda, invoker.clone())).await;
    let refused = invoke(&url, "Probe", &[("X-Amz-Invocation-Type", "Event")], "{}").await;
    assert_eq!(refused.status, 500);
    assert_eq!(refused.headers["x-amzn-errortype"], "ServiceException");

    let stop = CancellationToken::new();
    let run = tokio::spawn(invoker.run(stop.clone()));
    stop.cancel();
    run.await.expect("it ends although Redis is down");
}
