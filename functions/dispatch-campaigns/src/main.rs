//! Wires the handler to the Lambda runtime.

use dispatch_campaigns::{Answer, Ctx, Event, handle};
use lambda_runtime::{Error, LambdaEvent, run, service_fn};

#[tokio::main]
async fn main() -> Result<(), Error> {
    shared::telemetry::init();
    let ctx = Ctx::from_env().await.map_err(|error| shared::telemetry::failure(error.into()))?;
    run(service_fn(async |event: LambdaEvent<Event>| {
        let deadline_ms = event.context.deadline;
        handle(&ctx, event.payload, deadline_ms).await.map(Answer::from).map_err(shared::telemetry::failure)
    }))
    .await
}
