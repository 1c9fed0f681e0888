//! What the tests of functions share: the probe function under a local cloud, and waiting without sleeping blindly.

#![allow(dead_code, reason = "every test file uses another part")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use local_cloud::bundle::{AsyncFailure, Function};
use local_cloud::lambda::{Lambda, LambdaFunction, LambdaOptions};
use serde_json::Value;

/// The executable of an example of this crate, built when it is missing or may be stale.
pub(crate) fn example(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    let test = std::env::current_exe().expect("the test knows where it is");
    let profile = test.ancestors().nth(2).expect("tests stand in target/PROFILE/deps");
    BUILT.get_or_init(|| {
        // `cargo test --test NAME` builds no examples. The whole workspace is named, because for one package alone cargo
        // would compile every dependency anew with fewer features.
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--workspace", "--examples"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("CARGO_TARGET_DIR", profile.parent().expect("the profile stands in the target folder"))
            .status()
            .expect("cargo starts");
        assert!(status.success(), "the examples of local-cloud do not build");
    });
    profile.join("examples").join(name)
}

/// The probe function as a template would declare it.
pub(crate) fn probe() -> Function {
    Function {
        logical_id: "Probe".to_owned(),
        name: "probe-function".to_owned(),
        binary: "probe-function".to_owned(),
        timeout: Duration::from_secs(10),
        memory_mib: 128,
        environment: BTreeMap::new(),
        reserved_concurrency: None,
        on_async_failure: AsyncFailure { max_retries: 2, max_age: Duration::from_secs(3600), destination: None },
        invoke_at_start: false,
        event_sources: Vec::new(),
        schedules: Vec::new(),
        routes: Vec::new(),
    }
}

pub(crate) async fn start(function: Function) -> Lambda {
    start_with(function, LambdaOptions::default()).await
}

pub(crate) async fn start_with(function: Function, options: LambdaOptions) -> Lambda {
    let functions = vec![LambdaFunction { function, executable: example("probe-function") }];
    Lambda::start(functions, options).await.expect("the local cloud starts")
}

/// Waits until `look` finds something, and fails after ten seconds.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The state letter of a process (`S`, `T`, …); none when it is gone.
pub(crate) fn process_state(pid: u64) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.chars().next().filter(|state| *state != 'Z')
}

pub(crate) fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("it is JSON")
}

pub(crate) fn redis_url() -> String {
    std::env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379/15".to_owned())
}

/// An answer over HTTP.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: bytes::Bytes,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        json(&self.body)
    }
}

/// Sends a request to `http://ADDRESS/PATH`.
pub(crate) async fn send(method: &str, url: &str, headers: &[(&str, &str)], body: impl Into<bytes::Bytes>) -> Reply {
    use http_body_util::{BodyExt, Full};
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
    let mut request = http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body.into())).expect("the request is well-formed");
    let (parts, body) = client.request(request).await.expect("the server answers").into_parts();
    let body = body.collect().await.expect("the answer is complete").to_bytes();
    Reply { status: parts.status.as_u16(), headers: parts.headers, body }
}

/// Serves a router on a free port and returns `http://127.0.0.1:PORT`.
pub(crate) async fn serve(router: axum::Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    let service = router.into_make_service_with_connect_info::<std::net::SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    url
}
