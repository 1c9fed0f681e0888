//! The runner under test.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use local_cloud::inbox::Mailbox;
use local_cloud::state::{Runner, RunnerRecord, State};
use local_cloud::template::QueueUrls;
use shared::doorbell::Doorbell;
use shared::queue::{Queue, client_for_endpoint};
use sqlx::{Connection as _, PgConnection};

use crate::binaries;
use crate::guardian::Guardian;
use crate::inbox::Caught;
use crate::processes::{self, Process};

/// From nothing to serving: initdb, migrations, cold starts, on a machine that builds beside it.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// Settings of the machine that must not decide where a test works.
const STRAY: [&str; 12] = [
    "DATABASE_URL",
    "REDIS_URL",
    "REDIS_CACHE_URL",
    "REDIS_RATE_LIMIT_URL",
    "REDIS_BALANCES_URL",
    "ENCRYPTION_KEYS",
    "AWS_ENDPOINT_URL",
    "NIGHTSHIFT_RUNNER_NAME",
    "NIGHTSHIFT_PROJECT",
    "NIGHTSHIFT_GATEWAY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// What a command of the runner said.
#[derive(Debug)]
pub struct Said {
    /// Exit code 0.
    pub success: bool,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// The rejects file of an import.
    pub rejects: Option<String>,
}

impl Said {
    /// Fails with what was said unless the exit code is 0.
    pub fn expect_success(self) -> Self {
        assert!(self.success, "the command failed: {}{}", self.out, self.err);
        self
    }

    /// Fails unless the command failed with this in its words.
    pub fn expect_failure(self, words: &str) -> Self {
        assert!(!self.success, "the command succeeded: {}", self.out);
        assert!(self.err.contains(words), "{words:?} is not in: {}", self.err);
        self
    }
}

/// A runner of its own with everything that it serves.
#[derive(Debug)]
pub struct TestApp {
    name: String,
    parameters: Vec<String>,
    bin_dir: PathBuf,
    state: State,
    logs: tempfile::TempDir,
    child: Mutex<Child>,
    _guardian: Guardian,
}

impl TestApp {
    /// Starts a runner with an account `inbox`. Deferred mail is tried again after a second, and the work of a dead
    /// function returns after five; `parameters` of the template come on top.
    pub fn launch(name: &str, parameters: &[&str]) -> Self {
        Self::launch_from(binaries::folder(), name, parameters)
    }

    /// [`TestApp::launch`] with the functions of this folder.
    pub(crate) fn launch_from(bin_dir: &Path, name: &str, parameters: &[&str]) -> Self {
        let project = binaries::project();
        let name = format!("e2e-{name}-{}", std::process::id());
        let fast = ["RetryFirstSeconds=1", "LeaseSeconds=5", "RingAgainSeconds=5"];
        let parameters: Vec<String> = fast.iter().chain(parameters).map(|&parameter| parameter.to_owned()).collect();
        let state = State::open(&project, &name).expect("a state folder");
        let guardian = Guardian::watch(&executable(), &project, &name, state.dir());
        let logs = tempfile::tempdir().expect("a temporary folder");
        let child = Mutex::new(spawn(&name, &parameters, bin_dir, logs.path()));
        let app = Self { name, parameters, bin_dir: bin_dir.to_owned(), state, logs, child, _guardian: guardian };
        app.wait_until_up();
        app.runner(&["account", "add", "inbox", "--host", "inbox", "--from", "night@example.org"]).expect_success();
        app
    }

    /// Kills the runner as `kill -9` does; its servers stay behind.
    pub fn kill_runner(&self) {
        let mut child = self.child.lock().expect("no test panics with the lock");
        child.kill().expect("the runner can be killed");
        child.wait().expect("the runner can be waited for");
    }

    /// Starts the runner again after [`TestApp::kill_runner`]; it must adopt its servers. The inbox has a new port, which
    /// the account learns.
    pub fn restart_runner(&self) {
        *self.child.lock().expect("no test panics with the lock") =
            spawn(&self.name, &self.parameters, &self.bin_dir, self.logs.path());
        self.wait_until_up();
        self.runner(&["account", "add", "inbox", "--host", "inbox", "--from", "night@example.org", "--replace"])
            .expect_success();
    }

    fn wait_until_up(&self) {
        let started = Instant::now();
        loop {
            if let Ok(Runner::Live(record)) = self.state.read()
                && record.gateway.is_some()
                && record.process.pid == self.runner_pid()
            {
                return;
            }
            let ended = self.child.lock().expect("no test panics with the lock").try_wait().expect("a child");
            assert!(ended.is_none(), "the runner ended while starting:\n{}", self.log_tail());
            assert!(started.elapsed() < START_PATIENCE, "the runner does not start:\n{}", self.log_tail());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Process id of the runner.
    pub fn runner_pid(&self) -> u32 {
        self.child.lock().expect("no test panics with the lock").id()
    }

    /// The last lines that runner and functions wrote.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.logs.path().join("runner.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Where everything listens.
    pub fn record(&self) -> RunnerRecord {
        match self.state.read().expect("a state file") {
            Runner::Live(record) => record,
            other => panic!("the runner does not run: {other:?}\n{}", self.log_tail()),
        }
    }

    /// [`TestApp::record`], while there may be no runner.
    pub(crate) fn try_record(&self) -> Option<RunnerRecord> {
        match self.state.read() {
            Ok(Runner::Live(record)) => Some(record),
            Ok(Runner::None | Runner::Stale(_)) | Err(_) => None,
        }
    }

    /// A command of the runner's command line, ready to be run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(&self.name);
        command.args(arguments);
        command
    }

    /// Runs a command of the runner's command line.
    pub fn runner(&self, arguments: &[&str]) -> Said {
        let output = self.command(arguments).stdin(Stdio::null()).output().expect("the runner's command line runs");
        said(&output)
    }

    /// Runs a command with something on its standard input.
    pub fn runner_with_input(&self, arguments: &[&str], input: &str) -> Said {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the runner's command line runs");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads its input");
        said(&child.wait_with_output().expect("it ends"))
    }

    /// Invokes a function and returns its answer.
    pub fn invoke(&self, function: &str) -> serde_json::Value {
        let said = self.runner(&["invoke", function]).expect_success();
        serde_json::from_str(&said.out).expect("an answer in JSON")
    }

    /// A connection to the runner's database.
    pub async fn database(&self) -> PgConnection {
        let url = self.record().database_url.expect("the runner has a database");
        PgConnection::connect(&url).await.expect("the database answers")
    }

    /// The one number that a query answers.
    pub async fn count(&self, query: &'static str, argument: i64) -> i64 {
        let mut db = self.database().await;
        sqlx::query_scalar(query).bind(argument).fetch_one(&mut db).await.expect(query)
    }

    /// Rings for a batch on queue `email`.
    pub async fn ring_batch(&self, batch_id: i64) {
        let endpoint = self.record().aws_endpoint.expect("the runner serves queues");
        let queue = Queue::new(client_for_endpoint(&endpoint), QueueUrls::new(&endpoint).of("EmailQueue"));
        queue.ring(&[(Doorbell::Batch { batch_id }, Duration::ZERO)]).await.expect("the queue takes a doorbell");
    }

    /// Empties every queue of the bundle.
    pub async fn purge_queues(&self) {
        let endpoint = self.record().aws_endpoint.expect("the runner serves queues");
        let client = client_for_endpoint(&endpoint);
        let queues = [
            "EmailQueue",
            "TransactionalQueue",
            "CampaignsQueue",
            "EmailDeadLetters",
            "TransactionalDeadLetters",
            "CampaignsDeadLetters",
            "FailedInvocations",
        ];
        for queue in queues {
            client.purge_queue().queue_url(QueueUrls::new(&endpoint).of(queue)).send().await.expect(queue);
        }
    }

    /// The mails that arrived.
    pub fn mailbox(&self) -> Mailbox {
        Mailbox::open(&self.state.private_dir("inbox").expect("the inbox has a folder"))
    }

    /// Who got mail at this domain.
    pub fn caught(&self, domain: &str) -> Caught {
        Caught::at(&self.mailbox(), domain)
    }

    /// Waits until so many mails have arrived at this domain.
    pub async fn wait_for_mails(&self, domain: &str, at_least: usize) {
        self.wait_for("mails to arrive", Duration::from_secs(60), async || self.caught(domain).count() >= at_least)
            .await;
    }

    /// Waits for a condition.
    pub async fn wait_for(&self, what: &str, patience: Duration, mut condition: impl AsyncFnMut() -> bool) {
        let started = Instant::now();
        while !condition().await {
            assert!(started.elapsed() < patience, "waited {patience:?} for {what}\n{}", self.log_tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Processes of a function, by the name of its binary.
    pub fn function_processes(&self, binary: &str) -> Vec<Process> {
        processes::children(self.runner_pid(), binary)
    }

    /// Processes of a server: `postgres` or `redis`.
    pub fn server_processes(&self, server: &str) -> Vec<Process> {
        processes::working_below(self.state.dir(), server)
    }

    /// HTTP status, body and time of a page of the gateway.
    pub async fn get(&self, path: &str) -> (u16, String, Duration) {
        let url = format!("{}{path}", self.record().gateway.expect("the runner has a gateway"));
        let asked = Instant::now();
        let (status, body) = local_cloud::client::get(&url).await.expect("the gateway answers");
        (status, body, asked.elapsed())
    }
}

impl Drop for TestApp {
    /// The guardian does the rest.
    fn drop(&mut self) {
        if let Ok(child) = self.child.get_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn executable() -> PathBuf {
    binaries::folder().join("local-runner")
}

fn command(name: &str) -> Command {
    let mut command = Command::new(executable());
    command.args(["--runner", name, "--project"]).arg(binaries::project());
    for variable in STRAY {
        command.env_remove(variable);
    }
    command
}

fn spawn(name: &str, parameters: &[String], bin_dir: &Path, logs: &Path) -> Child {
    let log = File::options().create(true).append(true).open(logs.join("runner.log")).expect("a log file");
    let mut up = command(name);
    up.args(["up", "--own-servers", "--gateway-port", "0", "--aws-port", "0", "--inbox-port", "0", "--bin-dir"])
        .arg(bin_dir);
    for parameter in parameters {
        up.args(["--parameter", parameter]);
    }
    up.stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second handle"))
        .stderr(log)
        .spawn()
        .expect("the runner starts")
}

fn said(output: &std::process::Output) -> Said {
    Said {
        success: output.status.success(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        rejects: None,
    }
}
