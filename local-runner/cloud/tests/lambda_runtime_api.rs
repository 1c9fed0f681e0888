//! The Runtime API as a process sees it, request by request.

use std::time::{Duration, Instant};

use local_cloud::runtime_api::{Answer, Invocation, RuntimeApi};
use serde_json::json;

use lambda_support::{Reply, send};

mod lambda_support;

struct Runtime {
    api: RuntimeApi,
    url: String,
}

impl Runtime {
    async fn listen() -> Self {
        let api = RuntimeApi::listen("Probe").await.expect("a port is free");
        let url = format!("http://{}", api.address());
        Self { api, url }
    }

    async fn get(&self, path: &str) -> Reply {
        send("GET", &format!("{}{path}", self.url), &[], "").await
    }

    async fn post(&self, path: &str, body: impl Into<bytes::Bytes>) -> Reply {
        send("POST", &format!("{}{path}", self.url), &[], body).await
    }

    /// Asks for work in the background, as a process does.
    fn ask(&self) -> tokio::task::JoinHandle<Reply> {
        let url = format!("{}/2018-06-01/runtime/invocation/next", self.url);
        tokio::spawn(async move { send("GET", &url, &[], "").await })
    }
}

fn invocation(id: &str, timeout: Duration) -> Invocation {
    Invocation {
        request_id: id.to_owned(),
        payload: "{\"a\":1}".into(),
        deadline: Instant::now() + timeout,
        arn: "arn:aws:lambda:us-east-1:000000000000:function:Probe".to_owned(),
        trace_id: "Root=1-5-6".to_owned(),
        client_context: None,
    }
}

#[tokio::test]
async fn an_event_travels_with_its_headers_and_its_answer_counts_once() {
    let runtime = Runtime::listen().await;
    let asked = runtime.ask();
    runtime.api.ready().await.expect("the process asked for work");
    let answer = runtime.api.dispatch(invocation("one", Duration::from_secs(60)));
    let event = asked.await.expect("no panic");
    assert_eq!(event.status, 200);
    assert_eq!(event.json(), json!({"a": 1}));
    assert_eq!(event.headers["lambda-runtime-aws-request-id"], "one");
    assert_eq!(event.headers["lambda-runtime-trace-id"], "Root=1-5-6");
    assert_eq!(event.headers["content-type"], "application/json");
    assert!(!event.headers.contains_key("lambda-runtime-client-context"));
    let deadline: i64 = event.headers["lambda-runtime-deadline-ms"].to_str().expect("text").parse().expect("a number");
    let left = deadline - chrono::Utc::now().timestamp_millis();
    assert!((50_000..=60_001).contains(&left), "{left}");

    let wrong = runtime.post("/2018-06-01/runtime/invocation/two/response", "1").await;
    assert_eq!((wrong.status, wrong.json()["errorType"].as_str()), (400, Some("InvalidRequestID")));
    assert_eq!(wrong.json()["errorMessage"], "Invalid request ID");
    let accepted = runtime.post("/2018-06-01/runtime/invocation/one/response", "\"done\"").await;
    assert_eq!((accepted.status, accepted.json()), (202, json!({"status": "OK"})));
    assert_eq!(answer.await, Ok(Answer::Response("\"done\"".into())));
    assert_eq!(runtime.post("/2018-06-01/runtime/invocation/one/response", "2").await.status, 400);
}

#[tokio::test]
async fn an_answer_after_the_deadline_is_refused() {
    let runtime = Runtime::listen().await;
    let asked = runtime.ask();
    runtime.api.ready().await.expect("the process asked for work");
    let answer = runtime.api.dispatch(invocation("late", Duration::ZERO));
    asked.await.expect("no panic");
    let refused = runtime.post("/2018-06-01/runtime/invocation/late/response", "1").await;
    assert_eq!((refused.status, refused.json()["errorType"].as_str()), (400, Some("InvalidRequestID")));
    runtime.api.abandon();
    assert!(answer.await.is_err());
}

#[tokio::test]
async fn asking_for_work_in_the_middle_of_an_invocation_is_refused() {
    let runtime = Runtime::listen().await;
    let asked = runtime.ask();
    runtime.api.ready().await.expect("the process asked for work");
    let _answer = runtime.api.dispatch(invocation("one", Duration::from_secs(60)));
    asked.await.expect("no panic");
    let refused = runtime.ask().await.expect("no panic");
    assert_eq!((refused.status, refused.json()["errorType"].as_str()), (403, Some("InvalidStateTransition")));
}

#[tokio::test]
async fn an_error_of_the_start_is_taken_only_before_the_first_question_for_work() {
    let runtime = Runtime::listen().await;
    let body = json!({"errorType": "Config", "errorMessage": "DATABASE_URL is missing"}).to_string();
    assert_eq!(runtime.post("/2018-06-01/runtime/init/error", body.clone()).await.status, 202);
    let error = runtime.api.ready().await.expect_err("the start failed");
    assert_eq!((error.error_type.as_str(), error.payload), ("Config", body.clone().into()));

    let runtime = Runtime::listen().await;
    let _asked = runtime.ask();
    runtime.api.ready().await.expect("the process asked for work");
    let refused = runtime.post("/2018-06-01/runtime/init/error", body).await;
    assert_eq!((refused.status, refused.json()["errorType"].as_str()), (403, Some("InvalidStateTransition")));
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_refused_and_known_to_the_invoker() {
    let runtime = Runtime::listen().await;
    let asked = runtime.ask();
    runtime.api.ready().await.expect("the process asked for work");
    let answer = runtime.api.dispatch(invocation("one", Duration::from_secs(60)));
    asked.await.expect("no panic");
    let refused = runtime.post("/2018-06-01/runtime/invocation/one/response", vec![b'1'; 6_291_557]).await;
    assert_eq!((refused.status, refused.json()["errorType"].as_str()), (413, Some("RequestEntityTooLarge")));
    assert_eq!(answer.await, Ok(Answer::TooLarge));
}

#[tokio::test]
async fn extensions_register_get_events_and_delay_the_end_of_an_invocation() {
    let runtime = Runtime::listen().await;
    assert_eq!(runtime.get("/2018-06-01/ping").await.body, "pong");
    assert_eq!(runtime.get("/2018-06-01/nothing").await.status, 404);
    assert_eq!(runtime.get("/2018-06-01/runtime/init/error").await.status, 405);
    let missing = runtime.get("/2020-01-01/extension/event/next").await;
    assert_eq!(
        (missing.status, missing.json()["errorType"].as_str()),
        (403, Some("Extension.MissingExtensionIdentifier"))
    );

    assert!(!runtime.api.has_extensions());
    let url = format!("{}/2020-01-01/extension/register", runtime.url);
    let body = r#"{"events":["INVOKE","SHUTDOWN"]}"#;
    let registered = send("POST", &url, &[("Lambda-Extension-Name", "helper")], body).await;
    assert_eq!((registered.status, registered.json()["functionName"].as_str()), (200, Some("Probe")));
    assert!(runtime.api.has_extensions());
    let id = registered.headers["lambda-extension-identifier"].to_str().expect("text").to_owned();
    let next = || {
        let (url, id) = (format!("{}/2020-01-01/extension/event/next", runtime.url), id.clone());
        tokio::spawn(async move { send("GET", &url, &[("Lambda-Extension-Identifier", &id)], "").await })
    };

    let asked = runtime.ask();
    let ready = tokio::time::timeout(Duration::from_millis(50), runtime.api.ready()).await;
    assert!(ready.is_err(), "the extension has not asked for its next event yet");
    let first = next();
    runtime.api.ready().await.expect("both asked");
    let _answer = runtime.api.dispatch(invocation("one", Duration::from_secs(60)));
    let event = first.await.expect("no panic").json();
    assert_eq!((event["eventType"].as_str(), event["requestId"].as_str()), (Some("INVOKE"), Some("one")));
    asked.await.expect("no panic");
    let second = next();
    runtime.api.announce_shutdown(Duration::from_millis(500));
    assert_eq!(second.await.expect("no panic").json()["eventType"], "SHUTDOWN");

    let url = format!("{}/2022-07-01/telemetry", runtime.url);
    let telemetry = send("PUT", &url, &[("Lambda-Extension-Identifier", &id)], "{}").await;
    assert_eq!((telemetry.status, telemetry.json()["errorType"].as_str()), (202, Some("Telemetry.NotSupported")));
}
