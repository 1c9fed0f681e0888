//! `account add|test|list|dkim|limit|window`.

mod dkim;
mod limit;

use std::io::{IsTerminal, Read};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use shared::accounts::{self, NewAccount, Security};
use shared::address::EmailAddress;
use shared::config::Secret;
use shared::smtp::{Connection, Server};

use crate::output;
use crate::session::Session;

use dkim::DkimCommand;
use limit::{LimitCommand, WindowCommand};

#[derive(Debug, Subcommand)]
pub(crate) enum AccountCommand {
    /// Add an SMTP account. Its password is asked for, or read from standard input with --password-stdin
    Add(Add),
    /// Connect and log in, without sending anything
    Test {
        /// Name of the account
        name: String,
    },
    /// Show all accounts
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Keys that sign mail (DKIM)
    #[command(subcommand)]
    Dkim(DkimCommand),
    /// How much mail may leave
    #[command(subcommand)]
    Limit(LimitCommand),
    /// When mail may leave
    #[command(subcommand)]
    Window(WindowCommand),
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// Name that you will use for it
    #[arg(value_parser = output::line)]
    name: String,
    /// Host name of the server; "inbox" is the runner's own inbox, which catches all mail
    #[arg(long)]
    host: String,
    /// Port: usually 587 for starttls, 465 for tls, 25 for plain
    #[arg(long)]
    port: Option<u16>,
    /// starttls, tls or plain
    #[arg(long, default_value = "starttls")]
    security: Security,
    /// Login name, where the server wants one
    #[arg(long)]
    username: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// Address in From
    #[arg(long)]
    from: EmailAddress,
    /// Name in From
    #[arg(long, value_parser = output::line)]
    from_name: Option<String>,
    /// Address in Reply-To
    #[arg(long)]
    reply_to: Option<EmailAddress>,
    /// Time zone of its daily limits, such as Europe/Moscow
    #[arg(long, default_value = "UTC")]
    time_zone: chrono_tz::Tz,
    /// Most connections at once, over all functions
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(i32).range(1..=200))]
    max_connections: i32,
    /// Change the account of this name if there is one
    #[arg(long)]
    replace: bool,
}

pub(crate) async fn run(command: AccountCommand, session: &Session) -> Result<()> {
    match command {
        AccountCommand::Add(add) => self::add(add, session).await,
        AccountCommand::Test { name } => test(&name, session).await,
        AccountCommand::List { json } => list(json, session).await,
        AccountCommand::Dkim(command) => dkim::run(command, session).await,
        AccountCommand::Limit(command) => limit::run(command, session).await,
        AccountCommand::Window(command) => limit::window(command, session).await,
    }
}

async fn add(add: Add, session: &Session) -> Result<()> {
    let (host, port, security) = if add.host == "inbox" {
        let inbox = session.inbox()?;
        (inbox.ip().to_string(), inbox.port(), Security::Plain)
    } else {
        let usual = match add.security {
            Security::Starttls => 587,
            Security::Tls => 465,
            Security::Plain => 25,
        };
        (add.host, add.port.unwrap_or(usual), add.security)
    };
    let credentials = match add.username {
        None => None,
        Some(username) => Some((username, password(add.password_stdin)?)),
    };
    let keys = credentials.is_some().then(|| session.keys()).transpose()?;
    let new = NewAccount {
        name: add.name,
        host,
        port,
        security,
        credentials,
        from_email: add.from.as_given().to_owned(),
        from_name: add.from_name,
        reply_to: add.reply_to.map(|address| address.as_given().to_owned()),
        time_zone: add.time_zone.name().to_owned(),
        max_connections: add.max_connections,
    };
    match accounts::add(&session.db, keys.as_ref(), &new, add.replace).await? {
        Some(_) => {
            println!(
                "Account {} sends as {} through {}:{} ({})",
                new.name, new.from_email, new.host, new.port, new.security
            );
            Ok(())
        }
        None => bail!("there is an account {} already; --replace changes it", new.name),
    }
}

fn password(from_stdin: bool) -> Result<Secret> {
    let mut text = String::new();
    if from_stdin {
        std::io::stdin().read_to_string(&mut text).context("read the password from standard input")?;
    } else {
        if !std::io::stdin().is_terminal() {
            bail!("no terminal to ask for the password; give it on standard input with --password-stdin");
        }
        text = rpassword::prompt_password("Password: ").context("read the password")?;
    }
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        bail!("the password is empty");
    }
    Ok(Secret::new(text))
}

async fn test(name: &str, session: &Session) -> Result<()> {
    let id = session.account(name).await?;
    let account = accounts::load(&session.db, id).await?;
    let password = match &account.credentials {
        Some((_, password)) => Some(password.decrypt(&session.keys()?)?),
        None => None,
    };
    match Connection::open(&Server::of(&account, password)).await {
        Ok(connection) => {
            connection.quit().await;
            let login = if account.credentials.is_some() { ", logged in" } else { "" };
            println!("{name}: {}:{} answers ({}{login})", account.host, account.port, account.security);
            Ok(())
        }
        Err(error) => bail!("{name}: {error}"),
    }
}

async fn list(json: bool, session: &Session) -> Result<()> {
    let accounts = accounts::list(&session.db).await?;
    if json {
        return output::json(&accounts);
    }
    if accounts.is_empty() {
        println!("No accounts yet; add one with: local-runner account add NAME --host … --from …");
        return Ok(());
    }
    let mut table = output::table(["Account", "Server", "Security", "Login", "From", "Connections", "Sends", "Paused"]);
    for account in accounts {
        let paused = account
            .paused_until
            .map(|until| format!("until {}: {}", until.format("%F %T UTC"), account.pause_reason.unwrap_or_default()));
        table.add_row([
            account.name,
            account.server,
            account.security,
            output::or_dash(account.username),
            account.from_email,
            account.max_connections.to_string(),
            account
                .sending_window
                .map_or_else(|| "at any time".to_owned(), |window| format!("{window} {}", account.time_zone)),
            output::or_dash(paused),
        ]);
    }
    println!("{table}");
    Ok(())
}
