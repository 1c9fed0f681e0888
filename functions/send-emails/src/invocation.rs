//! One invocation: takes a batch and its connection slots, works, gives everything back, and goes on with the
//! campaign's next batch over the same connections for a while.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use shared::accounts::{self, Account};
use shared::batches::{self, CONNECTIONS_PER_INVOCATION, Claimed, Released};
use shared::campaigns;
use shared::deadline::Deadline;
use shared::job_runs::{self, Trigger};
use shared::mail::Sender;
use shared::smtp::Server;
use shared::template::MailTemplate;
use uuid::Uuid;

use crate::batch;
use crate::connection::Line;
use crate::work::{Campaign, Stop, Work};
use crate::{Counts, Ctx, JOB};

/// How long one invocation goes on with further batches. Longer saves more connects; shorter lets the other accounts
/// have their turn sooner.
const GO_ON_FOR: Duration = Duration::from_secs(30);
/// All connections of the account are in use: look again after this long.
const NO_SLOT_PAUSE: chrono::Duration = chrono::Duration::seconds(5);

/// Sends what is due in the batch. A batch that cannot be claimed is somebody else's or done: nothing happens.
pub async fn send_batch(ctx: &Ctx, batch_id: i64, deadline: Deadline) -> Result<Counts> {
    // A dead function's mails in flight keep their batch open: settle them before working on what is left.
    batches::settle_dead_connections(&ctx.db).await.context("settle dead connections")?;
    let token = Uuid::new_v4();
    let Some(claimed) = batches::claim(&ctx.db, batch_id, token, ctx.settings.timing.lease).await? else {
        tracing::info!(batch.id = batch_id, "batch {batch_id} is finished, paused or in other hands");
        return Ok(Counts::default());
    };
    let run = job_runs::start(&ctx.db, JOB, Trigger::Queue, Duration::ZERO).await.context("open the job run")?;
    let account_id = claimed.lease.account_id;
    let lease = claimed.lease.clone();
    let outcome = work(ctx, claimed, deadline).await;
    if outcome.is_err() {
        // A function that can still say what went wrong was not killed by a mail: the claim does not count against the
        // batch. Where the batch was given back already, this finds nothing to release.
        let later = Utc::now() + ctx.settings.provider_pause;
        if let Err(error) = batches::release(&ctx.db, &lease, Some(later), true).await {
            tracing::warn!(batch.id = batch_id, "batch {batch_id} was not given back: {error}");
        }
    }

    // Whatever happened, nothing stays behind: slots are freed, and what waits is rung.
    batches::free_slots(&ctx.db, account_id, token).await.context("free connection slots")?;
    let (counts, error) = match &outcome {
        Ok(counts) => (serde_json::to_value(counts)?, None),
        Err(error) => (serde_json::json!({}), Some(format!("{error:#}"))),
    };
    if let Some(run) = run {
        job_runs::finish(&ctx.db, run, &counts, error.as_deref()).await.context("close the job run")?;
    }
    for campaign in campaigns::close_finished(&ctx.db).await.context("close finished campaigns")? {
        tracing::info!(campaign.id = campaign, "campaign {campaign} is sent");
    }
    if let Err(error) = batches::ring_due(&ctx.db, &ctx.email, ctx.settings.timing).await {
        // The next dispatch rings them.
        tracing::warn!("waiting batches could not be rung: {error:#}");
    }
    outcome
}

/// Works through the claimed batch and the campaign's next ones, over the same connections.
async fn work(ctx: &Ctx, claimed: Claimed, deadline: Deadline) -> Result<Counts> {
    let started = Instant::now();
    let (account_id, token) = (claimed.lease.account_id, claimed.lease.token);
    let lasts = ctx.settings.timing.lease;
    let account = accounts::load(&ctx.db, account_id).await?;
    let (server, sender) = match prepare(ctx, &account) {
        Ok(ready) => ready,
        Err(error) => {
            // The account is at fault: it waits, with the reason, and no mail does.
            let until =
                accounts::pause(&ctx.db, account_id, ctx.settings.account_pause.as_secs_f64(), &format!("{error:#}"))
                    .await?;
            give_back(ctx, &claimed, Left::untouched_until(Some(until))).await?;
            return Err(error);
        }
    };

    let mut counts = Counts::default();
    let mut lines: Vec<Line> = vec![];
    let mut campaign: Option<Campaign> = None;
    let mut next = Some(claimed);
    while let Some(claimed) = next.take() {
        if account.paused_until.is_some_and(|until| until > Utc::now()) {
            give_back(ctx, &claimed, Left::untouched_until(account.paused_until)).await?;
            break;
        }
        let content = match campaign.take() {
            Some(content) => content,
            None => load_campaign(ctx, &claimed).await?,
        };
        if lines.is_empty() {
            let slots = batches::take_slots(
                &ctx.db,
                account_id,
                account.max_connections,
                CONNECTIONS_PER_INVOCATION,
                token,
                lasts,
            )
            .await
            .context("take connection slots")?;
            if slots.is_empty() {
                give_back(ctx, &claimed, Left::untouched_until(Some(Utc::now() + NO_SLOT_PAUSE))).await?;
                break;
            }
            lines = slots.into_iter().map(Line::new).collect();
        }
        counts.batches += 1;
        let work = Work { ctx, lease: &claimed.lease, server: &server, sender: &sender, campaign: &content, deadline };
        let report = Box::pin(batch::run(&work, &mut lines, counts.sent)).await;
        counts += report.counts;
        let not_before = carry_out(ctx, &account, &claimed, report.stop.as_ref()).await?;
        let left = Left {
            not_before,
            progressed: report.counts != Counts::default() || !matches!(report.stop, Some(Stop::Broken(_))),
            goes_on: report.stop.as_ref().is_none_or(Stop::goes_on_by_itself),
        };
        let over = report.stop.is_some() || started.elapsed() >= GO_ON_FOR || deadline.soft_passed();
        if over {
            // Before the batch is offered to others, who would find every connection taken and wait.
            hang_up(std::mem::take(&mut lines)).await;
            batches::free_slots(&ctx.db, account_id, token).await.context("free connection slots")?;
        }
        give_back(ctx, &claimed, left).await?;
        if let Some(Stop::Broken(reason)) = report.stop {
            anyhow::bail!(reason);
        }
        if !over {
            next = batches::claim_next(&ctx.db, claimed.campaign_id, account_id, token, lasts).await?;
            campaign = Some(content);
        }
    }
    hang_up(lines).await;
    if server.manners() != account.manners {
        accounts::remember_manners(&ctx.db, account_id, server.manners()).await.context("remember the server")?;
    }
    tracing::info!(
        account = account.name,
        "sent {}, refused {}, deferred {}, uncertain {} in {} batches",
        counts.sent,
        counts.refused,
        counts.deferred,
        counts.uncertain,
        counts.batches,
    );
    Ok(counts)
}

/// What the account's row says, decrypted and parsed.
fn prepare(ctx: &Ctx, account: &Account) -> Result<(Server, Sender)> {
    let password = account.credentials.as_ref().map(|(_, password)| password.decrypt(&ctx.keys)).transpose()?;
    Ok((Server::of(account, password), Sender::of(account)?))
}

async fn hang_up(lines: Vec<Line>) {
    futures_util::future::join_all(lines.into_iter().map(Line::hang_up)).await;
}

/// Pauses what is at fault, with its reason. Returns when the batch should be tried again, if that is later than its
/// deliveries say.
async fn carry_out(
    ctx: &Ctx,
    account: &Account,
    claimed: &Claimed,
    stop: Option<&Stop>,
) -> Result<Option<DateTime<Utc>>> {
    let pause = match stop {
        Some(Stop::Account(_)) => ctx.settings.account_pause,
        Some(Stop::Provider(_)) => ctx.settings.provider_pause,
        Some(Stop::Message(reason)) => {
            if let Some(campaign) = claimed.campaign_id {
                tracing::error!(campaign.id = campaign, "campaign {campaign} paused: {reason}");
                campaigns::pause(&ctx.db, campaign, reason).await.context("pause the campaign")?;
            }
            return Ok(None);
        }
        None | Some(Stop::Deadline | Stop::LeaseLost | Stop::Paused | Stop::Broken(_)) => return Ok(None),
    };
    let Some(Stop::Account(reason) | Stop::Provider(reason)) = stop else { return Ok(None) };
    let until = accounts::pause(&ctx.db, account.id, pause.as_secs_f64(), reason).await.context("pause the account")?;
    tracing::error!(account = account.name, "account {} paused until {until}: {reason}", account.name);
    Ok(Some(until))
}

/// How work on a batch ended.
struct Left {
    /// Not to be tried again before, whatever its deliveries say.
    not_before: Option<DateTime<Utc>>,
    /// Something was recorded, or the reason why not is known and no mail's: the claim does not count against the batch.
    progressed: bool,
    /// What is left needs nobody's decision.
    goes_on: bool,
}

impl Left {
    fn untouched_until(until: Option<DateTime<Utc>>) -> Self {
        Self { not_before: until, progressed: true, goes_on: true }
    }
}

/// Releases the batch, and rings it again for the moment when something in it is due; not when it waits for a person,
/// whose decision rings it.
async fn give_back(ctx: &Ctx, claimed: &Claimed, left: Left) -> Result<()> {
    let batch_id = claimed.lease.batch_id;
    match batches::release(&ctx.db, &claimed.lease, left.not_before, left.progressed)
        .await
        .context("release the batch")?
    {
        Released::Finished => tracing::debug!(batch.id = batch_id, "batch {batch_id} is finished"),
        Released::NotHeld => tracing::warn!(batch.id = batch_id, "the lease of batch {batch_id} was lost meanwhile"),
        Released::DueAt(_) if !left.goes_on => {}
        Released::DueAt(due_at) => {
            if let Err(error) = batches::ring_at(&ctx.db, &ctx.email, batch_id, due_at, Utc::now()).await {
                tracing::warn!(batch.id = batch_id, "batch {batch_id} waits for the next dispatch: {error:#}");
            }
        }
    }
    Ok(())
}

/// The campaign's content; frozen, so it is read once per invocation.
async fn load_campaign(ctx: &Ctx, claimed: &Claimed) -> Result<Campaign> {
    let id = claimed.campaign_id.context("a batch without a campaign")?;
    let row = sqlx::query!(
        r#"
        select subject, html_template, text_template, list
        from nightshift.campaigns
        where id = $1
        "#,
        id,
    )
    .fetch_one(&ctx.db)
    .await
    .with_context(|| format!("read campaign {id}"))?;
    Ok(Campaign {
        template: MailTemplate::parse(&row.subject, &row.html_template, &row.text_template)
            .with_context(|| format!("templates of campaign {id}"))?,
        list: row.list,
    })
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.refused += other.refused;
        self.deferred += other.deferred;
        self.uncertain += other.uncertain;
        self.withheld += other.withheld;
        self.batches += other.batches;
    }
}
