//! Batches: pieces of a campaign that one function works on at a time, and the doorbells that announce them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, Utc};
use sqlx::{PgExecutor, PgPool};
use uuid::Uuid;

use crate::config::{self, ConfigError};
use crate::doorbell::Doorbell;
use crate::gate::Lease;
use crate::limits::Wait;
use crate::queue::{BatchQueues, MAX_DELAY, Queue};
use crate::uncertain;
use crate::waits;

/// Batches of one account that are rung or worked on at a time, campaigns' and single mails' counted apart. More fills the queue with work that only waits; fewer
/// leaves functions idle.
const MAX_OUTSTANDING: i32 = 8;
/// Connections that one function opens at most. More would leave none for the other functions of an account with few;
/// fewer would wait for each server's answers one by one.
pub const CONNECTIONS_PER_INVOCATION: i32 = 32;
/// Most doorbells in one round, so that a round ends.
const MAX_RINGS: i64 = 500;

/// How batches are leased and rung.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How long a lease lasts without a write. Shorter returns a dead function's work sooner, but must outlast a slow
    /// transaction. `LEASE_SECONDS`, default 60.
    pub lease: Duration,
    /// A batch that was rung and not taken for this long is rung again. `RING_AGAIN_SECONDS`, default 60.
    pub ring_again: Duration,
}

impl Timing {
    /// Reads the environment.
    pub fn from_env() -> Result<Self, ConfigError> {
        Ok(Self {
            lease: config::seconds_or("LEASE_SECONDS", Duration::from_secs(60))?,
            ring_again: config::seconds_or("RING_AGAIN_SECONDS", Duration::from_secs(60))?,
        })
    }
}

/// A batch that this invocation now holds.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The lease, for the gate.
    pub lease: Lease,
    /// Its campaign; `None` for single mails.
    pub campaign_id: Option<i64>,
}

/// Takes the lease of a batch; `None` when it is finished, gone, held by another, or its campaign is not being sent.
pub async fn claim(
    db: impl PgExecutor<'_>,
    batch_id: i64,
    token: Uuid,
    lasts: Duration,
) -> Result<Option<Claimed>, sqlx::Error> {
    let row = sqlx::query!(
        r#"
        update nightshift.batches
        set lease_token = $2,
            leased_until = clock_timestamp() + make_interval(secs => $3),
            lease_seconds = $3,
            fruitless_claims = fruitless_claims + 1
        where id = $1
            and finished_at is null
            and (leased_until is null or leased_until <= clock_timestamp())
            and (
                campaign_id is null
                or exists (select from nightshift.campaigns c where c.id = campaign_id and c.status = 'sending')
            )
        returning id, account_id, campaign_id
        "#,
        batch_id,
        token,
        lasts.as_secs_f64(),
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| Claimed {
        lease: Lease { batch_id: row.id, account_id: row.account_id, token, lasts },
        campaign_id: row.campaign_id,
    }))
}

/// Takes the lease of the campaign's next batch that is due, if there is one.
pub async fn claim_next(
    db: impl PgExecutor<'_>,
    campaign_id: Option<i64>,
    account_id: i64,
    token: Uuid,
    lasts: Duration,
) -> Result<Option<Claimed>, sqlx::Error> {
    let row = sqlx::query!(
        r#"
        update nightshift.batches
        set lease_token = $3,
            leased_until = clock_timestamp() + make_interval(secs => $4),
            lease_seconds = $4,
            fruitless_claims = fruitless_claims + 1
        where id = (
            select id
            from nightshift.batches
            where account_id = $2
                and campaign_id is not distinct from $1
                and finished_at is null
                and due_at <= now()
                and (leased_until is null or leased_until <= clock_timestamp())
            order by id
            limit 1
            for update skip locked
        )
        returning id, account_id, campaign_id
        "#,
        campaign_id,
        account_id,
        token,
        lasts.as_secs_f64(),
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| Claimed {
        lease: Lease { batch_id: row.id, account_id: row.account_id, token, lasts },
        campaign_id: row.campaign_id,
    }))
}

/// Prolongs the lease and its connection slots while a server takes its time; `false` when the lease is gone.
pub async fn renew(db: &PgPool, lease: &Lease) -> Result<bool, sqlx::Error> {
    let held = sqlx::query!(
        r#"
        update nightshift.batches
        set leased_until = clock_timestamp() + make_interval(secs => $3)
        where id = $1
            and lease_token = $2
            and leased_until > clock_timestamp()
        "#,
        lease.batch_id,
        lease.token,
        lease.lasts.as_secs_f64(),
    )
    .execute(db)
    .await?
    .rows_affected()
        == 1;
    if held {
        sqlx::query!(
            r#"
            update nightshift.smtp_connections
            set leased_until = clock_timestamp() + make_interval(secs => $3)
            where account_id = $1
                and lease_token = $2
                and leased_until > clock_timestamp()
            "#,
            lease.account_id,
            lease.token,
            lease.lasts.as_secs_f64(),
        )
        .execute(db)
        .await?;
    }
    Ok(held)
}

/// How a batch stands after work on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// Nothing is open in it any more.
    Finished,
    /// More to do at this time.
    DueAt(DateTime<Utc>),
    /// The lease was gone already; whoever has it decides.
    NotHeld,
}

/// Gives a lease back. The batch is finished when none of its deliveries is open, otherwise due when the first of them
/// is, but not before `not_before`. `progressed` resets the count of fruitless claims.
pub async fn release(
    db: impl PgExecutor<'_>,
    lease: &Lease,
    not_before: Option<DateTime<Utc>>,
    progressed: bool,
) -> Result<Released, sqlx::Error> {
    let row = sqlx::query!(
        r#"
        with open as (
            select min(
                case
                    -- its outcome could not be recorded: whoever settles dead connections decides, a little later
                    when state = 'sending' then now() + interval '30 seconds'
                    else coalesce(next_attempt_at, now())
                end
            ) as next
            from nightshift.deliveries
            where batch_id = $1
                and state in ('pending', 'deferred', 'sending')
        )
        update nightshift.batches b
        set lease_token = null,
            leased_until = null,
            rung_at = null,
            finished_at = case when open.next is null then now() end,
            due_at = greatest(open.next, $3, b.due_at),
            fruitless_claims = case when $4 or open.next is null then 0 else b.fruitless_claims end
        from open
        where b.id = $1
            and b.lease_token = $2
        returning b.finished_at, b.due_at
        "#,
        lease.batch_id,
        lease.token,
        not_before,
        progressed,
    )
    .fetch_optional(db)
    .await?;
    Ok(match row {
        None => Released::NotHeld,
        Some(row) if row.finished_at.is_some() => Released::Finished,
        Some(row) => Released::DueAt(row.due_at),
    })
}

/// The connection slots that a batch may use. The first is kept for single mails, so that a campaign never has them wait
/// for its connections; an account with only one connection shares it ([`single_mail_waits`]).
pub fn slots_for(campaign_id: Option<i64>, max_connections: i32) -> Range<i32> {
    let kept = i32::from(campaign_id.is_some() && max_connections > 1);
    kept..max_connections
}

/// Whether a single mail of the account is due or will be within seconds. A campaign that shares the account's only
/// connection leaves it alone then.
pub async fn single_mail_waits(db: impl PgExecutor<'_>, account_id: i64) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"
        select exists (
            select from nightshift.batches
            where account_id = $1
                and campaign_id is null
                and finished_at is null
                and due_at <= now() + interval '10 seconds'
        ) as "waits!"
        "#,
        account_id,
    )
    .fetch_one(db)
    .await
}

/// Takes up to `wanted` free connection slots of the account among `slots`, so that all functions together never open
/// more connections than its `max_connections`.
pub async fn take_slots(
    db: &PgPool,
    account_id: i64,
    slots: Range<i32>,
    wanted: i32,
    token: Uuid,
    lasts: Duration,
) -> Result<Vec<i32>, sqlx::Error> {
    sqlx::query!(
        r#"
        insert into nightshift.smtp_connections (account_id, slot)
        select $1, slot
        from generate_series(0, $2 - 1) as slot
        where not exists (select from nightshift.smtp_connections where account_id = $1 and slot = $2 - 1)
        on conflict do nothing
        "#,
        account_id,
        slots.end,
    )
    .execute(db)
    .await?;
    sqlx::query_scalar!(
        r#"
        update nightshift.smtp_connections s
        set lease_token = $4,
            leased_until = clock_timestamp() + make_interval(secs => $5)
        from (
            select slot
            from nightshift.smtp_connections
            where account_id = $1
                and slot >= $6
                and slot < $2
                and delivery_id is null
                and (leased_until is null or leased_until <= clock_timestamp())
            order by slot
            limit $3
            for update skip locked
        ) free
        where s.account_id = $1
            and s.slot = free.slot
        returning s.slot
        "#,
        account_id,
        slots.end,
        i64::from(wanted),
        token,
        lasts.as_secs_f64(),
        slots.start,
    )
    .fetch_all(db)
    .await
}

/// Gives back the slots that hold no mail in flight.
pub async fn free_slots(db: impl PgExecutor<'_>, account_id: i64, token: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        update nightshift.smtp_connections
        set lease_token = null,
            leased_until = null
        where account_id = $1
            and lease_token = $2
            and delivery_id is null
        "#,
        account_id,
        token,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Settles what dead connections held: a mail between its final dot and the recorded answer is `uncertain`, or what its
/// campaign's policy makes of that. Returns how many.
pub async fn settle_dead_connections(db: &PgPool) -> Result<i64, sqlx::Error> {
    let mut tx = db.begin().await?;
    let in_doubt = sqlx::query_file_scalar!("src/batches/settle_dead_connections.sql").fetch_all(&mut *tx).await?;
    uncertain::carry_out_policy(&mut tx, &in_doubt).await?;
    tx.commit().await?;
    Ok(i64::try_from(in_doubt.len()).unwrap_or(i64::MAX))
}

/// Rings every batch that is due, held by nobody and not rung for a while; at most a few per account at a time, the
/// campaigns of an account in turn, single mails beside them. Campaigns that no mail may leave of now are left out.
/// Returns how many doorbells were sent.
///
/// The row comes first, then the ring, then the stamp: a crash between the last two rings twice, which is harmless.
pub async fn ring_due(db: &PgPool, queues: &BatchQueues, timing: Timing) -> Result<usize> {
    let held_back = waits::held_back(db).await?;
    put_off(db, &held_back).await?;
    let held_back: Vec<i64> = held_back.into_keys().collect();
    let due = sqlx::query_file!(
        "src/batches/due.sql",
        timing.ring_again.as_secs_f64(),
        MAX_OUTSTANDING,
        MAX_RINGS,
        CONNECTIONS_PER_INVOCATION,
        &held_back,
    )
    .fetch_all(db)
    .await?;
    let (single, campaigns): (Vec<_>, Vec<_>) = due.iter().partition(|batch| batch.campaign_id.is_none());
    for (queue, batches) in [(&queues.transactional, single), (&queues.email, campaigns)] {
        let ids: Vec<i64> = batches.iter().map(|batch| batch.id).collect();
        let doorbells: Vec<_> = ids.iter().map(|&batch_id| (Doorbell::Batch { batch_id }, Duration::ZERO)).collect();
        queue.ring(&doorbells).await?;
        stamp_rung(db, &ids, Duration::ZERO).await?;
    }
    Ok(due.len())
}

/// Makes the batches of campaigns that wait due when the wait is over: until then nobody misses their progress. Short
/// waits are over before that would be worth a write to each batch.
async fn put_off(db: &PgPool, held_back: &BTreeMap<i64, Wait>) -> Result<(), sqlx::Error> {
    if held_back.is_empty() {
        return Ok(());
    }
    let campaigns: Vec<i64> = held_back.keys().copied().collect();
    let untils: Vec<DateTime<Utc>> = held_back.values().map(|wait| wait.until).collect();
    sqlx::query!(
        r#"
        update nightshift.batches b
        set due_at = waiting.until
        from (
            select free.id, w.until
            from unnest($1::bigint[], $2::timestamptz[]) as w (campaign_id, until)
            join nightshift.batches free on free.campaign_id = w.campaign_id
            where w.until > now() + interval '5 seconds'
                and free.finished_at is null
                and free.due_at < w.until
                and (free.leased_until is null or free.leased_until <= clock_timestamp())
            order by free.id
            for update of free skip locked
        ) waiting
        where b.id = waiting.id
        "#,
        &campaigns,
        &untils,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Rings one batch on its queue for a time within the next quarter of an hour; later ones are left to the dispatch of that
/// minute.
pub async fn ring_at(
    db: &PgPool,
    queue: &Queue,
    batch_id: i64,
    due_at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<()> {
    let delay = (due_at - now).to_std().unwrap_or(Duration::ZERO);
    // A second more, because SQS takes whole seconds and an early message would find nothing due.
    let delay = Duration::from_secs(delay.as_secs() + u64::from(delay.subsec_nanos() > 0));
    if delay > MAX_DELAY {
        return Ok(());
    }
    queue.ring(&[(Doorbell::Batch { batch_id }, delay)]).await?;
    stamp_rung(db, &[batch_id], delay).await?;
    Ok(())
}

async fn stamp_rung(db: &PgPool, ids: &[i64], ahead: Duration) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        update nightshift.batches
        set rung_at = clock_timestamp() + make_interval(secs => $2)
        where id = any($1)
        "#,
        ids,
        ahead.as_secs_f64(),
    )
    .execute(db)
    .await?;
    Ok(())
}
