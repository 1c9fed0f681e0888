//! Lambda's Invoke API over HTTP, for the `aws` command line and SDKs.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request as HttpRequest, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{InvokeError, Invoked, Lambda, MAX_PAYLOAD_BYTES, Request, check_payload};
use crate::async_invoke::{AsyncInvoker, SubmitError};

/// The version of a function is always this one here.
const VERSION: &str = "$LATEST";
/// Largest `X-Amz-Client-Context` in bytes.
const MAX_CLIENT_CONTEXT_BYTES: usize = 3583;

#[derive(Debug, Clone)]
struct Api {
    lambda: Lambda,
    invoker: AsyncInvoker,
}

/// `POST /2015-03-31/functions/{name or ARN}/invocations` with all three invocation types.
pub fn routes(lambda: Lambda, invoker: AsyncInvoker) -> Router {
    Router::new()
        .route("/2015-03-31/functions/{function}/invocations", post(invoke))
        .with_state(Api { lambda, invoker })
}

#[derive(Debug, Deserialize)]
struct Parameters {
    #[serde(rename = "Qualifier")]
    qualifier: Option<String>,
}

/// A refusal of the API.
#[derive(Debug)]
enum Refusal {
    Invoke(InvokeError),
    InvalidParameter(String),
    Service(String),
}

impl From<InvokeError> for Refusal {
    fn from(error: InvokeError) -> Self {
        Self::Invoke(error)
    }
}

impl From<SubmitError> for Refusal {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Refused(error) => Self::Invoke(error),
            SubmitError::Store(error) => Self::Service(format!("cannot keep the invocation: {error:#}")),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, name, side, message) = match self {
            Self::Invoke(error) => {
                let (status, name, side) = match &error {
                    InvokeError::UnknownFunction { .. } => (StatusCode::NOT_FOUND, "ResourceNotFoundException", "User"),
                    InvokeError::NotJson { .. } => (StatusCode::BAD_REQUEST, "InvalidRequestContentException", "User"),
                    InvokeError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "RequestTooLargeException", "User"),
                    InvokeError::Throttled => (StatusCode::TOO_MANY_REQUESTS, "TooManyRequestsException", "User"),
                    InvokeError::ShuttingDown => (StatusCode::INTERNAL_SERVER_ERROR, "ServiceException", "Service"),
                };
                (status, name, side, error.to_string())
            }
            Self::InvalidParameter(message) => {
                (StatusCode::BAD_REQUEST, "InvalidParameterValueException", "User", message)
            }
            Self::Service(message) => (StatusCode::INTERNAL_SERVER_ERROR, "ServiceException", "Service", message),
        };
        // Some of AWS's error shapes spell the member with a capital letter, some do not; clients read either.
        let mut body = json!({"Type": side, "Message": message, "message": message});
        if status == StatusCode::TOO_MANY_REQUESTS {
            body["Reason"] = json!("ReservedFunctionConcurrentInvocationLimitExceeded");
        }
        let headers = [("x-amzn-errortype", name), ("content-type", "application/json")];
        (status, headers, body.to_string()).into_response()
    }
}

async fn invoke(
    State(api): State<Api>,
    Path(function): Path<String>,
    Query(parameters): Query<Parameters>,
    request: HttpRequest,
) -> Result<Response, Refusal> {
    let qualifier = qualifier(&function, parameters.qualifier)?;
    api.lambda.find(&function)?;
    let (parts, body) = request.into_parts();
    let kind = text(&parts.headers, "x-amz-invocation-type").unwrap_or("RequestResponse");
    match kind {
        "RequestResponse" => {
            let payload = read(body).await?;
            let request = Request {
                client_context: client_context(&parts.headers)?,
                qualifier,
                trace_id: text(&parts.headers, "x-amzn-trace-id").map(str::to_owned),
                ..Request::new(payload)
            };
            let invoked = api.lambda.invoke_as(&function, request).await?;
            let wants_tail = text(&parts.headers, "x-amz-log-type") == Some("Tail");
            Ok(result(invoked, wants_tail))
        }
        "Event" => {
            let request_id = api.invoker.submit(&function, read(body).await?).await?;
            Ok((StatusCode::ACCEPTED, [("x-amzn-requestid", request_id.to_string())]).into_response())
        }
        "DryRun" => {
            check_payload(read(body).await?, MAX_PAYLOAD_BYTES)?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        other => Err(Refusal::InvalidParameter(format!(
            "Value {other} for parameter InvocationType is invalid. Reason: use RequestResponse, Event or DryRun"
        ))),
    }
}

fn result(invoked: Invoked, wants_tail: bool) -> Response {
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .header("x-amzn-requestid", invoked.request_id.to_string())
        .header("x-amz-executed-version", VERSION);
    if invoked.error.is_some() {
        response = response.header("x-amz-function-error", "Unhandled");
    }
    if wants_tail {
        response = response.header("x-amz-log-result", STANDARD.encode(invoked.log_tail));
    }
    response.body(Body::from(invoked.payload)).unwrap_or_else(|error| {
        // Every header above is made of plain ASCII.
        Refusal::Service(error.to_string()).into_response()
    })
}

/// The qualifier in the query or at the end of the name; only the one version exists.
fn qualifier(function: &str, parameter: Option<String>) -> Result<Option<String>, Refusal> {
    let name = function.rsplit_once("function:").map_or(function, |(_, name)| name);
    let qualifier = parameter.or_else(|| name.split_once(':').map(|(_, qualifier)| qualifier.to_owned()));
    match qualifier {
        Some(other) if other != VERSION => {
            let name = name.split_once(':').map_or(name, |(name, _)| name);
            let account = crate::bundle::ACCOUNT;
            let arn = format!("arn:aws:lambda:{}:{account}:function:{name}:{other}", crate::bundle::REGION);
            Err(InvokeError::UnknownFunction { arn }.into())
        }
        known => Ok(known),
    }
}

fn client_context(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(encoded) = text(headers, "x-amz-client-context") else {
        return Ok(None);
    };
    let invalid = |reason: &str| Refusal::InvalidParameter(format!("Client context {reason}"));
    if encoded.len() > MAX_CLIENT_CONTEXT_BYTES {
        return Err(invalid("must be no more than 3583 bytes"));
    }
    let decoded = STANDARD.decode(encoded).map_err(|_| invalid("must be a valid Base64-encoded JSON object."))?;
    // Parsed and written again, so that no line break gets into the header of the runtime API.
    let context: serde_json::Map<String, Value> =
        serde_json::from_slice(&decoded).map_err(|_| invalid("must be a valid Base64-encoded JSON object."))?;
    Ok(Some(Value::Object(context).to_string()))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

async fn read(body: Body) -> Result<Bytes, Refusal> {
    match Limited::new(body, MAX_PAYLOAD_BYTES).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(InvokeError::TooLarge { limit: MAX_PAYLOAD_BYTES }.into()),
        Err(error) => Err(Refusal::InvalidParameter(format!("cannot read the request body: {error}"))),
    }
}
