//! `suppression import-bounces`: mails that came back, from a mailbox.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use mail_parser::mailbox::mbox;
use serde::Serialize;
use shared::bounces::{self, Notification, Outcome};

use crate::output;
use crate::session::Session;

/// A mail larger than this is no notification worth reading.
const MOST_BYTES: u64 = 50 * 1024 * 1024;
/// How many of the mails that came back for another reason are shown.
const SHOWN: usize = 20;

#[derive(Debug, Args)]
pub(crate) struct ImportBounces {
    /// A mail (.eml), an mbox file, a Maildir, or a folder of mails
    path: PathBuf,
    /// Also believe notifications that name no mail of ours. Anyone can write such a notification about anyone
    #[arg(long)]
    unmatched: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// As JSON, with every report
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
struct Summary {
    dry_run: bool,
    mails: u64,
    notifications: u64,
    suppressed: u64,
    suppressed_before: u64,
    other: u64,
    temporary: u64,
    delivered: u64,
    unknown: u64,
    reports: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    mail: String,
    address: Option<String>,
    outcome: Outcome,
    words: String,
}

pub(super) async fn run(import: ImportBounces, session: &Session) -> Result<()> {
    let mut summary = Summary { dry_run: import.dry_run, ..Summary::default() };
    let mut db = session.db.acquire().await?;
    for source in sources(&import.path)? {
        for mail in mails(&source)? {
            let (name, content) = mail.with_context(|| format!("read {}", source.display()))?;
            summary.mails += 1;
            let Some(notification) = Notification::parse(&content) else { continue };
            summary.notifications += 1;
            // A transaction for each mail: whoever repeats an import that broke off finds the rest.
            let mut tx = sqlx::Connection::begin(&mut *db).await?;
            for report in &notification.reports {
                let outcome = bounces::record(&mut tx, &notification, report, import.unmatched).await?;
                let address = report.original.as_ref().or(report.last.as_ref());
                summary.count(Line {
                    mail: name.clone(),
                    address: address.map(|address| address.as_given().to_owned()),
                    outcome,
                    words: report.words(),
                });
            }
            if import.dry_run {
                tx.rollback().await?;
            } else {
                tx.commit().await?;
            }
        }
    }
    if import.json {
        return output::json(&summary);
    }
    summary.print();
    Ok(())
}

impl Summary {
    fn count(&mut self, line: Line) {
        *match line.outcome {
            Outcome::Suppressed => &mut self.suppressed,
            Outcome::SuppressedBefore => &mut self.suppressed_before,
            Outcome::Other => &mut self.other,
            Outcome::Temporary => &mut self.temporary,
            Outcome::Delivered => &mut self.delivered,
            Outcome::Unknown => &mut self.unknown,
        } += 1;
        self.reports.push(line);
    }

    fn print(&self) {
        let would = if self.dry_run { "would be" } else { "are" };
        println!("{} of {} mails are notifications (RFC 3464); their reports:", self.notifications, self.mails);
        let mut table = output::table([]);
        for (label, count) in [
            (format!("addresses that {would} newly suppressed"), self.suppressed),
            ("suppressed before".to_owned(), self.suppressed_before),
            ("came back for another reason than the address, not suppressed".to_owned(), self.other),
            ("for now only, ignored".to_owned(), self.temporary),
            ("no failure, ignored".to_owned(), self.delivered),
            ("of no mail that is known here, ignored".to_owned(), self.unknown),
        ] {
            table.add_row([comfy_table::Cell::new(label), output::number(count)]);
        }
        println!("{table}");
        let other: Vec<&Line> = self.reports.iter().filter(|line| line.outcome == Outcome::Other).collect();
        for line in other.iter().take(SHOWN) {
            println!("  {}: {}", output::or_dash(line.address.as_deref()), line.words);
        }
        if other.len() > SHOWN {
            println!("  and {} more; --json shows all", other.len() - SHOWN);
        }
    }
}

/// The files to read: the one, those of a Maildir, or those of a folder.
fn sources(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let maildir: Vec<PathBuf> =
        ["new", "cur"].map(|part| path.join(part)).into_iter().filter(|part| part.is_dir()).collect();
    let folders = if maildir.is_empty() { vec![path.to_owned()] } else { maildir };
    let mut files = vec![];
    for folder in folders {
        for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let entry = entry?;
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            if entry.file_type()?.is_file() && !hidden {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Where a mail stands, and the mail.
type Mail = std::io::Result<(String, Vec<u8>)>;

/// The mails of a file: many if it is an mbox, otherwise itself.
fn mails(path: &Path) -> Result<Box<dyn Iterator<Item = Mail>>> {
    let name = path.display().to_string();
    let file = File::open(path).with_context(|| format!("open {name}"))?;
    let mut file = BufReader::new(file);
    if file.fill_buf().with_context(|| format!("read {name}"))?.starts_with(b"From ") {
        let mails = mbox::MessageIterator::new(file).enumerate();
        return Ok(Box::new(mails.map(move |(index, mail)| {
            mail.map(|mail| (format!("{name}, mail {}", index + 1), mail.unwrap_contents()))
        })));
    }
    let mut content = vec![];
    let read = file.take(MOST_BYTES).read_to_end(&mut content);
    Ok(Box::new(std::iter::once(read.map(|_| (name, content)))))
}
