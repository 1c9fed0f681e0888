//! The AWS endpoint: SQS's JSON protocol beside the routes of the Lambda API, for SDKs and the `aws` command line.
//!
//! Signatures are not checked; it listens on loopback. Serve it on a listener with TCP_NODELAY
//! (`axum::serve::ListenerExt::tap_io` with `TcpStream::set_nodelay`): answers of two writes would otherwise wait about
//! 40 ms for the client's delayed acknowledgement.

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};

use crate::sqs::Sqs;

/// Most bytes of an SQS request: a MiB of messages, each byte of which may take six in JSON (`\u0009`), and room for the rest.
const MAX_REQUEST: usize = 8 * 1024 * 1024;

/// The endpoint. `lambda_routes` answer their own paths and set their own body limits; SQS has `POST /` and, for clients that
/// send to the queue's URL, `POST /<account>/<queue>`. Everything else is answered as AWS answers unknown operations.
pub fn router(sqs: Sqs, lambda_routes: Router) -> Router {
    let queues = Router::new()
        .route("/", post(call))
        .route("/{account}/{queue}", post(call))
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(sqs);
    // The fallback comes last, so that it also stands in for methods that a path does not have.
    lambda_routes.merge(queues).fallback(unknown).method_not_allowed_fallback(unknown)
}

async fn call(State(sqs): State<Sqs>, request: Request) -> Response {
    let operation = match operation(request.headers()) {
        Ok(operation) => operation,
        Err(refusal) => return *refusal,
    };
    match Bytes::from_request(request, &()).await {
        Ok(body) => sqs.handle(&operation, body).await.map(Body::new),
        Err(rejection) => json_error(
            rejection.status(),
            "com.amazon.coral.service#SerializationException",
            &format!("The request body cannot be read: {}.", rejection.body_text()),
        ),
    }
}

/// What follows `AmazonSQS.` in the target.
fn operation(headers: &HeaderMap) -> Result<String, Box<Response>> {
    let target = headers.get("x-amz-target").and_then(|value| value.to_str().ok());
    if let Some(operation) = target.and_then(|target| target.strip_prefix("AmazonSQS.")) {
        return Ok(operation.to_owned());
    }
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    Err(Box::new(match target {
        Some(target) => json_error(
            StatusCode::BAD_REQUEST,
            "com.amazon.coral.service#UnknownOperationException",
            &format!("The local cloud has no {target}."),
        ),
        None if content_type.starts_with("application/x-www-form-urlencoded") => xml_error(
            "UnsupportedOperation",
            "The local cloud speaks SQS's JSON protocol only; a newer SDK does so as well.",
        ),
        None => unknown_operation(),
    }))
}

async fn unknown() -> Response {
    unknown_operation()
}

fn unknown_operation() -> Response {
    (StatusCode::NOT_FOUND, "<UnknownOperationException/>\n").into_response()
}

fn json_error(status: StatusCode, kind: &str, message: &str) -> Response {
    let body = serde_json::json!({"__type": kind, "message": message}).to_string();
    (status, [(header::CONTENT_TYPE, "application/x-amz-json-1.0")], body).into_response()
}

/// An error that clients of the older Query protocol can show.
fn xml_error(code: &str, message: &str) -> Response {
    let body = format!(
        "<?xml version=\"1.0\"?><ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
    );
    (StatusCode::BAD_REQUEST, [(header::CONTENT_TYPE, "text/xml")], body).into_response()
}
