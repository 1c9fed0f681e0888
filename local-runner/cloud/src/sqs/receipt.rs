//! Receipt handles: opaque to clients, to us the queue, the message and a number that makes each receive's handle its own.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Fault, Result};

/// What a receipt handle says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Receipt {
    pub(super) message_id: String,
}

impl Receipt {
    /// A handle that differs from all others of the same message.
    pub(super) fn issue(queue: &str, message_id: &str) -> String {
        STANDARD.encode(format!("{queue} {message_id} {:016x}", rand::random::<u64>()))
    }

    /// Reads a handle that was issued for a message of `queue`, now or earlier.
    pub(super) fn read(queue: &str, handle: &str) -> Result<Self> {
        let parts = STANDARD.decode(handle).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let mut parts = parts.iter().flat_map(|text| text.split(' '));
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(of), Some(id), Some(_), None) if uuid::Uuid::try_parse(id).is_ok() => {
                if of == queue {
                    Ok(Self { message_id: id.to_owned() })
                } else {
                    Err(Fault::ReceiptHandleIsInvalid
                        .because(format!("The receipt handle \"{handle}\" is not valid for this queue.")))
                }
            }
            _ => Err(Fault::ReceiptHandleIsInvalid
                .because(format!("The input receipt handle \"{handle}\" is not a valid receipt handle."))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_receives_of_a_message_give_two_handles_that_both_name_it() {
        let id = uuid::Uuid::new_v4().to_string();
        let (first, second) = (Receipt::issue("mail", &id), Receipt::issue("mail", &id));
        assert_ne!(first, second);
        for handle in [first, second] {
            assert_eq!(Receipt::read("mail", &handle).expect("just issued").message_id, id);
            assert!(Receipt::read("other", &handle).is_err());
        }
    }

    #[test]
    fn what_was_never_a_handle_is_refused() {
        for handle in ["", "garbage", "Z2FyYmFnZQ==", "bWFpbCB4IHk="] {
            assert!(Receipt::read("mail", handle).is_err(), "{handle}");
        }
    }
}
