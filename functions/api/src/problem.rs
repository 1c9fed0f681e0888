//! Errors as problem documents (RFC 9457): what is wrong, and what to do about it.

use lambda_http::http::{HeaderName, HeaderValue, StatusCode, header};
use lambda_http::{Body, Response};
use serde_json::json;

/// Why a request is not answered as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), headers: vec![] }
    }

    fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// 400: not even readable.
    pub(crate) fn unreadable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 401, the same for every key that is no good.
    pub(crate) fn unauthorized() -> Self {
        let detail = "send a key that is in use as `Authorization: Bearer KEY`; make one with: local-runner api-key create \
                      NAME --scope read|operate";
        Self::new(StatusCode::UNAUTHORIZED, detail).with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    }

    /// 403.
    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    /// 404: no such thing.
    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// 405, with the methods that the path knows.
    pub(crate) fn method_not_allowed(allowed: &str) -> Self {
        let allow = HeaderValue::from_str(allowed).expect("method names are ASCII");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, format!("this path knows: {allowed}")).with(header::ALLOW, allow)
    }

    /// 409: not in this state.
    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    /// 413.
    pub(crate) fn too_large(most_bytes: usize) -> Self {
        let detail = format!(
            "the body is larger than {} MiB; send recipients in several requests to /campaigns/{{id}}/recipients",
            most_bytes >> 20
        );
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    }

    /// 415.
    pub(crate) fn unsupported_type(expected: &str) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("send the body with Content-Type: {expected}"))
    }

    /// 422: readable, and cannot be done.
    pub(crate) fn unprocessable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    /// 503: it took too long.
    pub(crate) fn too_slow() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the answer took too long; repeat the request a little later")
            .with(header::RETRY_AFTER, HeaderValue::from_static("5"))
    }

    /// 500. What happened stands in the log; strangers read only this.
    pub(crate) fn internal(error: &anyhow::Error) -> Self {
        tracing::error!("a request failed: {error:#}");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "this is our fault and stands in the log; repeat the request later",
        )
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let document = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or_default(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let mut response = Response::new(Body::from(document.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.extend(self.headers);
        response
    }
}

/// Text that Postgres cannot hold is the client's fault; a database that is away or busy is not, and may be back soon.
impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
        match code.as_str() {
            // untranslatable_character, character_not_in_repertoire
            "22P05" | "22021" => Self::unprocessable("a text holds the character NUL; leave it out"),
            _ => match &error {
                sqlx::Error::PoolTimedOut | sqlx::Error::Io(_) => {
                    tracing::error!("the database does not answer: {error}");
                    Self::new(StatusCode::SERVICE_UNAVAILABLE, "the database does not answer; repeat the request later")
                        .with(header::RETRY_AFTER, HeaderValue::from_static("5"))
                }
                _ => Self::internal(&error.into()),
            },
        }
    }
}

impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<sqlx::Error>() {
            Ok(error) => error.into(),
            Err(error) => Self::internal(&error),
        }
    }
}
