//! The sandboxes of one function: warm ones are reused, last in first out, and new ones started up to its concurrency.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::log::Journal;
use super::outcome::{Invoked, Outcome};
use super::{Activity, InvokeError, Request};
use crate::bundle;
use crate::runtime_api::Invocation;
use crate::sandbox::{Blueprint, Ended, Sandbox};

/// How long a caller waits, after the answer, for the process to ask for the next event. Within it, the log is complete
/// and the next call finds a warm sandbox; a process that still works after its answer does not delay the caller more.
const SETTLE_BEFORE_REPLY: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Pool {
    blueprint: Arc<Blueprint>,
    name: Arc<str>,
    concurrency: u32,
    init_limit: Duration,
    max_invocations: Option<u64>,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Sandbox>>,
    stop: CancellationToken,
}

/// A sandbox that is ready, and how long its start took if it is new.
struct Ready {
    sandbox: Sandbox,
    init: Option<Duration>,
}

impl Pool {
    pub(super) fn new(
        blueprint: Blueprint,
        concurrency: u32,
        init_limit: Duration,
        max_invocations: Option<u64>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            name: Arc::from(blueprint.function.logical_id.as_str()),
            blueprint: Arc::new(blueprint),
            concurrency,
            init_limit,
            max_invocations,
            permits: Arc::new(Semaphore::new(concurrency as usize)),
            idle: Mutex::default(),
            stop,
        }
    }

    pub(super) fn function(&self) -> &bundle::Function {
        &self.blueprint.function
    }

    pub(super) fn permit(&self) -> Result<OwnedSemaphorePermit, InvokeError> {
        Arc::clone(&self.permits).try_acquire_owned().map_err(|_| InvokeError::Throttled)
    }

    pub(super) fn activity(&self) -> Activity {
        let free = u32::try_from(self.permits.available_permits()).unwrap_or(self.concurrency);
        Activity {
            function: self.function().logical_id.clone(),
            concurrency: self.concurrency,
            running: self.concurrency.saturating_sub(free),
            idle: self.idle().iter().map(Sandbox::pid).collect(),
        }
    }

    /// Ends the sandboxes that had no work for `limit`.
    pub(super) async fn retire_idle(&self, limit: Duration) {
        let retired: Vec<_> = self.idle().extract_if(.., |sandbox| sandbox.idle_since().elapsed() >= limit).collect();
        for sandbox in retired {
            sandbox.retire(&mut self.journal(None)).await;
        }
    }

    /// Runs one invocation to its end. The reply is dropped without an answer when the runner stops before.
    pub(super) async fn run(
        self: Arc<Self>,
        permit: OwnedSemaphorePermit,
        request: Request,
        reply: oneshot::Sender<Invoked>,
    ) {
        let function = self.function();
        let request_id = request.request_id;
        let mut journal = self.journal(Some(request_id.to_string()));
        let mut report = Report { request_id, memory_mib: function.memory_mib, cold: false, init: None, peak_mib: 0 };

        let first = self.warm_or_started(&mut journal).await;
        let mut begun = Instant::now();
        let ready = match first {
            // AWS starts a process whose init failed once more, on the time of the first invocation.
            Err(Ended::TimedOut | Ended::Exited(_) | Ended::InitFailed(_) | Ended::OutOfMemory(_)) => {
                journal.platform(format!("START RequestId: {request_id} Version: $LATEST"));
                let until = begun + function.timeout;
                Sandbox::start(&self.blueprint, until, &self.stop, &mut journal)
                    .await
                    .map(|sandbox| Ready { sandbox, init: Some(begun.elapsed()) })
            }
            other => {
                journal.platform(format!("START RequestId: {request_id} Version: $LATEST"));
                begun = Instant::now();
                other
            }
        };
        let deadline = begun + function.timeout;
        report.cold = !matches!(&ready, Ok(Ready { init: None, .. }));

        let served = match ready {
            Ok(Ready { mut sandbox, init }) => {
                report.init = init;
                match sandbox.serve(invocation(function, request, deadline), &self.stop, &mut journal).await {
                    Ok(answer) => Ok((sandbox, answer)),
                    Err(ended) => {
                        report.peak_mib = sandbox.peak_memory_mib();
                        sandbox.kill(&mut journal).await;
                        Err(ended)
                    }
                }
            }
            Err(ended) => Err(ended),
        };
        let duration = begun.elapsed();

        let (sandbox, answer) = match served {
            Ok(served) => served,
            // Whoever waits learns it from the dropped reply.
            Err(Ended::Stopped) => return,
            Err(ended) => {
                note(&ended, report.request_id, function, &mut journal);
                let outcome = Outcome::of_end(ended, request_id, function.timeout);
                // Throttling ends before the answer: a caller that comes back at once finds room.
                drop(permit);
                drop(reply.send(report.close(outcome, duration, &mut journal)));
                return;
            }
        };
        let outcome = Outcome::of_answer(answer);
        self.settle(sandbox, permit, Closing { report, outcome, duration, deadline, reply, journal }).await;
    }

    /// Waits until the process asks for the next event, freezes it and answers; or answers early if it takes its time.
    async fn settle(&self, mut sandbox: Sandbox, permit: OwnedSemaphorePermit, closing: Closing) {
        let Closing { mut report, outcome, duration, deadline, reply, mut journal } = closing;
        let soon = Instant::now() + SETTLE_BEFORE_REPLY;
        let mut settled = sandbox.settle(soon, &self.stop, &mut journal).await;
        report.peak_mib = sandbox.peak_memory_mib();
        let reply = if settled == Err(Ended::TimedOut) {
            drop(reply.send(report.close(outcome, duration, &mut journal)));
            settled = sandbox.settle(deadline.max(soon), &self.stop, &mut journal).await;
            None
        } else {
            Some((reply, report.close(outcome, duration, &mut journal)))
        };
        match settled {
            Ok(()) if self.max_invocations.is_none_or(|most| sandbox.served() < most) => {
                sandbox.freeze();
                self.idle().push(sandbox);
            }
            Ok(()) => sandbox.retire(&mut journal).await,
            Err(_) => sandbox.kill(&mut journal).await,
        }
        // In this order: the caller that learns the answer finds the sandbox and the room for its next call.
        drop(permit);
        if let Some((reply, invoked)) = reply {
            drop(reply.send(invoked));
        }
    }

    async fn warm_or_started(&self, journal: &mut Journal) -> Result<Ready, Ended> {
        while let Some(mut sandbox) = self.take_idle() {
            if sandbox.wake() {
                return Ok(Ready { sandbox, init: None });
            }
            // It died in its sleep; AWS would not tell anybody either.
            sandbox.kill(journal).await;
        }
        let begun = Instant::now();
        let started = Sandbox::start(&self.blueprint, begun + self.init_limit, &self.stop, journal).await;
        let init = begun.elapsed();
        if let Err(ended) = &started {
            let status = if *ended == Ended::TimedOut { "timeout" } else { "error" };
            journal.platform(format!("INIT_REPORT Init Duration: {} ms\tPhase: init\tStatus: {status}", ms(init)));
        }
        started.map(|sandbox| Ready { sandbox, init: Some(init) })
    }

    fn take_idle(&self) -> Option<Sandbox> {
        self.idle().pop()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Sandbox>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn journal(&self, request_id: Option<String>) -> Journal {
        Journal::new(self.blueprint.log.clone(), Arc::clone(&self.name), request_id)
    }
}

/// What is left to do with an invocation that was answered.
struct Closing {
    report: Report,
    outcome: Outcome,
    duration: Duration,
    deadline: Instant,
    reply: oneshot::Sender<Invoked>,
    journal: Journal,
}

/// The figures of the REPORT line.
struct Report {
    request_id: super::RequestId,
    memory_mib: u32,
    cold: bool,
    init: Option<Duration>,
    peak_mib: u32,
}

impl Report {
    /// Writes END and REPORT and makes the result.
    fn close(&self, outcome: Outcome, duration: Duration, journal: &mut Journal) -> Invoked {
        let request_id = self.request_id;
        let mut line = format!(
            "REPORT RequestId: {request_id}\tDuration: {} ms\tBilled Duration: {} ms\tMemory Size: {} MB\tMax Memory Used: {} MB",
            ms(duration),
            duration.as_micros().div_ceil(1000),
            self.memory_mib,
            self.peak_mib,
        );
        if let Some(init) = self.init {
            line.push_str(&format!("\tInit Duration: {} ms", ms(init)));
        }
        if let Some(status) = outcome.status {
            line.push_str(&format!("\tStatus: {status}"));
        }
        journal.platform(format!("END RequestId: {request_id}"));
        journal.platform(line);
        Invoked {
            payload: outcome.payload,
            error: outcome.error,
            log_tail: journal.tail(),
            request_id,
            duration,
            max_memory_mib: self.peak_mib,
            cold: self.cold,
        }
    }
}

/// Says in the log what became of a process that did not answer.
fn note(ended: &Ended, request_id: super::RequestId, function: &bundle::Function, journal: &mut Journal) {
    match ended {
        Ended::TimedOut => journal.platform(format!(
            "{} {request_id} Task timed out after {:.2} seconds",
            chrono::Utc::now().format("%Y-%m-%dT%H:%M:%S%.3fZ"),
            function.timeout.as_secs_f64()
        )),
        Ended::OutOfMemory(resident) => journal.platform(format!(
            "{request_id} killed: {resident} MiB resident, MemorySize is {} MiB",
            function.memory_mib
        )),
        Ended::NotStarted(reason) => journal.platform(format!("{request_id} {reason}")),
        Ended::Exited(_) | Ended::InitFailed(_) | Ended::Stopped => {}
    }
}

fn ms(duration: Duration) -> String {
    format!("{:.2}", duration.as_secs_f64() * 1000.0)
}

fn invocation(function: &bundle::Function, request: Request, deadline: Instant) -> Invocation {
    let arn = match request.qualifier {
        Some(qualifier) => format!("{}:{qualifier}", function.arn()),
        None => function.arn(),
    };
    let trace_id = request.trace_id.unwrap_or_else(|| {
        let random = Uuid::new_v4().simple().to_string();
        format!("Root=1-{:08x}-{};Sampled=0", chrono::Utc::now().timestamp(), &random[..24])
    });
    Invocation {
        request_id: request.request_id.to_string(),
        payload: request.payload,
        deadline,
        arn,
        trace_id,
        client_context: request.client_context,
    }
}
