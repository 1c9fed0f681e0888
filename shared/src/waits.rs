//! Why campaigns that are being sent do not go on right now, and when they will: derived from limits, windows, pauses and
//! leases, so that it is true at the moment one asks and nothing must be kept up to date.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use chrono_tz::Tz;
use sqlx::{PgConnection, PgPool};

use crate::limits::{self, Limit, Scoped, Wait, Window};

/// What is known of a campaign that is being sent.
#[derive(Debug, Clone)]
struct Facts {
    id: i64,
    account_id: i64,
    account: String,
    owner: Option<String>,
    zone: Tz,
    account_window: Option<Window>,
    campaign_window: Option<Window>,
    paused_until: Option<DateTime<Utc>>,
    pause_reason: Option<String>,
    work: Work,
}

/// A batch that could be taken for so long is not just between two functions.
const UNTAKEN: Duration = Duration::seconds(5);
/// How often `dispatch-campaigns` looks.
const EVERY_MINUTE: Duration = Duration::minutes(1);

/// What its open batches and mails look like.
#[derive(Debug, Clone, Default)]
struct Work {
    /// Batches in the hands of functions that show signs of life.
    held: i64,
    /// Batches that a function could take now.
    free: i64,
    /// When the first lease of a function that shows none runs out, or did.
    lost_lease: Option<DateTime<Utc>>,
    /// When the connections of such functions are free again, where no other is free now.
    lost_connections: Option<DateTime<Utc>>,
    /// Since when a batch could have been taken and was not.
    untaken_since: Option<DateTime<Utc>>,
    /// Mails that could be sent now.
    pending: i64,
    /// The deferred mail that is due first, and why it was deferred.
    deferred_until: Option<DateTime<Utc>>,
    deferral: Option<String>,
}

/// Why campaigns that are being sent wait, by campaign; those that go on are not in it.
pub async fn of_all(db: &PgPool) -> Result<BTreeMap<i64, Wait>, sqlx::Error> {
    let mut db = db.acquire().await?;
    all_or_one(&mut db, None, true).await
}

/// Why one campaign waits; `None` when it goes on or is not being sent.
pub async fn of(db: &mut PgConnection, campaign_id: i64) -> Result<Option<Wait>, sqlx::Error> {
    Ok(all_or_one(db, Some(campaign_id), true).await?.remove(&campaign_id))
}

/// Campaigns that may send nothing at all now, because of a limit of account or owner or a closed window. Ringing for
/// them would only keep functions busy finding out.
pub(crate) async fn held_back(db: &PgPool) -> Result<BTreeMap<i64, Wait>, sqlx::Error> {
    let mut db = db.acquire().await?;
    all_or_one(&mut db, None, false).await
}

/// `whole`: pauses and the state of batches count too, not only what the gate would say.
async fn all_or_one(
    db: &mut PgConnection,
    campaign_id: Option<i64>,
    whole: bool,
) -> Result<BTreeMap<i64, Wait>, sqlx::Error> {
    let campaigns = campaigns(db, campaign_id).await?;
    if campaigns.is_empty() {
        return Ok(BTreeMap::new());
    }
    let (limits, now) = limits(db, &campaigns).await?;
    let mut waits = BTreeMap::new();
    for mut facts in campaigns {
        let account = facts.account_id.to_string();
        let binding: Vec<&Limit> = limits
            .iter()
            .filter(|scoped| scoped.scope != "account" || scoped.key == account)
            .filter(|scoped| scoped.binds(facts.owner.as_deref(), ""))
            .map(|scoped| &scoped.limit)
            .collect();
        let allowed = allowance(&facts, &binding, now);
        let wait = if whole && allowed.is_none() {
            facts.work = work(db, facts.id).await?;
            judge(&facts, now)
        } else if whole {
            // A pause says more than a limit, and may be longer.
            paused(&facts, now).or(allowed)
        } else {
            allowed
        };
        if let Some(wait) = wait {
            waits.insert(facts.id, wait);
        }
    }
    Ok(waits)
}

/// What the gate would say to any of its mails.
fn allowance(facts: &Facts, binding: &[&Limit], now: DateTime<Utc>) -> Option<Wait> {
    let full: Vec<&Limit> = binding.iter().copied().filter(|limit| limit.room(now, facts.zone) == 0).collect();
    let account = format!("account {}", facts.account);
    let windows = limits::windows(&account, facts.account_window.as_ref(), facts.campaign_window.as_ref());
    limits::wait(&full, &windows, now, facts.zone)
}

fn paused(facts: &Facts, now: DateTime<Utc>) -> Option<Wait> {
    let until = facts.paused_until.filter(|until| *until > now)?;
    let reason = facts.pause_reason.as_deref().unwrap_or("no reason given");
    let reason = format!("account {} is paused: {reason}, continues {}", facts.account, local(until, facts.zone));
    Some(Wait { until, reason })
}

/// Why it waits although the gate would let its mails pass.
fn judge(facts: &Facts, now: DateTime<Utc>) -> Option<Wait> {
    if let Some(wait) = paused(facts, now) {
        return Some(wait);
    }
    let work = &facts.work;
    if work.held > 0 {
        return None;
    }
    if let Some(until) = work.lost_connections {
        let time = local(until, facts.zone);
        let reason = format!("waiting for the connections of a function that ended, free again at {time}");
        return Some(Wait { until, reason });
    }
    if work.free > 0 {
        let since = work.untaken_since.filter(|since| now - *since > UNTAKEN)?;
        let until = now + EVERY_MINUTE;
        let reason = format!(
            "nobody has taken it up since {}; the next dispatch, within a minute, announces it again",
            local(since, facts.zone),
        );
        return Some(Wait { until, reason });
    }
    if let Some(until) = work.lost_lease {
        let time = local(until, facts.zone);
        let reason = if until > now {
            format!("waiting for the lease of a function that ended to run out at {time}")
        } else {
            format!("the lease of a function that ended ran out at {time}, the next dispatch takes it up")
        };
        return Some(Wait { until, reason });
    }
    let until = work.deferred_until.filter(|until| work.pending == 0 && *until > now)?;
    let reason = match &work.deferral {
        Some(reply) => format!("all open mails are deferred: {reply}"),
        None => format!("all open mails are deferred, continues {}", local(until, facts.zone)),
    };
    Some(Wait { until, reason })
}

fn local(time: DateTime<Utc>, zone: Tz) -> String {
    format!("{} {}", time.with_timezone(&zone).format("%H:%M:%S"), zone.name())
}

async fn campaigns(db: &mut PgConnection, campaign_id: Option<i64>) -> Result<Vec<Facts>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"
        select
            c.id,
            c.account_id,
            a.name as account,
            c.owner,
            a.time_zone,
            a.sending_window as account_window,
            c.sending_window as campaign_window,
            a.paused_until,
            a.pause_reason
        from nightshift.campaigns c
        join nightshift.smtp_accounts a on a.id = c.account_id
        where c.status = 'sending'
            and ($1::bigint is null or c.id = $1)
        order by c.id
        "#,
        campaign_id,
    )
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Facts {
                id: row.id,
                account_id: row.account_id,
                account: row.account,
                owner: row.owner,
                zone: limits::zone(&row.time_zone),
                account_window: limits::window(row.account_window.as_deref())?,
                campaign_window: limits::window(row.campaign_window.as_deref())?,
                paused_until: row.paused_until,
                pause_reason: row.pause_reason,
                work: Work::default(),
            })
        })
        .collect()
}

/// The limits of accounts and owners with their use, unlocked: they may change before anybody acts on the answer.
async fn limits(db: &mut PgConnection, campaigns: &[Facts]) -> Result<(Vec<Scoped>, DateTime<Utc>), sqlx::Error> {
    let accounts: Vec<i64> = campaigns.iter().map(|facts| facts.account_id).collect();
    let owners: Vec<String> = campaigns.iter().filter_map(|facts| facts.owner.clone()).collect();
    let rows = sqlx::query!(
        r#"
        select l.id, l.scope, l.subject, l.period, l.maximum, coalesce(a.name, l.subject) as "account!"
        from nightshift.limits l
        left join nightshift.smtp_accounts a on l.scope = 'account' and a.id::text = l.subject
        where (l.scope = 'account' and a.id = any($1))
            or (l.scope = 'user' and l.subject = any($2))
        order by array_position(array['account', 'user'], l.scope), l.id
        "#,
        &accounts,
        &owners,
    )
    .fetch_all(&mut *db)
    .await?;
    let mut limits: Vec<Scoped> = rows
        .into_iter()
        .filter_map(|row| Scoped::of(row.id, row.scope, row.subject, &row.period, row.maximum, &row.account))
        .collect();
    let now = limits::usage_of(db, &mut limits).await?;
    Ok((limits, now))
}

/// A function that lives renews its lease every third of it, so one that has used up half is not coming back.
async fn work(db: &mut PgConnection, campaign_id: i64) -> Result<Work, sqlx::Error> {
    let row = sqlx::query!(
        r#"
        with open as (
            select
                id,
                account_id,
                due_at,
                coalesce(lease_seconds, 0) as lease_seconds,
                leased_until,
                leased_until > now() + make_interval(secs => coalesce(lease_seconds, 0) / 2) as alive
            from nightshift.batches
            where campaign_id = $1
                and finished_at is null
        ),
        -- the account's connections, but for the one that is kept for single mails
        slots as (
            select
                s.leased_until,
                s.leased_until > now() + make_interval(secs => (select max(lease_seconds) from open) / 2) as alive
            from nightshift.smtp_connections s
            join nightshift.smtp_accounts a on a.id = s.account_id
            where s.account_id = (select min(account_id) from open)
                and s.slot < a.max_connections
                and (s.slot > 0 or a.max_connections = 1)
        ),
        mails as (
            select
                count(*) filter (where d.state in ('pending', 'sending')) as pending,
                min(d.next_attempt_at) filter (where d.state = 'deferred') as deferred_until,
                (array_agg(d.reply order by d.next_attempt_at) filter (where d.state = 'deferred'))[1] as deferral
            from open
            join nightshift.deliveries d on d.batch_id = open.id
            where d.state in ('pending', 'sending', 'deferred')
        )
        select
            (select count(*) from open where alive) as "held!",
            (select count(*) from open where leased_until is null and due_at <= now()) as "free!",
            (select min(leased_until) from open where not alive) as lost_lease,
            (
                select min(leased_until)
                from slots
                having bool_and(coalesce(leased_until > now(), false)) and not bool_or(coalesce(alive, false))
            ) as lost_connections,
            (
                select min(greatest(due_at, leased_until))
                from open
                where due_at <= now() and coalesce(leased_until <= now(), true)
            ) as untaken_since,
            mails.pending as "pending!",
            mails.deferred_until,
            mails.deferral
        from mails
        "#,
        campaign_id,
    )
    .fetch_one(db)
    .await?;
    Ok(Work {
        held: row.held,
        free: row.free,
        lost_lease: row.lost_lease,
        lost_connections: row.lost_connections,
        untaken_since: row.untaken_since,
        pending: row.pending,
        deferred_until: row.deferred_until,
        deferral: row.deferral,
    })
}
