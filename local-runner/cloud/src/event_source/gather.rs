//! Batches: gathered until they are full, their window has passed or the payload reaches its limit.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::record;
use crate::bundle::EventSource;
use crate::sqs::{self, Received, Sqs, queue_name};

/// SQS hands out this many messages at a time.
const RECEIVE: usize = 10;
/// Longest wait that SQS offers.
const LONG_POLL: Duration = Duration::from_secs(20);
/// Largest payload of a synchronous invocation, in bytes.
const MAX_PAYLOAD: usize = 6 * 1024 * 1024;
const HEAD: &str = "{\"Records\":[";
const TAIL: &str = "]}";

/// A message, and how the function sees it.
pub(super) struct Record {
    pub(super) received: Received,
    json: String,
    visible_again: Instant,
}

/// Messages of one invocation.
pub(super) struct Batch {
    pub(super) records: Vec<Record>,
    /// When the first of them is visible again.
    pub(super) visible_again: Instant,
}

impl Batch {
    pub(super) fn ids(&self) -> HashSet<&str> {
        self.records.iter().map(|record| record.received.id.as_str()).collect()
    }

    pub(super) fn payload(&self) -> Bytes {
        let records: Vec<&str> = self.records.iter().map(|record| record.json.as_str()).collect();
        Bytes::from([HEAD, &records.join(","), TAIL].concat())
    }
}

/// Takes messages from a queue for one mapping.
pub(super) struct Gatherer {
    sqs: Sqs,
    queue: String,
    queue_arn: String,
    batch_size: usize,
    window: Duration,
    /// Received, but too much for the batch that was closed last.
    rest: VecDeque<Record>,
}

impl Gatherer {
    pub(super) fn new(sqs: Sqs, source: &EventSource) -> Self {
        Self {
            sqs,
            queue: queue_name(&source.queue_arn).to_owned(),
            queue_arn: source.queue_arn.clone(),
            batch_size: source.batch_size as usize,
            window: source.batching_window,
            rest: VecDeque::new(),
        }
    }

    /// The next batch; `None` after a long poll without messages, or when `stop` came first.
    ///
    /// # Errors
    /// When the queue cannot be reached; what was gathered by then is kept for the next call.
    pub(super) async fn next(&mut self, stop: &CancellationToken) -> sqs::Result<Option<Batch>> {
        let mut records = Vec::new();
        let mut bytes = HEAD.len() + TAIL.len();
        let mut closes = None;
        loop {
            let full = self.fill(&mut records, &mut bytes);
            if !records.is_empty() && closes.is_none() {
                closes = Some(Instant::now() + self.window);
            }
            let wait = closes.map_or(LONG_POLL, |closes| closes.saturating_duration_since(Instant::now()));
            if full || wait.is_zero() {
                return Ok(closed(records));
            }
            if stop.is_cancelled() {
                self.rest.extend(records);
                return Ok(None);
            }
            let room = (self.batch_size - records.len()).min(RECEIVE);
            match self.sqs.receive(&self.queue, room, None, Some(wait.min(LONG_POLL)), stop).await {
                Ok(batch) => {
                    let nothing = batch.messages.is_empty();
                    self.rest.extend(batch.messages.into_iter().map(|received| Record {
                        json: record::json(&received, &self.queue_arn),
                        visible_again: batch.visible_again,
                        received,
                    }));
                    if nothing && records.is_empty() {
                        return Ok(None);
                    }
                }
                Err(error) => {
                    self.rest.extend(records);
                    return Err(error);
                }
            }
        }
    }

    /// Moves what fits from the rest to the batch; whether the batch is full.
    fn fill(&mut self, records: &mut Vec<Record>, bytes: &mut usize) -> bool {
        while records.len() < self.batch_size {
            let Some(next) = self.rest.front() else {
                return false;
            };
            let size = next.json.len() + 1;
            if !records.is_empty() && *bytes + size > MAX_PAYLOAD {
                return true;
            }
            let Some(record) = self.rest.pop_front() else {
                return false;
            };
            // Visible again: some receive has it or will, and then it is theirs.
            if record.visible_again > Instant::now() {
                *bytes += size;
                records.push(record);
            }
        }
        true
    }

    /// Gives back what no invocation has got.
    pub(super) async fn release(self) {
        let messages = self.rest.iter().map(|record| &record.received);
        if messages.len() == 0 {
            return;
        }
        if let Err(error) = self.sqs.release(&self.queue, messages).await {
            tracing::warn!(
                "{} messages return to {} only after their visibility timeout: {error}",
                self.rest.len(),
                self.queue
            );
        }
    }
}

fn closed(records: Vec<Record>) -> Option<Batch> {
    let visible_again = records.iter().map(|record| record.visible_again).min()?;
    Some(Batch { records, visible_again })
}
