//! The Extensions API as far as internal extensions need it: registration, events, and polite answers for telemetry.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use uuid::Uuid;

use super::refusal::reply;
use super::{Invocation, Shared, epoch_ms};

const IDENTIFIER: &str = "lambda-extension-identifier";

/// The extensions of one sandbox.
#[derive(Debug)]
pub(super) struct Extensions {
    function_name: String,
    registered: Mutex<BTreeMap<Uuid, Extension>>,
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Extension {
    name: String,
    subscribed: Vec<Subscription>,
    events: Vec<Value>,
    waiting: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Subscription {
    Invoke,
    Shutdown,
}

#[derive(Debug, Deserialize)]
struct Registration {
    #[serde(default)]
    events: Vec<Subscription>,
}

impl Extensions {
    pub(super) fn of(function_name: &str) -> Self {
        Self { function_name: function_name.to_owned(), registered: Mutex::default(), changed: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Uuid, Extension>> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn any(&self) -> bool {
        !self.lock().is_empty()
    }

    /// Waits until every extension that listens to invocations asks for its next event.
    pub(super) async fn all_waiting(&self) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let busy = self.lock().values().any(|one| one.subscribed.contains(&Subscription::Invoke) && !one.waiting);
            if !busy {
                return;
            }
            // The sender lives as long as `self`, so waiting cannot fail.
            let _ = changed.changed().await;
        }
    }

    pub(super) fn invoked(&self, invocation: &Invocation) {
        self.publish(Subscription::Invoke, || {
            json!({
                "eventType": "INVOKE",
                "deadlineMs": epoch_ms(invocation.deadline),
                "requestId": invocation.request_id,
                "invokedFunctionArn": invocation.arn,
                "tracing": {"type": "X-Amzn-Trace-Id", "value": invocation.trace_id},
            })
        });
    }

    pub(super) fn shut_down(&self, budget: Duration) {
        self.publish(Subscription::Shutdown, || {
            json!({
                "eventType": "SHUTDOWN",
                "shutdownReason": "spindown",
                "deadlineMs": epoch_ms(Instant::now() + budget),
            })
        });
    }

    fn publish(&self, to: Subscription, event: impl Fn() -> Value) {
        for extension in self.lock().values_mut().filter(|one| one.subscribed.contains(&to)) {
            extension.events.push(event());
            extension.waiting = false;
        }
        self.tell();
    }

    fn register(&self, headers: &HeaderMap, body: &[u8]) -> Result<Response, Refusal> {
        let name = headers
            .get("lambda-extension-name")
            .and_then(|name| name.to_str().ok())
            .filter(|name| !name.is_empty())
            .ok_or_else(|| refusal("Extension.InvalidExtensionName", "Missing Lambda-Extension-Name header"))?;
        let registration: Registration = serde_json::from_slice(body)
            .map_err(|error| refusal("InvalidRequestFormat", &format!("cannot read the registration: {error}")))?;
        let mut registered = self.lock();
        if registered.values().any(|one| one.name == name) {
            return Err(refusal("Extension.AlreadyRegistered", "An extension of this name has registered"));
        }
        let id = Uuid::new_v4();
        let extension =
            Extension { name: name.to_owned(), subscribed: registration.events, events: Vec::new(), waiting: false };
        registered.insert(id, extension);
        let facts = json!({"functionName": self.function_name, "functionVersion": "$LATEST", "handler": "bootstrap"});
        let headers = [(IDENTIFIER, id.to_string()), ("content-type", "application/json".to_owned())];
        Ok((headers, facts.to_string()).into_response())
    }

    fn identify(&self, headers: &HeaderMap) -> Result<Uuid, Refusal> {
        let id = headers.get(IDENTIFIER).ok_or_else(|| {
            refusal("Extension.MissingExtensionIdentifier", "Missing Lambda-Extension-Identifier header")
        })?;
        id.to_str()
            .ok()
            .and_then(|id| Uuid::parse_str(id).ok())
            .filter(|id| self.lock().contains_key(id))
            .ok_or_else(|| refusal("Extension.InvalidExtensionIdentifier", "Invalid Lambda-Extension-Identifier"))
    }

    async fn next(&self, id: Uuid) -> Value {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let mut starts_waiting = false;
            if let Some(extension) = self.lock().get_mut(&id) {
                if !extension.events.is_empty() {
                    return extension.events.remove(0);
                }
                starts_waiting = !std::mem::replace(&mut extension.waiting, true);
            }
            if starts_waiting {
                self.tell();
            }
            // The sender lives as long as `self`, so waiting cannot fail.
            let _ = changed.changed().await;
        }
    }

    fn tell(&self) {
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
    }
}

/// Why a request of an extension is not served.
#[derive(Debug)]
struct Refusal {
    kind: &'static str,
    message: String,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        reply(StatusCode::FORBIDDEN, &json!({"errorType": self.kind, "errorMessage": self.message}))
    }
}

fn refusal(kind: &'static str, message: &str) -> Refusal {
    Refusal { kind, message: message.to_owned() }
}

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/2020-01-01/extension/register", post(register))
        .route("/2020-01-01/extension/event/next", get(next))
        .route("/2020-01-01/extension/init/error", post(failed))
        .route("/2020-01-01/extension/exit/error", post(failed))
        .route("/2022-07-01/telemetry", put(unsupported))
        .route("/2020-08-15/logs", put(unsupported))
}

async fn register(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    shared.extensions.register(&headers, &body).unwrap_or_else(IntoResponse::into_response)
}

async fn next(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    match shared.extensions.identify(&headers) {
        Ok(id) => {
            let event = shared.extensions.next(id).await;
            ([(IDENTIFIER, id.to_string())], [(header::CONTENT_TYPE, "application/json")], event.to_string())
                .into_response()
        }
        Err(refusal) => refusal.into_response(),
    }
}

async fn failed(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    match shared.extensions.identify(&headers) {
        Ok(id) => {
            // It will not ask for events again; nobody may wait for it.
            shared.extensions.lock().remove(&id);
            shared.extensions.tell();
            reply(StatusCode::ACCEPTED, &json!({"status": "OK"}))
        }
        Err(refusal) => refusal.into_response(),
    }
}

/// What AWS answers where telemetry is not available: accepted, and nothing will be sent.
async fn unsupported(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    match shared.extensions.identify(&headers) {
        Ok(_) => reply(
            StatusCode::ACCEPTED,
            &json!({"errorType": "Telemetry.NotSupported", "errorMessage": "Telemetry API is not supported"}),
        ),
        Err(refusal) => refusal.into_response(),
    }
}
