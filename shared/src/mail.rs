//! The mail itself: headers, text and HTML part, and what makes it the same mail when it is sent again.

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result};
use lettre::message::header::{ContentTransferEncoding, ContentType};
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{self, Body, Mailbox, MultiPart, SinglePart};
use lettre::{Address, Message};
use uuid::Uuid;

use crate::accounts::Account;
use crate::address::{EmailAddress, domain_of};
use crate::dkim::{self, Signer};
use crate::smtp::Envelope;
use crate::template::Rendered;

/// What every mail of an account has in common, parsed once.
#[derive(Debug, Clone)]
pub struct Sender {
    from: Mailbox,
    reply_to: Option<Mailbox>,
    /// Domain of `From`, right part of every Message-ID.
    domain: String,
    signers: Vec<Arc<Signer>>,
}

/// A mail ready for the wire.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Who it is from and for.
    pub envelope: Envelope,
    /// Headers and body.
    pub content: String,
}

/// What not every mail has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extras<'a> {
    /// The link of RFC 8058's one-click headers.
    pub unsubscribe: Option<&'a str>,
    /// Instead of the account's.
    pub reply_to: Option<&'a str>,
    /// Files that go with it.
    pub attachments: &'a [Attachment],
}

/// A file that goes with a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// File name that the recipient sees.
    pub name: String,
    /// As it stands in `Content-Type`, parameters and all.
    pub content_type: String,
    /// The file.
    pub content: Vec<u8>,
}

fn with_files(body: MultiPart, files: &[Attachment]) -> Result<MultiPart> {
    files.iter().try_fold(body, |mail, file| Ok(mail.singlepart(file.part()?)))
}

impl Attachment {
    fn part(&self) -> Result<SinglePart> {
        let content_type = ContentType::parse(&self.content_type)
            .with_context(|| format!("content type {:?} of attachment {}", self.content_type, self.name))?;
        // Base64 whatever is in it: the file arrives byte by byte as it was, line ends and all.
        let body = Body::new_with_encoding(self.content.clone(), ContentTransferEncoding::Base64)
            .map_err(|_| anyhow::anyhow!("attachment {} cannot be encoded", self.name))?;
        Ok(message::Attachment::new(self.name.clone()).body(body, content_type))
    }
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
            signers: vec![],
        })
    }

    /// The same, its mail signed (DKIM).
    #[must_use]
    pub fn signed_by(self, signers: Vec<Arc<Signer>>) -> Self {
        Self { signers, ..self }
    }

    /// The Message-ID of a delivery: the same at every attempt, so that a mail sent again can be recognised as such.
    pub fn message_id(&self, public_id: Uuid) -> String {
        format!("<{public_id}@{}>", self.domain)
    }

    /// Builds the mail.
    pub fn compose(
        &self,
        to: &EmailAddress,
        public_id: Uuid,
        rendered: Rendered,
        extras: Extras<'_>,
    ) -> Result<Outgoing> {
        let recipient = address(to.as_given())?;
        let date = SystemTime::now();
        let mut builder = Message::builder()
            .date(date)
            .from(self.from.clone())
            .to(Mailbox::new(None, recipient.clone()))
            .subject(rendered.subject)
            .message_id(Some(self.message_id(public_id)));
        let reply_to = match extras.reply_to {
            Some(own) => Some(Mailbox::new(None, address(own).context("reply-to address")?)),
            None => self.reply_to.clone(),
        };
        if let Some(reply_to) = reply_to {
            builder = builder.reply_to(reply_to);
        }
        if let Some(link) = extras.unsubscribe {
            builder = builder
                .raw_header(header("List-Unsubscribe", format!("<{link}>")))
                .raw_header(header("List-Unsubscribe-Post", "List-Unsubscribe=One-Click".to_owned()));
        }
        let text = SinglePart::plain(rendered.text);
        let both = |text, html| MultiPart::alternative().singlepart(text).singlepart(SinglePart::html(html));
        let message = match (rendered.html, extras.attachments) {
            (None, []) => builder.singlepart(text),
            (Some(html), []) => builder.multipart(both(text, html)),
            (None, files) => builder.multipart(with_files(MultiPart::mixed().singlepart(text), files)?),
            (Some(html), files) => {
                builder.multipart(with_files(MultiPart::mixed().multipart(both(text, html)), files)?)
            }
        }
        .context("compose the mail")?;
        let mut content = String::from_utf8(message.formatted()).context("compose the mail")?;
        if !self.signers.is_empty() {
            let signatures = dkim::signatures(self.signers.iter().map(Arc::as_ref), &content, date.into());
            content.insert_str(0, &signatures);
        }
        Ok(Outgoing { envelope: Envelope { from: self.from.email.clone(), to: recipient }, content })
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
            html: Some("<p>Grüße</p>".to_owned()),
            text: "Grüße\n.\nund ein Punkt".to_owned(),
        };
        let to = "Ann@Example.TEST".parse().expect("address");
        let link = "https://example.test/unsubscribe/".to_owned() + &"x".repeat(200);
        let mail = sender()
            .compose(&to, id, rendered, Extras { unsubscribe: Some(&link), ..Extras::default() })
            .expect("mail");

        let parsed = mail_parser::MessageParser::default().parse(mail.content.as_bytes()).expect("parses");
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

    #[test]
    fn attachments_arrive_byte_by_byte_beside_a_text_alone() {
        let files = [
            Attachment {
                name: "Приглашение.ics".to_owned(),
                content_type: "text/calendar; method=REQUEST; charset=utf-8".to_owned(),
                content: b"BEGIN:VCALENDAR\nno carriage return here\r\n.\r\n".to_vec(),
            },
            Attachment {
                name: "all.bin".to_owned(),
                content_type: "application/octet-stream".to_owned(),
                content: (0..=255).cycle().take(5000).collect(),
            },
        ];
        let rendered = Rendered { subject: "Files".to_owned(), html: None, text: "Two files\n".to_owned() };
        let to = "ann@example.test".parse().expect("address");
        let extras = Extras { attachments: &files, reply_to: Some("desk@example.test"), ..Extras::default() };
        let mail = sender().compose(&to, Uuid::from_u128(7), rendered, extras).expect("mail");

        let parsed = mail_parser::MessageParser::default().parse(mail.content.as_bytes()).expect("parses");
        assert_eq!(parsed.body_text(0).as_deref().map(str::trim), Some("Two files"));
        assert_eq!(parsed.html_body_count(), 1, "the text alone stands for both");
        let contents: Vec<&[u8]> = parsed.attachments().map(mail_parser::MessagePart::contents).collect();
        assert_eq!(contents, [files[0].content.as_slice(), &files[1].content]);
        let text = &mail.content;
        assert!(text.contains("Content-Type: text/calendar; method=REQUEST; charset=utf-8"), "{text}");
        assert!(text.contains("Reply-To: desk@example.test"), "{text}");
    }
}
