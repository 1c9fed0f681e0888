//! The ledger and the loop on a real Redis: two runners, crashes, downtimes, failing targets.

use std::sync::{Arc, Mutex};

use redis::AsyncCommands;
use redis::aio::ConnectionManager;
use tokio::time::timeout;

use super::*;
use crate::bundle::{AsyncFailure, ScheduleKind};

/// Longest wait for something that must happen.
const DEADLINE: Duration = Duration::from_secs(20);

/// A ledger below a prefix of its own.
struct Bench {
    ledger: Ledger,
    connection: ConnectionManager,
    prefix: String,
}

impl Bench {
    async fn new() -> Self {
        let url = std::env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379/15".to_owned());
        let prefix = format!("test-{}:", uuid::Uuid::new_v4());
        let client = redis::Client::open(url.as_str()).expect("REDIS_URL is a Redis URL");
        let connection = timeout(DEADLINE, client.get_connection_manager())
            .await
            .ok()
            .and_then(Result::ok)
            .unwrap_or_else(|| panic!("these tests need a Redis: none answers at {url} (set REDIS_URL)"));
        let ledger = Ledger::connect(&url, &prefix).await.expect("Redis answered a moment ago");
        Self { ledger, connection, prefix }
    }

    async fn clean_up(mut self) {
        let keys: Vec<String> = self.connection.keys(format!("{}*", self.prefix)).await.expect("Redis answers");
        if !keys.is_empty() {
            self.connection.del::<_, ()>(keys).await.expect("Redis answers");
        }
    }

    /// State of a tick, none when the ledger does not have it.
    async fn state(&self, schedule: &Schedule, due: DateTime<Utc>) -> Option<String> {
        let key = format!("{}schedule:{}:tick:{}", self.prefix, schedule.id, due.timestamp_millis());
        self.connection.clone().hget(key, "state").await.expect("Redis answers")
    }
}

/// Notes what it gets and refuses as often as told.
#[derive(Clone, Default)]
struct Recorder {
    notes: Arc<Mutex<Notes>>,
    changed: Arc<tokio::sync::Notify>,
}

#[derive(Default)]
struct Notes {
    submitted: Vec<(String, String)>,
    letters: Vec<DeadLetter>,
    refusals_left: u32,
}

impl Recorder {
    fn refusing(times: u32) -> Self {
        let recorder = Self::default();
        recorder.notes().refusals_left = times;
        recorder
    }

    fn notes(&self) -> std::sync::MutexGuard<'_, Notes> {
        self.notes.lock().expect("no test panics while it holds the notes")
    }

    async fn wait_until(&self, what: &str, condition: impl Fn(&Notes) -> bool) {
        let waiting = async {
            while !condition(&self.notes()) {
                self.changed.notified().await;
            }
        };
        timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
    }
}

impl Target for Recorder {
    async fn submit(&self, function: &str, payload: Bytes) -> Result<()> {
        let mut notes = self.notes();
        if notes.refusals_left > 0 {
            notes.refusals_left -= 1;
            anyhow::bail!("the target is told to refuse");
        }
        notes.submitted.push((function.to_owned(), String::from_utf8_lossy(&payload).into_owned()));
        self.changed.notify_one();
        Ok(())
    }

    async fn dead_letter(&self, letter: DeadLetter) -> Result<()> {
        self.notes().letters.push(letter);
        self.changed.notify_one();
        Ok(())
    }
}

fn function() -> Function {
    Function {
        logical_id: "Cleaner".to_owned(),
        name: "cleaner".to_owned(),
        binary: "cleaner".to_owned(),
        timeout: Duration::from_secs(3),
        memory_mib: 128,
        environment: BTreeMap::new(),
        reserved_concurrency: None,
        on_async_failure: AsyncFailure { max_retries: 2, max_age: Duration::from_secs(21_600), destination: None },
        invoke_at_start: false,
        event_sources: Vec::new(),
        schedules: Vec::new(),
        routes: Vec::new(),
    }
}

fn schedule(expression: &str) -> Schedule {
    Schedule {
        id: "CleanerTick".to_owned(),
        expression: expression.to_owned(),
        time_zone: "UTC".to_owned(),
        kind: ScheduleKind::Scheduler,
        input: Some(r#"{"at":"<aws.scheduler.scheduled-time>"}"#.to_owned()),
        max_event_age: Duration::from_secs(3_600),
        max_retries: 2,
        dead_letter: None,
        enabled: true,
    }
}

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().expect("the test writes RFC 3339")
}

async fn start(
    bench: &Bench,
    schedule: &Schedule,
    target: &Recorder,
) -> (CancellationToken, tokio::task::JoinHandle<()>) {
    let shutdown = CancellationToken::new();
    let schedules = vec![(function(), schedule.clone())];
    let runner = tokio::spawn(run(schedules, bench.ledger.clone(), target.clone(), shutdown.clone()));
    (shutdown, runner)
}

async fn stop((shutdown, runner): (CancellationToken, tokio::task::JoinHandle<()>)) {
    shutdown.cancel();
    timeout(DEADLINE, runner).await.expect("the scheduler stops when told").expect("the scheduler does not panic");
}

#[tokio::test]
async fn the_anchor_is_kept_until_the_expression_changes() {
    let bench = Bench::new().await;
    let (first, later) = (utc("2026-11-21T10:00:00Z"), utc("2026-11-21T11:00:00Z"));
    let memory = bench.ledger.register(&schedule("rate(5 minutes)"), first).await.expect("registered");
    assert_eq!(memory, Memory { anchor: first, planned_until: first });
    let memory = bench.ledger.register(&schedule("rate(5 minutes)"), later).await.expect("registered");
    assert_eq!(memory, Memory { anchor: first, planned_until: first });
    let memory = bench.ledger.register(&schedule("rate(6 minutes)"), later).await.expect("registered");
    assert_eq!(memory, Memory { anchor: later, planned_until: later });
    bench.clean_up().await;
}

#[tokio::test]
async fn what_came_due_while_disabled_is_passed_over() {
    let bench = Bench::new().await;
    let enabled = schedule("rate(5 minutes)");
    let disabled = Schedule { enabled: false, ..enabled.clone() };
    bench.ledger.register(&enabled, utc("2026-11-21T10:00:00Z")).await.expect("registered");
    bench.ledger.register(&disabled, utc("2026-11-21T10:01:00Z")).await.expect("registered");
    let memory = bench.ledger.register(&enabled, utc("2026-11-21T12:00:00Z")).await.expect("registered");
    assert_eq!((memory.anchor, memory.planned_until), (utc("2026-11-21T10:00:00Z"), utc("2026-11-21T12:00:00Z")));
    bench.clean_up().await;
}

#[tokio::test]
async fn a_schedule_that_redis_lost_takes_ticks_again_where_it_was() {
    let bench = Bench::new().await;
    let schedule = schedule("rate(1 minute)");
    let created = utc("2026-11-21T10:00:00Z");
    let memory = bench.ledger.register(&schedule, created).await.expect("registered");
    assert!(!bench.ledger.restore(&schedule, memory).await.expect("known"));
    let key = format!("{}schedule:{}", bench.prefix, schedule.id);
    bench.connection.clone().del::<_, ()>(key).await.expect("Redis answers");

    let due = utc("2026-11-21T10:01:00Z");
    assert!(!bench.ledger.open(&schedule, due, false).await.expect("unknown"));
    assert!(bench.ledger.restore(&schedule, memory).await.expect("lost"));
    assert!(bench.ledger.open(&schedule, due, false).await.expect("written"));
    let again = bench.ledger.register(&schedule, utc("2026-11-21T12:00:00Z")).await.expect("registered");
    assert_eq!(again.anchor, created);
    bench.clean_up().await;
}

#[tokio::test]
async fn a_tick_is_written_down_once_and_taken_by_one_runner() {
    let bench = Bench::new().await;
    let schedule = schedule("rate(1 minute)");
    let (created, due) = (utc("2026-11-21T10:00:00Z"), utc("2026-11-21T10:01:00Z"));
    bench.ledger.register(&schedule, created).await.expect("registered");
    assert!(bench.ledger.open(&schedule, due, false).await.expect("written"));
    assert!(!bench.ledger.open(&schedule, due, false).await.expect("known"));

    let Leased::Tick(tick) = bench.ledger.lease(&schedule, due).await.expect("taken") else {
        panic!("the tick is ready");
    };
    assert_eq!((tick.due, tick.attempt), (due, 1));
    let lease_ends = due + TimeDelta::seconds(30);
    assert_eq!(bench.ledger.lease(&schedule, due).await.expect("asked"), Leased::Later(lease_ends));

    // The runner died: after its lease the same tick is handed out again, under the same execution id.
    let again = bench.ledger.lease(&schedule, lease_ends).await.expect("taken");
    assert_eq!(again, Leased::Tick(Tick { attempt: 2, ..tick }));

    bench.ledger.finish(&schedule, due, Outcome::Fired, lease_ends).await.expect("closed");
    assert_eq!(bench.ledger.lease(&schedule, utc("2027-01-01T00:00:00Z")).await.expect("asked"), Leased::Nothing);
    assert!(!bench.ledger.open(&schedule, due, false).await.expect("known"));
    assert_eq!(bench.state(&schedule, due).await.as_deref(), Some("fired"));
    bench.clean_up().await;
}

#[tokio::test]
async fn two_runners_on_one_ledger_fire_a_missed_tick_once() {
    let bench = Bench::new().await;
    let schedule = schedule("rate(1 minute)");
    let created = Utc::now() - TimeDelta::seconds(600 + 1);
    bench.ledger.register(&schedule, created).await.expect("registered");
    let target = Recorder::default();
    let clerk = || Clerk {
        function: function(),
        timing: Timing::of(&schedule).expect("the expression is valid"),
        schedule: schedule.clone(),
        ledger: bench.ledger.clone(),
        target: target.clone(),
    };
    let (one, other) = (clerk(), clerk());
    let (mut known_to_one, mut known_to_other) = (None, None);
    let (one, other) = tokio::join!(one.round(&mut known_to_one), other.round(&mut known_to_other));
    assert!(one.is_ok_and(|wake| wake.is_some()) && other.is_ok_and(|wake| wake.is_some()));
    let due = (created + TimeDelta::seconds(600)).format("%Y-%m-%dT%H:%M:%SZ");
    assert_eq!(target.notes().submitted, [("Cleaner".to_owned(), format!(r#"{{"at":"{due}"}}"#))]);
    bench.clean_up().await;
}

#[tokio::test]
async fn a_new_schedule_fires_when_it_is_due_and_not_before() {
    let bench = Bench::new().await;
    let due = (Utc::now() + TimeDelta::milliseconds(2_500)).format("%Y-%m-%dT%H:%M:%S").to_string();
    let schedule = schedule(&format!("at({due})"));
    let target = Recorder::default();
    let runner = start(&bench, &schedule, &target).await;
    target.wait_until("the tick has fired", |notes| !notes.submitted.is_empty()).await;
    let instant = utc(&format!("{due}Z"));
    assert!(Utc::now() >= instant);
    stop(runner).await;
    let schedules = [(function(), schedule)];
    let overview = overview(&schedules, &bench.ledger, Utc::now()).await.expect("read");
    assert_eq!(overview[0].last_run.map(|run| run.due), Some(instant));
    assert_eq!((overview[0].next, overview[0].open), (None, 0));
    bench.clean_up().await;
}

#[tokio::test]
async fn a_refused_tick_is_tried_again() {
    let bench = Bench::new().await;
    let schedule = schedule("rate(1 minute)");
    bench.ledger.register(&schedule, Utc::now() - TimeDelta::seconds(61)).await.expect("registered");
    let target = Recorder::refusing(1);
    let runner = start(&bench, &schedule, &target).await;
    target.wait_until("the second attempt succeeded", |notes| !notes.submitted.is_empty()).await;
    stop(runner).await;
    assert!(target.notes().letters.is_empty());
    bench.clean_up().await;
}

#[tokio::test]
async fn a_tick_whose_attempts_are_used_up_goes_to_the_dead_letter_queue() {
    let bench = Bench::new().await;
    let arn = "arn:aws:sqs:us-east-1:000000000000:Lost";
    let schedule = Schedule { max_retries: 1, dead_letter: Some(arn.to_owned()), ..schedule("rate(1 minute)") };
    let created = Utc::now() - TimeDelta::seconds(61);
    bench.ledger.register(&schedule, created).await.expect("registered");
    let target = Recorder::refusing(2);
    let runner = start(&bench, &schedule, &target).await;
    target.wait_until("the dead letter was sent", |notes| !notes.letters.is_empty()).await;
    stop(runner).await;
    let letters = target.notes().letters.clone();
    assert_eq!((letters.len(), letters[0].queue_arn.as_str()), (1, arn));
    assert_eq!(letters[0].attributes["EXHAUSTED_RETRY_CONDITION"], "MaximumRetryAttempts");
    assert!(letters[0].body.starts_with(r#"{"at":"20"#));
    let due = created + TimeDelta::seconds(60);
    assert_eq!(bench.state(&schedule, due).await.as_deref(), Some("dead-lettered"));
    bench.clean_up().await;
}

#[tokio::test]
async fn a_missed_tick_that_is_too_old_is_remembered_and_not_fired() {
    let bench = Bench::new().await;
    let schedule = Schedule { max_event_age: Duration::from_secs(60), ..schedule("rate(1 hour)") };
    let created = Utc::now() - TimeDelta::minutes(90);
    bench.ledger.register(&schedule, created).await.expect("registered");
    let target = Recorder::default();
    let runner = start(&bench, &schedule, &target).await;
    let due = created + TimeDelta::hours(1);
    let noted = async {
        while bench.state(&schedule, due).await.is_none() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, noted).await.expect("the missed tick is written down");
    stop(runner).await;
    assert_eq!(bench.state(&schedule, due).await.as_deref(), Some("expired"));
    assert!(target.notes().submitted.is_empty());
    bench.clean_up().await;
}

#[tokio::test]
async fn a_disabled_schedule_never_fires_and_has_no_next_run() {
    let bench = Bench::new().await;
    let enabled = schedule("rate(1 minute)");
    bench.ledger.register(&enabled, Utc::now() - TimeDelta::minutes(5)).await.expect("registered");
    let disabled = Schedule { enabled: false, ..enabled };
    let target = Recorder::default();
    let (_shutdown, runner) = start(&bench, &disabled, &target).await;
    timeout(DEADLINE, runner).await.expect("there is nothing to wait for").expect("the scheduler does not panic");
    assert!(target.notes().submitted.is_empty());
    let schedules = [(function(), disabled)];
    let overview = overview(&schedules, &bench.ledger, Utc::now()).await.expect("read");
    assert_eq!((overview[0].enabled, overview[0].next), (false, None));
    bench.clean_up().await;
}
