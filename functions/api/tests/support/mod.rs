//! The API on a database of the test's own, without a gateway before it and without anybody who hears its doorbells.

use api::{Ctx, respond};
use chrono::Utc;
use lambda_http::http::{HeaderMap, Method, Request};
use lambda_http::{Body, RequestExt as _};
use serde_json::Value;
use shared::api_keys::{self, Scope};
use shared::keys::Keys;
use shared::queue::{Queue, client_for_endpoint};
use sqlx::PgPool;

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// JSON, or the text of a page.
    pub(crate) body: Value,
}

/// The API with two keys.
pub(crate) struct Api {
    pub(crate) ctx: Ctx,
    pub(crate) operate: String,
    pub(crate) read: String,
}

impl Api {
    pub(crate) async fn new(db: PgPool) -> Self {
        let key = async |name, scope| {
            api_keys::create(&db, name, scope).await.expect("database").expect("new").expose().to_owned()
        };
        let (operate, read) = (key("operator", Scope::Operate).await, key("reader", Scope::Read).await);
        let queue = Queue::new(client_for_endpoint("http://127.0.0.1:9"), "http://127.0.0.1:9/queue");
        let keys = Keys::parse("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").expect("a key");
        Self { ctx: Ctx { db, keys, campaigns_queue: queue }, operate, read }
    }

    /// Any request: `POST /campaigns/7/start?x=1`, its headers and its body.
    pub(crate) async fn ask(&self, line: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let (method, target) = line.split_once(' ').expect("a method and a path");
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query: std::collections::HashMap<String, Vec<String>> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), vec![value.to_owned()]))
            .collect();
        let mut request = Request::builder().method(method.parse::<Method>().expect("a method")).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request =
            request.body(body.into()).expect("a request").with_raw_http_path(path).with_query_string_parameters(query);
        let response = respond(&self.ctx, request, Utc::now()).await;
        let body = String::from_utf8(response.body().as_ref().to_vec()).expect("text");
        let body = serde_json::from_str(&body).unwrap_or(Value::String(body));
        Answer { status: response.status().as_u16(), headers: response.headers().clone(), body }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), &[("authorization", &bearer(&self.read))], Body::Empty).await
    }
}

pub(crate) fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}
