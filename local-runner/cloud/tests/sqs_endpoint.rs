//! The endpoint on the wire: targets, headers, paths, limits.
#![allow(clippy::unwrap_used, reason = "tests")]

mod sqs_support;

use axum::Router;
use axum::routing::{get, post};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use sqs_support::{Queues, url};

const JSON: &str = "application/x-amz-json-1.0";

struct Endpoint {
    queues: Queues,
    address: String,
}

impl Endpoint {
    async fn start() -> Self {
        let queues = Queues::with("mail", &[]).await;
        let lambda = Router::new()
            .route("/2015-03-31/functions/{name}/invocations", post(async || "invoked"))
            .route("/2015-03-31/functions", get(async || "functions"));
        let router = local_cloud::endpoint::router(queues.sqs.clone(), lambda);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { queues, address }
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> (Response<()>, String) {
        let mut request = Request::post(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let response = client.request(request.body(Full::new(body.into())).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        (Response::from_parts(parts, ()), body)
    }
}

#[tokio::test]
async fn the_json_protocol_is_answered_at_the_root_and_at_the_queues_own_address() {
    let endpoint = Endpoint::start().await;
    let headers = [("x-amz-target", "AmazonSQS.SendMessage"), ("content-type", JSON), ("x-amzn-query-mode", "true")];
    for path in ["/", "/000000000000/mail"] {
        let (response, body) =
            endpoint.post(path, &headers, json!({"QueueUrl": url("mail"), "MessageBody": "x"}).to_string()).await;
        assert_eq!(response.status(), StatusCode::OK, "{body}");
        assert_eq!(response.headers()["content-type"], JSON);
        assert!(response.headers().contains_key("x-amzn-requestid"));
    }
    assert_eq!(endpoint.queues.counts("mail").await, (2, 0, 0));
}

#[tokio::test]
async fn errors_carry_their_code_in_body_and_header() {
    let endpoint = Endpoint::start().await;
    let headers = [("x-amz-target", "AmazonSQS.GetQueueUrl"), ("content-type", JSON)];
    let (response, body) = endpoint.post("/", &headers, json!({"QueueName": "missing"}).to_string()).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(response.headers()["x-amzn-query-error"], "AWS.SimpleQueueService.NonExistentQueue;Sender");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        body,
        json!({"__type": "com.amazonaws.sqs#QueueDoesNotExist", "message": "The specified queue does not exist."})
    );
}

#[tokio::test]
async fn the_lambda_routes_answer_beside_the_queues() {
    let endpoint = Endpoint::start().await;
    let (_, body) = endpoint.post("/2015-03-31/functions/SendEmails/invocations", &[], "{}").await;
    assert_eq!(body, "invoked");
}

#[tokio::test]
async fn what_nobody_serves_is_an_unknown_operation() {
    let endpoint = Endpoint::start().await;
    for path in ["/", "/elsewhere", "/a/b/c", "/2015-03-31/functions"] {
        let (response, body) = endpoint.post(path, &[], "").await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        assert!(body.contains("UnknownOperationException"), "{path}: {body}");
    }
    let (response, body) = endpoint.post("/", &[("x-amz-target", "DynamoDB_20120810.ListTables")], "{}").await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert!(body.contains("UnknownOperationException"), "{body}");
    let form = [("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
    let (response, body) = endpoint.post("/", &form, "Action=ListQueues").await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert!(body.contains("<Code>UnsupportedOperation</Code>"), "{body}");
}

#[tokio::test]
async fn a_mebibyte_of_escapes_passes_and_a_body_without_end_does_not() {
    let endpoint = Endpoint::start().await;
    let headers = [("x-amz-target", "AmazonSQS.SendMessage"), ("content-type", JSON)];
    let body = format!(r#"{{"QueueUrl":"{}","MessageBody":"{}"}}"#, url("mail"), r"\u0009".repeat(1_048_576));
    let (response, _) = endpoint.post("/", &headers, body).await;
    assert_eq!(response.status(), StatusCode::OK);
    let (response, body) = endpoint.post("/", &headers, vec![b' '; 9 * 1024 * 1024]).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE, "{body}");
}
