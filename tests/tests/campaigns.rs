//! Campaigns from recipients file to inbox. The tests share a runner; each has a mail domain of its own.

use std::sync::OnceLock;
use std::time::Duration;

use end_to_end::{Draft, TestApp, csv_of};
use local_cloud::inbox::Filter;
use mail_parser::MessageParser;

fn app() -> &'static TestApp {
    static APP: OnceLock<TestApp> = OnceLock::new();
    APP.get_or_init(|| TestApp::launch("campaigns", &["EmailBatchSize=100"]))
}

fn at(domain: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("reader{number:04}@{domain}")).collect()
}

#[tokio::test]
async fn a_thousand_recipients_get_exactly_one_mail_each() {
    let app = app();
    let addresses = at("thousand.example", 1000);
    let receipt = app.deliver(&Draft { csv: csv_of(&addresses), ..Draft::default() });
    assert_eq!((&receipt["planned"], &receipt["sent"]), (&1000.into(), &1000.into()));
    let caught = app.caught("thousand.example");
    caught.assert_nobody_got_two();
    assert_eq!(caught.addresses(), addresses);
}

#[tokio::test]
async fn a_draft_is_never_mailed() {
    let app = app();
    let draft = app.import(&Draft { csv: csv_of(at("draft.example", 5)), ..Draft::default() });
    app.invoke("DispatchCampaigns");
    // What goes out meanwhile has passed everything that the draft would have had to pass.
    app.deliver(&Draft { csv: csv_of(at("after-draft.example", 5)), ..Draft::default() });
    app.invoke("DispatchCampaigns");
    assert_eq!(app.receipt(draft)["status"], "draft");
    assert_eq!(app.caught("draft.example").count(), 0);
    assert_eq!(app.caught("after-draft.example").count(), 5);
}

#[tokio::test]
async fn a_batch_that_is_rung_many_times_sends_once() {
    let app = app();
    // The slow ones keep the batch under work while further rings arrive.
    let mut addresses = at("rung.example", 60);
    addresses.extend((0..4).map(|number| format!("slow-{number}@rung.example")));
    let campaign = app.import(&Draft { csv: csv_of(&addresses), ..Draft::default() });
    app.start(campaign);
    app.wait_for_mails("rung.example", 1).await;
    let batch = app.count("select min(id) from nightshift.batches where campaign_id = $1", campaign.id).await;
    tokio::join!(app.ring_batch(batch), app.ring_batch(batch), app.ring_batch(batch), app.ring_batch(batch));
    let receipt = app.wait_until_over(campaign, 60);
    for _ in 0..3 {
        app.ring_batch(batch).await;
    }
    wait_until_email_queue_is_empty(app).await;
    assert_eq!(receipt["sent"], 64);
    let caught = app.caught("rung.example");
    caught.assert_nobody_got_two();
    assert_eq!(caught.count(), 64);
}

/// Every ring has been answered: another campaign's last ring went behind them, and was.
async fn wait_until_email_queue_is_empty(app: &TestApp) {
    app.deliver(&Draft { csv: csv_of(["last@behind-the-rings.example"]), ..Draft::default() });
    assert_eq!(app.caught("behind-the-rings.example").count(), 1);
}

#[tokio::test]
async fn the_same_address_in_other_case_gets_one_mail() {
    let app = app();
    let csv = csv_of(["ann@case.example", "Ann@Case.example", "ANN@CASE.EXAMPLE", "bob@case.example"]);
    let receipt = app.deliver(&Draft { csv, ..Draft::default() });
    assert_eq!((&receipt["planned"], &receipt["duplicates"]), (&2.into(), &2.into()));
    let caught = app.caught("case.example");
    caught.assert_nobody_got_two();
    assert_eq!(caught.addresses(), ["ann@case.example", "bob@case.example"]);
}

#[tokio::test]
async fn the_suppressed_get_no_mail_also_when_suppressed_after_planning() {
    let app = app();
    app.runner(&["suppression", "add", "Before@Suppressed.example"]).expect_success();
    // While the account is paused the campaign is planned and nothing leaves.
    app.runner(&["account", "add", "waiting", "--host", "inbox", "--from", "night@example.org"]).expect_success();
    let mut db = app.database().await;
    let paused = "update nightshift.smtp_accounts set paused_until = now() + interval '1 hour' where name = 'waiting'";
    sqlx::query(paused).execute(&mut db).await.expect("the account pauses");
    let addresses = ["before", "between", "ann"].map(|name| format!("{name}@suppressed.example"));
    let campaign = app.import(&Draft { account: "waiting", csv: csv_of(&addresses), ..Draft::default() });
    app.start(campaign);
    app.wait_for("planning", Duration::from_secs(20), async || app.receipt(campaign)["planned"] == 3).await;
    assert_eq!(app.receipt(campaign)["suppressed"], 1);

    // As a host's SQL does it: only the list of suppressions changes, not the deliveries.
    sqlx::query("insert into nightshift.suppressions (email_normalised) values ('between@suppressed.example')")
        .execute(&mut db)
        .await
        .expect("a suppression");
    sqlx::query("update nightshift.smtp_accounts set paused_until = null where name = 'waiting'")
        .execute(&mut db)
        .await
        .expect("the account goes on");
    app.wait_for("the batch to be due again", Duration::from_secs(30), async || {
        app.invoke("DispatchCampaigns");
        app.receipt(campaign)["open"] == 0
    })
    .await;
    let receipt = app.wait_until_over(campaign, 30);
    assert_eq!((&receipt["suppressed"], &receipt["sent"]), (&2.into(), &1.into()));
    assert_eq!(app.caught("suppressed.example").addresses(), ["ann@suppressed.example"]);
}

#[tokio::test]
async fn a_550_is_refused_with_its_words_and_a_451_arrives_after_one_deferral() {
    let app = app();
    let csv = csv_of(["bounce-1@answers.example", "later-1@answers.example", "ann@answers.example"]);
    let campaign = app.import(&Draft { csv, ..Draft::default() });
    app.start(campaign);
    let receipt = app.wait_until_over(campaign, 60);
    assert_eq!((&receipt["sent"], &receipt["refused"]), (&2.into(), &1.into()));
    let refused = &receipt["reasons"][0];
    assert_eq!((&refused["state"], &refused["cause"]), (&"refused".into(), &"address".into()), "{receipt}");
    assert_eq!(refused["reply"], "550 5.1.1 No such user here");
    let attempts = "select attempts::bigint from nightshift.deliveries where campaign_id = $1 and email like 'later%'";
    assert_eq!(app.count(attempts, campaign.id).await, 2);
    let caught = app.caught("answers.example");
    caught.assert_nobody_got_two();
    assert_eq!(caught.addresses(), ["ann@answers.example", "later-1@answers.example"]);
}

#[tokio::test]
async fn mails_are_correct_in_any_language_and_keep_their_message_id_over_a_deferral() {
    let app = app();
    let csv = "E-Mail;First name;Город\nlater-1@letters.example;Юлия;Нижний Новгород\nlater-2@letters.example;\"O'Neil <&> \u{1f989}\";Kraków\n";
    let html = "<h1>Здравствуйте, {{ first_name }}!</h1><p>Fish &amp; chips in {{ город }} — 5 &lt; 6</p>";
    let campaign = app.import(&Draft {
        subject: "{{ first_name }}, новости из {{ город }} 🌙",
        html,
        csv: csv.as_bytes().to_vec(),
        ..Draft::default()
    });
    app.start(campaign);
    app.wait_until_over(campaign, 60);
    let mut db = app.database().await;
    for (address, name, city, escaped) in [
        ("later-1@letters.example", "Юлия", "Нижний Новгород", "Юлия"),
        ("later-2@letters.example", "O'Neil <&> \u{1f989}", "Kraków", "&lt;&amp;&gt; \u{1f989}"),
    ] {
        let filter = Filter { to: Some(address.to_owned()), ..Filter::default() };
        let listed = app.mailbox().list(&filter).expect("the inbox can be read");
        assert_eq!(listed.len(), 1, "{address}");
        let mail = app.mailbox().read(listed[0].id).expect("readable").expect("there");
        let mail = MessageParser::default().parse(&mail.raw).expect("a mail");
        assert_eq!(mail.subject(), Some(format!("{name}, новости из {city} 🌙").as_str()));
        let text = mail.body_text(0).expect("a text part").into_owned();
        assert!(text.contains(&format!("Здравствуйте, {name}!")), "{text}");
        assert!(text.contains(&format!("Fish & chips in {city} — 5 < 6")), "{text}");
        let html = mail.body_html(0).expect("an HTML part").into_owned();
        assert!(html.contains(escaped), "{html}");
        assert!(html.contains("Fish &amp; chips"), "{html}");

        // The deferral was before: the identifier was the row's from the start.
        let (public_id, attempts): (String, i32) = sqlx::query_as(
            "select public_id::text, attempts from nightshift.deliveries where campaign_id = $1 and email = $2",
        )
        .bind(campaign.id)
        .bind(address)
        .fetch_one(&mut db)
        .await
        .expect("its row");
        assert_eq!(attempts, 2, "{address} was deferred once");
        assert!(mail.message_id().is_some_and(|id| id.starts_with(&public_id)), "{:?}", mail.message_id());
        let header = |name: &str| mail.header_raw(name).unwrap_or_else(|| panic!("no {name}")).trim().to_owned();
        assert!(header("List-Unsubscribe").starts_with("<http"), "{}", header("List-Unsubscribe"));
        assert_eq!(header("List-Unsubscribe-Post"), "List-Unsubscribe=One-Click");
    }
}

#[tokio::test]
async fn an_unknown_merge_field_is_an_error_at_creation_and_at_start() {
    let app = app();
    let csv = b"email,first_name\nann@fields.example,Ann\n".to_vec();
    let draft = Draft { subject: "Dear {{ frist_name }}", csv: csv.clone(), ..Draft::default() };
    app.try_import(&draft).expect_failure("frist_name");

    let campaign = app.import(&Draft { subject: "Dear {{ first_name }}", csv, ..Draft::default() });
    let mut db = app.database().await;
    sqlx::query("update nightshift.campaigns set html_template = '<p>{{ town }}</p>' where id = $1")
        .bind(campaign.id)
        .execute(&mut db)
        .await
        .expect("the draft changes");
    app.runner(&["campaign", "start", &campaign.id.to_string()]).expect_failure("town");
    app.invoke("DispatchCampaigns");
    assert_eq!(app.receipt(campaign)["status"], "draft");
    assert_eq!(app.caught("fields.example").count(), 0);
}

#[tokio::test]
async fn a_campaign_of_a_host_with_an_unknown_field_goes_back_to_draft_with_the_reason() {
    let app = app();
    let csv = csv_of(["ann@host.example"]);
    let campaign = app.import(&Draft { csv, ..Draft::default() });
    let mut db = app.database().await;
    sqlx::query(
        "update nightshift.campaigns set subject = 'Dear {{ title }}', status = 'scheduled', start_at = now() where id = $1",
    )
    .bind(campaign.id)
    .execute(&mut db)
    .await
    .expect("a host schedules it");
    app.wait_for("planning", Duration::from_secs(20), async || {
        app.invoke("DispatchCampaigns");
        app.receipt(campaign)["status"] == "draft"
    })
    .await;
    let reason = app.receipt(campaign)["reason"].to_string();
    assert!(reason.contains("title"), "{reason}");
    assert_eq!(app.caught("host.example").count(), 0);
}

#[tokio::test]
async fn a_wrong_password_pauses_the_account_and_burns_nobody() {
    let app = app();
    // A server that asks for a login and takes none.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port().to_string();
    let server = tokio::spawn(refuse_every_login(listener));
    let account = [
        "account",
        "add",
        "locked",
        "--host",
        "127.0.0.1",
        "--port",
        &port,
        "--security",
        "plain",
        "--username",
        "night",
        "--password-stdin",
        "--from",
        "night@example.org",
    ];
    app.runner_with_input(&account, "wrong\n").expect_success();
    let campaign = app.import(&Draft { account: "locked", csv: csv_of(at("login.example", 20)), ..Draft::default() });
    app.start(campaign);
    let paused = "select count(*) from nightshift.smtp_accounts a join nightshift.campaigns c on c.account_id = a.id \
                  where c.id = $1 and a.paused_until > now()";
    app.wait_for("the account to pause", Duration::from_secs(30), async || app.count(paused, campaign.id).await == 1)
        .await;
    let receipt = app.receipt(campaign);
    assert_eq!((&receipt["open"], &receipt["refused"], &receipt["status"]), (&20.into(), &0.into(), &"sending".into()));
    assert!(receipt["reason"].to_string().contains("535"), "{receipt}");
    server.abort();

    // With the right server behind it, everybody gets their mail.
    app.runner(&["account", "add", "locked", "--host", "inbox", "--from", "night@example.org", "--replace"])
        .expect_success();
    let mut db = app.database().await;
    sqlx::query("update nightshift.smtp_accounts set paused_until = null where name = 'locked'")
        .execute(&mut db)
        .await
        .expect("the pause ends");
    sqlx::query("update nightshift.batches set due_at = now(), rung_at = null where campaign_id = $1")
        .bind(campaign.id)
        .execute(&mut db)
        .await
        .expect("the batch is due");
    app.wait_for("the mails", Duration::from_secs(30), async || {
        app.invoke("DispatchCampaigns");
        app.receipt(campaign)["open"] == 0
    })
    .await;
    assert_eq!(app.wait_until_over(campaign, 30)["sent"], 20);
    let caught = app.caught("login.example");
    caught.assert_nobody_got_two();
    assert_eq!(caught.count(), 20);
}

async fn refuse_every_login(listener: tokio::net::TcpListener) {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            let _ = stream.write_all(b"220 locked.example ESMTP\r\n").await;
            let mut line = String::new();
            while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                let answer = match line.get(..4).unwrap_or_default().to_ascii_uppercase().as_str() {
                    "EHLO" => "250-locked.example\r\n250 AUTH PLAIN LOGIN\r\n",
                    "AUTH" => "535 5.7.8 Authentication credentials invalid\r\n",
                    "QUIT" => "221 Bye\r\n",
                    _ => "530 5.7.0 Authentication required\r\n",
                };
                let _ = stream.write_all(answer.as_bytes()).await;
                line.clear();
            }
        });
    }
}
