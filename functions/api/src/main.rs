//! Wires the handler to the Lambda runtime.

use api::{Ctx, respond};
use lambda_http::{Error, Request, run, service_fn};

#[tokio::main]
async fn main() -> Result<(), Error> {
    shared::telemetry::init();
    let ctx = Ctx::from_env().await.map_err(|error| shared::telemetry::failure(error.into()))?;
    run(service_fn(async |request: Request| Ok::<_, Error>(respond(&ctx, request, chrono::Utc::now()).await))).await
}
