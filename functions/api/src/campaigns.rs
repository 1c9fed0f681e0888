//! Campaigns over HTTP: making, steering and watching them.

use std::time::{Duration, Instant};

use chrono::{DateTime, LocalResult, NaiveDateTime, TimeZone as _, Utc};
use chrono_tz::Tz;
use lambda_http::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use shared::accounts;
use shared::address::EmailAddress;
use shared::campaigns::{self, ControlError, Listed, NewCampaign, StartError};
use shared::deliveries;
use shared::doorbell::Doorbell;
use shared::limits::Window;
use shared::receipt;
use shared::recipients::{self, RecipientsFile};
use shared::template::{MailTemplate, text_from_html};
use shared::uncertain::{self, Policy, Resolution, ResolveError};
use sqlx::PgConnection;

use crate::Ctx;
use crate::call::{Call, Reply};
use crate::idempotency::once;
use crate::problem::Problem;

/// How long a request cancels open mails itself; the dispatch does the rest. Longer has the client wait.
const CANCELLING: Duration = Duration::from_secs(1);
/// Rejected rows that an answer names; it counts all of them.
const REJECTS_NAMED: usize = 100;

impl From<StartError> for Problem {
    fn from(error: StartError) -> Self {
        let detail = error.to_string();
        match error {
            StartError::Unknown(_) => Self::not_found(detail),
            StartError::Status { .. } => Self::conflict(detail),
            StartError::NoRecipients(_) | StartError::Template(_) | StartError::MissingField { .. } => {
                Self::unprocessable(detail)
            }
            StartError::Database(error) => error.into(),
        }
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        let detail = error.to_string();
        match error {
            ControlError::Unknown(_) => Self::not_found(detail),
            ControlError::Status { .. } | ControlError::NothingFailed(_) => Self::conflict(detail),
            ControlError::Database(error) => error.into(),
        }
    }
}

impl From<ResolveError> for Problem {
    fn from(error: ResolveError) -> Self {
        let detail = error.to_string();
        match error {
            ResolveError::Unknown(_) => Self::not_found(detail),
            ResolveError::NotInDoubt { .. } => Self::unprocessable(detail),
            ResolveError::Nothing(_) | ResolveError::TooEarly { .. } | ResolveError::Cancelled(_) => {
                Self::conflict(detail)
            }
            ResolveError::Database(error) => error.into(),
        }
    }
}

fn unknown(id: i64) -> Problem {
    Problem::not_found(format!("there is no campaign {id}"))
}

/// Announces a campaign that has something to do. A ring that fails only delays that until the next dispatch.
async fn ring(ctx: &Ctx, id: i64) {
    let bell = (Doorbell::Campaign { campaign_id: id }, Duration::ZERO);
    if let Err(error) = ctx.campaigns_queue.ring(&[bell]).await {
        tracing::warn!(campaign.id = id, "campaign {id} waits for the next dispatch: {error:#}");
    }
}

#[derive(Serialize)]
struct Campaigns {
    campaigns: Vec<Listed>,
    /// `before` of the next page; null on the last.
    next: Option<i64>,
}

pub(crate) async fn list(ctx: &Ctx, call: &Call) -> Result<Reply, Problem> {
    let limit = call.limit()?;
    let campaigns = campaigns::list(&ctx.db, call.query("before")?, limit).await?;
    let next = campaigns.last().filter(|_| campaigns.len() as i64 == limit).map(|last| last.id);
    Reply::ok(&Campaigns { campaigns, next })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    name: String,
    account: String,
    subject: String,
    html: String,
    text: Option<String>,
    #[serde(default)]
    list: String,
    owner: Option<String>,
    uncertain: Option<String>,
    window: Option<String>,
    #[serde(default)]
    recipients: Vec<Recipient>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipient {
    email: String,
    #[serde(default)]
    fields: Map<String, Value>,
}

/// What became of rows that were sent.
#[derive(Serialize)]
struct Added {
    campaign_id: i64,
    imported: u64,
    rejected: u64,
    /// The first of them, by line of the file or place in the array, from 1.
    rejects: Vec<Value>,
}

fn line(name: &str, text: &str) -> Result<String, Problem> {
    let text = text.trim();
    if text.is_empty() || text.contains(char::is_control) {
        return Err(Problem::unprocessable(format!("{name} must be one line with something on it")));
    }
    Ok(text.to_owned())
}

pub(crate) async fn create(ctx: &Ctx, call: &Call) -> Result<Reply, Problem> {
    let new: New = call.json()?;
    let wrong = |name: &str, problem: String| Problem::unprocessable(format!("{name}: {problem}"));
    let text = match new.text {
        Some(text) => text,
        None => text_from_html(&new.html).map_err(|error| wrong("html", error.to_string()))?,
    };
    let subject = line("subject", &new.subject)?;
    MailTemplate::parse(&subject, &new.html, &text).map_err(|error| Problem::unprocessable(error.to_string()))?;
    let uncertain: Option<Policy> =
        new.uncertain.map(|text| text.parse()).transpose().map_err(|problem: String| wrong("uncertain", problem))?;
    let window: Option<Window> = new
        .window
        .map(|text| text.parse::<Window>().map_err(|problem| wrong("window", problem.to_string())))
        .transpose()?;
    let account_id = accounts::find(&ctx.db, &new.account)
        .await?
        .ok_or_else(|| wrong("account", format!("there is no account {:?}", new.account)))?;
    let campaign = NewCampaign {
        name: line("name", &new.name)?,
        account_id,
        owner: new.owner,
        subject,
        html: new.html,
        text,
        list: new.list,
        uncertain: uncertain.unwrap_or_default(),
        window,
    };
    once(&ctx.db, call, async |db| {
        let id = campaigns::create(&mut *db, &campaign).await?;
        let added = add_inline(db, id, new.recipients).await?;
        Reply::with(StatusCode::CREATED, &added)
    })
    .await
}

async fn add_inline(db: &mut PgConnection, id: i64, given: Vec<Recipient>) -> Result<Added, Problem> {
    let mut good = Vec::with_capacity(given.len());
    let mut rejects = vec![];
    let mut rejected = 0;
    for (index, recipient) in given.into_iter().enumerate() {
        match recipient.email.parse::<EmailAddress>() {
            Ok(email) => good.push((email, Value::Object(recipient.fields))),
            Err(error) => {
                rejected += 1;
                if rejects.len() < REJECTS_NAMED {
                    let reason = format!("{:?} is no address: {error}", recipient.email.trim());
                    rejects.push(json!({"line": index + 1, "reason": reason}));
                }
            }
        }
    }
    recipients::add(db, id, &good).await?;
    let imported = good.len() as u64;
    campaigns::count_import(db, id, imported, rejected).await?;
    Ok(Added { campaign_id: id, imported, rejected, rejects })
}

async fn add_csv(db: &mut PgConnection, id: i64, csv: &[u8]) -> Result<Added, Problem> {
    let file = RecipientsFile::open(csv).map_err(|error| Problem::unprocessable(error.to_string()))?;
    let mut rejects = vec![];
    let keep = |reject: recipients::Reject| {
        if rejects.len() < REJECTS_NAMED {
            rejects.push(json!({"line": reject.line, "reason": reject.reason}));
        }
        Ok(())
    };
    let imported = file.import(&mut *db, id, keep, |_| {}).await.map_err(|error| {
        match error.downcast::<sqlx::Error>() {
            Ok(error) => error.into(),
            // Everything else is the file's fault: what is read is in memory.
            Err(error) => Problem::unprocessable(format!("{error:#}; nothing was imported")),
        }
    })?;
    campaigns::count_import(db, id, imported.imported, imported.rejected).await?;
    Ok(Added { campaign_id: id, imported: imported.imported, rejected: imported.rejected, rejects })
}

pub(crate) async fn add_recipients(ctx: &Ctx, call: &Call) -> Result<Reply, Problem> {
    let id = call.id()?;
    let inline: Option<Vec<Recipient>> = match call.content_type().as_str() {
        "text/csv" => None,
        "application/json" => Some(call.json()?),
        _ => return Err(Problem::unsupported_type("text/csv or application/json")),
    };
    once(&ctx.db, call, async |db| {
        campaigns::lock_draft(&mut *db, id).await?;
        let added = match inline {
            Some(given) => add_inline(db, id, given).await?,
            None => add_csv(db, id, call.body()).await?,
        };
        Reply::ok(&added)
    })
    .await
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    at: Option<String>,
    time_zone: Option<String>,
}

/// `2026-12-24T09:00:00+03:00`, or a local time in a time zone.
fn start_time(start: &Start, now: DateTime<Utc>) -> Result<DateTime<Utc>, Problem> {
    let wrong = |problem: String| Problem::unprocessable(problem);
    match (start.at.as_deref(), start.time_zone.as_deref()) {
        (None, None) => Ok(now),
        (None, Some(_)) => Err(wrong("time_zone says nothing without at; give the local time in at".to_owned())),
        (Some(at), None) => DateTime::parse_from_rfc3339(at).map(|at| at.to_utc()).map_err(|_| {
            wrong(format!("at: {at:?} is no time with an offset such as 2026-12-24T09:00:00Z; or give time_zone too"))
        }),
        (Some(at), Some(zone)) => {
            let zone: Tz = zone
                .parse()
                .map_err(|_| wrong(format!("time_zone: {zone:?} is no IANA name such as Europe/Berlin")))?;
            let local = ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M"]
                .into_iter()
                .find_map(|format| NaiveDateTime::parse_from_str(at, format).ok())
                .ok_or_else(|| wrong(format!("at: {at:?} is no local time such as 2026-12-24T09:00")))?;
            match zone.from_local_datetime(&local) {
                // An hour that comes twice: the first time.
                LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => Ok(at.to_utc()),
                LocalResult::None => {
                    Err(wrong(format!("at: {at} does not exist in {zone}, the clocks leave it out; choose another")))
                }
            }
        }
    }
}

pub(crate) async fn start(ctx: &Ctx, call: &Call) -> Result<Reply, Problem> {
    let (id, start) = (call.id()?, call.json_or_default::<Start>()?);
    campaigns::start(&ctx.db, id, start_time(&start, call.now)?).await?;
    ring(ctx, id).await;
    show_progress(ctx, id).await
}

pub(crate) async fn pause(ctx: &Ctx, call: &Call) -> Result<Reply, Problem> {
    let id = call.id()?;
    if !campaigns::pause(&ctx.db, id, "paused by hand").await? {
        let progress = receipt::progress(&ctx.db, id).await?.ok_or_else(|| unknown(id))?;
        if progress.status != "paused" {
            return Err(Problem::conflict(format!(
                "campaign {id} is {}; only one that is being sent can be paused",
                progress.status
            )));
        }
    }
    show_progress(ctx, id).await
}

pub(crate) async fn resume(ctx: &Ctx, call: &Call) -> Result<Reply, Problem> {
    let id = call.id()?;
    campaigns::resume(&ctx.db, id, call.now).await?;
    ring(ctx, id).await;
    show_progress(ctx, id).await
}

pub(crate) async fn cancel(ctx: &Ctx, call: &Call) -> Result<Reply, Problem> {
    let id = call.id()?;
    campaigns::cancel(&ctx.db, id, "cancelled by hand").await?;
    let began = Instant::now();
    campaigns::cancel_open(&ctx.db, || began.elapsed() > CANCELLING).await?;
    ring(ctx, id).await;
    show_progress(ctx, id).await
}

pub(crate) async fn retry_failed(ctx: &Ctx, call: &Call) -> Result<Reply, Problem> {
    let id = call.id()?;
    let retried = campaigns::retry_failed(&ctx.db, id).await?;
    ring(ctx, id).await;
    Reply::ok(&retried)
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Clone {
    name: Option<String>,
    #[serde(default)]
    recipients: bool,
}

pub(crate) async fn clone(ctx: &Ctx, call: &Call) -> Result<Reply, Problem> {
    let (id, clone) = (call.id()?, call.json_or_default::<Clone>()?);
    let name = clone.name.map(|name| line("name", &name)).transpose()?;
    once(&ctx.db, call, async |db| {
        let made = campaigns::clone(db, id, name.as_deref(), clone.recipients).await?;
        Reply::with(StatusCode::CREATED, &json!({"campaign_id": made}))
    })
    .await
}

pub(crate) async fn progress(ctx: &Ctx, call: &Call) -> Result<Reply, Problem> {
    show_progress(ctx, call.id()?).await
}

async fn show_progress(ctx: &Ctx, id: i64) -> Result<Reply, Problem> {
    Reply::ok(&receipt::progress(&ctx.db, id).await?.ok_or_else(|| unknown(id))?)
}

pub(crate) async fn receipt(ctx: &Ctx, call: &Call) -> Result<Reply, Problem> {
    let id = call.id()?;
    Reply::ok(&receipt::receipt(&ctx.db, id).await?.ok_or_else(|| unknown(id))?)
}

pub(crate) async fn deliveries(ctx: &Ctx, call: &Call) -> Result<Reply, Problem> {
    let (id, limit) = (call.id()?, call.limit()?);
    let (state, after) = (call.query::<String>("state")?, call.query::<String>("after")?);
    if let Some(state) = state.as_deref().filter(|state| !deliveries::STATES.contains(state)) {
        let known = deliveries::STATES.join(", ");
        return Err(Problem::unprocessable(format!("state={state} is none of {known}")));
    }
    let page = deliveries::page(&ctx.db, id, state.as_deref(), after.as_deref(), limit).await?;
    if page.is_empty() && receipt::progress(&ctx.db, id).await?.is_none() {
        return Err(unknown(id));
    }
    let next = page.last().filter(|_| page.len() as i64 == limit).map(|last| last.key.clone());
    Reply::ok(&json!({"deliveries": page, "next": next}))
}

pub(crate) async fn list_uncertain(ctx: &Ctx, call: &Call) -> Result<Reply, Problem> {
    let id = call.id()?;
    Reply::ok(&uncertain::list(&ctx.db, id).await?.ok_or_else(|| unknown(id))?)
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Sent,
    Resend,
    NotSent,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resolve {
    r#as: Word,
    /// All of the campaign's where it is not given.
    recipients: Option<Vec<String>>,
}

pub(crate) async fn resolve_uncertain(ctx: &Ctx, call: &Call) -> Result<Reply, Problem> {
    let (id, resolve) = (call.id()?, call.json::<Resolve>()?);
    let recipients: Option<Vec<EmailAddress>> = resolve
        .recipients
        .map(|given| given.iter().map(|text| text.parse()).collect::<Result<_, _>>())
        .transpose()
        .map_err(|error: shared::address::AddressError| Problem::unprocessable(format!("recipients: {error}")))?;
    let resolution = match resolve.r#as {
        Word::Sent => Resolution::Sent,
        Word::Resend => Resolution::Resend,
        Word::NotSent => Resolution::NotSent,
    };
    let resolved = uncertain::resolve(&ctx.db, id, recipients.as_deref(), resolution).await?;
    if resolution == Resolution::Resend {
        ring(ctx, id).await;
    }
    Reply::ok(&resolved)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(at: Option<&str>, time_zone: Option<&str>) -> Result<String, Problem> {
        let start = Start { at: at.map(str::to_owned), time_zone: time_zone.map(str::to_owned) };
        start_time(&start, DateTime::UNIX_EPOCH).map(|at| at.to_rfc3339())
    }

    #[test]
    fn a_start_is_an_instant_or_a_local_time_that_exists() {
        assert_eq!(at(None, None).as_deref(), Ok("1970-01-01T00:00:00+00:00"));
        assert_eq!(at(Some("2026-12-24T09:00:00+03:00"), None).as_deref(), Ok("2026-12-24T06:00:00+00:00"));
        assert_eq!(at(Some("2026-12-24T09:00"), Some("Europe/Moscow")).as_deref(), Ok("2026-12-24T06:00:00+00:00"));
        // The hour that comes twice in autumn, and the one that is left out in spring.
        assert_eq!(at(Some("2026-10-25T02:30"), Some("Europe/Berlin")).as_deref(), Ok("2026-10-25T00:30:00+00:00"));
        for (time, zone) in [
            (Some("2026-03-29T02:30"), Some("Europe/Berlin")),
            (Some("2026-12-24T09:00"), None),
            (Some("2026-12-24T09:00"), Some("Moscow")),
            (Some("tomorrow"), Some("Europe/Moscow")),
            (None, Some("Europe/Moscow")),
        ] {
            assert!(at(time, zone).is_err(), "{time:?} {zone:?}");
        }
    }
}
