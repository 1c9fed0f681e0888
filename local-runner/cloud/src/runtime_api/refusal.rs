//! What the Runtime API says to requests it does not serve.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::{MAX_RESPONSE_BYTES, Progress};

/// Refusals of the Runtime API, in AWS's words.
#[derive(Debug)]
pub(super) enum ApiError {
    InvalidRequestId,
    InvalidTransition { from: Progress, to: &'static str },
    InvalidResponseMode,
    Truncated,
    TooLarge,
    Internal,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, kind, message) = match self {
            Self::InvalidRequestId => (StatusCode::BAD_REQUEST, "InvalidRequestID", "Invalid request ID".to_owned()),
            Self::InvalidTransition { from, to } => (
                StatusCode::FORBIDDEN,
                "InvalidStateTransition",
                format!(
                    "State transition from {from:?} to {to} failed for runtime. Error: State transition is not allowed"
                ),
            ),
            Self::InvalidResponseMode => (
                StatusCode::BAD_REQUEST,
                "InvalidFunctionResponseMode",
                "Lambda-Runtime-Function-Response-Mode must be streaming".to_owned(),
            ),
            Self::Truncated => {
                (StatusCode::BAD_REQUEST, "TruncatedHTTPRequest", "HTTP request detected as truncated".to_owned())
            }
            Self::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "RequestEntityTooLarge",
                format!("Exceeded maximum allowed payload size ({MAX_RESPONSE_BYTES} bytes)."),
            ),
            Self::Internal => {
                (StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", "Internal Server Error".to_owned())
            }
        };
        reply(status, &json!({"errorMessage": message, "errorType": kind}))
    }
}

pub(super) fn reply(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// What a process hears when its answer was taken.
pub(super) fn accepted() -> Response {
    reply(StatusCode::ACCEPTED, &json!({"status": "OK"}))
}
