//! Limits and sending windows, as their owner sees them. The tests share a runner; each has an account and a mail domain
//! of its own.

use std::sync::OnceLock;
use std::time::Duration;

use end_to_end::{Campaign, Draft, TestApp, csv_of};
use serde_json::Value;

fn app() -> &'static TestApp {
    static APP: OnceLock<TestApp> = OnceLock::new();
    APP.get_or_init(|| TestApp::launch("limits", &["EmailBatchSize=5"]))
}

fn start(account: &str, domain: &str, count: usize) -> Campaign {
    let app = app();
    let add = ["account", "add", account, "--host", "inbox", "--from", "night@example.org"];
    app.runner(&add).expect_success();
    let csv = csv_of((0..count).map(|number| format!("reader{number:02}@{domain}")));
    app.import(&Draft { account, csv, ..Draft::default() })
}

/// Why `campaign list` says that a campaign waits.
fn listed(campaign: Campaign) -> Value {
    let said = app().runner(&["campaign", "list", "--json"]).expect_success();
    let listed: Value = serde_json::from_str(&said.out).expect("JSON");
    let is_it = |one: &&Value| one["id"] == campaign.id;
    listed.as_array().expect("a list").iter().find(is_it).expect("it is listed")["reason"].clone()
}

async fn dispatch_until_over(campaign: Campaign) -> Value {
    let app = app();
    app.wait_for("the campaign to be over", Duration::from_secs(60), async || {
        app.invoke("DispatchCampaigns");
        tokio::time::sleep(Duration::from_millis(200)).await;
        app.receipt(campaign)["status"] == "sent"
    })
    .await;
    app.receipt(campaign)
}

#[tokio::test]
async fn a_daily_limit_stops_where_it_is_says_why_and_goes_on_when_it_is_raised() {
    let app = app();
    let campaign = start("daily", "daily.example", 12);
    app.runner(&["account", "limit", "set", "--account", "daily", "day", "7"]).expect_success();
    app.start(campaign);
    app.wait_for("the limit to be used up", Duration::from_secs(60), async || app.receipt(campaign)["sent"] == 7).await;
    app.invoke("DispatchCampaigns");
    let reason = "daily limit of account daily reached, continues 00:00 UTC";
    let progress = app.runner(&["campaign", "progress", &campaign.id.to_string()]).expect_success().out;
    assert!(progress.contains(&format!("Waits: {reason}")), "{progress}");
    assert_eq!(listed(campaign), reason);
    let receipt = app.receipt(campaign);
    assert_eq!((&receipt["sent"], &receipt["open"], &receipt["deferred"]), (&7.into(), &5.into(), &0.into()));

    app.runner(&["account", "limit", "set", "--account", "daily", "day", "100"]).expect_success();
    assert_eq!(dispatch_until_over(campaign).await["sent"], 12);
    let caught = app.caught("daily.example");
    caught.assert_nobody_got_two();
    assert_eq!(caught.count(), 12);
    let limits = app.runner(&["account", "limit", "list"]).expect_success().out;
    assert!(limits.contains("daily") && limits.contains("100"), "{limits}");
    app.runner(&["account", "limit", "remove", "--account", "daily", "hour"])
        .expect_failure("has no limit for the hour");
    app.runner(&["account", "limit", "set", "--account", "dayly", "day", "1"]).expect_failure("there is no account");
    app.runner(&["account", "limit", "set", "--account", "daily", "week", "1"])
        .expect_failure("second, minute, hour, day");
}

#[tokio::test]
async fn a_limit_per_second_is_waited_for_in_place() {
    let app = app();
    let campaign = start("slowly", "slowly.example", 20);
    app.runner(&["account", "limit", "set", "--account", "slowly", "second", "4"]).expect_success();
    app.start(campaign);
    let receipt = dispatch_until_over(campaign).await;
    assert_eq!(receipt["sent"], 20);
    app.caught("slowly.example").assert_nobody_got_two();
    let took = "select extract(epoch from max(settled_at) - min(attempted_at))::bigint from nightshift.deliveries
                where campaign_id = $1";
    let seconds = app.count(took, campaign.id).await;
    assert!((4..30).contains(&seconds), "twenty mails at four a second took {seconds} s");
}

#[tokio::test]
async fn a_closed_window_is_named_and_opening_it_lets_the_mail_go() {
    let app = app();
    let campaign = start("hours", "hours.example", 3);
    let mut db = app.database().await;
    let day: String = sqlx::query_scalar("select lower(to_char(now() + interval '3 days', 'dy'))")
        .fetch_one(&mut db)
        .await
        .expect("a weekday");
    app.runner(&["account", "window", "set", "hours", "9 to 5"]).expect_failure("mon-fri 09:00-20:00");
    app.runner(&["account", "window", "set", "hours", &format!("{day} 09:00-20:00")]).expect_success();
    app.start(campaign);
    app.wait_for("planning", Duration::from_secs(30), async || app.receipt(campaign)["planned"] == 3).await;
    app.invoke("DispatchCampaigns");
    let reason = listed(campaign);
    let expected = format!("outside the sending window of account hours ({day} 09:00-20:00), continues ");
    assert!(reason.as_str().expect("a reason").starts_with(&expected), "{reason}");
    assert_eq!(app.caught("hours.example").count(), 0);

    app.runner(&["account", "window", "remove", "hours"]).expect_success();
    assert_eq!(dispatch_until_over(campaign).await["sent"], 3);
    assert_eq!(app.caught("hours.example").count(), 3);
}
