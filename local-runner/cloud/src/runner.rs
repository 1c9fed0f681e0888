//! The runner: everything a template declares, at work on this machine until it is told to stop.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::serve::ListenerExt as _;
use bytes::Bytes;
use chrono::Utc;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::async_invoke::{AsyncInvoker, AsyncOptions};
use crate::bundle::{Bundle, Function, Queue};
use crate::inbox::{Inbox, InboxOptions};
use crate::lambda::{InvokeError, Lambda, LambdaFunction, LambdaOptions, LogSink};
use crate::scheduler::{DeadLetter, Ledger, Target};
use crate::services::{self, Mode, Origin, Service, Services, ServicesOptions};
use crate::sqs::Sqs;
use crate::state::{RunnerRecord, State, StateLock};
use crate::template::{QueueUrls, Template};
use crate::{binaries, endpoint, event_source, gateway, lambda, scheduler, template};

/// Prefix of every key in Redis. The same for all runners, so that two of them can share the work of one Redis.
const PREFIX: &str = "nightshift:";
/// How often queues are looked for. Longer leaves functions without them for longer after Redis was lost.
const QUEUE_WATCH: Duration = Duration::from_secs(1);
/// Redis or the functions may take a moment to come up.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// What a parameter of the template stands for; the runner fills it in where nobody sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provided {
    /// URL of Postgres.
    DatabaseUrl,
    /// URL of Redis.
    RedisUrl,
    /// Base URL of the HTTP gateway.
    GatewayUrl,
}

/// How to run.
#[derive(Debug, Clone)]
pub struct RunnerOptions {
    /// Folder with `template.yaml`.
    pub project: PathBuf,
    /// Which servers may be used.
    pub services: Mode,
    /// Only the servers: no functions, no inbox.
    pub services_only: bool,
    /// Whether what is committed survives a crash of the machine; only tests can do without.
    pub durable: bool,
    /// Values of template parameters, as the user gave them.
    pub parameters: BTreeMap<String, String>,
    /// Parameters that the runner knows the value of.
    pub provided: Vec<(&'static str, Provided)>,
    /// Prebuilt function binaries; built by cargo where none are given.
    pub bin_dir: Option<PathBuf>,
    /// Port of the HTTP gateway; 0 takes any free one.
    pub gateway_port: u16,
    /// Port of the AWS endpoint.
    pub aws_port: u16,
    /// Port of the SMTP inbox.
    pub inbox_port: u16,
    /// Sub-folder of the state for caught mail.
    pub inbox_folder: &'static str,
    /// Where the functions' output goes.
    pub log: LogSink,
}

/// A running bundle.
#[derive(Debug)]
pub struct Runner {
    /// Where everything listens.
    pub record: RunnerRecord,
    /// What runs.
    pub bundle: Bundle,
    state: State,
    _lock: StateLock,
    services: Services,
    parts: Option<Parts>,
    watching: CancellationToken,
}

/// What runs beside the servers.
#[derive(Debug)]
struct Parts {
    lambda: Lambda,
    inbox: Inbox,
    /// Schedules and queues: told first.
    triggers: CancellationToken,
    /// HTTP: told when nothing runs any more.
    listeners: CancellationToken,
    tasks: JoinSet<()>,
}

impl Runner {
    /// Starts everything and returns when it serves: servers, functions, then those that are invoked at the start, then
    /// triggers. `shutdown` ends the waiting, not what was started: call [`Runner::stop`].
    pub async fn start(state: State, options: RunnerOptions, drain: Duration) -> Result<Self> {
        let lock = state.lock()?;
        let mut record = RunnerRecord::of_this_process();
        let listeners = match options.services_only {
            true => None,
            false => Some((
                listen(options.gateway_port, "--gateway-port").await?,
                listen(options.aws_port, "--aws-port").await?,
            )),
        };
        let services_options =
            ServicesOptions { durable: options.durable, ..ServicesOptions::new(&options.project, options.services) };
        let services = Services::start(&state, &services_options).await?;
        record.database_url = Some(services.database_url().to_owned());
        record.redis_url = Some(services.redis_url().to_owned());
        let watching = CancellationToken::new();
        let mut runner = Self {
            record,
            bundle: Bundle { functions: vec![], queues: vec![] },
            state,
            _lock: lock,
            services,
            parts: None,
            watching,
        };
        if let Some((gateway, aws)) = listeners
            && let Err(error) = runner.start_parts(options, gateway, aws, drain).await
        {
            // What was started for nothing does not stay behind.
            if let Err(also) = runner.stop(Duration::ZERO).await {
                tracing::error!("{also:#}");
            }
            return Err(error);
        }
        runner.state.write(&runner.record)?;
        Ok(runner)
    }

    async fn start_parts(
        &mut self,
        options: RunnerOptions,
        gateway: TcpListener,
        aws: TcpListener,
        drain: Duration,
    ) -> Result<()> {
        let gateway_url = format!("http://{}", gateway.local_addr()?);
        let aws_url = format!("http://{}", aws.local_addr()?);
        let template = template::load(&options.project.join("template.yaml"))?;
        let values = self.parameter_values(&template, &options, &gateway_url)?;
        let bundle = template.resolve(&values, &QueueUrls::new(&aws_url))?;
        let functions = executables(&self.state, &bundle, &options).await?;

        let sqs = patiently("Redis", || Sqs::connect(self.services.redis_url(), PREFIX, &aws_url)).await?;
        for queue in &bundle.queues {
            sqs.ensure_queue(queue).await.with_context(|| format!("create queue {}", queue.name))?;
        }
        let inbox_dir = self.state.private_dir(options.inbox_folder)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, options.inbox_port));
        let inbox = Inbox::start(InboxOptions::new(inbox_dir, address)).await.context("start the SMTP inbox")?;

        let extra_env =
            ["AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL_LAMBDA"].map(|name| (name.to_owned(), aws_url.clone())).into();
        let lambda_options =
            LambdaOptions { extra_env, run_as: self.state.run_as(), log: options.log, ..LambdaOptions::default() };
        let lambda = Lambda::start(functions, lambda_options).await?;
        let for_destination = sqs.clone();
        let destination: crate::async_invoke::Destination = Arc::new(move |queue_arn: String, body: String| {
            let sqs = for_destination.clone();
            Box::pin(async move {
                sqs.send(&queue_arn, &body, Duration::ZERO).await?;
                Ok(())
            })
        });
        let invoker = AsyncInvoker::connect(
            self.services.redis_url(),
            PREFIX,
            lambda.clone(),
            destination,
            AsyncOptions::default(),
        )?;
        let ledger = patiently("Redis", || Ledger::connect(self.services.redis_url(), PREFIX)).await?;

        self.record.gateway = Some(gateway_url);
        self.record.aws_endpoint = Some(aws_url);
        self.record.inbox = Some(inbox.address().to_string());
        self.bundle = bundle.clone();
        let mut parts = Parts {
            lambda: lambda.clone(),
            inbox,
            triggers: CancellationToken::new(),
            listeners: CancellationToken::new(),
            tasks: JoinSet::new(),
        };

        // HTTP first: a function that is invoked at the start may already ring a queue.
        let api = endpoint::router(sqs.clone(), lambda::routes(lambda.clone(), invoker.clone()));
        parts.serve(aws, api);
        let started = invoke_at_start(&bundle, &lambda).await;
        if started.is_ok() {
            let routes = pairs(&bundle, |function| &function.routes);
            parts.serve(gateway, gateway::router(routes, lambda.clone()));
            parts.start_triggers(&bundle, sqs, lambda, invoker, ledger, drain);
        }
        self.parts = Some(parts);
        started
    }

    /// What the user gave, then what the runner provides, then secrets that it makes up and keeps.
    fn parameter_values(
        &self,
        template: &Template,
        options: &RunnerOptions,
        gateway_url: &str,
    ) -> Result<BTreeMap<String, String>> {
        let mut values = options.parameters.clone();
        for parameter in
            template.parameters().iter().filter(|parameter| !options.parameters.contains_key(&parameter.name))
        {
            let provided = options.provided.iter().find(|(name, _)| *name == parameter.name);
            let value = match provided {
                Some((_, Provided::DatabaseUrl)) => self.services.database_url().to_owned(),
                Some((_, Provided::RedisUrl)) => self.services.redis_url().to_owned(),
                Some((_, Provided::GatewayUrl)) => gateway_url.to_owned(),
                None if parameter.no_echo && parameter.default.is_none() => self.state.secret(&parameter.name)?,
                None => continue,
            };
            values.insert(parameter.name.clone(), value);
        }
        Ok(values)
    }

    /// Where a server comes from.
    pub fn origin(&self, service: Service) -> Origin {
        self.services.origin(service)
    }

    /// Restarts servers that die, until [`Runner::stop`].
    pub async fn watch_servers(&self) {
        self.services.watch(self.watching.clone()).await;
    }

    /// Stops in order: triggers, running invocations (given `grace` to end), listeners, inbox, servers that were started
    /// here.
    pub async fn stop(mut self, grace: Duration) -> Result<()> {
        self.watching.cancel();
        if let Some(parts) = self.parts.take() {
            parts.stop(grace).await;
        }
        self.state.clear()?;
        self.services.stop().await.context("stop the servers")?;
        Ok(())
    }
}

impl Parts {
    fn serve(&mut self, listener: TcpListener, router: axum::Router) {
        let stop = self.listeners.clone();
        // Answers are written in two pieces; with Nagle's algorithm the second would wait 40 ms.
        let listener = listener.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!("TCP_NODELAY: {error}");
            }
        });
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        self.tasks.spawn(async move {
            tokio::select! {
                ended = async { axum::serve(listener, service).await } => if let Err(error) = ended {
                    tracing::error!("a listener ended: {error}");
                },
                () = stop.cancelled() => {}
            }
        });
    }

    fn start_triggers(
        &mut self,
        bundle: &Bundle,
        sqs: Sqs,
        lambda: Lambda,
        invoker: AsyncInvoker,
        ledger: Ledger,
        drain: Duration,
    ) {
        for (function, source) in pairs(bundle, |function| &function.event_sources) {
            self.tasks.spawn(event_source::run(
                source,
                function,
                sqs.clone(),
                lambda.clone(),
                self.triggers.clone(),
                drain,
            ));
        }
        self.tasks.spawn(watch_queues(bundle.queues.clone(), sqs.clone(), self.triggers.clone()));
        self.tasks.spawn(invoker.clone().run(self.triggers.clone()));
        let schedules = pairs(bundle, |function| &function.schedules);
        let target = Ticks { invoker, sqs };
        self.tasks.spawn(scheduler::run(schedules, ledger, target, self.triggers.clone()));
    }

    async fn stop(mut self, grace: Duration) {
        self.triggers.cancel();
        self.lambda.shutdown(grace).await;
        self.listeners.cancel();
        self.inbox.shutdown().await;
        let ended =
            tokio::time::timeout(Duration::from_secs(5), async { while self.tasks.join_next().await.is_some() {} });
        if ended.await.is_err() {
            self.tasks.abort_all();
        }
    }
}

/// Stops the servers that a killed runner left behind. `false`: a runner is alive and keeps them.
pub async fn stop_left_servers(state: &State) -> Result<()> {
    let _lock = state.lock()?;
    services::stop(state).await.context("stop the servers")?;
    state.clear()?;
    Ok(())
}

/// Removes everything that a state holds, its servers included.
pub async fn wipe(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    let state = State::open_dir(dir)?;
    stop_left_servers(&state).await?;
    std::fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))
}

async fn listen(port: u16, option: &str) -> Result<TcpListener> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            bail!("port {port} of 127.0.0.1 is taken; choose another with {option}, or 0 for any free one")
        }
        Err(error) => Err(error).with_context(|| format!("listen on port {port} of 127.0.0.1")),
    }
}

/// Makes queues again that Redis has lost, until `shutdown`.
async fn watch_queues(queues: Vec<Queue>, sqs: Sqs, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(QUEUE_WATCH) => {}
        }
        for queue in &queues {
            match sqs.restore_queue(queue).await {
                Ok(false) => {}
                Ok(true) => tracing::warn!("queue {} was gone and is made again, empty", queue.name),
                // Redis is away; whoever needs a queue says so.
                Err(error) => tracing::debug!("cannot look for queue {}: {error}", queue.name),
            }
        }
    }
}

/// A server that has just been started may take a moment before it answers everything.
async fn patiently<T, E, F>(what: &str, mut connect: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T, E>>,
    E: Into<anyhow::Error>,
{
    let deadline = tokio::time::Instant::now() + START_PATIENCE;
    loop {
        match connect().await {
            Ok(connected) => return Ok(connected),
            Err(error) if tokio::time::Instant::now() >= deadline => {
                return Err(error.into()).with_context(|| format!("{what} does not answer"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

async fn executables(state: &State, bundle: &Bundle, options: &RunnerOptions) -> Result<Vec<LambdaFunction>> {
    let names: Vec<&str> = bundle.functions.iter().map(|function| function.binary.as_str()).collect();
    let found = match &options.bin_dir {
        Some(dir) => binaries::prebuilt(dir, &names)?,
        None => binaries::build(&options.project, &names).await?,
    };
    let executables = binaries::publish(state, found)?;
    bundle
        .functions
        .iter()
        .map(|function| {
            let executable =
                executables.get(&function.binary).with_context(|| format!("no binary {}", function.binary))?;
            Ok(LambdaFunction { function: function.clone(), executable: executable.clone() })
        })
        .collect()
}

/// Invokes what wants to run before everything else, in the order of the template.
async fn invoke_at_start(bundle: &Bundle, lambda: &Lambda) -> Result<()> {
    for function in bundle.functions.iter().filter(|function| function.invoke_at_start) {
        let name = &function.logical_id;
        let started = Utc::now();
        let answer = lambda.invoke(name, Bytes::from_static(b"{}")).await.with_context(|| format!("invoke {name}"))?;
        if let Some(error) = answer.error {
            bail!("{name} failed, so nothing else was started: {}", error.message);
        }
        tracing::info!("{name} ran in {} ms", (Utc::now() - started).num_milliseconds());
    }
    Ok(())
}

fn pairs<T: Clone>(bundle: &Bundle, triggers: impl Fn(&Function) -> &Vec<T>) -> Vec<(Function, T)> {
    bundle
        .functions
        .iter()
        .flat_map(|function| triggers(function).iter().map(|trigger| (function.clone(), trigger.clone())))
        .collect()
}

impl event_source::Invoke for Lambda {
    async fn invoke(&self, function_arn: &str, payload: Bytes) -> event_source::Outcome {
        match Lambda::invoke(self, function_arn, payload).await {
            Ok(answer) => match answer.error {
                None => event_source::Outcome::Answered(answer.payload),
                Some(error) => event_source::Outcome::Failed(error.message),
            },
            Err(InvokeError::Throttled) => event_source::Outcome::Throttled,
            Err(error) => event_source::Outcome::Failed(error.to_string()),
        }
    }
}

/// Where ticks go: asynchronous invocations, or a dead-letter queue.
#[derive(Clone)]
struct Ticks {
    invoker: AsyncInvoker,
    sqs: Sqs,
}

impl Target for Ticks {
    async fn submit(&self, function: &str, payload: Bytes) -> Result<()> {
        self.invoker.submit(function, payload).await?;
        Ok(())
    }

    async fn dead_letter(&self, letter: DeadLetter) -> Result<()> {
        self.sqs.send(&letter.queue_arn, &letter.body, Duration::ZERO).await?;
        Ok(())
    }
}
