//! Event source mappings: take messages from a queue, invoke the function with them, delete what it finished.
//!
//! One poller per mapping gathers batches, and takes a batch only when an invocation may start, so that waiting for a
//! free place costs no receive count. The visibility timeout runs from the receive: what a failed invocation leaves
//! comes back when that ends, and the batching window and throttling spend a part of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bundle::{EventSource, Function};
use crate::sqs::{self, Sqs, SqsError, queue_name};

mod check;
mod gather;
mod pace;
mod record;
mod verdict;

pub use check::{MappingError, check};
use gather::{Batch, Gatherer};
use pace::Pace;
use verdict::Verdict;

/// Pauses between attempts while Redis is down or the function is throttled.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Invokes a function and waits for its answer.
pub trait Invoke: Clone + Send + Sync + 'static {
    /// Invokes the function with this ARN.
    fn invoke(&self, function_arn: &str, payload: Bytes) -> impl Future<Output = Outcome> + Send;
}

/// How an invocation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The function answered.
    Answered(Bytes),
    /// It raised an error, ran into its timeout or died; the text says which, for the log.
    Failed(String),
    /// It was not started: all its places are taken. Tried again while the messages are invisible.
    Throttled,
}

/// One mapping at work.
struct Mapping<I> {
    id: String,
    queue: String,
    function_arn: String,
    reports_item_failures: bool,
    sqs: Sqs,
    invoke: I,
    pace: Pace,
    shutdown: CancellationToken,
}

/// Serves the mapping until `shutdown`: then it takes no further batch and waits up to `drain` for running invocations.
/// Messages of those that do not end in time come back after their visibility timeout.
///
/// Waits with back-off while Redis is down or the queue does not exist. A mapping that AWS would refuse ([`check`]) is
/// logged as an error and not served.
pub async fn run<I: Invoke>(
    source: EventSource,
    function: Function,
    sqs: Sqs,
    invoke: I,
    shutdown: CancellationToken,
    drain: Duration,
) {
    if !source.enabled {
        tracing::info!(mapping = source.id, "event source mapping {} is disabled", source.id);
        return;
    }
    let mapping = Arc::new(Mapping {
        queue: queue_name(&source.queue_arn).to_owned(),
        function_arn: function.arn(),
        reports_item_failures: source.reports_item_failures,
        pace: Pace::new(pace::ceiling(source.max_concurrency, function.reserved_concurrency)),
        id: source.id.clone(),
        sqs,
        invoke,
        shutdown,
    });
    let mut outage = Outage::default();
    loop {
        match mapping.visibility().await {
            Ok(visibility) => {
                outage.over(&mapping.id);
                if let Err(error) = check(&source, &function, visibility) {
                    tracing::error!(mapping = source.id, "event source mapping {} is refused: {error}", source.id);
                    return;
                }
                break;
            }
            Err(error) => outage.pause(&mapping.id, &error, &mapping.shutdown).await,
        }
        if mapping.shutdown.is_cancelled() {
            return;
        }
    }
    mapping.serve(&source, outage, drain).await;
}

impl<I: Invoke> Mapping<I> {
    async fn visibility(&self) -> sqs::Result<Duration> {
        let attributes = self.sqs.attributes(&self.queue).await?;
        let seconds = attributes.get("VisibilityTimeout").and_then(|text| text.parse().ok()).unwrap_or_default();
        Ok(Duration::from_secs(seconds))
    }

    async fn serve(self: Arc<Self>, source: &EventSource, mut outage: Outage, drain: Duration) {
        let mut gatherer = Gatherer::new(self.sqs.clone(), source);
        let mut running = JoinSet::new();
        while !self.shutdown.is_cancelled() {
            while let Some(ended) = running.try_join_next() {
                self.report(ended);
            }
            if running.len() >= self.pace.limit(running.len(), Instant::now()) {
                tokio::select! {
                    Some(ended) = running.join_next() => self.report(ended),
                    () = self.shutdown.cancelled() => {}
                    () = tokio::time::sleep(pace::STEP) => {} // the limit may have grown
                }
                continue;
            }
            match gatherer.next(&self.shutdown).await {
                Ok(batch) => {
                    outage.over(&self.id);
                    match batch {
                        Some(batch) => drop(running.spawn(Arc::clone(&self).process(batch))),
                        None => self.pace.quiet(),
                    }
                }
                Err(error) => outage.pause(&self.id, &error, &self.shutdown).await,
            }
        }
        gatherer.release().await;
        self.drain(running, drain).await;
    }

    async fn drain(&self, mut running: JoinSet<()>, limit: Duration) {
        let ended = tokio::time::timeout(limit, async {
            while let Some(ended) = running.join_next().await {
                self.report(ended);
            }
        });
        if ended.await.is_err() {
            let count = running.len();
            tracing::warn!(
                mapping = self.id,
                "{count} invocations for {} did not end in time; their messages come back after the visibility timeout",
                self.id
            );
            running.shutdown().await;
        }
    }

    fn report(&self, ended: Result<(), tokio::task::JoinError>) {
        if let Err(error) = ended {
            tracing::error!(mapping = self.id, "an invocation for {} was lost: {error}", self.id);
        }
    }

    /// Invokes the function with one batch and deletes what it finished.
    async fn process(self: Arc<Self>, batch: Batch) {
        let Some(outcome) = self.invoke_until_started(&batch).await else {
            return;
        };
        let verdict = match outcome {
            Outcome::Answered(response) if self.reports_item_failures => {
                let (verdict, warning) = verdict::judge(&response, &batch.ids());
                if let Some(warning) = warning {
                    tracing::warn!(mapping = self.id, "{}: {warning}", self.id);
                }
                verdict
            }
            Outcome::Answered(_) => Verdict::Success,
            Outcome::Failed(reason) => {
                // With item failures reported, AWS does not slow down for errors.
                if !self.reports_item_failures {
                    self.pace.slower(Instant::now());
                }
                Verdict::Failure(reason)
            }
            Outcome::Throttled => return,
        };
        let count = batch.records.len();
        match &verdict {
            Verdict::Success => {}
            Verdict::Partial(failed) => {
                tracing::warn!(
                    mapping = self.id,
                    "{}: {} of {count} messages failed and will come back",
                    self.id,
                    failed.len()
                );
            }
            Verdict::Failure(reason) => {
                tracing::warn!(mapping = self.id, "{}: {count} messages failed and will come back: {reason}", self.id);
            }
        }
        self.delete(&batch, &verdict).await;
    }

    /// Tries again while the function is throttled and the messages are invisible; `None` when that time has passed.
    async fn invoke_until_started(&self, batch: &Batch) -> Option<Outcome> {
        let payload = batch.payload();
        let mut pause = FIRST_PAUSE;
        loop {
            let outcome = self.invoke.invoke(&self.function_arn, payload.clone()).await;
            if outcome != Outcome::Throttled {
                return Some(outcome);
            }
            self.pace.slower(Instant::now());
            if Instant::now() + pause >= batch.visible_again {
                tracing::warn!(
                    mapping = self.id,
                    "{}: the function was throttled until the visibility timeout of {} messages ended; they return to the queue",
                    self.id,
                    batch.records.len()
                );
                return None;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shutdown.cancelled() => return None,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Tries again while Redis is down and the messages are invisible; after that they come back and run a second time.
    async fn delete(&self, batch: &Batch, verdict: &Verdict) {
        let finished =
            || batch.records.iter().map(|record| &record.received).filter(|received| verdict.finished(&received.id));
        let mut pause = FIRST_PAUSE;
        loop {
            match self.sqs.delete(&self.queue, finished()).await {
                Ok(()) => return,
                Err(SqsError::Unavailable { .. }) if Instant::now() + pause < batch.visible_again => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => {
                    let count = finished().count();
                    tracing::error!(
                        mapping = self.id,
                        "{}: {count} finished messages could not be deleted and may run again: {error}",
                        self.id
                    );
                    return;
                }
            }
        }
    }
}

/// A time in which the queue does not answer: reported once, with growing pauses, and once when it is over.
#[derive(Default)]
struct Outage {
    pause: Option<Duration>,
}

impl Outage {
    async fn pause(&mut self, mapping: &str, error: &SqsError, shutdown: &CancellationToken) {
        let pause = match self.pause {
            None => {
                tracing::warn!(mapping, "event source mapping {mapping} waits: {error}");
                FIRST_PAUSE
            }
            Some(pause) => (pause * 2).min(LONGEST_PAUSE),
        };
        self.pause = Some(pause);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => {}
        }
    }

    fn over(&mut self, mapping: &str) {
        if self.pause.take().is_some() {
            tracing::info!(mapping, "event source mapping {mapping} reaches its queue again");
        }
    }
}
