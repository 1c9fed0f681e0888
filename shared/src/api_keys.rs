//! Keys of the HTTP API: `ns_<id>_<secret>`, sent as `Authorization: Bearer …`.
//!
//! The secret is 244 random bits, so the table holds its plain SHA-256: nobody can try them all, and a slow hash would only
//! make each request slow. The row is found by the id, which is no secret, and the hashes are compared in constant time.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use sqlx::PgExecutor;
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use crate::config::Secret;

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Look at everything.
    Read,
    /// Also change things and send mail.
    Operate,
}

impl Scope {
    /// As it stands in column `scope`.
    pub fn column(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
        }
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "read" => Ok(Self::Read),
            "operate" => Ok(Self::Operate),
            other => Err(format!("{other:?} is none of read, operate")),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.column())
    }
}

/// A key that was presented and is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Row in `nightshift.api_keys`.
    pub id: i64,
    /// What it may do.
    pub scope: Scope,
}

/// Makes a key and returns it, this one time; `None` when a key of that name is in use.
pub async fn create(db: impl PgExecutor<'_>, name: &str, scope: Scope) -> Result<Option<Secret>, sqlx::Error> {
    let secret = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let id = sqlx::query_scalar!(
        r#"
        insert into nightshift.api_keys (name, secret_hash, scope)
        values ($1, $2, $3)
        on conflict (name) where revoked_at is null do nothing
        returning id
        "#,
        name,
        &hash(&secret)[..],
        scope.column(),
    )
    .fetch_optional(db)
    .await?;
    Ok(id.map(|id| Secret::new(format!("ns_{id}_{secret}"))))
}

/// Judges what a client presents; `None` for anything but a key that is in use. An unknown id costs the same work as a
/// wrong secret.
pub async fn check(db: impl PgExecutor<'_> + Copy, presented: &str) -> Result<Option<ApiKey>, sqlx::Error> {
    // No key has the id 0.
    let (id, secret) = parts(presented).unwrap_or((0, presented));
    let row = sqlx::query!(
        r#"
        select
            id,
            secret_hash,
            scope,
            coalesce(last_used_at < now() - interval '1 minute', true) as "unused!"
        from nightshift.api_keys
        where id = $1
            and revoked_at is null
        "#,
        id,
    )
    .fetch_optional(db)
    .await?;
    let known = row.as_ref().map_or(&[0; 32][..], |row| row.secret_hash.as_slice());
    let same = bool::from(hash(secret).ct_eq(known));
    let Some(row) = row.filter(|_| same) else { return Ok(None) };
    if row.unused {
        sqlx::query!("update nightshift.api_keys set last_used_at = now() where id = $1", row.id).execute(db).await?;
    }
    let scope = row.scope.parse().map_err(|problem: String| sqlx::Error::Decode(problem.into()))?;
    Ok(Some(ApiKey { id: row.id, scope }))
}

fn parts(key: &str) -> Option<(i64, &str)> {
    let (id, secret) = key.strip_prefix("ns_")?.split_once('_')?;
    Some((id.parse().ok()?, secret))
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// A key as a list shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// Row in `nightshift.api_keys`, and the number in the key.
    pub id: i64,
    /// Whose it is.
    pub name: String,
    /// `read` or `operate`.
    pub scope: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// Since when it is no good.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// All keys, the newest first.
pub async fn list(db: impl PgExecutor<'_>) -> Result<Vec<Listed>, sqlx::Error> {
    sqlx::query_as!(
        Listed,
        r#"
        select id, name, scope, created_at, last_used_at, revoked_at
        from nightshift.api_keys
        order by id desc
        "#,
    )
    .fetch_all(db)
    .await
}

/// Ends a key from the next request on. `false`: no key of that name is in use.
pub async fn revoke(db: impl PgExecutor<'_>, name: &str) -> Result<bool, sqlx::Error> {
    let revoked =
        sqlx::query!("update nightshift.api_keys set revoked_at = now() where name = $1 and revoked_at is null", name,)
            .execute(db)
            .await?;
    Ok(revoked.rows_affected() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[sqlx::test(migrator = "crate::database::MIGRATOR")]
    async fn a_key_is_good_until_it_is_revoked_and_only_with_its_own_secret(db: sqlx::PgPool) {
        let key = create(&db, "crm", Scope::Read).await.expect("database").expect("new");
        let other = create(&db, "planner", Scope::Operate).await.expect("database").expect("new");
        assert!(create(&db, "crm", Scope::Read).await.expect("database").is_none(), "the name is in use");
        let good = check(&db, key.expose()).await.expect("database").expect("good");
        assert_eq!(good.scope, Scope::Read);

        let (own, foreign) = (key.expose(), other.expose());
        let mixed = format!("ns_{}_{}", good.id, parts(foreign).expect("a key").1);
        for wrong in ["", "ns_", "ns_1_", "ns__", &own[..own.len() - 1], &format!("{own}0"), &mixed, "ns_9999_0"] {
            assert_eq!(check(&db, wrong).await.expect("database"), None, "{wrong}");
        }
        assert!(revoke(&db, "crm").await.expect("database"));
        assert!(!revoke(&db, "crm").await.expect("database"));
        assert_eq!(check(&db, own).await.expect("database"), None, "revoked");
        assert!(create(&db, "crm", Scope::Operate).await.expect("database").is_some(), "the name is free again");
    }

    #[sqlx::test(migrator = "crate::database::MIGRATOR")]
    async fn the_table_holds_no_secret(db: sqlx::PgPool) {
        let key = create(&db, "crm", Scope::Read).await.expect("database").expect("new");
        let dump: String = sqlx::query_scalar("select to_jsonb(k)::text from nightshift.api_keys k")
            .fetch_one(&db)
            .await
            .expect("one row");
        assert!(!dump.contains(parts(key.expose()).expect("a key").1), "{dump}");
    }
}
