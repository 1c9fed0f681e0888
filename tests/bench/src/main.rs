//! `bench`: mails per second through the whole pipeline, and through bare SMTP connections beside it.
//!
//! Called by a person, it starts a runner of its own with the binaries that lie beside it, and calls itself again as the
//! command of that runner; there it measures. Machines are noisy, so pipeline and blast take turns and the medians
//! count. It ends by itself, and what it started and stored is gone afterwards.

mod blast;
mod figures;
mod pipeline;
mod surroundings;
mod wire;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use local_cloud::runner;
use local_cloud::state::State;
use shared::batches::CONNECTIONS_PER_INVOCATION;

use crate::figures::{Figures, Round};
use crate::pipeline::{Pipeline, Target};
use crate::surroundings::Surroundings;

/// Name of the runner, and of the folder that its servers work in.
const RUNNER: &str = "bench";
/// Mails that go before the first round through each, uncounted: processes start, statements are prepared, caches fill.
const WARM_UP_MAILS: u32 = 500;
/// Starting and stopping the servers comes on top of the time limit of the measurement.
const TIME_AROUND: Duration = Duration::from_secs(180);

/// Measures mails per second through the whole pipeline, and through a bare SMTP blast beside it
#[derive(Debug, Clone, Parser)]
struct Options {
    /// Mails in each round
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    mails: u32,
    /// SMTP connections; one function uses 32 at most
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(i32).range(1..=128))]
    connections: i32,
    /// Rounds of pipeline and blast; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Recipients in one batch
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5000))]
    batch_size: u32,
    /// SMTP server that takes the mails, without TLS and login, as host:port; the runner's own inbox where none is given.
    /// Recipients are in the reserved domain example.test
    #[arg(long, value_parser = sink)]
    sink: Option<Sink>,
    /// Seconds after which an unfinished measurement fails
    #[arg(long, default_value_t = 900)]
    time_limit: u64,
    /// Measure round trips a mail too, against sinks of different distance that refuse some recipients
    #[arg(long)]
    wire: bool,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    /// Folder with template.yaml
    #[arg(long, env = "NIGHTSHIFT_PROJECT", default_value = ".", hide_env_values = true)]
    project: PathBuf,
    /// Called by the runner, with its servers in the environment
    #[arg(long, hide = true)]
    inside: bool,
}

/// Where the mails go.
#[derive(Debug, Clone)]
struct Sink {
    host: String,
    port: u16,
}

fn sink(text: &str) -> Result<Sink, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Sink { host: address.ip().to_string(), port: address.port() });
    }
    text.rsplit_once(':')
        .filter(|(host, _)| !host.is_empty())
        .and_then(|(host, port)| Some(Sink { host: host.to_owned(), port: port.parse().ok()? }))
        .ok_or_else(|| format!("{text:?} is not host:port"))
}

impl Options {
    /// Functions that are needed to use all connections; the template takes no fewer than two.
    fn functions(&self) -> i32 {
        ((self.connections + CONNECTIONS_PER_INVOCATION - 1) / CONNECTIONS_PER_INVOCATION).max(2)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let done = if options.inside { measure_in_time(&options).await } else { run_inside_runner(&options).await };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Starts a fresh runner around this program, waits until both have ended, and removes what they stored.
async fn run_inside_runner(options: &Options) -> Result<ExitCode> {
    let own = std::env::current_exe().context("find this program")?;
    let binaries = own.parent().context("this program lies in no folder")?;
    let mut command = tokio::process::Command::new(binaries.join("local-runner"));
    command
        .args(["--runner", RUNNER, "--project"])
        .arg(&options.project)
        .args(["exec", "--fresh", "--bin-dir"])
        .arg(binaries)
        .arg(format!("--parameter=EmailBatchSize={}", options.batch_size))
        .arg(format!("--parameter=EmailConcurrency={}", options.functions()))
        .arg("--")
        .arg(&own)
        .args(std::env::args_os().skip(1))
        .arg("--inside");
    let mut child = command
        .spawn()
        .with_context(|| format!("run {}; build it with: make bench", binaries.join("local-runner").display()))?;
    let limit = Duration::from_secs(options.time_limit) + TIME_AROUND;
    let ended = async {
        // Ctrl-C reaches the runner too, which stops what it started; this program must be there to tidy up after it.
        let mut interrupts = 0;
        loop {
            tokio::select! {
                ended = child.wait() => return ended.context("wait for the runner"),
                _ = tokio::signal::ctrl_c() => interrupts += 1,
            }
            if interrupts > 2 {
                bail!("interrupted; local-runner --runner {RUNNER} stop-servers stops what is left");
            }
        }
    };
    let Ok(ended) = tokio::time::timeout(limit, ended).await else {
        child.kill().await.context("end the runner")?;
        tidy_up(&options.project).await?;
        bail!("the runner did not end within {} s", limit.as_secs());
    };
    let status = ended?;
    if !status.success() {
        bail!("nothing was measured; what the servers said is in {}", State::path(&options.project, RUNNER)?.display());
    }
    tidy_up(&options.project).await?;
    Ok(ExitCode::SUCCESS)
}

async fn tidy_up(project: &Path) -> Result<()> {
    runner::wipe(&State::path(project, RUNNER)?).await.context("remove what was stored")
}

async fn measure_in_time(options: &Options) -> Result<ExitCode> {
    let limit = Duration::from_secs(options.time_limit);
    let figures = tokio::time::timeout(limit, measure(options))
        .await
        .with_context(|| format!("not done within {} s; --time-limit allows more", limit.as_secs()))??;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
    } else {
        figures.print();
    }
    Ok(ExitCode::SUCCESS)
}

async fn measure(options: &Options) -> Result<Figures> {
    let (host, port) = match &options.sink {
        Some(sink) => (sink.host.as_str(), sink.port),
        None => ("inbox", 25),
    };
    let target = Target { account: "bench", host, port, connections: options.connections };
    let pipeline = Pipeline::prepare(options, &target).await?;
    let surroundings = Surroundings::read(&pipeline.db).await?;
    let blast = blast::Blast::prepare(options, pipeline.account())?;

    let warm_up = options.mails.min(WARM_UP_MAILS);
    pipeline.run(warm_up).await.context("warm up the pipeline")?;
    blast.run(warm_up).await.context("warm up the blast")?;
    let mut rounds = vec![];
    for number in 1..=options.rounds {
        let round = Round { pipeline: pipeline.run(options.mails).await?, blast: blast.run(options.mails).await? };
        eprintln!(
            "round {number} of {}: pipeline {:.0} mails/s, blast {:.0} mails/s, ratio {:.2}",
            options.rounds,
            round.pipeline.mails_per_second,
            round.blast.mails_per_second,
            round.ratio(),
        );
        rounds.push(round);
    }
    let wire = if options.wire { wire::measure(options).await? } else { vec![] };
    Ok(Figures::new(options, pipeline.account(), blast.content_bytes(), surroundings, rounds, wire))
}
