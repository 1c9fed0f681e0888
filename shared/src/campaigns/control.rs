//! What a person does with a campaign that exists: resume, cancel, send the failed ones again, clone.
//!
//! Each takes the campaign's row first (`for no key update`, which leaves alone who only refers to it), as
//! [`super::close_finished`] does, so that none of them crosses another.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};

/// Batches whose open mails are cancelled in one transaction. Larger would have their senders wait at the gate.
const CANCELLED_AT_ONCE: i64 = 25;
/// Mails in one batch of those that are sent again: what one function holds in memory.
const BATCH: i32 = 200;

/// Why a campaign stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No such row.
    #[error("there is no campaign {0}")]
    Unknown(i64),
    /// Its status does not allow it.
    #[error("campaign {id} is {status}; {need}")]
    Status {
        /// The campaign.
        id: i64,
        /// Its status.
        status: String,
        /// Which it would have to be.
        need: &'static str,
    },
    /// No mail of it has failed.
    #[error("no mail of campaign {0} was refused, so there is nothing to send again")]
    NothingFailed(i64),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

struct Locked {
    status: String,
    account_id: i64,
}

async fn lock(db: &mut PgConnection, id: i64) -> Result<Locked, ControlError> {
    sqlx::query_as!(Locked, "select status, account_id from nightshift.campaigns where id = $1 for no key update", id,)
        .fetch_optional(db)
        .await?
        .ok_or(ControlError::Unknown(id))
}

/// Takes a draft's row, so that it stays a draft while the caller's transaction adds recipients to it.
pub async fn lock_draft(db: &mut PgConnection, id: i64) -> Result<(), ControlError> {
    match lock(db, id).await?.status {
        status if status == "draft" => Ok(()),
        status => Err(ControlError::Status { id, status, need: "recipients are added only to a draft" }),
    }
}

/// Lets a paused campaign go on. Ring queue `campaigns` afterwards; otherwise the next dispatch does.
pub async fn resume(db: &PgPool, id: i64, now: DateTime<Utc>) -> Result<(), ControlError> {
    let mut tx = db.begin().await?;
    let campaign = lock(&mut tx, id).await?;
    if campaign.status != "paused" {
        return Err(ControlError::Status { id, status: campaign.status, need: "only a paused one can go on" });
    }
    // From here on its progress is judged: what it missed while it was paused is nobody's fault.
    super::set_status(&mut tx, id, "sending", now).await?;
    tx.commit().await?;
    Ok(())
}

/// Ends a campaign for good. When this returns, at most the mails in flight still leave, because the gate passes only mails
/// of campaigns that are being sent; those in flight are settled as ever. The open mails become `cancelled` by
/// [`cancel_open`]: call it afterwards for as long as there is time, and ring queue `campaigns` for the rest.
///
/// A campaign that is cancelled already stays so.
pub async fn cancel(db: &PgPool, id: i64, reason: &str) -> Result<(), ControlError> {
    let mut tx = db.begin().await?;
    let campaign = lock(&mut tx, id).await?;
    match campaign.status.as_str() {
        "cancelled" => return Ok(()),
        "sent" => {
            let need = "its mails have left, so there is nothing to cancel";
            return Err(ControlError::Status { id, status: campaign.status, need });
        }
        _ => {}
    }
    sqlx::query!(
        "update nightshift.campaigns set status = 'cancelled', status_reason = $2, finished_at = now() where id = $1",
        id,
        reason,
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}

/// Cancels what is still open in cancelled campaigns, a few batches in each transaction, until nothing is left or `until`
/// says that time is up. Returns how many mails. May be called by several at once, and again.
///
/// Locks batches first and then their deliveries, as the gate does, and waits for neither: a batch that a function has at
/// the gate, or a mail that is in flight, is left to the next call.
pub async fn cancel_open(db: &PgPool, until: impl Fn() -> bool) -> Result<u64, sqlx::Error> {
    let (mut after, mut cancelled) = (0, 0);
    while !until() {
        let mut tx = db.begin().await?;
        let batches = sqlx::query_scalar!(
            r#"
            select b.id
            from nightshift.batches b
            join nightshift.campaigns c on c.id = b.campaign_id
            where c.status = 'cancelled'
                and b.finished_at is null
                and b.id > $1
            order by b.id
            limit $2
            for update of b skip locked
            "#,
            after,
            CANCELLED_AT_ONCE,
        )
        .fetch_all(&mut *tx)
        .await?;
        let Some(last) = batches.last() else { break };
        after = *last;
        cancelled += cancel_in(&mut tx, &batches).await?;
        tx.commit().await?;
    }
    Ok(cancelled)
}

async fn cancel_in(db: &mut PgConnection, batches: &[i64]) -> Result<u64, sqlx::Error> {
    let cancelled = sqlx::query!(
        r#"
        update nightshift.deliveries
        set state = 'cancelled',
            settled_at = now(),
            next_attempt_at = null
        where id in (
            select id
            from nightshift.deliveries
            where batch_id = any($1)
                and state in ('pending', 'deferred')
            order by id
            for update skip locked
        )
        "#,
        batches,
    )
    .execute(&mut *db)
    .await?
    .rows_affected();
    // A function that still holds one finishes it when it gives it back.
    sqlx::query!(
        r#"
        update nightshift.batches b
        set finished_at = now(),
            lease_token = null,
            leased_until = null
        where b.id = any($1)
            and (b.leased_until is null or b.leased_until <= clock_timestamp())
            and not exists (
                select from nightshift.deliveries d
                where d.batch_id = b.id
                    and d.state in ('pending', 'deferred', 'sending')
            )
        "#,
        batches,
    )
    .execute(db)
    .await?;
    Ok(cancelled)
}

/// What sending the failed ones again came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Retried {
    /// Mails that are open again.
    pub deliveries: u64,
    /// The campaign was over and is being sent again.
    pub reopened: bool,
}

/// Opens every refused mail of a campaign again, as if it had never been tried, in batches of their own; all others stay as
/// they are. Ring queue `campaigns` afterwards.
pub async fn retry_failed(db: &PgPool, id: i64) -> Result<Retried, ControlError> {
    let mut tx = db.begin().await?;
    let campaign = lock(&mut tx, id).await?;
    let reopened = match campaign.status.as_str() {
        "sending" | "paused" => false,
        "sent" => true,
        _ => {
            let need = "mails are sent again of one that is being sent, is paused or was sent";
            return Err(ControlError::Status { id, status: campaign.status, need });
        }
    };
    let deliveries =
        sqlx::query_file!("src/campaigns/retry_failed.sql", id, campaign.account_id, BATCH).execute(&mut *tx).await?;
    if deliveries.rows_affected() == 0 {
        return Err(ControlError::NothingFailed(id));
    }
    if reopened {
        sqlx::query!("update nightshift.campaigns set status = 'sending', finished_at = null where id = $1", id)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(Retried { deliveries: deliveries.rows_affected(), reopened })
}

/// Makes a draft with the same content, and with the same recipients where `recipients` says so; `name` instead of the
/// other's where one is given. Returns its id.
pub async fn clone(db: &mut PgConnection, id: i64, name: Option<&str>, recipients: bool) -> Result<i64, ControlError> {
    let clone = sqlx::query_scalar!(
        r#"
        insert into nightshift.campaigns (
            name, account_id, owner, subject, html_template, text_template, list, uncertain_policy, sending_window
        )
        select
            coalesce($2, name), account_id, owner, subject, html_template, text_template, list, uncertain_policy,
            sending_window
        from nightshift.campaigns
        where id = $1
        returning id
        "#,
        id,
        name,
    )
    .fetch_optional(&mut *db)
    .await?
    .ok_or(ControlError::Unknown(id))?;
    if recipients {
        // A draft has recipients, a planned campaign deliveries; never both.
        let copied = sqlx::query!(
            r#"
            insert into nightshift.recipients (campaign_id, position, email, email_normalised, fields)
            select $2, row_number() over (order by position), email, email_normalised, fields
            from (
                select position, email, email_normalised, fields
                from nightshift.recipients
                where campaign_id = $1
                union all
                select id, email, email_normalised, fields
                from nightshift.deliveries
                where campaign_id = $1
            ) everybody
            "#,
            id,
            clone,
        )
        .execute(&mut *db)
        .await?;
        super::count_import(db, clone, copied.rows_affected(), 0).await?;
    }
    Ok(clone)
}
