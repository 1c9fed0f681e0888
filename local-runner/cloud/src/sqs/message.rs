//! Messages as they are stored, with the rules and checksums of their bodies and attributes.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};

use super::{Fault, Result, SqsError};

/// The attribute that X-Ray's context travels in, the only system attribute that a sender can set.
pub(super) const TRACE_HEADER: &str = "AWSTraceHeader";
const MAX_ATTRIBUTES: usize = 10;

/// What never changes of a message.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) body: String,
    pub(crate) md5: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) attributes: BTreeMap<String, MessageAttribute>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
}

/// An attribute that the sender gave a message; the same form on the wire and in Redis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct MessageAttribute {
    #[serde(default)]
    pub(crate) data_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) string_value: Option<String>,
    /// Base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) binary_value: Option<String>,
}

impl Stored {
    /// A message with nothing but a body.
    pub(super) fn plain(body: &str) -> Result<Self> {
        Self::checked(body.to_owned(), BTreeMap::new(), None, None)
    }

    /// A message whose parts obey SQS's rules, sizes excepted.
    pub(super) fn checked(
        body: String,
        attributes: BTreeMap<String, MessageAttribute>,
        trace: Option<MessageAttribute>,
        group: Option<String>,
    ) -> Result<Self> {
        if body.is_empty() {
            return Err(Fault::MissingParameter.because("The request must contain the parameter MessageBody."));
        }
        check_characters(&body)?;
        if attributes.len() > MAX_ATTRIBUTES {
            return Err(Fault::InvalidParameterValue.because(format!(
                "Number of message attributes [{}] exceeds the allowed maximum [{MAX_ATTRIBUTES}].",
                attributes.len()
            )));
        }
        for (name, attribute) in &attributes {
            attribute.check(name)?;
        }
        if let Some(trace) = &trace {
            trace.check(TRACE_HEADER)?;
        }
        let trace = trace.and_then(|attribute| attribute.string_value);
        Ok(Self { md5: hex(&Md5::digest(&body)), body, attributes, trace, group })
    }

    /// Bytes that count against size limits: the body and names, types and values of attributes.
    pub(super) fn size(&self) -> usize {
        let attribute = |(name, attribute): (&String, &MessageAttribute)| {
            name.len() + attribute.data_type.len() + attribute.value().len()
        };
        self.body.len() + self.attributes.iter().map(attribute).sum::<usize>()
    }

    /// MD5 of the sender's system attributes, if there are any.
    pub(super) fn md5_of_system_attributes(&self) -> Option<String> {
        let trace = MessageAttribute {
            data_type: "String".to_owned(),
            string_value: Some(self.trace.clone()?),
            binary_value: None,
        };
        let name = TRACE_HEADER.to_owned();
        md5_of_attributes([(&name, &trace)])
    }

    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and maps of strings always have a JSON form")
    }

    pub(super) fn from_json(json: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(json)
    }
}

impl MessageAttribute {
    fn is_binary(&self) -> bool {
        self.data_type.split('.').next() == Some("Binary")
    }

    /// The value itself; checked attributes always have one.
    fn value(&self) -> Vec<u8> {
        if self.is_binary() {
            self.binary_value.as_deref().and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default()
        } else {
            self.string_value.clone().unwrap_or_default().into_bytes()
        }
    }

    fn check(&self, name: &str) -> Result<()> {
        let refuse = |message: String| Err(Fault::InvalidParameterValue.because(message));
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        let lower = name.to_ascii_lowercase();
        let reserved = name != TRACE_HEADER && (lower.starts_with("aws.") || lower.starts_with("amazon."));
        let dots = name.starts_with('.') || name.ends_with('.') || name.contains("..");
        if name.is_empty() || name.len() > 256 || !name.chars().all(allowed) || dots || reserved {
            return refuse(format!(
                "Message (user) attribute name '{name}' is invalid: letters, digits, '_', '-' and single '.' inside, 1 to 256 of them, not beginning with AWS. or Amazon."
            ));
        }
        let kind = self.data_type.split('.').next().unwrap_or_default();
        if !["Binary", "Number", "String"].contains(&kind) || self.data_type.len() > 256 {
            return refuse(format!(
                "The type of message (user) attribute '{name}' is invalid. You must use only the following supported type prefixes: Binary, Number, String."
            ));
        }
        if self.value().is_empty() {
            return refuse(format!(
                "Message (user) attribute '{name}' must contain a non-empty value of type '{kind}'."
            ));
        }
        if kind == "Number" && self.string_value.as_deref().is_none_or(|text| text.trim().parse::<f64>().is_err()) {
            return refuse(format!("Can't cast the value of message (user) attribute '{name}' to a number."));
        }
        self.string_value.as_deref().map_or(Ok(()), check_characters)
    }
}

fn check_characters(text: &str) -> Result<()> {
    let allowed =
        |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    if text.chars().all(allowed) {
        Ok(())
    } else {
        Err(Fault::InvalidMessageContents
            .because("Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | #x10000 to #x10FFFF."))
    }
}

/// The error for a single message beyond the queue's size limit.
pub(super) fn too_long(limit: u64) -> SqsError {
    Fault::InvalidParameterValue
        .because(format!("One or more parameters are invalid. Reason: Message must be shorter than {limit} bytes."))
}

/// MD5 over names, types and values in order of the names; nothing for no attributes.
pub(crate) fn md5_of_attributes<'a>(
    attributes: impl IntoIterator<Item = (&'a String, &'a MessageAttribute)>,
) -> Option<String> {
    let mut md5 = Md5::new();
    let mut some = false;
    let part = |md5: &mut Md5, bytes: &[u8]| {
        // Messages are at most a MiB.
        md5.update(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        md5.update(bytes);
    };
    for (name, attribute) in attributes {
        some = true;
        part(&mut md5, name.as_bytes());
        part(&mut md5, attribute.data_type.as_bytes());
        md5.update([if attribute.is_binary() { 2 } else { 1 }]);
        part(&mut md5, &attribute.value());
    }
    some.then(|| hex(&md5.finalize()))
}

/// Whether a name is asked for by `All`, `.*`, `prefix.*` or itself.
pub(super) fn is_asked_for(name: &str, asked: &[String]) -> bool {
    asked.iter().any(|pattern| {
        pattern == "All" || pattern == name || pattern.strip_suffix(".*").is_some_and(|prefix| name.starts_with(prefix))
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(value: &str) -> MessageAttribute {
        MessageAttribute { data_type: "String".to_owned(), string_value: Some(value.to_owned()), binary_value: None }
    }

    #[test]
    fn checksums_agree_with_the_published_vectors() {
        assert_eq!(Stored::plain("msg").expect("valid").md5, "6e2baaf3b97dbeef01c0043275f9a0e7");
        let attributes = BTreeMap::from([("attribName1".to_owned(), string("attribValue 1"))]);
        assert_eq!(md5_of_attributes(&attributes).as_deref(), Some("19e27d4e946b072f3f58da80d94fd778"));
        assert_eq!(md5_of_attributes(&BTreeMap::new()), None);
    }

    #[test]
    fn control_characters_are_refused_and_everything_else_passes() {
        assert!(Stored::plain("tab\tline\r\nÄ 漢 🚀").is_ok());
        for bad in ["\u{0}", "\u{8}", "\u{1f}", "\u{fffe}", "\u{ffff}"] {
            assert!(Stored::plain(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn attributes_need_a_supported_type_and_a_value_of_it() {
        let attempt = |data_type: &str, text: Option<&str>| {
            let attribute = MessageAttribute {
                data_type: data_type.to_owned(),
                string_value: text.map(str::to_owned),
                binary_value: None,
            };
            attribute.check("X").map_err(|error| error.to_string())
        };
        assert_eq!(attempt("Number.int", Some("-12.5")), Ok(()));
        assert_eq!(
            attempt("String", Some("")),
            Err("Message (user) attribute 'X' must contain a non-empty value of type 'String'.".to_owned())
        );
        assert_eq!(
            attempt("Number", Some("five")),
            Err("Can't cast the value of message (user) attribute 'X' to a number.".to_owned())
        );
        assert!(attempt("Text", Some("a")).is_err());
        assert!(attempt("Binary", Some("text is no binary value")).is_err());
    }

    #[test]
    fn a_pattern_asks_for_all_attributes_with_its_prefix() {
        let asked = |patterns: &[&str]| {
            is_asked_for("mail.kind", &patterns.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>())
        };
        assert!(asked(&["All"]) && asked(&[".*"]) && asked(&["mail.*"]) && asked(&["mail.kind"]));
        assert!(!asked(&[]) && !asked(&["mail"]) && !asked(&["kind.*"]));
    }
}
