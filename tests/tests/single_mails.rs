//! Single mails beside campaigns. The tests share a runner, but for the one that kills functions; each has a mail domain
//! of its own.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use end_to_end::{Draft, TestApp, csv_of, kill_all};
use local_cloud::inbox::Filter;
use mail_parser::{MessageParser, MimeHeaders};
use serde_json::Value;

fn app() -> &'static TestApp {
    static APP: OnceLock<TestApp> = OnceLock::new();
    APP.get_or_init(|| TestApp::launch("single", &["EmailBatchSize=100"]))
}

/// `mail send` with these arguments on top, and its answer.
fn send(app: &TestApp, to: &str, more: &[&str]) -> Value {
    let mut arguments = vec!["mail", "send", "--subject", "Your code", "--to", to, "--json"];
    if !more.contains(&"--account") {
        arguments.extend(["--account", "inbox"]);
    }
    if !more.iter().any(|argument| argument.starts_with("--text") || argument.starts_with("--html")) {
        arguments.extend(["--text", "1234"]);
    }
    arguments.extend(more);
    let said = app.runner(&arguments);
    serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("no JSON: {}{}", said.out, said.err))
}

fn show(app: &TestApp, mail: &Value) -> Value {
    let id = mail["public_id"].as_str().expect("an id");
    let said = app.runner(&["mail", "show", id, "--json"]).expect_success();
    serde_json::from_str(&said.out).expect("JSON")
}

/// A campaign that keeps every connection it may have busy for long: each of its recipients takes two seconds.
fn start_a_slow_campaign(app: &TestApp, account: &str, domain: &str) -> i64 {
    let addresses = (0..2000).map(|number| format!("slow-{number}@{domain}"));
    let campaign = app.import(&Draft { account, csv: csv_of(addresses), ..Draft::default() });
    app.start(campaign);
    campaign.id
}

fn end(app: &TestApp, campaign: i64) {
    app.runner(&["campaign", "pause", &campaign.to_string()]).expect_success();
}

#[tokio::test]
async fn a_single_mail_does_not_wait_behind_a_campaign_of_its_account() {
    let app = app();
    for (connections, domain, seconds) in [("4", "busy.example", 8), ("1", "narrow.example", 35)] {
        let account = format!("account-{connections}");
        let add = ["account", "add", &account, "--host", "inbox", "--from", "night@example.org", "--max-connections"];
        app.runner(&[&add[..], &[connections]].concat()).expect_success();
        let campaign = start_a_slow_campaign(app, &account, domain);
        app.wait_for_mails(domain, 2).await;
        let asked = Instant::now();
        let to = format!("ann@{domain}");
        let sent = send(app, &to, &["--account", &account, "--wait"]);
        let took = asked.elapsed();
        let campaign_mails = app.caught(domain).count() - app.caught(domain).to(&to);
        end(app, campaign);
        assert_eq!(sent["state"], "sent", "{sent}");
        assert!(took < Duration::from_secs(seconds), "it took {took:?} over {connections} connections");
        assert!(campaign_mails < 1000, "the campaign was over before the mail could wait for it");
    }
}

#[tokio::test]
async fn a_mail_that_is_sent_twice_with_one_key_arrives_once() {
    let app = app();
    let first = send(app, "ann@twice.example", &["--key", "order 7", "--wait"]);
    let second = send(app, "ann@twice.example", &["--key", "order 7", "--wait"]);
    assert_eq!((&first["state"], &first["public_id"]), (&"sent".into(), &second["public_id"]));
    send(app, "ann@twice.example", &["--key", "order 8", "--wait"]);
    assert_eq!(app.caught("twice.example").to("ann@twice.example"), 2, "one for each key");
}

#[tokio::test]
async fn a_deferred_mail_is_repeated_and_a_refused_one_says_why() {
    let app = app();
    let later = send(app, "later-1@answers.example", &["--wait", "--timeout", "60"]);
    assert_eq!((&later["state"], &later["attempts"]), (&"sent".into(), &2.into()), "{later}");
    let bounced = send(app, "bounce-1@answers.example", &["--wait"]);
    assert_eq!((&bounced["state"], &bounced["cause"]), (&"refused".into(), &"address".into()), "{bounced}");
    assert_eq!(bounced["reply"], "550 5.1.1 No such user here");
    // There is no campaign that could be paused for the content: it is refused, once, and not tried for ever.
    let spam = send(app, "spam-1@answers.example", &["--wait"]);
    assert_eq!((&spam["state"], &spam["cause"]), (&"refused".into(), &"content".into()), "{spam}");
    assert!(spam["reply"].to_string().contains("554 5.7.1"), "{spam}");
    assert_eq!(spam["attempts"], 1);
    app.caught("answers.example").assert_nobody_got_two();
    assert_eq!(app.caught("answers.example").addresses(), ["later-1@answers.example"]);
}

#[tokio::test]
async fn an_attachment_arrives_byte_by_byte_and_the_text_comes_from_standard_input() {
    let app = app();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("Приглашение.pdf");
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    std::fs::write(&file, &bytes).expect("a file");
    let arguments = [
        "mail",
        "send",
        "--account",
        "inbox",
        "--to",
        "ann@files.example",
        "--subject",
        "Привет 🌙",
        "--text",
        "-",
        "--reply-to",
        "desk@example.org",
        "--wait",
        "--attach",
    ];
    let file = file.to_str().expect("UTF-8");
    app.runner_with_input(&[&arguments[..], &[file]].concat(), "Здравствуйте!\n").expect_success();
    let filter = Filter { to: Some("ann@files.example".to_owned()), ..Filter::default() };
    let listed = app.mailbox().list(&filter).expect("the inbox can be read");
    let mail = app.mailbox().read(listed[0].id).expect("readable").expect("there");
    let mail = MessageParser::default().parse(&mail.raw).expect("a mail");
    assert_eq!(mail.subject(), Some("Привет 🌙"));
    assert_eq!(mail.body_text(0).as_deref().map(str::trim), Some("Здравствуйте!"));
    let attachment = mail.attachments().next().expect("an attachment");
    assert_eq!(attachment.attachment_name(), Some("Приглашение.pdf"));
    assert!(attachment.contents() == bytes, "its bytes are others");
    assert!(mail.header_raw("Reply-To").is_some_and(|reply_to| reply_to.contains("desk@example.org")));
    assert!(mail.header_raw("List-Unsubscribe").is_none(), "it leaves no list");
}

#[tokio::test]
async fn a_host_sends_by_sql_and_the_next_dispatch_finds_it() {
    let app = app();
    let mut db = app.database().await;
    let call = "select nightshift.send_mail('inbox', 'ann@sql.example', 'Hi {{ name }}',
                html_body => '<p>{{ name }}</p>', fields => '{\"name\": \"Ann\"}', list => 'weekly')::text";
    let id: String = sqlx::query_scalar(call).fetch_one(&mut db).await.expect("made");
    app.wait_for("the mail", Duration::from_secs(60), async || {
        app.invoke("DispatchCampaigns");
        app.caught("sql.example").count() == 1
    })
    .await;
    let filter = Filter { to: Some("ann@sql.example".to_owned()), ..Filter::default() };
    let listed = app.mailbox().list(&filter).expect("the inbox can be read");
    let mail = app.mailbox().read(listed[0].id).expect("readable").expect("there");
    let mail = MessageParser::default().parse(&mail.raw).expect("a mail");
    assert_eq!(mail.subject(), Some("Hi Ann"));
    assert!(mail.message_id().is_some_and(|message_id| message_id.starts_with(&id)));
    assert!(mail.header_raw("List-Unsubscribe").is_some(), "it leaves a list");

    // What only shows at sending is that mail's own fault, and is said.
    let call = "select nightshift.send_mail('inbox', 'bob@sql.example', 'Hi {{ nmae }}', 'x', fields => '{}')::text";
    let broken: String = sqlx::query_scalar(call).fetch_one(&mut db).await.expect("made");
    app.wait_for("the refusal", Duration::from_secs(60), async || {
        app.invoke("DispatchCampaigns");
        show(app, &serde_json::json!({ "public_id": broken }))["cause"] == "render"
    })
    .await;
}

#[tokio::test]
async fn functions_killed_in_mid_send_lose_no_single_mail() {
    let app = TestApp::launch("single-killed", &[]);
    let mails: Vec<Value> = (0..6).map(|number| send(&app, &format!("slow-{number}@killed.example"), &[])).collect();
    app.wait_for("a function at work", Duration::from_secs(30), async || {
        app.count("select count(*) from nightshift.batches where leased_until > now() and $1 = 0", 0).await > 0
    })
    .await;
    kill_all(&app.function_processes("send-emails"));
    app.wait_for("all mails to be settled", Duration::from_secs(120), async || {
        app.invoke("DispatchCampaigns");
        tokio::time::sleep(Duration::from_millis(300)).await;
        mails.iter().all(|mail| matches!(show(&app, mail)["state"].as_str(), Some("sent" | "uncertain")))
    })
    .await;
    let caught = app.caught("killed.example");
    caught.assert_nobody_got_two();
    let uncertain = mails.iter().filter(|mail| show(&app, mail)["state"] == "uncertain").count();
    assert!(uncertain <= 2, "{uncertain} uncertain mails over two functions with one connection each");
    for mail in &mails {
        let shown = show(&app, mail);
        let to = shown["to"].as_str().expect("an address");
        assert!(shown["state"] != "sent" || caught.to(to) == 1, "{to} counts as sent");
    }
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let app = app();
    let mail = ["mail", "send", "--to", "ann@wrong.example", "--subject", "Hi"];
    app.runner(&[&mail[..], &["--account", "inbox"]].concat()).expect_failure("--text");
    app.runner(&[&mail[..], &["--account", "outbox", "--text", "x"]].concat()).expect_failure("there are: ");
    app.runner(&[&mail[..], &["--account", "inbox", "--text", "x", "--fields", "[]"]].concat())
        .expect_failure("JSON object");
    app.runner(&["mail", "show", "00000000-0000-0000-0000-000000000000"]).expect_failure("there is no single mail");
    assert_eq!(app.caught("wrong.example").count(), 0);
}
