//! Bounces and unsubscribe links, as they meet the ledger.

mod ledger_support;

use ledger_support::Ledger;
use shared::bounces::{self, Notification, Outcome as Bounced, Report};
use shared::gate::{Answer, Outcome};
use shared::keys::Keys;
use shared::unsubscribe::{self, Unsubscribe};
use shared::{receipt, suppressions};
use sqlx::PgPool;
use uuid::Uuid;

const URL_ENCODED: &str = "application/x-www-form-urlencoded";

fn keys(text: &str) -> Keys {
    Keys::parse(text).expect("keys")
}

fn report(address: &str, action: &str, diagnostic: &str) -> Report {
    Report {
        original: None,
        last: address.parse().ok(),
        action: action.to_owned(),
        status: None,
        diagnostic: Some(diagnostic.to_owned()),
    }
}

fn about(public_id: Option<Uuid>, report: Report) -> Notification {
    Notification { public_id, to: None, reports: vec![report] }
}

impl Ledger {
    async fn send_to(&self, email: &str) {
        let worker = self.worker().await;
        assert_eq!(worker.ask(email).await, Answer::Admitted { tight: false });
        worker.settle(email, Outcome::Sent).await;
    }

    async fn public_id(&self, email: &str) -> Uuid {
        sqlx::query_scalar("select public_id from nightshift.deliveries where email = $1")
            .bind(email)
            .fetch_one(&self.db)
            .await
            .expect("delivery")
    }

    async fn bounce(&self, notification: &Notification, believe_all: bool) -> Bounced {
        let mut db = self.db.acquire().await.expect("connection");
        bounces::record(&mut db, notification, &notification.reports[0], believe_all).await.expect("record")
    }

    async fn suppressed(&self) -> Vec<(String, String, String)> {
        let listed = suppressions::list(&self.db, 10).await.expect("list");
        listed.into_iter().map(|one| (one.email, one.list, one.reason)).collect()
    }

    async fn post(&self, keys: &Keys, token: &str, body: &str) -> u16 {
        unsubscribe::leave(&self.db, keys, token, URL_ENCODED, body.as_bytes()).await.expect("leave").status
    }
}

fn token(keys: &Keys, email: &str, list: &str) -> String {
    let who = Unsubscribe { list: list.to_owned(), email_normalised: email.to_owned() };
    who.link(keys, "").rsplit('/').next().expect("a token").to_owned()
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_mail_that_came_back_stays_sent_with_a_note_and_its_address_gets_no_more(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test", "bob@a.test"]).await;
    ledger.send_to("ann@a.test").await;
    let gone =
        about(Some(ledger.public_id("ann@a.test").await), report("Ann@A.test", "failed", "550 5.1.1 no such user"));
    assert_eq!(ledger.bounce(&gone, false).await, Bounced::Suppressed);
    assert_eq!(ledger.bounce(&gone, false).await, Bounced::SuppressedBefore);
    assert_eq!(ledger.suppressed().await, [("ann@a.test".to_owned(), String::new(), "bounced".to_owned())]);

    let receipt = receipt::receipt(&ledger.db, ledger.campaign).await.expect("receipt").expect("a campaign");
    assert_eq!((receipt.progress.sent, receipt.bounced, receipt.balances), (1, 1, true));
    let note: String = sqlx::query_scalar("select bounce from nightshift.deliveries where bounced_at is not null")
        .fetch_one(&ledger.db)
        .await
        .expect("a note");
    assert_eq!(note, "550 5.1.1 no such user");
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn after_forwarding_the_address_that_was_mailed_is_the_one_to_suppress(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test"]).await;
    ledger.send_to("ann@a.test").await;
    let forwarded = report("ann@elsewhere.test", "failed", "550 5.1.1 no such user");
    let forwarded =
        Notification { to: "ann@a.test".parse().ok(), ..about(Some(ledger.public_id("ann@a.test").await), forwarded) };
    assert_eq!(ledger.bounce(&forwarded, false).await, Bounced::Suppressed);
    assert_eq!(ledger.suppressed().await[0].0, "ann@a.test");
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn a_bounce_that_names_no_mail_of_ours_counts_only_when_a_person_says_so(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test", "bob@a.test"]).await;
    let words = "550 5.1.1 no such user";
    let ann = ledger.public_id("ann@a.test").await;
    for forged in [
        about(None, report("bob@a.test", "failed", words)),
        about(Some(Uuid::from_u128(7)), report("bob@a.test", "failed", words)),
        about(Some(ann), report("bob@a.test", "failed", words)),
    ] {
        assert_eq!(ledger.bounce(&forged, false).await, Bounced::Unknown, "{forged:?}");
    }
    assert_eq!(ledger.suppressed().await, []);
    let bob = about(None, report("bob@a.test", "failed", words));
    assert_eq!(ledger.bounce(&bob, true).await, Bounced::Suppressed);
    assert_eq!(ledger.state("bob@a.test").await, "suppressed", "taken out of what is queued");
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn what_is_not_the_fault_of_the_address_suppresses_nobody(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test"]).await;
    ledger.send_to("ann@a.test").await;
    let id = Some(ledger.public_id("ann@a.test").await);
    for (action, words, outcome) in [
        ("delayed", "450 4.2.0 greylisted", Bounced::Temporary),
        ("relayed", "250 ok", Bounced::Delivered),
        ("failed", "554 5.7.1 looks like spam", Bounced::Other),
    ] {
        assert_eq!(ledger.bounce(&about(id, report("ann@a.test", action, words)), true).await, outcome, "{words}");
    }
    assert_eq!(ledger.suppressed().await, []);
    let receipt = receipt::receipt(&ledger.db, ledger.campaign).await.expect("receipt").expect("a campaign");
    assert_eq!(receipt.bounced, 1, "it came back all the same");
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn one_click_takes_the_address_off_its_list_and_out_of_what_is_queued(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test", "bob@a.test"]).await;
    let keys = keys("cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=");
    let ann = token(&keys, "ann@a.test", "spring");

    assert_eq!(unsubscribe::ask(&keys, &ann).status, 200);
    for body in ["", "leave=nothing", "x=y"] {
        assert_eq!(ledger.post(&keys, &ann, body).await, 400, "{body}");
    }
    assert_eq!(ledger.state("ann@a.test").await, "pending", "looking and stammering change nothing");

    for _ in 0..2 {
        assert_eq!(ledger.post(&keys, &ann, "List-Unsubscribe=One-Click").await, 200);
    }
    assert_eq!(ledger.state("ann@a.test").await, "suppressed");
    assert_eq!(ledger.state("bob@a.test").await, "pending");
    let expected = ("ann@a.test".to_owned(), "spring".to_owned(), "unsubscribed".to_owned());
    assert_eq!(ledger.suppressed().await, [expected]);

    assert_eq!(ledger.post(&keys, &token(&keys, "bob@a.test", "autumn"), "leave=list").await, 200);
    assert_eq!(ledger.state("bob@a.test").await, "pending", "another list");
    ledger.execute("update nightshift.campaigns set status = 'paused'").await;
    assert_eq!(ledger.post(&keys, &token(&keys, "bob@a.test", "autumn"), "leave=all").await, 200);
    assert_eq!(ledger.state("bob@a.test").await, "suppressed");
    assert_eq!(ledger.progress().await.suppressed, 2);
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn links_outlive_a_change_of_keys_and_cannot_be_made_without_one(db: PgPool) {
    let ledger = Ledger::sending(db, &["ann@a.test"]).await;
    let (old, new) = ("cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    let link = token(&keys(old), "ann@a.test", "spring");
    assert_eq!(ledger.post(&keys(new), &link, "leave=all").await, 404, "a key of somebody else");
    assert_eq!(ledger.state("ann@a.test").await, "pending");
    assert_eq!(ledger.post(&keys(&format!("{new},{old}")), &link, "leave=all").await, 200);
    assert_eq!(ledger.state("ann@a.test").await, "suppressed");
}
