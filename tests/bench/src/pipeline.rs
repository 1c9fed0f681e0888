//! A campaign through the whole pipeline: made and started with the commands that people use, timed by the ledger.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use shared::accounts::{self, Account};
use shared::receipt;
use sqlx::PgPool;
use tokio::process::Command;

use crate::Options;
use crate::surroundings::peak_memory_of_senders;

/// Subject of the campaign; with `examples/mail.html` it uses every field of the recipients.
pub(crate) const SUBJECT: &str = "{{ first_name }}, order {{ order_no }} is on its way";
/// How often the ledger is asked whether the campaign is over. The rate does not depend on it, the wall time does.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The runner's bundle, with an account towards the sink.
pub(crate) struct Pipeline {
    pub(crate) db: PgPool,
    runner: PathBuf,
    project: PathBuf,
    account: Account,
}

/// A server that takes the mails, and how many connections may be open to it.
pub(crate) struct Target<'a> {
    /// Name of the account towards it.
    pub(crate) account: &'a str,
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    /// Connections for campaigns.
    pub(crate) connections: i32,
}

/// What one campaign took.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Sent {
    /// Mails that the sink accepted.
    pub(crate) mails: i64,
    /// Mails over the time from the first gate to the last recorded outcome.
    pub(crate) mails_per_second: f64,
    /// That time.
    pub(crate) seconds: f64,
    /// From the start command until the campaign is closed: with planning and the way through both queues.
    pub(crate) wall_seconds: f64,
    /// Transactions of Postgres for each mail, about, whoever asked for them.
    pub(crate) commits_per_mail: f64,
    /// Most connections that were held at once, of those seen.
    pub(crate) connections_seen: i64,
    /// Highest resident memory of a sending function so far, in KiB.
    pub(crate) peak_memory_kib: u64,
}

/// The address of a recipient. A reserved domain, whatever sink is named.
pub(crate) fn recipient(number: u32) -> String {
    format!("reader{number:07}@example.test")
}

/// The template that the campaign and the blast share.
pub(crate) fn html_template(project: &Path) -> PathBuf {
    project.join("examples/mail.html")
}

impl Pipeline {
    /// Adds the account.
    pub(crate) async fn prepare(options: &Options, target: &Target<'_>) -> Result<Self> {
        let runner = std::env::var_os("NIGHTSHIFT_RUNNER").context("NIGHTSHIFT_RUNNER does not name the runner")?;
        let url = std::env::var("DATABASE_URL").context("DATABASE_URL does not name the runner's database")?;
        let db = shared::database::pool(&url, 2).context("database of the runner")?;
        command(&runner)
            .run(
                "account add",
                &[
                    target.account,
                    "--replace",
                    "--security=plain",
                    "--from=bench@example.test",
                    &format!("--host={}", target.host),
                    &format!("--port={}", target.port),
                    // One is kept for single mails.
                    &format!("--max-connections={}", target.connections + 1),
                ],
            )
            .await?;
        command(&runner).run("account test", &[target.account]).await?;
        let id = accounts::find(&db, target.account).await?.context("the account was not added")?;
        let account = accounts::load(&db, id).await?;
        Ok(Self { db, runner: runner.into(), project: options.project.clone(), account })
    }

    /// The account towards the sink.
    pub(crate) fn account(&self) -> &Account {
        &self.account
    }

    /// Sends one campaign. Every mail must have been accepted.
    pub(crate) async fn run(&self, mails: u32) -> Result<Sent> {
        let sent = self.send(mails).await?;
        if sent.mails != i64::from(mails) {
            bail!("{} of {mails} mails were sent, the sink did not take all", sent.mails);
        }
        Ok(sent)
    }

    /// Sends one campaign; the sink may refuse recipients.
    pub(crate) async fn send(&self, mails: u32) -> Result<Sent> {
        let campaign = self.create(mails).await?;
        let commits_before = self.commits().await?;
        let started = Instant::now();
        command(self.runner.as_os_str()).run("campaign start", &[&campaign.to_string()]).await?;
        let connections_seen = self.wait_until_over(campaign).await?;
        let wall_seconds = started.elapsed().as_secs_f64();
        let commits = self.commits().await? - commits_before;

        let receipt = receipt::receipt(&self.db, campaign).await?.context("the campaign is gone")?;
        if !receipt.balances {
            bail!("the books of campaign {campaign} do not balance: {}", serde_json::to_string(&receipt)?);
        }
        let seconds: f64 = sqlx::query_scalar(
            "select extract(epoch from max(settled_at) - min(attempted_at))::float8
             from nightshift.deliveries
             where campaign_id = $1",
        )
        .bind(campaign)
        .fetch_one(&self.db)
        .await
        .context("read the times of the campaign")?;
        Ok(Sent {
            mails: receipt.progress.sent,
            mails_per_second: receipt.progress.sent as f64 / seconds,
            seconds,
            wall_seconds,
            commits_per_mail: commits as f64 / f64::from(mails),
            connections_seen,
            peak_memory_kib: peak_memory_of_senders()?,
        })
    }

    async fn create(&self, mails: u32) -> Result<i64> {
        #[derive(Deserialize)]
        struct Created {
            campaign_id: i64,
        }
        let mut file = tempfile::Builder::new().suffix(".csv").tempfile().context("make the recipients file")?;
        {
            let mut writer = std::io::BufWriter::new(&mut file);
            writeln!(writer, "email,first_name,last_name,city,order_no")?;
            for number in 0..mails {
                writeln!(writer, "{},Anna,Andersson,Berlin,NS-{}", recipient(number), 100_000 + number)?;
            }
            writer.flush().context("write the recipients file")?;
        }
        let template = html_template(&self.project);
        let arguments: [&OsStr; 12] = [
            "--name".as_ref(),
            "Benchmark".as_ref(),
            "--account".as_ref(),
            self.account.name.as_ref(),
            "--subject".as_ref(),
            SUBJECT.as_ref(),
            "--html".as_ref(),
            template.as_ref(),
            "--recipients".as_ref(),
            file.path().as_ref(),
            "--json".as_ref(),
            "--rejects=/dev/null".as_ref(),
        ];
        let created = command(self.runner.as_os_str()).run("campaign create", &arguments).await?;
        let created: Created = serde_json::from_slice(&created).context("answer of campaign create")?;
        Ok(created.campaign_id)
    }

    /// Returns the most connections that were held at once.
    async fn wait_until_over(&self, campaign: i64) -> Result<i64> {
        let mut most = 0;
        loop {
            let (status, reason, held): (String, Option<String>, i64) = sqlx::query_as(
                "select
                     c.status,
                     c.status_reason,
                     (select count(*) from nightshift.smtp_connections where delivery_id is not null)
                 from nightshift.campaigns c
                 where c.id = $1",
            )
            .bind(campaign)
            .fetch_one(&self.db)
            .await
            .context("ask how the campaign stands")?;
            most = most.max(held);
            match status.as_str() {
                "sent" => return Ok(most),
                "scheduled" | "sending" => tokio::time::sleep(LOOK_AGAIN).await,
                other => bail!("the campaign is {other}: {}", reason.unwrap_or_default()),
            }
        }
    }

    /// Transactions committed so far. Sessions report theirs once a second, so this is near the truth only.
    async fn commits(&self) -> Result<i64> {
        sqlx::query_scalar("select xact_commit from pg_stat_database where datname = current_database()")
            .fetch_one(&self.db)
            .await
            .context("read the count of transactions")
    }
}

/// One call of the command line.
struct Call<'a>(&'a OsStr);

fn command<R: AsRef<OsStr> + ?Sized>(runner: &R) -> Call<'_> {
    Call(runner.as_ref())
}

impl Call<'_> {
    /// Runs it and returns what it prints; the runner's name and project stand in the environment.
    async fn run(self, command: &str, arguments: &[impl AsRef<OsStr>]) -> Result<Vec<u8>> {
        let output = Command::new(self.0)
            .args(command.split(' '))
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("run local-runner {command}"))?;
        if !output.status.success() {
            bail!("local-runner {command} failed");
        }
        Ok(output.stdout)
    }
}
