//! Two hundred senders at once against small limits, over local midnight and a change of the clocks. Postgres is real;
//! the time is the test's own.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, NaiveDate, Utc};
use chrono_tz::Europe::Berlin;
use futures_util::future::join_all;
use shared::batches;
use shared::gate::{self, Answer, Clock, Denial, Lease, Outcome, Request, Settled};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgPool, Row};
use uuid::Uuid;

const SENDERS: usize = 200;
const MAILS_EACH: i32 = 12;
/// Gates that are in the database at the same time.
const AT_ONCE: u32 = 40;
const LEASE: std::time::Duration = std::time::Duration::from_secs(3600);

const ACCOUNT_HOUR: usize = 150;
const ACCOUNT_DAY: usize = 600;
const OWNER_DAY: usize = 250;
const DOMAIN_DAY: usize = 80;

/// A mail that passed the gate.
#[derive(Debug, Clone)]
struct Admission {
    at: DateTime<Utc>,
    owner: String,
    domain: String,
}

#[derive(Debug, Clone)]
struct Mail {
    id: i64,
    domain: String,
}

/// A function with a batch and a connection of its own.
struct Sender {
    lease: Lease,
    slot: i32,
    owner: String,
    open: Vec<Mail>,
    sent: Vec<Settled>,
}

impl Sender {
    /// Sends what it may at this time. Returns what passed, and until when the rest must wait.
    async fn send(&mut self, db: &PgPool, now: DateTime<Utc>) -> (Vec<Admission>, Option<DateTime<Utc>>) {
        let mut admissions = vec![];
        let mut closed: Vec<String> = vec![];
        while let Some(index) = self.open.iter().position(|mail| !closed.contains(&mail.domain)) {
            let mail = self.open[index].clone();
            let request = Request { slot: self.slot, settled: std::mem::take(&mut self.sent), next: Some(mail.id) };
            let answer = gate::pass_at(db, &self.lease, &[request], Clock::Given(now)).await.expect("gate").remove(0);
            match answer {
                Answer::Admitted { .. } => {
                    self.open.remove(index);
                    self.sent = vec![Settled { delivery_id: mail.id, outcome: Outcome::Sent, reply: "250".to_owned() }];
                    admissions.push(Admission { at: now, owner: self.owner.clone(), domain: mail.domain });
                }
                Answer::Denied(Denial::Limited(domain)) => closed.push(domain),
                Answer::Denied(Denial::Waits(wait)) => {
                    assert!(wait.until > now, "{wait:?} at {now}");
                    return (admissions, Some(wait.until));
                }
                other => panic!("{other:?}"),
            }
        }
        (admissions, None)
    }
}

async fn execute(db: &PgPool, statement: &'static str) {
    sqlx::query(statement).execute(db).await.expect(statement);
}

/// Four owners with a campaign each, fifty batches a campaign, every sixth mail to a domain with a limit of its own.
async fn senders(db: &PgPool, limits: &str) -> Vec<Sender> {
    execute(
        db,
        "insert into nightshift.smtp_accounts (name, host, port, security, from_email, time_zone, max_connections)
         values ('news', 'localhost', 25, 'plain', 'news@example.test', 'Europe/Berlin', 200)",
    )
    .await;
    execute(
        db,
        "insert into nightshift.campaigns (name, account_id, owner, subject, html_template, text_template, status)
         select 'Spring', a.id, owner, '', '', '', 'sending'
         from nightshift.smtp_accounts a, unnest(array['anna', 'bert', 'cleo', 'dora']) as owner",
    )
    .await;
    execute(
        db,
        "insert into nightshift.batches (campaign_id, account_id)
         select c.id, c.account_id from nightshift.campaigns c, generate_series(1, 50)",
    )
    .await;
    sqlx::query(
        "insert into nightshift.deliveries (campaign_id, batch_id, email, email_normalised)
         select b.campaign_id, b.id, address, address
         from nightshift.batches b,
             generate_series(0, $1 - 1) as number,
             format('r%s-%s@%s.test', b.id, number, case when number % 6 = 0 then 'b' else 'a' end) as address",
    )
    .bind(MAILS_EACH)
    .execute(db)
    .await
    .expect("deliveries");
    sqlx::query(
        "insert into nightshift.limits (scope, subject, period, maximum)
         select scope, coalesce(subject, (select id::text from nightshift.smtp_accounts)), period, maximum
         from json_to_recordset($1::json) as l (scope text, subject text, period text, maximum integer)",
    )
    .bind(limits)
    .execute(db)
    .await
    .expect("limits");
    let rows = sqlx::query(
        "select b.id, c.owner from nightshift.batches b join nightshift.campaigns c on c.id = b.campaign_id order by b.id",
    )
    .fetch_all(db)
    .await
    .expect("batches");
    assert_eq!(rows.len(), SENDERS);
    let mut senders = vec![];
    for row in rows {
        senders.push(sender(db, row.get("id"), row.get("owner")).await);
    }
    senders
}

async fn sender(db: &PgPool, batch: i64, owner: String) -> Sender {
    let lease = batches::claim(db, batch, Uuid::new_v4(), LEASE).await.expect("claim").expect("free").lease;
    let slots = batches::take_slots(db, lease.account_id, 0..200, 1, lease.token, LEASE).await.expect("slots");
    let mails = sqlx::query(
        "select id, split_part(email, '@', 2) as domain from nightshift.deliveries where batch_id = $1 order by id",
    )
    .bind(batch)
    .fetch_all(db)
    .await
    .expect("mails");
    let open = mails.iter().map(|row| Mail { id: row.get("id"), domain: row.get("domain") }).collect();
    Sender { lease, slot: slots[0], owner, open, sent: vec![] }
}

/// All senders at once, again and again: the clock goes on to the next moment that the gate has named.
async fn run(db: &PgPool, senders: &mut [Sender], from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<Admission> {
    let mut admissions = vec![];
    let mut now = from;
    while now < to {
        let round = join_all(senders.iter_mut().map(|sender| sender.send(db, now))).await;
        let next = round.iter().filter_map(|(_, until)| *until).min();
        admissions.extend(round.into_iter().flat_map(|(admitted, _)| admitted));
        now = next.expect("there is always more to send than may be");
    }
    admissions
}

fn count_by<K: Ord>(admissions: &[Admission], key: impl Fn(&Admission) -> K) -> BTreeMap<K, usize> {
    let mut counts = BTreeMap::new();
    for admission in admissions {
        *counts.entry(key(admission)).or_default() += 1;
    }
    counts
}

/// Most mails in any stretch of time of this length.
fn busiest(admissions: &[Admission], length: Duration) -> usize {
    let mut times: Vec<_> = admissions.iter().map(|admission| admission.at).collect();
    times.sort();
    (0..times.len())
        .map(|first| times[first..].iter().take_while(|time| **time < times[first] + length).count())
        .max()
        .unwrap_or(0)
}

fn local_day(admission: &Admission) -> NaiveDate {
    admission.at.with_timezone(&Berlin).date_naive()
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().expect("time")
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn two_hundred_senders_exceed_no_limit_and_use_it_over_midnight_and_dst(
    _few: PgPoolOptions,
    connect: PgConnectOptions,
) {
    let db = PgPoolOptions::new().max_connections(AT_ONCE).connect_with(connect).await.expect("pool");
    let mut senders = senders(
        &db,
        r#"[
            {"scope": "account", "period": "hour", "maximum": 150},
            {"scope": "account", "period": "day", "maximum": 600},
            {"scope": "user", "subject": "anna", "period": "day", "maximum": 250},
            {"scope": "user", "subject": "bert", "period": "day", "maximum": 250},
            {"scope": "user", "subject": "cleo", "period": "day", "maximum": 250},
            {"scope": "user", "subject": "dora", "period": "day", "maximum": 250},
            {"scope": "domain", "subject": "b.test", "period": "day", "maximum": 80}
        ]"#,
    )
    .await;
    // The night on which Berlin's clocks go forward, and the day of 23 hours that follows, to its midnight and beyond.
    let admissions = run(&db, &mut senders, time("2026-03-28T20:10:00Z"), time("2026-03-30T01:00:00Z")).await;

    assert!(busiest(&admissions, Duration::hours(1)) <= ACCOUNT_HOUR, "{}", busiest(&admissions, Duration::hours(1)));
    let by_day = count_by(&admissions, local_day);
    assert!(by_day.values().all(|count| *count <= ACCOUNT_DAY), "{by_day:?}");
    let by_owner = count_by(&admissions, |admission| (local_day(admission), admission.owner.clone()));
    assert!(by_owner.values().all(|count| *count <= OWNER_DAY), "{by_owner:?}");
    let by_domain = count_by(&admissions, |admission| (local_day(admission), admission.domain.clone()));
    assert!(by_domain.iter().all(|((_, domain), count)| domain != "b.test" || *count <= DOMAIN_DAY), "{by_domain:?}");

    let whole_day = NaiveDate::from_ymd_opt(2026, 3, 29).expect("a date");
    assert!(by_day[&whole_day] * 100 >= ACCOUNT_DAY * 98, "too little is used: {by_day:?}");
    assert_eq!(by_domain[&(whole_day, "b.test".to_owned())], DOMAIN_DAY, "{by_domain:?}");
    db.close().await;
}

#[sqlx::test(migrator = "shared::database::MIGRATOR")]
async fn two_hundred_senders_use_a_sliding_minute(_few: PgPoolOptions, connect: PgConnectOptions) {
    const MINUTE: usize = 100;
    let db = PgPoolOptions::new().max_connections(AT_ONCE).connect_with(connect).await.expect("pool");
    let mut senders = senders(&db, r#"[{"scope": "account", "period": "minute", "maximum": 100}]"#).await;
    let from = time("2026-03-28T22:55:00.300Z");
    let admissions = run(&db, &mut senders, from, from + Duration::minutes(10)).await;

    assert!(busiest(&admissions, Duration::minutes(1)) <= MINUTE);
    let last = admissions.iter().map(|admission| admission.at).max().expect("some");
    // Without the first moment's, which had the minute before to save up in.
    let later = admissions.iter().filter(|admission| admission.at > from).count();
    let allowed = MINUTE as f64 * (last - from).as_seconds_f64() / 60.0;
    assert!(later as f64 >= 0.98 * allowed, "{later} of {allowed}");
    db.close().await;
}
