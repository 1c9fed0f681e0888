//! Single mails that nobody takes. Each is a batch of its own, so they are counted by account and not named.

use chrono::{DateTime, Duration, Utc};
use serde::Serialize;
use sqlx::PgExecutor;

/// An account's unsettled single mails as the ledger shows them.
#[derive(Debug, Clone)]
pub struct SingleFacts {
    /// Name of the account.
    pub account: String,
    /// Mails that are pending, deferred or in flight.
    pub open: i64,
    /// When the one that has waited longest was made, of those that were never tried.
    pub oldest_untried: Option<DateTime<Utc>>,
    /// When the first of those that nobody holds fell due, or will.
    pub next_due: Option<DateTime<Utc>>,
    /// Nothing leaves through the account before this.
    pub paused_until: Option<DateTime<Utc>>,
    /// Why.
    pub pause_reason: Option<String>,
}

/// Single mails that are due and that nobody takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StuckSingleMails {
    /// Name of their account.
    pub account: String,
    /// Mails of the account that are not settled.
    pub open: i64,
    /// Since when the first of them could have been sent.
    pub since: DateTime<Utc>,
}

pub(super) async fn facts(db: impl PgExecutor<'_>) -> Result<Vec<SingleFacts>, sqlx::Error> {
    sqlx::query_as!(
        SingleFacts,
        r#"
        select
            a.name as account,
            count(*) as "open!",
            min(b.created_at) filter (where d.attempts = 0) as oldest_untried,
            min(greatest(b.due_at, d.next_attempt_at))
                filter (where b.leased_until is null or b.leased_until <= clock_timestamp()) as next_due,
            a.paused_until,
            a.pause_reason
        from nightshift.batches b
        join nightshift.smtp_accounts a on a.id = b.account_id
        join nightshift.deliveries d on d.batch_id = b.id
        where b.finished_at is null
            and b.campaign_id is null
        group by a.id
        order by a.name
        "#,
    )
    .fetch_all(db)
    .await
}

/// Stuck when the mail that is due longest could have been sent for longer than `limit`.
pub(super) fn judge(facts: &SingleFacts, now: DateTime<Utc>, limit: Duration) -> Option<StuckSingleMails> {
    let since = facts.next_due?.max(facts.paused_until.unwrap_or(DateTime::<Utc>::MIN_UTC));
    (now - since > limit).then(|| StuckSingleMails { account: facts.account.clone(), open: facts.open, since })
}
