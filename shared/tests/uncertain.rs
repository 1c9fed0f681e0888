//! Mails in doubt on a real Postgres: what policies make of them, and a person's word.

mod ledger_support;

use std::time::Duration;

use chrono::{DateTime, Utc};
use shared::address::EmailAddress;
use shared::batches::{self, Released};
use shared::campaigns;
use shared::gate::{Answer, Outcome};
use shared::uncertain::{self, ANSWER_MAY_COME, Doubt, Resolution, ResolveError};
use sqlx::PgPool;
use uuid::Uuid;

use ledger_support::{Ledger, Worker};

impl Ledger {
    async fn policy(&self, policy: &'static str) {
        sqlx::query("update nightshift.campaigns set uncertain_policy = $1")
            .bind(policy)
            .execute(&self.db)
            .await
            .expect("policy");
    }

    /// The function that holds batch and connections is gone, and its leases have run out.
    async fn let_leases_run_out(&self) {
        self.execute("update nightshift.smtp_connections set leased_until = now() - interval '1 second'").await;
        self.execute("update nightshift.batches set leased_until = now() - interval '1 second'").await;
    }

    /// Twenty minutes pass for what was handed over.
    async fn no_answer_can_come_any_more(&self) {
        self.execute(
            "update nightshift.deliveries
             set attempted_at = attempted_at - interval '21 minutes',
                 next_attempt_at = next_attempt_at - interval '21 minutes'",
        )
        .await;
    }

    async fn public_id(&self, email: &str) -> Uuid {
        sqlx::query_scalar("select public_id from nightshift.deliveries where email = $1")
            .bind(email)
            .fetch_one(&self.db)
            .await
            .expect("public id")
    }

    async fn doubts(&self) -> Vec<Doubt> {
        uncertain::list(&self.db, self.campaign).await.expect("list").expect("campaign").mails
    }

    /// A campaign that is over but for one mail in doubt, to `ann@a.test`.
    async fn over_with_a_doubt(db: PgPool) -> Self {
        let ledger = Self::sending(db, &["ann@a.test", "bob@a.test"]).await;
        let worker = ledger.worker().await;
        worker.try_to("ann@a.test", Outcome::Uncertain).await;
        worker.try_to("bob@a.test", Outcome::Sent).await;
        let released = batches::release(&ledger.db, &worker.claimed.lease, None, true).await.expect("release");
        assert_eq!(released, Released::Finished);
        batches::free_slots(&ledger.db, ledger.account, worker.claimed.lease.token).await.expect("slots");
        assert_eq!(campaigns::close_finished(&ledger.db).await.expect("close"), [ledger.campaign]);
        ledger
    }
}

impl Worker<'_> {
    async fn try_to(&self, email: &str, outcome: Outcome) {
        assert_eq!(self.ask(email).await, Answer::Admitted { tight: false });
        self.settle(email, outcome).await;
    }
}

fn address(text: &str) -> EmailAddress {
    text.parse().expect("address")
}

/// When the only deferred mail is due, after its attempt.
async fn wait_after_attempt(db: &PgPool) -> chrono::Duration {
    let (attempted, next): (DateTime<Utc>, DateTime<Utc>) =
        sqlx::query_as("select attempted_at, next_attempt_at from nightshift.deliveries where state = 'deferred'")
            .fetch_one(db)
            .await
            .expect("one deferred mail");
    next - attempted
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn under_hold_a_doubt_stays_until_the_late_answer(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test"]).await;
    let worker = ledger.worker().await;
    assert_eq!(worker.ask("ann@a.test").await, Answer::Admitted { tight: false });
    ledger.let_leases_run_out().await;
    assert_eq!(batches::settle_dead_connections(&ledger.db).await.expect("settle"), 1);
    assert_eq!(ledger.state("ann@a.test").await, "uncertain");
    assert_eq!(ledger.progress().await.uncertain, 1);
    assert!(ledger.doubts().await[0].reply.as_deref().expect("reply").contains("connection 0"));
    worker.settle("ann@a.test", Outcome::Sent).await;
    assert_eq!(ledger.state("ann@a.test").await, "sent");
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn under_count_as_sent_a_doubt_is_sent_whoever_had_it(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test", "bob@a.test"]).await;
    ledger.policy("count_as_sent").await;
    let worker = ledger.worker().await;
    worker.try_to("bob@a.test", Outcome::Uncertain).await;
    assert_eq!(ledger.state("bob@a.test").await, "sent", "recorded by the living process");
    assert_eq!(worker.ask("ann@a.test").await, Answer::Admitted { tight: false });
    ledger.let_leases_run_out().await;
    assert_eq!(batches::settle_dead_connections(&ledger.db).await.expect("settle"), 1);
    assert_eq!(ledger.state("ann@a.test").await, "sent", "left by a dead one");
    assert_eq!(ledger.progress().await.sent, 2);
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn under_resend_a_doubt_waits_until_no_answer_can_come_and_keeps_its_message_id(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test"]).await;
    ledger.policy("resend").await;
    let public_id = ledger.public_id("ann@a.test").await;
    let worker = ledger.worker().await;
    assert_eq!(worker.ask("ann@a.test").await, Answer::Admitted { tight: false });
    ledger.let_leases_run_out().await;
    batches::settle_dead_connections(&ledger.db).await.expect("settle");
    assert_eq!(wait_after_attempt(&ledger.db).await, ANSWER_MAY_COME);
    let next = ledger.worker().await;
    let released = batches::release(&ledger.db, &next.claimed.lease, None, true).await.expect("release");
    assert!(
        matches!(released, Released::DueAt(due) if due > Utc::now() + chrono::Duration::minutes(19)),
        "{released:?}"
    );

    ledger.no_answer_can_come_any_more().await;
    let next = ledger.worker().await;
    next.try_to("ann@a.test", Outcome::Sent).await;
    assert_eq!(ledger.state("ann@a.test").await, "sent");
    assert_eq!(ledger.public_id("ann@a.test").await, public_id);
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn under_resend_a_late_answer_keeps_the_mail_from_being_sent_again(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test"]).await;
    ledger.policy("resend").await;
    let worker = ledger.worker().await;
    assert_eq!(worker.ask("ann@a.test").await, Answer::Admitted { tight: false });
    ledger.let_leases_run_out().await;
    batches::settle_dead_connections(&ledger.db).await.expect("settle");
    assert_eq!(ledger.state("ann@a.test").await, "deferred");
    worker.settle("ann@a.test", Outcome::Sent).await;
    assert_eq!(ledger.state("ann@a.test").await, "sent");
    assert_eq!(ledger.progress().await.sent, 1);
    let attempts: i32 =
        sqlx::query_scalar("select attempts from nightshift.deliveries").fetch_one(&ledger.db).await.expect("attempts");
    assert_eq!(attempts, 1);
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn under_resend_a_server_that_never_answers_gets_three_copies_and_then_a_person_decides(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test"]).await;
    ledger.policy("resend").await;
    let mut states = vec![];
    for _ in 0..3 {
        let worker = ledger.worker().await;
        worker.try_to("ann@a.test", Outcome::Uncertain).await;
        batches::release(&ledger.db, &worker.claimed.lease, None, true).await.expect("release");
        batches::free_slots(&ledger.db, ledger.account, worker.claimed.lease.token).await.expect("slots");
        states.push(ledger.state("ann@a.test").await);
        ledger.no_answer_can_come_any_more().await;
    }
    assert_eq!(states, ["deferred", "deferred", "uncertain"]);
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_person_may_say_that_a_mail_arrived_or_give_it_up(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test", "bob@a.test", "cid@a.test"]).await;
    let worker = ledger.worker().await;
    for email in ["ann@a.test", "bob@a.test", "cid@a.test"] {
        worker.try_to(email, Outcome::Uncertain).await;
    }
    let doubts = ledger.doubts().await;
    assert_eq!(doubts.len(), 3);
    assert_eq!(doubts[0].message_id, format!("<{}@example.test>", ledger.public_id("ann@a.test").await));

    let ann = [address("Ann@A.test")];
    uncertain::resolve(&ledger.db, ledger.campaign, Some(&ann), Resolution::Sent).await.expect("resolve");
    let resolved =
        uncertain::resolve(&ledger.db, ledger.campaign, None, Resolution::NotSent).await.expect("resolve the others");
    assert_eq!((resolved.deliveries, resolved.reopened), (2, false));
    let progress = ledger.progress().await;
    assert_eq!((progress.sent, progress.refused, progress.uncertain), (1, 2, 0));
    let cause: String = sqlx::query_scalar("select cause from nightshift.deliveries where email = 'bob@a.test'")
        .fetch_one(&ledger.db)
        .await
        .expect("cause");
    assert_eq!(cause, "given_up");

    worker.settle("bob@a.test", Outcome::Sent).await;
    assert_eq!(ledger.state("bob@a.test").await, "refused", "the person's word stands");
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn what_cannot_be_resolved_says_why_and_changes_nothing(db: PgPool) {
    let ledger = Ledger::over_with_a_doubt(db).await;
    let resolve = |recipients, resolution| uncertain::resolve(&ledger.db, ledger.campaign, recipients, resolution);
    let named = [address("ann@a.test"), address("bob@a.test")];
    let error = resolve(Some(&named[..]), Resolution::Sent).await.expect_err("bob's is sent");
    assert!(error.to_string().contains("no uncertain mail for bob@a.test"), "{error}");

    let before = Utc::now();
    let error = resolve(None, Resolution::Resend).await.expect_err("an answer may come");
    let ResolveError::TooEarly { count: 1, from } = &error else { panic!("{error:?}") };
    assert!((before + chrono::Duration::minutes(19)..before + chrono::Duration::minutes(21)).contains(from), "{from}");

    ledger.no_answer_can_come_any_more().await;
    ledger.execute("update nightshift.campaigns set status = 'cancelled'").await;
    assert!(matches!(resolve(None, Resolution::Resend).await, Err(ResolveError::Cancelled(_))));
    assert_eq!(ledger.progress().await.uncertain, 1);

    assert!(matches!(uncertain::resolve(&ledger.db, 0, None, Resolution::Sent).await, Err(ResolveError::Unknown(0))));
    resolve(None, Resolution::Sent).await.expect("the mail itself can be resolved");
    assert!(matches!(resolve(None, Resolution::Sent).await, Err(ResolveError::Nothing(_))));
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn sending_again_reopens_the_campaign_and_closes_it_when_the_mail_is_through(db: PgPool) {
    let ledger = Ledger::over_with_a_doubt(db).await;
    let public_id = ledger.public_id("ann@a.test").await;
    ledger.no_answer_can_come_any_more().await;
    let resolved = uncertain::resolve(&ledger.db, ledger.campaign, None, Resolution::Resend).await.expect("send again");
    assert!(resolved.reopened);
    let progress = ledger.progress().await;
    assert_eq!((progress.status.as_str(), progress.open, progress.finished_at), ("sending", 1, None));
    assert!(campaigns::close_finished(&ledger.db).await.expect("close").is_empty());

    let batch = *ledger.batches().await.last().expect("a batch");
    let claimed = batches::claim(&ledger.db, batch, Uuid::new_v4(), Duration::from_secs(60))
        .await
        .expect("claim")
        .expect("it is due");
    let slots = batches::take_slots(&ledger.db, ledger.account, 0..4, 1, claimed.lease.token, claimed.lease.lasts)
        .await
        .expect("slots");
    let worker = Worker { ledger: &ledger, claimed, slots };
    worker.try_to("ann@a.test", Outcome::Sent).await;
    batches::release(&ledger.db, &worker.claimed.lease, None, true).await.expect("release");
    assert_eq!(campaigns::close_finished(&ledger.db).await.expect("close"), [ledger.campaign]);
    assert_eq!(ledger.progress().await.sent, 2);
    assert_eq!(ledger.public_id("ann@a.test").await, public_id, "its Message-ID is the same");
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_campaign_that_is_being_closed_meanwhile_is_opened_again(db: PgPool) {
    let ledger = Ledger::over_with_a_doubt(db).await;
    ledger.no_answer_can_come_any_more().await;
    ledger.execute("update nightshift.campaigns set status = 'sending', finished_at = null").await;
    let mut closing = ledger.db.begin().await.expect("begin");
    sqlx::query("update nightshift.campaigns set status = 'sent', finished_at = now()")
        .execute(&mut *closing)
        .await
        .expect("close");
    let resolving = uncertain::resolve(&ledger.db, ledger.campaign, None, Resolution::Resend);
    let committing = async {
        // Long enough that a resolution which did not wait for the lock would be through.
        tokio::time::sleep(Duration::from_millis(300)).await;
        closing.commit().await.expect("commit");
    };
    let (resolved, ()) = tokio::join!(resolving, committing);
    assert!(resolved.expect("resolved").reopened);
    assert_eq!(ledger.progress().await.status, "sending");
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn an_old_holder_of_the_batch_cannot_finish_what_is_sent_again(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test", "bob@a.test"]).await;
    let worker = ledger.worker().await;
    worker.try_to("ann@a.test", Outcome::Uncertain).await;
    worker.try_to("bob@a.test", Outcome::Sent).await;
    ledger.no_answer_can_come_any_more().await;
    uncertain::resolve(&ledger.db, ledger.campaign, None, Resolution::Resend).await.expect("send again");
    let released = batches::release(&ledger.db, &worker.claimed.lease, None, true).await.expect("release");
    assert_eq!(released, Released::Finished);
    assert!(campaigns::close_finished(&ledger.db).await.expect("close").is_empty(), "ann's is open");
    assert_eq!(ledger.progress().await.open, 1);
}
