//! Mails that are handed over without an answer, under each policy. The tests share a runner; each has a mail domain of
//! its own.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::Duration;

use end_to_end::{Campaign, Draft, TestApp, csv_of};
use local_cloud::inbox::Filter;
use mail_parser::MessageParser;
use serde_json::Value;

fn app() -> &'static TestApp {
    static APP: OnceLock<TestApp> = OnceLock::new();
    APP.get_or_init(|| TestApp::launch("uncertain", &["EmailBatchSize=100"]))
}

/// A recipient whose server takes the mail and hangs up, and an ordinary one.
fn import(domain: &str, policy: &str) -> Campaign {
    let csv = csv_of([format!("hangup-1@{domain}"), format!("ann@{domain}")]);
    app().import(&Draft { csv, uncertain: policy, ..Draft::default() })
}

/// The copies that a recipient got, by Message-ID.
fn message_ids(address: &str) -> Vec<String> {
    let filter = Filter { to: Some(address.to_owned()), ..Filter::default() };
    let listed = app().mailbox().list(&filter).expect("the inbox can be read");
    let id_of = |raw: &[u8]| MessageParser::default().parse(raw)?.message_id().map(str::to_owned);
    listed
        .into_iter()
        .map(|mail| app().mailbox().read(mail.id).expect("readable").expect("there"))
        .map(|mail| id_of(&mail.raw).expect("a Message-ID"))
        .collect()
}

#[tokio::test]
async fn under_hold_a_person_decides_with_the_message_id_at_hand() {
    let app = app();
    let campaign = import("hold.example", "hold");
    let id = campaign.id.to_string();
    app.start(campaign);
    let receipt = app.wait_until_over(campaign, 60);
    assert_eq!((&receipt["sent"], &receipt["uncertain"]), (&1.into(), &1.into()), "{receipt}");
    let progress = app.runner(&["campaign", "progress", &id]).expect_success().out;
    assert!(
        progress.contains(&format!(
            "1 uncertain (handed over, no answer recorded); see: local-runner campaign uncertain list {id}"
        )),
        "{progress}"
    );

    let listed = app.runner(&["campaign", "uncertain", "list", &id, "--json"]).expect_success().out;
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed["policy"], "hold");
    assert_eq!(listed["mails"][0]["recipient"], "hangup-1@hold.example");
    let caught = message_ids("hangup-1@hold.example");
    assert_eq!(listed["mails"][0]["message_id"], format!("<{}>", caught[0]), "what the mail itself says");

    let resolve = |rest: &[&str]| app.runner(&[&["campaign", "uncertain", "resolve", &id], rest].concat());
    resolve(&["--resend", "--all", "--yes"]).expect_failure("an answer to 1 of these mails may still come");
    resolve(&["--sent", "--all"]).expect_failure("confirm with --yes");
    resolve(&["--sent", "--recipient", "ann@hold.example", "--yes"]).expect_failure("no uncertain mail for ann@");
    resolve(&["--sent", "--recipient", "hangup-1@hold.example", "--yes"]).expect_success();
    let receipt = app.receipt(campaign);
    assert_eq!((&receipt["sent"], &receipt["uncertain"]), (&2.into(), &0.into()), "{receipt}");
    assert_eq!(caught.len(), 1);
}

#[tokio::test]
async fn under_count_as_sent_it_is_sent_once() {
    let app = app();
    let campaign = import("counted.example", "count_as_sent");
    app.start(campaign);
    let receipt = app.wait_until_over(campaign, 60);
    assert_eq!((&receipt["sent"], &receipt["uncertain"]), (&2.into(), &0.into()), "{receipt}");
    app.caught("counted.example").assert_nobody_got_two();
}

#[tokio::test]
async fn under_resend_it_comes_again_as_the_same_mail_and_in_the_end_a_person_decides() {
    let app = app();
    let campaign = import("resend.example", "resend");
    app.start(campaign);
    app.wait_for("the first copy to be in doubt", Duration::from_secs(60), async || {
        let receipt = app.receipt(campaign);
        receipt["sent"] == 1 && receipt["deferred"] == 1
    })
    .await;
    assert_eq!(message_ids("hangup-1@resend.example").len(), 1);
    let mut db = app.database().await;
    for copies in 2..=3 {
        // Twenty minutes pass.
        for statement in [
            "update nightshift.deliveries set next_attempt_at = now() where campaign_id = $1 and state = 'deferred'",
            "update nightshift.batches set due_at = now(), rung_at = null where campaign_id = $1",
        ] {
            sqlx::query(statement).bind(campaign.id).execute(&mut db).await.expect(statement);
        }
        app.wait_for("another copy", Duration::from_secs(60), async || {
            app.invoke("DispatchCampaigns");
            message_ids("hangup-1@resend.example").len() == copies
        })
        .await;
        let in_doubt = "select count(*) from nightshift.deliveries where campaign_id = $1 and state = 'sending'";
        app.wait_for("its doubt", Duration::from_secs(60), async || app.count(in_doubt, campaign.id).await == 0).await;
    }
    let receipt = app.wait_until_over(campaign, 60);
    assert_eq!((&receipt["sent"], &receipt["uncertain"]), (&1.into(), &1.into()), "{receipt}");
    let copies: BTreeSet<String> = message_ids("hangup-1@resend.example").into_iter().collect();
    assert_eq!(copies.len(), 1, "one Message-ID for all copies: {copies:?}");

    let id = campaign.id.to_string();
    app.runner(&["campaign", "uncertain", "resolve", &id, "--not-sent", "--all", "--yes"]).expect_success();
    let receipt = app.receipt(campaign);
    assert_eq!((&receipt["refused"], &receipt["reasons"][0]["cause"]), (&1.into(), &"given_up".into()), "{receipt}");
}
