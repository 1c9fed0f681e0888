//! Mails in doubt: they were handed over, and what came of it was not recorded. What a campaign does about them by
//! itself, and a person's word on those that it holds.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result};
use chrono::{DateTime, Duration, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

use crate::accounts;
use crate::address::EmailAddress;
use crate::mail::Sender;

/// From the attempt on until no process can live that still waits for its answer. No invocation lives longer than 15
/// minutes. Shorter would send a mail again while its first answer may still come; longer keeps people waiting.
pub const ANSWER_MAY_COME: Duration = Duration::minutes(20);
/// A mail that was tried this often is not sent again by policy but held: a server that takes mails and never answers
/// would give its people a copy every 20 minutes. Larger means more copies, smaller more work for a person.
const MOST_TRIES: i32 = 3;
/// Mails that are sent again in one batch: what one function holds in memory.
const BATCH: usize = 200;

/// What becomes of a campaign's mails in doubt without anybody's word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// They wait for a person.
    #[default]
    Hold,
    /// They are sent again with the same Message-ID, when no answer can come any more.
    Resend,
    /// They count as sent.
    CountAsSent,
}

impl Policy {
    /// As it stands in column `uncertain_policy`.
    pub fn column(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Resend => "resend",
            Self::CountAsSent => "count_as_sent",
        }
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "hold" => Ok(Self::Hold),
            "resend" => Ok(Self::Resend),
            "count_as_sent" | "count-as-sent" => Ok(Self::CountAsSent),
            other => Err(format!("{other:?} is none of hold, resend, count_as_sent")),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.column())
    }
}

/// Does with mails that have just become uncertain what the policy of their campaign, or their own, says. Part of the transaction that
/// recorded the doubt, so that a mail is never seen in doubt whose policy is another.
pub(crate) async fn carry_out_policy(db: &mut PgConnection, ids: &[i64]) -> Result<(), sqlx::Error> {
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"
        update nightshift.deliveries d
        set state = case policy.name when 'count_as_sent' then 'sent' else 'deferred' end,
            settled_at = case policy.name when 'count_as_sent' then now() end,
            next_attempt_at = case policy.name
                when 'resend' then coalesce(d.attempted_at, now()) + make_interval(secs => $2)
            end
        from (
            select mail.id, coalesce(c.uncertain_policy, m.uncertain_policy) as name
            from nightshift.deliveries mail
            left join nightshift.campaigns c on c.id = mail.campaign_id
            left join nightshift.single_mails m on m.delivery_id = mail.id
            where mail.id = any($1)
        ) policy
        where d.id = policy.id
            and d.state = 'uncertain'
            and (policy.name = 'count_as_sent' or (policy.name = 'resend' and d.attempts < $3))
        "#,
        ids,
        ANSWER_MAY_COME.as_seconds_f64(),
        MOST_TRIES,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// A mail in doubt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Doubt {
    /// Row in `nightshift.deliveries`.
    pub delivery_id: i64,
    /// Whom it is for.
    pub recipient: String,
    /// As it stands in the mail: what to look for in the server's log or ask the recipient for.
    pub message_id: String,
    /// When it was handed over.
    pub attempted_at: DateTime<Utc>,
    /// Tries that reached the server, this one included.
    pub attempts: i32,
    /// What is known of the connection's end.
    pub reply: Option<String>,
    /// It may be sent again from then on.
    pub resend_from: DateTime<Utc>,
}

/// The mails in doubt of a campaign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Doubts {
    /// The campaign.
    pub campaign_id: i64,
    /// Its name.
    pub name: String,
    /// What it does about them by itself.
    pub policy: String,
    /// The mails, the oldest first.
    pub mails: Vec<Doubt>,
}

/// Lists the mails in doubt of a campaign; `None` when there is no such campaign.
pub async fn list(db: &PgPool, campaign_id: i64) -> Result<Option<Doubts>> {
    let campaign =
        sqlx::query!("select name, account_id, uncertain_policy from nightshift.campaigns where id = $1", campaign_id,)
            .fetch_optional(db)
            .await
            .with_context(|| format!("read campaign {campaign_id}"))?;
    let Some(campaign) = campaign else { return Ok(None) };
    let sender = Sender::of(&accounts::load(db, campaign.account_id).await?)?;
    let mails = in_doubt(db, campaign_id).await.with_context(|| format!("mails in doubt of campaign {campaign_id}"))?;
    Ok(Some(Doubts {
        campaign_id,
        name: campaign.name,
        policy: campaign.uncertain_policy,
        mails: mails
            .into_iter()
            .map(|mail| Doubt {
                delivery_id: mail.id,
                recipient: mail.email,
                message_id: sender.message_id(mail.public_id),
                attempted_at: mail.attempted_at,
                attempts: mail.attempts,
                reply: mail.reply,
                resend_from: mail.attempted_at + ANSWER_MAY_COME,
            })
            .collect(),
    }))
}

struct Row {
    id: i64,
    email: String,
    public_id: Uuid,
    attempted_at: DateTime<Utc>,
    attempts: i32,
    reply: Option<String>,
}

async fn in_doubt(db: impl PgExecutor<'_>, campaign_id: i64) -> Result<Vec<Row>, sqlx::Error> {
    sqlx::query_as!(
        Row,
        r#"
        select id, email, public_id, coalesce(attempted_at, now()) as "attempted_at!", attempts, reply
        from nightshift.deliveries
        where campaign_id = $1
            and state = 'uncertain'
        order by attempted_at, id
        "#,
        campaign_id,
    )
    .fetch_all(db)
    .await
}

/// A person's word on mails in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// They arrived.
    Sent,
    /// They did not, and are sent again with the same Message-ID.
    Resend,
    /// They did not, and are given up: refused, cause `given_up`.
    NotSent,
}

/// What resolving did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Resolved {
    /// Mails that are not in doubt any more.
    pub deliveries: usize,
    /// The campaign was over and is being sent again.
    pub reopened: bool,
}

/// Why mails in doubt stay so.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// No such row.
    #[error("there is no campaign {0}")]
    Unknown(i64),
    /// Nothing to resolve.
    #[error("no mail of campaign {0} is uncertain")]
    Nothing(i64),
    /// Some of the named recipients have no mail in doubt.
    #[error("campaign {id} has no uncertain mail for {}; nothing was changed", .recipients.join(", "))]
    NotInDoubt {
        /// The campaign.
        id: i64,
        /// As they were named.
        recipients: Vec<String>,
    },
    /// An answer to some of them may still come.
    #[error(
        "an answer to {count} of these mails may still come; they can be sent again from {} on; nothing was changed",
        .from.format("%F %T UTC")
    )]
    TooEarly {
        /// How many.
        count: usize,
        /// From then on all of them may be sent again.
        from: DateTime<Utc>,
    },
    /// A cancelled campaign sends nothing.
    #[error("campaign {0} is cancelled and sends nothing; resolve its mails as sent or as not sent")]
    Cancelled(i64),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Carries out a person's word on a campaign's mails in doubt: on those to `recipients`, or on all where that is `None`.
/// All of it or, on an error, nothing. Ring queue `campaigns` after [`Resolution::Resend`]; otherwise the next dispatch
/// finds them.
///
/// The campaign's row is locked first, as by [`crate::campaigns::close_finished`]: a campaign is not closed over mails that
/// are being given back to it, and one that was closed is opened again. Mails that are sent again get batches of their
/// own, because the function that still has their old batch in hand may be about to finish it.
pub async fn resolve(
    db: &PgPool,
    campaign_id: i64,
    recipients: Option<&[EmailAddress]>,
    resolution: Resolution,
) -> Result<Resolved, ResolveError> {
    let mut tx = db.begin().await?;
    // Not `for update`: that would wait for, and block, whoever adds a batch to the campaign.
    let campaign = sqlx::query!(
        "select status, account_id from nightshift.campaigns where id = $1 for no key update",
        campaign_id,
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or(ResolveError::Unknown(campaign_id))?;
    let chosen = lock_chosen(&mut tx, campaign_id, recipients).await?;
    let ids: Vec<i64> = chosen.iter().map(|mail| mail.id).collect();
    match resolution {
        Resolution::Sent => settle(&mut tx, &ids, "sent", None, "counted as sent by hand").await?,
        Resolution::NotSent => settle(&mut tx, &ids, "refused", Some("given_up"), "given up by hand").await?,
        Resolution::Resend => {
            if campaign.status == "cancelled" {
                return Err(ResolveError::Cancelled(campaign_id));
            }
            let early: Vec<_> =
                chosen.iter().filter(|mail| mail.answer_may_come).map(|mail| mail.attempted_at).collect();
            if let Some(latest) = early.iter().max() {
                return Err(ResolveError::TooEarly { count: early.len(), from: *latest + ANSWER_MAY_COME });
            }
            for ids in ids.chunks(BATCH) {
                open_again(&mut tx, campaign_id, campaign.account_id, ids).await?;
            }
        }
    }
    let reopened = resolution == Resolution::Resend && campaign.status == "sent";
    if reopened {
        sqlx::query!(
            "update nightshift.campaigns set status = 'sending', finished_at = null where id = $1",
            campaign_id
        )
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    Ok(Resolved { deliveries: ids.len(), reopened })
}

struct Chosen {
    id: i64,
    email_normalised: String,
    attempted_at: DateTime<Utc>,
    answer_may_come: bool,
}

/// Locks the mails in doubt; an answer that came meanwhile has taken its mail out of them.
async fn lock_chosen(
    db: &mut PgConnection,
    campaign_id: i64,
    recipients: Option<&[EmailAddress]>,
) -> Result<Vec<Chosen>, ResolveError> {
    let named: Option<Vec<String>> =
        recipients.map(|named| named.iter().map(|address| address.normalised().to_owned()).collect());
    let chosen = sqlx::query_as!(
        Chosen,
        r#"
        select
            id,
            email_normalised,
            coalesce(attempted_at, now()) as "attempted_at!",
            coalesce(attempted_at, now()) > clock_timestamp() - make_interval(secs => $3) as "answer_may_come!"
        from nightshift.deliveries
        where campaign_id = $1
            and state = 'uncertain'
            and ($2::text[] is null or email_normalised = any($2))
        order by id
        for update
        "#,
        campaign_id,
        named.as_deref() as Option<&[String]>,
        ANSWER_MAY_COME.as_seconds_f64(),
    )
    .fetch_all(db)
    .await?;
    let unknown: Vec<String> = recipients
        .unwrap_or_default()
        .iter()
        .filter(|address| !chosen.iter().any(|mail| mail.email_normalised == address.normalised()))
        .map(|address| address.as_given().to_owned())
        .collect();
    if !unknown.is_empty() {
        return Err(ResolveError::NotInDoubt { id: campaign_id, recipients: unknown });
    }
    if chosen.is_empty() {
        return Err(ResolveError::Nothing(campaign_id));
    }
    Ok(chosen)
}

/// Ends the doubt. What was known of the try stays readable behind the `word`.
async fn settle(
    db: &mut PgConnection,
    ids: &[i64],
    state: &str,
    cause: Option<&str>,
    word: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        update nightshift.deliveries
        set state = $2,
            cause = $3,
            settled_at = now(),
            reply = concat_ws(': ', $4::text, reply)
        where id = any($1)
        "#,
        ids,
        state,
        cause,
        word,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Opens mails again, in a batch of their own. Without its token no earlier attempt can settle them any more.
async fn open_again(db: &mut PgConnection, campaign_id: i64, account_id: i64, ids: &[i64]) -> Result<(), sqlx::Error> {
    let batch_id = sqlx::query_scalar!(
        "insert into nightshift.batches (campaign_id, account_id) values ($1, $2) returning id",
        campaign_id,
        account_id,
    )
    .fetch_one(&mut *db)
    .await?;
    sqlx::query!(
        r#"
        update nightshift.deliveries
        set state = 'pending',
            batch_id = $2,
            attempt_token = null,
            next_attempt_at = null
        where id = any($1)
        "#,
        ids,
        batch_id,
    )
    .execute(db)
    .await?;
    Ok(())
}
