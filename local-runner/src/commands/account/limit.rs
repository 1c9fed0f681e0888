//! `account limit list|set|remove` and `account window set|remove`.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use comfy_table::Cell;
use shared::address::EmailAddress;
use shared::doorbell::Doorbell;
use shared::limits::{self, Period, Scope, Subject, Window};

use crate::output;
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum LimitCommand {
    /// Show all limits
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Set how many mails may leave in a second, minute, hour (sliding) or calendar day (in the account's time zone)
    Set {
        #[command(flatten)]
        whose: Whose,
        /// second, minute, hour or day
        period: Period,
        /// Most mails in that time
        #[arg(value_parser = clap::value_parser!(i32).range(1..))]
        maximum: i32,
    },
    /// Remove a limit
    Remove {
        #[command(flatten)]
        whose: Whose,
        /// second, minute, hour or day
        period: Period,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Whose {
    /// All mail of this account
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// All mail of campaigns with this owner
    #[arg(long, value_name = "OWNER", value_parser = output::line)]
    user: Option<String>,
    /// All mail to this domain
    #[arg(long, value_parser = domain)]
    domain: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WindowCommand {
    /// Let mail leave only in these hours of the account's time zone
    Set {
        /// Name of the account
        account: String,
        /// Such as "mon-fri 09:00-20:00, sat 10:00-16:00"; without days every day
        window: Window,
    },
    /// Let mail leave at any time
    Remove {
        /// Name of the account
        account: String,
    },
}

/// A domain as recipients' addresses have it, in its ASCII form.
pub(super) fn domain(text: &str) -> Result<String, String> {
    let text = text.trim_start_matches('@');
    let address: EmailAddress = format!("postmaster@{text}").parse().map_err(|error| format!("{error}"))?;
    Ok(address.domain().to_owned())
}

impl Whose {
    async fn subject(&self, session: &Session) -> Result<(Subject, String)> {
        let (scope, name, key) = match (&self.account, &self.user, &self.domain) {
            (Some(account), ..) => (Scope::Account, account, session.account(account).await?.to_string()),
            (_, Some(user), _) => (Scope::User, user, user.clone()),
            (.., Some(domain)) => (Scope::Domain, domain, domain.clone()),
            (None, None, None) => bail!("say whose limit: --account NAME, --user OWNER or --domain DOMAIN"),
        };
        Ok((Subject { scope, key }, format!("{scope} {name}")))
    }
}

pub(crate) async fn run(command: LimitCommand, session: &Session) -> Result<()> {
    match command {
        LimitCommand::List { json } => list(json, session).await,
        LimitCommand::Set { whose, period, maximum } => {
            let (subject, name) = whose.subject(session).await?;
            limits::set(&session.db, &subject, period, maximum).await?;
            println!("At most {maximum} mails a {period} for {name}");
            session.ring(Doorbell::Dispatch).await
        }
        LimitCommand::Remove { whose, period } => {
            let (subject, name) = whose.subject(session).await?;
            if !limits::remove(&session.db, &subject, period).await? {
                bail!("{name} has no limit for the {period}; see: local-runner account limit list");
            }
            println!("No limit for the {period} for {name} any more");
            session.ring(Doorbell::Dispatch).await
        }
    }
}

async fn list(json: bool, session: &Session) -> Result<()> {
    let limits = limits::list(&session.db).await?;
    if json {
        return output::json(&limits);
    }
    if limits.is_empty() {
        println!("No limits yet; set one with: local-runner account limit set --account NAME day 500");
        return Ok(());
    }
    let mut table = output::table(["Scope", "Whose", "Mails", "In a"]);
    for limit in limits {
        table.add_row([
            Cell::new(limit.scope),
            Cell::new(limit.subject),
            output::number(limit.maximum),
            Cell::new(limit.period),
        ]);
    }
    println!("{table}");
    Ok(())
}

pub(crate) async fn window(command: WindowCommand, session: &Session) -> Result<()> {
    let (account, window) = match command {
        WindowCommand::Set { account, window } => (account, Some(window)),
        WindowCommand::Remove { account } => (account, None),
    };
    let id = session.account(&account).await?;
    limits::set_window(&session.db, id, window.as_ref()).await?;
    match window {
        Some(window) => println!("Mail of account {account} leaves {window} only, in its own time zone"),
        None => println!("Mail of account {account} leaves at any time"),
    }
    session.ring(Doorbell::Dispatch).await
}
