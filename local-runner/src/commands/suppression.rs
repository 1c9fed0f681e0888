//! `suppression add|import|export|import-bounces|list`.

mod bounces;
mod file;

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use shared::address::EmailAddress;
use shared::suppressions;

use bounces::ImportBounces;

use crate::output;
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum SuppressionCommand {
    /// Stop all mail, or one list's, to these addresses; what is still queued for them is taken back
    Add {
        /// The addresses
        #[arg(required = true)]
        addresses: Vec<EmailAddress>,
        /// Only this list; all mail where it is not given
        #[arg(long, default_value = "")]
        list: String,
    },
    /// The same for a file with one address per line, or a CSV file: what `export` wrote, or with the addresses in the
    /// column "email", else in the first
    Import {
        /// The file
        file: PathBuf,
        /// Only this list, where the file names none; all mail where it is not given
        #[arg(long, default_value = "")]
        list: String,
    },
    /// Write all of them as CSV on standard output
    Export {
        /// Only those of this list; '' for those of all mail
        #[arg(long)]
        list: Option<String>,
    },
    /// Read mails that came back (RFC 3464), and suppress addresses that will never take mail
    ImportBounces(ImportBounces),
    /// Show the newest suppressed addresses
    List {
        /// How many
        #[arg(long, default_value_t = 50)]
        limit: i64,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

pub(crate) async fn run(command: SuppressionCommand, session: &Session) -> Result<()> {
    match command {
        SuppressionCommand::Add { addresses, list } => {
            let new = suppressions::add(&mut *session.db.acquire().await?, &addresses, &list, "manual").await?;
            println!("{new} of {} addresses are newly suppressed", addresses.len());
            Ok(())
        }
        SuppressionCommand::Import { file, list } => file::import(&file, &list, session).await,
        SuppressionCommand::Export { list } => file::export(list.as_deref(), session).await,
        SuppressionCommand::ImportBounces(import) => bounces::run(import, session).await,
        SuppressionCommand::List { limit, json } => self::list(limit, json, session).await,
    }
}

async fn list(limit: i64, json: bool, session: &Session) -> Result<()> {
    let listed = suppressions::list(&session.db, limit).await?;
    if json {
        return output::json(&listed);
    }
    if listed.is_empty() {
        println!("Nobody is suppressed.");
        return Ok(());
    }
    let mut table = output::table(["Address", "List", "Reason", "Since"]);
    for one in listed {
        let list = if one.list.is_empty() { "all mail".to_owned() } else { one.list };
        table.add_row([one.email, list, one.reason, one.since.format("%F %T UTC").to_string()]);
    }
    println!("{table}");
    Ok(())
}
