//! Wires the handler to the Lambda runtime.

use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::Value;

#[tokio::main]
async fn main() -> Result<(), Error> {
    shared::telemetry::init();
    let db = shared::database::connect_lazily().map_err(|error| shared::telemetry::failure(error.into()))?;
    run(service_fn(async |_event: LambdaEvent<Value>| migrate::migrate(&db).await.map_err(shared::telemetry::failure)))
        .await
}
