//! Limits and sending windows at the gate, on a real Postgres, and why a campaign waits.

mod ledger_support;

use chrono::{DateTime, Utc};
use shared::batches;
use shared::campaigns;
use shared::gate::{self, Answer, Clock, Denial, Outcome, Request};
use shared::limits::{self, Period, Scope, Subject, Wait, Window};
use sqlx::PgPool;

use ledger_support::{LEASE, Ledger, Worker};

impl Ledger {
    fn account_limits(&self) -> Subject {
        Subject { scope: Scope::Account, key: self.account.to_string() }
    }

    async fn limit(&self, subject: &Subject, maximum: i32) {
        limits::set(&self.db, subject, Period::Day, maximum).await.expect("limit");
    }

    async fn window(&self, window: &str) {
        let window: Window = window.parse().expect("window");
        limits::set_window(&self.db, self.account, Some(&window)).await.expect("window");
    }

    async fn states(&self) -> Vec<String> {
        sqlx::query_scalar("select state from nightshift.deliveries order by email")
            .fetch_all(&self.db)
            .await
            .expect("states")
    }

    async fn listed_reason(&self) -> Option<String> {
        campaigns::list(&self.db, None, 10).await.expect("list").remove(0).reason
    }
}

impl Worker<'_> {
    async fn ask_at(&self, email: &str, now: &str) -> Answer {
        let next = Some(self.ledger.delivery(email).await);
        let request = [Request { slot: self.slots[0], settled: vec![], next }];
        let clock = Clock::Given(now.parse().expect("time"));
        gate::pass_at(&self.ledger.db, &self.claimed.lease, &request, clock).await.expect("gate").remove(0)
    }
}

fn domain(name: &str) -> Subject {
    Subject { scope: Scope::Domain, key: name.to_owned() }
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().expect("time")
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_closed_window_holds_the_whole_batch_and_says_until_when(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test", "bob@a.test"]).await;
    ledger.window("mon-fri 09:00-20:00").await;
    ledger.execute("update nightshift.smtp_accounts set time_zone = 'Europe/Berlin'").await;
    let worker = ledger.worker().await;
    // The Sunday on which the clocks go forward.
    let wait = Wait {
        until: time("2026-03-30T07:00:00Z"),
        reason: "outside the sending window of account news (mon-fri 09:00-20:00), continues 09:00 Europe/Berlin"
            .to_owned(),
    };
    let sunday = worker.ask_at("ann@a.test", "2026-03-29T12:00:00Z").await;
    assert_eq!(sunday, Answer::Denied(Denial::Waits(wait)));
    assert_eq!(ledger.states().await, ["pending", "pending"], "nothing is written about any mail");
    let monday = worker.ask_at("ann@a.test", "2026-03-30T07:00:00Z").await;
    assert_eq!(monday, Answer::Admitted { tight: false });
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_campaigns_own_window_counts_within_the_accounts(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test"]).await;
    ledger.window("09:00-20:00").await;
    ledger.execute("update nightshift.campaigns set sending_window = '19:00-23:00'").await;
    let worker = ledger.worker().await;
    for (now, open) in
        [("2026-03-10T12:00:00Z", false), ("2026-03-10T21:00:00Z", false), ("2026-03-10T19:30:00Z", true)]
    {
        let answer = worker.ask_at("ann@a.test", now).await;
        assert_eq!(answer == Answer::Admitted { tight: false }, open, "{now}: {answer:?}");
    }
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn what_is_no_window_does_not_get_into_the_table(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test"]).await;
    for (text, fine) in [
        ("mon-fri 09:00-20:00", true),
        ("08:00-24:00", true),
        ("Mon 22:00-06:00, sat-sun 10:00-12:00", true),
        ("monday 09:00-20:00", false),
        ("09:00-25:00", false),
        ("24:00-08:00", false),
        ("9-20", false),
        ("", false),
    ] {
        let written =
            sqlx::query("update nightshift.campaigns set sending_window = $1").bind(text).execute(&ledger.db).await;
        assert_eq!(written.is_ok(), fine, "{text:?}");
        assert_eq!(text.parse::<Window>().is_ok(), fine, "table and code read {text:?} alike");
    }
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn an_account_without_room_holds_the_batch_with_a_readable_reason(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test", "bob@b.test", "cid@c.test"]).await;
    ledger.limit(&ledger.account_limits(), 1).await;
    let worker = ledger.worker().await;
    assert_eq!(worker.ask("ann@a.test").await, Answer::Admitted { tight: true });
    worker.settle("ann@a.test", Outcome::Sent).await;
    let Answer::Denied(Denial::Waits(wait)) = worker.ask("bob@b.test").await else { panic!("it has no room") };
    assert_eq!(wait.reason, "daily limit of account news reached, continues 00:00 UTC");
    assert_eq!(ledger.states().await, ["sent", "pending", "pending"], "no mail is deferred by itself");

    let progress = ledger.progress().await;
    assert_eq!(progress.reason.as_deref(), Some(wait.reason.as_str()));
    assert_eq!(progress.waits_until, Some(wait.until));
    assert_eq!(ledger.listed_reason().await.as_deref(), Some(wait.reason.as_str()));

    batches::release(&ledger.db, &worker.claimed.lease, Some(wait.until), true).await.expect("release");
    let due = "select count(*) from nightshift.batches where due_at <= now()";
    let count = async || sqlx::query_scalar::<_, i64>(due).fetch_one(&ledger.db).await.expect("due");
    assert_eq!(count().await, 0, "the batch waits as a whole");
    ledger.limit(&ledger.account_limits(), 2).await;
    assert_eq!(count().await, 1, "a higher limit is used at once");
    assert_eq!(ledger.progress().await.reason, None);
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_domain_without_room_defers_all_its_mails_of_the_batch_and_no_others(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@b.test", "bob@b.test", "cid@b.test", "dan@a.test"]).await;
    ledger.limit(&domain("b.test"), 1).await;
    let worker = ledger.worker().await;
    assert_eq!(worker.ask("ann@b.test").await, Answer::Admitted { tight: true });
    worker.settle("ann@b.test", Outcome::Sent).await;
    assert_eq!(worker.ask("bob@b.test").await, Answer::Denied(Denial::Limited("b.test".to_owned())));
    assert_eq!(ledger.states().await, ["sent", "deferred", "deferred", "pending"]);
    assert_eq!(worker.ask("dan@a.test").await, Answer::Admitted { tight: false });
    worker.settle("dan@a.test", Outcome::Sent).await;
    assert_eq!(ledger.state("dan@a.test").await, "sent");
    batches::release(&ledger.db, &worker.claimed.lease, None, true).await.expect("release");
    let reason = ledger.progress().await.reason.expect("only deferred mails are left");
    assert_eq!(reason, "all open mails are deferred: daily limit of domain b.test reached, continues 00:00 UTC");

    assert!(limits::remove(&ledger.db, &domain("b.test"), Period::Day).await.expect("remove"));
    assert!(!limits::remove(&ledger.db, &domain("b.test"), Period::Day).await.expect("remove"), "it is gone");
    let due = "select count(*) from nightshift.deliveries where next_attempt_at <= now() and state = 'deferred'";
    let due: i64 = sqlx::query_scalar(due).fetch_one(&ledger.db).await.expect("due");
    assert_eq!(due, 2, "without the limit nobody waits for it");
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn an_owner_without_room_holds_only_their_own(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test", "bob@a.test"]).await;
    ledger.execute("update nightshift.campaigns set owner = 'anna'").await;
    ledger.limit(&Subject { scope: Scope::User, key: "bert".to_owned() }, 1).await;
    ledger.limit(&Subject { scope: Scope::User, key: "anna".to_owned() }, 1).await;
    let worker = ledger.worker().await;
    assert_eq!(worker.ask("ann@a.test").await, Answer::Admitted { tight: true });
    worker.settle("ann@a.test", Outcome::Sent).await;
    assert!(matches!(worker.ask("bob@a.test").await, Answer::Denied(Denial::Waits(_))));
    assert_eq!(ledger.listed_reason().await.as_deref(), Some("daily limit of user anna reached, continues 00:00 UTC"));
    ledger.execute("update nightshift.campaigns set owner = 'bert'").await;
    assert_eq!(worker.ask("bob@a.test").await, Answer::Admitted { tight: true });
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_dead_functions_lease_is_named_with_its_end(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test"]).await;
    let worker = ledger.worker().await;
    assert_eq!(ledger.progress().await.reason, None, "it has just been claimed");
    ledger.execute("update nightshift.batches set leased_until = now() + interval '20 seconds'").await;
    let progress = ledger.progress().await;
    let reason = progress.reason.expect("nobody has renewed it for 40 of 60 seconds");
    assert!(reason.starts_with("waiting for the lease of a function that ended to run out at "), "{reason}");
    assert!(progress.waits_until.expect("an end") > Utc::now());

    assert!(batches::renew(&ledger.db, &worker.claimed.lease).await.expect("renew"));
    assert_eq!(ledger.progress().await.reason, None, "it lives");
}

const BATCHES_AGE: &str =
    "update nightshift.batches set leased_until = leased_until - interval '45 seconds' where leased_until is not null";
const CONNECTIONS_AGE: &str =
    "update nightshift.smtp_connections set leased_until = leased_until - interval '45 seconds'";

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_campaign_with_free_batches_says_that_a_dead_function_has_the_connections(db: PgPool) {
    let ledger = Ledger::with_draft(db, &["ann@a.test", "bob@a.test"]).await;
    campaigns::start(&ledger.db, ledger.campaign, Utc::now()).await.expect("start");
    ledger.plan(1).await;
    let claimed = ledger.claim(LEASE).await;
    batches::take_slots(&ledger.db, ledger.account, 1..4, 3, claimed.lease.token, LEASE).await.expect("slots");
    assert_eq!(ledger.progress().await.reason, None, "it has just been claimed");

    ledger.execute(BATCHES_AGE).await;
    ledger.execute(CONNECTIONS_AGE).await;
    let reason = ledger.progress().await.reason.expect("no sign of life for 45 of 60 seconds");
    assert!(reason.starts_with("waiting for the connections of a function that ended, free again at "), "{reason}");

    ledger.execute(BATCHES_AGE).await;
    ledger.execute(CONNECTIONS_AGE).await;
    ledger.execute("update nightshift.batches set due_at = now() - interval '1 minute'").await;
    let reason = ledger.progress().await.reason.expect("nobody has come");
    assert!(
        reason.contains("the lease of a function that ended ran out") || reason.contains("the next dispatch"),
        "{reason}"
    );
}
