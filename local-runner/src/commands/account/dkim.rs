//! `account dkim new|list|remove`.

use anyhow::{Context, Result, bail};
use chrono::Utc;
use clap::{Args, Subcommand};
use serde::Serialize;
use shared::accounts;
use shared::address::{EmailAddress, domain_of};
use shared::dkim::{self, Algorithm, Listed, NewKey, PrivateKey};

use super::limit::domain;
use crate::output;
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum DkimCommand {
    /// Make a key that signs the account's mail from now on, and print the DNS record that publishes it
    New(New),
    /// Show the keys, of one account or all
    List {
        /// Name of the account
        account: Option<String>,
        /// Print their DNS records
        #[arg(long, conflicts_with = "json")]
        records: bool,
        /// As JSON, with the records
        #[arg(long)]
        json: bool,
    },
    /// Remove a key; leave its DNS record standing for some days, for mail that is on its way
    Remove {
        /// Name of the account
        account: String,
        /// Selector of the key
        selector: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct New {
    /// Name of the account
    account: String,
    /// Name of the key in DNS: the record stands at SELECTOR._domainkey.DOMAIN; made up where it is not given
    #[arg(long, value_parser = selector)]
    selector: Option<String>,
    /// rsa (2048 bits, understood everywhere) or ed25519; an account may have one of each
    #[arg(long = "type", default_value = "rsa", value_name = "TYPE")]
    algorithm: Algorithm,
    /// Domain that signs: the one of the account's From, which is taken where it is not given, or one above it
    #[arg(long, value_parser = domain)]
    domain: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// A label of a domain name, in lower case.
fn selector(text: &str) -> Result<String, &'static str> {
    let text = text.to_ascii_lowercase();
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if text.is_empty() || text.len() > 63 || !text.chars().all(allowed) || text.starts_with('-') || text.ends_with('-')
    {
        return Err("it must be letters, digits and inner hyphens, 63 at most");
    }
    Ok(text)
}

/// What one has to publish.
#[derive(Debug, Serialize)]
struct Record {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    /// As one text.
    value: String,
    /// As zone files have it.
    strings: Vec<String>,
}

impl Record {
    fn of(domain: &str, selector: &str, algorithm: Algorithm, public_key: &str) -> Self {
        let value = dkim::record(algorithm, public_key);
        let strings = dkim::record_strings(&value).into_iter().map(str::to_owned).collect();
        Self { name: dkim::record_name(domain, selector), kind: "TXT", value, strings }
    }

    fn print(&self) {
        let strings: Vec<String> = self.strings.iter().map(|text| format!("\"{text}\"")).collect();
        println!("{}. 3600 IN TXT (\n    {} )", self.name, strings.join("\n    "));
    }
}

pub(crate) async fn run(command: DkimCommand, session: &Session) -> Result<()> {
    match command {
        DkimCommand::New(new) => self::new(new, session).await,
        DkimCommand::List { account, records, json } => list(account.as_deref(), records, json, session).await,
        DkimCommand::Remove { account, selector } => remove(&account, &selector, session).await,
    }
}

async fn new(new: New, session: &Session) -> Result<()> {
    let account_id = session.account(&new.account).await?;
    let from: EmailAddress = accounts::load(&session.db, account_id)
        .await?
        .from_email
        .parse()
        .with_context(|| format!("from address of account {}", new.account))?;
    let domain = new.domain.unwrap_or_else(|| from.domain().to_owned());
    if !is_in(from.domain(), &domain) {
        bail!(
            "account {} sends as {from}; a signature of {domain} would not count for that. Give its domain or one above it",
            new.account
        );
    }
    let selector =
        new.selector.unwrap_or_else(|| format!("ns{account_id}-{}-{}", new.algorithm, Utc::now().format("%Y%m%d%H%M")));
    let key = PrivateKey::generate(new.algorithm)?;
    let row = NewKey { account_id, domain: &domain, selector: &selector, key: &key };
    if !dkim::add(&session.db, &session.keys()?, &row).await? {
        bail!("{domain} has a key with selector {selector} already; give another --selector");
    }
    let record = Record::of(&domain, &selector, new.algorithm, &key.public());
    if new.json {
        return output::json(&record);
    }
    println!("Mail of account {} is signed as {domain} from now on. Publish this record; until then", new.account);
    println!("receivers take its mail as not signed:\n");
    record.print();
    println!("\nAs one text, for a form: {}", record.value);
    Ok(())
}

/// The domain itself or one below it.
fn is_in(domain: &str, parent: &str) -> bool {
    domain.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// A key and its record.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    key: Listed,
    record: Record,
}

async fn list(account: Option<&str>, records: bool, json: bool, session: &Session) -> Result<()> {
    let account_id = match account {
        Some(name) => Some(session.account(name).await?),
        None => None,
    };
    let shown = dkim::list(&session.db, account_id)
        .await?
        .into_iter()
        .map(|key| {
            let algorithm = key.algorithm.parse().map_err(anyhow::Error::msg)?;
            let record = Record::of(&key.domain, &key.selector, algorithm, &key.public_key);
            Ok(Shown { key, record })
        })
        .collect::<Result<Vec<_>>>()?;
    if json {
        return output::json(&shown);
    }
    if shown.is_empty() {
        println!("No keys yet, so no mail is signed here; make one with: local-runner account dkim new ACCOUNT");
        return Ok(());
    }
    if records {
        shown.iter().for_each(|one| one.record.print());
        return Ok(());
    }
    let mut table = output::table(["Account", "Selector", "Type", "Signs as", "For From", "Since"]);
    for Shown { key, .. } in shown {
        let aligned = key.from_email.parse::<EmailAddress>().is_ok_and(|from| is_in(from.domain(), &key.domain));
        let note = if aligned { "" } else { " (does not fit: make a new key)" };
        table.add_row([
            key.account,
            key.selector,
            key.algorithm,
            key.domain,
            format!("{}{note}", domain_of(&key.from_email)),
            key.since.format("%F %T UTC").to_string(),
        ]);
    }
    println!("{table}");
    Ok(())
}

async fn remove(account: &str, selector: &str, session: &Session) -> Result<()> {
    let account_id = session.account(account).await?;
    if !dkim::remove(&session.db, account_id, selector).await? {
        bail!("account {account} has no key {selector:?}; see: local-runner account dkim list {account}");
    }
    println!("Mail of account {account} is not signed with {selector} any more; keep its DNS record for some days");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_signs_for_itself_and_what_is_below_it() {
        assert!(is_in("mail.example.org", "example.org") && is_in("example.org", "example.org"));
        assert!(!is_in("example.org", "mail.example.org") && !is_in("badexample.org", "example.org"));
    }
}
