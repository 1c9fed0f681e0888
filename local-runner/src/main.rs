//! `local-runner`: runs the functions of `template.yaml` on this machine, and what one does with accounts, campaigns,
//! single mails and caught mail.

mod commands;
mod output;
mod serve;
mod session;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::commands::account::AccountCommand;
use crate::commands::api_key::ApiKeyCommand;
use crate::commands::campaign::CampaignCommand;
use crate::commands::health_check::HealthCheck;
use crate::commands::inbox::InboxCommand;
use crate::commands::mail::MailCommand;
use crate::commands::suppression::SuppressionCommand;
use crate::commands::{account, api_key, campaign, health_check, inbox, mail, suppression};
use crate::session::Session;

/// Runs Nightshift on this machine
///
/// Start it with `local-runner up`; then, in another terminal:
///
///   local-runner account add news --host inbox --from news@example.org
///   local-runner campaign create --name Spring --account news --subject 'Hello {{ first_name }}' \
///       --html mail.html --recipients people.csv --start
///   local-runner campaign progress 1 --wait
///   local-runner campaign receipt 1
///   local-runner inbox list
#[derive(Debug, Parser)]
#[command(version, verbatim_doc_comment)]
struct Cli {
    /// Which of this project's runners: each has its own servers and data
    #[arg(long, global = true, env = "NIGHTSHIFT_RUNNER_NAME", default_value = "main", value_name = "NAME")]
    runner: String,
    /// Folder with template.yaml
    #[arg(long, global = true, env = "NIGHTSHIFT_PROJECT", default_value = ".", hide_env_values = true)]
    project: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start everything and stay in the foreground; Ctrl-C stops it
    Up(serve::Options),
    /// Start everything on free ports, run a command, stop everything; the command's exit code is the answer
    Exec(serve::Exec),
    /// Stop the servers that a killed runner left behind
    StopServers,
    /// Check template.yaml, and say what it declares
    Check {
        /// Set a parameter of the template
        #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = serve::parameter)]
        parameters: Vec<(String, String)>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Invoke a function and print its answer
    Invoke {
        /// Its logical id in the template
        function: String,
        /// The event, as JSON
        #[arg(default_value = "{}")]
        payload: String,
    },
    /// Show what a URL of the runner answers, and its status; exit code 1 unless that is 200
    Get {
        /// The URL
        url: String,
    },
    /// SMTP accounts
    #[command(subcommand)]
    Account(AccountCommand),
    /// Keys of the HTTP API
    #[command(subcommand)]
    ApiKey(ApiKeyCommand),
    /// Addresses that get no mail
    #[command(subcommand)]
    Suppression(SuppressionCommand),
    /// Campaigns
    #[command(subcommand)]
    Campaign(CampaignCommand),
    /// Single mails: to one person, now, whatever else is being sent
    #[command(subcommand)]
    Mail(MailCommand),
    /// Find work that does not go on, and resume it with --fix; exit code 1 when something was found stuck
    HealthCheck(HealthCheck),
    /// Mails that the runner's inbox caught
    #[command(subcommand)]
    Inbox(InboxCommand),
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    match run(cli).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<ExitCode> {
    let project = cli.project.canonicalize().with_context(|| format!("project folder {}", cli.project.display()))?;
    if !project.join("template.yaml").is_file() {
        bail!("there is no template.yaml in {}; change there, or name the folder with --project", project.display());
    }
    if !matches!(cli.command, Command::Up(_) | Command::Exec(_)) {
        end_quietly_when_nobody_reads();
    }
    let session = || Session::open(&project, &cli.runner);
    match cli.command {
        Command::Up(options) => serve::up(&project, &cli.runner, options).await?,
        Command::Exec(exec) => return serve::exec(&project, &cli.runner, exec).await,
        Command::StopServers => serve::stop_servers(&project, &cli.runner).await?,
        Command::Check { parameters, json } => serve::check(&project, parameters, json)?,
        Command::Invoke { function, payload } => serve::invoke(&project, &cli.runner, &function, payload).await?,
        Command::Get { url } => serve::get(&url).await?,
        Command::Account(command) => account::run(command, &session()?).await?,
        Command::ApiKey(command) => api_key::run(command, &session()?).await?,
        Command::Suppression(command) => suppression::run(command, &session()?).await?,
        Command::Campaign(command) => campaign::run(command, &session()?).await?,
        Command::Mail(command) => return mail::run(command, &session()?).await,
        Command::HealthCheck(check) => return health_check::run(check, &session()?).await,
        Command::Inbox(command) => inbox::run(command, &session::mailbox(&project, &cli.runner)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// `local-runner … | head` ends like any other command then, instead of with a panic. The runner itself keeps Rust's
/// way, because a child's closed pipe must not end it.
#[expect(unsafe_code, reason = "setting a signal's disposition is unsafe in general; the default one runs no code")]
fn end_quietly_when_nobody_reads() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: no handler is installed, and no other thread has set one for this signal.
    if let Err(error) = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) } {
        tracing::debug!("SIGPIPE: {error}");
    }
}
