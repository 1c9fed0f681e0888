//! Recipients files, as people have them: CSV with a header, `,` `;` or tab, quoted fields, UTF-8 with or without BOM.
//!
//! Rows are streamed into Postgres one by one, so memory does not grow with the file. Good rows are imported and bad
//! ones handed back with their line and reason; a file that is no such CSV at all is refused as a whole.

use std::io::{BufRead, BufReader, Chain, Read};

use anyhow::Context;
use csv::Terminator;
use sqlx::PgConnection;

use crate::address::EmailAddress;
use crate::template::BUILT_IN_FIELDS;

/// Rows are sent to Postgres in pieces of about this many bytes.
const COPY_CHUNK: usize = 256 * 1024;
/// A header longer than this is no header of a recipients file.
const MAX_HEADER: usize = 64 * 1024;

/// Why a whole file is refused.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is something else than CSV.
    #[error("this is no CSV file: {0}")]
    NotCsv(&'static str),
    /// The header has no column for the address.
    #[error("the header has no column \"email\"; it has: {0}. The first line must name the columns")]
    NoEmailColumn(String),
    /// Two columns would be the same merge field.
    #[error("columns {first} and {second} of the header would both be the merge field {field:?}; rename one")]
    SameField {
        /// Position of the one, from 1.
        first: usize,
        /// Position of the other, from 1.
        second: usize,
        /// The field.
        field: String,
    },
    /// A column has the name of a field that every mail has.
    #[error("column {0:?} has the name of a field that every mail has already; rename it")]
    Reserved(String),
    /// Reading failed.
    #[error("the file cannot be read")]
    Read(#[from] std::io::Error),
}

/// The columns of a file, before any row is read.
pub struct RecipientsFile<R: Read> {
    reader: csv::Reader<Chain<BufReader<R>, &'static [u8]>>,
    fields: Vec<String>,
    email_column: usize,
}

/// A row that was not imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Line of the file, from 1.
    pub line: u64,
    /// Why.
    pub reason: String,
    /// The row's cells as far as they can be shown.
    pub cells: Vec<String>,
}

/// What an import did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Imported {
    /// Rows that are recipients now.
    pub imported: u64,
    /// Rows handed back.
    pub rejected: u64,
}

/// A good row.
struct Row {
    line: u64,
    email: EmailAddress,
    fields: serde_json::Map<String, serde_json::Value>,
}

impl<R: Read> RecipientsFile<R> {
    /// Reads and checks the header.
    pub fn open(file: R) -> Result<Self, FileError> {
        let mut file = BufReader::with_capacity(MAX_HEADER, file);
        let start = file.fill_buf()?;
        if start.is_empty() {
            return Err(FileError::NotCsv("it is empty"));
        }
        if start.starts_with(b"PK") || start.starts_with(&[0xD0, 0xCF, 0x11, 0xE0]) {
            return Err(FileError::NotCsv("it looks like a spreadsheet; save it as \"CSV UTF-8\" first"));
        }
        if start.starts_with(&[0xFF, 0xFE]) || start.starts_with(&[0xFE, 0xFF]) {
            return Err(FileError::NotCsv("it is UTF-16; save it as \"CSV UTF-8\" first"));
        }
        if start.contains(&b'\r') && !start.contains(&b'\n') {
            return Err(FileError::NotCsv(
                "its lines end with a carriage return alone; save it as \"CSV UTF-8\" first",
            ));
        }
        if start.contains(&0) {
            return Err(FileError::NotCsv("it holds binary data"));
        }
        let bom = start.starts_with(&[0xEF, 0xBB, 0xBF]);
        let header = &start[if bom { 3 } else { 0 }..];
        let header = header.split(|&byte| byte == b'\n').next().unwrap_or(header);
        if header.len() >= MAX_HEADER - 3 {
            return Err(FileError::NotCsv("its first line is longer than 64 KiB"));
        }
        let delimiter = delimiter_of(header);
        if bom {
            file.consume(3);
        }
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            // Lines are told by their line feed, so that they are counted as an editor counts them; a carriage return
            // before it is white space of the last cell.
            .terminator(Terminator::Any(b'\n'))
            .flexible(true)
            // Every line is terminated then, which `line_of` relies on.
            .from_reader(file.chain(&b"\n"[..]));
        let names = reader
            .byte_headers()
            .map_err(|_| FileError::NotCsv("its first line cannot be read"))?
            .iter()
            .map(|name| std::str::from_utf8(name.trim_ascii()).map(str::to_owned))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| FileError::NotCsv("its first line is not UTF-8; save it as \"CSV UTF-8\" first"))?;

        let fields: Vec<String> = names.iter().map(|name| field_name(name)).collect();
        let email_column = fields
            .iter()
            .position(|field| field == "email" || field == "e_mail")
            .ok_or_else(|| FileError::NoEmailColumn(names.join(", ")))?;
        for (index, field) in fields.iter().enumerate().filter(|(_, field)| !field.is_empty()) {
            if let Some(first) = fields[..index].iter().position(|other| other == field) {
                return Err(FileError::SameField { first: first + 1, second: index + 1, field: field.clone() });
            }
            if index != email_column && BUILT_IN_FIELDS.contains(&field.as_str()) {
                return Err(FileError::Reserved(names[index].clone()));
            }
        }
        Ok(Self { reader, fields, email_column })
    }

    /// Merge fields that its columns give, without the address.
    pub fn fields(&self) -> Vec<&str> {
        (0..self.fields.len())
            .filter(|&index| index != self.email_column)
            .map(|index| self.fields[index].as_str())
            .filter(|field| !field.is_empty())
            .collect()
    }

    /// Imports every row for a draft campaign, in the caller's transaction, behind those that it has. `rejected` gets each
    /// bad row, `progress` the bytes read so far, now and then.
    pub async fn import(
        mut self,
        db: &mut PgConnection,
        campaign_id: i64,
        mut rejected: impl FnMut(Reject) -> std::io::Result<()>,
        mut progress: impl FnMut(u64),
    ) -> anyhow::Result<Imported> {
        let behind = last_position(db, campaign_id).await.context("look for earlier recipients")?;
        let mut copy = db
            .copy_in_raw(
                "copy nightshift.recipients (campaign_id, position, email, email_normalised, fields) from stdin",
            )
            .await
            .context("start importing recipients")?;
        let mut imported = Imported::default();
        let mut chunk = Vec::with_capacity(COPY_CHUNK + 4096);
        let mut record = csv::ByteRecord::new();
        // Line of a row whose last cell swallowed the line feed that ends the file, and where the reader stood behind it.
        let mut swallowed = None;
        loop {
            match self.reader.read_byte_record(&mut record) {
                Ok(false) => match swallowed {
                    Some((line, at)) if at == self.reader.position().byte() => {
                        anyhow::bail!("the row of line {line} opens a quote that is never closed");
                    }
                    _ => break,
                },
                Ok(true) => {}
                Err(error) => {
                    let line = self.reader.position().line();
                    return Err(error).with_context(|| format!("read the file from line {line} on"));
                }
            }
            if record.iter().all(<[u8]>::is_empty) || record.as_slice() == b"\r" {
                continue;
            }
            let line = self.line_of(&record);
            // Such a row has no line feed behind it, so it began a line later than `line_of` thinks.
            swallowed = record.as_slice().ends_with(b"\n").then(|| (line + 1, self.reader.position().byte()));
            match self.row(line, &record) {
                Ok(row) => {
                    append(&mut chunk, campaign_id, behind, &row);
                    imported.imported += 1;
                }
                Err(reason) => {
                    let cells = record.iter().map(|cell| String::from_utf8_lossy(cell).into_owned()).collect();
                    rejected(Reject { line, reason, cells }).context("write the rejects file")?;
                    imported.rejected += 1;
                }
            }
            if chunk.len() >= COPY_CHUNK {
                copy.send(chunk.as_slice()).await.context("send recipients to Postgres")?;
                chunk.clear();
                progress(self.reader.position().byte());
            }
        }
        copy.send(chunk.as_slice()).await.context("send recipients to Postgres")?;
        copy.finish().await.context("finish importing recipients")?;
        progress(self.reader.position().byte());
        Ok(imported)
    }

    /// Line on which the row just read begins. The reader stands behind its line feed; cells may hold line feeds too.
    fn line_of(&self, record: &csv::ByteRecord) -> u64 {
        let within = record.as_slice().iter().filter(|&&byte| byte == b'\n').count() as u64;
        self.reader.position().line().saturating_sub(1 + within).max(1)
    }

    fn row(&self, line: u64, record: &csv::ByteRecord) -> Result<Row, String> {
        if record.len() != self.fields.len() {
            return Err(format!("{} columns where the header has {}", record.len(), self.fields.len()));
        }
        let mut email = None;
        let mut fields = serde_json::Map::new();
        for (index, (field, cell)) in self.fields.iter().zip(record).enumerate() {
            let text = std::str::from_utf8(cell).map_err(|_| format!("column {} is not UTF-8", index + 1))?;
            if text.contains('\0') {
                return Err(format!("column {} holds a NUL character", index + 1));
            }
            if index == self.email_column {
                let parsed = text.parse::<EmailAddress>();
                email = Some(parsed.map_err(|error| format!("{:?} is no address: {error}", text.trim()))?);
            } else if !field.is_empty() {
                fields.insert(field.clone(), text.trim().into());
            }
        }
        let email = email.ok_or_else(|| "the address is missing".to_owned())?;
        Ok(Row { line, email, fields })
    }
}

/// Position of a draft's last recipient; 0 where it has none.
async fn last_position(db: &mut PgConnection, campaign_id: i64) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select coalesce(max(position), 0) as "last!" from nightshift.recipients where campaign_id = $1"#,
        campaign_id,
    )
    .fetch_one(db)
    .await
}

/// Adds recipients with their merge fields to a draft, in the caller's transaction, behind those that it has.
pub async fn add(
    db: &mut PgConnection,
    campaign_id: i64,
    recipients: &[(EmailAddress, serde_json::Value)],
) -> Result<(), sqlx::Error> {
    let behind = last_position(db, campaign_id).await?;
    let given: Vec<&str> = recipients.iter().map(|(email, _)| email.as_given()).collect();
    let normalised: Vec<&str> = recipients.iter().map(|(email, _)| email.normalised()).collect();
    let fields: Vec<serde_json::Value> = recipients.iter().map(|(_, fields)| fields.clone()).collect();
    sqlx::query!(
        r#"
        insert into nightshift.recipients (campaign_id, position, email, email_normalised, fields)
        select $1, $2 + position, email, email_normalised, fields
        from unnest($3::text[], $4::text[], $5::jsonb[]) with ordinality
            as given (email, email_normalised, fields, position)
        "#,
        campaign_id,
        behind,
        &given as &[&str],
        &normalised as &[&str],
        &fields,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// The delimiter that a header uses most, outside quotes: comma, semicolon or tab.
pub fn delimiter_of(header: &[u8]) -> u8 {
    let mut quoted = false;
    let mut counts = [(b',', 0), (b';', 0), (b'\t', 0)];
    for &byte in header {
        if byte == b'"' {
            quoted = !quoted;
        }
        for (delimiter, count) in &mut counts {
            *count += usize::from(!quoted && byte == *delimiter);
        }
    }
    // The first of equals, so a file of one column reads as comma-separated.
    counts.iter().rev().max_by_key(|(_, count)| *count).map_or(b',', |(delimiter, _)| *delimiter)
}

/// The merge field of a column: `First Name` is used as `{{ first_name }}`.
fn field_name(column: &str) -> String {
    let mut field = String::with_capacity(column.len());
    for letter in column.trim().chars().flat_map(char::to_lowercase) {
        if letter.is_alphanumeric() {
            field.push(letter);
        } else if !field.is_empty() && !field.ends_with('_') {
            field.push('_');
        }
    }
    field.trim_end_matches('_').to_owned()
}

/// One row in Postgres's text format for COPY.
fn append(chunk: &mut Vec<u8>, campaign_id: i64, behind: i64, row: &Row) {
    let fields = serde_json::to_string(&row.fields).expect("a map of strings always serialises");
    let position = behind.saturating_add_unsigned(row.line);
    chunk.extend_from_slice(format!("{campaign_id}\t{position}").as_bytes());
    for text in [row.email.as_given(), row.email.normalised(), &fields] {
        chunk.push(b'\t');
        for byte in text.bytes() {
            match byte {
                b'\\' => chunk.extend_from_slice(b"\\\\"),
                b'\t' => chunk.extend_from_slice(b"\\t"),
                b'\n' => chunk.extend_from_slice(b"\\n"),
                b'\r' => chunk.extend_from_slice(b"\\r"),
                _ => chunk.push(byte),
            }
        }
    }
    chunk.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(text: &str) -> Result<RecipientsFile<&[u8]>, FileError> {
        RecipientsFile::open(text.as_bytes())
    }

    #[test]
    fn delimiters_case_and_bom_do_not_matter() {
        for text in ["Name,EMAIL\n", "Name;Email\r\n", "\u{feff}name\temail\n", "\"Name, first\";E-Mail\n"] {
            let file = open(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert_eq!(file.email_column, 1, "{text:?}");
        }
        assert_eq!(open("email\nann@example.test\n").expect("one column").fields(), Vec::<&str>::new());
    }

    #[test]
    fn columns_become_fields_that_a_template_can_name() {
        let file = open("E-Mail,First Name,Имя,  Order No. ,\n").expect("header");
        assert_eq!(file.fields(), ["first_name", "имя", "order_no"]);
    }

    #[test]
    fn what_is_no_recipients_file_is_refused_with_the_reason() {
        for (bytes, part) in [
            (&b""[..], "empty"),
            (b"PK\x03\x04rest", "spreadsheet"),
            (b"\xff\xfee\0m\0", "UTF-16"),
            (b"email\0,name\n", "binary"),
            (b"email,name\ra@example.test,A\r", "carriage return"),
            (b"name,phone\nAnn,1\n", "no column \"email\""),
            (b"<html><body>not found</body></html>", "no column \"email\""),
            (b"email,na\xefve\n", "UTF-8"),
            (b"email,Name,name\n", "columns 2 and 3"),
            (b"email,unsubscribe_url\n", "rename it"),
        ] {
            let Err(error) = RecipientsFile::open(bytes) else { panic!("{part}: accepted") };
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
