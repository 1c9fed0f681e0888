//! `send-emails`: sends a batch by SMTP, recipient by recipient, with a ledger. Two functions of the template run it: one
//! serves queue `email` (campaigns), the other queue `transactional` (single mails).
//!
//! `handle` unpacks the message, `invocation` holds leases and connections, `batch` works through one batch, and
//! `connection` is the life of one SMTP connection in it. What may leave is decided by `shared::gate` alone.

mod batch;
mod connection;
mod gatekeeper;
mod invocation;
mod retry;
mod work;

use std::time::Duration;

use anyhow::Context as _;
use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent};
use serde::Serialize;
use shared::batches::Timing;
use shared::config::{self, ConfigError};
use shared::deadline::Deadline;
use shared::dkim::Signers;
use shared::doorbell::Doorbell;
use shared::keys::Keys;
use shared::queue::BatchQueues;
use shared::single_mail;
use sqlx::PgPool;

pub use invocation::send_batch;

/// Name of this job in `nightshift.job_runs`.
pub const JOB: &str = "send-emails";

/// What the function needs, made once per cold start.
#[derive(Debug, Clone)]
pub struct Ctx {
    /// The database.
    pub db: PgPool,
    /// Where batches are announced.
    pub queues: BatchQueues,
    /// For passwords and unsubscribe links.
    pub keys: Keys,
    /// Keys that sign mail, once they were needed.
    pub signers: Signers,
    /// Settings from the template.
    pub settings: Settings,
}

/// Settings from the template.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where unsubscribe links lead.
    pub public_url: String,
    /// Pause of an account whose login or sender address is refused.
    pub account_pause: Duration,
    /// Pause of an account whose server cannot be reached or says no to everybody, and of a batch whose work failed for a
    /// reason that is no mail's.
    pub provider_pause: Duration,
    /// Wait before the first repetition of a deferred recipient.
    pub retry_first: Duration,
    /// Leases and rings.
    pub timing: Timing,
    /// When to stop taking work.
    pub soft_timeout: Duration,
}

impl Ctx {
    /// Reads the environment.
    pub async fn from_env() -> Result<Self, ConfigError> {
        let settings = Settings {
            public_url: config::required("PUBLIC_URL")?.trim_end_matches('/').to_owned(),
            account_pause: config::seconds_or("ACCOUNT_PAUSE_SECONDS", Duration::from_secs(300))?,
            provider_pause: config::seconds_or("PROVIDER_PAUSE_SECONDS", Duration::from_secs(60))?,
            retry_first: config::seconds_or("RETRY_FIRST_SECONDS", Duration::from_secs(60))?,
            timing: Timing::from_env()?,
            soft_timeout: config::seconds_or("SOFT_TIMEOUT_SECONDS", Duration::from_secs(480))?,
        };
        Ok(Self {
            db: shared::database::connect_lazily()?,
            keys: Keys::from_env()?,
            signers: Signers::default(),
            queues: BatchQueues::from_env().await?,
            settings,
        })
    }
}

/// What an invocation did with mails.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Accepted by a server.
    pub sent: u64,
    /// Given up.
    pub refused: u64,
    /// To be tried again later.
    pub deferred: u64,
    /// Handed over without an answer.
    pub uncertain: u64,
    /// Left out at the gate.
    pub withheld: u64,
    /// Batches worked on.
    pub batches: u64,
}

/// Answers each message on its own. A batch that is finished, gone or held by another function is a success: ringing
/// twice sends nothing twice. Only what failed before it could be recorded is handed back.
pub async fn handle(ctx: &Ctx, event: SqsEvent, deadline_ms: u64) -> SqsBatchResponse {
    let deadline = Deadline::of_invocation(deadline_ms, ctx.settings.soft_timeout);
    let mut response = SqsBatchResponse::default();
    for record in event.records {
        let id = record.message_id.unwrap_or_default();
        let doorbell = match serde_json::from_str(record.body.as_deref().unwrap_or_default()) {
            Ok(doorbell) => doorbell,
            Err(error) => {
                tracing::error!(message.id = id, "message {id} cannot be read, ignored: {error}");
                continue;
            }
        };
        if let Err(error) = Box::pin(answer(ctx, doorbell, deadline)).await {
            tracing::error!(message.id = id, "{doorbell:?}: {error:#}");
            let mut failure = BatchItemFailure::default();
            failure.item_identifier = id;
            response.batch_item_failures.push(failure);
        }
    }
    response
}

async fn answer(ctx: &Ctx, doorbell: Doorbell, deadline: Deadline) -> anyhow::Result<()> {
    let batch_id = match doorbell {
        Doorbell::Batch { batch_id } => Some(batch_id),
        Doorbell::Mail { public_id } => {
            single_mail::batch_of(&ctx.db, public_id).await.with_context(|| format!("look for mail {public_id}"))?
        }
        Doorbell::Campaign { .. } | Doorbell::Dispatch => {
            tracing::error!("{doorbell:?} rings for dispatch-campaigns and came to a queue of batches");
            None
        }
    };
    match batch_id {
        Some(batch_id) => {
            send_batch(ctx, batch_id, deadline).await.with_context(|| format!("batch {batch_id}"))?;
        }
        None => tracing::info!("{doorbell:?}: there is nothing behind it"),
    }
    Ok(())
}
