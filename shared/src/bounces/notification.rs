//! A delivery status notification, taken apart.

use mail_parser::{HeaderValue, Message, MessageParser, MimeHeaders, PartType};
use uuid::Uuid;

use crate::address::EmailAddress;

/// A notification about one mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// What could be the left part of one of our Message-IDs, from the headers of the mail that came back.
    pub public_id: Option<Uuid>,
    /// `To` of the mail that came back.
    pub to: Option<EmailAddress>,
    /// What became of it, for each of its recipients.
    pub reports: Vec<Report>,
}

/// What became of a mail for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The address as the sender wrote it, where the server says it.
    pub original: Option<EmailAddress>,
    /// The address at which it ended, which may be another after forwarding.
    pub last: Option<EmailAddress>,
    /// `failed`, `delayed`, `delivered`, `relayed` or `expanded`.
    pub action: String,
    /// Enhanced status code (RFC 3463).
    pub status: Option<String>,
    /// The words of the server that refused.
    pub diagnostic: Option<String>,
}

impl Notification {
    /// Reads a mail; `None` when it is no notification.
    pub fn parse(mail: &[u8]) -> Option<Self> {
        let message = MessageParser::default().parse(mail)?;
        let is = |part: &mail_parser::MessagePart<'_>, types: [(&str, &str); 2]| {
            part.content_type().is_some_and(|of_part| {
                types.iter().any(|(kind, subtype)| {
                    of_part.ctype().eq_ignore_ascii_case(kind)
                        && of_part.subtype().is_some_and(|of_part| of_part.eq_ignore_ascii_case(subtype))
                })
            })
        };
        let status = message
            .parts
            .iter()
            .find(|part| is(part, [("message", "delivery-status"), ("message", "global-delivery-status")]))?;
        let reports = reports(&String::from_utf8_lossy(status.contents()));
        let returned = message.parts.iter().find_map(|part| match &part.body {
            PartType::Message(mail) => Some(headers(mail)),
            _ if is(part, [("text", "rfc822-headers"), ("message", "global-headers")]) => {
                // The line end of the last header belongs to the boundary.
                let headers_alone = [part.contents(), b"\r\n\r\n"].concat();
                MessageParser::default().parse(&headers_alone).as_ref().map(headers)
            }
            _ => None,
        });
        let (public_id, to) = returned.unwrap_or_default();
        Some(Self { public_id, to, reports })
    }

    /// The addresses that the mail may have gone to, normalised.
    pub(super) fn addresses(&self, report: &Report) -> Vec<String> {
        let known = [&report.original, &report.last, &self.to];
        known.into_iter().flatten().map(|address| address.normalised().to_owned()).collect()
    }
}

/// Our id and the recipient of the mail that came back.
fn headers(mail: &Message<'_>) -> (Option<Uuid>, Option<EmailAddress>) {
    let public_id = mail.message_id().and_then(|id| id.split_once('@')).and_then(|(left, _)| left.parse().ok());
    let to = match mail.header("To") {
        Some(HeaderValue::Address(to)) => to.first().and_then(|to| to.address()).and_then(|to| to.parse().ok()),
        _ => None,
    };
    (public_id, to)
}

/// The groups of fields that speak of a recipient; the first group is about the mail as a whole.
fn reports(text: &str) -> Vec<Report> {
    let text = text.replace("\r\n", "\n");
    text.split("\n\n")
        .filter_map(|group| {
            // Folded lines are put together again.
            let group = group.replace("\n ", " ").replace("\n\t", " ");
            let field = |name: &str| {
                group.lines().find_map(|line| {
                    let (of_line, value) = line.split_once(':')?;
                    of_line.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
                })
            };
            let action = field("Action")?.to_ascii_lowercase();
            Some(Report {
                original: field("Original-Recipient").and_then(|value| address(&value)),
                last: field("Final-Recipient").and_then(|value| address(&value)),
                action: action.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default().to_owned(),
                status: field("Status").and_then(|value| value.split_whitespace().next().map(str::to_owned)),
                diagnostic: field("Diagnostic-Code")
                    .map(|value| without_type(&value).split_whitespace().collect::<Vec<_>>().join(" ")),
            })
        })
        .collect()
}

/// `rfc822; ann@example.org`, also with the angle brackets that some write.
fn address(value: &str) -> Option<EmailAddress> {
    without_type(value).trim_matches(['<', '>', ' ']).parse().ok()
}

fn without_type(value: &str) -> &str {
    value.split_once(';').map_or(value, |(_, rest)| rest).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNCE: &str = "From: MAILER-DAEMON@mx.test\r\n\
        To: news@example.test\r\n\
        Subject: Undelivered Mail Returned to Sender\r\n\
        MIME-Version: 1.0\r\n\
        Content-Type: multipart/report; report-type=delivery-status; boundary=\"b\"\r\n\
        \r\n\
        --b\r\n\
        Content-Type: text/plain\r\n\
        \r\n\
        I'm sorry to have to inform you …\r\n\
        --b\r\n\
        Content-Type: message/delivery-status\r\n\
        \r\n\
        Reporting-MTA: dns; mx.test\r\n\
        \r\n\
        Final-Recipient: rfc822; bob@b.test\r\n\
        Original-Recipient: rfc822;Ann@A.test\r\n\
        Action: failed\r\n\
        Status: 5.1.1\r\n\
        Diagnostic-Code: smtp; 550 5.1.1 <bob@b.test>:\r\n\
        \x20   User unknown\r\n\
        \r\n\
        Final-Recipient: rfc822; cid@b.test\r\n\
        Action: delayed (will retry)\r\n\
        Status: 4.2.2 (mailbox full)\r\n\
        \r\n\
        --b\r\n";
    const WHOLE: &str = "Content-Type: message/rfc822\r\n\
        \r\n\
        From: news@example.test\r\n\
        To: ann@a.test\r\n\
        Message-ID: <00000000-0000-0000-0000-000000000007@example.test>\r\n\
        \r\n\
        Hello\r\n\
        --b--\r\n";
    const HEADERS: &str = "Content-Type: text/rfc822-headers\r\n\
        \r\n\
        To: ann@a.test\r\n\
        Message-Id: <00000000-0000-0000-0000-000000000007@example.test>\r\n\
        --b--\r\n";

    #[test]
    fn a_notification_names_the_mail_and_what_became_of_it() {
        for returned in [WHOLE, HEADERS] {
            let notification = Notification::parse(format!("{BOUNCE}{returned}").as_bytes()).expect("a notification");
            assert_eq!(notification.public_id, Some(Uuid::from_u128(7)), "{returned}");
            assert_eq!(notification.to, "ann@a.test".parse().ok());
            let [failed, delayed] = notification.reports.as_slice() else { panic!("{notification:?}") };
            assert_eq!(failed.action, "failed");
            assert_eq!(failed.status.as_deref(), Some("5.1.1"));
            assert_eq!(failed.diagnostic.as_deref(), Some("550 5.1.1 <bob@b.test>: User unknown"));
            assert_eq!(notification.addresses(failed), ["ann@a.test", "bob@b.test", "ann@a.test"]);
            assert_eq!((delayed.action.as_str(), delayed.status.as_deref()), ("delayed", Some("4.2.2")));
        }
    }

    #[test]
    fn another_mail_is_no_notification() {
        assert_eq!(Notification::parse(b"From: ann@a.test\r\nSubject: Status: 5.1.1\r\n\r\nAction: failed\r\n"), None);
        assert_eq!(Notification::parse(b""), None);
    }

    #[test]
    fn a_notification_without_the_mail_has_reports_alone() {
        let notification = Notification::parse(format!("{BOUNCE}-").as_bytes()).expect("a notification");
        assert_eq!((notification.public_id, notification.to), (None, None));
        assert_eq!(notification.reports.len(), 2);
    }
}
