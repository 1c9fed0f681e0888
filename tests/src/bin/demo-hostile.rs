//! `demo-hostile`: the demo under fire. A campaign goes out while its queues are purged, Redis forgets everything,
//! Postgres is killed and the runner dies with all its functions. Nobody helps it up again: what brings it back is what
//! brings it back in production.

use std::process::{ExitCode, Stdio};
use std::time::Instant;

use end_to_end::{Campaign, Draft, TestApp, csv_of};
use serde_json::Value;

const DOMAIN: &str = "hostile.example";
/// Enough that every disaster meets a campaign in the middle of its work.
const RECIPIENTS: usize = 5000;

#[tokio::main]
async fn main() -> ExitCode {
    step("1. A runner of its own, with servers and an inbox of its own");
    let app = TestApp::launch("hostile", &[]);
    println!("Its servers: {}", servers(&app));

    step("2. A campaign of 5,000 recipients: some refused, some asked to come back later, some slow");
    let campaign = app.import(&Draft { csv: csv_of((0..RECIPIENTS).map(recipient)), ..Draft::default() });
    app.start(campaign);
    let fire = Fire { app: &app, campaign, began: Instant::now() };

    step("3. Under fire");
    fire.wait_until_settled(10).await;
    fire.say("every queue is purged: no function knows of any work");
    app.purge_queues().await;
    fire.goes_on().await;

    fire.wait_until_settled(30).await;
    fire.say("Redis forgets everything and is killed: queues, messages in flight and schedules are gone");
    let url = app.record().redis_url.expect("the runner has a Redis");
    app.lose_redis(&url);
    fire.goes_on().await;

    fire.wait_until_settled(50).await;
    fire.say("Postgres is killed with all its processes, in the middle of transactions");
    app.kill_postgres();
    fire.goes_on().await;

    fire.wait_until_settled(70).await;
    fire.say("the runner is killed, and every function dies with it in the middle of a mail");
    app.kill_runner();
    fire.say("the runner is started again; the servers that it left behind are adopted");
    app.restart_runner();
    fire.goes_on().await;

    step("4. It ends by itself");
    fire.wait_until_settled(100).await;
    step("5. The receipt");
    let id = campaign.id.to_string();
    let receipt = app.command(&["campaign", "receipt", &id]).stdin(Stdio::null()).status();
    let balances = receipt.is_ok_and(|status| status.success());

    step("6. What the inbox says");
    let caught = app.caught(DOMAIN);
    let twice = caught.by_address.values().filter(|&&mails| mails > 1).count();
    let counts = app.receipt(campaign);
    println!("{} mails for {} people; {twice} people got more than one", caught.count(), caught.by_address.len());
    let (sent, uncertain) = (number(&counts, "sent"), number(&counts, "uncertain"));
    println!("The receipt says {sent} sent and {uncertain} uncertain: handed over when something died");
    let arrived = caught.by_address.len();
    if balances && twice == 0 && (sent..=sent + uncertain).contains(&arrived) {
        println!("Nothing lost, nothing doubled, nothing unexplained.");
        ExitCode::SUCCESS
    } else {
        println!("This is not as it should be.");
        ExitCode::FAILURE
    }
}

fn recipient(number: usize) -> String {
    let kind = match number % 500 {
        77 => "bounce-",
        177 => "later-",
        n if n % 50 == 49 => "slow-",
        _ => "reader",
    };
    format!("{kind}{number:04}@{DOMAIN}")
}

fn step(title: &str) {
    println!("\n\x1b[1m{title}\x1b[0m");
}

fn servers(app: &TestApp) -> String {
    let pid = |server| app.server_processes(server).first().map_or_else(|| "–".to_owned(), |one| one.pid.to_string());
    format!("Postgres (pid {}), Redis (pid {}), runner (pid {})", pid("postgres"), pid("redis"), app.runner_pid())
}

fn number(counts: &Value, name: &str) -> usize {
    counts[name].as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or_default()
}

/// A campaign under fire.
struct Fire<'a> {
    app: &'a TestApp,
    campaign: Campaign,
    began: Instant,
}

impl Fire<'_> {
    fn say(&self, words: &str) {
        println!("{:6.1} s  {words}", self.began.elapsed().as_secs_f64());
    }

    /// Settled and planned, if the ledger can be asked at the moment.
    fn progress(&self) -> Option<(usize, usize)> {
        let said = self.app.runner(&["campaign", "progress", &self.campaign.id.to_string(), "--json"]);
        let progress: Value = serde_json::from_str(&said.out).ok()?;
        let planned = number(&progress, "planned");
        Some((planned - number(&progress, "open").min(planned), planned))
    }

    async fn wait_until_settled(&self, percent: usize) {
        loop {
            if let Some((settled, planned)) = self.progress()
                && planned > 0
                && settled * 100 >= planned * percent
            {
                self.say(&format!("{settled} of {planned} mails are settled"));
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// Waits until more mails are settled than just after the disaster.
    async fn goes_on(&self) {
        let struck = Instant::now();
        let mut before = None;
        loop {
            if let Some((settled, planned)) = self.progress() {
                let reached = *before.get_or_insert(settled);
                if settled > reached || settled == planned {
                    self.say(&format!("  it goes on after {:.1} s", struck.elapsed().as_secs_f64()));
                    return;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}
