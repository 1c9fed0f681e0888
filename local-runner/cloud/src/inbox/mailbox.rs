//! Reading the mails of an inbox, from any process, whether its server runs or not.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::InboxError;

/// All mails, one after the other, as they came.
pub(super) const MAILS: &str = "mails.dat";
/// One line of JSON per mail, with its place in the file above. A mail without its line does not exist.
pub(super) const INDEX: &str = "index.jsonl";

/// What a list shows of a mail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Number of the mail in its inbox, counted from 1.
    pub id: u64,
    /// When it was accepted.
    pub arrived: DateTime<Utc>,
    /// Sender and recipients.
    #[serde(flatten)]
    pub envelope: Envelope,
    /// Its subject, decoded; empty when there is none.
    pub subject: String,
    /// Its size in bytes.
    pub size: u64,
    pub(super) offset: u64,
}

/// What `MAIL` and `RCPT` said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Sender; empty for a bounce.
    pub from: String,
    /// Recipients, as they were written.
    pub to: Vec<String>,
}

/// A mail.
#[derive(Debug, Clone, PartialEq)]
pub struct Mail {
    /// Sender and recipients.
    pub envelope: Envelope,
    /// When it was accepted.
    pub arrived: DateTime<Utc>,
    /// Headers and body as they came.
    pub raw: Vec<u8>,
}

/// Which mails to list; the default lists all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Part of a recipient's address, in any case.
    pub to: Option<String>,
    /// Part of the subject, in any case.
    pub subject: Option<String>,
    /// Only mails with a greater number than this.
    pub after: Option<u64>,
    /// Only so many, the newest.
    pub limit: Option<usize>,
}

impl Filter {
    fn fits(&self, mail: &Summary) -> bool {
        let contains = |text: &str, part: &str| text.to_lowercase().contains(&part.to_lowercase());
        self.after.is_none_or(|after| mail.id > after)
            && self.to.as_ref().is_none_or(|part| mail.envelope.to.iter().any(|to| contains(to, part)))
            && self.subject.as_ref().is_none_or(|part| contains(&mail.subject, part))
    }
}

/// The mails in the folder of an inbox.
#[derive(Debug, Clone)]
pub struct Mailbox {
    dir: PathBuf,
}

impl Mailbox {
    /// Looks into a folder. One in which no inbox ever ran is an empty mailbox.
    pub fn open(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Mails that fit, oldest first.
    pub fn list(&self, filter: &Filter) -> Result<Vec<Summary>, InboxError> {
        let mut found = std::collections::VecDeque::new();
        for mail in self.index()? {
            let mail = mail?;
            if !filter.fits(&mail) {
                continue;
            }
            if filter.limit.is_some_and(|limit| found.len() >= limit) {
                found.pop_front();
            }
            if filter.limit != Some(0) {
                found.push_back(mail);
            }
        }
        Ok(found.into())
    }

    /// One mail; `None` when there is none of this number.
    pub fn read(&self, id: u64) -> Result<Option<Mail>, InboxError> {
        for mail in self.index()? {
            let mail = mail?;
            if mail.id != id {
                continue;
            }
            let path = self.dir.join(MAILS);
            let read = || {
                let mut file = File::open(&path)?;
                file.seek(SeekFrom::Start(mail.offset))?;
                let mut raw = Vec::new();
                file.take(mail.size).read_to_end(&mut raw)?;
                io::Result::Ok(raw)
            };
            let raw = read().map_err(|source| InboxError::Folder { path: path.clone(), source })?;
            return Ok(Some(Mail { envelope: mail.envelope, arrived: mail.arrived, raw }));
        }
        Ok(None)
    }

    /// How many mails there are.
    pub fn count(&self) -> Result<u64, InboxError> {
        self.index()?.try_fold(0, |count, mail| mail.map(|_| count + 1))
    }

    fn index(&self) -> Result<Index, InboxError> {
        let path = self.dir.join(INDEX);
        let lines = match File::open(&path) {
            Ok(file) => Some(BufReader::new(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(InboxError::Folder { path, source }),
        };
        // A crash of the machine may keep the index and lose the mails.
        let end = std::fs::metadata(self.dir.join(MAILS)).map_or(0, |mails| mails.len());
        Ok(Index { lines, path, end })
    }
}

/// Goes through the index up to its last whole line whose mail is whole.
pub(super) struct Index {
    pub(super) lines: Option<BufReader<File>>,
    pub(super) path: PathBuf,
    pub(super) end: u64,
}

impl Iterator for Index {
    type Item = Result<Summary, InboxError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Vec::new();
        if let Err(source) = self.lines.as_mut()?.read_until(b'\n', &mut line) {
            let path = self.path.clone();
            self.lines = None;
            return Some(Err(InboxError::Folder { path, source }));
        }
        let whole = line.ends_with(b"\n");
        let mail = serde_json::from_slice::<Summary>(&line).ok().filter(|mail| whole && mail.end() <= Some(self.end));
        if mail.is_none() {
            self.lines = None;
        }
        mail.map(Ok)
    }
}

impl Summary {
    /// Where the mail ends in its file; never `None` in an index that was written here.
    pub(super) fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.size)
    }
}
