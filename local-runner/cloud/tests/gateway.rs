//! Requests through the gateway to a real function and back.

use std::time::Duration;

use local_cloud::bundle::{Function, Route};
use local_cloud::gateway;
use local_cloud::lambda::Lambda;
use serde_json::json;

use lambda_support::{probe, send, serve, start};

mod lambda_support;

fn declared(routes: &[(&str, &str)]) -> Vec<(Function, Route)> {
    routes.iter().map(|(method, path)| (probe(), Route { method: (*method).into(), path: (*path).into() })).collect()
}

async fn served(lambda: &Lambda, routes: &[(&str, &str)]) -> String {
    serve(gateway::with_timeout(declared(routes), lambda.clone(), Duration::from_secs(1))).await
}

#[tokio::test]
async fn a_request_arrives_as_payload_2_0_and_the_answer_leaves_as_response() {
    let lambda = start(probe()).await;
    let url = served(&lambda, &[("POST", "/users/{id}/{rest+}")]).await;
    let headers = [
        ("Content-Type", "application/json"),
        ("X-Many", "1"),
        ("X-Many", "2"),
        ("Cookie", "a=1; b=2"),
        ("User-Agent", "probe/1"),
        ("X-Forwarded-For", "203.0.113.9"),
    ];
    let reply = send("POST", &format!("{url}/users/a%20b/x/y?q=1&q=2&e=%C3%A4"), &headers, "{\"n\":1}").await;
    assert_eq!(reply.status, 201);
    assert_eq!(reply.headers["x-probe"], "yes");
    let cookies: Vec<_> = reply.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1; HttpOnly", "b=2"]);

    let event = reply.json();
    assert_eq!(event["version"], "2.0");
    assert_eq!(event["routeKey"], "POST /users/{id}/{rest+}");
    assert_eq!(event["rawPath"], "/users/a%20b/x/y");
    assert_eq!(event["rawQueryString"], "q=1&q=2&e=%C3%A4");
    assert_eq!(event["queryStringParameters"], json!({"q": "1,2", "e": "ä"}));
    assert_eq!(event["pathParameters"], json!({"id": "a b", "rest": "x/y"}));
    assert_eq!(event["cookies"], json!(["a=1", "b=2"]));
    assert_eq!(event["headers"]["x-many"], "1,2");
    assert_eq!(event["headers"]["cookie"], serde_json::Value::Null);
    assert_eq!(event["headers"]["x-forwarded-for"], "203.0.113.9, 127.0.0.1");
    assert_eq!(event["headers"]["x-forwarded-proto"], "http");
    assert!(event["headers"]["x-amzn-trace-id"].as_str().is_some_and(|id| id.starts_with("Root=1-")));
    assert_eq!((event["body"].as_str(), event["isBase64Encoded"].as_bool()), (Some("{\"n\":1}"), Some(false)));
    let context = &event["requestContext"];
    assert_eq!(context["http"]["method"], "POST");
    assert_eq!(context["http"]["sourceIp"], "127.0.0.1");
    assert_eq!(context["http"]["userAgent"], "probe/1");
    assert_eq!(context["http"]["protocol"], "HTTP/1.1");
    assert_eq!(context["domainName"], "127.0.0.1");
    assert_eq!(context["stage"], "$default");
    lambda.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn binary_bodies_travel_in_base64_and_empty_ones_not_at_all() {
    let lambda = start(probe()).await;
    let url = served(&lambda, &[("ANY", "$default")]).await;
    let reply = send("PUT", &url, &[("Content-Type", "image/png")], vec![0_u8, 255, 1]).await;
    let event = reply.json();
    assert_eq!((event["body"].as_str(), event["isBase64Encoded"].as_bool()), (Some("AP8B"), Some(true)));
    assert_eq!(event["routeKey"], "$default");
    let event = send("GET", &url, &[], "").await.json();
    assert_eq!(event["body"], serde_json::Value::Null);
    lambda.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn what_goes_wrong_is_answered_as_api_gateway_does() {
    let lambda = start(Function { reserved_concurrency: Some(1), ..probe() }).await;
    let url = served(&lambda, &[("GET", "/plain"), ("GET", "/fail"), ("GET", "/slow"), ("POST", "/plain")]).await;
    let get = async |path: &str| {
        let reply = send("GET", &format!("{url}{path}"), &[], "").await;
        (reply.status, String::from_utf8_lossy(&reply.body).into_owned())
    };
    assert_eq!(get("/plain").await, (200, "plain text".to_owned()));
    assert_eq!(get("/nothing").await, (404, r#"{"message":"Not Found"}"#.to_owned()));
    assert_eq!(get("/fail").await, (502, r#"{"message":"Internal Server Error"}"#.to_owned()));
    assert_eq!(get("/slow").await, (504, r#"{"message":"Gateway Timeout"}"#.to_owned()));
    // The slow one still runs, and there is room for one only.
    assert_eq!(get("/plain").await, (503, r#"{"message":"Service Unavailable"}"#.to_owned()));
    let large = send("POST", &format!("{url}/plain"), &[], vec![b'x'; 10 * 1024 * 1024 + 1]).await;
    assert_eq!(large.status, 413);
    lambda.shutdown(Duration::from_secs(3)).await;
}
