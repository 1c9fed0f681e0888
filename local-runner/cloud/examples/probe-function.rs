//! A function for the tests of the local cloud: it does what its event says, and starts as its environment says.

use std::time::Duration;

use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    match std::env::var("PROBE_START").as_deref() {
        Ok("exit") => std::process::exit(7),
        Ok("hang") => std::future::pending().await,
        Ok("exit-once") => {
            let marker = std::env::var("PROBE_MARKER")?;
            if !std::path::Path::new(&marker).exists() {
                std::fs::write(marker, "")?;
                std::process::exit(7);
            }
        }
        Ok("extension") => register_extension()?,
        _ => {}
    }
    run(service_fn(handle)).await
}

/// Registers an extension without events, and notes the SIGTERM that this earns.
fn register_extension() -> Result<(), Error> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(std::env::var("AWS_LAMBDA_RUNTIME_API")?)?;
    let head = "POST /2020-01-01/extension/register HTTP/1.1\r\nHost: runtime\r\nConnection: close\r\n\
                Lambda-Extension-Name: probe\r\nContent-Length: 13\r\n\r\n";
    stream.write_all(format!("{head}{{\"events\":[]}}").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if !answer.starts_with("HTTP/1.1 200") {
        return Err(answer.into());
    }
    let marker = std::env::var("PROBE_MARKER")?;
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::spawn(async move {
        terminated.recv().await;
        let noted = std::fs::write(marker, "SIGTERM");
        std::process::exit(i32::from(noted.is_err()));
    });
    Ok(())
}

async fn handle(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let (event, context) = event.into_parts();
    if event["version"] == "2.0" {
        return http(&event).await;
    }
    let number = |name: &str| event[name].as_u64().unwrap_or_default();
    match event["do"].as_str().unwrap_or_default() {
        "echo" => Ok(event),
        "say" => {
            println!("{}", event["text"].as_str().unwrap_or_default());
            Ok(Value::Null)
        }
        "sleep" => {
            tokio::time::sleep(Duration::from_millis(number("ms"))).await;
            Ok(json!("slept"))
        }
        "exit" => std::process::exit(i32::try_from(number("code"))?),
        "panic" => panic!("as the event wished"),
        "fail" => Err("as the event wished".into()),
        "fail-and-note" => {
            use std::io::Write;
            let mut notes = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(event["file"].as_str().unwrap_or_default())?;
            writeln!(notes, "{}", context.request_id)?;
            Err("as the event wished".into())
        }
        "grow" => {
            let memory = vec![1_u8; usize::try_from(number("mib"))? * 1024 * 1024];
            tokio::time::sleep(Duration::from_secs(20)).await;
            Ok(json!(memory.len()))
        }
        "large" => Ok(json!("x".repeat(usize::try_from(number("bytes"))?))),
        _ => Ok(json!({
            "pid": std::process::id(),
            "request_id": context.request_id,
            "arn": context.invoked_function_arn,
            "deadline_ms": context.deadline,
            "client_context": context.client_context.map(|context| context.custom),
            "environment": std::env::vars().collect::<std::collections::BTreeMap<_, _>>(),
        })),
    }
}

/// Answers a request of the gateway: with the event, or as the path says.
async fn http(event: &Value) -> Result<Value, Error> {
    match event["rawPath"].as_str().unwrap_or_default() {
        "/plain" => Ok(json!("plain text")),
        "/fail" => Err("as the path wished".into()),
        "/slow" => {
            tokio::time::sleep(Duration::from_secs(2)).await;
            Ok(json!("late"))
        }
        _ => Ok(json!({
            "statusCode": 201,
            "headers": {"content-type": "application/json", "x-probe": "yes"},
            "cookies": ["a=1; HttpOnly", "b=2"],
            "body": event.to_string(),
        })),
    }
}
