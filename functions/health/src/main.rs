//! Wires the handler to the Lambda runtime.

use health::{Ctx, respond};
use lambda_http::http::StatusCode;
use lambda_http::{Body, Error, Request, RequestExt as _, Response, run, service_fn};

#[tokio::main]
async fn main() -> Result<(), Error> {
    shared::telemetry::init();
    let ctx = Ctx::from_env().await.map_err(|error| shared::telemetry::failure(error.into()))?;
    run(service_fn(async |request: Request| {
        let (status, body) = respond(&ctx, request.raw_http_path())
            .await
            .unwrap_or_else(|| (StatusCode::NOT_FOUND, r#"{"message":"Not Found"}"#.to_owned()));
        let response = Response::builder()
            .status(status)
            .header("content-type", "application/json")
            .header("cache-control", "no-store")
            .body(Body::from(body))?;
        Ok::<_, Error>(response)
    }))
    .await
}
