//! The gate: the one transaction between a mail and its final dot.
//!
//! For each SMTP connection that asks, it records what became of the connection's previous mail and marks the next one
//! `sending`, on condition that
//!
//! 1. the caller still holds the batch: its lease token stands in the row and has not run out by the *database's* clock,
//! 2. the campaign is `sending` and the account is not paused,
//! 3. the recipient is not suppressed, for this list or for all,
//! 4. the sending windows are open and every limit has room; the limits are consumed here.
//!
//! Only what it returns as [`Answer::Admitted`] may get its final dot.
//!
//! Why this is enough:
//! - *Two functions on one batch.* The first statement locks the batch row and checks the token. Taking the batch over
//!   changes the token in the same row, so of two gates one comes first and the other finds a foreign token.
//! - *A function frozen before the gate* finds its lease gone when it wakes. *Frozen after the gate*, it still holds one
//!   admitted mail; its connection row says which. When the lease has run out, that mail is `uncertain`, never `pending`:
//!   nobody sends it again unasked. The late answer settles it, because the token of the attempt stays in the delivery.
//! - *A crash anywhere* leaves at most one mail per connection in doubt, because the connection row can hold only one.
//! - *A commit whose answer was lost* is repeated as it stands: outcomes are recorded only over an attempt with the same
//!   token, and a mail that is `sending` for this very connection is admitted again without consuming limits twice.
//!
//! Connections that are ready together share one transaction, so its single flush to disk is shared too.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::limits::{self, Limit, Scoped, Wait};
use crate::uncertain;

/// A limit with no more room than this after a mail is about to deny: the connections that ask next may be as many.
const TIGHT: i64 = 64;

/// The right to send from a batch, and the connections that may be used for it.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Row in `nightshift.batches`.
    pub batch_id: i64,
    /// Account of the batch, owner of the connection slots.
    pub account_id: i64,
    /// Token of this invocation, in the batch and in its connection slots.
    pub token: Uuid,
    /// How long each write prolongs the lease.
    pub lasts: Duration,
}

/// What one connection brings to the gate.
#[derive(Debug, Clone)]
pub struct Request {
    /// Connection slot of the account.
    pub slot: i32,
    /// What became of mails of this connection since it last asked: at most one that had passed the gate, and any
    /// number that were refused before it.
    pub settled: Vec<Settled>,
    /// The mail it would send next.
    pub next: Option<i64>,
}

/// What became of a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Row in `nightshift.deliveries`.
    pub delivery_id: i64,
    /// The outcome.
    pub outcome: Outcome,
    /// The server's words, or ours.
    pub reply: String,
}

/// The outcome of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Accepted by the server.
    Sent,
    /// Will never be accepted for this recipient.
    Refused(Cause),
    /// Not now; tried again after this long.
    Deferred(Duration),
    /// Handed over, no answer.
    Uncertain,
    /// Known not to have been handed over, for no fault of the mail: as before the try, but not tried again for so long.
    Returned(Duration),
}

/// Why a recipient is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The server will not take mail for this address.
    Address,
    /// Deferred for too long.
    Expired,
    /// The template cannot be rendered with this recipient's fields.
    Render,
    /// The server will not take what it says. Only of a single mail: a campaign is paused instead.
    Content,
}

impl Cause {
    fn column(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Expired => "expired",
            Self::Render => "render",
            Self::Content => "content",
        }
    }
}

/// What the gate says to one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The next mail is marked `sending`: give it its dot.
    Admitted {
        /// A limit is nearly used up: the mails that follow may be denied.
        tight: bool,
    },
    /// Nothing was asked; the outcome is recorded.
    Recorded,
    /// The next mail must not be sent from here now.
    Denied(Denial),
}

/// Why a mail does not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// Another function has the batch, or the lease ran out: stop.
    LeaseLost,
    /// The campaign or the account is paused, or the campaign is over: stop.
    Paused,
    /// The recipient left meanwhile; recorded as suppressed. Go on with the next.
    Suppressed,
    /// The delivery is not open any more. Go on with the next.
    NotOpen,
    /// Nothing of this batch may leave: a limit of account or owner is reached, or a sending window is closed. Nothing
    /// is recorded: give the batch back until then.
    Waits(Wait),
    /// The limit of this domain is reached; all open mails of the batch to it are recorded as deferred. Go on with the
    /// next to another domain.
    Limited(String),
}

/// Whose time decides about limits and windows. Leases always go by the database's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// The database's, read when the limits are locked.
    Database,
    /// This one: for tests over midnight and changes of the clocks.
    Given(DateTime<Utc>),
}

/// Passes the requests of one batch through the gate, in one transaction.
///
/// A failed transaction is repeated three times, which is safe as told above. On an error nothing was admitted.
pub async fn pass(db: &PgPool, lease: &Lease, requests: &[Request]) -> Result<Vec<Answer>, sqlx::Error> {
    pass_at(db, lease, requests, Clock::Database).await
}

/// [`pass`] by a clock of one's own.
pub async fn pass_at(
    db: &PgPool,
    lease: &Lease,
    requests: &[Request],
    clock: Clock,
) -> Result<Vec<Answer>, sqlx::Error> {
    let mut tries = 0;
    loop {
        match pass_once(db, lease, requests, clock).await {
            Ok(answers) => return Ok(answers),
            Err(error) if tries == 3 => return Err(error),
            Err(error) => {
                tries += 1;
                tracing::warn!(batch.id = lease.batch_id, "gate failed, try {tries} of 3 follows: {error}");
                tokio::time::sleep(Duration::from_millis(200 << tries)).await;
            }
        }
    }
}

async fn pass_once(db: &PgPool, lease: &Lease, requests: &[Request], clock: Clock) -> Result<Vec<Answer>, sqlx::Error> {
    let mut tx = db.begin().await?;
    let held = hold_and_record(&mut tx, lease, requests).await?;
    uncertain::carry_out_policy(&mut tx, &in_doubt(requests)).await?;
    let answers = match held {
        Some(held_at) => admit(&mut tx, lease, held_at, clock, requests).await?,
        None => requests
            .iter()
            .map(|request| request.next.map_or(Answer::Recorded, |_| Answer::Denied(Denial::LeaseLost)))
            .collect(),
    };
    mark(&mut tx, lease, requests, &answers).await?;
    tx.commit().await?;
    Ok(answers)
}

/// Locks the batch and prolongs its lease, and records outcomes. Returns the database's time, or `None` when the lease is
/// gone. After the gate the attempt's token decides about an outcome, lease or not; before it, the lease does.
async fn hold_and_record(
    db: &mut PgConnection,
    lease: &Lease,
    requests: &[Request],
) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    let mut ids = Vec::with_capacity(requests.len());
    let (mut states, mut causes, mut delays, mut replies) = (vec![], vec![], vec![], vec![]);
    for one in requests.iter().flat_map(|request| &request.settled) {
        let (state, cause, delay) = match one.outcome {
            Outcome::Sent => ("sent", None, None),
            Outcome::Refused(cause) => ("refused", Some(cause.column()), None),
            Outcome::Deferred(delay) => ("deferred", None, Some(delay.as_secs_f64())),
            Outcome::Uncertain => ("uncertain", None, None),
            Outcome::Returned(delay) => ("returned", None, Some(delay.as_secs_f64())),
        };
        ids.push(one.delivery_id);
        states.push(state);
        causes.push(cause);
        delays.push(delay);
        replies.push(one.reply.as_str());
    }
    sqlx::query_scalar!(
        r#"
        with held as (
            update nightshift.batches
            set leased_until = clock_timestamp() + make_interval(secs => $3)
            where id = $1
                and lease_token = $2
                and leased_until > clock_timestamp()
            returning clock_timestamp() as now
        ),
        recorded as (
            update nightshift.deliveries d
            set state = case o.state when 'returned' then 'deferred' else o.state end,
                cause = o.cause,
                next_attempt_at = now() + make_interval(secs => o.delay),
                settled_at = case when o.state in ('sent', 'refused') then now() end,
                attempts = d.attempts
                    + case when d.state in ('pending', 'deferred') and o.state <> 'sent' then 1 else 0 end
                    - case when o.state = 'returned' then 1 else 0 end,
                returned = d.returned + case when o.state = 'returned' then 1 else 0 end,
                attempted_at = coalesce(d.attempted_at, now()),
                reply = o.reply
            from unnest($4::bigint[], $5::text[], $6::text[], $7::float8[], $8::text[])
                as o (id, state, cause, delay, reply)
            where d.id = o.id
                and (
                    (d.attempt_token = $2 and d.state in ('sending', 'uncertain'))
                    -- in doubt, and to be sent again by policy: the late answer still comes in time
                    or (d.attempt_token = $2 and d.state = 'deferred' and o.state = 'sent')
                    or (
                        exists (select from held)
                        and d.batch_id = $1
                        and d.state in ('pending', 'deferred')
                        and o.state in ('refused', 'deferred', 'returned')
                    )
                )
        )
        select now as "now!" from held
        "#,
        lease.batch_id,
        lease.token,
        lease.lasts.as_secs_f64(),
        &ids,
        &states as &[&str],
        &causes as &[Option<&str>],
        &delays as &[Option<f64>],
        &replies as &[&str],
    )
    .fetch_optional(db)
    .await
}

fn in_doubt(requests: &[Request]) -> Vec<i64> {
    requests
        .iter()
        .flat_map(|request| &request.settled)
        .filter(|settled| settled.outcome == Outcome::Uncertain)
        .map(|settled| settled.delivery_id)
        .collect()
}

struct Candidate {
    id: i64,
    open: bool,
    admitted_already: bool,
    may_send: bool,
    suppressed: bool,
    domain: String,
    owner: Option<String>,
    account: String,
    time_zone: String,
    account_window: Option<String>,
    campaign_window: Option<String>,
}

/// Decides about each connection's next mail, marks what may leave and consumes the limits.
async fn admit(
    db: &mut PgConnection,
    lease: &Lease,
    held_at: DateTime<Utc>,
    clock: Clock,
    requests: &[Request],
) -> Result<Vec<Answer>, sqlx::Error> {
    let wanted: Vec<i64> = requests.iter().filter_map(|request| request.next).collect();
    if wanted.is_empty() {
        return Ok(vec![Answer::Recorded; requests.len()]);
    }
    let candidates = candidates(db, lease, &wanted).await?;
    let (mut limits, locked_at) = lock_limits(db, lease.account_id, &candidates).await?;
    let now = match clock {
        Clock::Database => locked_at.unwrap_or(held_at),
        Clock::Given(now) => now,
    };

    let mut suppressed: Vec<i64> = vec![];
    let mut limited: BTreeMap<String, Wait> = BTreeMap::new();
    let mut answers = Vec::with_capacity(requests.len());
    for request in requests {
        let Some(next) = request.next else {
            answers.push(Answer::Recorded);
            continue;
        };
        answers.push(match candidates.iter().find(|candidate| candidate.id == next) {
            None => Answer::Denied(Denial::NotOpen),
            Some(candidate) if candidate.admitted_already => Answer::Admitted { tight: false },
            Some(candidate) if !candidate.may_send => Answer::Denied(Denial::Paused),
            Some(candidate) if !candidate.open => Answer::Denied(Denial::NotOpen),
            Some(candidate) if candidate.suppressed => {
                suppressed.push(next);
                Answer::Denied(Denial::Suppressed)
            }
            Some(candidate) => match take(candidate, &mut limits, now)? {
                Taken::Room { tight } => Answer::Admitted { tight },
                Taken::Waits(wait) => Answer::Denied(Denial::Waits(wait)),
                Taken::Limited(wait) => {
                    limited.insert(candidate.domain.clone(), wait);
                    Answer::Denied(Denial::Limited(candidate.domain.clone()))
                }
            },
        });
    }

    mark_suppressed(db, &suppressed).await?;
    mark_limited(db, lease, &limited).await?;
    consume(db, &limits).await?;
    Ok(answers)
}

/// What limits and windows say to a mail.
enum Taken {
    /// It may leave, and counts.
    Room {
        /// A limit is nearly used up.
        tight: bool,
    },
    /// Nothing of its batch may.
    Waits(Wait),
    /// Nothing to its domain may.
    Limited(Wait),
}

/// Takes one mail's room in every limit that binds it, or in none.
fn take(candidate: &Candidate, limits: &mut [LockedLimit], now: DateTime<Utc>) -> Result<Taken, sqlx::Error> {
    let zone = limits::zone(&candidate.time_zone);
    let mut binding: Vec<&mut LockedLimit> =
        limits.iter_mut().filter(|limit| limit.scoped.binds(candidate.owner.as_deref(), &candidate.domain)).collect();
    let full = |domain: bool| -> Vec<&Limit> {
        binding
            .iter()
            .filter(|limit| (limit.scoped.scope == "domain") == domain)
            .map(|limit| &limit.scoped.limit)
            .filter(|limit| limit.room(now, zone) == 0)
            .collect()
    };
    let account_window = limits::window(candidate.account_window.as_deref())?;
    let campaign_window = limits::window(candidate.campaign_window.as_deref())?;
    let account = format!("account {}", candidate.account);
    let windows = limits::windows(&account, account_window.as_ref(), campaign_window.as_ref());
    if let Some(wait) = limits::wait(&full(false), &windows, now, zone) {
        return Ok(Taken::Waits(wait));
    }
    if let Some(wait) = limits::wait(&full(true), &[], now, zone) {
        return Ok(Taken::Limited(wait));
    }
    let mut tight = false;
    for limit in &mut binding {
        tight |= limit.scoped.limit.room(now, zone) <= TIGHT;
        limit.taken += 1;
        limit.slice = Some(limit.scoped.limit.take(now, zone));
        limit.forget_before = Some(limit.scoped.limit.forget_before(now, zone));
    }
    Ok(Taken::Room { tight })
}

async fn candidates(db: &mut PgConnection, lease: &Lease, ids: &[i64]) -> Result<Vec<Candidate>, sqlx::Error> {
    sqlx::query_as!(
        Candidate,
        r#"
        select
            d.id,
            d.state in ('pending', 'deferred') as "open!",
            (d.state = 'sending' and d.attempt_token = $3) as "admitted_already!",
            (coalesce(c.status = 'sending', true) and coalesce(a.paused_until <= now(), true)) as "may_send!",
            exists (
                select from nightshift.suppressions s
                where s.email_normalised = d.email_normalised
                    and s.list in ('', coalesce(c.list, m.list))
            ) as "suppressed!",
            substring(d.email_normalised from '[^@]*$') as "domain!",
            coalesce(c.owner, m.owner) as "owner?",
            a.name as account,
            a.time_zone,
            a.sending_window as account_window,
            c.sending_window as "campaign_window?"
        from nightshift.deliveries d
        join nightshift.batches b on b.id = d.batch_id
        join nightshift.smtp_accounts a on a.id = b.account_id
        left join nightshift.campaigns c on c.id = d.campaign_id
        left join nightshift.single_mails m on m.delivery_id = d.id
        where d.id = any($1)
            and d.batch_id = $2
        "#,
        ids,
        lease.batch_id,
        lease.token,
    )
    .fetch_all(db)
    .await
}

struct LockedLimit {
    scoped: Scoped,
    taken: i64,
    slice: Option<DateTime<Utc>>,
    forget_before: Option<DateTime<Utc>>,
}

/// Locks every limit that could apply, in the one order that all gates use: account, user, domain, then id. Returns them
/// with their use, and the database's time under the locks; no time where there is no limit.
async fn lock_limits(
    db: &mut PgConnection,
    account_id: i64,
    candidates: &[Candidate],
) -> Result<(Vec<LockedLimit>, Option<DateTime<Utc>>), sqlx::Error> {
    let owners: Vec<String> = candidates.iter().filter_map(|candidate| candidate.owner.clone()).collect();
    let domains: Vec<String> = candidates.iter().map(|candidate| candidate.domain.clone()).collect();
    let rows = sqlx::query!(
        r#"
        select l.id, l.scope, l.subject, l.period, l.maximum, a.name as account
        from nightshift.limits l
        join nightshift.smtp_accounts a on a.id = $1
        where (l.scope = 'account' and l.subject = $1::bigint::text)
            or (l.scope = 'user' and l.subject = any($2))
            or (l.scope = 'domain' and l.subject = any($3))
        order by array_position(array['account', 'user', 'domain'], l.scope), l.id
        for update of l
        "#,
        account_id,
        &owners,
        &domains,
    )
    .fetch_all(&mut *db)
    .await?;
    if rows.is_empty() {
        return Ok((vec![], None));
    }
    let mut limits: Vec<Scoped> = rows
        .into_iter()
        .filter_map(|row| Scoped::of(row.id, row.scope, row.subject, &row.period, row.maximum, &row.account))
        .collect();
    // A statement of its own: it must see what the gates before this one committed while it waited for the locks.
    let now = limits::usage_of(db, &mut limits).await?;
    let locked = |scoped| LockedLimit { scoped, taken: 0, slice: None, forget_before: None };
    Ok((limits.into_iter().map(locked).collect(), Some(now)))
}

/// Marks what was admitted, and writes into each connection's row the one mail that it now has in flight, or none.
async fn mark(
    db: &mut PgConnection,
    lease: &Lease,
    requests: &[Request],
    answers: &[Answer],
) -> Result<(), sqlx::Error> {
    let admitted =
        |(request, answer): (&Request, &Answer)| request.next.filter(|_| matches!(answer, Answer::Admitted { .. }));
    let slots: Vec<i32> = requests.iter().map(|request| request.slot).collect();
    let in_flight: Vec<Option<i64>> = requests.iter().zip(answers).map(admitted).collect();
    let settled: Vec<i64> =
        requests.iter().flat_map(|request| &request.settled).map(|settled| settled.delivery_id).collect();
    let wanted = in_flight.iter().flatten().count();
    let marked = sqlx::query!(
        r#"
        with visit as (
            select * from unnest($3::integer[], $4::bigint[]) as v (slot, delivery_id)
        ),
        sending as (
            update nightshift.deliveries d
            set state = 'sending',
                attempt_token = $2,
                -- the same again, where the transaction is repeated
                attempts = attempts + case when d.state = 'sending' then 0 else 1 end,
                attempted_at = clock_timestamp(),
                next_attempt_at = null
            from visit
            where d.id = visit.delivery_id
                and (d.state in ('pending', 'deferred') or (d.state = 'sending' and d.attempt_token = $2))
            returning d.id
        ),
        holding as (
            update nightshift.smtp_connections s
            set delivery_id = visit.delivery_id,
                leased_until = clock_timestamp() + make_interval(secs => $6)
            from visit
            where s.account_id = $1
                and s.slot = visit.slot
                and s.lease_token = $2
                -- free, freed by what was just recorded, or this very mail, where the transaction is repeated
                and (s.delivery_id is null or s.delivery_id = any($5) or s.delivery_id = visit.delivery_id)
            returning s.delivery_id
        )
        select least(
            (select count(*) from sending),
            (select count(*) from holding where delivery_id is not null)
        ) as "in_flight!"
        "#,
        lease.account_id,
        lease.token,
        &slots,
        &in_flight as &[Option<i64>],
        &settled,
        lease.lasts.as_secs_f64(),
    )
    .fetch_one(db)
    .await?
    .in_flight;
    if usize::try_from(marked) != Ok(wanted) {
        // Slots were taken over, one still holds a mail, or a mail was settled meanwhile: nothing of this may stand.
        return Err(sqlx::Error::Protocol(format!(
            "{marked} of {wanted} mails have a connection slot of account {} and are still open",
            lease.account_id
        )));
    }
    Ok(())
}

async fn mark_suppressed(db: &mut PgConnection, ids: &[i64]) -> Result<(), sqlx::Error> {
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"
        update nightshift.deliveries
        set state = 'suppressed',
            settled_at = now(),
            next_attempt_at = null
        where id = any($1)
            and state in ('pending', 'deferred')
        "#,
        ids,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Defers all open mails of the batch to domains whose limit is reached: asking for each of them would only cost the
/// server an envelope.
async fn mark_limited(
    db: &mut PgConnection,
    lease: &Lease,
    limited: &BTreeMap<String, Wait>,
) -> Result<(), sqlx::Error> {
    if limited.is_empty() {
        return Ok(());
    }
    let domains: Vec<&str> = limited.keys().map(String::as_str).collect();
    let untils: Vec<DateTime<Utc>> = limited.values().map(|wait| wait.until).collect();
    let reasons: Vec<&str> = limited.values().map(|wait| wait.reason.as_str()).collect();
    sqlx::query!(
        r#"
        update nightshift.deliveries d
        set state = 'deferred',
            next_attempt_at = l.until,
            reply = l.reason
        from unnest($2::text[], $3::timestamptz[], $4::text[]) as l (domain, until, reason)
        where d.batch_id = $1
            and d.state in ('pending', 'deferred')
            and substring(d.email_normalised from '[^@]*$') = l.domain
            and coalesce(d.next_attempt_at < l.until, true)
        "#,
        lease.batch_id,
        &domains as &[&str],
        &untils,
        &reasons as &[&str],
    )
    .execute(db)
    .await?;
    Ok(())
}

async fn consume(db: &mut PgConnection, limits: &[LockedLimit]) -> Result<(), sqlx::Error> {
    for limit in limits {
        let (Some(slice), Some(forget_before)) = (limit.slice, limit.forget_before) else { continue };
        sqlx::query!(
            r#"
            with forgotten as (
                delete from nightshift.limit_usage
                where limit_id = $1
                    and slice_start < $4
            )
            insert into nightshift.limit_usage (limit_id, slice_start, used)
            values ($1, $2, $3)
            on conflict (limit_id, slice_start) do update
            set used = limit_usage.used + excluded.used
            "#,
            limit.scoped.limit.id,
            slice,
            i32::try_from(limit.taken).unwrap_or(i32::MAX),
            forget_before,
        )
        .execute(&mut *db)
        .await?;
    }
    Ok(())
}
