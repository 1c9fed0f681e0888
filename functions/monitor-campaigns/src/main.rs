//! Wires the handler to the Lambda runtime.

use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use monitor_campaigns::{Ctx, Event, handle};

#[tokio::main]
async fn main() -> Result<(), Error> {
    shared::telemetry::init();
    let ctx = Ctx::from_env().await.map_err(|error| shared::telemetry::failure(error.into()))?;
    run(service_fn(async |event: LambdaEvent<Event>| {
        handle(&ctx, event.payload).await.map_err(shared::telemetry::failure)
    }))
    .await
}
