//! Single (transactional) mails: deliveries without a campaign, each in a batch of its own, through queue `transactional`.
//!
//! Same ledger, gate, states and limits as a campaign's mails. They are made by SQL function `nightshift.send_mail`, which
//! hosts call too: its rules stand once, in the database.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

use crate::address::EmailAddress;
use crate::mail::Attachment;
use crate::template::{MailTemplate, Rendered, TemplateError, text_from_html, with_built_in};

/// SQLSTATE `invalid_parameter_value`, with which `nightshift.send_mail` refuses.
const REFUSED: &str = "22023";

/// A mail to be made.
#[derive(Debug, Clone)]
pub struct NewMail<'a> {
    /// Name of the SMTP account it leaves through.
    pub account: &'a str,
    /// Who gets it.
    pub to: &'a EmailAddress,
    /// One line.
    pub subject: &'a str,
    /// Text part; made from the HTML where there is none.
    pub text: Option<&'a str>,
    /// HTML part.
    pub html: Option<&'a str>,
    /// A name that stands for this mail alone: of two mails with one key only the first is made.
    pub key: Option<&'a str>,
    /// Values of merge fields, a JSON object: makes subject and bodies templates.
    pub fields: Option<&'a Value>,
    /// List that its unsubscribe link leaves; `None` for a mail without such a link.
    pub list: Option<&'a str>,
    /// Whose limits it counts against.
    pub owner: Option<&'a str>,
    /// Instead of the account's.
    pub reply_to: Option<&'a EmailAddress>,
    /// Files that go with it, 10 MiB together at most.
    pub attachments: &'a [Attachment],
}

/// Why a mail was not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Something about it is wrong; the words say what to do.
    #[error("{0}")]
    Refused(String),
    /// A template does not parse or lacks a field, or no text can be made from the HTML.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The database failed.
    #[error(transparent)]
    Database(sqlx::Error),
}

impl From<sqlx::Error> for CreateError {
    fn from(error: sqlx::Error) -> Self {
        match error.as_database_error() {
            Some(refusal) if refusal.code().as_deref() == Some(REFUSED) => Self::Refused(refusal.message().to_owned()),
            _ => Self::Database(error),
        }
    }
}

/// Makes the mail in the caller's transaction and returns its public id; with a key that stands already, that mail's.
/// After the commit ring queue `transactional` with [`crate::doorbell::Doorbell::Mail`]; otherwise the next dispatch does.
pub async fn create(db: &mut PgConnection, new: &NewMail<'_>) -> Result<Uuid, CreateError> {
    // What cannot be rendered is refused here, where somebody reads it, and not at sending. Any link does for that.
    let fields = new.fields.map(|fields| with_built_in(fields, new.to, new.list));
    render(new.subject, new.text, new.html, fields.as_ref())?;
    let names: Vec<String> = new.attachments.iter().map(|file| file.name.clone()).collect();
    let types: Vec<String> = new.attachments.iter().map(|file| file.content_type.clone()).collect();
    let contents: Vec<Vec<u8>> = new.attachments.iter().map(|file| file.content.clone()).collect();
    let public_id = sqlx::query_scalar!(
        r#"
        select nightshift.send_mail(
            account => $1,
            recipient => $2,
            recipient_normalised => $3,
            subject => $4,
            text_body => $5,
            html_body => $6,
            key => $7,
            fields => $8,
            list => $9,
            owner => $10,
            reply_to => $11,
            attachments => (
                select jsonb_agg(
                    jsonb_build_object('name', name, 'content_type', type, 'content', encode(content, 'base64'))
                    order by position
                )
                from unnest($12::text[], $13::text[], $14::bytea[]) with ordinality
                    as file (name, type, content, position)
            )
        ) as "public_id!"
        "#,
        new.account,
        new.to.as_given(),
        new.to.normalised(),
        new.subject,
        new.text,
        new.html,
        new.key,
        new.fields,
        new.list,
        new.owner,
        new.reply_to.map(EmailAddress::as_given),
        &names,
        &types,
        &contents,
    )
    .fetch_one(db)
    .await?;
    Ok(public_id)
}

/// What a single mail says.
#[derive(Debug, Clone)]
pub struct SingleMail {
    /// Row in `nightshift.deliveries`.
    pub delivery_id: i64,
    subject: String,
    text: Option<String>,
    html: Option<String>,
    is_template: bool,
    /// List that its unsubscribe link leaves; `None` for a mail without such a link.
    pub list: Option<String>,
    /// Instead of the account's.
    pub reply_to: Option<String>,
    /// Files that go with it.
    pub attachments: Vec<Attachment>,
}

impl SingleMail {
    /// Subject and bodies for the wire, `fields` filled in where it is a template.
    pub fn render(&self, fields: &Value) -> Result<Rendered, TemplateError> {
        let fields = self.is_template.then_some(fields);
        render(&self.subject, self.text.as_deref(), self.html.as_deref(), fields)
    }
}

/// Without fields everything stands as it is.
fn render(
    subject: &str,
    text: Option<&str>,
    html: Option<&str>,
    fields: Option<&Value>,
) -> Result<Rendered, TemplateError> {
    let text = match (text, html) {
        (Some(text), _) => text.to_owned(),
        (None, Some(html)) => text_from_html(html)?,
        (None, None) => String::new(),
    };
    let Some(fields) = fields else {
        return Ok(Rendered { subject: subject.to_owned(), html: html.map(str::to_owned), text });
    };
    let rendered = MailTemplate::parse(subject, html.unwrap_or_default(), &text)?.render(fields)?;
    Ok(Rendered { html: html.and(rendered.html), ..rendered })
}

/// The mail of a batch that has no campaign.
pub async fn load(db: &PgPool, batch_id: i64) -> Result<SingleMail, sqlx::Error> {
    let row = sqlx::query!(
        r#"
        select m.delivery_id, m.subject, m.text_body, m.html_body, m.is_template, m.list, m.reply_to
        from nightshift.deliveries d
        join nightshift.single_mails m on m.delivery_id = d.id
        where d.batch_id = $1
        "#,
        batch_id,
    )
    .fetch_one(db)
    .await?;
    let attachments = sqlx::query_as!(
        Attachment,
        r#"
        select name, content_type, content
        from nightshift.single_mail_attachments
        where delivery_id = $1
        order by position
        "#,
        row.delivery_id,
    )
    .fetch_all(db)
    .await?;
    Ok(SingleMail {
        delivery_id: row.delivery_id,
        subject: row.subject,
        text: row.text_body,
        html: row.html_body,
        is_template: row.is_template,
        list: row.list,
        reply_to: row.reply_to,
        attachments,
    })
}

/// The batch that a single mail is sent from; `None` when there is no such mail.
pub async fn batch_of(db: impl PgExecutor<'_>, public_id: Uuid) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"
        select batch_id as "batch_id!"
        from nightshift.deliveries
        where public_id = $1
            and campaign_id is null
        "#,
        public_id,
    )
    .fetch_optional(db)
    .await
}

/// A single mail as people ask for it.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// Left part of its Message-ID.
    pub public_id: Uuid,
    /// Who gets it.
    pub to: String,
    /// Its subject.
    pub subject: String,
    /// Account it leaves through.
    pub account: String,
    /// The host's name for it.
    pub key: Option<String>,
    /// `pending`, `sending`, `sent`, `refused`, `deferred`, `uncertain`, `suppressed` or `cancelled`.
    pub state: String,
    /// Why it was refused: `address`, `expired`, `render`, `poison` or `content`.
    pub cause: Option<String>,
    /// Tries that reached the server.
    pub attempts: i32,
    /// The server's last words, or ours, or why its account waits.
    pub reply: Option<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last tried.
    pub attempted_at: Option<DateTime<Utc>>,
    /// When it is tried next, where that is not at once.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// When it was sent or given up.
    pub settled_at: Option<DateTime<Utc>>,
}

impl Listed {
    /// It goes on by itself. An uncertain mail does not: its policy has been applied.
    pub fn is_open(&self) -> bool {
        matches!(self.state.as_str(), "pending" | "sending" | "deferred")
    }
}

/// Single mails, the newest first: the one with this public id, those in this state, or all.
pub async fn list(
    db: impl PgExecutor<'_>,
    public_id: Option<Uuid>,
    state: Option<&str>,
    limit: i64,
) -> Result<Vec<Listed>, sqlx::Error> {
    sqlx::query_as!(
        Listed,
        r#"
        select
            d.public_id,
            d.email as "to",
            m.subject,
            a.name as account,
            m.key,
            d.state,
            d.cause,
            d.attempts,
            case when waiting.account then a.pause_reason else d.reply end as reply,
            m.created_at,
            d.attempted_at,
            case
                when d.state in ('pending', 'deferred') then greatest(
                    d.next_attempt_at,
                    case when b.due_at > now() then b.due_at end,
                    case when waiting.account then a.paused_until end
                )
            end as next_attempt_at,
            d.settled_at
        from nightshift.single_mails m
        join nightshift.deliveries d on d.id = m.delivery_id
        join nightshift.batches b on b.id = d.batch_id
        join nightshift.smtp_accounts a on a.id = m.account_id
        cross join lateral (
            select coalesce(d.state in ('pending', 'deferred') and a.paused_until > now(), false) as account
        ) as waiting
        where ($1::uuid is null or d.public_id = $1)
            and ($2::text is null or d.state = $2)
        order by m.delivery_id desc
        limit $3
        "#,
        public_id,
        state,
        limit,
    )
    .fetch_all(db)
    .await
}
