//! `up`, `exec` and what else concerns the runner itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use local_cloud::bundle::Bundle;
use local_cloud::lambda::{LogSink, LogSource};
use local_cloud::runner::{self, Provided, Runner, RunnerOptions};
use local_cloud::services::{Mode, Origin, Service};
use local_cloud::state::{self, RunnerRecord, State};
use local_cloud::template::{self, QueueUrls};
use tokio::signal::unix::{SignalKind, signal};

use crate::output;
use crate::session::INBOX;

/// How long running invocations may take to end when the runner is told to stop. A batch of mails goes on for 30 s at
/// most, and what is killed in the middle of a mail leaves it uncertain.
const GRACE: Duration = Duration::from_secs(45);

/// Parameters of the template that the runner knows the value of.
const PROVIDED: [(&str, Provided); 3] =
    [("DatabaseUrl", Provided::DatabaseUrl), ("RedisUrl", Provided::RedisUrl), ("PublicUrl", Provided::GatewayUrl)];

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Set a parameter of the template
    #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = parameter)]
    parameters: Vec<(String, String)>,
    /// Folder with prebuilt function binaries; without it cargo builds them
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// Port of the HTTP routes
    #[arg(long, default_value_t = 8000)]
    gateway_port: u16,
    /// Port of the AWS endpoint (SQS and Lambda's Invoke API)
    #[arg(long, default_value_t = 9000)]
    aws_port: u16,
    /// Port of the SMTP inbox, which catches all mail
    #[arg(long, default_value_t = 1025)]
    inbox_port: u16,
    /// Use servers of its own, whatever DATABASE_URL, REDIS_URL and .env say
    #[arg(long)]
    own_servers: bool,
    /// Also show START, END and REPORT of every invocation
    #[arg(long, short)]
    verbose: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Only Postgres and Redis, for tests: the command finds them in DATABASE_URL and REDIS_URL, and they are not durable
    #[arg(long)]
    services_only: bool,
    /// Begin with empty servers and an empty inbox
    #[arg(long)]
    fresh: bool,
    /// Set a parameter of the template
    #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = parameter)]
    parameters: Vec<(String, String)>,
    /// Folder with prebuilt function binaries; without it cargo builds them
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// Show what the functions write
    #[arg(long, short)]
    verbose: bool,
    /// The command
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Reads `NAME=VALUE`.
pub(crate) fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn log_sink(platform: bool, function: bool) -> LogSink {
    LogSink::new(move |line| match line.source {
        LogSource::Platform if platform => eprintln!("[{}] {}", line.function, line.text),
        LogSource::Function if function => eprintln!("[{}] {}", line.function, line.text),
        LogSource::Platform | LogSource::Function => {}
    })
}

/// Runs until Ctrl-C or SIGTERM; a second one does not wait for running work.
pub(crate) async fn up(project: &Path, name: &str, options: Options) -> Result<()> {
    let state = State::open(project, name)?;
    let runner_options = RunnerOptions {
        project: project.to_owned(),
        services: if options.own_servers { Mode::Own } else { Mode::Configured },
        services_only: false,
        durable: true,
        parameters: options.parameters.into_iter().collect(),
        provided: PROVIDED.to_vec(),
        bin_dir: options.bin_dir,
        gateway_port: options.gateway_port,
        aws_port: options.aws_port,
        inbox_port: options.inbox_port,
        inbox_folder: INBOX,
        log: log_sink(options.verbose, true),
    };
    let mut stop = Stop::new()?;
    let runner = tokio::select! {
        started = Runner::start(state, runner_options, GRACE) => started?,
        () = stop.asked() => bail!("stopped while starting; local-runner stop-servers stops what it had started"),
    };
    announce(&runner, name);
    tokio::select! {
        () = runner.watch_servers() => {}
        () = stop.asked() => {}
    }
    eprintln!("Stopping: running work has {} s to end (once more to kill it)", GRACE.as_secs());
    tokio::select! {
        stopped = runner.stop(GRACE) => stopped?,
        () = stop.asked() => bail!("killed; local-runner stop-servers stops the servers"),
    }
    eprintln!("Stopped");
    Ok(())
}

/// SIGINT and SIGTERM.
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn announce(runner: &Runner, name: &str) {
    let record = &runner.record;
    let servers = |service| match runner.origin(service) {
        Origin::Configured => "as configured",
        Origin::Binaries => "own server",
        Origin::Docker => "own container",
    };
    println!("\nNightshift runs ({name})");
    println!("  Postgres   {} ({})", address(record.database_url.as_deref()), servers(Service::Postgres));
    println!("  Redis      {} ({})", address(record.redis_url.as_deref()), servers(Service::Redis));
    println!("  HTTP       {}", output::or_dash(record.gateway.as_deref()));
    println!("  AWS        {}", output::or_dash(record.aws_endpoint.as_deref()));
    println!("  SMTP inbox {}", output::or_dash(record.inbox.as_deref()));
    let mut table = output::table(["Function", "Invoked by", "Limit", "Memory"]);
    for function in &runner.bundle.functions {
        let mut triggers: Vec<String> = vec![];
        triggers.extend(function.schedules.iter().map(|schedule| schedule.expression.clone()));
        triggers.extend(
            function
                .event_sources
                .iter()
                .map(|source| format!("queue {}", source.queue_arn.rsplit(':').next().unwrap_or_default())),
        );
        triggers.extend(function.routes.iter().map(|route| format!("{} {}", route.method, route.path)));
        if function.invoke_at_start {
            triggers.push("start".to_owned());
        }
        table.add_row([
            function.logical_id.clone(),
            triggers.join(", "),
            format!("{} s", function.timeout.as_secs()),
            format!("{} MiB", function.memory_mib),
        ]);
    }
    println!("{table}\nCtrl-C stops it.\n");
}

/// A URL without its password.
fn address(url: Option<&str>) -> String {
    let Some(url) = url else { return "–".to_owned() };
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        _ => url.to_owned(),
    }
}

/// Runs a command beside everything else, on free ports and servers of its own.
pub(crate) async fn exec(project: &Path, name: &str, exec: Exec) -> Result<ExitCode> {
    if exec.fresh {
        runner::wipe(&State::path(project, name)?).await?;
    }
    let state = State::open(project, name)?;
    let options = RunnerOptions {
        project: project.to_owned(),
        services: Mode::Own,
        services_only: exec.services_only,
        durable: !exec.services_only,
        parameters: exec.parameters.into_iter().collect(),
        provided: PROVIDED.to_vec(),
        bin_dir: exec.bin_dir,
        gateway_port: 0,
        aws_port: 0,
        inbox_port: 0,
        inbox_folder: INBOX,
        log: log_sink(false, exec.verbose),
    };
    let mut stop = Stop::new()?;
    let runner = Runner::start(state, options, GRACE).await?;
    let ended = run_command(project, name, &runner.record, &exec.command, &mut stop).await;
    runner.stop(if ended.is_ok() { GRACE } else { Duration::ZERO }).await?;
    ended
}

async fn run_command(
    project: &Path,
    name: &str,
    record: &RunnerRecord,
    command: &[String],
    stop: &mut Stop,
) -> Result<ExitCode> {
    let (program, arguments) = command.split_first().context("no command given")?;
    let environment: BTreeMap<&str, Option<&str>> = [
        ("NIGHTSHIFT_RUNNER_NAME", Some(name)),
        ("NIGHTSHIFT_GATEWAY", record.gateway.as_deref()),
        ("AWS_ENDPOINT_URL", record.aws_endpoint.as_deref()),
        ("DATABASE_URL", record.database_url.as_deref()),
        ("REDIS_URL", record.redis_url.as_deref()),
    ]
    .into();
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).env("NIGHTSHIFT_PROJECT", project).kill_on_drop(true);
    for (name, value) in environment {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Ok(own) = std::env::current_exe() {
        command.env("NIGHTSHIFT_RUNNER", own);
    }
    let mut child = command.spawn().with_context(|| format!("run {program}"))?;
    tokio::select! {
        ended = child.wait() => {
            let status = ended.with_context(|| format!("wait for {program}"))?;
            Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
        }
        () = stop.asked() => bail!("interrupted"),
    }
}

/// Stops the servers that a killed runner left behind.
pub(crate) async fn stop_servers(project: &Path, name: &str) -> Result<()> {
    runner::stop_left_servers(&State::open(project, name)?).await?;
    println!("The servers of {name} are stopped");
    Ok(())
}

/// Reads the template as `up` would, and shows it.
pub(crate) fn check(project: &Path, given: Vec<(String, String)>, json: bool) -> Result<()> {
    let template = template::load(&project.join("template.yaml"))?;
    let mut values: BTreeMap<String, String> = given.into_iter().collect();
    for parameter in template.parameters().iter().filter(|parameter| parameter.default.is_none()) {
        values.entry(parameter.name.clone()).or_insert_with(|| format!("<{}>", parameter.name));
    }
    let bundle: Bundle = template.resolve(&values, &QueueUrls::new("http://127.0.0.1:9000"))?;
    if json {
        return output::json(&bundle);
    }
    println!("template.yaml is sound: {} functions, {} queues", bundle.functions.len(), bundle.queues.len());
    Ok(())
}

/// Invokes a function of the running runner.
pub(crate) async fn invoke(project: &Path, name: &str, function: &str, payload: String) -> Result<()> {
    let state::Runner::Live(record) = State::open(project, name)?.read()? else {
        bail!("the runner {name:?} is not running here; start it with: local-runner up --runner {name}");
    };
    let endpoint = record.aws_endpoint.context("this runner serves no functions")?;
    let answer = local_cloud::client::invoke(&endpoint, function, payload).await?;
    println!("{}", answer.body);
    if let Some(error) = answer.function_error {
        bail!("{function} failed ({error})");
    }
    Ok(())
}

/// Shows what a URL answers.
pub(crate) async fn get(url: &str) -> Result<()> {
    let (status, body) = local_cloud::client::get(url).await?;
    println!("HTTP {status}\n{body}");
    if status != 200 {
        bail!("{url} answers {status}");
    }
    Ok(())
}
