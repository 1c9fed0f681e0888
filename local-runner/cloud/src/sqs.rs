//! SQS: standard queues in Redis, spoken to in AWS's JSON protocol or by the other parts of the local cloud.
//!
//! Every step is one Lua script, so it happens entirely or not at all, also when this process is killed in it. Redis'
//! `TIME` is the clock, so several runners may share the queues. All keys stand under the prefix given at `connect`:
//!
//! ```text
//! sqs:queues                   sorted set: names of all queues (score 0, so in order of the alphabet)
//! sqs:deleted                  hash: name → when it was deleted
//! sqs:queue:<name>:attributes  hash: SQS's attributes by their names, defaults included; a queue exists when this does.
//!                              Fields that begin with a hyphen are ours: `-dead-letter-queue`, `-max-receives`, `-purged`
//!                 :messages    hash: message id → JSON of what never changes (body, MD5, message attributes)
//!                 :sent        sorted set: message id by enqueue time; every message is here, retention reads it
//!                 :waiting     sorted set: messages never received, by the time from which they are visible (delay)
//!                 :received    sorted set: messages received before, by the time from which they are visible again
//!                 :receipts    hash: message id → "count first-received last-received"
//!                 :origins     hash: message id → ARN of the queue from which it was moved here as a dead letter
//! ```
//!
//! Times are microseconds since 1970. "Visible", "delayed" and "in flight" are ranges of the two sorted sets, so nothing has
//! to be moved when time passes: sending and receiving ten messages cost O(log n), counting as well, purging unlinks six keys.
//!
//! As on AWS, delivery is at least once: an answer that got lost on its way leaves a message in flight, and it comes back
//! when its visibility timeout ends. Receipt handles are new with each receive; older ones of the same message keep working.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bundle;

mod attributes;
mod batch;
mod error;
mod link;
mod message;
mod operations;
mod receipt;
mod store;

pub use error::{Fault, SqsError};
pub(crate) use message::md5_of_attributes;
use receipt::Receipt;
pub(crate) use store::Received;
use store::{NewMessage, Purged, Store};

/// How often a waiting receiver looks for messages that another process sent. Larger delays those, smaller costs
/// Redis that many calls per second and receiver.
const POLL: Duration = Duration::from_millis(200);

/// Result of everything here.
pub type Result<T, E = SqsError> = std::result::Result<T, E>;

/// The queues under one prefix of one Redis; cheap to clone.
#[derive(Clone)]
pub struct Sqs {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    public_url: String,
    /// Rung by whatever makes a message of that queue visible in this process.
    bells: Mutex<HashMap<String, Arc<Notify>>>,
}

/// How many messages a queue holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// May be received now.
    pub visible: u64,
    /// Received and neither deleted nor visible again.
    pub in_flight: u64,
    /// Sent with a delay that has not passed.
    pub delayed: u64,
}

/// What one receive brought.
pub(crate) struct Batch {
    /// When the visibility timeout of these messages ends, by this process' clock; never later than by Redis'.
    pub(crate) visible_again: Instant,
    pub(crate) messages: Vec<Received>,
}

impl Sqs {
    /// Connects to Redis at `redis_url` and keeps the queues under `prefix`; queue URLs begin with `public_url`.
    ///
    /// # Errors
    /// When the URL is none or no Redis answers there within seconds; later losses of the connection heal by themselves.
    pub async fn connect(redis_url: &str, prefix: &str, public_url: &str) -> Result<Self> {
        Ok(Self::open(Store::connect(redis_url, prefix, None).await?, public_url))
    }

    /// Like [`Sqs::connect`], with a clock that [`Sqs::advance_clock`] moves, for tests of what time does to messages.
    ///
    /// # Errors
    /// As `connect`.
    pub async fn connect_with_movable_clock(redis_url: &str, prefix: &str, public_url: &str) -> Result<Self> {
        let offset = format!("{prefix}clock-offset-ms");
        Ok(Self::open(Store::connect(redis_url, prefix, Some(offset)).await?, public_url))
    }

    fn open(store: Store, public_url: &str) -> Self {
        let public_url = public_url.trim_end_matches('/').to_owned();
        Self { inner: Arc::new(Inner { store, public_url, bells: Mutex::default() }) }
    }

    /// Moves the queues' clock forward. Works only on what [`Sqs::connect_with_movable_clock`] made.
    ///
    /// # Errors
    /// When Redis cannot be reached, or the clock is Redis' own.
    pub async fn advance_clock(&self, by: Duration) -> Result<()> {
        self.inner.store.advance_clock(by).await
    }

    /// Makes the queue exist with exactly these attributes (SQS's defaults for the rest), whatever it had before; its
    /// messages stay. A dead-letter queue may follow later: until it exists, messages stay where they are.
    ///
    /// # Errors
    /// When the name or an attribute is invalid, or Redis cannot be reached.
    pub async fn ensure_queue(&self, queue: &bundle::Queue) -> Result<()> {
        attributes::check_name(&queue.name)?;
        let given = attributes::checked(&queue.name, &queue.attributes)?;
        self.inner.store.create(&queue.name, &given, true).await?;
        Ok(())
    }

    /// Makes a declared queue again if it is gone, as after a loss of Redis; one that is there is left as it is. `true` when
    /// it was gone.
    ///
    /// # Errors
    /// As [`Sqs::ensure_queue`].
    pub async fn restore_queue(&self, queue: &bundle::Queue) -> Result<bool> {
        match self.attributes(&queue.name).await {
            Ok(_) => Ok(false),
            Err(SqsError::NoSuchQueue(_)) => {
                self.ensure_queue(queue).await?;
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Sends a message without attributes and answers its id. `delay` up to 15 minutes; zero means visible at once.
    ///
    /// # Errors
    /// When there is no such queue, the body is empty, too long or holds characters that SQS refuses, or Redis cannot be reached.
    pub async fn send(&self, queue_arn_or_name: &str, body: &str, delay: Duration) -> Result<String> {
        let queue = queue_name(queue_arn_or_name);
        if delay > Duration::from_secs(900) {
            return Err(Fault::InvalidParameterValue
                .because(format!("A message cannot be delayed by {delay:?}: 15 minutes at most.")));
        }
        let message = message::Stored::plain(body)?;
        let id = uuid::Uuid::new_v4().to_string();
        let size = body.len();
        let new = NewMessage { id: id.clone(), message: &message, size, delay: Some(delay) };
        match self.post(queue, vec![new]).await?.first() {
            Some(Err(limit)) => Err(message::too_long(*limit)),
            _ => Ok(id),
        }
    }

    /// How many messages the queue holds, exactly.
    ///
    /// # Errors
    /// When there is no such queue or Redis cannot be reached.
    pub async fn counts(&self, name: &str) -> Result<Counts> {
        Ok(self.inner.store.describe(queue_name(name)).await?.counts)
    }

    /// Removes all messages, also those in flight, and answers how many there were. May be repeated at once, unlike the API's `PurgeQueue`.
    ///
    /// # Errors
    /// When there is no such queue or Redis cannot be reached.
    pub async fn purge(&self, name: &str) -> Result<u64> {
        match self.inner.store.purge(queue_name(name), false).await? {
            Purged::Messages(count) => Ok(count),
            Purged::TooSoon => Ok(0),
        }
    }

    /// Names of all queues, in order.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn queue_names(&self) -> Result<Vec<String>> {
        self.inner.store.list("", None, usize::MAX).await
    }

    /// Answers one request of the JSON protocol; `target` is the operation (what follows `AmazonSQS.` in `X-Amz-Target`).
    pub async fn handle(&self, target: &str, body: Bytes) -> http::Response<Full<Bytes>> {
        operations::handle(self, target, &body).await
    }

    /// All attributes of a queue by their names.
    pub(crate) async fn attributes(&self, queue: &str) -> Result<BTreeMap<String, String>> {
        Ok(self.inner.store.describe(queue).await?.attributes)
    }

    /// Receives up to `most` (1–10) messages. Waits for the first up to `wait` (the queue's own time when `None`). `stop` ends the
    /// waiting but never a receive that is under way, so nothing that Redis handed out is forgotten.
    pub(crate) async fn receive(
        &self,
        queue: &str,
        most: usize,
        visibility_seconds: Option<u32>,
        wait: Option<Duration>,
        stop: &CancellationToken,
    ) -> Result<Batch> {
        let bell = self.bell(queue);
        let started = Instant::now();
        loop {
            let rung = bell.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();

            let asked = Instant::now();
            let reply = match self.inner.store.receive(queue, most, visibility_seconds).await {
                Ok(reply) => reply,
                Err(error) => {
                    // Or every name that a client makes up would stay in memory.
                    if matches!(error, SqsError::NoSuchQueue(_)) {
                        self.forget_bell(queue);
                    }
                    return Err(error);
                }
            };
            if let Some(dead_letters) = &reply.buried_in {
                tracing::warn!(
                    queue,
                    dead_letters,
                    "moved messages of {queue} to {dead_letters}: they were received too often"
                );
                self.ring(dead_letters);
            }
            let batch = Batch { visible_again: asked + reply.visibility, messages: reply.messages };
            let left = wait.unwrap_or(reply.default_wait).saturating_sub(started.elapsed());
            if !batch.messages.is_empty() || left.is_zero() || stop.is_cancelled() {
                return Ok(batch);
            }
            tokio::select! {
                () = rung => {}
                () = tokio::time::sleep(POLL.min(left)) => {}
                () = stop.cancelled() => return Ok(batch),
            }
        }
    }

    /// Deletes received messages; those that are gone already are no error.
    pub(crate) async fn delete(&self, queue: &str, messages: impl Iterator<Item = &Received>) -> Result<()> {
        let ids: Vec<&str> = messages.map(|message| message.id.as_str()).collect();
        self.inner.store.delete_messages(queue, &ids).await
    }

    /// Makes received messages visible again at once.
    pub(crate) async fn release(&self, queue: &str, messages: impl Iterator<Item = &Received>) -> Result<()> {
        let timeouts: Vec<(&str, u32)> = messages.map(|message| (message.id.as_str(), 0)).collect();
        self.inner.store.change_visibility(queue, &timeouts).await?;
        self.ring(queue);
        Ok(())
    }

    /// Stores messages and wakes who waits for them in this process; for each the size limit that it exceeded, if so.
    async fn post(&self, queue: &str, messages: Vec<NewMessage<'_>>) -> Result<Vec<std::result::Result<(), u64>>> {
        let answers = self.inner.store.send(queue, messages).await?;
        self.ring(queue);
        Ok(answers)
    }

    fn url(&self, queue: &str) -> String {
        format!("{}/{}/{queue}", self.inner.public_url, bundle::ACCOUNT)
    }

    fn bell(&self, queue: &str) -> Arc<Notify> {
        let mut bells = self.inner.bells.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(bells.entry(queue.to_owned()).or_default())
    }

    fn ring(&self, queue: &str) {
        let bells = self.inner.bells.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bell) = bells.get(queue) {
            bell.notify_waiters();
        }
    }

    fn forget_bell(&self, queue: &str) {
        self.ring(queue);
        self.inner.bells.lock().unwrap_or_else(PoisonError::into_inner).remove(queue);
    }
}

/// Name in an ARN; a name is its own.
pub(crate) fn queue_name(arn_or_name: &str) -> &str {
    arn_or_name.rsplit(':').next().unwrap_or(arn_or_name)
}

/// ARN of a local queue.
pub(crate) fn arn(queue: &str) -> String {
    format!("arn:aws:sqs:{}:{}:{queue}", bundle::REGION, bundle::ACCOUNT)
}
