//! `campaign create`: templates and a recipients file become a draft.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use shared::campaigns::{self, NewCampaign};
use shared::limits::Window;
use shared::recipients::{RecipientsFile, Reject};
use shared::template::{MailTemplate, text_from_html};
use shared::uncertain::Policy;

use super::start;
use crate::output;
use crate::session::Session;

/// Rejected rows shown on the terminal; all of them are in the rejects file.
const REJECTS_SHOWN: usize = 10;

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
    /// What becomes of a mail that was handed over without a recorded answer: hold (a person decides), resend (again, with
    /// the same Message-ID, when no answer can come any more) or count_as_sent
    #[arg(long, value_name = "POLICY", default_value_t = Policy::Hold)]
    uncertain: Policy,
    /// When its mails may leave, in the account's time zone, such as "mon-fri 09:00-20:00"; within the account's own window
    #[arg(long)]
    window: Option<Window>,
    /// Start it at once
    #[arg(long)]
    start: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

fn read(path: &Path, what: &str) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("read the {what} template {}", path.display()))?;
    String::from_utf8(bytes)
        .map_err(|_| anyhow::anyhow!("the {what} template {} is not UTF-8; save it as UTF-8 first", path.display()))
}

pub(super) async fn create(new: Create, session: &Session) -> Result<()> {
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
    let campaign = NewCampaign {
        name: new.name,
        account_id,
        owner: None,
        subject: new.subject,
        html,
        text,
        list: new.list,
        uncertain: new.uncertain,
        window: new.window,
    };
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
