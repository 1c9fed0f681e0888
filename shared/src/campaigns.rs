//! Campaigns: creating, starting and planning them, and closing finished ones.
//!
//! `draft → scheduled → sending ⇄ paused → sent | cancelled`. A draft has recipients; planning turns them, in one
//! transaction, into deliveries and batches.

mod control;

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgExecutor, PgPool};

use crate::limits::Window;
use crate::template::{MailTemplate, TemplateError};
use crate::uncertain::Policy;
use crate::waits;

pub use control::{ControlError, Retried, cancel, cancel_open, clone, lock_draft, resume, retry_failed};

/// A campaign to be created.
#[derive(Debug, Clone)]
pub struct NewCampaign {
    /// Name for people.
    pub name: String,
    /// SMTP account it leaves through.
    pub account_id: i64,
    /// Whose limits it counts against, in the host's words.
    pub owner: Option<String>,
    /// Subject template.
    pub subject: String,
    /// HTML template.
    pub html: String,
    /// Text template.
    pub text: String,
    /// List that its unsubscribe link leaves; empty for all mail.
    pub list: String,
    /// What becomes of mails in doubt.
    pub uncertain: Policy,
    /// When its mails may leave, within the account's window; at any time where it is not given.
    pub window: Option<Window>,
}

/// Creates a draft and returns its id.
pub async fn create(db: impl PgExecutor<'_>, new: &NewCampaign) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"
        insert into nightshift.campaigns (
            name, account_id, subject, html_template, text_template, list, uncertain_policy, sending_window, owner
        )
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        returning id
        "#,
        new.name,
        new.account_id,
        new.subject,
        new.html,
        new.text,
        new.list,
        new.uncertain.column(),
        new.window.as_ref().map(ToString::to_string),
        new.owner,
    )
    .fetch_one(db)
    .await
}

/// Notes what the import of a campaign's recipients did.
pub async fn count_import(db: impl PgExecutor<'_>, id: i64, imported: u64, rejected: u64) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update nightshift.campaigns set imported = imported + $2, rejected = rejected + $3 where id = $1",
        id,
        i64::try_from(imported).unwrap_or(i64::MAX),
        i64::try_from(rejected).unwrap_or(i64::MAX),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Why a campaign cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No such row.
    #[error("there is no campaign {0}")]
    Unknown(i64),
    /// Its status does not allow it.
    #[error("campaign {id} is {status}; only a draft can be started, and a paused campaign resumed")]
    Status {
        /// The campaign.
        id: i64,
        /// Its status.
        status: String,
    },
    /// Nobody to send to.
    #[error("campaign {0} has no recipients")]
    NoRecipients(i64),
    /// The templates do not parse.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Some recipients lack fields that the templates use.
    #[error(
        "{count} recipients lack the merge field {field:?}, the first in line {line}; add the column or change the template"
    )]
    MissingField {
        /// The field.
        field: String,
        /// Recipients without it.
        count: i64,
        /// Position of the first of them.
        line: i64,
    },
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Lets a draft go at `start_at`. Ring queue `campaigns` afterwards; otherwise the next dispatch finds it. Content and
/// recipients are checked here and are frozen from now on.
pub async fn start(db: &PgPool, id: i64, start_at: DateTime<Utc>) -> Result<(), StartError> {
    let mut tx = db.begin().await?;
    let campaign = sqlx::query!(
        r#"
        select status, subject, html_template, text_template
        from nightshift.campaigns
        where id = $1
        for update
        "#,
        id,
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or(StartError::Unknown(id))?;
    if campaign.status != "draft" {
        return Err(StartError::Status { id, status: campaign.status });
    }
    let template = MailTemplate::parse(&campaign.subject, &campaign.html_template, &campaign.text_template)?;
    check_recipients(&mut tx, id, &template.fields()).await?;
    set_status(&mut tx, id, "scheduled", start_at).await?;
    tx.commit().await?;
    Ok(())
}

async fn set_status(db: &mut PgConnection, id: i64, status: &str, start_at: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        update nightshift.campaigns
        set status = $2,
            status_reason = null,
            start_at = $3
        where id = $1
        "#,
        id,
        status,
        start_at,
    )
    .execute(db)
    .await?;
    Ok(())
}

async fn check_recipients(db: &mut PgConnection, id: i64, fields: &BTreeSet<String>) -> Result<(), StartError> {
    let any = sqlx::query_scalar!(
        r#"select exists (select from nightshift.recipients where campaign_id = $1) as "any!""#,
        id,
    )
    .fetch_one(&mut *db)
    .await?;
    if !any {
        return Err(StartError::NoRecipients(id));
    }
    let fields: Vec<String> = fields.iter().cloned().collect();
    let missing = sqlx::query!(
        r#"
        select wanted.field as "field!", count(*) as "count!", min(r.position) as "line!"
        from nightshift.recipients r
        cross join unnest($2::text[]) as wanted (field)
        where r.campaign_id = $1
            and not r.fields ? wanted.field
        group by wanted.field
        order by wanted.field
        limit 1
        "#,
        id,
        &fields,
    )
    .fetch_optional(db)
    .await?;
    match missing {
        Some(missing) => {
            Err(StartError::MissingField { field: missing.field, count: missing.count, line: missing.line })
        }
        None => Ok(()),
    }
}

/// Deliveries of one campaign that change what Postgres should think of the table.
const MANY: i64 = 1000;

/// What planning a campaign came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// The campaign.
    pub campaign_id: i64,
    /// Deliveries, one for each address.
    pub deliveries: i64,
    /// Recipients whose address another one has already.
    pub duplicates: i64,
    /// Deliveries that start out suppressed.
    pub suppressed: i64,
    /// Batches.
    pub batches: i64,
}

/// Plans the scheduled campaign that has waited longest, if one is due: every recipient becomes a delivery, once per
/// address, in batches of `batch_size`; the campaign is `sending` then. One transaction: a crash leaves it as it was.
///
/// A campaign that cannot be sent (its rows were written by a host, without the checks of [`start`]) goes back to draft,
/// with the reason.
pub async fn plan_next_due(
    db: &PgPool,
    now: DateTime<Utc>,
    batch_size: i32,
) -> Result<Option<Result<Planned, StartError>>> {
    let mut tx = db.begin().await.context("begin planning")?;
    let due = sqlx::query!(
        r#"
        select id, account_id, subject, html_template, text_template, list
        from nightshift.campaigns
        where status = 'scheduled'
            and start_at <= $1
        order by start_at, id
        limit 1
        for update skip locked
        "#,
        now,
    )
    .fetch_optional(&mut *tx)
    .await
    .context("look for a due campaign")?;
    let Some(campaign) = due else { return Ok(None) };

    let checked = match MailTemplate::parse(&campaign.subject, &campaign.html_template, &campaign.text_template) {
        Ok(template) => check_recipients(&mut tx, campaign.id, &template.fields()).await,
        Err(error) => Err(error.into()),
    };
    match checked {
        Ok(()) => {}
        Err(StartError::Database(error)) => return Err(error).context("check recipients"),
        Err(error) => {
            sqlx::query!(
                "update nightshift.campaigns set status = 'draft', status_reason = $2 where id = $1",
                campaign.id,
                error.to_string(),
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            return Ok(Some(Err(error)));
        }
    }

    let row = sqlx::query_file!("src/campaigns/plan.sql", campaign.id, campaign.account_id, batch_size, campaign.list)
        .fetch_one(&mut *tx)
        .await
        .with_context(|| format!("plan campaign {}", campaign.id))?;
    sqlx::query!("delete from nightshift.recipients where campaign_id = $1", campaign.id).execute(&mut *tx).await?;
    sqlx::query!(
        r#"
        update nightshift.campaigns
        set status = 'sending',
            started_at = now(),
            planned = $2,
            duplicates = imported - $2
        where id = $1
        "#,
        campaign.id,
        row.deliveries,
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await.with_context(|| format!("commit the plan of campaign {}", campaign.id))?;
    if row.deliveries >= MANY {
        // Rows came by the thousand: plans that were made for a small table read all of it for each mail.
        if let Err(error) = analyze(db).await {
            tracing::warn!(campaign.id = campaign.id, "no fresh statistics, so sending may be slow at first: {error}");
        }
    }
    Ok(Some(Ok(Planned {
        campaign_id: campaign.id,
        deliveries: row.deliveries,
        duplicates: row.recipients - row.deliveries,
        suppressed: row.suppressed,
        batches: row.batches,
    })))
}

/// Lets Postgres count the ledger anew, which also makes it plan anew. Waits only briefly where it is being counted
/// already.
async fn analyze(db: &PgPool) -> Result<(), sqlx::Error> {
    let mut tx = db.begin().await?;
    sqlx::query("set local lock_timeout = '5s'").execute(&mut *tx).await?;
    sqlx::query("analyze nightshift.deliveries, nightshift.batches").execute(&mut *tx).await?;
    tx.commit().await
}

/// Closes campaigns none of whose batches is open any more. Returns their ids.
///
/// The campaign's row is locked before its batches are read for good: whoever opens a batch again holds the same lock,
/// so a campaign is never closed over work that was just given back to it.
pub async fn close_finished(db: &PgPool) -> Result<Vec<i64>, sqlx::Error> {
    let through = sqlx::query_scalar!(
        r#"
        select c.id
        from nightshift.campaigns c
        where c.status = 'sending'
            and not exists (
                select from nightshift.batches b
                where b.campaign_id = c.id
                    and b.finished_at is null
            )
        "#,
    )
    .fetch_all(db)
    .await?;
    if through.is_empty() {
        return Ok(vec![]);
    }
    let mut tx = db.begin().await?;
    let locked = sqlx::query_scalar!(
        "select id from nightshift.campaigns where id = any($1) order by id for update skip locked",
        &through,
    )
    .fetch_all(&mut *tx)
    .await?;
    // A statement of its own, so that it sees what was committed until the locks were had.
    let closed = sqlx::query_scalar!(
        r#"
        update nightshift.campaigns c
        set status = 'sent',
            finished_at = now()
        where c.id = any($1)
            and c.status = 'sending'
            and not exists (
                select from nightshift.batches b
                where b.campaign_id = c.id
                    and b.finished_at is null
            )
        returning c.id
        "#,
        &locked,
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(closed)
}

/// Holds a campaign back, for a reason that people read; it goes on when it is started again. `false`: it was not being
/// sent.
pub async fn pause(db: impl PgExecutor<'_>, id: i64, reason: &str) -> Result<bool, sqlx::Error> {
    let paused = sqlx::query!(
        "update nightshift.campaigns set status = 'paused', status_reason = $2 where id = $1 and status = 'sending'",
        id,
        reason,
    )
    .execute(db)
    .await?;
    Ok(paused.rows_affected() == 1)
}

/// A campaign as a list shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// Row in `nightshift.campaigns`.
    pub id: i64,
    /// Name for people.
    pub name: String,
    /// Account it leaves through.
    pub account: String,
    /// `draft`, `scheduled`, `sending`, `paused`, `sent` or `cancelled`.
    pub status: String,
    /// Why it waits, where it does.
    pub reason: Option<String>,
    /// Until when, where it goes on by itself.
    pub waits_until: Option<DateTime<Utc>>,
    /// Mails planned; 0 for a draft.
    pub planned: i64,
    /// When it was created.
    pub created_at: DateTime<Utc>,
}

/// Campaigns, the newest first: those with a smaller id than `before`, where it is given, and `limit` at most.
pub async fn list(db: &PgPool, before: Option<i64>, limit: i64) -> Result<Vec<Listed>, sqlx::Error> {
    let mut campaigns = sqlx::query_as!(
        Listed,
        r#"
        select
            c.id,
            c.name,
            a.name as account,
            c.status,
            c.status_reason as reason,
            null::timestamptz as waits_until,
            c.planned,
            c.created_at
        from nightshift.campaigns c
        join nightshift.smtp_accounts a on a.id = c.account_id
        where $1::bigint is null or c.id < $1
        order by c.id desc
        limit $2
        "#,
        before,
        limit,
    )
    .fetch_all(db)
    .await?;
    let mut waits = waits::of_all(db).await?;
    for campaign in &mut campaigns {
        if let Some(wait) = waits.remove(&campaign.id) {
            campaign.reason = Some(wait.reason);
            campaign.waits_until = Some(wait.until);
        }
    }
    Ok(campaigns)
}
