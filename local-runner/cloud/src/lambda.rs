//! The functions: a pool of sandboxes for each, and invocations with Lambda's results, errors and log lines.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::de::IgnoredAny;
use thiserror::Error;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::bundle::{self, ACCOUNT, REGION};
use crate::sandbox::Blueprint;
pub use api::routes;
pub use log::{LogLine, LogSink, LogSource};
pub use outcome::{FunctionError, Invoked};
use pool::Pool;

mod api;
pub(crate) mod log;
mod outcome;
mod pool;

/// Largest event of an invocation that is waited for, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 6 * 1024 * 1024;

/// How often idle sandboxes are looked at.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// Id of an invocation; retries of an asynchronous one keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(Uuid);

impl RequestId {
    /// A new id.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for RequestId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text).map(Self)
    }
}

/// A function and the executable that is it.
#[derive(Debug, Clone)]
pub struct LambdaFunction {
    /// As the template declares it.
    pub function: bundle::Function,
    /// The binary to start.
    pub executable: PathBuf,
}

/// What holds for all functions.
#[derive(Debug, Clone)]
pub struct LambdaOptions {
    /// Variables for every function, such as `AWS_ENDPOINT_URL_SQS`; those of the template win.
    pub extra_env: BTreeMap<String, String>,
    /// User and group that functions run as; needs root.
    pub run_as: Option<(u32, u32)>,
    /// Where the functions' output goes.
    pub log: LogSink,
    /// Most sandboxes of a function without `ReservedConcurrentExecutions`. A larger number lets a burst take more
    /// memory of the machine, a smaller one throttles earlier.
    pub default_concurrency: u32,
    /// A sandbox without work for so long is stopped.
    pub idle_limit: Duration,
    /// Limit of the init phase; AWS allows 10 seconds.
    pub init_limit: Duration,
    /// A sandbox is replaced after so many invocations.
    pub max_invocations: Option<u64>,
}

impl Default for LambdaOptions {
    fn default() -> Self {
        Self {
            extra_env: BTreeMap::new(),
            run_as: None,
            log: LogSink::discard(),
            default_concurrency: 32,
            idle_limit: Duration::from_secs(300),
            init_limit: Duration::from_secs(10),
            max_invocations: None,
        }
    }
}

/// Why an invocation did not reach its function.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvokeError {
    /// No function has this name.
    #[error("Function not found: {arn}")]
    UnknownFunction {
        /// What was asked for, as an ARN.
        arn: String,
    },
    /// The event is no JSON.
    #[error("Could not parse request body into json: {reason}")]
    NotJson {
        /// Where it stops being JSON.
        reason: String,
    },
    /// The event is too large.
    #[error("Request must be smaller than {limit} bytes for the InvokeFunction operation")]
    TooLarge {
        /// Largest event in bytes.
        limit: usize,
    },
    /// All sandboxes that the function may have are busy; later there may be room.
    #[error("Rate Exceeded.")]
    Throttled,
    /// The runner stops; the event was not processed to its end.
    #[error("the local cloud is shutting down")]
    ShuttingDown,
}

/// An invocation with all its circumstances; [`Lambda::invoke`] fills them in.
#[derive(Debug, Clone)]
pub struct Request {
    /// The event, JSON; nothing stands for `{}`.
    pub payload: Bytes,
    /// Id of the invocation.
    pub request_id: RequestId,
    /// The caller's client context, JSON.
    pub client_context: Option<String>,
    /// Qualifier that was used in the name (`$LATEST`).
    pub qualifier: Option<String>,
    /// `X-Amzn-Trace-Id` of the caller; one is made up otherwise.
    pub trace_id: Option<String>,
}

impl Request {
    /// A new invocation with this event.
    pub fn new(payload: Bytes) -> Self {
        Self { payload, request_id: RequestId::random(), client_context: None, qualifier: None, trace_id: None }
    }
}

/// All functions of a bundle. Clones share the sandboxes.
#[derive(Debug, Clone)]
pub struct Lambda(Arc<State>);

#[derive(Debug)]
struct State {
    pools: Vec<Arc<Pool>>,
    invocations: TaskTracker,
    stop: CancellationToken,
    sweeper: AbortHandle,
}

impl Drop for State {
    fn drop(&mut self) {
        self.sweeper.abort();
    }
}

/// What a function's sandboxes are doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activity {
    /// Logical id of the function.
    pub function: String,
    /// Most sandboxes it may have.
    pub concurrency: u32,
    /// Invocations that run now.
    pub running: u32,
    /// Process numbers of sandboxes that wait, frozen, for work.
    pub idle: Vec<i32>,
}

impl Lambda {
    /// Makes the functions ready to be invoked; processes are started when there is work.
    ///
    /// # Errors
    /// When two functions share a name, or functions shall run as another user without root's rights.
    pub async fn start(functions: Vec<LambdaFunction>, options: LambdaOptions) -> anyhow::Result<Self> {
        if options.run_as.is_some() && !nix::unistd::geteuid().is_root() {
            anyhow::bail!("functions can only run as another user when the runner is root");
        }
        let mut names = std::collections::BTreeSet::new();
        for LambdaFunction { function, .. } in &functions {
            if !names.insert(&function.name) {
                anyhow::bail!("two functions are named {}; change one FunctionName in the template", function.name);
            }
        }
        let stop = CancellationToken::new();
        let pools: Vec<_> = functions
            .into_iter()
            .map(|LambdaFunction { function, executable }| {
                let concurrency = function.reserved_concurrency.unwrap_or(options.default_concurrency);
                let blueprint = Blueprint {
                    function,
                    // The process starts in the executable's folder, where a relative path would mean something else.
                    executable: std::path::absolute(&executable).unwrap_or(executable),
                    extra_env: options.extra_env.clone(),
                    run_as: options.run_as,
                    log: options.log.clone(),
                };
                Arc::new(Pool::new(blueprint, concurrency, options.init_limit, options.max_invocations, stop.clone()))
            })
            .collect();
        let swept = pools.clone();
        let idle_limit = options.idle_limit;
        let sweeper = tokio::spawn(async move {
            let mut period = tokio::time::interval(SWEEP_PERIOD);
            loop {
                period.tick().await;
                for pool in &swept {
                    pool.retire_idle(idle_limit).await;
                }
            }
        })
        .abort_handle();
        Ok(Self(Arc::new(State { pools, invocations: TaskTracker::new(), stop, sweeper })))
    }

    /// Invokes a function, named by logical id, name or ARN, and waits for its result. The invocation goes on when the
    /// caller stops waiting.
    ///
    /// # Errors
    /// When it did not reach the function; a function that fails is an [`Invoked`] with an `error`.
    pub async fn invoke(&self, function: &str, payload: Bytes) -> Result<Invoked, InvokeError> {
        self.invoke_as(function, Request::new(payload)).await
    }

    /// Like [`Self::invoke`], with all circumstances given.
    ///
    /// # Errors
    /// When it did not reach the function.
    pub async fn invoke_as(&self, function: &str, request: Request) -> Result<Invoked, InvokeError> {
        let pool = self.pool(function)?;
        let request = Request { payload: check_payload(request.payload, MAX_PAYLOAD_BYTES)?, ..request };
        if self.0.invocations.is_closed() {
            return Err(InvokeError::ShuttingDown);
        }
        let permit = pool.permit()?;
        let (reply, invoked) = tokio::sync::oneshot::channel();
        self.0.invocations.spawn(Arc::clone(pool).run(permit, request, reply));
        invoked.await.map_err(|_| InvokeError::ShuttingDown)
    }

    /// The function of that logical id, name or ARN.
    pub fn function(&self, function: &str) -> Option<&bundle::Function> {
        self.find(function).ok()
    }

    pub(crate) fn find(&self, function: &str) -> Result<&bundle::Function, InvokeError> {
        self.pool(function).map(|pool| pool.function())
    }

    /// What every function's sandboxes are doing now.
    pub fn activity(&self) -> Vec<Activity> {
        self.0.pools.iter().map(|pool| pool.activity()).collect()
    }

    /// Takes no further invocations, waits for running ones up to `grace`, kills what still runs and stops all sandboxes.
    pub async fn shutdown(&self, grace: Duration) {
        self.0.invocations.close();
        if tokio::time::timeout(grace, self.0.invocations.wait()).await.is_err() {
            tracing::warn!(grace_seconds = grace.as_secs(), "killing {} running invocations", self.0.invocations.len());
            self.0.stop.cancel();
            self.0.invocations.wait().await;
        }
        // Also for an invocation that slipped in while the door was closing.
        self.0.stop.cancel();
        self.0.sweeper.abort();
        futures_util::future::join_all(self.0.pools.iter().map(|pool| pool.retire_idle(Duration::ZERO))).await;
    }

    fn pool(&self, function: &str) -> Result<&Arc<Pool>, InvokeError> {
        let name = function_name(function);
        self.0
            .pools
            .iter()
            .find(|pool| pool.function().name == name)
            .or_else(|| self.0.pools.iter().find(|pool| pool.function().logical_id == name))
            .ok_or_else(|| InvokeError::UnknownFunction {
                arn: format!("arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}"),
            })
    }
}

/// The name in a name, partial ARN or ARN, each with or without a qualifier.
fn function_name(function: &str) -> &str {
    let rest = match function.split_once(":function:") {
        Some((_account, rest)) => rest,
        None => function.strip_prefix("function:").unwrap_or(function),
    };
    rest.split_once(':').map_or(rest, |(name, _qualifier)| name)
}

/// The event as it will be handed over.
pub(crate) fn check_payload(payload: Bytes, limit: usize) -> Result<Bytes, InvokeError> {
    if payload.is_empty() {
        return Ok(Bytes::from_static(b"{}"));
    }
    if payload.len() > limit {
        return Err(InvokeError::TooLarge { limit });
    }
    match serde_json::from_slice::<IgnoredAny>(&payload) {
        Ok(_) => Ok(payload),
        Err(error) => Err(InvokeError::NotJson { reason: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_found_by_name_partial_arn_and_arn_with_or_without_qualifier() {
        for text in [
            "Jobs",
            "Jobs:$LATEST",
            "function:Jobs",
            "000000000000:function:Jobs",
            "arn:aws:lambda:us-east-1:000000000000:function:Jobs",
            "arn:aws:lambda:us-east-1:000000000000:function:Jobs:$LATEST",
        ] {
            assert_eq!(function_name(text), "Jobs", "{text}");
        }
    }

    #[test]
    fn an_event_must_be_json_of_allowed_size_and_nothing_stands_for_an_empty_object() {
        assert_eq!(check_payload(Bytes::new(), 10), Ok(Bytes::from_static(b"{}")));
        assert!(matches!(check_payload(Bytes::from_static(b"{"), 10), Err(InvokeError::NotJson { .. })));
        assert_eq!(check_payload(Bytes::from_static(b"\"12345678\""), 9), Err(InvokeError::TooLarge { limit: 9 }));
    }
}
