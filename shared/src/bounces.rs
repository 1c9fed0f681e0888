//! Bounces: mails that a server took and that came back later, with a delivery status notification (RFC 3464).
//!
//! Anybody can write such a notification. It is believed where it names a mail of ours by its Message-ID, which nobody can
//! guess who has not seen that mail.

mod notification;

use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::smtp::{Failure, Phase, SmtpError};
use crate::suppressions::{self, Wanted};
use crate::verdict::{self, Verdict};

pub use notification::{Notification, Report};

/// What a report says about its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Meaning {
    /// It will never take mail.
    AddressForGood,
    /// The mail came back, but not for a fault of the address: its content, we, a full mailbox, the way.
    Other,
    /// Nothing is decided yet, or it failed for a reason that passes.
    Temporary,
    /// No failure at all.
    Delivered,
}

/// What a report led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The address gets no mail any more.
    Suppressed,
    /// That was so already.
    SuppressedBefore,
    /// The mail came back, but the address is not at fault and gets mail as before.
    Other,
    /// Ignored: nothing is decided, or it failed for a reason that passes.
    Temporary,
    /// Ignored: no failure.
    Delivered,
    /// Ignored: it names no mail of ours.
    Unknown,
}

impl Report {
    /// Judges the report as the same words would be judged when a server says them.
    pub fn meaning(&self) -> Meaning {
        match self.action.as_str() {
            "failed" => {}
            "delivered" | "relayed" | "expanded" => return Meaning::Delivered,
            _ => return Meaning::Temporary,
        }
        if self.status.as_deref().is_some_and(|status| !status.starts_with('5')) {
            return Meaning::Temporary;
        }
        let (code, words) = self.reply();
        match verdict::judge(&SmtpError { phase: Phase::Content, failure: Failure::Refused { code, text: words } }) {
            Verdict::RecipientForGood => Meaning::AddressForGood,
            Verdict::RecipientForNow | Verdict::Message | Verdict::Account | Verdict::Provider | Verdict::Unknown => {
                Meaning::Other
            }
        }
    }

    /// Basic code and words of the server that refused. Its enhanced code stands in front of them, unless it says nothing.
    fn reply(&self) -> (u16, String) {
        let words = self.diagnostic.as_deref().unwrap_or_default();
        let code = words.get(..3).and_then(|code| code.parse().ok()).filter(|code| (400..600).contains(code));
        let words = if code.is_some() { words[3..].trim_start_matches([' ', '-']) } else { words };
        let status = self.status.as_deref().filter(|status| !status.ends_with(".0.0")).unwrap_or_default();
        (code.unwrap_or(550), format!("{status} {words}").trim().to_owned())
    }

    /// The report in one line, for people.
    pub fn words(&self) -> String {
        match (&self.diagnostic, &self.status) {
            (Some(diagnostic), _) => diagnostic.clone(),
            (None, Some(status)) => format!("{} {status}", self.action),
            (None, None) => self.action.clone(),
        }
    }
}

/// Records one report of a notification: notes it on the mail that came back, which stays `sent`, and takes the address off
/// all mail where that is at fault. `believe_all` does so too where no mail of ours is named. A second time changes nothing.
pub async fn record(
    db: &mut PgConnection,
    notification: &Notification,
    report: &Report,
    believe_all: bool,
) -> Result<Outcome, sqlx::Error> {
    let meaning = report.meaning();
    match meaning {
        Meaning::Temporary => return Ok(Outcome::Temporary),
        Meaning::Delivered => return Ok(Outcome::Delivered),
        Meaning::AddressForGood | Meaning::Other => {}
    }
    let words = report.words();
    let mailed = match notification.public_id {
        Some(public_id) => note(db, public_id, &notification.addresses(report), &words).await?,
        None => None,
    };
    let named = report.original.as_ref().or(report.last.as_ref()).filter(|_| believe_all);
    let Some(address) = mailed.or_else(|| named.map(|address| address.normalised().to_owned())) else {
        return Ok(Outcome::Unknown);
    };
    if meaning == Meaning::Other {
        return Ok(Outcome::Other);
    }
    let wanted = Wanted { email_normalised: &address, list: "", reason: "bounced", note: Some(&words) };
    Ok(match suppressions::add_all(db, &[wanted]).await? {
        0 => Outcome::SuppressedBefore,
        _ => Outcome::Suppressed,
    })
}

/// Notes on the mail with this id, to one of these addresses, that it came back. Returns the address that it went to.
async fn note(
    db: &mut PgConnection,
    public_id: Uuid,
    addresses: &[String],
    words: &str,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"
        with named as (
            -- a single mail is found by its id, a campaign's by the address
            select id
            from nightshift.deliveries
            where public_id = $1
                and campaign_id is null
            union all
            select d.id
            from nightshift.campaigns c
            join nightshift.deliveries d on d.campaign_id = c.id and d.email_normalised = any($2)
            where d.public_id = $1
        )
        update nightshift.deliveries d
        set bounced_at = coalesce(bounced_at, now()),
            bounce = coalesce(bounce, $3)
        from named
        where d.id = named.id
        returning d.email_normalised
        "#,
        public_id,
        addresses,
        words,
    )
    .fetch_optional(db)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(action: &str, status: Option<&str>, diagnostic: Option<&str>) -> Meaning {
        Report {
            original: None,
            last: None,
            action: action.to_owned(),
            status: status.map(str::to_owned),
            diagnostic: diagnostic.map(str::to_owned),
        }
        .meaning()
    }

    #[test]
    fn only_the_fault_of_the_address_is_held_against_it() {
        for (status, diagnostic) in [
            (Some("5.1.1"), None),
            (Some("5.1.1"), Some("550 5.1.1 <bob@a.test>: Recipient address rejected")),
            (Some("5.0.0"), Some("550 no such user here")),
            (Some("5.0.0"), Some("550-5.1.1 The email account that you tried to reach does not exist.")),
            (None, Some("550 5.1.1 user unknown")),
            (Some("5.2.1"), Some("550 5.2.1 mailbox disabled")),
        ] {
            assert_eq!(report("failed", status, diagnostic), Meaning::AddressForGood, "{status:?} {diagnostic:?}");
        }
        for (status, diagnostic) in [
            (Some("5.7.1"), Some("554 5.7.1 message looks like spam")),
            (Some("5.2.2"), Some("552 5.2.2 mailbox full")),
            (Some("5.3.4"), None),
            (Some("5.7.26"), Some("550 5.7.26 unauthenticated mail")),
        ] {
            assert_eq!(report("failed", status, diagnostic), Meaning::Other, "{status:?} {diagnostic:?}");
        }
        assert_eq!(report("failed", Some("4.4.7"), None), Meaning::Temporary);
        assert_eq!(report("delayed", Some("4.2.2"), None), Meaning::Temporary);
        assert_eq!(report("relayed", Some("2.0.0"), None), Meaning::Delivered);
    }
}
