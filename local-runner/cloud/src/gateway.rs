//! The HTTP API of the template: requests become events of payload format 2.0, answers of functions become responses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::json;

use crate::bundle;
use crate::lambda::{InvokeError, Lambda};
use event::Client;
use routes::Routes;

mod event;
mod response;
mod routes;

/// API Gateway's limit of a request body.
const MAX_BODY_BYTES: usize = 10 * 1024 * 1024;

/// An HTTP API waits no longer for a function, whatever the function's own timeout is.
const INTEGRATION_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Gateway {
    routes: Routes,
    lambda: Lambda,
    timeout: Duration,
}

/// Serves the routes. Requests carry the client's address if the router is served with
/// [`Router::into_make_service_with_connect_info`] for [`SocketAddr`].
pub fn router(routes: Vec<(bundle::Function, bundle::Route)>, lambda: Lambda) -> Router {
    with_timeout(routes, lambda, INTEGRATION_TIMEOUT)
}

/// Like [`router`], with another limit than AWS's 30 seconds for one request.
pub fn with_timeout(routes: Vec<(bundle::Function, bundle::Route)>, lambda: Lambda, timeout: Duration) -> Router {
    let routes = Routes::new(routes.into_iter().map(|(function, route)| (route, function.logical_id)));
    Router::new().fallback(serve).with_state(Arc::new(Gateway { routes, lambda, timeout }))
}

async fn serve(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    gateway.answer(request).await.unwrap_or_else(|refusal| refusal.into_response())
}

/// What API Gateway answers in place of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    NoRoute,
    BodyTooLarge,
    BodyBroken,
    FunctionFailed,
    Unavailable,
    TimedOut,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, message) = match self {
            Self::NoRoute => (StatusCode::NOT_FOUND, "Not Found"),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "Request Entity Too Large"),
            Self::BodyBroken => (StatusCode::BAD_REQUEST, "Bad Request"),
            Self::FunctionFailed => (StatusCode::BAD_GATEWAY, "Internal Server Error"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable"),
            Self::TimedOut => (StatusCode::GATEWAY_TIMEOUT, "Gateway Timeout"),
        };
        (status, [(header::CONTENT_TYPE, "application/json")], json!({"message": message}).to_string()).into_response()
    }
}

impl Gateway {
    async fn answer(&self, request: Request) -> Result<Response, Refusal> {
        let (parts, body) = request.into_parts();
        let matched = self.routes.find(parts.method.as_str(), parts.uri.path()).ok_or(Refusal::NoRoute)?;
        let body = read(body).await?;
        let peer = parts
            .extensions
            .get::<ConnectInfo<SocketAddr>>()
            .map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |ConnectInfo(address)| address.ip());
        let event = event::of(&parts, &body, &matched, &Client::new(peer, &parts));
        let invocation = self.lambda.invoke(matched.function, event.to_string().into());
        // A function that takes longer goes on, as on AWS; only nobody waits any more.
        let invoked = match tokio::time::timeout(self.timeout, invocation).await {
            Ok(Ok(invoked)) => invoked,
            Ok(Err(error)) => return Err(refusal(&error)),
            Err(_) => return Err(Refusal::TimedOut),
        };
        if let Some(error) = &invoked.error {
            tracing::warn!(
                request_id = %invoked.request_id,
                "{} {} failed: {} {}", parts.method, matched.key, error.kind, error.message
            );
            return Err(Refusal::FunctionFailed);
        }
        response::of(&invoked.payload).map_err(|malformed| {
            tracing::warn!(request_id = %invoked.request_id, "{} {}: {malformed}", parts.method, matched.key);
            Refusal::FunctionFailed
        })
    }
}

fn refusal(error: &InvokeError) -> Refusal {
    match error {
        InvokeError::Throttled | InvokeError::ShuttingDown => Refusal::Unavailable,
        InvokeError::TooLarge { .. } => Refusal::BodyTooLarge,
        InvokeError::UnknownFunction { .. } | InvokeError::NotJson { .. } => Refusal::FunctionFailed,
    }
}

async fn read(body: Body) -> Result<Bytes, Refusal> {
    match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Refusal::BodyTooLarge),
        Err(_) => Err(Refusal::BodyBroken),
    }
}
