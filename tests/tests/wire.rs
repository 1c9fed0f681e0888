//! SMTP as the sending function speaks it, against sinks of different manners: what counts is what they took and how
//! often the function waited for them.

use std::sync::OnceLock;

use end_to_end::{Draft, TestApp, assert_one_each, csv_of, readers};
use serde_json::Value;
use sink::{Figures, Manners, Sink};

fn app() -> &'static TestApp {
    static APP: OnceLock<TestApp> = OnceLock::new();
    APP.get_or_init(|| TestApp::launch("wire", &["EmailBatchSize=500"]))
}

const PEOPLE: usize = 500;

/// Sends a campaign to `PEOPLE` through one connection for campaigns. Returns the receipt and what the sink counted.
async fn send_to(sink: &Sink, account: &str) -> (Value, Figures) {
    let app = app();
    // One of the two is kept for single mails.
    app.add_account_at(sink.address(), account, 2, false);
    let domain = format!("{account}.example");
    let campaign = app.import(&Draft { account, csv: csv_of(readers(&domain, PEOPLE)), ..Draft::default() });
    let before = sink.figures();
    app.start(campaign);
    let receipt = app.wait_until_over(campaign, 60);
    let after = sink.figures();
    let refused = readers(&domain, PEOPLE).filter(|reader| sink.refuses(reader)).count();
    assert_eq!(receipt["sent"], PEOPLE - refused, "{receipt}");
    assert_eq!(receipt["refused"], refused, "{receipt}");
    assert_one_each(sink, &domain, PEOPLE - refused);
    let figures = Figures {
        connections: after.connections - before.connections,
        turns: after.turns - before.turns,
        mails: after.mails - before.mails,
        refused: after.refused - before.refused,
        bytes: after.bytes - before.bytes,
    };
    (receipt, figures)
}

#[allow(clippy::cast_precision_loss)]
fn round_trips_a_mail(figures: Figures) -> f64 {
    figures.turns as f64 / figures.mails as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_needs_little_more_than_one_round_trip_a_mail() {
    for (account, refused_percent) in [("calm", 0), ("picky", 5), ("strict", 20)] {
        let sink = Sink::start(Manners { refused_percent, ..Manners::default() }).await.expect("a sink");
        let (_, figures) = send_to(&sink, account).await;
        assert!(round_trips_a_mail(figures) <= 1.3, "{refused_percent} % refused: {figures:?}");
        assert_eq!(figures.connections, 1, "a refusal costs no connection: {figures:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_pipelining_gets_one_command_at_a_time() {
    let manners = Manners { hides_pipelining: true, refused_percent: 20, ..Manners::default() };
    let sink = Sink::start(manners).await.expect("a sink");
    let (_, figures) = send_to(&sink, "plain").await;
    assert!(round_trips_a_mail(figures) >= 4.0, "{figures:?}");
    assert_eq!(figures.connections, 1, "{figures:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_wants_content_for_nobody_is_remembered_as_such() {
    let manners = Manners { takes_data_for_nobody: true, refused_percent: 20, ..Manners::default() };
    let sink = Sink::start(manners).await.expect("a sink");
    let (_, figures) = send_to(&sink, "odd").await;
    assert!(figures.connections <= 2, "only the first such answer costs a connection: {figures:?}");
    assert!(round_trips_a_mail(figures) <= 2.6, "{figures:?}");
    let remembered = "select count(*) from nightshift.smtp_accounts where name = 'odd' and chained and not data_in_group \
                      and $1 = 0";
    assert_eq!(app().count(remembered, 0).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_closes_connections_costs_no_mail() {
    let manners = Manners { mails_per_connection: Some(7), ..Manners::default() };
    let sink = Sink::start(manners).await.expect("a sink");
    let (receipt, figures) = send_to(&sink, "moody").await;
    assert_eq!(receipt["uncertain"], 0, "{receipt}");
    assert!(figures.connections >= 500 / 7, "{figures:?}");
}
