//! SQS: ringing doorbells and asking how deep a queue is.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_sqs::types::{QueueAttributeName, SendMessageBatchRequestEntry};

use crate::config::{self, ConfigError};
use crate::doorbell::Doorbell;

/// SQS takes at most this many entries in one request.
const BATCH: usize = 10;
/// SQS delays a message at most this long; later work is rung by the next dispatch.
pub const MAX_DELAY: Duration = Duration::from_secs(900);

/// A client as the environment describes it (region, credentials, endpoint).
pub async fn client_from_env() -> Client {
    Client::new(&aws_config::load_defaults(BehaviorVersion::latest()).await)
}

/// A client for an endpoint other than AWS, which takes any credentials.
pub fn client_for_endpoint(endpoint: &str) -> Client {
    let config = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(endpoint)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("local", "local", None, None, "local"))
        .build();
    Client::from_conf(config)
}

/// The queues that announce batches. Single mails have their own, so that they never wait behind a campaign.
#[derive(Debug, Clone)]
pub struct BatchQueues {
    /// Queue `email`: batches of campaigns.
    pub email: Queue,
    /// Queue `transactional`: single mails.
    pub transactional: Queue,
}

impl BatchQueues {
    /// Reads the environment: `EMAIL_QUEUE_URL`, `TRANSACTIONAL_QUEUE_URL`.
    pub async fn from_env() -> Result<Self, ConfigError> {
        let (email, transactional) =
            (config::required("EMAIL_QUEUE_URL")?, config::required("TRANSACTIONAL_QUEUE_URL")?);
        let client = client_from_env().await;
        Ok(Self { email: Queue::new(client.clone(), email), transactional: Queue::new(client, transactional) })
    }

    /// The queue for a batch of this campaign, or of none.
    pub fn of(&self, campaign_id: Option<i64>) -> &Queue {
        if campaign_id.is_some() { &self.email } else { &self.transactional }
    }
}

/// One queue.
#[derive(Debug, Clone)]
pub struct Queue {
    client: Client,
    url: String,
}

impl Queue {
    /// The queue at `url`.
    pub fn new(client: Client, url: impl Into<String>) -> Self {
        Self { client, url: url.into() }
    }

    /// Sends the doorbells, each after its delay (whole seconds, 15 minutes at most). On an error some may have been
    /// sent: ring again, doubles are harmless.
    pub async fn ring(&self, doorbells: &[(Doorbell, Duration)]) -> Result<()> {
        for chunk in doorbells.chunks(BATCH) {
            let entries = chunk
                .iter()
                .enumerate()
                .map(|(index, (doorbell, delay))| {
                    SendMessageBatchRequestEntry::builder()
                        .id(index.to_string())
                        .message_body(doorbell.to_body())
                        .delay_seconds(i32::try_from(delay.min(&MAX_DELAY).as_secs()).unwrap_or(i32::MAX))
                        .build()
                })
                .collect::<Result<Vec<_>, _>>()
                .context("doorbell for the queue")?;
            let sent = self
                .client
                .send_message_batch()
                .queue_url(&self.url)
                .set_entries(Some(entries))
                .send()
                .await
                .with_context(|| format!("send {} messages to queue {}", chunk.len(), self.url))?;
            if let Some(failed) = sent.failed().first() {
                bail!(
                    "queue {} refused {} of {} messages, the first with {}: {}",
                    self.url,
                    sent.failed().len(),
                    chunk.len(),
                    failed.code(),
                    failed.message().unwrap_or("no text"),
                );
            }
        }
        Ok(())
    }

    /// Messages waiting, in flight and delayed; proves that the queue answers.
    pub async fn depth(&self) -> Result<u64> {
        let attributes = self
            .client
            .get_queue_attributes()
            .queue_url(&self.url)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessages)
            .send()
            .await
            .with_context(|| format!("ask queue {} for its depth", self.url))?;
        attributes
            .attributes()
            .and_then(|all| all.get(&QueueAttributeName::ApproximateNumberOfMessages))
            .with_context(|| format!("queue {} did not say its depth", self.url))?
            .parse()
            .with_context(|| format!("depth of queue {}", self.url))
    }
}
