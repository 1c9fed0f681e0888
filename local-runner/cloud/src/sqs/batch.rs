//! Batches: rules for the whole, and an answer per entry.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{Fault, Result, SqsError};

const MAX_ENTRIES: usize = 10;

/// Refuses batches that are empty or too large, and ids that are malformed or doubled. `entry` is the model's name of an entry.
pub(super) fn check<'a>(entry: &str, ids: impl ExactSizeIterator<Item = &'a str>) -> Result<()> {
    if ids.len() == 0 {
        return Err(Fault::EmptyBatchRequest.because(format!("There should be at least one {entry} in the request.")));
    }
    if ids.len() > MAX_ENTRIES {
        return Err(Fault::TooManyEntriesInBatchRequest.because(format!(
            "Maximum number of entries per request are {MAX_ENTRIES}. You have sent {}.",
            ids.len()
        )));
    }
    let mut seen = HashSet::new();
    for id in ids {
        let letters = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if !(1..=80).contains(&id.len()) || !id.chars().all(letters) {
            return Err(Fault::InvalidBatchEntryId.because(
                "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can be at most 80 letters long.",
            ));
        }
        if !seen.insert(id) {
            return Err(Fault::BatchEntryIdsNotDistinct.because(format!("Id {id} repeated.")));
        }
    }
    Ok(())
}

/// What became of the entries; a list without entries is left out, as AWS does.
#[derive(Default)]
pub(super) struct Answer {
    successful: Vec<Value>,
    failed: Vec<Value>,
}

impl Answer {
    pub(super) fn success(&mut self, entry: Value) {
        self.successful.push(entry);
    }

    /// Refusals belong to the entry; everything else is returned, since it concerns the whole request.
    pub(super) fn failure(&mut self, id: &str, error: SqsError) -> Result<()> {
        match error {
            SqsError::Refused { fault, message } => {
                // AWS's word for a missing parameter inside a batch.
                let fault = if fault == Fault::MissingParameter { Fault::InvalidParameterValue } else { fault };
                self.failed.push(json!({"Id": id, "SenderFault": true, "Code": fault.code(), "Message": message}));
                Ok(())
            }
            other => Err(other),
        }
    }

    pub(super) fn into_json(self) -> Value {
        let mut answer = serde_json::Map::new();
        for (name, entries) in [("Successful", self.successful), ("Failed", self.failed)] {
            if !entries.is_empty() {
                answer.insert(name.to_owned(), entries.into());
            }
        }
        answer.into()
    }
}
