//! What became of a campaign, and whether its books balance.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgExecutor, PgPool};

use crate::waits;

/// How a campaign stands: every planned mail is in exactly one of the counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// The campaign.
    pub campaign_id: i64,
    /// Its name.
    pub name: String,
    /// `draft`, `scheduled`, `sending`, `paused`, `sent` or `cancelled`.
    pub status: String,
    /// Why it waits, where it does.
    pub reason: Option<String>,
    /// Until when, where it goes on by itself.
    pub waits_until: Option<DateTime<Utc>>,
    /// When sending began.
    pub started_at: Option<DateTime<Utc>>,
    /// When the last mail was settled.
    pub finished_at: Option<DateTime<Utc>>,
    /// When the next deferred mail is due.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// Rows of the recipients file that were imported.
    pub imported: i64,
    /// Rows that were not.
    pub rejected: i64,
    /// Imported rows whose address another row has.
    pub duplicates: i64,
    /// Mails planned: one for each address.
    pub planned: i64,
    /// Accepted by a server.
    pub sent: i64,
    /// Given up.
    pub refused: i64,
    /// Left out, because the address wants no mail.
    pub suppressed: i64,
    /// Taken back before they left.
    pub cancelled: i64,
    /// Handed over, answer not recorded.
    pub uncertain: i64,
    /// Still to do: waiting, deferred or between gate and answer.
    pub open: i64,
    /// Of the open ones, those a server asked to bring later.
    pub deferred: i64,
}

impl Progress {
    /// Planned mails that are accounted for.
    pub fn accounted_for(&self) -> i64 {
        self.sent + self.refused + self.suppressed + self.cancelled + self.uncertain + self.open
    }

    /// Nothing is missing and nothing counted twice.
    pub fn balances(&self) -> bool {
        self.accounted_for() == self.planned
    }

    /// Nothing is left to do.
    pub fn is_over(&self) -> bool {
        matches!(self.status.as_str(), "sent" | "cancelled")
    }

    /// Mails that are settled.
    pub fn settled(&self) -> i64 {
        self.planned - self.open
    }
}

/// Reads the progress of a campaign; `None` when there is no such campaign.
pub async fn progress(db: &PgPool, campaign_id: i64) -> Result<Option<Progress>, sqlx::Error> {
    let mut db = db.acquire().await?;
    progress_and_wait(&mut db, campaign_id).await
}

async fn progress_and_wait(db: &mut PgConnection, campaign_id: i64) -> Result<Option<Progress>, sqlx::Error> {
    let Some(mut progress) = count(&mut *db, campaign_id).await? else { return Ok(None) };
    if let Some(wait) = waits::of(db, campaign_id).await? {
        progress.reason = Some(wait.reason);
        progress.waits_until = Some(wait.until);
    }
    Ok(Some(progress))
}

async fn count(db: impl PgExecutor<'_>, campaign_id: i64) -> Result<Option<Progress>, sqlx::Error> {
    sqlx::query_as!(
        Progress,
        r#"
        select
            c.id as campaign_id,
            c.name,
            c.status,
            c.status_reason as reason,
            null::timestamptz as waits_until,
            c.started_at,
            c.finished_at,
            greatest(d.next_attempt_at, case when c.status = 'sending' and a.paused_until > now() then a.paused_until end)
                as next_attempt_at,
            c.imported,
            c.rejected,
            c.duplicates,
            c.planned,
            d.sent as "sent!",
            d.refused as "refused!",
            d.suppressed as "suppressed!",
            d.cancelled as "cancelled!",
            d.uncertain as "uncertain!",
            d.open as "open!",
            d.deferred as "deferred!"
        from nightshift.campaigns c
        join nightshift.smtp_accounts a on a.id = c.account_id
        cross join lateral (
            select
                count(*) filter (where state = 'sent') as sent,
                count(*) filter (where state = 'refused') as refused,
                count(*) filter (where state = 'suppressed') as suppressed,
                count(*) filter (where state = 'cancelled') as cancelled,
                count(*) filter (where state = 'uncertain') as uncertain,
                count(*) filter (where state in ('pending', 'sending', 'deferred')) as open,
                count(*) filter (where state = 'deferred') as deferred,
                min(next_attempt_at) filter (where state = 'deferred') as next_attempt_at
            from nightshift.deliveries
            where campaign_id = c.id
        ) d
        where c.id = $1
        "#,
        campaign_id,
    )
    .fetch_optional(db)
    .await
}

/// A reason that mails were given up, held or deferred for, with how many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// State of the deliveries.
    pub state: String,
    /// Cause of a refusal.
    pub cause: Option<String>,
    /// The server's words; only the first line, one example of many where recipients differ.
    pub reply: Option<String>,
    /// Deliveries.
    pub count: i64,
}

/// A campaign's final account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// The counts.
    #[serde(flatten)]
    pub progress: Progress,
    /// Whether they add up.
    pub balances: bool,
    /// Of the sent ones, those that came back later.
    pub bounced: i64,
    /// Why mails did not arrive, most frequent first.
    pub reasons: Vec<Reason>,
}

/// Reads the receipt of a campaign; `None` when there is no such campaign.
pub async fn receipt(db: &PgPool, campaign_id: i64) -> Result<Option<Receipt>, sqlx::Error> {
    let mut tx = db.begin().await?;
    let Some(progress) = progress_and_wait(&mut tx, campaign_id).await? else { return Ok(None) };
    let reasons = sqlx::query_as!(
        Reason,
        r#"
        select
            state,
            cause,
            min(split_part(reply, E'\n', 1)) as reply,
            count(*) as "count!"
        from nightshift.deliveries
        where campaign_id = $1
            and state in ('refused', 'uncertain', 'deferred')
        group by state, cause, substring(reply from '^\d{3}( \d\.\d{1,3}\.\d{1,3})?')
        order by count(*) desc, state, cause, 3
        limit 20
        "#,
        campaign_id,
    )
    .fetch_all(&mut *tx)
    .await?;
    let bounced = sqlx::query_scalar!(
        r#"
        select count(*) as "count!"
        from nightshift.deliveries
        where campaign_id = $1
            and state = 'sent'
            and bounced_at is not null
        "#,
        campaign_id,
    )
    .fetch_one(&mut *tx)
    .await?;
    Ok(Some(Receipt { balances: progress.balances(), progress, bounced, reasons }))
}
