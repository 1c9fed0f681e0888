//! The monitor on a real Postgres: what counts as stuck, and what resuming does and leaves alone.

mod ledger_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use shared::batches::{self, Timing};
use shared::campaigns;
use shared::gate::{Answer, Cause, Outcome};
use shared::monitor::{self, FRUITLESS_CLAIMS, Halved, NO_PROGRESS, Report, Resumed, Why};
use shared::queue::{self, BatchQueues, Queue};
use sqlx::PgPool;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use uuid::Uuid;

use ledger_support::{LEASE, Ledger};

const TIMING: Timing = Timing { lease: LEASE, ring_again: Duration::from_secs(60) };

fn minutes(minutes: i64) -> chrono::Duration {
    chrono::Duration::minutes(minutes)
}

async fn report_at(ledger: &Ledger, now: DateTime<Utc>) -> Report {
    monitor::judge(&monitor::look(&ledger.db).await.expect("look"), now, NO_PROGRESS)
}

/// Makes everything recorded so far this much older, as if the campaign had started then.
async fn age_everything(ledger: &Ledger, minutes: i32) {
    for statement in [
        "update nightshift.campaigns set start_at = start_at - make_interval(mins => $1), started_at = started_at - make_interval(mins => $1)",
        "update nightshift.batches set due_at = due_at - make_interval(mins => $1), leased_until = leased_until - make_interval(mins => $1), finished_at = finished_at - make_interval(mins => $1), rung_at = rung_at - make_interval(mins => $1)",
        "update nightshift.deliveries set attempted_at = attempted_at - make_interval(mins => $1), settled_at = settled_at - make_interval(mins => $1), next_attempt_at = next_attempt_at - make_interval(mins => $1)",
        "update nightshift.smtp_connections set leased_until = leased_until - make_interval(mins => $1)",
    ] {
        sqlx::query(statement).bind(minutes).execute(&ledger.db).await.expect(statement);
    }
}

/// Queues that accept all messages and count them.
async fn counting_queues() -> (BatchQueues, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let endpoint = format!("http://{}", listener.local_addr().expect("address"));
    let messages = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&messages);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer_sends(BufReader::new(stream), Arc::clone(&counter)));
        }
    });
    let queue = |name| Queue::new(queue::client_for_endpoint(&endpoint), format!("{endpoint}/000000000000/{name}"));
    (BatchQueues { email: queue("email"), transactional: queue("transactional") }, messages)
}

async fn answer_sends(mut stream: BufReader<tokio::net::TcpStream>, messages: Arc<AtomicUsize>) {
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.is_ok_and(|read| read == 0) {
                return;
            }
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("length");
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.expect("body");
        let request: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        let entries = request["Entries"].as_array().expect("entries");
        messages.fetch_add(entries.len(), Ordering::SeqCst);
        let sent: Vec<_> = entries
            .iter()
            .map(|entry| serde_json::json!({"Id": entry["Id"], "MessageId": Uuid::new_v4(), "MD5OfMessageBody": ""}))
            .collect();
        let answer = serde_json::json!({"Successful": sent, "Failed": []}).to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        stream.get_mut().write_all(format!("{head}{answer}").as_bytes()).await.expect("answer");
    }
}

/// Every row that resuming could touch, as text.
async fn snapshot(db: &PgPool) -> Vec<String> {
    sqlx::query_scalar(
        "select c::text from nightshift.campaigns c
         union all select b::text from nightshift.batches b
         union all select d::text from nightshift.deliveries d
         union all select s::text from nightshift.smtp_connections s
         union all select a::text from nightshift.smtp_accounts a
         order by 1",
    )
    .fetch_all(db)
    .await
    .expect("snapshot")
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_campaign_of_any_age_with_recent_progress_is_not_stuck(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test", "bob@a.test"]).await;
    age_everything(&ledger, 300).await;
    let worker = ledger.worker().await;
    assert_eq!(worker.ask("ann@a.test").await, Answer::Admitted { tight: false });
    worker.settle("ann@a.test", Outcome::Sent).await;
    batches::release(&ledger.db, &worker.claimed.lease, None, true).await.expect("release");
    let now = Utc::now();
    assert!(!report_at(&ledger, now).await.stuck);
    assert!(!report_at(&ledger, now + minutes(14)).await.stuck);
    let report = report_at(&ledger, now + minutes(16)).await;
    assert!(report.stuck, "the last outcome is 16 minutes ago");
    assert_eq!(report.campaigns[0].why, Why::NotTaken);
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_due_campaign_without_an_outcome_is_stuck_also_while_functions_hold_it(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test"]).await;
    age_everything(&ledger, 20).await;
    let report = report_at(&ledger, Utc::now()).await;
    assert_eq!((report.campaigns[0].campaign_id, report.campaigns[0].open), (ledger.campaign, 1));
    assert_eq!(report.campaigns[0].why, Why::NotTaken);
    assert!((19..=20).contains(&(report.checked_at - report.campaigns[0].since).num_minutes()));

    ledger.worker().await;
    let report = report_at(&ledger, Utc::now()).await;
    assert_eq!(report.campaigns[0].why, Why::HeldWithoutOutcome, "a lease is no progress");
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn what_is_deferred_into_the_future_is_not_stuck_and_its_clock_starts_when_it_is_due(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test", "bob@a.test"]).await;
    let worker = ledger.worker().await;
    for email in ["ann@a.test", "bob@a.test"] {
        assert_eq!(worker.ask(email).await, Answer::Admitted { tight: false });
        worker.settle(email, Outcome::Deferred(Duration::from_secs(6 * 3600))).await;
    }
    batches::release(&ledger.db, &worker.claimed.lease, None, true).await.expect("release");
    let now = Utc::now();
    assert!(!report_at(&ledger, now + minutes(5 * 60)).await.stuck);
    assert!(!report_at(&ledger, now + minutes(6 * 60 + 10)).await.stuck);
    assert!(report_at(&ledger, now + minutes(6 * 60 + 20)).await.stuck);
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_paused_account_is_reported_and_holds_nobody_up(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test"]).await;
    age_everything(&ledger, 60).await;
    shared::accounts::pause(&ledger.db, ledger.account, 3600.0, "login refused").await.expect("pause");
    let now = Utc::now();
    let report = report_at(&ledger, now).await;
    assert!(!report.stuck);
    let paused = &report.paused_accounts[0];
    assert_eq!(
        (paused.reason.as_deref(), paused.campaigns.as_slice()),
        (Some("login refused"), &[ledger.campaign][..])
    );
    assert!(paused.again_and_again, "nothing has left through it for an hour");
    assert!(!report_at(&ledger, now + minutes(70)).await.stuck, "the pause ended ten minutes ago");
    assert!(report_at(&ledger, now + minutes(80)).await.stuck, "and twenty");
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_paused_campaign_is_not_stuck_and_has_its_time_when_it_goes_on(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test"]).await;
    age_everything(&ledger, 60).await;
    campaigns::pause(&ledger.db, ledger.campaign, "because").await.expect("pause");
    assert!(!report_at(&ledger, Utc::now()).await.stuck);
    campaigns::resume(&ledger.db, ledger.campaign, Utc::now()).await.expect("go on");
    let now = Utc::now();
    assert!(!report_at(&ledger, now).await.stuck);
    assert!(report_at(&ledger, now + minutes(16)).await.stuck);
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_campaign_that_nobody_plans_is_stuck_and_one_for_later_is_not(db: PgPool) {
    let ledger = Ledger::with_draft(db, &["ann@a.test"]).await;
    assert!(!report_at(&ledger, Utc::now()).await.stuck, "a draft");
    let start = Utc::now() + minutes(60);
    campaigns::start(&ledger.db, ledger.campaign, start).await.expect("start");
    assert!(!report_at(&ledger, Utc::now()).await.stuck);
    assert_eq!(report_at(&ledger, start + minutes(16)).await.campaigns[0].why, Why::NotPlanned);
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn looking_changes_nothing(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test", "bob@a.test"]).await;
    assert_eq!(ledger.worker().await.ask("ann@a.test").await, Answer::Admitted { tight: false });
    age_everything(&ledger, 30).await;
    let before = snapshot(&ledger.db).await;
    let report = report_at(&ledger, Utc::now()).await;
    assert!(report.stuck);
    assert_eq!((report.leases.len(), report.in_flight.len()), (1, 1));
    assert_eq!(report.campaigns[0].why, Why::LeasesRanOut);
    assert_eq!(snapshot(&ledger.db).await, before);
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn resuming_gives_a_dead_functions_batch_back_and_a_second_time_changes_nothing(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test", "bob@a.test"]).await;
    assert_eq!(ledger.worker().await.ask("ann@a.test").await, Answer::Admitted { tight: false });
    age_everything(&ledger, 30).await;
    let (queues, messages) = counting_queues().await;

    let done = monitor::resume(&ledger.db, &queues, TIMING).await.expect("resume");
    assert_eq!(done, Resumed { settled: 1, leases_cleared: 1, rung: 1, ..Resumed::default() });
    assert_eq!(messages.load(Ordering::SeqCst), 1);
    assert_eq!(ledger.state("ann@a.test").await, "uncertain", "it may have arrived: nobody sends it again unasked");
    assert_eq!(ledger.state("bob@a.test").await, "pending");

    let before = snapshot(&ledger.db).await;
    let again = monitor::resume(&ledger.db, &queues, TIMING).await.expect("resume again");
    assert_eq!(again, Resumed::default());
    assert_eq!(messages.load(Ordering::SeqCst), 1);
    assert_eq!(snapshot(&ledger.db).await, before);

    assert_eq!(ledger.worker().await.ask("bob@a.test").await, Answer::Admitted { tight: false });
    ledger.progress().await;
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn resuming_leaves_a_living_function_its_work(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test", "bob@a.test"]).await;
    let worker = ledger.worker().await;
    assert_eq!(worker.ask("ann@a.test").await, Answer::Admitted { tight: false });
    ledger.execute("update nightshift.batches set fruitless_claims = 9").await;
    let (queues, _) = counting_queues().await;
    assert_eq!(monitor::resume(&ledger.db, &queues, TIMING).await.expect("resume"), Resumed::default());
    worker.settle("ann@a.test", Outcome::Sent).await;
    assert_eq!(worker.ask("bob@a.test").await, Answer::Admitted { tight: false });
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn resuming_closes_what_is_finished(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test"]).await;
    let worker = ledger.worker().await;
    assert_eq!(worker.ask("ann@a.test").await, Answer::Admitted { tight: false });
    worker.settle("ann@a.test", Outcome::Refused(Cause::Address)).await;
    batches::release(&ledger.db, &worker.claimed.lease, None, true).await.expect("release");
    age_everything(&ledger, 20).await;
    assert_eq!(report_at(&ledger, Utc::now()).await.campaigns[0].why, Why::NotClosed);
    let (queues, _) = counting_queues().await;
    let done = monitor::resume(&ledger.db, &queues, TIMING).await.expect("resume");
    assert_eq!(done.closed, [ledger.campaign]);
    assert_eq!(ledger.progress().await.status, "sent");
}

/// Claims the batch until it counts as killing, each time without a word of how it ended.
async fn die_in(ledger: &Ledger, batch_id: i64) {
    for _ in 0..FRUITLESS_CLAIMS {
        batches::claim(&ledger.db, batch_id, Uuid::new_v4(), LEASE).await.expect("claim").expect("free");
        sqlx::query("update nightshift.batches set leased_until = now() - interval '1 second' where id = $1")
            .bind(batch_id)
            .execute(&ledger.db)
            .await
            .expect("run out");
    }
}

async fn batch_of(ledger: &Ledger, email: &str) -> i64 {
    sqlx::query_scalar("select batch_id from nightshift.deliveries where email = $1")
        .bind(email)
        .fetch_one(&ledger.db)
        .await
        .expect("batch")
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn halving_ends_at_the_one_mail_that_kills_and_all_others_stay_open(db: PgPool) {
    let recipients = ["a@a.test", "b@a.test", "c@a.test", "killer@a.test", "e@a.test", "f@a.test", "g@a.test"];
    let ledger = Ledger::sending(db, &recipients).await;
    let (queues, _) = counting_queues().await;
    let mut rounds = 0;
    while ledger.state("killer@a.test").await == "pending" {
        rounds += 1;
        assert!(rounds <= 4, "seven are halved three times, then the last one is held");
        die_in(&ledger, batch_of(&ledger, "killer@a.test").await).await;
        let report = report_at(&ledger, Utc::now()).await;
        assert!(report.stuck);
        assert_eq!(report.killers.len(), 1);
        monitor::resume(&ledger.db, &queues, TIMING).await.expect("resume");
        let again = monitor::resume(&ledger.db, &queues, TIMING).await.expect("resume again");
        assert_eq!((again.halved, again.held.len()), (0, 0), "its parts start afresh");
    }
    let held: Vec<(String, String)> =
        sqlx::query_as("select email, cause from nightshift.deliveries where state = 'refused'")
            .fetch_all(&ledger.db)
            .await
            .expect("held");
    assert_eq!(held, [("killer@a.test".to_owned(), "poison".to_owned())]);
    let progress = ledger.progress().await;
    assert_eq!((progress.planned, progress.refused, progress.open), (7, 1, 6));
    // Each of the others is pending, in a batch that can be claimed.
    let open: i64 = sqlx::query_scalar(
        "select count(*) from nightshift.deliveries d join nightshift.batches b on b.id = d.batch_id
         where d.state = 'pending' and b.finished_at is null and b.leased_until is null and b.fruitless_claims = 0",
    )
    .fetch_one(&ledger.db)
    .await
    .expect("open");
    assert_eq!(open, 6);
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn the_last_open_mail_of_a_batch_is_tried_alone_before_it_is_held(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test", "bob@a.test"]).await;
    let worker = ledger.worker().await;
    assert_eq!(worker.ask("ann@a.test").await, Answer::Admitted { tight: false });
    worker.settle("ann@a.test", Outcome::Sent).await;
    batches::release(&ledger.db, &worker.claimed.lease, None, true).await.expect("release");
    let old = ledger.batches().await[0];
    die_in(&ledger, old).await;
    let halved = monitor::halve(&ledger.db, old).await.expect("halve");
    let Some(Halved::Moved { to, deliveries: 1 }) = halved else { panic!("{halved:?}") };
    assert_eq!(ledger.state("bob@a.test").await, "pending");
    assert_eq!(monitor::halve(&ledger.db, old).await.expect("finished"), None);
    die_in(&ledger, to).await;
    let delivery_id = ledger.delivery("bob@a.test").await;
    assert_eq!(monitor::halve(&ledger.db, to).await.expect("hold"), Some(Halved::Held { delivery_id }));
    assert_eq!(campaigns::close_finished(&ledger.db).await.expect("close"), [ledger.campaign]);
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn two_monitors_halve_a_batch_once(db: PgPool) {
    let ledger = Ledger::sending(db, &["a@a.test", "b@a.test", "c@a.test", "d@a.test"]).await;
    let batch = ledger.batches().await[0];
    die_in(&ledger, batch).await;
    let (one, other) = tokio::join!(monitor::halve(&ledger.db, batch), monitor::halve(&ledger.db, batch));
    assert_eq!([one.expect("one"), other.expect("other")].iter().flatten().count(), 1);
    assert_eq!(ledger.batches().await.len(), 2);
    ledger.progress().await;
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_batch_with_a_mail_in_flight_is_not_halved_before_that_is_settled(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test", "bob@a.test"]).await;
    let worker = ledger.worker().await;
    assert_eq!(worker.ask("ann@a.test").await, Answer::Admitted { tight: false });
    ledger
        .execute("update nightshift.batches set fruitless_claims = 5, leased_until = now() - interval '1 second'")
        .await;
    let batch = ledger.batches().await[0];
    assert_eq!(monitor::halve(&ledger.db, batch).await.expect("halve"), None);
    worker.settle("ann@a.test", Outcome::Sent).await;
    assert!(matches!(monitor::halve(&ledger.db, batch).await.expect("halve"), Some(Halved::Moved { .. })));
    assert_eq!(worker.ask("bob@a.test").await, Answer::Denied(shared::gate::Denial::LeaseLost));
}
