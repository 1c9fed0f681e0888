//! The monitor: finds work that does not go on, says why, and resumes it.
//!
//! [`look`] reads the facts, [`judge`] decides about them for a given time, [`resume`] mends. Progress is what was
//! recorded about mails; neither the age of a campaign nor a function that merely holds a batch says anything about it.
//!
//! Nothing here resets a delivery that was handed over, sends, or takes work off a queue. Resuming does what dispatch and
//! senders do anyway, under the same locks, so it may run beside them, twice at once, and on a healthy system.

mod killers;
mod single;

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgExecutor, PgPool};

use crate::batches::{self, Timing};
use crate::campaigns;
use crate::queue::BatchQueues;

pub use killers::{Halved, halve};
pub use single::{SingleFacts, StuckSingleMails};

/// Without a recorded outcome for this long, a campaign with due work counts as stuck. Shorter than the longest wait for
/// one server's answer (10 minutes) would call patience a fault; longer leaves people waiting.
pub const NO_PROGRESS: Duration = Duration::from_secs(15 * 60);
/// Claims of a batch in a row that ended in silence, after which it is taken for what kills its functions. Fewer would
/// suspect mails for a deployment or two; more costs a process each.
pub const FRUITLESS_CLAIMS: i32 = 5;
/// Most leases, batches and connections that one report names.
const MOST_NAMED: i64 = 500;

/// What [`judge`] decides about.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Campaigns that are scheduled or being sent.
    pub campaigns: Vec<CampaignFacts>,
    /// Accounts with single mails that are not settled.
    pub single: Vec<SingleFacts>,
    /// Batches whose lease ran out.
    pub leases: Vec<LostLease>,
    /// Batches that were claimed again and again without an outcome, and that nobody holds.
    pub killers: Vec<KillingBatch>,
    /// Connections whose lease ran out while they held a mail.
    pub in_flight: Vec<DeadConnection>,
}

/// A campaign as the ledger shows it.
#[derive(Debug, Clone)]
pub struct CampaignFacts {
    /// Row in `nightshift.campaigns`.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Still to be planned.
    pub scheduled: bool,
    /// When it was to start, did start, or was last let go on.
    pub started_at: Option<DateTime<Utc>>,
    /// The latest attempt or outcome of any of its mails.
    pub last_outcome: Option<DateTime<Utc>>,
    /// When the first of what is left may be worked on; `None` when nothing is left.
    pub next_due: Option<DateTime<Utc>>,
    /// Mails that are pending, deferred or in flight.
    pub open: i64,
    /// Batches that are not finished,
    pub unfinished_batches: i64,
    /// of these: in a function's hands,
    pub held_batches: i64,
    /// with a lease that ran out,
    pub lost_batches: i64,
    /// and claimed too often without an outcome.
    pub killing_batches: i64,
    /// Name of its account.
    pub account: String,
    /// Nothing leaves through the account before this.
    pub paused_until: Option<DateTime<Utc>>,
    /// Why.
    pub pause_reason: Option<String>,
}

/// A batch whose function ended without giving it back.
#[derive(Debug, Clone, Serialize)]
pub struct LostLease {
    /// Row in `nightshift.batches`.
    pub batch_id: i64,
    /// Its campaign; `None` for single mails.
    pub campaign_id: Option<i64>,
    /// When the lease ran out.
    pub ran_out_at: DateTime<Utc>,
    /// Its campaign or account waits anyway, or nothing in it is due: nobody would take it now.
    pub waits: bool,
}

/// A batch whose functions end in silence.
#[derive(Debug, Clone, Serialize)]
pub struct KillingBatch {
    /// Row in `nightshift.batches`.
    pub batch_id: i64,
    /// Its campaign; `None` for single mails.
    pub campaign_id: Option<i64>,
    /// Claims in a row without an outcome.
    pub fruitless_claims: i32,
}

/// A mail in flight on a connection whose function is gone.
#[derive(Debug, Clone, Serialize)]
pub struct DeadConnection {
    /// Name of the account.
    pub account: String,
    /// Slot of the connection.
    pub slot: i32,
    /// The mail it holds.
    pub delivery_id: i64,
    /// When the connection's lease ran out.
    pub ran_out_at: DateTime<Utc>,
}

/// Why a campaign does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Its time has come and nobody planned it.
    NotPlanned,
    /// Everything in it is done, and nobody closed it.
    NotClosed,
    /// Some of its batches end every function that takes them.
    KillsFunctions,
    /// Functions hold its batches and record nothing.
    HeldWithoutOutcome,
    /// The functions that had its batches are gone.
    LeasesRanOut,
    /// It is due, and nobody takes it.
    NotTaken,
}

impl Why {
    /// What a person can do about it, where resuming does not help.
    pub fn advice(self) -> &'static str {
        match self {
            Self::NotPlanned => "see whether dispatch-campaigns runs (GET /health, its log)",
            Self::NotClosed | Self::LeasesRanOut => {
                "resume it with --fix; if it comes back, see the log of send-emails"
            }
            Self::KillsFunctions => "resume it with --fix: the mail at fault is found by halving and held",
            Self::HeldWithoutOutcome => "see the log of send-emails: does the mail server answer?",
            Self::NotTaken => "resume it with --fix; if it comes back, see whether send-emails is invoked",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotPlanned => "its time has come and it was not planned",
            Self::NotClosed => "everything is done and it was not closed",
            Self::KillsFunctions => "functions end whenever they work on it",
            Self::HeldWithoutOutcome => "functions hold it and record nothing",
            Self::LeasesRanOut => "the functions that had it are gone",
            Self::NotTaken => "it is due and no function takes it",
        })
    }
}

/// A campaign without progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StuckCampaign {
    /// Row in `nightshift.campaigns`.
    pub campaign_id: i64,
    /// Its name.
    pub name: String,
    /// Since when nothing was recorded although it could have been.
    pub since: DateTime<Utc>,
    /// Mails that wait.
    pub open: i64,
    /// What is in the way.
    pub why: Why,
}

/// An account that is paused while mail waits for it. Its pause ends by itself, so this is for information.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PausedAccount {
    /// Its name.
    pub account: String,
    /// Nothing leaves before this.
    pub until: DateTime<Utc>,
    /// Why.
    pub reason: Option<String>,
    /// Campaigns that wait for it.
    pub campaigns: Vec<i64>,
    /// Single mails that wait for it.
    pub single_mails: i64,
    /// Nothing left through it for longer than the limit: one pause follows the other.
    pub again_and_again: bool,
}

/// What the monitor found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The time that was judged for.
    pub checked_at: DateTime<Utc>,
    /// Minutes without progress that count as stuck.
    pub limit_minutes: i64,
    /// Something does not go on by itself.
    pub stuck: bool,
    /// Campaigns without progress.
    pub campaigns: Vec<StuckCampaign>,
    /// Accounts whose single mails nobody takes.
    pub single_mails: Vec<StuckSingleMails>,
    /// Leases that ran out; stuck only when nobody took the batch for longer than the limit.
    pub leases: Vec<LostLease>,
    /// Batches that end their functions.
    pub killers: Vec<KillingBatch>,
    /// Mails in flight on dead connections; stuck only when nobody settled them for longer than the limit.
    pub in_flight: Vec<DeadConnection>,
    /// Accounts that are paused while mail waits.
    pub paused_accounts: Vec<PausedAccount>,
}

/// Reads the facts. Changes nothing and locks nothing.
pub async fn look(db: &PgPool) -> Result<Facts> {
    Ok(Facts {
        campaigns: campaign_facts(db).await.context("read campaigns")?,
        single: single::facts(db).await.context("read single mails")?,
        leases: lost_leases(db).await.context("read leases that ran out")?,
        killers: killing_batches(db).await.context("read batches without outcomes")?,
        in_flight: dead_connections(db).await.context("read dead connections")?,
    })
}

async fn campaign_facts(db: impl PgExecutor<'_>) -> Result<Vec<CampaignFacts>, sqlx::Error> {
    sqlx::query_file_as!(CampaignFacts, "src/monitor/campaigns.sql", FRUITLESS_CLAIMS).fetch_all(db).await
}

async fn lost_leases(db: impl PgExecutor<'_>) -> Result<Vec<LostLease>, sqlx::Error> {
    sqlx::query_as!(
        LostLease,
        r#"
        select
            b.id as batch_id,
            b.campaign_id,
            b.leased_until as "ran_out_at!",
            (
                coalesce(c.status <> 'sending', false)
                or coalesce(a.paused_until > now(), false)
                or b.due_at > now()
            ) as "waits!"
        from nightshift.batches b
        join nightshift.smtp_accounts a on a.id = b.account_id
        left join nightshift.campaigns c on c.id = b.campaign_id
        where b.finished_at is null
            and b.leased_until <= clock_timestamp()
        order by b.leased_until, b.id
        limit $1
        "#,
        MOST_NAMED,
    )
    .fetch_all(db)
    .await
}

async fn killing_batches(db: impl PgExecutor<'_>) -> Result<Vec<KillingBatch>, sqlx::Error> {
    sqlx::query_as!(
        KillingBatch,
        r#"
        select b.id as batch_id, b.campaign_id, b.fruitless_claims
        from nightshift.batches b
        left join nightshift.campaigns c on c.id = b.campaign_id
        where b.finished_at is null
            and b.fruitless_claims >= $1
            and (b.leased_until is null or b.leased_until <= clock_timestamp())
            and (c.id is null or c.status = 'sending')
        order by b.id
        limit $2
        "#,
        FRUITLESS_CLAIMS,
        MOST_NAMED,
    )
    .fetch_all(db)
    .await
}

async fn dead_connections(db: impl PgExecutor<'_>) -> Result<Vec<DeadConnection>, sqlx::Error> {
    sqlx::query_as!(
        DeadConnection,
        r#"
        select a.name as account, s.slot, s.delivery_id as "delivery_id!", s.leased_until as "ran_out_at!"
        from nightshift.smtp_connections s
        join nightshift.smtp_accounts a on a.id = s.account_id
        where s.delivery_id is not null
            and s.leased_until <= clock_timestamp()
        order by s.leased_until, a.name, s.slot
        limit $1
        "#,
        MOST_NAMED,
    )
    .fetch_all(db)
    .await
}

/// Judges the facts at `now`: what has had no progress for longer than `limit` is stuck.
pub fn judge(facts: &Facts, now: DateTime<Utc>, limit: Duration) -> Report {
    // A limit beyond what a calendar holds means never.
    let limit = chrono::Duration::from_std(limit).unwrap_or(chrono::Duration::MAX);
    let campaigns: Vec<StuckCampaign> =
        facts.campaigns.iter().filter_map(|campaign| judge_campaign(campaign, now, limit)).collect();
    let single_mails: Vec<StuckSingleMails> =
        facts.single.iter().filter_map(|facts| single::judge(facts, now, limit)).collect();
    let stuck = !campaigns.is_empty()
        || !single_mails.is_empty()
        || !facts.killers.is_empty()
        || facts.leases.iter().any(|lease| !lease.waits && now - lease.ran_out_at > limit)
        || facts.in_flight.iter().any(|connection| now - connection.ran_out_at > limit);
    Report {
        checked_at: now,
        limit_minutes: limit.num_minutes(),
        stuck,
        campaigns,
        single_mails,
        leases: facts.leases.clone(),
        killers: facts.killers.clone(),
        in_flight: facts.in_flight.clone(),
        paused_accounts: paused_accounts(facts, now, limit),
    }
}

fn judge_campaign(campaign: &CampaignFacts, now: DateTime<Utc>, limit: chrono::Duration) -> Option<StuckCampaign> {
    let waits = [campaign.paused_until, campaign.next_due].into_iter().flatten().any(|until| until > now);
    // It could not have gone on before the last thing that held it back was over.
    let since = [campaign.started_at, campaign.last_outcome, campaign.next_due, campaign.paused_until]
        .into_iter()
        .flatten()
        .max()?;
    if (waits && !campaign.scheduled) || now - since <= limit {
        return None;
    }
    let why = if campaign.scheduled {
        Why::NotPlanned
    } else if campaign.unfinished_batches == 0 {
        Why::NotClosed
    } else if campaign.killing_batches > 0 {
        Why::KillsFunctions
    } else if campaign.held_batches > 0 {
        Why::HeldWithoutOutcome
    } else if campaign.lost_batches > 0 {
        Why::LeasesRanOut
    } else {
        Why::NotTaken
    };
    Some(StuckCampaign { campaign_id: campaign.id, name: campaign.name.clone(), since, open: campaign.open, why })
}

fn paused_accounts(facts: &Facts, now: DateTime<Utc>, limit: chrono::Duration) -> Vec<PausedAccount> {
    let mut accounts: Vec<PausedAccount> = vec![];
    for campaign in facts.campaigns.iter().filter(|campaign| !campaign.scheduled) {
        let Some(until) = campaign.paused_until.filter(|until| *until > now) else { continue };
        let latest = campaign.last_outcome.max(campaign.started_at);
        let long_silent = latest.is_some_and(|latest| now - latest > limit);
        match accounts.iter_mut().find(|account| account.account == campaign.account) {
            Some(account) => {
                account.campaigns.push(campaign.id);
                // One campaign that got something out is enough.
                account.again_and_again &= long_silent;
            }
            None => accounts.push(PausedAccount {
                account: campaign.account.clone(),
                until,
                reason: campaign.pause_reason.clone(),
                campaigns: vec![campaign.id],
                single_mails: 0,
                again_and_again: long_silent,
            }),
        }
    }
    for single in &facts.single {
        let Some(until) = single.paused_until.filter(|until| *until > now) else { continue };
        match accounts.iter_mut().find(|account| account.account == single.account) {
            Some(account) => account.single_mails = single.open,
            None => accounts.push(PausedAccount {
                account: single.account.clone(),
                until,
                reason: single.pause_reason.clone(),
                campaigns: vec![],
                single_mails: single.open,
                again_and_again: single.oldest_untried.is_some_and(|made| now - made > limit),
            }),
        }
    }
    accounts
}

/// What resuming did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Resumed {
    /// Mails of dead connections settled as their campaign's policy says.
    pub settled: i64,
    /// Leases that had run out and were cleared.
    pub leases_cleared: usize,
    /// Killing batches cut in two, or whose last open mail got a batch of its own.
    pub halved: usize,
    /// Mails held because they end every function that works on them.
    pub held: Vec<i64>,
    /// Batches rung.
    pub rung: usize,
    /// Campaigns closed.
    pub closed: Vec<i64>,
}

/// Resumes what does not go on: settles what dead connections held, cuts killing batches, clears leases that ran out,
/// closes finished campaigns and rings what is due.
///
/// Every step is its own transaction and harmless when repeated; on an error those before it stand.
pub async fn resume(db: &PgPool, queues: &BatchQueues, timing: Timing) -> Result<Resumed> {
    let mut done = Resumed {
        settled: batches::settle_dead_connections(db).await.context("settle dead connections")?,
        ..Resumed::default()
    };
    for killer in killing_batches(db).await.context("read batches without outcomes")? {
        let batch_id = killer.batch_id;
        match halve(db, batch_id).await.with_context(|| format!("halve batch {batch_id}"))? {
            None => {}
            Some(Halved::Finished) => tracing::info!(batch.id = batch_id, "nothing is open in batch {batch_id}"),
            Some(Halved::Moved { to, deliveries }) => {
                done.halved += 1;
                tracing::warn!(
                    batch.id = batch_id,
                    "functions end without a word when they work on batch {batch_id}; {deliveries} of its mails are \
                     now batch {to}",
                );
            }
            Some(Halved::Held { delivery_id }) => {
                done.held.push(delivery_id);
                tracing::error!(
                    batch.id = batch_id,
                    delivery.id = delivery_id,
                    "mail {delivery_id} is held: {FRUITLESS_CLAIMS} functions in a row ended while they worked on it \
                     alone",
                );
            }
        }
    }
    done.leases_cleared = clear_leases(db).await.context("clear leases that ran out")?;
    done.closed = campaigns::close_finished(db).await.context("close finished campaigns")?;
    // Last, so that a queue that is down keeps nothing else from happening.
    done.rung = batches::ring_due(db, queues, timing).await.context("ring due batches")?;
    Ok(done)
}

/// Takes back the leases that ran out. A holder that comes back late finds its token gone; it could not have passed the
/// gate either way. The count of fruitless claims stays: it is the evidence.
async fn clear_leases(db: impl PgExecutor<'_>) -> Result<usize, sqlx::Error> {
    let cleared = sqlx::query_scalar!(
        r#"
        update nightshift.batches
        set lease_token = null,
            leased_until = null
        where id in (
            select id
            from nightshift.batches
            where finished_at is null
                and leased_until <= clock_timestamp()
            order by id
            for update skip locked
        )
        returning id
        "#,
    )
    .fetch_all(db)
    .await?;
    Ok(cleared.len())
}
