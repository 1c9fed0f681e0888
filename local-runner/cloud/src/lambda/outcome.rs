//! What an invocation comes to: the result shapes of AWS.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use bytes::Bytes;
use nix::sys::signal::Signal;
use serde::Serialize;
use serde_json::json;

use super::RequestId;
use crate::runtime_api::{Answer, MAX_RESPONSE_BYTES, ReportedError};
use crate::sandbox::Ended;

/// An invocation that reached its function, whatever came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Invoked {
    /// The function's result, or the error object (`errorType`, `errorMessage`) if `error` is set.
    pub payload: Bytes,
    /// Set when the function failed, ran out of time or died.
    pub error: Option<FunctionError>,
    /// Last 4 KiB of the invocation's log.
    pub log_tail: String,
    /// Id of the invocation.
    pub request_id: RequestId,
    /// Time from handing the event over until the answer.
    pub duration: Duration,
    /// Highest resident memory of the process so far, in MiB.
    pub max_memory_mib: u32,
    /// Whether a process was started for it.
    pub cold: bool,
}

/// Why a function did not answer with a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FunctionError {
    /// AWS's name: `Sandbox.Timedout`, `Runtime.ExitError`, … or the `errorType` that the function gave.
    pub kind: String,
    /// The sentence for people.
    pub message: String,
}

/// Result of an invocation without the circumstances.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) payload: Bytes,
    pub(super) error: Option<FunctionError>,
    /// Addition to the REPORT line.
    pub(super) status: Option<&'static str>,
}

impl Outcome {
    pub(super) fn of_answer(answer: Answer) -> Self {
        match answer {
            Answer::Response(payload) => Self { payload, error: None, status: None },
            Answer::Error(error) => Self::reported(error),
            Answer::TooLarge => Self::failed(
                "Function.ResponseSizeTooLarge",
                format!("Response payload size exceeded maximum allowed payload size ({MAX_RESPONSE_BYTES} bytes)."),
                None,
            ),
        }
    }

    pub(super) fn of_end(ended: Ended, request_id: RequestId, timeout: Duration) -> Self {
        let message = |what: String| format!("RequestId: {request_id} Error: {what}");
        match ended {
            Ended::TimedOut => Self::failed(
                "Sandbox.Timedout",
                message(format!("Task timed out after {:.2} seconds", timeout.as_secs_f64())),
                Some("timeout"),
            ),
            Ended::Exited(status) => Self::failed("Runtime.ExitError", message(describe(status)), Some("error")),
            Ended::OutOfMemory(_) => Self::failed(
                "Runtime.ExitError",
                message("Runtime exited with error: signal: killed".to_owned()),
                Some("error"),
            ),
            Ended::NotStarted(reason) => Self::failed("Runtime.InvalidEntrypoint", message(reason), Some("error")),
            Ended::InitFailed(error) => Self { status: Some("error"), ..Self::reported(error) },
            Ended::Stopped => {
                Self::failed("Runtime.ExitError", message("the local cloud shut down".to_owned()), Some("error"))
            }
        }
    }

    fn failed(kind: &str, message: String, status: Option<&'static str>) -> Self {
        let payload = json!({"errorType": kind, "errorMessage": message}).to_string().into();
        Self { payload, error: Some(FunctionError { kind: kind.to_owned(), message }), status }
    }

    fn reported(error: ReportedError) -> Self {
        let message = serde_json::from_slice::<serde_json::Value>(&error.payload)
            .ok()
            .and_then(|body| body.get("errorMessage").and_then(|message| message.as_str()).map(str::to_owned))
            .unwrap_or_default();
        let kind = error.error_type;
        Self { payload: error.payload, error: Some(FunctionError { kind, message }), status: None }
    }
}

/// The end of a process in the words that AWS uses.
fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "Runtime exited without providing a reason".to_owned(),
        (Some(code), _) => format!("Runtime exited with error: exit status {code}"),
        (None, signal) => {
            let name = signal.and_then(|number| Signal::try_from(number).ok()).map_or("unknown", signal_name);
            let core = if status.core_dumped() { " (core dumped)" } else { "" };
            format!("Runtime exited with error: signal: {name}{core}")
        }
    }
}

fn signal_name(signal: Signal) -> &'static str {
    match signal {
        Signal::SIGABRT => "aborted",
        Signal::SIGBUS => "bus error",
        Signal::SIGFPE => "floating point exception",
        Signal::SIGILL => "illegal instruction",
        Signal::SIGINT => "interrupt",
        Signal::SIGKILL => "killed",
        Signal::SIGPIPE => "broken pipe",
        Signal::SIGSEGV => "segmentation fault",
        Signal::SIGTERM => "terminated",
        Signal::SIGTRAP => "trace/breakpoint trap",
        other => other.as_str(),
    }
}
