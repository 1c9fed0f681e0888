//! A runner with wires and a sink, on which one cell after the other is run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sink::{Accepted, LATER, Manners, NOBODY, Sink};
use sqlx::{Connection as _, PgConnection};
use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

use super::{Action, Case, Verdict};
use crate::app::TestApp;
use crate::campaign::{Campaign, Draft, csv_of};
use crate::processes::{Process, is_stopped};
use crate::wires::{Blow, Effect, Struck, Wires};

/// Recipients of each campaign: enough for each connection to carry several mails, in several batches. One of them is
/// refused, and one is taken at the second try only.
const RECIPIENTS: usize = 12;
/// SMTP connections that a campaign uses; its account has one more, which is kept for single mails.
const CONNECTIONS: u32 = 2;
/// Seconds that a lease lasts without a sign of life.
const LEASE: u64 = 3;
/// As fast as the template allows. A function begins no mail in its last minute, so its time cannot be much shorter.
const PARAMETERS: [&str; 8] = [
    "EmailBatchSize=4",
    "EmailConcurrency=2",
    "LeaseSeconds=3",
    "RingAgainSeconds=2",
    "RetryFirstSeconds=1",
    "ProviderPauseSeconds=2",
    "AccountPauseSeconds=2",
    "EmailTimeoutSeconds=75",
];
/// The function's hard limit.
const HARD_LIMIT: Duration = Duration::from_secs(75);
/// From the start of a campaign to its effect: planning, and the way through both queues.
const UNTIL_STRUCK: Duration = Duration::from_secs(90);
/// After this long from the end of a disturbance nobody waits any more.
const GIVE_UP: Duration = Duration::from_secs(200);
/// How often the ledger is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Who dispatches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dispatch {
    /// The schedule, every minute, as in production.
    Schedule,
    /// The test, every second, so that cells are quick: what is measured lacks up to a minute.
    EverySecond,
}

/// A runner of its own, with all wires of its functions in hand.
#[derive(Debug)]
pub struct Lane {
    app: Arc<TestApp>,
    wires: Wires,
    sink: Sink,
    runtime: Handle,
    dispatch: Dispatch,
    database_url: String,
    redis_url: String,
    campaigns: AtomicU32,
}

impl Lane {
    /// Starts everything. `runtime` carries wires and sink and needs threads of its own: a lane's methods block.
    pub fn open(name: &str, runtime: &Handle, dispatch: Dispatch) -> Self {
        let wires = runtime.block_on(Wires::lay()).expect("wires");
        let sink = runtime.block_on(Sink::start(Manners::default())).expect("a sink");
        let app = Arc::new(TestApp::launch_from(wires.binaries(), name, &PARAMETERS));
        let record = app.record();
        Self {
            app,
            wires,
            sink,
            runtime: runtime.clone(),
            dispatch,
            database_url: record.database_url.expect("a database"),
            redis_url: record.redis_url.expect("a Redis"),
            campaigns: AtomicU32::new(0),
        }
    }

    /// Sends two campaigns in peace and tells how often each effect happened in the second.
    pub fn rehearse(&self) -> BTreeMap<Effect, usize> {
        for _ in 0..2 {
            self.wires.take_seen();
            let (campaign, _) = self.draft();
            self.app.start(campaign);
            let started = Instant::now();
            while !self.is_over(campaign) {
                assert!(started.elapsed() < GIVE_UP, "the rehearsal does not end\n{}", self.app.log_tail());
                sleep(LOOK_AGAIN);
            }
        }
        self.wires.take_seen()
    }

    /// Runs a case; one whose effect the campaign did not reach is tried again at the first occurrence.
    pub fn run(&self, case: &Case) -> Verdict {
        let verdict = self.run_once(case);
        if verdict.happened { verdict } else { self.run_once(&Case { nth: 1, ..case.clone() }) }
    }

    /// What runner and functions wrote last.
    pub fn log_tail(&self) -> String {
        self.app.log_tail()
    }

    fn run_once(&self, case: &Case) -> Verdict {
        let (campaign, domain) = self.draft();
        let mut blow = self.wires.arm(case.effect.clone(), case.nth, self.blow(case.action));
        self.app.start(campaign);
        let struck = self.until_struck(campaign, &mut blow);
        let done_after = struck.as_ref().and_then(|struck| {
            self.deal_with(case.action, struck);
            let done_after = self.until_done(case.action, campaign, struck);
            self.until_settled(&struck.owner);
            done_after
        });
        self.wires.disarm();
        if struck.is_none() {
            while !self.is_over(campaign) {
                sleep(LOOK_AGAIN);
            }
        }
        self.judge(case, campaign, &domain, struck.is_some(), done_after)
    }

    /// A campaign with an account and a mail domain of its own, so that cells leave each other alone.
    fn draft(&self) -> (Campaign, String) {
        let number = self.campaigns.fetch_add(1, Ordering::Relaxed);
        let (account, domain) = (format!("cell{number}"), format!("cell{number}.example"));
        let server = self.wires.smtp(self.sink.address().port());
        self.app.add_account_at(server.into(), &account, CONNECTIONS + 1, false);
        let csv = csv_of((0..RECIPIENTS).map(|number| {
            let kind = match number {
                3 => LATER,
                7 => NOBODY,
                _ => "reader",
            };
            format!("{kind}{number:02}@{domain}")
        }));
        (self.app.import(&Draft { account: &account, csv, ..Draft::default() }), domain)
    }

    fn blow(&self, action: Action) -> Blow {
        let app = Arc::clone(&self.app);
        match action {
            Action::Kill => Blow::Kill,
            Action::TimeOut => Blow::Stall,
            Action::Freeze => Blow::Freeze,
            Action::Cut => Blow::Cut,
            Action::Half => Blow::CutHalf,
            Action::Swallow => Blow::Swallow,
            Action::Postgres => Blow::Strike(Box::new(move || app.kill_postgres())),
            Action::Redis => {
                let url = self.redis_url.clone();
                Blow::Strike(Box::new(move || app.lose_redis(&url)))
            }
            Action::Runner => Blow::Strike(Box::new(move || app.kill_runner())),
        }
    }

    fn until_struck(&self, campaign: Campaign, blow: &mut UnboundedReceiver<Struck>) -> Option<Struck> {
        let started = Instant::now();
        let mut ticks = Ticks::new(self);
        while started.elapsed() < UNTIL_STRUCK {
            if let Ok(struck) = blow.try_recv() {
                return Some(struck);
            }
            if self.is_over(campaign) {
                // Acknowledgements come after the end.
                sleep(Duration::from_secs(1));
                return blow.try_recv().ok();
            }
            ticks.tick();
            sleep(LOOK_AGAIN);
        }
        None
    }

    /// What the disturbance takes beyond the blow.
    fn deal_with(&self, action: Action, struck: &Struck) {
        match action {
            Action::Freeze => {
                sleep(Duration::from_secs(LEASE + 1));
                self.dispatch_now();
                // Others have the time to take the work over before the sleeper wakes.
                sleep(Duration::from_secs(2));
                struck.owner.signal(Signal::SIGCONT).expect("the tests may signal what they started");
            }
            Action::Runner => self.app.restart_runner(),
            Action::Kill
            | Action::TimeOut
            | Action::Cut
            | Action::Half
            | Action::Swallow
            | Action::Postgres
            | Action::Redis => {}
        }
    }

    fn until_done(&self, action: Action, campaign: Campaign, struck: &Struck) -> Option<Duration> {
        let mut disturbed_until = struck.at;
        let mut ticks = Ticks::new(self);
        while disturbed_until.elapsed() < GIVE_UP {
            if self.is_over(campaign) {
                return Some(disturbed_until.elapsed());
            }
            if action.is_slow() && struck.at.elapsed() < HARD_LIMIT + LOOK_AGAIN * 20 && struck.owner.is_alive() {
                disturbed_until = Instant::now();
            }
            ticks.tick();
            sleep(LOOK_AGAIN);
        }
        None
    }

    /// A function that was frozen or hangs may still do harm after everybody else is done: waits until it sleeps or is
    /// gone.
    fn until_settled(&self, owner: &Process) {
        let since = Instant::now();
        let mut quiet = 0;
        while quiet < 5 && since.elapsed() < HARD_LIMIT + Duration::from_secs(10) {
            quiet = if owner.is_alive() && !is_stopped(owner) { 0 } else { quiet + 1 };
            sleep(LOOK_AGAIN);
        }
    }

    fn judge(
        &self,
        case: &Case,
        campaign: Campaign,
        domain: &str,
        happened: bool,
        done_after: Option<Duration>,
    ) -> Verdict {
        let states = loop {
            match self.states(campaign) {
                Some(states) => break states,
                None => sleep(LOOK_AGAIN),
            }
        };
        let of_domain = |mail: &Accepted| mail.recipient.ends_with(&format!("@{domain}"));
        let accepted: Vec<_> = self.sink.accepted().into_iter().filter(of_domain).collect();
        let missing = RECIPIENTS.saturating_sub(states.len());
        let mut verdict = Verdict::of(case.clone(), &states, &accepted, |email| self.sink.refuses(email));
        verdict.happened = happened;
        verdict.lost += missing;
        verdict.uncertain_allowed = CONNECTIONS as usize;
        verdict.done_after = done_after;
        verdict.balances = self.app.runner(&["campaign", "receipt", &campaign.id.to_string()]).success;
        verdict
    }

    fn is_over(&self, campaign: Campaign) -> bool {
        let status = self.ask(async |db| {
            sqlx::query_scalar::<_, String>("select status from nightshift.campaigns where id = $1")
                .bind(campaign.id)
                .fetch_one(db)
                .await
        });
        status.is_some_and(|status| status == "sent")
    }

    /// What the ledger says of each recipient.
    fn states(&self, campaign: Campaign) -> Option<BTreeMap<String, String>> {
        let rows: Vec<(String, String)> = self.ask(async |db| {
            sqlx::query_as("select email, state from nightshift.deliveries where campaign_id = $1")
                .bind(campaign.id)
                .fetch_all(db)
                .await
        })?;
        Some(rows.into_iter().collect())
    }

    /// Asks the database, which may be away at the moment.
    fn ask<T>(&self, question: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>) -> Option<T> {
        let asked = async {
            let mut db = PgConnection::connect(&self.database_url).await.ok()?;
            let answer = question(&mut db).await.ok();
            db.close().await.ok();
            answer
        };
        self.runtime.block_on(async { timeout(Duration::from_secs(5), asked).await.ok().flatten() })
    }

    /// Invokes `dispatch-campaigns` and does not wait: it may be what was frozen.
    fn dispatch_now(&self) {
        let Some(endpoint) = self.app.try_record().and_then(|record| record.aws_endpoint) else { return };
        self.runtime.spawn(async move {
            // Without a runner there is nobody to invoke; the next tick finds one.
            local_cloud::client::invoke(&endpoint, "DispatchCampaigns", "{}".to_owned()).await.ok();
        });
    }
}

/// Stands in for the schedule.
struct Ticks<'a> {
    lane: &'a Lane,
    last: Instant,
}

impl<'a> Ticks<'a> {
    fn new(lane: &'a Lane) -> Self {
        Self { lane, last: Instant::now() }
    }

    fn tick(&mut self) {
        if self.lane.dispatch == Dispatch::EverySecond && self.last.elapsed() >= Duration::from_secs(1) {
            self.last = Instant::now();
            self.lane.dispatch_now();
        }
    }
}
