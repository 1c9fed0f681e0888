//! HTTP on a wire: one kind of request is the effect, and the first bytes that come back are its answer.

use super::Side;
use super::line::Protocol;

pub(super) struct Http {
    effect: &'static str,
    is_effect: fn(&str) -> bool,
    unanswered: bool,
}

impl Http {
    /// Sending messages is a ring.
    pub(super) fn queues() -> Self {
        let is_effect = |head: &str| head.contains("amazonsqs.sendmessage");
        Self { effect: "ring", is_effect, unanswered: false }
    }

    /// A function's answer to an event acknowledges its message.
    pub(super) fn runtime() -> Self {
        let is_effect = |head: &str| head.starts_with("post /2018-06-01/runtime/invocation/");
        Self { effect: "acknowledgement", is_effect, unanswered: false }
    }
}

impl Protocol for Http {
    fn see(&mut self, side: Side, bytes: &[u8]) -> Option<String> {
        let seen = match side {
            Side::Sent => {
                // The target stands in a header, and requests here are small: one read has the whole head.
                let head = &bytes[..bytes.len().min(4096)];
                let matches = (self.is_effect)(&String::from_utf8_lossy(head).to_ascii_lowercase());
                self.unanswered |= matches;
                matches
            }
            Side::Answered => std::mem::take(&mut self.unanswered),
        };
        seen.then(|| self.effect.to_owned())
    }
}
