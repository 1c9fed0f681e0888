//! `campaign create|start|pause|list|progress|receipt`.

use std::fs::File;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chrono::Utc;
use clap::{Args, Subcommand};
use comfy_table::Cell;
use shared::campaigns::{self, NewCampaign};
use shared::doorbell::Doorbell;
use shared::receipt::{self, Progress, Receipt};
use shared::recipients::{RecipientsFile, Reject};
use shared::template::{MailTemplate, text_from_html};

use crate::output;
use crate::session::Session;

/// Rejected rows shown on the terminal; all of them are in the rejects file.
const REJECTS_SHOWN: usize = 10;

#[derive(Debug, Subcommand)]
pub(crate) enum CampaignCommand {
    /// Create a campaign from templates and a recipients file
    Create(Create),
    /// Let a draft go, or a paused campaign go on
    Start {
        /// The campaign
        id: i64,
    },
    /// Hold a campaign back: only the mails in flight still leave; `start` lets it go on
    Pause {
        /// The campaign
        id: i64,
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
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Name for people
    #[arg(long, value_parser = output::line)]
    name: String,
    /// SMTP account it leaves through
    #[arg(long)]
    account: String,
    /// Subject; may hold merge fields: "Hello {{ first_name }}"
    #[arg(long, value_parser = output::line)]
    subject: String,
    /// HTML template
    #[arg(long)]
    html: PathBuf,
    /// Text template; made from the HTML where it is not given
    #[arg(long)]
    text: Option<PathBuf>,
    /// CSV file: a header with a column "email" and one column for each merge field
    #[arg(long)]
    recipients: PathBuf,
    /// Where rows that cannot be imported go [default: FILE.rejects.csv in this folder]
    #[arg(long)]
    rejects: Option<PathBuf>,
    /// List that the unsubscribe link leaves; all mail where it is not given
    #[arg(long, default_value = "")]
    list: String,
    /// Start it at once
    #[arg(long)]
    start: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(command: CampaignCommand, session: &Session) -> Result<()> {
    match command {
        CampaignCommand::Create(new) => create(new, session).await,
        CampaignCommand::Start { id } => {
            start(id, session).await?;
            println!("Campaign {id} goes out; watch it with: local-runner campaign progress {id} --wait");
            Ok(())
        }
        CampaignCommand::Pause { id } => pause(id, session).await,
        CampaignCommand::List { json } => list(json, session).await,
        CampaignCommand::Progress { id, wait: true, timeout, json } => {
            wait_until_over(id, Duration::from_secs(timeout), json, session).await
        }
        CampaignCommand::Progress { id, json, .. } => show_progress(&read_progress(id, session).await?, json),
        CampaignCommand::Receipt { id, json } => show_receipt(id, json, session).await,
    }
}

fn read(path: &Path, what: &str) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("read the {what} template {}", path.display()))?;
    String::from_utf8(bytes)
        .map_err(|_| anyhow::anyhow!("the {what} template {} is not UTF-8; save it as UTF-8 first", path.display()))
}

async fn create(new: Create, session: &Session) -> Result<()> {
    let account_id = session.account(&new.account).await?;
    let html = read(&new.html, "HTML")?;
    let text = match &new.text {
        Some(path) => read(path, "text")?,
        None => text_from_html(&html)?,
    };
    let template = MailTemplate::parse(&new.subject, &html, &text)?;

    let path = new.recipients.as_path();
    let open = File::open(path).with_context(|| format!("open recipients file {}", path.display()))?;
    let length = open.metadata()?.len();
    let file = RecipientsFile::open(open).with_context(|| format!("recipients file {}", path.display()))?;
    let missing: Vec<String> =
        template.fields().into_iter().filter(|field| !file.fields().contains(&field.as_str())).collect();
    if !missing.is_empty() {
        bail!(
            "the templates use {} which {} does not have; its merge fields are: {}",
            missing.iter().map(|field| format!("{{{{ {field} }}}}")).collect::<Vec<_>>().join(", "),
            path.display(),
            if file.fields().is_empty() { "none".to_owned() } else { file.fields().join(", ") },
        );
    }

    let mut rejects = Rejects::new(new.rejects.clone().unwrap_or_else(|| rejects_path(path)));
    let bar = output::bar(length, "Importing", true);
    let mut tx = session.db.begin().await?;
    let campaign = NewCampaign { name: new.name, account_id, subject: new.subject, html, text, list: new.list };
    let id = campaigns::create(&mut *tx, &campaign).await.context("create the campaign")?;
    let imported = file
        .import(&mut tx, id, |reject| rejects.write(reject), |bytes| bar.set_position(bytes))
        .await
        .with_context(|| format!("import {}; nothing was imported", path.display()))?;
    if imported.imported == 0 {
        bar.finish_and_clear();
        rejects.finish()?;
        bail!("{} holds no recipient that can be mailed; nothing was imported{}", path.display(), rejects.sentence());
    }
    campaigns::count_import(&mut *tx, id, imported.imported, imported.rejected).await?;
    tx.commit().await.context("commit the import")?;
    bar.finish_and_clear();
    rejects.finish()?;

    if new.start {
        start(id, session).await?;
    }
    if new.json {
        return output::json(&serde_json::json!({
            "campaign_id": id,
            "imported": imported.imported,
            "rejected": imported.rejected,
            "rejects_file": rejects.path_if_any(),
            "started": new.start,
        }));
    }
    println!(
        "Campaign {id} \"{}\": {} recipients imported, {} rejected",
        campaign.name, imported.imported, imported.rejected
    );
    rejects.show();
    if new.start {
        println!("It goes out; watch it with: local-runner campaign progress {id} --wait");
    } else {
        println!("It is a draft; let it go with: local-runner campaign start {id}");
    }
    Ok(())
}

/// Writes the row, then rings. A ring that fails delays the start until the next dispatch, so it is no error.
async fn start(id: i64, session: &Session) -> Result<()> {
    campaigns::start(&session.db, id, Utc::now()).await?;
    let bell = (Doorbell::Campaign { campaign_id: id }, Duration::ZERO);
    if let Err(error) = session.campaigns_queue()?.ring(&[bell]).await {
        eprintln!("warning: queue campaigns does not answer, the start waits for the next dispatch ({error:#})");
    }
    Ok(())
}

async fn pause(id: i64, session: &Session) -> Result<()> {
    if !campaigns::pause(&session.db, id, "paused by hand").await? {
        let progress = read_progress(id, session).await?;
        bail!("campaign {id} is {}; only one that is being sent can be paused", progress.status);
    }
    println!("Campaign {id} is paused; let it go on with: local-runner campaign start {id}");
    Ok(())
}

async fn list(json: bool, session: &Session) -> Result<()> {
    let campaigns = campaigns::list(&session.db).await?;
    if json {
        return output::json(&campaigns);
    }
    if campaigns.is_empty() {
        println!("No campaigns yet; create one with: local-runner campaign create …");
        return Ok(());
    }
    let mut table = output::table(["No.", "Name", "Account", "Status", "Planned", "Created"]);
    for campaign in campaigns {
        table.add_row([
            output::number(campaign.id),
            Cell::new(campaign.name),
            Cell::new(campaign.account),
            Cell::new(campaign.status),
            output::number(campaign.planned),
            Cell::new(campaign.created_at.format("%F %T UTC")),
        ]);
    }
    println!("{table}");
    Ok(())
}

/// The rejects file; made when the first row goes there.
struct Rejects {
    path: PathBuf,
    writer: Option<csv::Writer<File>>,
    first: Vec<Reject>,
    count: usize,
}

fn rejects_path(recipients: &Path) -> PathBuf {
    let stem = recipients.file_stem().unwrap_or_default().to_string_lossy();
    PathBuf::from(format!("{stem}.rejects.csv"))
}

impl Rejects {
    fn new(path: PathBuf) -> Self {
        Self { path, writer: None, first: vec![], count: 0 }
    }

    fn write(&mut self, reject: Reject) -> std::io::Result<()> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let file = File::create(&self.path)?;
                let mut writer = csv::WriterBuilder::new().flexible(true).from_writer(file);
                writer.write_record(["line", "reason", "row"])?;
                self.writer.insert(writer)
            }
        };
        let line = reject.line.to_string();
        writer
            .write_record([line.as_str(), &reject.reason].into_iter().chain(reject.cells.iter().map(String::as_str)))?;
        self.count += 1;
        if self.first.len() < REJECTS_SHOWN {
            self.first.push(reject);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        if let Some(writer) = &mut self.writer {
            writer.flush().with_context(|| format!("write {}", self.path.display()))?;
        }
        Ok(())
    }

    fn path_if_any(&self) -> Option<&Path> {
        self.writer.as_ref().map(|_| self.path.as_path())
    }

    fn sentence(&self) -> String {
        self.path_if_any().map_or_else(String::new, |path| format!("; see {}", path.display()))
    }

    fn show(&self) {
        for reject in &self.first {
            println!("  line {}: {}", reject.line, reject.reason);
        }
        if self.count > self.first.len() {
            println!("  … and {} more", self.count - self.first.len());
        }
        if self.count > 0 {
            println!("  All rejected rows are in {}", self.path.display());
        }
    }
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
        if progress.reason.is_some() && progress.reason != said {
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
    Ok(())
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
