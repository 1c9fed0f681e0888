//! Postgres' protocol on a wire: what commits is an effect, be it a COMMIT or a statement that writes outside of a
//! transaction.

use std::collections::BTreeMap;

use super::Side;
use super::line::Protocol;

/// `SSLRequest`, answered by a single byte.
const SSL_REQUEST: u32 = 80_877_103;

#[derive(Default)]
pub(super) struct Postgres {
    sent: Vec<u8>,
    answered: Vec<u8>,
    /// The first message that is no `SSLRequest` has passed; from then on messages carry a type.
    started: bool,
    /// Single bytes that answer an `SSLRequest`.
    single_bytes: usize,
    in_transaction: bool,
    /// Prepared statements that write, by name.
    writes: BTreeMap<Vec<u8>, bool>,
    /// The statement that was bound last writes.
    bound_writes: bool,
    /// A statement that writes by itself was executed since the last `Sync`.
    executed: bool,
}

impl Protocol for Postgres {
    fn see(&mut self, side: Side, bytes: &[u8]) -> Option<String> {
        let mut seen = None;
        match side {
            Side::Sent => {
                self.sent.extend_from_slice(bytes);
                while let Some(message) = self.next_sent() {
                    seen = self.sends(&message).or(seen);
                }
            }
            Side::Answered => {
                self.answered.extend_from_slice(bytes);
                let single = self.single_bytes.min(self.answered.len());
                self.answered.drain(..single);
                self.single_bytes -= single;
                while let Some(message) = take(&mut self.answered, 1) {
                    seen = self.answers(&message).or(seen);
                }
            }
        }
        seen.map(str::to_owned)
    }
}

impl Postgres {
    fn next_sent(&mut self) -> Option<Vec<u8>> {
        if self.started {
            return take(&mut self.sent, 1);
        }
        let message = take(&mut self.sent, 0)?;
        if message.get(4..8) == Some(SSL_REQUEST.to_be_bytes().as_slice()) {
            self.single_bytes += 1;
        } else {
            self.started = true;
        }
        Some(vec![])
    }

    fn sends(&mut self, message: &[u8]) -> Option<&'static str> {
        let (kind, body) = (message.first()?, message.get(5..)?);
        match kind {
            b'Q' => {
                let query = String::from_utf8_lossy(body).trim().to_ascii_uppercase();
                let commits = query.starts_with("COMMIT");
                if query.starts_with("BEGIN") {
                    self.in_transaction = true;
                } else if commits || query.starts_with("ROLLBACK") {
                    self.in_transaction = false;
                }
                commits.then_some("commit")
            }
            b'P' => {
                let mut strings = body.split(|&byte| byte == 0);
                let name = strings.next()?.to_vec();
                let query = String::from_utf8_lossy(strings.next()?).trim().to_ascii_lowercase();
                self.writes.insert(name, !query.starts_with("select"));
                None
            }
            b'B' => {
                let statement = body.split(|&byte| byte == 0).nth(1)?;
                self.bound_writes = self.writes.get(statement).copied().unwrap_or_default();
                None
            }
            b'E' => {
                self.executed |= self.bound_writes && !self.in_transaction;
                None
            }
            b'S' => std::mem::take(&mut self.executed).then_some("write"),
            _ => None,
        }
    }

    fn answers(&mut self, message: &[u8]) -> Option<&'static str> {
        if message.first() != Some(&b'C') {
            return None;
        }
        let tag = message.get(5..)?;
        if tag.starts_with(b"COMMIT") {
            Some("commit")
        } else if self.bound_writes && !self.in_transaction && !tag.starts_with(b"ROLLBACK") {
            Some("write")
        } else {
            None
        }
    }
}

/// Takes a whole message off the front: `kind` bytes of type, then its length, which counts itself.
fn take(buffer: &mut Vec<u8>, kind: usize) -> Option<Vec<u8>> {
    let length = buffer.get(kind..kind + 4)?;
    let length = u32::from_be_bytes(length.try_into().ok()?) as usize + kind;
    (buffer.len() >= length).then(|| buffer.drain(..length).collect())
}
