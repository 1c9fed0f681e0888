//! One invocation: takes a batch and its connection slots, works, gives everything back, and goes on with the
//! campaign's next batch over the same connections for a while.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use shared::accounts::{self, Account};
use shared::batches::{self, CONNECTIONS_PER_INVOCATION, Claimed, Released};
use shared::campaigns;
use shared::deadline::Deadline;
use shared::dkim;
use shared::gate::{self, Cause, Outcome, Request, Settled};
use shared::job_runs::{self, Trigger};
use shared::limits::Wait;
use shared::mail::Sender;
use shared::single_mail;
use shared::smtp::Server;
use shared::template::MailTemplate;
use uuid::Uuid;

use crate::batch;
use crate::connection::Line;
use crate::work::{Content, Message, Stop, Work};
use crate::{Counts, Ctx, JOB};

/// How long one invocation goes on with further batches. Longer saves more connects; shorter lets the other accounts
/// have their turn sooner.
const GO_ON_FOR: Duration = Duration::from_secs(30);
/// An account with one connection gives it to a campaign for this long at a time, so that single mails have their turn.
const TURN_OF_A_CAMPAIGN: Duration = Duration::from_secs(15);
/// A limit that has room again within this time is waited for with the batch in hand. Longer keeps functions idle that
/// other accounts could use; shorter makes limits per second crawl.
const WAIT_IN_PLACE: Duration = Duration::from_secs(2);
/// At least this long.
const LEAST_PAUSE: Duration = Duration::from_millis(50);
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
    // Where nothing could be done, ringing the next batch would only show the same of that.
    let idle = outcome.as_ref().is_ok_and(|counts| counts.batches == 0);
    if !idle && let Err(error) = batches::ring_due(&ctx.db, &ctx.queues, ctx.settings.timing).await {
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
    let signing = dkim::of_account(&ctx.db, account_id).await.context("read the DKIM keys")?;
    let (server, sender) = match prepare(ctx, &account, &signing) {
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
    let mut content_at_hand: Option<Message> = None;
    let mut next = Some(claimed);
    while let Some(claimed) = next.take() {
        if account.paused_until.is_some_and(|until| until > Utc::now()) {
            give_back(ctx, &claimed, Left::untouched_until(account.paused_until)).await?;
            break;
        }
        let content = match content_at_hand.take() {
            Some(content) => content,
            None => load(ctx, &claimed).await?,
        };
        if lines.is_empty() {
            let slots = take_slots(ctx, &account, &claimed).await.context("take connection slots")?;
            if slots.is_empty() {
                leave_to_others(ctx, &claimed).await?;
                break;
            }
            lines = slots.into_iter().map(Line::new).collect();
        }
        counts.batches += 1;
        let shares_connection = shares_connection(&account, &claimed);
        let turn = if shares_connection { deadline.soft_within(TURN_OF_A_CAMPAIGN) } else { deadline };
        let work =
            Work { ctx, lease: &claimed.lease, server: &server, sender: &sender, message: &content, deadline: turn };
        let report = loop {
            let report = Box::pin(batch::run(&work, &mut lines, counts.sent)).await;
            counts += report.counts;
            match &report.stop {
                Some(Stop::Waits(wait)) if started.elapsed() < GO_ON_FOR && !turn.soft_passed() => {
                    let Some(pause) = short(wait, Utc::now()) else { break report };
                    tokio::time::sleep(pause).await;
                }
                _ => break report,
            }
        };
        let not_before = carry_out(ctx, &account, &claimed, &content, report.stop.as_ref()).await?;
        let left = Left {
            not_before,
            progressed: report.counts != Counts::default() || !matches!(report.stop, Some(Stop::Broken(_))),
            goes_on: report.stop.as_ref().is_none_or(Stop::goes_on_by_itself),
        };
        // The deadline may be that of a turn: the campaign goes on unless somebody waits for the connection.
        let goes_on = matches!(report.stop, None | Some(Stop::Deadline))
            && started.elapsed() < GO_ON_FOR
            && !deadline.soft_passed()
            && !(shares_connection && batches::single_mail_waits(&ctx.db, account_id).await?);
        if !goes_on {
            // Before the batch is offered to others, who would find every connection taken and wait.
            hang_up(std::mem::take(&mut lines)).await;
            batches::free_slots(&ctx.db, account_id, token).await.context("free connection slots")?;
        }
        give_back(ctx, &claimed, left).await?;
        if let Some(Stop::Broken(reason)) = report.stop {
            anyhow::bail!(reason);
        }
        if goes_on {
            next = batches::claim_next(&ctx.db, claimed.campaign_id, account_id, token, lasts).await?;
            content_at_hand = claimed.campaign_id.map(|_| content);
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

/// The batch is a campaign's, and the account has no connection that could be kept for single mails.
fn shares_connection(account: &Account, claimed: &Claimed) -> bool {
    claimed.campaign_id.is_some() && account.max_connections == 1
}

/// The connection slots that this batch may have; none when it has to wait.
async fn take_slots(ctx: &Ctx, account: &Account, claimed: &Claimed) -> Result<Vec<i32>, sqlx::Error> {
    let slots = batches::slots_for(claimed.campaign_id, account.max_connections);
    if shares_connection(account, claimed) && batches::single_mail_waits(&ctx.db, account.id).await? {
        return Ok(vec![]);
    }
    // A single mail is alone in its batch: a second connection would have nothing to do.
    let wanted = if claimed.campaign_id.is_some() { CONNECTIONS_PER_INVOCATION } else { 1 };
    let lease = &claimed.lease;
    batches::take_slots(&ctx.db, account.id, slots, wanted, lease.token, lease.lasts).await
}

/// What the account's row and those of its keys say, decrypted and parsed.
fn prepare(ctx: &Ctx, account: &Account, signing: &[dkim::Row]) -> Result<(Server, Sender)> {
    let password = account.credentials.as_ref().map(|(_, password)| password.decrypt(&ctx.keys)).transpose()?;
    let signers = ctx.signers.read(signing, &ctx.keys)?;
    Ok((Server::of(account, password), Sender::of(account)?.signed_by(signers)))
}

async fn hang_up(lines: Vec<Line>) {
    futures_util::future::join_all(lines.into_iter().map(Line::hang_up)).await;
}

/// How long to wait in place for a limit that has room again in a moment: giving everything back would take longer, and
/// leave most of a limit per second unused.
fn short(wait: &Wait, now: DateTime<Utc>) -> Option<Duration> {
    let pause = (wait.until - now).to_std().unwrap_or_default();
    // Where the clocks of function and database differ, it must not ask without pause.
    (pause <= WAIT_IN_PLACE).then(|| pause.max(LEAST_PAUSE))
}

/// Pauses what is at fault, with its reason. Returns when the batch should be tried again, if that is later than its
/// deliveries say.
async fn carry_out(
    ctx: &Ctx,
    account: &Account,
    claimed: &Claimed,
    content: &Message,
    stop: Option<&Stop>,
) -> Result<Option<DateTime<Utc>>> {
    let pause = match stop {
        Some(Stop::Account(_)) => ctx.settings.account_pause,
        Some(Stop::Provider(_)) => ctx.settings.provider_pause,
        Some(Stop::Message(reason)) => {
            match (&content.content, claimed.campaign_id) {
                (Content::Single(mail), _) => refuse(ctx, claimed, mail.delivery_id, reason).await?,
                (Content::Template(_), Some(campaign)) => {
                    tracing::error!(campaign.id = campaign, "campaign {campaign} paused: {reason}");
                    campaigns::pause(&ctx.db, campaign, reason).await.context("pause the campaign")?;
                }
                (Content::Template(_), None) => {}
            }
            return Ok(None);
        }
        Some(Stop::Waits(wait)) => {
            tracing::info!(account = account.name, "batch {} waits: {}", claimed.lease.batch_id, wait.reason);
            return Ok(Some(wait.until));
        }
        None | Some(Stop::Deadline | Stop::LeaseLost | Stop::Paused | Stop::Broken(_)) => return Ok(None),
    };
    let Some(Stop::Account(reason) | Stop::Provider(reason)) = stop else { return Ok(None) };
    let until = accounts::pause(&ctx.db, account.id, pause.as_secs_f64(), reason).await.context("pause the account")?;
    tracing::error!(account = account.name, "account {} paused until {until}: {reason}", account.name);
    Ok(Some(until))
}

/// Gives up a single mail whose content is not wanted: it has no campaign that could wait for a person. The gate records
/// it, so the lease must hold; without it, the next holder hears the same from the server.
async fn refuse(ctx: &Ctx, claimed: &Claimed, delivery_id: i64, reason: &str) -> Result<()> {
    tracing::error!(delivery.id = delivery_id, "single mail {delivery_id} refused: {reason}");
    let settled = Settled { delivery_id, outcome: Outcome::Refused(Cause::Content), reply: reason.to_owned() };
    gate::pass(&ctx.db, &claimed.lease, &[Request { slot: 0, settled: vec![settled], next: None }])
        .await
        .context("record the refusal of a single mail")?;
    Ok(())
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
        Released::DueAt(due_at) => ring(ctx, claimed, due_at).await,
    }
    Ok(())
}

/// Gives back a batch for which there is no connection. It stays due, so that the function that has the connections takes
/// it when it is through with its own; the ring is for the case that this one ends.
async fn leave_to_others(ctx: &Ctx, claimed: &Claimed) -> Result<()> {
    batches::release(&ctx.db, &claimed.lease, None, true).await.context("release the batch")?;
    ring(ctx, claimed, Utc::now() + NO_SLOT_PAUSE).await;
    Ok(())
}

async fn ring(ctx: &Ctx, claimed: &Claimed, at: DateTime<Utc>) {
    let (batch_id, queue) = (claimed.lease.batch_id, ctx.queues.of(claimed.campaign_id));
    if let Err(error) = batches::ring_at(&ctx.db, queue, batch_id, at, Utc::now()).await {
        tracing::warn!(batch.id = batch_id, "batch {batch_id} waits for the next dispatch: {error:#}");
    }
}

/// What the batch's mails say: a campaign's content, frozen, so it is read once per invocation; or a single mail's own.
async fn load(ctx: &Ctx, claimed: &Claimed) -> Result<Message> {
    let Some(id) = claimed.campaign_id else {
        let batch_id = claimed.lease.batch_id;
        let mail = single_mail::load(&ctx.db, batch_id)
            .await
            .with_context(|| format!("read the single mail of batch {batch_id}"))?;
        return Ok(Message { list: mail.list.clone(), content: Content::Single(mail) });
    };
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
    Ok(Message {
        content: Content::Template(
            MailTemplate::parse(&row.subject, &row.html_template, &row.text_template)
                .with_context(|| format!("templates of campaign {id}"))?,
        ),
        list: Some(row.list),
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
