//! Real processes under the pool: reuse, freezing, limits, crashes, shutdown.

use std::time::{Duration, Instant};

use local_cloud::lambda::{InvokeError, LambdaOptions, LogSink, Request};
use serde_json::json;

use lambda_support::{eventually, json, probe, process_state, start, start_with};

mod lambda_support;

async fn pid(lambda: &local_cloud::lambda::Lambda) -> u64 {
    let invoked = lambda.invoke("Probe", "{}".into()).await.expect("the function is reached");
    json(&invoked.payload)["pid"].as_u64().expect("the probe tells its process number")
}

#[tokio::test]
async fn a_warm_process_is_reused_and_frozen_between_invocations() {
    let lambda = start(probe()).await;
    let cold = lambda.invoke("Probe", "{}".into()).await.expect("the function is reached");
    let first = json(&cold.payload)["pid"].as_u64().expect("the probe tells its process number");
    assert!(cold.cold);
    assert!(cold.max_memory_mib > 0);
    for line in ["START RequestId: ", "END RequestId: ", "REPORT RequestId: ", "\tInit Duration: "] {
        assert!(cold.log_tail.contains(line), "{line} is missing in {}", cold.log_tail);
    }

    eventually("the process is stopped", async || (process_state(first) == Some('T')).then_some(())).await;

    let warm = lambda.invoke("Probe", "{}".into()).await.expect("the function is reached");
    assert!(!warm.cold);
    assert!(!warm.log_tail.contains("Init Duration"));
    assert_eq!(json(&warm.payload)["pid"], first);
    assert_ne!(warm.request_id, cold.request_id);
    lambda.shutdown(Duration::from_secs(1)).await;
    assert_eq!(process_state(first), None);
}

#[tokio::test]
async fn invocations_at_once_get_processes_of_their_own_up_to_the_reserved_concurrency() {
    let lambda = start(local_cloud::bundle::Function { reserved_concurrency: Some(2), ..probe() }).await;
    let sleep = || lambda.invoke("Probe", r#"{"do":"sleep","ms":300}"#.into());
    let (one, two, three) = tokio::join!(sleep(), sleep(), sleep());
    assert!(one.is_ok_and(|invoked| invoked.cold) && two.is_ok_and(|invoked| invoked.cold));
    assert_eq!(three, Err(InvokeError::Throttled));
    assert_eq!(lambda.activity()[0].idle.len(), 2);
    lambda.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_process_that_runs_out_of_time_is_killed_and_replaced() {
    let lambda = start(local_cloud::bundle::Function { timeout: Duration::from_secs(1), ..probe() }).await;
    let before = pid(&lambda).await;
    let started = Instant::now();
    let late = lambda.invoke("Probe", r#"{"do":"sleep","ms":30000}"#.into()).await.expect("the function is reached");
    assert!(started.elapsed() < Duration::from_secs(3));
    let error = late.error.expect("it ran out of time");
    assert_eq!(error.kind, "Sandbox.Timedout");
    assert_eq!(error.message, format!("RequestId: {} Error: Task timed out after 1.00 seconds", late.request_id));
    assert_eq!(json(&late.payload)["errorType"], "Sandbox.Timedout");
    assert!(late.log_tail.contains("\tStatus: timeout"));
    assert_eq!(process_state(before), None);
    assert_ne!(pid(&lambda).await, before);
    lambda.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_process_that_exits_is_reported_with_its_status() {
    let lambda = start(probe()).await;
    for (code, end) in
        [(3, "Runtime exited with error: exit status 3"), (0, "Runtime exited without providing a reason")]
    {
        let event = json!({"do": "exit", "code": code}).to_string();
        let gone = lambda.invoke("Probe", event.into()).await.expect("the function is reached");
        let error = gone.error.expect("it exited");
        assert_eq!(error.kind, "Runtime.ExitError");
        assert_eq!(error.message, format!("RequestId: {} Error: {end}", gone.request_id));
    }
    pid(&lambda).await;
    lambda.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_panic_is_an_error_of_the_function_and_the_process_lives_on() {
    let lambda = start(probe()).await;
    let before = pid(&lambda).await;
    let panicked = lambda.invoke("Probe", r#"{"do":"panic"}"#.into()).await.expect("the function is reached");
    assert!(panicked.error.expect("it panicked").message.contains("as the event wished"));
    assert_eq!(pid(&lambda).await, before);
    let failed = lambda.invoke("Probe", r#"{"do":"fail"}"#.into()).await.expect("the function is reached");
    assert_eq!(failed.error.expect("it failed").message, "as the event wished");
    lambda.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_process_that_takes_more_memory_than_declared_is_killed() {
    let lambda = start(probe()).await;
    let event = r#"{"do":"grow","mib":200}"#;
    let killed = lambda.invoke("Probe", event.into()).await.expect("the function is reached");
    let error = killed.error.expect("it was killed");
    assert_eq!(error.kind, "Runtime.ExitError");
    assert!(error.message.ends_with("Runtime exited with error: signal: killed"), "{}", error.message);
    assert!(killed.max_memory_mib >= 200, "{}", killed.log_tail);
    lambda.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_result_that_is_too_large_is_an_error_of_the_function() {
    let lambda = start(probe()).await;
    let event = r#"{"do":"large","bytes":6291555}"#;
    let large = lambda.invoke("Probe", event.into()).await.expect("the function is reached");
    assert_eq!(large.error.expect("it is too large").kind, "Function.ResponseSizeTooLarge");
    let event = r#"{"do":"large","bytes":6291554}"#;
    let fits = lambda.invoke("Probe", event.into()).await.expect("the function is reached");
    assert_eq!(fits.error, None);
    assert_eq!(fits.payload.len(), 6_291_556);
    lambda.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_start_that_fails_once_is_repeated_and_one_that_fails_always_is_reported() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let mut once = probe();
    once.environment.insert("PROBE_START".to_owned(), "exit-once".to_owned());
    once.environment.insert("PROBE_MARKER".to_owned(), folder.path().join("marker").display().to_string());
    let lambda = start(once).await;
    let invoked = lambda.invoke("Probe", "{}".into()).await.expect("the function is reached");
    assert_eq!(invoked.error, None);
    assert!(invoked.log_tail.contains("INIT_REPORT"));
    lambda.shutdown(Duration::from_secs(1)).await;

    let mut always = probe();
    always.environment.insert("PROBE_START".to_owned(), "exit".to_owned());
    let lambda = start(always).await;
    let invoked = lambda.invoke("Probe", "{}".into()).await.expect("the function is reached");
    let error = invoked.error.expect("it never started");
    assert!(error.message.ends_with("Runtime exited with error: exit status 7"), "{}", error.message);
    lambda.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_start_that_hangs_ends_with_the_limits_of_start_and_function() {
    let mut hanging = local_cloud::bundle::Function { timeout: Duration::from_millis(300), ..probe() };
    hanging.environment.insert("PROBE_START".to_owned(), "hang".to_owned());
    let options = LambdaOptions { init_limit: Duration::from_millis(300), ..LambdaOptions::default() };
    let lambda = start_with(hanging, options).await;
    let invoked = lambda.invoke("Probe", "{}".into()).await.expect("the function is reached");
    assert_eq!(invoked.error.expect("it never started").kind, "Sandbox.Timedout");
    lambda.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn an_executable_that_is_missing_is_an_invalid_entrypoint() {
    let functions =
        vec![local_cloud::lambda::LambdaFunction { function: probe(), executable: "/nowhere/bootstrap".into() }];
    let lambda = local_cloud::lambda::Lambda::start(functions, LambdaOptions::default()).await.expect("it starts");
    let invoked = lambda.invoke("Probe", "{}".into()).await.expect("the function is found");
    let error = invoked.error.expect("there is nothing to start");
    assert_eq!(error.kind, "Runtime.InvalidEntrypoint");
    assert!(error.message.contains("/nowhere/bootstrap"), "{}", error.message);
}

#[tokio::test]
async fn the_process_sees_lambdas_environment_and_nothing_of_the_runners() {
    let mut function = probe();
    function.environment.insert("FROM_TEMPLATE".to_owned(), "template".to_owned());
    let extra = [("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:9000"), ("FROM_TEMPLATE", "runner")];
    let options = LambdaOptions {
        extra_env: extra.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..LambdaOptions::default()
    };
    let lambda = start_with(function, options).await;
    let mut request = Request::new("{}".into());
    request.client_context = Some(r#"{"custom":{"a":"b"}}"#.to_owned());
    let before = chrono::Utc::now().timestamp_millis();
    let invoked = lambda.invoke_as("arn:aws:lambda:us-east-1:000000000000:function:probe-function", request);
    let facts = json(&invoked.await.expect("the function is reached").payload);
    let environment = &facts["environment"];
    assert_eq!(environment["AWS_LAMBDA_FUNCTION_NAME"], "probe-function");
    assert_eq!(environment["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"], "128");
    assert_eq!(environment["AWS_ENDPOINT_URL_SQS"], "http://127.0.0.1:9000");
    assert_eq!(environment["FROM_TEMPLATE"], "template");
    assert_eq!(environment["TZ"], ":UTC");
    assert_eq!(environment["HOME"], serde_json::Value::Null);
    assert_eq!(environment["CARGO"], serde_json::Value::Null);
    assert_eq!(facts["client_context"], json!({"a": "b"}));
    assert_eq!(facts["arn"], "arn:aws:lambda:us-east-1:000000000000:function:probe-function");
    let left = facts["deadline_ms"].as_i64().expect("the deadline is a number") - before;
    assert!((9_900..12_000).contains(&left), "{left} ms left of 10 s");
    lambda.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn what_the_process_writes_arrives_line_by_line_with_the_invocation() {
    let (log, mut lines) = LogSink::channel();
    let lambda = start_with(probe(), LambdaOptions { log, ..LambdaOptions::default() }).await;
    let invoked = lambda
        .invoke("Probe", json!({"do": "say", "text": "one\ntwo"}).to_string().into())
        .await
        .expect("the function is reached");
    assert!(invoked.log_tail.contains("one\ntwo\nEND RequestId"), "{}", invoked.log_tail);
    lambda.shutdown(Duration::from_secs(1)).await;
    drop(lambda);
    let mut said = Vec::new();
    while let Some(line) = lines.recv().await {
        if line.request_id == Some(invoked.request_id.to_string()) {
            said.push(line.text);
        }
    }
    assert_eq!(said[1..3], ["one", "two"]);
}
