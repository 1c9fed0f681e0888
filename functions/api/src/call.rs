//! A request as handlers see it, and their reply.

use chrono::{DateTime, Utc};
use lambda_http::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use lambda_http::{Body, Request, RequestExt as _, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use shared::api_keys::ApiKey;
use shared::unsubscribe;

use crate::problem::Problem;
use crate::route::Route;

const JSON_HEADERS: [(&str, &str); 2] = [("content-type", "application/json"), ("cache-control", "no-store")];

/// A request that may be answered: the route is known and the key is good.
pub struct Call {
    pub(crate) route: &'static Route,
    pub(crate) key: Option<ApiKey>,
    pub(crate) now: DateTime<Utc>,
    path: String,
    parameter: Option<String>,
    query: Vec<(String, String)>,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Call {
    pub(crate) fn new(
        route: &'static Route,
        parameter: Option<String>,
        key: Option<ApiKey>,
        request: &Request,
        now: DateTime<Utc>,
    ) -> Result<Self, Problem> {
        let query: Vec<(String, String)> =
            request.query_string_parameters().iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        if let Some((unknown, _)) =
            query.iter().find(|(name, _)| !route.query.iter().any(|parameter| parameter.name == name))
        {
            let known: Vec<&str> = route.query.iter().map(|parameter| parameter.name).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Problem::unreadable(format!(
                "there is no query parameter {unknown:?} here; there are: {known}"
            )));
        }
        Ok(Self {
            route,
            key,
            now,
            path: request.raw_http_path().to_owned(),
            parameter,
            query,
            headers: request.headers().clone(),
            body: request.body().as_ref().to_vec(),
        })
    }

    /// The `{…}` of the path, as a number. What is no number names nothing.
    pub(crate) fn id(&self) -> Result<i64, Problem> {
        let text = self.text();
        text.parse().map_err(|_| Problem::not_found(format!("there is no campaign {text:?}; campaigns have numbers")))
    }

    /// The `{…}` of the path, as it stands.
    pub(crate) fn text(&self) -> &str {
        self.parameter.as_deref().unwrap_or_default()
    }

    /// A parameter of the query string.
    pub(crate) fn query<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Problem> {
        let Some((_, text)) = self.query.iter().find(|(known, _)| known == name) else { return Ok(None) };
        let parsed = text.parse().map_err(|_| Problem::unprocessable(format!("{name}={text} cannot be read")))?;
        Ok(Some(parsed))
    }

    /// How many things one page of a list has.
    pub(crate) fn limit(&self) -> Result<i64, Problem> {
        let limit = self.query("limit")?.unwrap_or(100);
        if !(1..=1000).contains(&limit) {
            return Err(Problem::unprocessable(format!("limit={limit} is not between 1 and 1000")));
        }
        Ok(limit)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Type of the body, lower case, without its parameters.
    pub(crate) fn content_type(&self) -> String {
        let given = self.header(header::CONTENT_TYPE.as_str()).unwrap_or_default();
        given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// The body as JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        if self.content_type() != "application/json" {
            return Err(Problem::unsupported_type("application/json"));
        }
        serde_json::from_slice(&self.body).map_err(|error| {
            let detail = format!("the body cannot be used: {error}");
            if error.is_data() { Problem::unprocessable(detail) } else { Problem::unreadable(detail) }
        })
    }

    /// The body as JSON; nothing at all stands for an empty object.
    pub(crate) fn json_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, Problem> {
        if self.body.is_empty() { Ok(T::default()) } else { self.json() }
    }

    /// What makes two requests the same.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        let content_type = self.content_type();
        let mut hash = Sha256::new();
        let query = self.query.iter().flat_map(|(name, value)| [name, value]).map(String::as_bytes);
        let fixed = [self.route.method.as_bytes(), self.path.as_bytes(), content_type.as_bytes()];
        for part in fixed.into_iter().chain(query).chain([self.body.as_slice()]) {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

/// What a handler answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) content: Content,
    pub(crate) replayed: bool,
}

/// What stands in an answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Content {
    /// For programs.
    Json(Value),
    /// For people: a whole HTML document.
    Page(String),
}

impl Reply {
    /// 200 with this.
    pub(crate) fn ok(body: &impl Serialize) -> Result<Self, Problem> {
        Self::with(StatusCode::OK, body)
    }

    pub(crate) fn with(status: StatusCode, body: &impl Serialize) -> Result<Self, Problem> {
        let body = serde_json::to_value(body).map_err(|error| Problem::internal(&error.into()))?;
        Ok(Self { status, content: Content::Json(body), replayed: false })
    }

    pub(crate) fn page(status: StatusCode, html: String) -> Self {
        Self { status, content: Content::Page(html), replayed: false }
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let (body, fixed): (String, &[(&'static str, &'static str)]) = match self.content {
            Content::Json(body) => (body.to_string(), &JSON_HEADERS),
            Content::Page(html) => (html, &unsubscribe::HEADERS),
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        for (name, value) in fixed {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        if self.replayed {
            headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
        }
        response
    }
}
