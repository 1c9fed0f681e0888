//! Mail templates: merge fields in subject, HTML and text. A field that is not there is an error, never an empty string.

use std::collections::BTreeSet;

use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde::Serialize;
use serde_json::Value;

use crate::address::EmailAddress;

const SUBJECT: &str = "subject";
const HTML: &str = "mail.html";
const TEXT: &str = "mail.txt";

/// Names that every mail knows without a column in the recipients file.
pub const BUILT_IN_FIELDS: [&str; 2] = ["email", "unsubscribe_url"];

/// The recipient's fields and the built-in ones. A mail without an unsubscribe link has no field for it either, so that
/// a template which shows one is refused.
pub fn with_built_in(fields: &Value, to: &EmailAddress, unsubscribe_url: Option<&str>) -> Value {
    let mut fields = fields.clone();
    if let Some(fields) = fields.as_object_mut() {
        fields.insert("email".to_owned(), to.as_given().into());
        if let Some(link) = unsubscribe_url {
            fields.insert("unsubscribe_url".to_owned(), link.into());
        }
    }
    fields
}

/// Characters of a subject, before its fields are filled in.
const MAX_SUBJECT: usize = 998;

/// A template that cannot be used, or a recipient it cannot be rendered for.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// A part does not parse.
    #[error("{part}, line {line}: {problem}")]
    Syntax {
        /// Subject, HTML or text.
        part: &'static str,
        /// Line within the part, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A subject that no mailbox shows and some servers refuse (RFC 5322, 2.1.1: a line has 998 characters at most).
    #[error("the subject is {0} characters long; {MAX_SUBJECT} are allowed")]
    LongSubject(usize),
    /// There is nothing to read.
    #[error("the mail is empty: neither HTML nor text says anything")]
    Empty,
    /// A part cannot be rendered with the given fields.
    #[error("{part}, line {line}: {problem}")]
    Render {
        /// Subject, HTML or text.
        part: &'static str,
        /// Line within the part, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// The HTML cannot be turned into text.
    #[error("no text part can be made from the HTML ({0}); give one with --text")]
    NoText(String),
}

/// A mail's three parts with their fields filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// One line.
    pub subject: String,
    /// HTML part, where there is one.
    pub html: Option<String>,
    /// Text part.
    pub text: String,
}

/// Subject, HTML and text of a campaign, parsed.
#[derive(Debug)]
pub struct MailTemplate {
    environment: Environment<'static>,
}

impl MailTemplate {
    /// Parses the three parts. Values are escaped in the HTML part only.
    pub fn parse(subject: &str, html: &str, text: &str) -> Result<Self, TemplateError> {
        if subject.chars().count() > MAX_SUBJECT {
            return Err(TemplateError::LongSubject(subject.chars().count()));
        }
        if html.trim().is_empty() && text.trim().is_empty() {
            return Err(TemplateError::Empty);
        }
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|name| if name == HTML { AutoEscape::Html } else { AutoEscape::None });
        for (name, source) in [(SUBJECT, subject), (HTML, html), (TEXT, text)] {
            environment.add_template_owned(name, source.to_owned()).map_err(|error| TemplateError::Syntax {
                part: part(name),
                line: error.line().unwrap_or(1),
                problem: problem(&error),
            })?;
        }
        Ok(Self { environment })
    }

    /// The fields it uses, without the built-in ones.
    pub fn fields(&self) -> BTreeSet<String> {
        [SUBJECT, HTML, TEXT]
            .into_iter()
            .filter_map(|name| self.environment.get_template(name).ok())
            .flat_map(|template| template.undeclared_variables(false))
            .filter(|field| !BUILT_IN_FIELDS.contains(&field.as_str()))
            .collect()
    }

    /// Fills the fields in.
    pub fn render(&self, fields: &impl Serialize) -> Result<Rendered, TemplateError> {
        let fields = minijinja::Value::from(minijinja::value::Serde(fields));
        let part = |name: &'static str| {
            self.environment.get_template(name).and_then(|template| template.render(&fields)).map_err(|error| {
                TemplateError::Render { part: part(name), line: error.line().unwrap_or(1), problem: problem(&error) }
            })
        };
        let subject = part(SUBJECT)?;
        Ok(Rendered {
            // A line feed in a field must not become a header of its own.
            subject: subject.split(char::is_control).collect::<Vec<_>>().join(" ").trim().to_owned(),
            html: Some(part(HTML)?),
            text: part(TEXT)?,
        })
    }
}

fn part(name: &str) -> &'static str {
    match name {
        SUBJECT => "subject",
        HTML => "HTML part",
        _ => "text part",
    }
}

fn problem(error: &minijinja::Error) -> String {
    match error.kind() {
        minijinja::ErrorKind::UndefinedError => "a field that this recipient does not have".to_owned(),
        kind => error.detail().map_or_else(|| kind.to_string(), str::to_owned),
    }
}

/// Makes a text template from an HTML one: tags become line breaks, links become footnotes, entities characters, and
/// merge fields stay as they are.
pub fn text_from_html(html: &str) -> Result<String, TemplateError> {
    // Template tags travel through the HTML parser as two private characters around a number, so that neither their
    // quotes nor their length confuse it.
    let (mut shielded, mut tags, mut rest) = (String::with_capacity(html.len()), vec![], html);
    while let Some(start) = rest.find("{{").into_iter().chain(rest.find("{%")).chain(rest.find("{#")).min() {
        let close = match &rest[start..start + 2] {
            "{{" => "}}",
            "{%" => "%}",
            _ => "#}",
        };
        let Some(length) = rest[start..].find(close) else { break };
        let end = start + length + close.len();
        shielded.push_str(&rest[..start]);
        shielded.push_str(&format!("\u{E000}{}\u{E001}", tags.len()));
        tags.push(&rest[start..end]);
        rest = &rest[end..];
    }
    shielded.push_str(rest);

    let text = html2text::config::plain()
        .string_from_read(shielded.as_bytes(), 78)
        .map_err(|error| TemplateError::NoText(error.to_string()))?;

    let mut restored = String::with_capacity(text.len());
    for (index, piece) in text.split('\u{E000}').enumerate() {
        match piece.split_once('\u{E001}') {
            Some((number, behind)) if index > 0 => {
                let tag = number.parse::<usize>().ok().and_then(|number| tags.get(number));
                restored.push_str(tag.ok_or_else(|| TemplateError::NoText("a tag got lost".to_owned()))?);
                restored.push_str(behind);
            }
            _ => restored.push_str(piece),
        }
    }
    Ok(restored.trim().to_owned() + "\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_escaped_in_html_and_only_there() {
        let template = MailTemplate::parse("Hi {{ name }}", "<p>{{ name }}</p>", "{{ name }}").expect("parses");
        let mail = template.render(&json!({"name": "A & <B>"})).expect("renders");
        assert_eq!(mail.subject, "Hi A & <B>");
        assert_eq!(mail.html.as_deref(), Some("<p>A &amp; &lt;B&gt;</p>"));
        assert_eq!(mail.text, "A & <B>");
    }

    #[test]
    fn a_missing_field_is_an_error_with_its_place() {
        let template = MailTemplate::parse("Hi", "<p>\n{{ nmae }}</p>", "").expect("parses");
        assert_eq!(template.fields().into_iter().collect::<Vec<_>>(), ["nmae"]);
        let error = template.render(&json!({"name": "Ann"})).expect_err("strict").to_string();
        assert!(error.starts_with("HTML part, line 2:"), "{error}");
    }

    #[test]
    fn an_empty_mail_and_an_endless_subject_are_refused() {
        assert!(matches!(MailTemplate::parse("Hi", " ", "\n"), Err(TemplateError::Empty)));
        let endless = "x".repeat(MAX_SUBJECT + 1);
        assert!(matches!(MailTemplate::parse(&endless, "", "Hi"), Err(TemplateError::LongSubject(999))));
    }

    #[test]
    fn a_line_feed_in_a_field_stays_out_of_the_headers() {
        let template = MailTemplate::parse("Hi {{ name }}", "", "Hello").expect("parses");
        let mail = template.render(&json!({"name": "Ann\r\nBcc: all@example.test"})).expect("renders");
        assert_eq!(mail.subject, "Hi Ann  Bcc: all@example.test");
    }

    #[test]
    fn text_keeps_every_letter_and_every_field() {
        let text = text_from_html(
            "<style>p { color: red }</style><p>Hi there, {{ first_name|default(\"friend\") }}!</p><p>tr f v&nbsp;&amp; \
             Grüße,<br>дорогой друг</p><a href=\"https://example.test/?a=1&amp;b={{ code }}\">Offer</a>",
        )
        .expect("text");
        assert!(
            text.starts_with("Hi there, {{ first_name|default(\"friend\") }}!\n\ntr f v\u{a0}& Grüße,\nдорогой друг"),
            "{text}"
        );
        assert!(text.contains("https://example.test/?a=1&b={{ code }}"), "{text}");
        assert!(!text.contains("color"), "{text}");
    }
}
