//! `api-key create|list|revoke`.

use anyhow::{Result, bail};
use clap::Subcommand;
use comfy_table::Cell;
use shared::api_keys::{self, Scope};

use crate::output;
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum ApiKeyCommand {
    /// Make a key and print it, this one time
    Create {
        /// Whose it is
        #[arg(value_parser = output::line)]
        name: String,
        /// read: look at everything; operate: also change things and send mail
        #[arg(long, default_value_t = Scope::Read)]
        scope: Scope,
    },
    /// Show all keys, the newest first
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// End a key from the next request on
    Revoke {
        /// Whose it is
        name: String,
    },
}

pub(crate) async fn run(command: ApiKeyCommand, session: &Session) -> Result<()> {
    match command {
        ApiKeyCommand::Create { name, scope } => {
            let Some(key) = api_keys::create(&session.db, &name, scope).await? else {
                bail!(
                    "a key {name:?} is in use; choose another name, or end it with: local-runner api-key revoke {name}"
                );
            };
            eprintln!("Send it as `Authorization: Bearer KEY`. It is shown only now:");
            println!("{}", key.expose());
            Ok(())
        }
        ApiKeyCommand::List { json } => list(json, session).await,
        ApiKeyCommand::Revoke { name } => {
            if !api_keys::revoke(&session.db, &name).await? {
                bail!("no key {name:?} is in use; see: local-runner api-key list");
            }
            println!("Key {name} is revoked");
            Ok(())
        }
    }
}

async fn list(json: bool, session: &Session) -> Result<()> {
    let keys = api_keys::list(&session.db).await?;
    if json {
        return output::json(&keys);
    }
    if keys.is_empty() {
        println!("No keys yet, so the HTTP API is closed; make one with: local-runner api-key create NAME");
        return Ok(());
    }
    let mut table = output::table(["No.", "Name", "Scope", "Made", "Last used", "Revoked"]);
    for key in keys {
        let time = |time: Option<chrono::DateTime<chrono::Utc>>| output::or_dash(time.map(|at| at.format("%F %R UTC")));
        table.add_row([
            output::number(key.id),
            Cell::new(key.name),
            Cell::new(key.scope),
            Cell::new(time(Some(key.created_at))),
            Cell::new(time(key.last_used_at)),
            Cell::new(time(key.revoked_at)),
        ]);
    }
    println!("{table}");
    Ok(())
}
