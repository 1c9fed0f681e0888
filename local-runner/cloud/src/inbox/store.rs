//! Writing accepted mails: one thread appends those of all connections, as many at once as have come meanwhile.
//!
//! Two appended files take more mails per second than a file per mail, which costs an entry in a folder each. They survive
//! `kill -9` of the process as soon as the client has its answer; a crash of the machine may cost the last seconds.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc;

use chrono::Utc;
use tokio::sync::oneshot;

use super::mailbox::{INDEX, Index, MAILS};
use super::{Envelope, InboxError, Summary};

/// Bytes written at once at most, unless one mail is larger. More would only delay the answers.
const BATCH_BYTES: usize = 4 << 20;

/// Something to append.
struct Job {
    envelope: Envelope,
    subject: String,
    raw: Vec<u8>,
    done: oneshot::Sender<io::Result<u64>>,
}

/// The writing end of an inbox folder. At most one exists per folder, over all processes.
#[derive(Debug)]
pub(super) struct Store {
    jobs: mpsc::Sender<Job>,
}

impl Store {
    /// Opens or makes the folder, and cuts off what a killed predecessor left half-written.
    pub(super) fn open(dir: &Path) -> Result<Self, InboxError> {
        let failed = |source| InboxError::Folder { path: dir.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let open = |name| {
            OpenOptions::new()
                .create(true)
                .read(true)
                .write(true)
                .truncate(false)
                .mode(0o600)
                .open(dir.join(name))
                .map_err(failed)
        };
        let (mails, index) = (open(MAILS)?, open(INDEX)?);
        match index.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(InboxError::Locked { path: dir.to_owned() });
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
        let writer = Writer::recover(mails, index, dir)?;
        let (jobs, incoming) = mpsc::channel();
        std::thread::Builder::new().name("inbox".to_owned()).spawn(move || writer.run(&incoming)).map_err(failed)?;
        Ok(Self { jobs })
    }

    /// Keeps a mail; returns its number once it is written.
    pub(super) async fn keep(&self, envelope: Envelope, subject: String, raw: Vec<u8>) -> io::Result<u64> {
        let (done, written) = oneshot::channel();
        let job = Job { envelope, subject, raw, done };
        let gone = || io::Error::other("the writer has ended");
        self.jobs.send(job).map_err(|_| gone())?;
        written.await.map_err(|_| gone())?
    }
}

struct Writer {
    mails: File,
    index: File,
    next_id: u64,
    mails_end: u64,
    index_end: u64,
}

impl Writer {
    fn recover(mut mails: File, mut index: File, dir: &Path) -> Result<Self, InboxError> {
        let failed = |source| InboxError::Folder { path: dir.to_owned(), source };
        let mut known = Index {
            lines: Some(BufReader::new(index.try_clone().map_err(failed)?)),
            path: dir.join(INDEX),
            end: mails.metadata().map_err(failed)?.len(),
        };
        let mut writer_state = (1, 0, 0);
        while let Some(lines) = known.lines.as_mut() {
            let index_end = lines.stream_position().map_err(failed)?;
            match known.next() {
                Some(mail) => {
                    let mail = mail?;
                    writer_state = (mail.id + 1, mail.end().unwrap_or_default(), index_end);
                }
                None => {
                    writer_state.2 = index_end;
                    break;
                }
            }
        }
        let (next_id, mails_end, index_end) = writer_state;
        for (file, end) in [(&mut mails, mails_end), (&mut index, index_end)] {
            file.set_len(end).and_then(|()| file.seek(SeekFrom::Start(end))).map_err(failed)?;
        }
        Ok(Self { mails, index, next_id, mails_end, index_end })
    }

    /// Ends when the store is gone.
    fn run(mut self, incoming: &mpsc::Receiver<Job>) {
        while let Ok(first) = incoming.recv() {
            let mut size = first.raw.len();
            let mut batch = vec![first];
            while size < BATCH_BYTES
                && let Ok(job) = incoming.try_recv()
            {
                size += job.raw.len();
                batch.push(job);
            }
            self.write(batch);
        }
    }

    fn write(&mut self, batch: Vec<Job>) {
        let arrived = Utc::now();
        let mut mails = Vec::new();
        let mut lines = Vec::new();
        let mut answers = Vec::new();
        for (id, job) in (self.next_id..).zip(batch) {
            let summary = Summary {
                id,
                arrived,
                envelope: job.envelope,
                subject: job.subject,
                size: job.raw.len() as u64,
                offset: self.mails_end + mails.len() as u64,
            };
            mails.extend_from_slice(&job.raw);
            serde_json::to_writer(&mut lines, &summary).expect("a summary is plain text and numbers");
            lines.push(b'\n');
            answers.push((id, job.done));
        }
        match self.append(&mails, &lines) {
            Ok(()) => {
                self.next_id += answers.len() as u64;
                for (id, done) in answers {
                    done.send(Ok(id)).ok();
                }
            }
            Err(error) => {
                tracing::error!("the inbox cannot keep mails: {error}");
                for (_, done) in answers {
                    done.send(Err(io::Error::new(error.kind(), error.to_string()))).ok();
                }
            }
        }
    }

    /// All of it or nothing. The index comes last: what it names is there.
    fn append(&mut self, mails: &[u8], lines: &[u8]) -> io::Result<()> {
        let written = self.mails.write_all(mails).and_then(|()| self.index.write_all(lines));
        if written.is_err() {
            for (file, end) in [(&mut self.mails, self.mails_end), (&mut self.index, self.index_end)] {
                file.set_len(end).and_then(|()| file.seek(SeekFrom::Start(end))).ok();
            }
            return written;
        }
        self.mails_end += mails.len() as u64;
        self.index_end += lines.len() as u64;
        Ok(())
    }
}
