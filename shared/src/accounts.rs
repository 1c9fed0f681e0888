//! SMTP accounts: where mail leaves, and how.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgExecutor;

use crate::config::Secret;
use crate::keys::Keys;
use crate::smtp::Manners;

/// How a connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// Plain connect, then TLS by STARTTLS; never continues without (usual on port 587).
    Starttls,
    /// TLS from the first byte (usual on port 465).
    Tls,
    /// No protection at all; for servers on the same machine or network.
    Plain,
}

impl Security {
    /// As it stands in column `security`.
    pub fn column(self) -> &'static str {
        match self {
            Self::Starttls => "starttls",
            Self::Tls => "tls",
            Self::Plain => "plain",
        }
    }
}

impl FromStr for Security {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "starttls" => Ok(Self::Starttls),
            "tls" => Ok(Self::Tls),
            "plain" => Ok(Self::Plain),
            other => Err(format!("{other:?} is none of starttls, tls, plain")),
        }
    }
}

impl fmt::Display for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.column())
    }
}

/// An account as the sender needs it.
#[derive(Debug, Clone)]
pub struct Account {
    /// Row in `nightshift.smtp_accounts`.
    pub id: i64,
    /// Name that people use for it.
    pub name: String,
    /// Host name; also what its certificate must be made out to.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Protection of the connection.
    pub security: Security,
    /// Login, where the server wants one.
    pub credentials: Option<(String, EncryptedPassword)>,
    /// Address in `From`.
    pub from_email: String,
    /// Name in `From`.
    pub from_name: Option<String>,
    /// Address in `Reply-To`.
    pub reply_to: Option<String>,
    /// Most connections at once.
    pub max_connections: i32,
    /// Nothing leaves before this.
    pub paused_until: Option<DateTime<Utc>>,
    /// How its server wants to be spoken to, as far as that is known.
    pub manners: Manners,
}

/// A password as it stands in the table.
#[derive(Debug, Clone)]
pub struct EncryptedPassword(String);

impl EncryptedPassword {
    /// The password itself.
    pub fn decrypt(&self, keys: &Keys) -> Result<Secret> {
        keys.decrypt(&self.0).context("password of the SMTP account")
    }
}

/// An account to be added.
#[derive(Debug, Clone)]
pub struct NewAccount {
    /// Name that people will use for it; unique.
    pub name: String,
    /// Host name.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Protection of the connection.
    pub security: Security,
    /// Login name and password.
    pub credentials: Option<(String, Secret)>,
    /// Address in `From`.
    pub from_email: String,
    /// Name in `From`.
    pub from_name: Option<String>,
    /// Address in `Reply-To`.
    pub reply_to: Option<String>,
    /// IANA time zone of its daily limits.
    pub time_zone: String,
    /// Most connections at once.
    pub max_connections: i32,
}

/// Adds an account, its password encrypted; an existing one of that name is replaced only when `replace` is set.
/// Returns its id, or `None` when the name is taken.
pub async fn add(db: impl PgExecutor<'_>, keys: Option<&Keys>, new: &NewAccount, replace: bool) -> Result<Option<i64>> {
    let (username, password) = match &new.credentials {
        None => (None, None),
        Some((username, password)) => {
            let keys = keys.context("ENCRYPTION_KEYS is needed to store a password")?;
            (Some(username.as_str()), Some(keys.encrypt(password.expose())))
        }
    };
    sqlx::query_scalar!(
        r#"
        insert into nightshift.smtp_accounts (
            name, host, port, security, username, password_encrypted,
            from_email, from_name, reply_to, time_zone, max_connections
        )
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        on conflict (name) do update
        set host = excluded.host,
            port = excluded.port,
            security = excluded.security,
            username = excluded.username,
            password_encrypted = excluded.password_encrypted,
            from_email = excluded.from_email,
            from_name = excluded.from_name,
            reply_to = excluded.reply_to,
            time_zone = excluded.time_zone,
            max_connections = excluded.max_connections,
            paused_until = null,
            pause_reason = null,
            grouped = true,
            chained = true,
            data_in_group = true,
            manners_met_at = null
        where $12
        returning id
        "#,
        new.name,
        new.host,
        i32::from(new.port),
        new.security.column(),
        username,
        password,
        new.from_email,
        new.from_name,
        new.reply_to,
        new.time_zone,
        new.max_connections,
        replace,
    )
    .fetch_optional(db)
    .await
    .with_context(|| format!("store SMTP account {}", new.name))
}

/// Reads an account by id.
pub async fn load(db: impl PgExecutor<'_>, id: i64) -> Result<Account> {
    let row = sqlx::query!(
        r#"
        select
            id, name, host, port, security, username, password_encrypted,
            from_email, from_name, reply_to, max_connections, paused_until,
            -- what was met a week ago is tried again
            (grouped or manners_met_at < now() - interval '7 days') as "grouped!",
            (chained or manners_met_at < now() - interval '7 days') as "chained!",
            (data_in_group or manners_met_at < now() - interval '7 days') as "data_in_group!"
        from nightshift.smtp_accounts
        where id = $1
        "#,
        id,
    )
    .fetch_one(db)
    .await
    .with_context(|| format!("read SMTP account {id}"))?;
    Ok(Account {
        id: row.id,
        port: u16::try_from(row.port).with_context(|| format!("port of SMTP account {}", row.name))?,
        security: row
            .security
            .parse()
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("security of SMTP account {}", row.name))?,
        credentials: row.username.zip(row.password_encrypted.map(EncryptedPassword)),
        name: row.name,
        host: row.host,
        from_email: row.from_email,
        from_name: row.from_name,
        reply_to: row.reply_to,
        max_connections: row.max_connections,
        paused_until: row.paused_until,
        manners: Manners { grouped: row.grouped, chained: row.chained, data_in_group: row.data_in_group },
    })
}

/// Remembers what its server did not bear.
pub async fn remember_manners(db: impl PgExecutor<'_>, id: i64, manners: Manners) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        update nightshift.smtp_accounts
        set grouped = $2,
            chained = $3,
            data_in_group = $4,
            manners_met_at = now()
        where id = $1
        "#,
        id,
        manners.grouped,
        manners.chained,
        manners.data_in_group,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// The id behind a name.
pub async fn find(db: impl PgExecutor<'_>, name: &str) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar!("select id from nightshift.smtp_accounts where name = $1", name).fetch_optional(db).await
}

/// An account as a list shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// Row in `nightshift.smtp_accounts`.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// `host:port`.
    pub server: String,
    /// Protection of the connection.
    pub security: String,
    /// Login name.
    pub username: Option<String>,
    /// Address in `From`.
    pub from_email: String,
    /// Most connections at once.
    pub max_connections: i32,
    /// IANA time zone of its daily limits and its sending window.
    pub time_zone: String,
    /// When mail may leave through it; at any time where there is none.
    pub sending_window: Option<String>,
    /// Nothing leaves before this.
    pub paused_until: Option<DateTime<Utc>>,
    /// Why.
    pub pause_reason: Option<String>,
}

/// All accounts by name.
pub async fn list(db: impl PgExecutor<'_>) -> Result<Vec<Listed>, sqlx::Error> {
    sqlx::query_as!(
        Listed,
        r#"
        select
            id, name, host || ':' || port as "server!", security, username, from_email, max_connections,
            time_zone, sending_window,
            case when paused_until > now() then paused_until end as paused_until,
            case when paused_until > now() then pause_reason end as pause_reason
        from nightshift.smtp_accounts
        order by name
        "#,
    )
    .fetch_all(db)
    .await
}

/// Holds the account back for a while; a longer pause that stands already is kept. Returns until when.
pub async fn pause(db: impl PgExecutor<'_>, id: i64, seconds: f64, reason: &str) -> Result<DateTime<Utc>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"
        update nightshift.smtp_accounts
        set pause_reason = case when coalesce(paused_until, now()) < now() + make_interval(secs => $2)
                then $3 else pause_reason end,
            paused_until = greatest(paused_until, now() + make_interval(secs => $2))
        where id = $1
        returning paused_until as "paused_until!"
        "#,
        id,
        seconds,
        reason,
    )
    .fetch_one(db)
    .await
}
