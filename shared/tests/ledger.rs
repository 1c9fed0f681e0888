//! The campaign ledger on a real Postgres: planning, leases, the gate and what dead connections leave behind.

mod ledger_support;

use std::time::Duration;

use chrono::{DateTime, Utc};
use shared::batches::{self, Released};
use shared::campaigns::{self, StartError};
use shared::gate::{self, Answer, Cause, Denial, Outcome, Request, Settled};
use shared::{accounts, suppressions};
use sqlx::PgPool;
use uuid::Uuid;

use ledger_support::{LEASE, Ledger};

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn planning_makes_one_delivery_per_address_and_suppresses_at_once(db: PgPool) {
    let ledger = Ledger::with_draft(db, &["ann@a.test", "bob@a.test", "ANN@a.test", "cid@a.test", "dan@a.test"]).await;
    let bob = ["bob@a.test".parse().expect("address")];
    suppressions::add(&mut ledger.db.acquire().await.expect("connection"), &bob, "spring", "manual")
        .await
        .expect("add");
    campaigns::start(&ledger.db, ledger.campaign, Utc::now()).await.expect("start");
    let planned = ledger.plan(3).await;
    assert_eq!((planned.deliveries, planned.duplicates, planned.suppressed, planned.batches), (4, 1, 1, 2));
    let progress = ledger.progress().await;
    assert_eq!((progress.status.as_str(), progress.open, progress.suppressed), ("sending", 3, 1));
    assert!(campaigns::plan_next_due(&ledger.db, Utc::now(), 3).await.expect("plan").is_none(), "planned once");
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_draft_and_a_campaign_for_later_are_not_planned(db: PgPool) {
    let ledger = Ledger::with_draft(db, &["ann@a.test"]).await;
    let now = Utc::now();
    assert!(campaigns::plan_next_due(&ledger.db, now, 10).await.expect("plan").is_none());
    let tomorrow = now + chrono::Duration::days(1);
    campaigns::start(&ledger.db, ledger.campaign, tomorrow).await.expect("start");
    assert!(campaigns::plan_next_due(&ledger.db, now, 10).await.expect("plan").is_none());
    assert!(campaigns::plan_next_due(&ledger.db, tomorrow, 10).await.expect("plan").is_some());
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_missing_field_stops_the_start_and_sends_a_hosts_campaign_back_to_draft(db: PgPool) {
    let ledger = Ledger::with_draft(db, &["ann@a.test", "bob@a.test"]).await;
    ledger.execute("update nightshift.recipients set fields = '{}' where email = 'bob@a.test'").await;
    let error = campaigns::start(&ledger.db, ledger.campaign, Utc::now()).await.expect_err("refused");
    assert!(matches!(&error, StartError::MissingField { field, count: 1, line: 1 } if field == "name"), "{error}");

    ledger.execute("update nightshift.campaigns set status = 'scheduled', start_at = now()").await;
    let outcome = campaigns::plan_next_due(&ledger.db, Utc::now(), 10).await.expect("plan").expect("due");
    assert!(outcome.is_err());
    let progress = ledger.progress().await;
    assert_eq!(progress.status, "draft");
    assert!(progress.reason.expect("reason").contains("name"));
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_batch_has_one_holder_until_its_lease_runs_out(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test"]).await;
    let batch = ledger.batches().await[0];
    let (one, other) = tokio::join!(
        batches::claim(&ledger.db, batch, Uuid::new_v4(), LEASE),
        batches::claim(&ledger.db, batch, Uuid::new_v4(), LEASE)
    );
    assert_eq!([one.expect("one"), other.expect("other")].iter().flatten().count(), 1);

    ledger.execute("update nightshift.batches set leased_until = now() - interval '1 second'").await;
    assert!(batches::claim(&ledger.db, batch, Uuid::new_v4(), LEASE).await.expect("claim").is_some());
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn an_admitted_mail_is_sending_until_its_outcome_is_recorded(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test", "bob@a.test"]).await;
    let worker = ledger.worker().await;
    assert_eq!(worker.ask("ann@a.test").await, Answer::Admitted { tight: false });
    assert_eq!(ledger.state("ann@a.test").await, "sending");
    worker.settle("ann@a.test", Outcome::Sent).await;
    assert_eq!(ledger.state("ann@a.test").await, "sent");
    assert_eq!(worker.ask("ann@a.test").await, Answer::Denied(Denial::NotOpen), "sent mail never passes again");

    assert_eq!(worker.ask("bob@a.test").await, Answer::Admitted { tight: false });
    worker.settle("bob@a.test", Outcome::Refused(Cause::Address)).await;
    let released = batches::release(&ledger.db, &worker.claimed.lease, None, true).await.expect("release");
    assert_eq!(released, Released::Finished);
    assert_eq!(campaigns::close_finished(&ledger.db).await.expect("close"), [ledger.campaign]);
    let progress = ledger.progress().await;
    assert_eq!((progress.status.as_str(), progress.sent, progress.refused), ("sent", 1, 1));
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_repeated_request_is_admitted_again_without_a_second_attempt(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test"]).await;
    ledger.execute("insert into nightshift.limits (scope, subject, period, maximum) select 'account', id::text, 'day', 1 from nightshift.smtp_accounts").await;
    let worker = ledger.worker().await;
    assert_eq!(worker.ask("ann@a.test").await, Answer::Admitted { tight: true });
    assert_eq!(
        worker.ask("ann@a.test").await,
        Answer::Admitted { tight: false },
        "the answer of the first commit was lost"
    );
    let attempts: i32 =
        sqlx::query_scalar("select attempts from nightshift.deliveries").fetch_one(&ledger.db).await.expect("attempts");
    let used: i64 =
        sqlx::query_scalar("select sum(used) from nightshift.limit_usage").fetch_one(&ledger.db).await.expect("used");
    assert_eq!((attempts, used), (1, 1));
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn nothing_passes_without_the_lease(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test"]).await;
    let worker = ledger.worker().await;
    ledger.execute("update nightshift.batches set leased_until = now() - interval '1 second'").await;
    assert_eq!(worker.ask("ann@a.test").await, Answer::Denied(Denial::LeaseLost), "it ran out");
    let taken_over = ledger.worker().await;
    assert_eq!(worker.ask("ann@a.test").await, Answer::Denied(Denial::LeaseLost), "another has it");
    assert_eq!(taken_over.ask("ann@a.test").await, Answer::Admitted { tight: false });
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_pause_of_campaign_or_account_holds_before_the_next_mail(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test"]).await;
    let worker = ledger.worker().await;
    campaigns::pause(&ledger.db, ledger.campaign, "because").await.expect("pause");
    assert_eq!(worker.ask("ann@a.test").await, Answer::Denied(Denial::Paused));
    campaigns::resume(&ledger.db, ledger.campaign, Utc::now()).await.expect("go on");
    accounts::pause(&ledger.db, ledger.account, 60.0, "login refused").await.expect("pause");
    assert_eq!(worker.ask("ann@a.test").await, Answer::Denied(Denial::Paused));
    let reason = ledger.progress().await.reason.expect("reason");
    assert!(reason.starts_with("account news is paused: login refused, continues "), "{reason}");
    ledger.execute("update nightshift.smtp_accounts set paused_until = now() - interval '1 second'").await;
    assert_eq!(worker.ask("ann@a.test").await, Answer::Admitted { tight: false });
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn an_unsubscribed_recipient_is_stopped_at_the_gate(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test", "bob@a.test", "cid@a.test"]).await;
    let worker = ledger.worker().await;
    // By the rows alone, as a host may write them: the gate must see it although the delivery is still pending.
    ledger
        .execute("insert into nightshift.suppressions (email_normalised, list) values ('ann@a.test', ''), ('bob@a.test', 'spring'), ('cid@a.test', 'other')")
        .await;
    assert_eq!(worker.ask("ann@a.test").await, Answer::Denied(Denial::Suppressed));
    assert_eq!(worker.ask("bob@a.test").await, Answer::Denied(Denial::Suppressed));
    assert_eq!(worker.ask("cid@a.test").await, Answer::Admitted { tight: false }, "another list");
    assert_eq!(ledger.progress().await.suppressed, 2);
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_limit_defers_what_is_over_it_with_a_reason(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test", "bob@b.test", "cid@b.test"]).await;
    ledger
        .execute(
            "insert into nightshift.limits (scope, subject, period, maximum) values ('domain', 'b.test', 'day', 1)",
        )
        .await;
    let worker = ledger.worker().await;
    let mut answers = vec![];
    for email in ["ann@a.test", "bob@b.test", "cid@b.test"] {
        let answer = worker.ask(email).await;
        // Also where it was not admitted: nothing is ever sent past the gate.
        worker.settle(email, Outcome::Sent).await;
        answers.push(answer);
    }
    assert_eq!(
        answers,
        [
            Answer::Admitted { tight: false },
            Answer::Admitted { tight: true },
            Answer::Denied(Denial::Limited("b.test".to_owned()))
        ]
    );
    let (state, reply, next): (String, String, DateTime<Utc>) =
        sqlx::query_as("select state, reply, next_attempt_at from nightshift.deliveries where email = 'cid@b.test'")
            .fetch_one(&ledger.db)
            .await
            .expect("deferred");
    assert_eq!(state, "deferred");
    assert_eq!(reply, "daily limit of domain b.test reached, continues 00:00 UTC");
    assert!(next > Utc::now());
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_connection_holds_one_mail_and_a_second_is_never_admitted_on_it(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test", "bob@a.test"]).await;
    let worker = ledger.worker().await;
    assert_eq!(worker.ask("ann@a.test").await, Answer::Admitted { tight: false });
    let next = Some(ledger.delivery("bob@a.test").await);
    let request = Request { slot: worker.slots[0], settled: vec![], next };
    gate::pass(&ledger.db, &worker.claimed.lease, &[request]).await.expect_err("the slot is taken");
    assert_eq!(ledger.state("bob@a.test").await, "pending", "nothing of the transaction stands");
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_dead_connection_leaves_one_uncertain_mail_and_a_late_answer_settles_it(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test", "bob@a.test"]).await;
    let worker = ledger.worker().await;
    assert_eq!(worker.ask("ann@a.test").await, Answer::Admitted { tight: false });
    assert_eq!(batches::settle_dead_connections(&ledger.db).await.expect("settle"), 0, "it is alive");

    ledger.execute("update nightshift.smtp_connections set leased_until = now() - interval '1 second'").await;
    ledger.execute("update nightshift.batches set leased_until = now() - interval '1 second'").await;
    assert_eq!(batches::settle_dead_connections(&ledger.db).await.expect("settle"), 1);
    assert_eq!(ledger.state("ann@a.test").await, "uncertain");
    assert_eq!(ledger.state("bob@a.test").await, "pending");

    worker.settle("ann@a.test", Outcome::Sent).await;
    assert_eq!(ledger.state("ann@a.test").await, "sent", "the token of the attempt still counts");
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_foreign_token_settles_nothing(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test"]).await;
    let worker = ledger.worker().await;
    assert_eq!(worker.ask("ann@a.test").await, Answer::Admitted { tight: false });
    let mut stranger = worker.claimed.clone();
    stranger.lease.token = Uuid::new_v4();
    let settled = vec![Settled {
        delivery_id: ledger.delivery("ann@a.test").await,
        outcome: Outcome::Sent,
        reply: String::new(),
    }];
    let requests = [Request { slot: worker.slots[0], settled, next: None }];
    gate::pass(&ledger.db, &stranger.lease, &requests).await.expect("gate");
    assert_eq!(ledger.state("ann@a.test").await, "sending");
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn an_account_never_gets_more_connections_than_it_may(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test"]).await;
    let take = |wanted| batches::take_slots(&ledger.db, ledger.account, 0..4, wanted, Uuid::new_v4(), LEASE);
    let (one, two, three) = tokio::join!(take(3), take(3), take(3));
    let taken: Vec<i32> = [one, two, three].into_iter().flat_map(|slots| slots.expect("slots")).collect();
    assert!(taken.len() <= 4, "{taken:?}");
    let distinct: std::collections::BTreeSet<_> = taken.iter().collect();
    assert_eq!(distinct.len(), taken.len());
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn an_early_release_is_due_again_when_its_first_delivery_is(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test", "bob@a.test"]).await;
    let worker = ledger.worker().await;
    assert_eq!(worker.ask("ann@a.test").await, Answer::Admitted { tight: false });
    worker.settle("ann@a.test", Outcome::Deferred(Duration::from_secs(600))).await;
    assert_eq!(worker.ask("bob@a.test").await, Answer::Admitted { tight: false });
    worker.settle("bob@a.test", Outcome::Sent).await;
    let released = batches::release(&ledger.db, &worker.claimed.lease, None, true).await.expect("release");
    let Released::DueAt(due) = released else { panic!("{released:?}") };
    let minutes = (due - Utc::now()).as_seconds_f64() / 60.0;
    assert!((9.0..=10.5).contains(&minutes), "{minutes}");
    assert!(ledger.progress().await.deferred == 1);
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_mail_that_met_trouble_of_the_account_comes_later_and_loses_no_try(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test", "bob@a.test"]).await;
    let worker = ledger.worker().await;
    assert_eq!(worker.ask("ann@a.test").await, Answer::Admitted { tight: false });
    // One had passed the gate, the other had not.
    for email in ["ann@a.test", "bob@a.test"] {
        worker.settle(email, Outcome::Returned(Duration::from_secs(60))).await;
        let (state, attempts, returned, waits): (String, i32, i32, f64) = sqlx::query_as(
            "select state, attempts, returned, extract(epoch from next_attempt_at - now())::float8
             from nightshift.deliveries where email = $1",
        )
        .bind(email)
        .fetch_one(&ledger.db)
        .await
        .expect("row");
        assert_eq!((state.as_str(), attempts, returned), ("deferred", 0, 1), "{email}");
        assert!((50.0..=60.0).contains(&waits), "{email}: {waits}");
    }
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_suppression_takes_back_what_is_still_open(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test", "bob@a.test"]).await;
    let ann = ["Ann@A.test".parse().expect("address")];
    let mut connection = ledger.db.acquire().await.expect("connection");
    assert_eq!(suppressions::add(&mut connection, &ann, "", "unsubscribed").await.expect("add"), 1);
    assert_eq!(suppressions::add(&mut connection, &ann, "", "unsubscribed").await.expect("again"), 0);
    assert_eq!(ledger.state("ann@a.test").await, "suppressed");
    assert_eq!(ledger.state("bob@a.test").await, "pending");
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_tick_runs_once_and_again_only_after_it_failed(db: PgPool) {
    use shared::job_runs::{self, Trigger, evidence};
    let tick = Trigger::Schedule("2026-01-01T00:00:00Z".parse().expect("time"));
    let start = || job_runs::start(&db, "job", tick, Duration::from_secs(600));
    let run = start().await.expect("start").expect("first");
    assert_eq!(start().await.expect("second"), None, "it runs");
    job_runs::finish(&db, run, &serde_json::json!({}), Some("no luck")).await.expect("finish");
    let again = start().await.expect("third").expect("it failed");
    assert_eq!(evidence(&db, "job").await.expect("evidence").last_success, None);
    job_runs::finish(&db, again, &serde_json::json!({"sent": 1}), None).await.expect("finish");
    assert_eq!(start().await.expect("fourth"), None, "it succeeded");
    assert!(evidence(&db, "job").await.expect("evidence").last_success.is_some());
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_batch_of_a_paused_campaign_is_not_claimed(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test"]).await;
    campaigns::pause(&ledger.db, ledger.campaign, "because").await.expect("pause");
    let batch = ledger.batches().await[0];
    assert!(batches::claim(&ledger.db, batch, Uuid::new_v4(), LEASE).await.expect("claim").is_none());
}
