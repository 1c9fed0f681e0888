//! Processes that die and queues that forget in mid-campaign. Each test kills what it likes on a runner of its own.

use std::time::Duration;

use end_to_end::{Campaign, Draft, TestApp, csv_of, kill_all};

/// Most connections of one account; what one crash may leave in doubt.
const CONNECTIONS: i64 = 8;
/// Slow recipients make sure that there is a middle of the campaign.
const SLOW: usize = 40;
const QUICK: usize = 360;

/// A running campaign that has sent some of its mails and not all.
async fn a_campaign_in_the_middle(app: &TestApp, domain: &str) -> Campaign {
    let mut addresses = (0..QUICK).map(|number| format!("reader{number:03}@{domain}"));
    let slow = (0..SLOW).map(|number| format!("slow-{number}@{domain}"));
    // Slow ones everywhere in the file: no batch is done at once.
    let mut mixed = vec![];
    for one in slow {
        mixed.extend(addresses.by_ref().take(QUICK / SLOW));
        mixed.push(one);
    }
    let campaign = app.import(&Draft { csv: csv_of(mixed), ..Draft::default() });
    app.start(campaign);
    app.wait_for_mails(domain, 40).await;
    assert!(app.caught(domain).count() < QUICK, "the campaign was over before it could be disturbed");
    campaign
}

/// Everybody has exactly one mail, but for those whose delivery is uncertain: they have one or none, and are few.
async fn assert_nobody_was_lost(app: &TestApp, domain: &str, campaign: Campaign, receipt: &serde_json::Value) {
    let whole = (QUICK + SLOW) as i64;
    let uncertain = receipt["uncertain"].as_i64().expect("a count");
    assert_eq!(receipt["status"], "sent", "{receipt}");
    assert_eq!(receipt["sent"].as_i64().expect("a count") + uncertain, whole, "{receipt}");
    assert!(uncertain <= CONNECTIONS, "{uncertain} uncertain mails over {CONNECTIONS} connections");
    let caught = app.caught(domain);
    caught.assert_nobody_got_two();
    let mut db = app.database().await;
    let sent: Vec<String> =
        sqlx::query_scalar("select email from nightshift.deliveries where campaign_id = $1 and state = 'sent'")
            .bind(campaign.id)
            .fetch_all(&mut db)
            .await
            .expect("the ledger answers");
    for address in &sent {
        assert_eq!(caught.to(address), 1, "{address} counts as sent");
    }
    assert!(caught.count() as i64 >= whole - uncertain);
}

#[tokio::test]
async fn functions_killed_in_mid_batch_lose_nothing_and_it_finishes_by_itself() {
    let app = TestApp::launch("killed", &["EmailBatchSize=50"]);
    let campaign = a_campaign_in_the_middle(&app, "killed.example").await;
    let functions = app.function_processes("send-emails");
    assert!(!functions.is_empty(), "no function runs");
    kill_all(&functions);
    let receipt = app.wait_until_over(campaign, 150);
    assert_nobody_was_lost(&app, "killed.example", campaign, &receipt).await;
}

#[tokio::test]
async fn a_runner_killed_in_mid_campaign_leaves_no_function_and_the_next_one_goes_on() {
    let app = TestApp::launch("runner", &["EmailBatchSize=50"]);
    let campaign = a_campaign_in_the_middle(&app, "runner.example").await;
    let mut functions = app.function_processes("send-emails");
    functions.extend(app.function_processes("dispatch-campaigns"));
    assert!(!functions.is_empty(), "no function runs");
    let servers: Vec<_> = [app.server_processes("postgres"), app.server_processes("redis")].concat();

    app.kill_runner();
    for function in &functions {
        assert!(function.ended_within(Duration::from_secs(3)).await, "a function outlived the runner: {function:?}");
    }
    assert!(servers.iter().any(|server| server.is_alive()), "the servers went with the runner");
    let postmaster = servers.iter().min_by_key(|server| server.start_ticks).expect("servers run");
    app.restart_runner();
    assert!(postmaster.is_alive(), "the servers were replaced, not adopted");

    let receipt = app.dispatch_until_over(campaign, Duration::from_secs(90)).await;
    assert_nobody_was_lost(&app, "runner.example", campaign, &receipt).await;
}

#[tokio::test]
async fn queues_purged_in_mid_campaign_lose_nothing() {
    let app = TestApp::launch("purged", &["EmailBatchSize=20"]);
    let campaign = a_campaign_in_the_middle(&app, "purged.example").await;
    // Once: like SQS, the runner allows one purge of a queue a minute.
    app.purge_queues().await;
    let receipt = app.dispatch_until_over(campaign, Duration::from_secs(90)).await;
    assert_eq!(receipt["sent"], QUICK + SLOW, "no process died, so nothing is in doubt: {receipt}");
    assert_nobody_was_lost(&app, "purged.example", campaign, &receipt).await;
}
