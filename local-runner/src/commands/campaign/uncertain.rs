//! `campaign uncertain list|resolve`.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use comfy_table::Cell;
use shared::address::EmailAddress;
use shared::uncertain::{self, Resolution};

use crate::output;
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum UncertainCommand {
    /// Show the mails that were handed over without a recorded answer
    List {
        /// The campaign
        id: i64,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Say what became of them, or send them again
    Resolve(Resolve),
}

#[derive(Debug, Args)]
pub(crate) struct Resolve {
    /// The campaign
    id: i64,
    #[command(flatten)]
    word: Word,
    #[command(flatten)]
    which: Which,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Word {
    /// They arrived: count them as sent
    #[arg(long)]
    sent: bool,
    /// They did not arrive: send them again, with the same Message-ID
    #[arg(long)]
    resend: bool,
    /// They did not arrive: give them up
    #[arg(long)]
    not_sent: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// All uncertain mails of the campaign
    #[arg(long)]
    all: bool,
    /// Only the mail to this address; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    recipient: Vec<EmailAddress>,
}

impl Word {
    fn resolution(&self) -> Resolution {
        if self.sent {
            Resolution::Sent
        } else if self.resend {
            Resolution::Resend
        } else {
            Resolution::NotSent
        }
    }
}

pub(crate) async fn run(command: UncertainCommand, session: &Session) -> Result<()> {
    match command {
        UncertainCommand::List { id, json } => list(id, json, session).await,
        UncertainCommand::Resolve(resolve) => self::resolve(resolve, session).await,
    }
}

async fn list(id: i64, json: bool, session: &Session) -> Result<()> {
    let doubts = uncertain::list(&session.db, id).await?.with_context(|| format!("there is no campaign {id}"))?;
    if json {
        return output::json(&doubts);
    }
    if doubts.mails.is_empty() {
        println!("No mail of campaign {id} \"{}\" is uncertain.", doubts.name);
        return Ok(());
    }
    let mut table =
        output::table(["Recipient", "Message-ID", "Handed over", "Can be sent again from", "What is known"]);
    for mail in &doubts.mails {
        table.add_row([
            Cell::new(&mail.recipient),
            Cell::new(&mail.message_id),
            Cell::new(mail.attempted_at.format("%F %T UTC")),
            Cell::new(mail.resend_from.format("%F %T UTC")),
            Cell::new(output::or_dash(mail.reply.as_ref())),
        ]);
    }
    println!("{table}");
    println!("{} uncertain; policy of the campaign: {}", doubts.mails.len(), doubts.policy);
    println!("Look for the Message-ID in the mail server's log, then:");
    println!("  local-runner campaign uncertain resolve {id} --sent|--resend|--not-sent --all|--recipient ADDRESS");
    Ok(())
}

async fn resolve(resolve: Resolve, session: &Session) -> Result<()> {
    let id = resolve.id;
    let resolution = resolve.word.resolution();
    let which = match resolve.which.recipient.as_slice() {
        [] => "all uncertain mails".to_owned(),
        [one] => format!("the uncertain mail to {}", one.as_given()),
        several => format!("{} uncertain mails", several.len()),
    };
    let what = match resolution {
        Resolution::Sent => "Count as sent",
        Resolution::Resend => "Send again",
        Resolution::NotSent => "Give up",
    };
    if !resolve.yes && !confirmed(&format!("{what}: {which} of campaign {id}?"))? {
        bail!("nothing was changed");
    }
    let recipients = (!resolve.which.all).then_some(resolve.which.recipient.as_slice());
    let resolved = uncertain::resolve(&session.db, id, recipients, resolution).await?;
    if resolution == Resolution::Resend {
        super::ring(id, session).await?;
    }
    if resolve.json {
        return output::json(&resolved);
    }
    let mails = resolved.deliveries;
    match resolution {
        Resolution::Sent => println!("{mails} of campaign {id} count as sent"),
        Resolution::NotSent => println!("{mails} of campaign {id} are given up: refused, cause given_up"),
        Resolution::Resend => {
            println!("{mails} of campaign {id} are sent again, with the same Message-ID");
            if resolved.reopened {
                println!("The campaign was over and is being sent again");
            }
        }
    }
    Ok(())
}

/// Asks on the terminal; what cannot be asked must be told with --yes.
fn confirmed(question: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("no terminal to ask on ({question}); confirm with --yes");
    }
    print!("{question} [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("read the answer")?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
