//! The response that a function's answer stands for.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use thiserror::Error;

/// Why an answer stands for no response.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum Malformed {
    #[error("the function's answer is not JSON")]
    NotJson,
    #[error("the function's answer has a statusCode that is no HTTP status")]
    Status,
    #[error("the function's answer has a body that is not a string")]
    Body,
    #[error("the function's answer has a body that is not the Base64 that it is said to be")]
    Base64,
}

/// Headers that belong to one connection; the server sets its own.
const PER_CONNECTION: [HeaderName; 5] =
    [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::UPGRADE, header::TE];

/// Maps an answer: an object with `statusCode` says everything, anything else is the body of a 200.
pub(super) fn of(answer: &[u8]) -> Result<Response, Malformed> {
    match serde_json::from_slice(answer).map_err(|_| Malformed::NotJson)? {
        Value::Object(object) if object.contains_key("statusCode") => structured(&object),
        // Recorded: a plain string arrives without its quotes.
        Value::String(text) => Ok(json_response(Body::from(text))),
        other => Ok(json_response(Body::from(other.to_string()))),
    }
}

fn json_response(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn structured(object: &Map<String, Value>) -> Result<Response, Malformed> {
    let status = match &object["statusCode"] {
        Value::Number(number) => number.as_u64().and_then(|code| u16::try_from(code).ok()),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    let status = status
        .filter(|code| (200..600).contains(code))
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or(Malformed::Status)?;
    let body = match object.get("body") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) if object.get("isBase64Encoded") == Some(&Value::Bool(true)) => {
            STANDARD.decode(text).map_err(|_| Malformed::Base64)?
        }
        Some(Value::String(text)) => text.clone().into_bytes(),
        Some(_) => return Err(Malformed::Body),
    };
    let has_body = !body.is_empty();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in object.get("headers").and_then(Value::as_object).into_iter().flatten() {
        if let Some((name, value)) = header_of(name, value).filter(|(name, _)| !PER_CONNECTION.contains(name)) {
            headers.insert(name, value);
        }
    }
    for cookie in object.get("cookies").and_then(Value::as_array).into_iter().flatten() {
        if let Some((name, value)) = header_of(header::SET_COOKIE.as_str(), cookie) {
            headers.append(name, value);
        }
    }
    if has_body && !headers.contains_key(header::CONTENT_TYPE) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
    }
    Ok(response)
}

/// A header, unless name or value could not stand in a response.
fn header_of(name: &str, value: &Value) -> Option<(HeaderName, HeaderValue)> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    let name = HeaderName::from_bytes(name.as_bytes()).ok();
    let value = HeaderValue::from_bytes(text.as_bytes()).ok();
    if name.is_none() || value.is_none() {
        tracing::warn!("a function's answer has a header that HTTP does not allow; it is left out");
    }
    name.zip(value)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::json;

    use super::*;

    async fn body(response: Response) -> String {
        let body = response.into_body().collect().await.expect("the body is in memory").to_bytes();
        String::from_utf8(body.to_vec()).expect("the body is text")
    }

    #[tokio::test]
    async fn an_answer_with_a_status_code_becomes_exactly_that_response() {
        let answer = json!({
            "statusCode": 201, "headers": {"X-Count": 3, "content-length": "999"},
            "cookies": ["a=1; HttpOnly", "b=2"], "body": "aMOk", "isBase64Encoded": true,
        });
        let response = of(answer.to_string().as_bytes()).expect("the answer is well-formed");
        assert_eq!(response.status(), 201);
        assert_eq!(response.headers()["x-count"], "3");
        assert!(!response.headers().contains_key("content-length"));
        let cookies: Vec<_> = response.headers().get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=1; HttpOnly", "b=2"]);
        assert_eq!(body(response).await, "hä");
    }

    #[tokio::test]
    async fn any_other_answer_is_the_body_of_a_200() {
        for (answer, expected) in [("\"plain\"", "plain"), ("[1,2]", "[1,2]"), ("{\"a\":true}", "{\"a\":true}")] {
            let response = of(answer.as_bytes()).expect("the answer is JSON");
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()["content-type"], "application/json");
            assert_eq!(body(response).await, expected);
        }
    }

    #[test]
    fn what_stands_for_no_response_is_refused() {
        assert_eq!(of(b"{").err(), Some(Malformed::NotJson));
        assert_eq!(of(b"{\"statusCode\":42}").err(), Some(Malformed::Status));
        assert_eq!(of(b"{\"statusCode\":200,\"body\":{}}").err(), Some(Malformed::Body));
        assert_eq!(of(b"{\"statusCode\":200,\"body\":\"!\",\"isBase64Encoded\":true}").err(), Some(Malformed::Base64));
    }
}
