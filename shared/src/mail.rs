//! The mail itself: headers, text and HTML part, and what makes it the same mail when it is sent again.

use anyhow::{Context, Result};
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::{Address, Message};
use uuid::Uuid;

use crate::accounts::Account;
use crate::address::{EmailAddress, domain_of};
use crate::smtp::Envelope;
use crate::template::Rendered;

/// What every mail of an account has in common, parsed once.
#[derive(Debug, Clone)]
pub struct Sender {
    from: Mailbox,
    reply_to: Option<Mailbox>,
    /// Domain of `From`, right part of every Message-ID.
    domain: String,
}

/// A mail ready for the wire.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Who it is from and for.
    pub envelope: Envelope,
    /// Headers and body.
    pub content: String,
}

impl Sender {
    /// Parses the account's addresses.
    pub fn of(account: &Account) -> Result<Self> {
        let from =
            address(&account.from_email).with_context(|| format!("from address of SMTP account {}", account.name))?;
        if account.from_name.as_deref().is_some_and(|name| name.contains(char::is_control)) {
            anyhow::bail!(
                "the from name of SMTP account {} holds a line break or another control character",
                account.name
            );
        }
        let reply_to = account
            .reply_to
            .as_deref()
            .map(address)
            .transpose()
            .with_context(|| format!("reply-to address of SMTP account {}", account.name))?;
        Ok(Self {
            domain: domain_of(from.as_ref()).to_owned(),
            from: Mailbox::new(account.from_name.clone(), from),
            reply_to: reply_to.map(|address| Mailbox::new(None, address)),
        })
    }

    /// The Message-ID of a delivery: the same at every attempt, so that a mail sent again can be recognised as such.
    pub fn message_id(&self, public_id: Uuid) -> String {
        format!("<{public_id}@{}>", self.domain)
    }

    /// Builds the mail. `unsubscribe` is the link of RFC 8058's one-click headers.
    pub fn compose(
        &self,
        to: &EmailAddress,
        public_id: Uuid,
        rendered: Rendered,
        unsubscribe: Option<&str>,
    ) -> Result<Outgoing> {
        let recipient = address(to.as_given())?;
        let mut builder = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, recipient.clone()))
            .subject(rendered.subject)
            .message_id(Some(self.message_id(public_id)));
        if let Some(reply_to) = &self.reply_to {
            builder = builder.reply_to(reply_to.clone());
        }
        if let Some(link) = unsubscribe {
            builder = builder
                .raw_header(header("List-Unsubscribe", format!("<{link}>")))
                .raw_header(header("List-Unsubscribe-Post", "List-Unsubscribe=One-Click".to_owned()));
        }
        let message = builder
            .multipart(
                MultiPart::alternative()
                    .singlepart(SinglePart::plain(rendered.text))
                    .singlepart(SinglePart::html(rendered.html)),
            )
            .context("compose the mail")?;
        Ok(Outgoing {
            envelope: Envelope { from: self.from.email.clone(), to: recipient },
            content: String::from_utf8(message.formatted()).context("compose the mail")?,
        })
    }
}

/// The address on the wire: mailbox name as given, domain in its ASCII form.
fn address(text: &str) -> Result<Address> {
    let parsed: EmailAddress = text.parse().with_context(|| format!("address {text:?}"))?;
    let local = parsed.as_given().rsplit_once('@').map_or("", |(local, _)| local);
    Address::new(local, parsed.domain()).with_context(|| format!("address {text:?}"))
}

fn header(name: &'static str, value: String) -> HeaderValue {
    // Links and fixed words are ASCII and stand as they are: a folded or encoded link is no link.
    HeaderValue::dangerous_new_pre_encoded(HeaderName::new_from_ascii_str(name), value.clone(), value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::Security;
    use crate::smtp::Manners;

    fn sender() -> Sender {
        Sender::of(&Account {
            id: 1,
            name: "news".to_owned(),
            host: "localhost".to_owned(),
            port: 25,
            security: Security::Plain,
            credentials: None,
            from_email: "news@почта.рф".to_owned(),
            from_name: Some("Новости, \"GmbH\"".to_owned()),
            reply_to: None,
            max_connections: 1,
            paused_until: None,
            manners: Manners::default(),
        })
        .expect("sender")
    }

    #[test]
    fn a_mail_reads_back_as_it_was_meant() {
        let id = Uuid::from_u128(7);
        let rendered = Rendered {
            subject: "Привет, Ann – 50 % 🎉".to_owned(),
            html: "<p>Grüße</p>".to_owned(),
            text: "Grüße\n.\nund ein Punkt".to_owned(),
        };
        let to = "Ann@Example.TEST".parse().expect("address");
        let link = "https://example.test/unsubscribe/".to_owned() + &"x".repeat(200);
        let mail = sender().compose(&to, id, rendered, Some(&link)).expect("mail");

        let parsed = mail_parser::MessageParser::default().parse(&mail.content).expect("parses");
        assert_eq!(parsed.subject(), Some("Привет, Ann – 50 % 🎉"));
        assert_eq!(parsed.message_id(), Some("00000000-0000-0000-0000-000000000007@xn--80a1acny.xn--p1ai"));
        assert_eq!(parsed.body_html(0).as_deref(), Some("<p>Grüße</p>"));
        assert_eq!(
            parsed.body_text(0).as_deref().map(|text| text.replace("\r\n", "\n")),
            Some("Grüße\n.\nund ein Punkt".to_owned())
        );
        let from = parsed.from().and_then(|from| from.first()).expect("from");
        assert_eq!(from.name(), Some("Новости, \"GmbH\""));
        let text = &mail.content;
        assert!(text.contains(&format!("List-Unsubscribe: <{link}>\r\n")), "{text}");
        assert!(text.contains("List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"), "{text}");
        assert!(mail.content.is_ascii());
        assert_eq!(mail.envelope.to.to_string(), "Ann@example.test");
    }
}
