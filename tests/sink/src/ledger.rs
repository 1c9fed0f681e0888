//! What a sink has seen.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A mail that a recipient has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Its `Message-ID`, without the brackets; empty where it had none.
    pub message_id: String,
    /// Envelope recipient, as it was given.
    pub recipient: String,
    /// When it was agreed to.
    pub at: Instant,
}

/// What a sink counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Connections that were opened.
    pub connections: u64,
    /// Reads after which something was written: round trips of a client that waits for its answers. The greeting is none.
    pub turns: u64,
    /// Mails that were accepted.
    pub mails: u64,
    /// Recipients that were refused.
    pub refused: u64,
    /// Bytes that were read.
    pub bytes: u64,
}

/// Shared by all connections.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    accepted: Vec<Accepted>,
    figures: Figures,
    /// Recipients that were asked to come back later.
    met: BTreeSet<String>,
}

impl Ledger {
    pub(crate) fn connected(&self) {
        self.entries().figures.connections += 1;
    }

    pub(crate) fn read(&self, bytes: usize) {
        self.entries().figures.bytes += bytes as u64;
    }

    pub(crate) fn turned(&self) {
        self.entries().figures.turns += 1;
    }

    pub(crate) fn refused(&self) {
        self.entries().figures.refused += 1;
    }

    /// Whether this recipient comes for the first time.
    pub(crate) fn is_new(&self, recipient: &str) -> bool {
        self.entries().met.insert(recipient.to_owned())
    }

    pub(crate) fn accept(&self, message_id: &str, recipients: Vec<String>) {
        let at = Instant::now();
        let mut entries = self.entries();
        entries.figures.mails += 1;
        let mails =
            recipients.into_iter().map(|recipient| Accepted { message_id: message_id.to_owned(), recipient, at });
        entries.accepted.extend(mails);
    }

    pub(crate) fn accepted(&self) -> Vec<Accepted> {
        self.entries().accepted.clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.entries().accepted.len()
    }

    pub(crate) fn figures(&self) -> Figures {
        self.entries().figures
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
