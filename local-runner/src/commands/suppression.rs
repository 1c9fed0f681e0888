//! `suppression add|import|list`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use shared::address::EmailAddress;
use shared::suppressions;

use crate::output;
use crate::session::Session;

/// Addresses sent to Postgres in one statement.
const CHUNK: usize = 5_000;

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
    /// The same for a file with one address per line (or a CSV file whose first column holds them)
    Import {
        /// The file
        file: PathBuf,
        /// Only this list; all mail where it is not given
        #[arg(long, default_value = "")]
        list: String,
    },
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
        SuppressionCommand::Import { file, list } => import(&file, &list, session).await,
        SuppressionCommand::List { limit, json } => self::list(limit, json, session).await,
    }
}

/// All or nothing: a file with a bad line is refused with every bad line named, and nothing is imported.
async fn import(path: &Path, list: &str, session: &Session) -> Result<()> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let bar = output::bar(file.metadata()?.len(), "Importing", true);
    let mut tx = session.db.begin().await?;
    let (mut addresses, mut read, mut new, mut bad) = (Vec::with_capacity(CHUNK), 0, 0, vec![]);
    for (index, line) in BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| format!("{}, line {}", path.display(), index + 1))?;
        bar.inc(line.len() as u64 + 1);
        let cell = line.trim_start_matches('\u{feff}').split([',', ';', '\t']).next().unwrap_or_default();
        let cell = cell.trim().trim_matches('"');
        if cell.is_empty() || (index == 0 && !cell.contains('@')) {
            continue; // an empty line, or a heading
        }
        match cell.parse::<EmailAddress>() {
            Ok(address) => addresses.push(address),
            Err(error) => bad.push(format!("line {}: {error}", index + 1)),
        }
        read += 1;
        if addresses.len() == CHUNK {
            new += suppressions::add(&mut tx, &addresses, list, "manual").await?;
            addresses.clear();
        }
    }
    bar.finish_and_clear();
    if !bad.is_empty() {
        let shown = bad.iter().take(20).cloned().collect::<Vec<_>>().join("\n  ");
        bail!("{}: {} of {read} lines hold no address, nothing was imported:\n  {shown}", path.display(), bad.len());
    }
    new += suppressions::add(&mut tx, &addresses, list, "manual").await?;
    tx.commit().await?;
    println!("{new} of {read} addresses are newly suppressed");
    Ok(())
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
