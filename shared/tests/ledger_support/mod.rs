//! A campaign in the ledger, with the verbs that tests need.

use std::time::Duration;

use chrono::Utc;
use shared::accounts::{self, NewAccount, Security};
use shared::batches::{self, Claimed};
use shared::campaigns::{self, NewCampaign};
use shared::gate::{self, Answer, Outcome, Request, Settled};
use shared::receipt::{self, Progress};
use shared::uncertain::Policy;
use sqlx::PgPool;
use uuid::Uuid;

pub(crate) const LEASE: Duration = Duration::from_secs(60);

/// A campaign with a few recipients, and the verbs that tests need.
pub(crate) struct Ledger {
    pub(crate) db: PgPool,
    pub(crate) account: i64,
    pub(crate) campaign: i64,
}

impl Ledger {
    pub(crate) async fn with_draft(db: PgPool, recipients: &[&str]) -> Self {
        let account = NewAccount {
            name: "news".to_owned(),
            host: "localhost".to_owned(),
            port: 25,
            security: Security::Plain,
            credentials: None,
            from_email: "news@example.test".to_owned(),
            from_name: None,
            reply_to: None,
            time_zone: "UTC".to_owned(),
            max_connections: 4,
        };
        let account = accounts::add(&db, None, &account, false).await.expect("account").expect("new");
        let campaign = NewCampaign {
            name: "Spring".to_owned(),
            account_id: account,
            owner: None,
            subject: "Hi {{ name }}".to_owned(),
            html: "<p>{{ name }}</p>".to_owned(),
            text: "{{ name }}".to_owned(),
            list: "spring".to_owned(),
            uncertain: Policy::Hold,
            window: None,
        };
        let campaign = campaigns::create(&db, &campaign).await.expect("campaign");
        for (position, email) in recipients.iter().enumerate() {
            sqlx::query(
                "insert into nightshift.recipients (campaign_id, position, email, email_normalised, fields)
                 values ($1, $2, $3, lower($3), '{\"name\": \"Ann\"}')",
            )
            .bind(campaign)
            .bind(position as i64)
            .bind(email)
            .execute(&db)
            .await
            .expect("recipient");
        }
        campaigns::count_import(&db, campaign, recipients.len() as u64, 0).await.expect("count");
        Self { db, account, campaign }
    }

    pub(crate) async fn sending(db: PgPool, recipients: &[&str]) -> Self {
        let ledger = Self::with_draft(db, recipients).await;
        campaigns::start(&ledger.db, ledger.campaign, Utc::now()).await.expect("start");
        ledger.plan(100).await;
        ledger
    }

    pub(crate) async fn plan(&self, batch_size: i32) -> campaigns::Planned {
        campaigns::plan_next_due(&self.db, Utc::now(), batch_size).await.expect("plan").expect("due").expect("sound")
    }

    pub(crate) async fn batches(&self) -> Vec<i64> {
        sqlx::query_scalar("select id from nightshift.batches order by id").fetch_all(&self.db).await.expect("batches")
    }

    pub(crate) async fn claim(&self, lasts: Duration) -> Claimed {
        let batch = self.batches().await[0];
        batches::claim(&self.db, batch, Uuid::new_v4(), lasts).await.expect("claim").expect("free")
    }

    /// A claimed batch with connection slots, as an invocation holds it.
    pub(crate) async fn worker(&self) -> Worker<'_> {
        let claimed = self.claim(LEASE).await;
        let slots =
            batches::take_slots(&self.db, self.account, 0..4, 2, claimed.lease.token, LEASE).await.expect("slots");
        Worker { ledger: self, claimed, slots }
    }

    pub(crate) async fn delivery(&self, email: &str) -> i64 {
        sqlx::query_scalar("select id from nightshift.deliveries where email = $1")
            .bind(email)
            .fetch_one(&self.db)
            .await
            .expect("delivery")
    }

    pub(crate) async fn state(&self, email: &str) -> String {
        sqlx::query_scalar("select state from nightshift.deliveries where email = $1")
            .bind(email)
            .fetch_one(&self.db)
            .await
            .expect("state")
    }

    pub(crate) async fn execute(&self, statement: &'static str) {
        sqlx::query(statement).execute(&self.db).await.expect(statement);
    }

    pub(crate) async fn progress(&self) -> Progress {
        let progress = receipt::progress(&self.db, self.campaign).await.expect("progress").expect("campaign");
        assert!(progress.planned == 0 || progress.balances(), "{progress:?}");
        progress
    }
}

pub(crate) struct Worker<'a> {
    pub(crate) ledger: &'a Ledger,
    pub(crate) claimed: Claimed,
    pub(crate) slots: Vec<i32>,
}

impl Worker<'_> {
    pub(crate) async fn pass(&self, requests: &[Request]) -> Vec<Answer> {
        gate::pass(&self.ledger.db, &self.claimed.lease, requests).await.expect("gate")
    }

    pub(crate) async fn ask(&self, email: &str) -> Answer {
        let next = Some(self.ledger.delivery(email).await);
        self.pass(&[Request { slot: self.slots[0], settled: vec![], next }]).await.remove(0)
    }

    pub(crate) async fn settle(&self, email: &str, outcome: Outcome) {
        let delivery_id = self.ledger.delivery(email).await;
        let settled = vec![Settled { delivery_id, outcome, reply: "250 ok".to_owned() }];
        self.pass(&[Request { slot: self.slots[0], settled, next: None }]).await;
    }
}
