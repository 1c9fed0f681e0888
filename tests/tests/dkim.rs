//! Signatures, as dkimpy judges them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use end_to_end::{Draft, Signature, TestApp, csv_of, verify_dkim};
use local_cloud::inbox::Filter;
use shared::accounts::{Account, Security};
use shared::dkim::{self, Algorithm, PrivateKey, Signer};
use shared::mail::{Attachment, Extras, Sender};
use shared::smtp::Manners;
use shared::template::Rendered;

const COVERED: &str = "from:from:to:to:subject:subject:date:date:message-id:message-id";

/// A sender that signs with a key of each kind, and the records of both.
fn sender() -> (Sender, BTreeMap<String, String>) {
    let account = Account {
        id: 1,
        name: "news".to_owned(),
        host: "localhost".to_owned(),
        port: 25,
        security: Security::Plain,
        credentials: None,
        from_email: "news@mail.example.test".to_owned(),
        from_name: Some("Новости и очень длинное имя, чтобы заголовок был сложен в две строки".to_owned()),
        reply_to: Some("desk@example.test".to_owned()),
        max_connections: 1,
        paused_until: None,
        manners: Manners::default(),
    };
    let mut records = BTreeMap::new();
    let signers = [Algorithm::Rsa, Algorithm::Ed25519].map(|algorithm| {
        let key = PrivateKey::generate(algorithm).expect("a key");
        let (domain, selector) = ("example.test".to_owned(), format!("night-{algorithm}"));
        records.insert(dkim::record_name(&domain, &selector), dkim::record(algorithm, &key.public()));
        Arc::new(Signer { domain, selector, key })
    });
    (Sender::of(&account).expect("a sender").signed_by(signers.to_vec()), records)
}

fn assert_good(signatures: &[Signature], algorithms: &[&str]) {
    let of: Vec<&str> = signatures.iter().map(|signature| signature.tags["a"].as_str()).collect();
    assert_eq!(of, algorithms);
    for signature in signatures {
        assert!(signature.good, "{signature:?}");
        assert_eq!(signature.tags["c"], "relaxed/relaxed");
    }
}

fn mails(sender: &Sender) -> Vec<String> {
    let file = |size: usize| Attachment {
        name: "приложение.bin".to_owned(),
        content_type: "application/octet-stream".to_owned(),
        content: (0..=255).cycle().take(size).collect(),
    };
    let link = format!("https://example.test/unsubscribe/{}", "x".repeat(200));
    let with_link = Extras { unsubscribe: Some(&link), ..Extras::default() };
    let files = [file(10_000), file(3)];
    let with_files = Extras { attachments: &files, reply_to: Some("else@example.test"), ..Extras::default() };
    let long = "A subject that is so long that it has to be folded, with  two spaces and ёлки 🎄 in it ".repeat(3);
    let texts =
        ["", "no line end", "two\n\n\n\n", " \t spaces \t \n\n  in\tit  \n \n", ".\n..\n\n.", "Grüße\nиз Москвы\n"];
    let mut mails = vec![];
    for text in texts {
        for html in [None, Some("<p>Grüße</p>\n<p>  \t</p>   \n\n".to_owned())] {
            for (subject, extras) in [("Hello", with_link), (long.trim(), with_files)] {
                let rendered = Rendered { subject: subject.to_owned(), html: html.clone(), text: text.to_owned() };
                let to = "Ann@пример.test".parse().expect("an address");
                let mail = sender.compose(&to, uuid::Uuid::new_v4(), rendered, extras).expect("a mail");
                mails.push(mail.content);
            }
        }
    }
    mails
}

#[test]
fn every_kind_of_mail_bears_two_good_signatures() {
    let (sender, records) = sender();
    let mails = mails(&sender);
    let mails: Vec<&str> = mails.iter().map(String::as_str).collect();
    for signatures in verify_dkim(&records, &mails) {
        assert_good(&signatures, &["rsa-sha256", "ed25519-sha256"]);
    }
}

#[test]
fn what_may_change_on_the_way_harms_no_signature_and_what_must_not_does() {
    let (sender, records) = sender();
    let mail = mails(&sender).remove(4);
    let relayed = format!("Received: from here\r\n by there\r\n{}\r\n\r\n", mail.replace("Subject: ", "SUBJECT:   "));
    let changed = [
        mail.replace("Subject: Hello", "Subject: Hallo"),
        mail.replace("no line end", "no line End"),
        format!("Subject: Another\r\n{mail}"),
        format!("Reply-To: thief@example.test\r\n{mail}"),
        mail.replace("List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n", ""),
        mail.replace("unsubscribe/x", "unsubscribe/y"),
    ];
    assert!(changed.iter().all(|changed| *changed != mail), "{mail}");
    let all: Vec<&str> = [&mail, &relayed].into_iter().chain(&changed).map(String::as_str).collect();
    let mut answers = verify_dkim(&records, &all).into_iter();
    for _ in 0..2 {
        assert_good(&answers.next().expect("an answer"), &["rsa-sha256", "ed25519-sha256"]);
    }
    for (signatures, mail) in answers.zip(&changed) {
        assert!(signatures.len() == 2 && signatures.iter().all(|signature| !signature.good), "{signatures:?}\n{mail}");
    }
}

#[tokio::test]
async fn what_arrives_is_signed_with_the_keys_of_the_command_line() {
    let app = TestApp::launch("dkim", &[]);
    let mut records = BTreeMap::new();
    for kind in ["rsa", "ed25519"] {
        let said = app.runner(&["account", "dkim", "new", "inbox", "--type", kind, "--json"]).expect_success();
        let record: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
        let text = |name: &str| record[name].as_str().expect(name).to_owned();
        records.insert(text("name"), text("value"));
    }
    app.deliver(&Draft { csv: csv_of(["ann@signed.test", "bob@signed.test"]), ..Draft::default() });
    let single = ["--to", "cid@signed.test", "--subject", "Code", "--text", "1234"];
    app.runner(&[&["mail", "send", "--account", "inbox"], &single[..]].concat()).expect_success();
    app.wait_for_mails("signed.test", 3).await;

    let contents = |domain: &str| -> Vec<String> {
        let filter = Filter { to: Some(format!("@{domain}")), ..Filter::default() };
        let mails = app.mailbox().list(&filter).expect("the inbox");
        let raw = |id| app.mailbox().read(id).expect("readable").expect("there").raw;
        mails.iter().map(|mail| String::from_utf8(raw(mail.id)).expect("ASCII")).collect()
    };
    let arrived = contents("signed.test");
    let arrived: Vec<&str> = arrived.iter().map(String::as_str).collect();
    for signatures in verify_dkim(&records, &arrived) {
        assert_good(&signatures, &["rsa-sha256", "ed25519-sha256"]);
        assert_eq!(signatures[0].tags["d"], "example.org");
        let covered: String = signatures[0].tags["h"].split_whitespace().collect();
        assert!(covered.starts_with(COVERED), "{covered}");
        assert!(covered.contains("list-unsubscribe-post"), "{covered}");
    }

    // A removed key signs no more, in a process that has it in memory too.
    let keys = app.runner(&["account", "dkim", "list", "inbox", "--json"]).expect_success();
    let keys: serde_json::Value = serde_json::from_str(&keys.out).expect("JSON");
    let rsa = keys[0]["selector"].as_str().expect("a selector");
    app.runner(&["account", "dkim", "remove", "inbox", rsa]).expect_success();
    app.runner(&["account", "dkim", "remove", "inbox", rsa]).expect_failure("has no key");
    let single = ["--to", "dan@later.test", "--subject", "Code", "--text", "1234"];
    app.runner(&[&["mail", "send", "--account", "inbox"], &single[..]].concat()).expect_success();
    app.wait_for("the later mail", Duration::from_secs(60), async || app.caught("later.test").count() == 1).await;
    assert_good(&verify_dkim(&records, &[&contents("later.test")[0]])[0], &["ed25519-sha256"]);
    app.runner(&["account", "dkim", "new", "inbox", "--domain", "elsewhere.org"]).expect_failure("would not count");
}
