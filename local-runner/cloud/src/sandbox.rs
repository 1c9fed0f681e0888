//! One sandbox: a process of a function with its Runtime API, started once and reused while it is warm.
//!
//! Whoever holds a [`Sandbox`] is the only one who waits for its process and signals it, so a signal can never reach a
//! process that took over the number of one that is gone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio_util::sync::CancellationToken;

use crate::bundle;
use crate::lambda::log::{Journal, LogSink};
use crate::runtime_api::{Answer, Invocation, ReportedError, RuntimeApi};
use output::Output;
use process::Process;

mod environment;
mod output;
mod process;
mod spawner;

/// How often the resident memory of a running function is looked at. A shorter period costs system calls, a longer one
/// lets a function run further over its `MemorySize` before it is killed.
const MEMORY_PERIOD: Duration = Duration::from_millis(250);

/// What AWS leaves a process with an extension between SIGTERM and SIGKILL: 500 ms with internal extensions only.
const GRACEFUL_EXIT: Duration = Duration::from_millis(500);

/// Everything a sandbox of one function needs to start.
#[derive(Debug, Clone)]
pub struct Blueprint {
    /// The function as the template declares it.
    pub function: bundle::Function,
    /// Its executable.
    pub executable: PathBuf,
    /// Variables of the runner for all functions; those of the template win.
    pub extra_env: BTreeMap<String, String>,
    /// User and group to run as; needs root.
    pub run_as: Option<(u32, u32)>,
    /// Where its output goes.
    pub log: LogSink,
}

/// Why a process did not get to the point one waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It cannot be started at all.
    NotStarted(String),
    /// It exited or was killed by somebody else.
    Exited(ExitStatus),
    /// It was killed because its memory, in MiB, exceeded `MemorySize`.
    OutOfMemory(u32),
    /// Its time was over.
    TimedOut,
    /// It reported that its start failed.
    InitFailed(ReportedError),
    /// The runner shuts down.
    Stopped,
}

/// A started process that asked for work, and its Runtime API.
#[derive(Debug)]
pub struct Sandbox {
    process: Process,
    output: Output,
    api: RuntimeApi,
    memory_limit_mib: u32,
    peak_memory_mib: u32,
    served: u64,
    idle_since: Instant,
}

impl Sandbox {
    /// Starts a process and waits until it asks for its first event, at most until `until`.
    ///
    /// # Errors
    /// How it ended otherwise; nothing of it is left then.
    pub async fn start(
        blueprint: &Arc<Blueprint>,
        until: Instant,
        stop: &CancellationToken,
        journal: &mut Journal,
    ) -> Result<Self, Ended> {
        let not_started = |error: std::io::Error| {
            Ended::NotStarted(format!("cannot start {}: {error}", blueprint.executable.display()))
        };
        let api = RuntimeApi::listen(&blueprint.function.name).await.map_err(not_started)?;
        let environment = environment::of(blueprint, api.address());
        let (process, output) = Process::start(blueprint, environment).await.map_err(not_started)?;
        let mut sandbox = Self {
            process,
            output,
            api,
            memory_limit_mib: blueprint.function.memory_mib,
            peak_memory_mib: 0,
            served: 0,
            idle_since: Instant::now(),
        };
        match sandbox.settle(until, stop, journal).await {
            Ok(()) => Ok(sandbox),
            Err(ended) => {
                sandbox.kill(journal).await;
                Err(ended)
            }
        }
    }

    /// Waits until the process asks for work, which ends its start as well as an invocation.
    ///
    /// # Errors
    /// How it ended otherwise; the caller then kills what is left.
    pub async fn settle(
        &mut self,
        until: Instant,
        stop: &CancellationToken,
        journal: &mut Journal,
    ) -> Result<(), Ended> {
        let Self { process, output, api, memory_limit_mib, peak_memory_mib, .. } = self;
        let mut watch = Watch { process, output, limit_mib: *memory_limit_mib, peak_mib: peak_memory_mib };
        watch.until(api.ready(), until, stop, journal).await?.map_err(Ended::InitFailed)?;
        self.output.drain(journal);
        self.peak_memory_mib = self.peak_memory_mib.max(self.process.peak_memory_mib());
        Ok(())
    }

    /// Hands an event to the process and waits for its answer, until the invocation's deadline.
    ///
    /// # Errors
    /// How it ended otherwise; the caller then kills what is left.
    pub async fn serve(
        &mut self,
        invocation: Invocation,
        stop: &CancellationToken,
        journal: &mut Journal,
    ) -> Result<Answer, Ended> {
        self.served += 1;
        let deadline = invocation.deadline;
        let mut answer = self.api.dispatch(invocation);
        let Self { process, output, api, memory_limit_mib, peak_memory_mib, .. } = self;
        let mut watch = Watch { process, output, limit_mib: *memory_limit_mib, peak_mib: peak_memory_mib };
        match watch.until(&mut answer, deadline, stop, journal).await {
            Ok(Ok(answer)) => Ok(answer),
            // The sender is only dropped with the process' connection state; the exit tells the reason.
            Ok(Err(_)) => Err(Ended::TimedOut),
            // An answer that was posted just before the end still counts.
            Err(ended) => answer.try_recv().map_err(|_| {
                api.abandon();
                ended
            }),
        }
    }

    /// Stops the process until the next invocation.
    pub fn freeze(&mut self) {
        self.process.signal(Signal::SIGSTOP);
        self.idle_since = Instant::now();
    }

    /// Lets a frozen process go on; false when it died meanwhile.
    pub fn wake(&mut self) -> bool {
        if !self.process.is_alive() {
            return false;
        }
        self.process.signal(Signal::SIGCONT);
        true
    }

    /// Kills the process at once and collects what it had written.
    pub async fn kill(mut self, journal: &mut Journal) {
        self.process.kill().await;
        self.output.drain(journal);
    }

    /// Ends a process that has nothing to do. As on AWS it gets a SIGTERM first only if an extension registered.
    pub async fn retire(mut self, journal: &mut Journal) {
        if self.api.has_extensions() && self.wake() {
            self.api.announce_shutdown(GRACEFUL_EXIT);
            self.process.signal(Signal::SIGTERM);
            let Self { process, output, .. } = &mut self;
            let mut unlimited = 0;
            let mut watch = Watch { process, output, limit_mib: u32::MAX, peak_mib: &mut unlimited };
            let never = std::future::pending::<()>();
            let until = Instant::now() + GRACEFUL_EXIT;
            // Exit and time-out lead to the same end.
            let _ = watch.until(never, until, &CancellationToken::new(), journal).await;
        }
        self.kill(journal).await;
    }

    /// Process number.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Invocations it has taken so far.
    pub fn served(&self) -> u64 {
        self.served
    }

    /// Since when it waits for work.
    pub fn idle_since(&self) -> Instant {
        self.idle_since
    }

    /// Highest resident memory so far, in MiB.
    pub fn peak_memory_mib(&self) -> u32 {
        self.peak_memory_mib
    }
}

/// Waits for something of a process while keeping an eye on everything else of it.
struct Watch<'a> {
    process: &'a mut Process,
    output: &'a mut Output,
    limit_mib: u32,
    peak_mib: &'a mut u32,
}

impl Watch<'_> {
    async fn until<T>(
        &mut self,
        event: impl Future<Output = T>,
        until: Instant,
        stop: &CancellationToken,
        journal: &mut Journal,
    ) -> Result<T, Ended> {
        tokio::pin!(event);
        let deadline = tokio::time::sleep_until(until.into());
        tokio::pin!(deadline);
        let mut memory = tokio::time::interval_at((Instant::now() + MEMORY_PERIOD).into(), MEMORY_PERIOD);
        loop {
            tokio::select! {
                // The event first: what was answered in time is not lost to an exit or the deadline right after it.
                biased;
                outcome = &mut event => return Ok(outcome),
                status = self.process.exited() => {
                    self.output.drain(journal);
                    return Err(Ended::Exited(status));
                }
                () = &mut deadline => return Err(Ended::TimedOut),
                () = stop.cancelled() => return Err(Ended::Stopped),
                _ = memory.tick() => {
                    let resident = self.process.resident_memory_mib();
                    *self.peak_mib = (*self.peak_mib).max(resident);
                    if resident > self.limit_mib {
                        return Err(Ended::OutOfMemory(resident));
                    }
                }
                () = self.output.forward(journal) => {}
            }
        }
    }
}
