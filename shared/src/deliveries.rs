//! The mails of a campaign, one by one, as people ask for them.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgExecutor;
use uuid::Uuid;

/// All states of a delivery.
pub const STATES: [&str; 8] =
    ["pending", "sending", "sent", "refused", "deferred", "uncertain", "suppressed", "cancelled"];

/// A mail of a campaign.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// Left part of its Message-ID.
    pub public_id: Uuid,
    /// Whom it is for.
    pub recipient: String,
    /// One of [`STATES`].
    pub state: String,
    /// Why it was refused: `address`, `expired`, `render`, `poison` or `given_up`.
    pub cause: Option<String>,
    /// The server's last words, or ours.
    pub reply: Option<String>,
    /// Tries that reached the server.
    pub attempts: i32,
    /// When it was last tried.
    pub attempted_at: Option<DateTime<Utc>>,
    /// When it is tried next, where that is not at once.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// When it was sent or given up.
    pub settled_at: Option<DateTime<Utc>>,
    /// Place in the list: `after` of the page that follows.
    #[serde(skip)]
    pub key: String,
}

/// Mails of a campaign in the order of their normalised addresses, which an index has: those behind `after`, those in
/// `state`, `limit` at most.
pub async fn page(
    db: impl PgExecutor<'_>,
    campaign_id: i64,
    state: Option<&str>,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<Listed>, sqlx::Error> {
    sqlx::query_as!(
        Listed,
        r#"
        select
            public_id,
            email as recipient,
            state,
            cause,
            reply,
            attempts,
            attempted_at,
            next_attempt_at,
            settled_at,
            email_normalised as key
        from nightshift.deliveries
        where campaign_id = $1
            and ($2::text is null or state = $2)
            and email_normalised > $3
        order by email_normalised
        limit $4
        "#,
        campaign_id,
        state,
        after.unwrap_or_default(),
        limit,
    )
    .fetch_all(db)
    .await
}
