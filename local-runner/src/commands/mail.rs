//! `mail send|show|list`: single mails.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use shared::address::EmailAddress;
use shared::doorbell::Doorbell;
use shared::mail::Attachment;
use shared::single_mail::{self, Listed, NewMail};
use uuid::Uuid;

use crate::output;
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum MailCommand {
    /// Send one mail; it never waits behind a campaign. Exit code 0 means that it is in the ledger, with --wait that it was
    /// accepted by the server
    Send(Box<Send>),
    /// Show what became of a mail
    Show {
        /// The left part of its Message-ID, as `send` prints it
        public_id: Uuid,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show single mails, the newest first
    List {
        /// Only those that are pending, sending, sent, refused, deferred, uncertain, suppressed or cancelled
        #[arg(long, value_parser = STATES)]
        state: Option<String>,
        /// How many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..))]
        limit: i64,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

const STATES: [&str; 8] = ["pending", "sending", "sent", "refused", "deferred", "uncertain", "suppressed", "cancelled"];

#[derive(Debug, Args)]
pub(crate) struct Send {
    /// SMTP account it leaves through
    #[arg(long)]
    account: String,
    /// Who gets it
    #[arg(long)]
    to: EmailAddress,
    /// Subject
    #[arg(long, value_parser = output::line)]
    subject: String,
    /// Text; "-" reads it from standard input. Made from the HTML where none is given
    #[arg(long)]
    text: Option<String>,
    /// File with the text; "-" is standard input
    #[arg(long, conflicts_with = "text", value_name = "FILE")]
    text_file: Option<PathBuf>,
    /// File with the HTML; "-" is standard input
    #[arg(long, value_name = "FILE")]
    html_file: Option<PathBuf>,
    /// JSON object with values of merge fields: makes subject, text and HTML templates
    #[arg(long, value_name = "JSON")]
    fields: Option<String>,
    /// File that goes with it; may be given several times
    #[arg(long, value_name = "FILE")]
    attach: Vec<PathBuf>,
    /// Address in Reply-To, instead of the account's
    #[arg(long)]
    reply_to: Option<EmailAddress>,
    /// List that an unsubscribe link leaves; a mail without a list has no such link
    #[arg(long)]
    list: Option<String>,
    /// Whose limits it counts against
    #[arg(long)]
    owner: Option<String>,
    /// A name of your own that stands for this mail alone: repeat the command, and it is sent once
    #[arg(long)]
    key: Option<String>,
    /// Wait for its outcome; exit code 1 unless it was accepted
    #[arg(long)]
    wait: bool,
    /// Seconds to wait
    #[arg(long, default_value_t = 120, requires = "wait")]
    timeout: u64,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(command: MailCommand, session: &Session) -> Result<ExitCode> {
    match command {
        MailCommand::Send(new) => return send(*new, session).await,
        MailCommand::Show { public_id, json } => show(&find(public_id, session).await?, json)?,
        MailCommand::List { state, limit, json } => list(state.as_deref(), limit, json, session).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn send(new: Send, session: &Session) -> Result<ExitCode> {
    let text = match (&new.text, &new.text_file) {
        (Some(text), _) if text == "-" => Some(read_text(Path::new("-"))?),
        (Some(text), _) => Some(text.clone()),
        (None, Some(path)) => Some(read_text(path)?),
        (None, None) => None,
    };
    let html = new.html_file.as_deref().map(read_text).transpose()?;
    if text.is_none() && html.is_none() {
        bail!("the mail is empty; give --text, --text-file or --html-file");
    }
    let fields = new
        .fields
        .as_deref()
        .map(serde_json::from_str::<serde_json::Value>)
        .transpose()
        .context("--fields is no JSON object; write it as '{\"name\": \"Ann\"}'")?;
    let attachments = new.attach.iter().map(|path| attachment(path)).collect::<Result<Vec<_>>>()?;
    let mail = NewMail {
        account: &new.account,
        to: &new.to,
        subject: &new.subject,
        text: text.as_deref(),
        html: html.as_deref(),
        key: new.key.as_deref(),
        fields: fields.as_ref(),
        list: new.list.as_deref(),
        owner: new.owner.as_deref(),
        reply_to: new.reply_to.as_ref(),
        attachments: &attachments,
    };
    session.account(&new.account).await?;
    let public_id = single_mail::create(&mut *session.db.acquire().await?, &mail).await?;
    let bell = (Doorbell::Mail { public_id }, Duration::ZERO);
    if let Err(error) = session.batch_queues()?.transactional.ring(&[bell]).await {
        eprintln!("warning: queue transactional does not answer, the mail waits for the next dispatch ({error:#})");
    }
    let timeout = Duration::from_secs(if new.wait { new.timeout } else { 0 });
    let listed = wait(public_id, timeout, session).await?;
    if new.json {
        output::json(&listed)?;
    } else if new.wait {
        show(&listed, false)?;
    } else {
        println!("Mail {public_id} is on its way; see what became of it with: local-runner mail show {public_id}");
    }
    Ok(if new.wait && listed.state != "sent" { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Until nothing more happens with it by itself, or the time is up.
async fn wait(public_id: Uuid, timeout: Duration, session: &Session) -> Result<Listed> {
    let started = Instant::now();
    loop {
        let listed = find(public_id, session).await?;
        if !listed.is_open() || started.elapsed() >= timeout {
            return Ok(listed);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn find(public_id: Uuid, session: &Session) -> Result<Listed> {
    single_mail::list(&session.db, Some(public_id), None, 1)
        .await?
        .pop()
        .with_context(|| format!("there is no single mail {public_id}; local-runner mail list shows all"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    if path.as_os_str() == "-" {
        let mut bytes = vec![];
        std::io::stdin().read_to_end(&mut bytes).context("read standard input")?;
        return Ok(bytes);
    }
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}

fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read(path)?)
        .map_err(|_| anyhow::anyhow!("{} is not UTF-8; save it as UTF-8 first", path.display()))
}

fn attachment(path: &Path) -> Result<Attachment> {
    let name = path.file_name().with_context(|| format!("{} is no file", path.display()))?.to_string_lossy();
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    // What programs open by its type; all else is bytes, which they judge by the name.
    let content_type = match extension.as_str() {
        "pdf" => "application/pdf",
        "txt" => "text/plain; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "html" | "htm" => "text/html; charset=utf-8",
        "ics" => "text/calendar; charset=utf-8",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "zip" => "application/zip",
        _ => "application/octet-stream",
    };
    Ok(Attachment { name: name.into_owned(), content_type: content_type.to_owned(), content: read(path)? })
}

fn show(mail: &Listed, json: bool) -> Result<()> {
    if json {
        return output::json(mail);
    }
    println!("Mail {} to {}, \"{}\", through account {}", mail.public_id, mail.to, mail.subject, mail.account);
    let mut table = output::table([]);
    let time = |time: Option<chrono::DateTime<chrono::Utc>>| output::or_dash(time.map(|time| time.format("%F %T UTC")));
    for (name, value) in [
        ("State", state(mail)),
        ("Attempts", mail.attempts.to_string()),
        ("Last words", output::or_dash(mail.reply.as_ref())),
        ("Made", time(Some(mail.created_at))),
        ("Last attempt", time(mail.attempted_at)),
        ("Next attempt", time(mail.next_attempt_at)),
        ("Settled", time(mail.settled_at)),
        ("Key", output::or_dash(mail.key.as_ref())),
    ] {
        table.add_row([name, &value]);
    }
    println!("{table}");
    Ok(())
}

fn state(mail: &Listed) -> String {
    match &mail.cause {
        Some(cause) => format!("{} ({cause})", mail.state),
        None => mail.state.clone(),
    }
}

async fn list(wanted: Option<&str>, limit: i64, json: bool, session: &Session) -> Result<()> {
    let mails = single_mail::list(&session.db, None, wanted, limit).await?;
    if json {
        return output::json(&mails);
    }
    if mails.is_empty() {
        println!("No single mail here; send one with: local-runner mail send …");
        return Ok(());
    }
    let mut table = output::table(["Mail", "Made", "To", "Subject", "State", "Last words"]);
    for mail in mails {
        table.add_row([
            mail.public_id.to_string(),
            mail.created_at.format("%F %T").to_string(),
            mail.to.clone(),
            mail.subject.clone(),
            state(&mail),
            output::or_dash(mail.reply.as_ref()),
        ]);
    }
    println!("{table}");
    Ok(())
}
