//! Addresses that get no mail: the gate asks for each mail, so an address added now stops what is still queued.

use serde::Serialize;
use sqlx::{PgConnection, PgExecutor};

use crate::address::EmailAddress;

/// Adds addresses for a list ('' for all mail); those that stand already keep their reason. Returns how many are new.
/// What is still open for them is taken back at once.
pub async fn add(
    db: &mut PgConnection,
    addresses: &[EmailAddress],
    list: &str,
    reason: &str,
) -> Result<u64, sqlx::Error> {
    let normalised: Vec<String> = addresses.iter().map(|address| address.normalised().to_owned()).collect();
    let added = sqlx::query!(
        r#"
        insert into nightshift.suppressions (email_normalised, list, reason)
        select distinct email, $2, $3
        from unnest($1::text[]) as email
        on conflict do nothing
        "#,
        &normalised,
        list,
        reason,
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
        from nightshift.campaigns c
        where c.id = d.campaign_id
            and c.status in ('sending', 'paused')
            and ($2 = '' or c.list = $2)
            and d.email_normalised = any($1)
            and d.state in ('pending', 'deferred')
        "#,
        &normalised,
        list,
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        r#"
        update nightshift.deliveries d
        set state = 'suppressed',
            settled_at = now(),
            next_attempt_at = null
        from nightshift.batches b, nightshift.single_mails m
        where b.campaign_id is null
            and b.finished_at is null
            and d.batch_id = b.id
            and m.delivery_id = d.id
            and ($2 = '' or m.list = $2)
            and d.email_normalised = any($1)
            and d.state in ('pending', 'deferred')
        "#,
        &normalised,
        list,
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
    /// Since when.
    pub since: chrono::DateTime<chrono::Utc>,
}

/// The newest `limit` suppressions, and how many there are in all.
pub async fn list(db: impl PgExecutor<'_>, limit: i64) -> Result<Vec<Listed>, sqlx::Error> {
    sqlx::query_as!(
        Listed,
        r#"
        select email_normalised as email, list, reason, created_at as since
        from nightshift.suppressions
        order by created_at desc, email_normalised
        limit $1
        "#,
        limit,
    )
    .fetch_all(db)
    .await
}
