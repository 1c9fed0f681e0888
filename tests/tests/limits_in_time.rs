//! Limits in time: of an invocation, and of trouble with accounts and servers. What is counted is what the sink took.

use std::time::{Duration, Instant};

use end_to_end::{Campaign, Draft, TestApp, assert_one_each, csv_of, readers, taken};
use serde_json::Value;
use sink::{Manners, Mood, Sink};

fn start(app: &TestApp, account: &str, addresses: impl IntoIterator<Item = String>) -> Campaign {
    let campaign = app.import(&Draft { account, csv: csv_of(addresses), ..Draft::default() });
    app.start(campaign);
    campaign
}

#[tokio::test(flavor = "multi_thread")]
async fn a_soft_limit_hands_the_rest_of_the_batch_back_and_the_next_invocation_sends_it() {
    let app = TestApp::launch("soft", &["EmailSoftTimeoutSeconds=3", "EmailBatchSize=200"]);
    let sink = Sink::start(Manners { delay: Duration::from_millis(100), ..Manners::default() }).await.expect("a sink");
    app.add_account_at(sink.address(), "slow", 1, false);
    let started = Instant::now();
    let campaign = start(&app, "slow", readers("soft.example", 40));
    let receipt = app.wait_until_over(campaign, 60);
    assert_eq!((&receipt["sent"], &receipt["uncertain"]), (&40.into(), &0.into()), "{receipt}");
    assert_one_each(&sink, "soft.example", 40);
    assert!(started.elapsed() > Duration::from_secs(4), "the campaign was over before any limit passed");

    let runs = "select count(*) from nightshift.job_runs where job = 'send-emails' and outcome = 'ok' and $1 > 0";
    assert!(app.count(runs, 1).await >= 2, "one invocation sent everything");
    let overdrawn = "select count(*) from nightshift.job_runs where job = 'send-emails' \
                     and finished_at - started_at > make_interval(secs => $1)";
    assert_eq!(app.count(overdrawn, 6).await, 0, "an invocation went on beyond its soft limit and one mail");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_answers_costs_an_invocation_and_no_mail() {
    let app = TestApp::launch("hard", &["EmailTimeoutSeconds=65", "EmailConcurrency=4"]);
    let sink = Sink::start(Manners::default()).await.expect("a sink");
    app.add_account_at(sink.address(), "mute", 3, false);
    app.add_account_at(sink.address(), "deaf", 3, false);
    // No answer to its content: in flight. No answer to its RCPT: the function hangs before the gate, and is killed.
    let mute = start(&app, "mute", readers("mute.example", 9).chain(["mute-1@mute.example".to_owned()]));
    let deaf = start(&app, "deaf", ["deaf-1@deaf.example".to_owned()].into_iter().chain(readers("deaf.example", 9)));
    app.wait_for("the others", Duration::from_secs(30), async || {
        taken(&sink, "mute.example").len() == 9 && taken(&sink, "deaf.example").len() == 9
    })
    .await;
    let before = app.receipt(deaf);
    assert_eq!((&before["sent"], &before["open"]), (&9.into(), &1.into()), "outcomes wait for no neighbour: {before}");

    let receipt = app.wait_until_over(mute, 90);
    assert_eq!((&receipt["sent"], &receipt["uncertain"]), (&9.into(), &1.into()), "{receipt}");
    assert_one_each(&sink, "mute.example", 9);
    let receipt = app.dispatch_until_over(deaf, Duration::from_secs(90)).await;
    assert_eq!((&receipt["sent"], &receipt["uncertain"]), (&10.into(), &0.into()), "{receipt}");
    assert_one_each(&sink, "deaf.example", 10);
    assert_eq!(app.count(UNFINISHED, 0).await, 1, "one invocation was killed at its hard limit");
}

fn send_single(app: &TestApp, account: &str, to: &str) {
    let mail = ["mail", "send", "--account", account, "--to", to, "--subject", "Hi", "--text", "Good evening"];
    app.runner(&mail).expect_success();
}

/// Single mails that are not over.
const OPEN_SINGLES: &str =
    "select count(*) from nightshift.batches where campaign_id is null and finished_at is null and $1 = 0";

#[tokio::test(flavor = "multi_thread")]
async fn single_mails_have_limits_of_their_own() {
    let app = TestApp::launch("singles-limits", &["SingleEmailSoftTimeoutSeconds=3", "SingleEmailTimeoutSeconds=65"]);
    let sink = Sink::start(Manners { delay: Duration::from_millis(300), ..Manners::default() }).await.expect("a sink");
    // Soft: one connection, and more mails than one invocation can send in its time.
    app.add_account_at(sink.address(), "slow", 1, false);
    for reader in readers("slow.example", 10) {
        send_single(&app, "slow", &reader);
    }
    // Hard: the first mail's server never answers its RCPT, so its function hangs until it is killed.
    app.add_account_at(sink.address(), "deaf", 2, false);
    send_single(&app, "deaf", "deaf-1@deaf.example");
    app.wait_for("the slow ones", Duration::from_secs(60), async || taken(&sink, "slow.example").len() == 10).await;
    let overdrawn = "select count(*) from nightshift.job_runs where job = 'send-emails' and finished_at is not null \
                     and finished_at - started_at > make_interval(secs => $1)";
    assert_eq!(app.count(overdrawn, 8).await, 0, "an invocation went on beyond its soft limit and one mail");
    app.wait_for("all of them", Duration::from_secs(150), async || {
        app.invoke("DispatchCampaigns");
        tokio::time::sleep(Duration::from_millis(500)).await;
        app.count(OPEN_SINGLES, 0).await == 0
    })
    .await;
    assert_one_each(&sink, "slow.example", 10);
    assert_one_each(&sink, "deaf.example", 1);
    // The last ones say how they ended a moment after their mail is over; the one that was killed never does.
    app.wait_for("one invocation alone without an end", Duration::from_secs(20), async || {
        app.count(UNFINISHED, 0).await == 1
    })
    .await;
}

/// Runs that began and never said how they ended.
const UNFINISHED: &str =
    "select count(*) from nightshift.job_runs where job = 'send-emails' and finished_at is null and $1 = 0";

/// What `campaign progress` says.
fn progress(app: &TestApp, campaign: Campaign) -> Value {
    let said = app.runner(&["campaign", "progress", &campaign.id.to_string(), "--json"]).expect_success();
    serde_json::from_str(&said.out).expect("progress in JSON")
}

/// Several pauses long, or as long as `NIGHTSHIFT_TROUBLE_SECONDS` says: 600 for the ten minutes of a bad night.
fn trouble_lasts() -> Duration {
    let seconds = std::env::var("NIGHTSHIFT_TROUBLE_SECONDS").ok();
    Duration::from_secs(seconds.map_or(8, |seconds| seconds.parse().expect("NIGHTSHIFT_TROUBLE_SECONDS is a number")))
}

/// Trouble is visible, burns nobody however long it lasts, and ends by itself.
async fn assert_trouble_passes(app: &TestApp, sink: &Sink, account: &str, mood: Mood, words: &str) {
    let domain = format!("{account}.example");
    sink.set_mood(mood);
    let campaign = start(app, account, readers(&domain, 20));
    app.wait_for("the reason to show", Duration::from_secs(30), async || {
        progress(app, campaign)["reason"].to_string().contains(words)
    })
    .await;
    let list = app.runner(&["account", "list", "--json"]).expect_success().out;
    assert!(list.contains(words), "{words:?} is not in {list}");
    let tries = sink.figures().connections;
    tokio::time::sleep(trouble_lasts()).await;
    let meanwhile = progress(app, campaign);
    assert_eq!((&meanwhile["open"], &meanwhile["refused"]), (&20.into(), &0.into()), "{meanwhile}");
    let burnt =
        "select count(*) from nightshift.deliveries where campaign_id = $1 and (attempts > 0 or state <> 'pending')";
    assert_eq!(app.count(burnt, campaign.id).await, 0, "a recipient was burnt");
    let blamed = "select count(*) from nightshift.batches where campaign_id = $1 and fruitless_claims > 1";
    assert_eq!(app.count(blamed, campaign.id).await, 0, "the batch is blamed for the server");
    // One invocation per pause of two seconds, over up to three connections, and the runner's own try now and then.
    let most = 8 + 5 * trouble_lasts().as_secs();
    assert!(sink.figures().connections - tries <= most, "the server is hammered");

    sink.set_mood(Mood::Well);
    let receipt = app.wait_until_over(campaign, 30);
    assert_eq!((&receipt["sent"], &receipt["uncertain"]), (&20.into(), &0.into()), "{receipt}");
    assert_one_each(sink, &domain, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_a_server_that_is_down_burn_nobody_and_end_by_themselves() {
    let app = TestApp::launch("trouble", &["AccountPauseSeconds=2", "ProviderPauseSeconds=2"]);
    let sink = Sink::start(Manners { wants_login: true, ..Manners::default() }).await.expect("a sink");
    app.add_account_at(sink.address(), "password", 4, true);
    assert_trouble_passes(&app, &sink, "password", Mood::Suspicious, "535").await;
    app.add_account_at(sink.address(), "down", 4, true);
    assert_trouble_passes(&app, &sink, "down", Mood::Down, "connect").await;
}
