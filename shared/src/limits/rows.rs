//! Limits as rows: what the gate and those who ask why something waits read, and what a person changes.

use std::fmt;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::Serialize;
use sqlx::{PgExecutor, PgPool};

use super::{Limit, Period, Window};

/// A limit with whom it binds.
#[derive(Debug, Clone)]
pub(crate) struct Scoped {
    /// The limit, with its use where [`usage_of`] has read it.
    pub(crate) limit: Limit,
    /// `account`, `user` or `domain`.
    pub(crate) scope: String,
    /// The account's id, the campaign's owner or the recipient's domain.
    pub(crate) key: String,
}

impl Scoped {
    /// From a row without its use; `None` for a period that this version does not know.
    pub(crate) fn of(id: i64, scope: String, key: String, period: &str, maximum: i32, account: &str) -> Option<Self> {
        let name = if scope == "account" { account } else { &key };
        let limit = Limit {
            id,
            subject: format!("{scope} {name}"),
            period: Period::from_column(period)?,
            maximum: i64::from(maximum),
            usage: vec![],
        };
        Some(Self { limit, scope, key })
    }

    /// It counts mails of this owner to this domain; accounts are told apart by whoever read the rows.
    pub(crate) fn binds(&self, owner: Option<&str>, domain: &str) -> bool {
        match self.scope.as_str() {
            "account" => true,
            "user" => owner == Some(self.key.as_str()),
            _ => domain == self.key,
        }
    }
}

/// Reads what the limits have let through, and the database's time at which that was so: a time after their locks were
/// had, so that of two gates the later one never counts for an earlier moment.
pub(crate) async fn usage_of(db: impl PgExecutor<'_>, limits: &mut [Scoped]) -> Result<DateTime<Utc>, sqlx::Error> {
    let ids: Vec<i64> = limits.iter().map(|scoped| scoped.limit.id).collect();
    let rows = sqlx::query!(
        r#"
        select u.limit_id as "limit_id?", u.slice_start as "slice_start?", u.used as "used?", clock.now as "now!"
        from (select clock_timestamp() as now) as clock
        left join nightshift.limit_usage u on u.limit_id = any($1)
        "#,
        &ids,
    )
    .fetch_all(db)
    .await?;
    for row in &rows {
        let (Some(id), Some(start), Some(used)) = (row.limit_id, row.slice_start, row.used) else { continue };
        if let Some(scoped) = limits.iter_mut().find(|scoped| scoped.limit.id == id) {
            scoped.limit.usage.push((start, i64::from(used)));
        }
    }
    rows.first().map(|row| row.now).ok_or(sqlx::Error::RowNotFound)
}

/// The zone that an account's row names. One that this version does not know is UTC.
pub(crate) fn zone(name: &str) -> Tz {
    name.parse().unwrap_or(Tz::UTC)
}

/// The window that a row names; the table's check lets no other text in.
pub(crate) fn window(text: Option<&str>) -> Result<Option<Window>, sqlx::Error> {
    text.map(str::parse).transpose().map_err(|error: String| sqlx::Error::Decode(error.into()))
}

/// What a limit binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All mail of an account.
    Account,
    /// All mail of campaigns with an owner.
    User,
    /// All mail to a domain.
    Domain,
}

/// Whose limit it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// What it binds.
    pub scope: Scope,
    /// The account's id, the owner or the domain.
    pub key: String,
}

impl Scope {
    /// As it stands in column `scope`.
    pub fn column(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::User => "user",
            Self::Domain => "domain",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.column())
    }
}

/// A limit as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// `account`, `user` or `domain`.
    pub scope: String,
    /// Name of the account, owner or domain.
    pub subject: String,
    /// `second`, `minute`, `hour` or `day`.
    pub period: String,
    /// Most mails in that time.
    pub maximum: i32,
}

/// All limits: of accounts, then users, then domains.
pub async fn list(db: impl PgExecutor<'_>) -> Result<Vec<Listed>, sqlx::Error> {
    sqlx::query_as!(
        Listed,
        r#"
        select l.scope, coalesce(a.name, l.subject) as "subject!", l.period, l.maximum
        from nightshift.limits l
        left join nightshift.smtp_accounts a on l.scope = 'account' and a.id::text = l.subject
        order by
            array_position(array['account', 'user', 'domain'], l.scope),
            2,
            array_position(array['second', 'minute', 'hour', 'day'], l.period)
        "#,
    )
    .fetch_all(db)
    .await
}

/// Sets a limit, in place of one for the same time. What has left counts against it at once; what waits for the old one
/// is looked at again.
pub async fn set(db: &PgPool, subject: &Subject, period: Period, maximum: i32) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        insert into nightshift.limits (scope, subject, period, maximum)
        values ($1, $2, $3, $4)
        on conflict (scope, subject, period) do update
        set maximum = excluded.maximum
        "#,
        subject.scope.column(),
        subject.key,
        period.column(),
        maximum,
    )
    .execute(db)
    .await?;
    wake(db, subject).await
}

/// Removes a limit; what waits for it is looked at again. `false`: there is no such limit.
pub async fn remove(db: &PgPool, subject: &Subject, period: Period) -> Result<bool, sqlx::Error> {
    let removed = sqlx::query!(
        "delete from nightshift.limits where scope = $1 and subject = $2 and period = $3",
        subject.scope.column(),
        subject.key,
        period.column(),
    )
    .execute(db)
    .await?
    .rows_affected();
    wake(db, subject).await?;
    Ok(removed == 1)
}

/// Sets or removes the sending window of an account; what waits for the old one is looked at again.
pub async fn set_window(db: &PgPool, account_id: i64, window: Option<&Window>) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update nightshift.smtp_accounts set sending_window = $2 where id = $1",
        account_id,
        window.map(ToString::to_string),
    )
    .execute(db)
    .await?;
    wake(db, &Subject { scope: Scope::Account, key: account_id.to_string() }).await
}

/// Makes due again what may have been waiting. What must wait all the same is told so by the gate and waits on.
///
/// Each statement is a transaction of its own: a gate locks the batch first and the limit last, and both at once the
/// other way round would be a deadlock.
async fn wake(db: &PgPool, subject: &Subject) -> Result<(), sqlx::Error> {
    let (scope, key) = (subject.scope.column(), subject.key.as_str());
    if subject.scope == Scope::Domain {
        sqlx::query!(
            r#"
            update nightshift.deliveries
            set next_attempt_at = now()
            where id in (
                select d.id
                from nightshift.deliveries d
                join nightshift.batches b on b.id = d.batch_id
                where b.finished_at is null
                    and d.state = 'deferred'
                    and substring(d.email_normalised from '[^@]*$') = $1
                    and d.reply like '% limit of domain ' || $1 || ' reached, %'
                order by d.id
                for update of d
            )
            "#,
            key,
        )
        .execute(db)
        .await?;
    }
    sqlx::query!(
        r#"
        update nightshift.batches
        set due_at = now(),
            rung_at = null
        where id in (
            select b.id
            from nightshift.batches b
            left join nightshift.campaigns c on c.id = b.campaign_id
            where b.finished_at is null
                and b.due_at > now()
                and (
                    ($1 = 'account' and b.account_id::text = $2)
                    or ($1 = 'user' and c.owner = $2)
                    or (
                        $1 = 'domain'
                        and exists (
                            select from nightshift.deliveries d
                            where d.batch_id = b.id
                                and d.state = 'deferred'
                                and substring(d.email_normalised from '[^@]*$') = $2
                        )
                    )
                )
            order by b.id
            for update of b
        )
        "#,
        scope,
        key,
    )
    .execute(db)
    .await?;
    Ok(())
}
