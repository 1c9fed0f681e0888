//! What the domain commands work on: the state of a runner, its database and its queues.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use local_cloud::inbox::Mailbox;
use local_cloud::state::{Runner, RunnerRecord, State};
use local_cloud::template::QueueUrls;
use shared::accounts;
use shared::doorbell::Doorbell;
use shared::keys::Keys;
use shared::queue::{BatchQueues, Queue};
use sqlx::PgPool;

/// Parameter of the template that holds the encryption keys, and the name of the secret that the runner keeps for it.
pub(crate) const ENCRYPTION_KEYS: &str = "EncryptionKeys";
/// Logical id of the queue that a started campaign rings.
const CAMPAIGNS_QUEUE: &str = "CampaignsQueue";
/// Logical ids of the queues that announce batches: campaigns' and single mails'.
const EMAIL_QUEUE: &str = "EmailQueue";
const TRANSACTIONAL_QUEUE: &str = "TransactionalQueue";
/// Sub-folder of the state with the inbox's mails.
pub(crate) const INBOX: &str = "inbox";

/// A running runner, as the domain commands see it.
pub(crate) struct Session {
    pub(crate) db: PgPool,
    state: State,
    record: RunnerRecord,
}

impl Session {
    /// Finds the runner of this project with that name.
    pub(crate) fn open(project: &Path, name: &str) -> Result<Self> {
        let state = State::open(project, name)?;
        let record = match state.read()? {
            Runner::Live(record) => record,
            Runner::None | Runner::Stale(_) => {
                bail!("the runner {name:?} is not running here; start it with: local-runner up --runner {name}")
            }
        };
        let url = record.database_url.as_deref().context("the runner has not got its database yet; try again soon")?;
        let db = shared::database::pool(url, 4).context("database of the runner")?;
        Ok(Self { db, state, record })
    }

    /// The keys that protect passwords.
    pub(crate) fn keys(&self) -> Result<Keys> {
        let keys = match std::env::var("ENCRYPTION_KEYS") {
            Ok(keys) if !keys.is_empty() => keys,
            _ => self.state.secret(ENCRYPTION_KEYS)?,
        };
        Ok(Keys::parse(&keys)?)
    }

    /// Where the runner's inbox listens.
    pub(crate) fn inbox(&self) -> Result<SocketAddr> {
        let address = self.record.inbox.as_deref().context("this runner has no inbox")?;
        address.parse().with_context(|| format!("address of the inbox, {address}"))
    }

    /// The id of an SMTP account.
    pub(crate) async fn account(&self, name: &str) -> Result<i64> {
        if let Some(id) = accounts::find(&self.db, name).await? {
            return Ok(id);
        }
        let known: Vec<String> = accounts::list(&self.db).await?.into_iter().map(|account| account.name).collect();
        match known.as_slice() {
            [] => bail!("there is no account {name:?}, and no other; add one with: local-runner account add {name} …"),
            known => bail!("there is no account {name:?}; there are: {}", known.join(", ")),
        }
    }

    /// Rings queue `campaigns`. A ring that fails only delays what it announces until the next dispatch, so it is no error.
    pub(crate) async fn ring(&self, doorbell: Doorbell) -> Result<()> {
        if let Err(error) = self.campaigns_queue()?.ring(&[(doorbell, Duration::ZERO)]).await {
            eprintln!("warning: queue campaigns does not answer, this waits for the next dispatch ({error:#})");
        }
        Ok(())
    }

    /// The queue that announces campaigns.
    fn campaigns_queue(&self) -> Result<Queue> {
        self.queue(CAMPAIGNS_QUEUE)
    }

    /// The queues that announce batches.
    pub(crate) fn batch_queues(&self) -> Result<BatchQueues> {
        Ok(BatchQueues { email: self.queue(EMAIL_QUEUE)?, transactional: self.queue(TRANSACTIONAL_QUEUE)? })
    }

    fn queue(&self, logical_id: &str) -> Result<Queue> {
        let endpoint = self.record.aws_endpoint.as_deref().context("this runner serves no queues")?;
        let url = QueueUrls::new(endpoint).of(logical_id);
        Ok(Queue::new(shared::queue::client_for_endpoint(endpoint), url))
    }
}

/// The caught mails of a runner, whether it runs or not.
pub(crate) fn mailbox(project: &Path, name: &str) -> Result<Mailbox> {
    let state = State::open(project, name)?;
    Ok(Mailbox::open(&state.private_dir(INBOX)?))
}
