//! What an independent verifier thinks of signatures.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::binaries;

/// A signature that a mail bears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// It is that of the mail.
    pub good: bool,
    /// What the verifier could not get over.
    pub why: String,
    /// Its tags, such as `a` and `d`.
    pub tags: BTreeMap<String, String>,
}

/// Asks dkimpy about mails; `records` are the TXT records that it finds in DNS.
pub fn verify_dkim(records: &BTreeMap<String, String>, mails: &[&str]) -> Vec<Vec<Signature>> {
    let mut child = Command::new("sh")
        .arg(binaries::project().join("infra/dkim-verifier/run.sh"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh runs");
    let question = json!({"records": records, "mails": mails}).to_string();
    child.stdin.take().expect("piped").write_all(question.as_bytes()).expect("the verifier reads");
    let answer = child.wait_with_output().expect("the verifier ends");
    assert!(answer.status.success(), "the verifier failed; what it says stands above");
    let answer: Vec<Vec<Value>> = serde_json::from_slice(&answer.stdout).expect("an answer in JSON");
    let signature = |value: Value| Signature {
        good: value["good"] == json!(true),
        why: value["why"].as_str().unwrap_or_default().to_owned(),
        tags: serde_json::from_value(value["tags"].clone()).expect("tags"),
    };
    answer.into_iter().map(|mail| mail.into_iter().map(signature).collect()).collect()
}
