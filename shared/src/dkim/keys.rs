//! The keys of accounts, as they stand in table `dkim_keys`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgExecutor;

use super::{Algorithm, PrivateKey, Signer};
use crate::keys::Keys;

/// A key to be stored.
#[derive(Debug)]
pub struct NewKey<'a> {
    /// Account whose mail it signs.
    pub account_id: i64,
    /// Whose name the signatures bear, lower case, in its ASCII form.
    pub domain: &'a str,
    /// Where in DNS its public key stands.
    pub selector: &'a str,
    /// The key.
    pub key: &'a PrivateKey,
}

/// Stores a key, encrypted; the account's next batch is signed with it. Returns `false` when the domain has a key with that
/// selector.
pub async fn add(db: impl PgExecutor<'_>, keys: &Keys, new: &NewKey<'_>) -> Result<bool, sqlx::Error> {
    let added = sqlx::query!(
        r#"
        insert into nightshift.dkim_keys (account_id, domain, selector, algorithm, private_key_encrypted, public_key)
        values ($1, $2, $3, $4, $5, $6)
        on conflict (domain, selector) do nothing
        "#,
        new.account_id,
        new.domain,
        new.selector,
        new.key.algorithm().column(),
        keys.encrypt(&new.key.pkcs8()),
        new.key.public(),
    )
    .execute(db)
    .await?
    .rows_affected();
    Ok(added == 1)
}

/// Removes an account's key; mail on its way can be verified as long as the DNS record stands. Returns whether there was
/// one.
pub async fn remove(db: impl PgExecutor<'_>, account_id: i64, selector: &str) -> Result<bool, sqlx::Error> {
    let removed =
        sqlx::query!("delete from nightshift.dkim_keys where account_id = $1 and selector = $2", account_id, selector)
            .execute(db)
            .await?
            .rows_affected();
    Ok(removed > 0)
}

/// A key as a list shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// Name of the account whose mail it signs.
    pub account: String,
    /// Address in `From` of that account.
    pub from_email: String,
    /// Whose name the signatures bear.
    pub domain: String,
    /// Where in DNS its public key stands.
    pub selector: String,
    /// `rsa` or `ed25519`.
    pub algorithm: String,
    /// As it stands in `p=` of the DNS record.
    pub public_key: String,
    /// Since when it signs.
    pub since: DateTime<Utc>,
}

/// All keys, or one account's.
pub async fn list(db: impl PgExecutor<'_>, account_id: Option<i64>) -> Result<Vec<Listed>, sqlx::Error> {
    sqlx::query_as!(
        Listed,
        r#"
        select
            a.name as account, a.from_email, k.domain, k.selector, k.algorithm, k.public_key, k.created_at as since
        from nightshift.dkim_keys k
        join nightshift.smtp_accounts a on a.id = k.account_id
        where $1::bigint is null or k.account_id = $1
        order by a.name, k.id
        "#,
        account_id,
    )
    .fetch_all(db)
    .await
}

/// A key as it stands in the table.
#[derive(Debug, Clone)]
pub struct Row {
    id: i64,
    domain: String,
    selector: String,
    algorithm: String,
    private_key_encrypted: String,
}

/// The keys that sign an account's mail.
pub async fn of_account(db: impl PgExecutor<'_>, account_id: i64) -> Result<Vec<Row>, sqlx::Error> {
    sqlx::query_as!(
        Row,
        r#"
        select id, domain, selector, algorithm, private_key_encrypted
        from nightshift.dkim_keys
        where account_id = $1
        order by id
        "#,
        account_id,
    )
    .fetch_all(db)
    .await
}

/// Keys that this process has decrypted and parsed, by row: a row never changes, and parsing an RSA key costs as much as
/// several signatures.
#[derive(Debug, Clone, Default)]
pub struct Signers(Arc<Mutex<HashMap<i64, Arc<Signer>>>>);

impl Signers {
    /// The signers behind these rows.
    pub fn read(&self, rows: &[Row], keys: &Keys) -> Result<Vec<Arc<Signer>>> {
        let mut parsed = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        rows.iter()
            .map(|row| {
                if let Some(signer) = parsed.get(&row.id) {
                    return Ok(signer.clone());
                }
                let signer =
                    Arc::new(row.signer(keys).with_context(|| format!("DKIM key {} of {}", row.selector, row.domain))?);
                parsed.insert(row.id, signer.clone());
                Ok(signer)
            })
            .collect()
    }
}

impl Row {
    fn signer(&self, keys: &Keys) -> Result<Signer> {
        let algorithm: Algorithm = self.algorithm.parse().map_err(anyhow::Error::msg)?;
        let key = PrivateKey::read(algorithm, keys.decrypt(&self.private_key_encrypted)?.expose())?;
        Ok(Signer { domain: self.domain.clone(), selector: self.selector.clone(), key })
    }
}
