//! Wires the handler to the Lambda runtime.

use aws_lambda_events::sqs::SqsEvent;
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use send_emails::{Ctx, handle};

#[tokio::main]
async fn main() -> Result<(), Error> {
    shared::telemetry::init();
    let ctx = Ctx::from_env().await.map_err(|error| shared::telemetry::failure(error.into()))?;
    run(service_fn(async |event: LambdaEvent<SqsEvent>| {
        let deadline_ms = event.context.deadline;
        Ok::<_, Error>(handle(&ctx, event.payload, deadline_ms).await)
    }))
    .await
}
