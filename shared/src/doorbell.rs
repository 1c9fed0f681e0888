//! Messages between functions. A message is a doorbell: the work is a row, the message only says that it is there.
//! It may be lost, doubled or late without harm, so it carries an id and nothing else.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What a queue message may say. Variants are only ever added: older ones may still be in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Doorbell {
    /// Queue `campaigns`: a campaign is due for planning, or was resumed.
    #[serde(rename = "campaign.v1")]
    Campaign {
        /// Row in `nightshift.campaigns`.
        campaign_id: i64,
    },
    /// Queue `campaigns`: what was held back may leave again, such as after a limit was raised.
    #[serde(rename = "dispatch.v1")]
    Dispatch,
    /// Queues `email` (a campaign's) and `transactional` (a single mail's): a batch has something to send.
    #[serde(rename = "batch.v1")]
    Batch {
        /// Row in `nightshift.batches`.
        batch_id: i64,
    },
    /// Queue `transactional`: a single mail was made.
    #[serde(rename = "mail.v1")]
    Mail {
        /// Of the row in `nightshift.deliveries`.
        public_id: Uuid,
    },
}

impl Doorbell {
    /// The message body.
    pub fn to_body(self) -> String {
        serde_json::to_string(&self).expect("a tagged id always serialises")
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::Doorbell;

    /// Bodies as they may lie in a queue while a new version is deployed. Add lines, never change one.
    #[test]
    fn bodies_of_every_version_still_read() {
        for (body, doorbell) in [
            (r#"{"type":"campaign.v1","campaign_id":7}"#, Doorbell::Campaign { campaign_id: 7 }),
            (r#"{"type":"dispatch.v1"}"#, Doorbell::Dispatch),
            (r#"{"type":"batch.v1","batch_id":42}"#, Doorbell::Batch { batch_id: 42 }),
            (
                r#"{"type":"mail.v1","public_id":"00000000-0000-0000-0000-000000000007"}"#,
                Doorbell::Mail { public_id: Uuid::from_u128(7) },
            ),
        ] {
            assert_eq!(serde_json::from_str::<Doorbell>(body).expect(body), doorbell);
            assert_eq!(doorbell.to_body(), body);
        }
    }
}
