//! Addresses that get no mail: the gate asks for each mail, so an address added now stops what is still queued.

use futures_util::Stream;
use serde::Serialize;
use sqlx::{PgConnection, PgExecutor};

use crate::address::EmailAddress;

/// An address that is to get no mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// The address, normalised.
    pub email_normalised: &'a str,
    /// Only this list; empty for all mail.
    pub list: &'a str,
    /// `manual`, `unsubscribed`, `bounced` or `complained`.
    pub reason: &'a str,
    /// More about it, for people.
    pub note: Option<&'a str>,
}

/// [`add_all`] for addresses with one list ('' for all mail) and one reason.
pub async fn add(
    db: &mut PgConnection,
    addresses: &[EmailAddress],
    list: &str,
    reason: &str,
) -> Result<u64, sqlx::Error> {
    let wanted: Vec<Wanted<'_>> = addresses
        .iter()
        .map(|address| Wanted { email_normalised: address.normalised(), list, reason, note: None })
        .collect();
    add_all(db, &wanted).await
}

/// Adds addresses; those that stand already for that list keep their reason. Returns how many are new. What is still open
/// for them is taken back at once.
pub async fn add_all(db: &mut PgConnection, wanted: &[Wanted<'_>]) -> Result<u64, sqlx::Error> {
    let emails: Vec<&str> = wanted.iter().map(|one| one.email_normalised).collect();
    let lists: Vec<&str> = wanted.iter().map(|one| one.list).collect();
    let reasons: Vec<&str> = wanted.iter().map(|one| one.reason).collect();
    let notes: Vec<Option<&str>> = wanted.iter().map(|one| one.note).collect();
    let added = sqlx::query!(
        r#"
        insert into nightshift.suppressions (email_normalised, list, reason, note)
        select distinct on (email, list) email, list, reason, note
        from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as w (email, list, reason, note)
        order by email, list
        on conflict do nothing
        "#,
        &emails as &[&str],
        &lists as &[&str],
        &reasons as &[&str],
        &notes as &[Option<&str>],
    )
    .execute(&mut *db)
    .await?
    .rows_affected();
    sqlx::query!(
        r#"
        update nightshift.deliveries d
        set state = 'suppressed',
            settled_at = now(),
            next_attempt_at = null
        from nightshift.campaigns c, unnest($1::text[], $2::text[]) as w (email, list)
        where c.id = d.campaign_id
            and c.status in ('sending', 'paused')
            and (w.list = '' or c.list = w.list)
            and d.email_normalised = w.email
            and d.state in ('pending', 'deferred')
        "#,
        &emails as &[&str],
        &lists as &[&str],
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        r#"
        update nightshift.deliveries d
        set state = 'suppressed',
            settled_at = now(),
            next_attempt_at = null
        from nightshift.batches b, nightshift.single_mails m, unnest($1::text[], $2::text[]) as w (email, list)
        where b.campaign_id is null
            and b.finished_at is null
            and d.batch_id = b.id
            and m.delivery_id = d.id
            and (w.list = '' or m.list = w.list)
            and d.email_normalised = w.email
            and d.state in ('pending', 'deferred')
        "#,
        &emails as &[&str],
        &lists as &[&str],
    )
    .execute(db)
    .await?;
    Ok(added)
}

/// A suppressed address as a list shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// The address, normalised.
    pub email: String,
    /// The list; empty for all mail.
    pub list: String,
    /// `manual`, `unsubscribed`, `bounced` or `complained`.
    pub reason: String,
    /// More about it.
    pub note: Option<String>,
    /// Since when.
    pub since: chrono::DateTime<chrono::Utc>,
}

/// The newest `limit` suppressions, and how many there are in all.
pub async fn list(db: impl PgExecutor<'_>, limit: i64) -> Result<Vec<Listed>, sqlx::Error> {
    sqlx::query_as!(
        Listed,
        r#"
        select email_normalised as email, list, reason, note, created_at as since
        from nightshift.suppressions
        order by created_at desc, email_normalised
        limit $1
        "#,
        limit,
    )
    .fetch_all(db)
    .await
}

/// All suppressions by address, one after the other: those of one list ('' for those of all mail), or of every.
pub fn export<'a>(
    db: impl PgExecutor<'a> + 'a,
    list: Option<&'a str>,
) -> impl Stream<Item = Result<Listed, sqlx::Error>> + 'a {
    sqlx::query_as!(
        Listed,
        r#"
        select email_normalised as email, list, reason, note, created_at as since
        from nightshift.suppressions
        where $1::text is null or list = $1
        order by email_normalised, list
        "#,
        list,
    )
    .fetch(db)
}
