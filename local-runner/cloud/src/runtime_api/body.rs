//! What processes post: results, and errors with their types.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::json;

use super::refusal::ApiError;
use super::{MAX_RESPONSE_BYTES, ReportedError};

/// The error that a request reports.
pub(super) async fn reported(request: Request, unknown: &str) -> Result<ReportedError, ApiError> {
    let header = error_type(request.headers(), unknown);
    let (payload, _) = read(request.into_body()).await?;
    let named = serde_json::from_slice::<serde_json::Value>(&payload)
        .ok()
        .and_then(|body| body.get("errorType").and_then(|kind| kind.as_str()).map(str::to_owned));
    let payload = if payload.is_empty() { json!({"errorType": header}).to_string().into() } else { payload };
    Ok(ReportedError { error_type: named.unwrap_or(header), payload })
}

const ERROR_TYPE: HeaderName = HeaderName::from_static("lambda-runtime-function-error-type");

/// The header's error type, if it has one of the two accepted forms.
fn error_type(headers: &HeaderMap, unknown: &str) -> String {
    headers
        .get(ERROR_TYPE)
        .and_then(|value| value.to_str().ok())
        .filter(|kind| {
            kind.strip_prefix("Runtime.")
                .or_else(|| kind.strip_prefix("Function."))
                .is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_alphanumeric()))
        })
        .map_or_else(|| unknown.to_owned(), str::to_owned)
}

/// A streamed answer that broke off says so in its trailers.
pub(super) fn mid_stream_error(trailers: &HeaderMap) -> Option<ReportedError> {
    trailers.get(ERROR_TYPE)?;
    let error_type = error_type(trailers, "Function.Unknown");
    let payload = trailers
        .get("lambda-runtime-function-error-body")
        .and_then(|body| STANDARD.decode(body.as_bytes()).ok())
        .map_or_else(|| Bytes::from(json!({"errorType": error_type}).to_string()), Bytes::from);
    Some(ReportedError { error_type, payload })
}

/// A body within the limit, and its trailers.
pub(super) async fn read(body: Body) -> Result<(Bytes, Option<HeaderMap>), ApiError> {
    match Limited::new(body, MAX_RESPONSE_BYTES).collect().await {
        Ok(collected) => {
            let trailers = collected.trailers().cloned();
            Ok((collected.to_bytes(), trailers))
        }
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::TooLarge),
        Err(_) => Err(ApiError::Truncated),
    }
}
