//! Partial batch responses: what a function's answer says about the messages of its batch.

use std::collections::HashSet;

use serde_json::Value;

/// What becomes of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All messages are deleted.
    Success,
    /// These stay in the queue, the others are deleted.
    Partial(HashSet<String>),
    /// All stay in the queue, for this reason.
    Failure(String),
}

impl Verdict {
    /// Whether the message is to be deleted.
    pub(super) fn finished(&self, message_id: &str) -> bool {
        match self {
            Self::Success => true,
            Self::Partial(failed) => !failed.contains(message_id),
            Self::Failure(_) => false,
        }
    }
}

/// Judges the response to a batch with these message ids, and warns of answers that hardly mean what AWS takes them for.
///
/// AWS's rules, with two gaps filled by the choice that loses nothing: ids that are not in the batch, and answers that are no
/// object (a number, a text, a list), count as failure of the whole batch.
pub(super) fn judge(response: &[u8], ids: &HashSet<&str>) -> (Verdict, Option<String>) {
    if response.trim_ascii().is_empty() {
        return (Verdict::Success, None);
    }
    let answer = match serde_json::from_slice(response) {
        Ok(Value::Null) => return (Verdict::Success, None),
        Ok(Value::Object(answer)) => answer,
        Ok(_) => return failure("the response is no JSON object"),
        Err(error) => return failure(&format!("the response is no valid JSON: {error}")),
    };
    let items = match answer.get("batchItemFailures") {
        Some(Value::Array(items)) => items,
        Some(Value::Null) => return (Verdict::Success, None),
        Some(_) => return failure("batchItemFailures is no list"),
        None if answer.is_empty() => return (Verdict::Success, None),
        None => {
            let keys: Vec<&str> = answer.keys().map(String::as_str).collect();
            let warning = format!(
                "the response has no batchItemFailures but {}; AWS takes that for complete success, and so ALL messages of the batch are deleted",
                keys.join(", ")
            );
            return (Verdict::Success, Some(warning));
        }
    };
    let mut failed = HashSet::new();
    for item in items {
        match item.get("itemIdentifier").and_then(Value::as_str) {
            None | Some("") => {
                return failure("an item of batchItemFailures has no itemIdentifier");
            }
            Some(id) if !ids.contains(id) => {
                return failure(&format!("batchItemFailures names {id}, which is not in the batch"));
            }
            Some(id) => failed.insert(id.to_owned()),
        };
    }
    (if failed.is_empty() { Verdict::Success } else { Verdict::Partial(failed) }, None)
}

fn failure(reason: &str) -> (Verdict, Option<String>) {
    (Verdict::Failure(reason.to_owned()), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(response: &str) -> Verdict {
        judge(response.as_bytes(), &HashSet::from(["a", "b"])).0
    }

    #[test]
    fn an_empty_answer_or_list_is_complete_success() {
        for response in ["", " ", "null", "{}", r#"{"batchItemFailures":[]}"#, r#"{"batchItemFailures":null}"#] {
            assert_eq!(verdict(response), Verdict::Success, "{response}");
        }
    }

    #[test]
    fn named_messages_stay_and_the_others_are_deleted() {
        let verdict = verdict(r#"{"batchItemFailures":[{"itemIdentifier":"b"},{"itemIdentifier":"b"}]}"#);
        assert!(verdict.finished("a") && !verdict.finished("b"));
    }

    #[test]
    fn whatever_cannot_be_understood_fails_the_whole_batch() {
        for response in [
            "{",
            "ok",
            "\"ok\"",
            "[]",
            "true",
            r#"{"batchItemFailures":{}}"#,
            r#"{"batchItemFailures":"a"}"#,
            r#"{"batchItemFailures":["a"]}"#,
            r#"{"batchItemFailures":[{"itemIdentifier":"a"},{"foo":"notvalid"}]}"#,
            r#"{"batchItemFailures":[{"itemIdentifier":""}]}"#,
            r#"{"batchItemFailures":[{"itemIdentifier":null}]}"#,
            r#"{"batchItemFailures":[{"itemIdentifier":"a"},{"itemIdentifier":"stranger"}]}"#,
        ] {
            let verdict = verdict(response);
            assert!(matches!(verdict, Verdict::Failure(_)), "{response}: {verdict:?}");
            assert!(!verdict.finished("a") && !verdict.finished("b"));
        }
    }

    #[test]
    fn a_misspelt_key_is_success_with_a_loud_warning() {
        let (verdict, warning) = judge(br#"{"batchItemFailure":[{"itemIdentifier":"a"}]}"#, &HashSet::from(["a"]));
        assert_eq!(verdict, Verdict::Success);
        assert!(warning.expect("a warning").contains("batchItemFailure;"));
    }
}
