//! A small HTTP client for what the local cloud itself serves.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// What a function answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its result, or its error, as JSON.
    pub body: String,
    /// `X-Amz-Function-Error`.
    pub function_error: Option<String>,
}

/// Invokes a function through the Invoke API at `endpoint` and waits for its answer.
pub async fn invoke(endpoint: &str, function: &str, payload: String) -> Result<Answer> {
    let uri = format!("{endpoint}/2015-03-31/functions/{function}/invocations");
    let request =
        Request::post(&uri).body(Full::new(Bytes::from(payload))).with_context(|| format!("invoke {function}"))?;
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request).await.with_context(|| format!("reach the runner at {endpoint}"))?;
    let status = response.status();
    let function_error =
        response.headers().get("x-amz-function-error").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = response.into_body().collect().await.context("read the answer")?.to_bytes();
    let body = String::from_utf8_lossy(&body).into_owned();
    if status != StatusCode::OK {
        bail!("the runner says {status}: {body}");
    }
    Ok(Answer { body, function_error })
}

/// Gets a page and returns its status and body.
pub async fn get(url: &str) -> Result<(u16, String)> {
    let request = Request::get(url).body(Full::new(Bytes::new())).with_context(|| format!("read the URL {url}"))?;
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request).await.with_context(|| format!("get {url}"))?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.with_context(|| format!("read {url}"))?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
