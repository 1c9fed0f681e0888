//! The event that a function gets for a request: payload format 2.0.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::http::request::Parts;
use axum::http::{HeaderMap, Version, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::routes::Matched;
use crate::bundle::ACCOUNT;

/// Stands where AWS has the API's ten letters.
const API_ID: &str = "local";

/// What API Gateway notes about a request by itself.
#[derive(Debug)]
pub(super) struct Client {
    address: IpAddr,
    domain: String,
    port: String,
    request_id: String,
    trace_id: String,
    time: DateTime<Utc>,
}

impl Client {
    pub(super) fn new(address: IpAddr, parts: &Parts) -> Self {
        let host = text(&parts.headers, header::HOST.as_str())
            .or_else(|| parts.uri.authority().map(ToString::to_string))
            .unwrap_or_else(|| "localhost".to_owned());
        let (domain, port) = match host.rsplit_once(':') {
            Some((domain, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (domain, port),
            _ => (host.as_str(), "80"),
        };
        let time = Utc::now();
        let random = Uuid::new_v4().simple().to_string();
        Self {
            address,
            domain: domain.to_owned(),
            port: port.to_owned(),
            request_id: Uuid::new_v4().to_string(),
            trace_id: format!("Root=1-{:08x}-{}", time.timestamp(), &random[..24]),
            time,
        }
    }
}

/// The event for one request.
pub(super) fn of(parts: &Parts, body: &[u8], matched: &Matched<'_>, client: &Client) -> Value {
    let path = parts.uri.path();
    let query = parts.uri.query().unwrap_or_default();
    let mut event = json!({
        "version": "2.0",
        "routeKey": matched.key,
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers(&parts.headers, client),
        "requestContext": {
            "accountId": ACCOUNT,
            "apiId": API_ID,
            "domainName": client.domain,
            "domainPrefix": client.domain.split('.').next().unwrap_or_default(),
            "http": {
                "method": parts.method.as_str(),
                "path": path,
                "protocol": protocol(parts.version),
                "sourceIp": client.address.to_string(),
                "userAgent": text(&parts.headers, header::USER_AGENT.as_str()).unwrap_or_default(),
            },
            "requestId": client.request_id,
            "routeKey": matched.key,
            "stage": "$default",
            "time": client.time.format("%d/%b/%Y:%H:%M:%S %z").to_string(),
            "timeEpoch": client.time.timestamp_millis(),
        },
        "isBase64Encoded": false,
    });
    let cookies = cookies(&parts.headers);
    if !cookies.is_empty() {
        event["cookies"] = json!(cookies);
    }
    let parameters = query_parameters(query);
    if !parameters.is_empty() {
        event["queryStringParameters"] = json!(parameters);
    }
    if !matched.parameters.is_empty() {
        let parameters: Map<_, _> =
            matched.parameters.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        event["pathParameters"] = Value::Object(parameters);
    }
    if !body.is_empty() {
        let content_type = text(&parts.headers, header::CONTENT_TYPE.as_str());
        match std::str::from_utf8(body) {
            Ok(text) if is_text(content_type.as_deref()) => event["body"] = json!(text),
            _ => {
                event["body"] = json!(STANDARD.encode(body));
                event["isBase64Encoded"] = json!(true);
            }
        }
    }
    event
}

/// Lower-case names, repeated values joined by commas, cookies taken out, and what the gateway adds.
fn headers(headers: &HeaderMap, client: &Client) -> BTreeMap<String, String> {
    let mut joined: BTreeMap<_, _> = headers
        .keys()
        .filter(|name| **name != header::COOKIE)
        .filter_map(|name| Some((name.as_str().to_owned(), text(headers, name.as_str())?)))
        .collect();
    let forwarded = match joined.get("x-forwarded-for") {
        Some(before) => format!("{before}, {}", client.address),
        None => client.address.to_string(),
    };
    joined.insert("x-forwarded-for".to_owned(), forwarded);
    joined.insert("x-forwarded-port".to_owned(), client.port.clone());
    joined.insert("x-forwarded-proto".to_owned(), "http".to_owned());
    joined.entry("x-amzn-trace-id".to_owned()).or_insert_with(|| client.trace_id.clone());
    joined
}

/// All values of a header, joined.
fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let values: Vec<_> =
        headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect();
    (!values.is_empty()).then(|| values.join(","))
}

fn cookies(headers: &HeaderMap) -> Vec<String> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .flat_map(|value| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            value.split(';').map(|cookie| cookie.trim().to_owned()).collect::<Vec<_>>()
        })
        .filter(|cookie| !cookie.is_empty())
        .collect()
}

/// Decoded parameters, repeated ones joined by commas.
fn query_parameters(query: &str) -> BTreeMap<String, String> {
    let mut parameters = BTreeMap::<String, String>::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(value, true);
        parameters
            .entry(decode(name, true))
            .and_modify(|values| {
                values.push(',');
                values.push_str(&value);
            })
            .or_insert(value);
    }
    parameters
}

/// Percent-decodes; what is no valid escape stays as it is.
pub(super) fn decode(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = match (byte, bytes.get(at + 1), bytes.get(at + 2)) {
            (b'%', Some(&high), Some(&low)) => hex(high).zip(hex(low)).map(|(high, low)| high * 16 + low),
            _ => None,
        };
        at += if escaped.is_some() { 3 } else { 1 };
        decoded.push(escaped.unwrap_or(if plus_is_space && byte == b'+' { b' ' } else { byte }));
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Whether API Gateway hands a body of this type over as text; everything else, forms too, comes in Base64.
fn is_text(content_type: Option<&str>) -> bool {
    let Some(content_type) = content_type else {
        return true;
    };
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind.starts_with("text/")
        || matches!(kind.as_str(), "application/json" | "application/javascript" | "application/xml")
        || (kind.starts_with("application/") && (kind.ends_with("+json") || kind.ends_with("+xml")))
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_and_broken_ones_are_left() {
        assert_eq!(decode("a%20b+c", false), "a b+c");
        assert_eq!(decode("a%20b+c%", true), "a b c%");
        assert_eq!(decode("%zz%C3%A4", true), "%zzä");
    }

    #[test]
    fn repeated_query_parameters_are_joined_by_commas() {
        let parameters = query_parameters("a=1&b=x%26y&a=2&c");
        let expected = [("a", "1,2"), ("b", "x&y"), ("c", "")];
        assert_eq!(parameters, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn only_text_types_are_handed_over_as_text() {
        assert!(is_text(Some("application/json; charset=utf-8")));
        assert!(is_text(Some("text/csv")));
        assert!(is_text(None));
        assert!(!is_text(Some("application/x-www-form-urlencoded")));
        assert!(!is_text(Some("multipart/form-data; boundary=x")));
        assert!(!is_text(Some("image/png")));
    }
}
