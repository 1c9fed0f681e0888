//! Suppressions in files, and mails that came back.

use std::path::Path;

use end_to_end::{Draft, TestApp, csv_of};
use local_cloud::inbox::Filter;
use serde_json::Value;

/// A notification as Postfix writes it, about a mail with this Message-ID.
fn bounce(message_id: &str, address: &str, status: &str, words: &str) -> String {
    format!(
        "From: MAILER-DAEMON@mx.test\r\n\
         To: night@example.org\r\n\
         Subject: Undelivered Mail Returned to Sender\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=\"b\"\r\n\
         \r\n\
         --b\r\n\
         Content-Type: text/plain\r\n\
         \r\n\
         This is the mail system.\r\n\
         From here on it is only for machines.\r\n\
         --b\r\n\
         Content-Type: message/delivery-status\r\n\
         \r\n\
         Reporting-MTA: dns; mx.test\r\n\
         \r\n\
         Final-Recipient: rfc822; {address}\r\n\
         Action: failed\r\n\
         Status: {status}\r\n\
         Diagnostic-Code: smtp; {words}\r\n\
         \r\n\
         --b\r\n\
         Content-Type: text/rfc822-headers\r\n\
         \r\n\
         To: {address}\r\n\
         Message-ID: <{message_id}>\r\n\
         \r\n\
         --b--\r\n"
    )
}

fn import(app: &TestApp, path: &Path, options: &[&str]) -> Value {
    let path = path.to_str().expect("UTF-8");
    let said = app.runner(&[&["suppression", "import-bounces", path, "--json"], options].concat()).expect_success();
    serde_json::from_str(&said.out).expect("JSON")
}

fn exported(app: &TestApp) -> Vec<String> {
    let said = app.runner(&["suppression", "export"]).expect_success();
    let rows = said.out.lines().map(|row| row.rsplit_once(',').expect("a column for the time").0.to_owned());
    rows.collect()
}

#[tokio::test]
async fn mails_that_came_back_stop_further_ones_and_the_books_still_balance() {
    let app = TestApp::launch("suppressions", &[]);
    let campaign =
        app.import(&Draft { csv: csv_of(["ann@back.test", "bob@back.test", "cid@back.test"]), ..Draft::default() });
    app.start(campaign);
    app.wait_until_over(campaign, 60);
    let message_id = |address: &str| {
        let filter = Filter { to: Some(address.to_owned()), ..Filter::default() };
        let mail = app.mailbox().list(&filter).expect("the inbox")[0].id;
        let raw = app.mailbox().read(mail).expect("readable").expect("there").raw;
        let parsed = mail_parser::MessageParser::default().parse(&raw).expect("a mail");
        parsed.message_id().expect("a Message-ID").to_owned()
    };
    let ann = bounce(&message_id("ann@back.test"), "ann@back.test", "5.1.1", "550 5.1.1 no such user");
    let bob = bounce(&message_id("bob@back.test"), "bob@back.test", "5.7.1", "554 5.7.1 this is spam");
    let stranger = bounce("x@example.org", "cid@back.test", "5.1.1", "550 5.1.1 no such user");

    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, content: String| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, content).expect("a file");
        path
    };
    let quoted =
        |mail: &str| format!("From a@b Sat Nov 21 08:00:00 2026\r\n{}\r\n", mail.replace("From here", ">From here"));
    let mbox = write("mbox", quoted(&ann) + &quoted(&bob));
    write("maildir/new/1", ann);
    write("maildir/cur/2:2,S", stranger);
    write("maildir/tmp/3", bob);
    write("maildir/cur/4:2,S", "Subject: no bounce\r\n\r\nHello\r\n".to_owned());

    let dry = import(&app, &mbox, &["--dry-run"]);
    assert_eq!((&dry["suppressed"], &dry["other"]), (&1.into(), &1.into()), "{dry}");
    assert_eq!(exported(&app), ["email,list,reason,note"], "nothing was done");

    let done = import(&app, &mbox, &[]);
    assert_eq!((&done["suppressed"], &done["other"], &done["mails"]), (&1.into(), &1.into(), &2.into()), "{done}");
    let again = import(&app, &folder.path().join("maildir"), &[]);
    assert_eq!((&again["mails"], &again["notifications"]), (&3.into(), &2.into()), "{again}");
    assert_eq!((&again["suppressed_before"], &again["unknown"]), (&1.into(), &1.into()), "{again}");
    assert_eq!(app.receipt(campaign)["bounced"], 2);

    let next = app.deliver(&Draft { csv: csv_of(["ann@back.test", "bob@back.test"]), ..Draft::default() });
    assert_eq!((&next["sent"], &next["suppressed"]), (&1.into(), &1.into()));

    // What was exported comes back as it was, lists and reasons and all.
    app.runner(&["suppression", "add", "eve@back.test", "--list", "spring, and \"more\""]).expect_success();
    let before = exported(&app);
    assert_eq!(
        before,
        [
            "email,list,reason,note",
            "ann@back.test,,bounced,550 5.1.1 no such user",
            "eve@back.test,\"spring, and \"\"more\"\"\",manual,",
        ]
    );
    let file = write("all.csv", app.runner(&["suppression", "export"]).expect_success().out);
    let mut db = app.database().await;
    sqlx::query("delete from nightshift.suppressions").execute(&mut db).await.expect("a person removes them");
    app.runner(&["suppression", "import", file.to_str().expect("UTF-8")]).expect_success();
    assert_eq!(exported(&app), before);
}
