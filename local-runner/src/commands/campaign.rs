//! `campaign create|start|pause|resume|cancel|…`.

mod create;
mod uncertain;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chrono::Utc;
use clap::Subcommand;
use comfy_table::Cell;
use shared::campaigns;
use shared::deliveries::{self, Listed};
use shared::doorbell::Doorbell;
use shared::receipt::{self, Progress, Receipt};

use crate::output;
use crate::session::Session;

use create::Create;
use uncertain::UncertainCommand;

#[derive(Debug, Subcommand)]
pub(crate) enum CampaignCommand {
    /// Create a campaign from templates and a recipients file
    Create(Create),
    /// Let a draft go
    Start {
        /// The campaign
        id: i64,
    },
    /// Hold a campaign back: only the mails in flight still leave; `resume` lets it go on
    Pause {
        /// The campaign
        id: i64,
    },
    /// Let a paused campaign go on
    Resume {
        /// The campaign
        id: i64,
    },
    /// End a campaign for good: only the mails in flight still leave
    Cancel {
        /// The campaign
        id: i64,
    },
    /// Send the refused mails of a campaign again, and no others
    RetryFailed {
        /// The campaign
        id: i64,
    },
    /// Make a draft with the content of a campaign, and with its recipients if they are asked for
    Clone {
        /// The campaign
        id: i64,
        /// Its name; the other's where it is not given
        #[arg(long, value_parser = output::line)]
        name: Option<String>,
        /// Also its recipients
        #[arg(long)]
        recipients: bool,
    },
    /// Show the mails of a campaign, in the order of their addresses
    Deliveries {
        /// The campaign
        id: i64,
        /// Only those in this state
        #[arg(long, value_parser = shared::deliveries::STATES)]
        state: Option<String>,
        /// Only those behind this address
        #[arg(long)]
        after: Option<String>,
        /// How many
        #[arg(long, default_value_t = 50)]
        limit: i64,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show all campaigns, the newest first
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show how far a campaign is
    Progress {
        /// The campaign
        id: i64,
        /// Watch until it is over; exit code 1 when that takes longer than --timeout
        #[arg(long)]
        wait: bool,
        /// Seconds to wait
        #[arg(long, default_value_t = 3600, requires = "wait")]
        timeout: u64,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what became of every mail; exit code 1 when the books do not balance
    Receipt {
        /// The campaign
        id: i64,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Mails that were handed over without a recorded answer
    #[command(subcommand)]
    Uncertain(UncertainCommand),
}

pub(crate) async fn run(command: CampaignCommand, session: &Session) -> Result<()> {
    match command {
        CampaignCommand::Create(new) => create::create(new, session).await,
        CampaignCommand::Start { id } => {
            start(id, session).await?;
            println!("Campaign {id} goes out; watch it with: local-runner campaign progress {id} --wait");
            Ok(())
        }
        CampaignCommand::Pause { id } => pause(id, session).await,
        CampaignCommand::Resume { id } => {
            campaigns::resume(&session.db, id, Utc::now()).await?;
            ring(id, session).await?;
            println!("Campaign {id} goes on");
            Ok(())
        }
        CampaignCommand::Cancel { id } => cancel(id, session).await,
        CampaignCommand::RetryFailed { id } => {
            let retried = campaigns::retry_failed(&session.db, id).await?;
            ring(id, session).await?;
            println!("{} refused mails of campaign {id} are sent again", retried.deliveries);
            Ok(())
        }
        CampaignCommand::Clone { id, name, recipients } => {
            let mut tx = session.db.begin().await?;
            let clone = campaigns::clone(&mut tx, id, name.as_deref(), recipients).await?;
            tx.commit().await?;
            println!("Campaign {clone} is a draft like campaign {id}");
            Ok(())
        }
        CampaignCommand::Deliveries { id, state, after, limit, json } => {
            let page = deliveries::page(&session.db, id, state.as_deref(), after.as_deref(), limit).await?;
            if json { output::json(&page) } else { show_deliveries(id, &page) }
        }
        CampaignCommand::List { json } => list(json, session).await,
        CampaignCommand::Progress { id, wait: true, timeout, json } => {
            wait_until_over(id, Duration::from_secs(timeout), json, session).await
        }
        CampaignCommand::Progress { id, json, .. } => show_progress(&read_progress(id, session).await?, json),
        CampaignCommand::Receipt { id, json } => show_receipt(id, json, session).await,
        CampaignCommand::Uncertain(command) => uncertain::run(command, session).await,
    }
}

/// Writes the row, then rings.
async fn start(id: i64, session: &Session) -> Result<()> {
    campaigns::start(&session.db, id, Utc::now()).await?;
    ring(id, session).await
}

/// Announces a campaign that has something to send.
async fn ring(id: i64, session: &Session) -> Result<()> {
    session.ring(Doorbell::Campaign { campaign_id: id }).await
}

async fn pause(id: i64, session: &Session) -> Result<()> {
    if !campaigns::pause(&session.db, id, "paused by hand").await? {
        let progress = read_progress(id, session).await?;
        bail!("campaign {id} is {}; only one that is being sent can be paused", progress.status);
    }
    println!("Campaign {id} is paused; let it go on with: local-runner campaign resume {id}");
    Ok(())
}

/// Cancels all that is open before it returns; what functions have in hand at this moment is left to the dispatch.
async fn cancel(id: i64, session: &Session) -> Result<()> {
    campaigns::cancel(&session.db, id, "cancelled by hand").await?;
    let cancelled = campaigns::cancel_open(&session.db, || false).await?;
    ring(id, session).await?;
    println!("Campaign {id} is cancelled, with {cancelled} open mails; at most the mails in flight still leave");
    Ok(())
}

fn show_deliveries(id: i64, page: &[Listed]) -> Result<()> {
    if page.is_empty() {
        println!("No such mails of campaign {id}.");
        return Ok(());
    }
    let mut table = output::table(["Recipient", "State", "Tries", "Next try", "Last words"]);
    for mail in page {
        let state = match &mail.cause {
            Some(cause) => format!("{} ({cause})", mail.state),
            None => mail.state.clone(),
        };
        table.add_row([
            Cell::new(&mail.recipient),
            Cell::new(state),
            output::number(mail.attempts),
            Cell::new(output::or_dash(mail.next_attempt_at.map(|at| at.format("%F %T UTC")))),
            Cell::new(output::or_dash(mail.reply.as_ref())),
        ]);
    }
    println!("{table}");
    Ok(())
}

async fn list(json: bool, session: &Session) -> Result<()> {
    let campaigns = campaigns::list(&session.db, None, i64::MAX).await?;
    if json {
        return output::json(&campaigns);
    }
    if campaigns.is_empty() {
        println!("No campaigns yet; create one with: local-runner campaign create …");
        return Ok(());
    }
    let mut table = output::table(["No.", "Name", "Account", "Status", "Planned", "Created", "Waits"]);
    for campaign in campaigns {
        table.add_row([
            output::number(campaign.id),
            Cell::new(campaign.name),
            Cell::new(campaign.account),
            Cell::new(campaign.status),
            output::number(campaign.planned),
            Cell::new(campaign.created_at.format("%F %T UTC")),
            Cell::new(output::or_dash(campaign.reason)),
        ]);
    }
    println!("{table}");
    Ok(())
}

async fn read_progress(id: i64, session: &Session) -> Result<Progress> {
    receipt::progress(&session.db, id).await?.with_context(|| format!("there is no campaign {id}"))
}

async fn wait_until_over(id: i64, timeout: Duration, json: bool, session: &Session) -> Result<()> {
    let started = Instant::now();
    let bar = output::bar(0, "Sending", false);
    let mut said = None;
    loop {
        let progress = read_progress(id, session).await?;
        bar.set_length(progress.planned.unsigned_abs());
        bar.set_position(progress.settled().unsigned_abs());
        if progress.is_over() {
            bar.finish_and_clear();
            return show_progress(&progress, json);
        }
        // What is over in a moment is not worth a line.
        let soon = progress.waits_until.is_some_and(|until| until - Utc::now() < chrono::Duration::seconds(5));
        if progress.reason.is_some() && progress.reason != said && !soon {
            said = progress.reason.clone();
            bar.suspend(|| eprintln!("{} waits: {}", progress.name, output::or_dash(said.as_ref())));
        }
        if matches!(progress.status.as_str(), "draft" | "paused") {
            bar.finish_and_clear();
            show_progress(&progress, json)?;
            bail!("campaign {id} is {} and does not go on by itself", progress.status);
        }
        if started.elapsed() > timeout {
            bar.finish_and_clear();
            show_progress(&progress, json)?;
            bail!("campaign {id} is not over after {} s", timeout.as_secs());
        }
        let pause = if std::io::stderr().is_terminal() { 250 } else { 500 };
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

fn show_progress(progress: &Progress, json: bool) -> Result<()> {
    if json {
        return output::json(progress);
    }
    println!("Campaign {} \"{}\": {}", progress.campaign_id, progress.name, progress.status);
    if let Some(reason) = &progress.reason {
        println!("  Waits: {reason}");
    }
    if progress.planned == 0 {
        println!("  {} recipients imported, not planned yet", progress.imported);
        return Ok(());
    }
    println!("  {} of {} settled, {} open", progress.settled(), progress.planned, progress.open);
    if let Some(next) = progress.next_attempt_at.filter(|_| progress.open > 0) {
        println!("  {} deferred, the next is due {}", progress.deferred, next.format("%F %T UTC"));
    }
    show_doubts(progress);
    Ok(())
}

fn show_doubts(progress: &Progress) {
    if progress.uncertain > 0 {
        println!(
            "  {} uncertain (handed over, no answer recorded); see: local-runner campaign uncertain list {}",
            progress.uncertain, progress.campaign_id
        );
    }
}

async fn show_receipt(id: i64, json: bool, session: &Session) -> Result<()> {
    let receipt = receipt::receipt(&session.db, id).await?.with_context(|| format!("there is no campaign {id}"))?;
    if json {
        output::json(&receipt)?;
    } else {
        print_receipt(&receipt);
    }
    if !receipt.balances {
        bail!("the books of campaign {id} do not balance; please report this");
    }
    Ok(())
}

fn print_receipt(receipt: &Receipt) {
    let progress = &receipt.progress;
    println!("Receipt of campaign {} \"{}\" ({})", progress.campaign_id, progress.name, progress.status);
    let mut table = output::table([]);
    for (label, count) in [
        ("Rows rejected at import", progress.rejected),
        ("Rows imported", progress.imported),
        ("  the same address again", progress.duplicates),
    ] {
        table.add_row([Cell::new(label), output::number(count)]);
    }
    table.add_row([Cell::new("Planned"), output::number(progress.planned)]);
    for (label, count) in [
        ("  sent", progress.sent),
        ("  refused", progress.refused),
        ("  suppressed", progress.suppressed),
        ("  cancelled", progress.cancelled),
        ("  uncertain", progress.uncertain),
        ("  still open", progress.open),
    ] {
        table.add_row([
            Cell::new(label),
            output::number(count),
            output::number(output::percent(count, progress.planned)),
        ]);
    }
    println!("{table}");
    if receipt.bounced > 0 {
        println!("Of those sent, {} came back later (suppression import-bounces)", receipt.bounced);
    }
    println!(
        "Books {}: {} = {} sent + {} refused + {} suppressed + {} cancelled + {} uncertain + {} open",
        if receipt.balances { "balance" } else { "DO NOT BALANCE" },
        progress.planned,
        progress.sent,
        progress.refused,
        progress.suppressed,
        progress.cancelled,
        progress.uncertain,
        progress.open,
    );
    if let (Some(started), Some(finished)) = (progress.started_at, progress.finished_at) {
        println!("Took {:.1} s", (finished - started).as_seconds_f64());
    }
    show_doubts(progress);
    if !receipt.reasons.is_empty() {
        let mut table = output::table(["Why not sent", "Mails", "The server's words (an example)"]);
        for reason in &receipt.reasons {
            let state = match &reason.cause {
                Some(cause) => format!("{} ({cause})", reason.state),
                None => reason.state.clone(),
            };
            table.add_row([
                Cell::new(state),
                output::number(reason.count),
                Cell::new(output::or_dash(reason.reply.as_ref())),
            ]);
        }
        println!("{table}");
    }
}
