//! `suppression import` and `export`: lists of addresses in files, which read back what they wrote.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use futures_util::TryStreamExt as _;
use shared::address::EmailAddress;
use shared::recipients::delimiter_of;
use shared::suppressions::{self, Wanted};

use crate::output;
use crate::session::Session;

/// Addresses sent to Postgres in one statement.
const CHUNK: usize = 5_000;
/// Columns of an exported file; a file to be imported needs the first alone.
const COLUMNS: [&str; 5] = ["email", "list", "reason", "note", "since"];
/// As the table takes them.
const REASONS: [&str; 4] = ["manual", "unsubscribed", "bounced", "complained"];

/// A row of a file.
struct Row {
    email: EmailAddress,
    list: String,
    reason: String,
    note: Option<String>,
}

impl Row {
    fn wanted(&self) -> Wanted<'_> {
        Wanted {
            email_normalised: self.email.normalised(),
            list: &self.list,
            reason: &self.reason,
            note: self.note.as_deref(),
        }
    }
}

/// Where in a row what stands; without a header the address is first and there is nothing else.
#[derive(Debug, Default, PartialEq, Eq)]
struct Columns {
    email: usize,
    list: Option<usize>,
    reason: Option<usize>,
    note: Option<usize>,
}

impl Columns {
    fn of(header: &csv::StringRecord) -> Self {
        let find = |name: &str| header.iter().position(|cell| cell.trim().eq_ignore_ascii_case(name));
        let [email, list, reason, note, _] = COLUMNS.map(find);
        Self { email: email.unwrap_or_default(), list, reason, note }
    }

    /// `list` stands for rows that name none.
    fn read(&self, cells: &csv::StringRecord, list: &str) -> Result<Row, String> {
        let cell = |column: Option<usize>| column.and_then(|column| cells.get(column)).map(str::trim);
        let email = cell(Some(self.email)).unwrap_or_default().parse().map_err(|error| format!("{error}"))?;
        let reason = cell(self.reason).filter(|reason| !reason.is_empty()).unwrap_or("manual").to_owned();
        if !REASONS.contains(&reason.as_str()) {
            return Err(format!("the reason {reason:?} is none of {}", REASONS.join(", ")));
        }
        Ok(Row {
            email,
            list: cell(self.list).unwrap_or(list).to_owned(),
            reason,
            note: cell(self.note).filter(|note| !note.is_empty()).map(str::to_owned),
        })
    }
}

/// All or nothing: a file with a bad line is refused with every bad line named, and nothing is imported.
pub(super) async fn import(path: &Path, list: &str, session: &Session) -> Result<()> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let bar = output::bar(file.metadata()?.len(), "Importing", true);
    let mut text = String::new();
    file.read_to_string(&mut text).with_context(|| format!("read {}; it must be UTF-8", path.display()))?;
    let text = text.trim_start_matches('\u{feff}');
    let delimiter = delimiter_of(text.lines().next().unwrap_or_default().as_bytes());
    let mut reader =
        csv::ReaderBuilder::new().delimiter(delimiter).has_headers(false).flexible(true).from_reader(text.as_bytes());

    let mut tx = session.db.begin().await?;
    let mut columns = Columns::default();
    let (mut rows, mut read, mut new, mut bad) = (Vec::with_capacity(CHUNK), 0, 0, vec![]);
    for (index, cells) in reader.records().enumerate() {
        let cells = cells.with_context(|| path.display().to_string())?;
        let line = cells.position().map_or(0, csv::Position::line);
        bar.set_position(cells.position().map_or(0, csv::Position::byte));
        if index == 0 && !cells.iter().any(|cell| cell.contains('@')) {
            columns = Columns::of(&cells);
            continue;
        }
        if cells.iter().all(|cell| cell.trim().is_empty()) {
            continue;
        }
        match columns.read(&cells, list) {
            Ok(row) => rows.push(row),
            Err(error) => bad.push(format!("line {line}: {error}")),
        }
        read += 1;
        if rows.len() == CHUNK {
            new += add(&mut tx, &rows).await?;
            rows.clear();
        }
    }
    bar.finish_and_clear();
    if !bad.is_empty() {
        let shown = bad.iter().take(20).cloned().collect::<Vec<_>>().join("\n  ");
        bail!("{}: {} of {read} lines hold no address, nothing was imported:\n  {shown}", path.display(), bad.len());
    }
    new += add(&mut tx, &rows).await?;
    tx.commit().await?;
    println!("{new} of {read} addresses are newly suppressed");
    Ok(())
}

async fn add(db: &mut sqlx::PgConnection, rows: &[Row]) -> Result<u64, sqlx::Error> {
    let wanted: Vec<Wanted<'_>> = rows.iter().map(Row::wanted).collect();
    suppressions::add_all(db, &wanted).await
}

/// Writes all suppressions, or one list's, as CSV on standard output; one row in memory at a time.
pub(super) async fn export(list: Option<&str>, session: &Session) -> Result<()> {
    let mut out = csv::Writer::from_writer(std::io::stdout().lock());
    out.write_record(COLUMNS)?;
    let mut all = std::pin::pin!(suppressions::export(&session.db, list));
    while let Some(one) = all.try_next().await? {
        let since = one.since.to_rfc3339();
        out.write_record([&one.email, &one.list, &one.reason, one.note.as_deref().unwrap_or_default(), &since])?;
    }
    out.flush()?;
    Ok(())
}
