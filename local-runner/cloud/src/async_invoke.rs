//! Asynchronous invocations: kept in Redis until the function took them, retried, and recorded when all was in vain.
//!
//! An invocation is written before `submit` returns, and whoever runs it holds a lease that is renewed while it runs.
//! After `kill -9` the lease expires and the invocation runs again, with the same request id: functions see it at least
//! once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use thiserror::Error;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::lambda::{InvokeError, Invoked, Lambda, Request, RequestId, check_payload};
use record::Condition;
use store::{Entry, Store};

mod record;
mod store;

/// Largest event of an asynchronous invocation, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 1024 * 1024;

/// Sends a record (body) to the queue with that ARN.
pub type Destination = Arc<dyn Fn(String, String) -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync>;

/// Waiting times; the defaults are AWS's.
#[derive(Debug, Clone)]
pub struct AsyncOptions {
    /// Waits after the first and after every further function error.
    pub retry_delays: [Duration; 2],
    /// First wait after a throttle; it doubles.
    pub throttle_delay: Duration,
    /// Longest wait after a throttle.
    pub max_throttle_delay: Duration,
    /// A claimed invocation comes back after so long without a sign of life. Shorter means earlier recovery after a
    /// crash, too short means doubled invocations when the machine stalls.
    pub lease: Duration,
    /// How often the store is looked at when nobody in this process submits.
    pub poll: Duration,
    /// Most invocations that run at once.
    pub max_running: usize,
}

impl Default for AsyncOptions {
    fn default() -> Self {
        Self {
            retry_delays: [Duration::from_secs(60), Duration::from_secs(120)],
            throttle_delay: Duration::from_secs(1),
            max_throttle_delay: Duration::from_secs(300),
            lease: Duration::from_secs(30),
            poll: Duration::from_millis(500),
            max_running: 256,
        }
    }
}

/// Why an asynchronous invocation was not accepted.
#[derive(Debug, Error)]
pub enum SubmitError {
    /// The function or the event is not acceptable.
    #[error(transparent)]
    Refused(#[from] InvokeError),
    /// Redis did not confirm it; it may be submitted again.
    #[error("Redis does not take the asynchronous invocation")]
    Store(#[source] anyhow::Error),
}

/// The durable queue of asynchronous invocations. Clones share it.
#[derive(Clone)]
pub struct AsyncInvoker(Arc<Shared>);

struct Shared {
    store: Store,
    lambda: Lambda,
    destination: Destination,
    options: AsyncOptions,
    submitted: Notify,
}

impl fmt::Debug for AsyncInvoker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncInvoker").field("store", &self.0.store).finish_non_exhaustive()
    }
}

impl AsyncInvoker {
    /// Connects to the invocations under the key prefix. `destination` gets the records of `OnFailure`.
    ///
    /// # Errors
    /// When the URL is none. Redis itself may come up later.
    pub fn connect(
        redis_url: &str,
        prefix: &str,
        lambda: Lambda,
        destination: Destination,
        options: AsyncOptions,
    ) -> anyhow::Result<Self> {
        let store = Store::connect(redis_url, prefix)?;
        Ok(Self(Arc::new(Shared { store, lambda, destination, options, submitted: Notify::new() })))
    }

    /// Accepts an invocation: once this returns, it survives the end of the runner.
    ///
    /// # Errors
    /// When the function does not exist, the event is not JSON or larger than 1 MiB, or Redis did not confirm it.
    pub async fn submit(&self, function: &str, payload: Bytes) -> Result<RequestId, SubmitError> {
        let shared = &self.0;
        let payload = check_payload(payload, MAX_PAYLOAD_BYTES)?;
        let known = shared.lambda.find(function)?;
        let request_id = RequestId::random();
        shared.store.add(request_id, &known.logical_id, &payload).await.map_err(SubmitError::Store)?;
        shared.submitted.notify_one();
        Ok(request_id)
    }

    /// How many invocations are waiting or running.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn pending(&self) -> anyhow::Result<u64> {
        self.0.store.pending().await
    }

    /// Runs invocations until `shutdown`, then waits for those that run; [`Lambda::shutdown`] bounds that wait.
    pub async fn run(self, shutdown: CancellationToken) {
        let shared = self.0;
        let running = TaskTracker::new();
        let mut failing: Option<Duration> = None;
        while !shutdown.is_cancelled() {
            let room = shared.options.max_running.saturating_sub(running.len());
            let wait = match shared.store.claim(room, shared.options.lease).await {
                Ok(claimed) => {
                    if failing.take().is_some() {
                        tracing::info!("Redis answers again, asynchronous invocations go on");
                    }
                    for entry in claimed.entries {
                        running.spawn(Arc::clone(&shared).process(entry));
                    }
                    // A full house is looked at again soon, for the room that comes free.
                    if room == 0 { shared.options.poll } else { claimed.next_due.min(shared.options.poll) }
                }
                Err(error) => {
                    if failing.is_none() {
                        tracing::warn!("asynchronous invocations wait for Redis: {error:#}");
                    }
                    let wait = failing.map_or(Duration::from_millis(100), |last| last * 2);
                    *failing.insert(wait.min(Duration::from_secs(5)))
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = shared.submitted.notified(), if failing.is_none() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        running.close();
        running.wait().await;
    }
}

impl Shared {
    /// Works on one claimed invocation while its lease is renewed.
    async fn process(self: Arc<Self>, entry: Entry) {
        let renewals = async {
            let mut period = tokio::time::interval(self.options.lease / 3);
            loop {
                period.tick().await;
                if let Err(error) = self.store.renew(&entry, self.options.lease).await {
                    tracing::debug!("the lease of invocation {} was not renewed: {error:#}", entry.request_id);
                }
            }
        };
        let done = tokio::select! {
            done = self.settle(&entry) => done,
            () = renewals => Ok(()),
        };
        if let Err(error) = done {
            // The lease expires and brings the invocation back.
            tracing::warn!("asynchronous invocation {} will run again: {error:#}", entry.request_id);
        }
        self.submitted.notify_one();
    }

    async fn settle(&self, entry: &Entry) -> anyhow::Result<()> {
        let Some(function) = self.lambda.function(&entry.function).cloned() else {
            if entry.age > Duration::from_secs(6 * 3600) {
                let (id, name) = (entry.request_id, &entry.function);
                tracing::error!("giving up asynchronous invocation {id}: function {name} is not in the template");
                return self.store.finish(entry).await;
            }
            return self.store.put_off(entry, entry.failures, entry.throttles, self.options.max_throttle_delay).await;
        };
        if let Some(record) = &entry.record {
            return self.give_up(entry, &function, record).await;
        }
        let failure = &function.on_async_failure;
        if function.reserved_concurrency == Some(0) {
            let record = record::body(entry, &function.arn(), Condition::RetriesExhausted, None);
            return self.give_up(entry, &function, &record).await;
        }
        if entry.age > failure.max_age {
            let record = record::body(entry, &function.arn(), Condition::EventAgeExceeded, None);
            return self.give_up(entry, &function, &record).await;
        }
        let request = Request { request_id: entry.request_id, ..Request::new(entry.payload.clone()) };
        match self.lambda.invoke_as(&entry.function, request).await {
            Ok(invoked @ Invoked { error: Some(_), .. }) => {
                let failures = entry.failures + 1;
                if failures > failure.max_retries {
                    let counted = Entry { failures, ..entry.clone() };
                    let record =
                        record::body(&counted, &function.arn(), Condition::RetriesExhausted, Some(&invoked.payload));
                    return self.give_up(entry, &function, &record).await;
                }
                let delay = self.options.retry_delays[usize::from(failures > 1)];
                self.store.put_off(entry, failures, 0, delay).await
            }
            Ok(_) => self.store.finish(entry).await,
            Err(InvokeError::Throttled) => {
                let delay = self.throttle_delay(entry.throttles);
                self.store.put_off(entry, entry.failures, entry.throttles + 1, delay).await
            }
            Err(InvokeError::ShuttingDown) => {
                // Not the function's fault: it counts as no attempt, and the next runner takes it at once.
                self.store.put_off(entry, entry.failures, entry.throttles, Duration::ZERO).await
            }
            Err(
                error @ (InvokeError::UnknownFunction { .. }
                | InvokeError::NotJson { .. }
                | InvokeError::TooLarge { .. }),
            ) => {
                // `submit` checked all three; only a changed template or foreign hands in Redis lead here.
                tracing::error!("asynchronous invocation {} cannot run: {error}", entry.request_id);
                let record = record::body(entry, &function.arn(), Condition::RetriesExhausted, None);
                self.give_up(entry, &function, &record).await
            }
        }
    }

    fn throttle_delay(&self, throttles: u32) -> Duration {
        let factor = 2_u32.saturating_pow(throttles);
        self.options.throttle_delay.saturating_mul(factor).min(self.options.max_throttle_delay)
    }

    /// Hands the invocation to its destination and forgets it. The record is kept first, so that a destination that
    /// does not answer leads to another try of the destination, not of the function.
    async fn give_up(&self, entry: &Entry, function: &crate::bundle::Function, record: &str) -> anyhow::Result<()> {
        let Some(queue) = &function.on_async_failure.destination else {
            let (id, name) = (entry.request_id, &function.logical_id);
            tracing::error!("asynchronous invocation {id} of {name} failed for good and has no OnFailure destination");
            return self.store.finish(entry).await;
        };
        if entry.record.is_none() {
            self.store.keep_record(entry, record).await?;
        }
        match (self.destination)(queue.clone(), record.to_owned()).await {
            Ok(()) => self.store.finish(entry).await,
            Err(error) => {
                let (id, delay) = (entry.request_id, self.throttle_delay(entry.throttles));
                tracing::warn!("the failure record of invocation {id} did not reach {queue}, trying again: {error:#}");
                self.store.put_off(entry, entry.failures, entry.throttles + 1, delay).await
            }
        }
    }
}
