//! What a template declares, resolved: functions with their triggers, and queues. Every other part works from this.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// Region that local ARNs and queue URLs carry.
pub const REGION: &str = "us-east-1";
/// Account number that local ARNs and queue URLs carry.
pub const ACCOUNT: &str = "000000000000";

/// Everything one template declares, with all intrinsics resolved.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bundle {
    /// Functions in the order of the template.
    pub functions: Vec<Function>,
    /// Queues in the order of the template.
    pub queues: Vec<Queue>,
}

/// A function and everything that invokes it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Function {
    /// Logical id in the template; also what `GetAtt` and the command line use.
    pub logical_id: String,
    /// `FunctionName` where the template sets one, otherwise the logical id.
    pub name: String,
    /// Name of the cargo binary (`Metadata.BuildProperties.Binary`).
    pub binary: String,
    /// Hard limit of one invocation.
    pub timeout: Duration,
    /// `MemorySize` in MiB.
    pub memory_mib: u32,
    /// `Environment.Variables`, globals merged in.
    pub environment: BTreeMap<String, String>,
    /// `ReservedConcurrentExecutions`.
    pub reserved_concurrency: Option<u32>,
    /// What happens to asynchronous invocations that fail.
    pub on_async_failure: AsyncFailure,
    /// `Metadata.LocalRunner.InvokeAtStart`: invoked once, before any trigger is served.
    pub invoke_at_start: bool,
    /// Queues that invoke it.
    pub event_sources: Vec<EventSource>,
    /// Schedules that invoke it.
    pub schedules: Vec<Schedule>,
    /// HTTP routes that invoke it.
    pub routes: Vec<Route>,
}

impl Function {
    /// `arn:aws:lambda:…:function:<name>`.
    pub fn arn(&self) -> String {
        format!("arn:aws:lambda:{REGION}:{ACCOUNT}:function:{}", self.name)
    }
}

/// `EventInvokeConfig`: retries of an asynchronous invocation, and where it goes in the end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AsyncFailure {
    /// 0 to 2 retries after a function error, one and two minutes later.
    pub max_retries: u32,
    /// Throttled invocations are retried until they are this old.
    pub max_age: Duration,
    /// Queue ARN of the `OnFailure` destination.
    pub destination: Option<String>,
}

/// An SQS event source mapping.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EventSource {
    /// Function id + event id, as the SAM translator names it.
    pub id: String,
    /// ARN of the queue.
    pub queue_arn: String,
    /// Most records in one invocation.
    pub batch_size: u32,
    /// How long to gather records after the first.
    pub batching_window: Duration,
    /// Most invocations at once (`ScalingConfig.MaximumConcurrency`).
    pub max_concurrency: Option<u32>,
    /// `FunctionResponseTypes: [ReportBatchItemFailures]`.
    pub reports_item_failures: bool,
    /// Disabled mappings take nothing from their queue.
    pub enabled: bool,
}

/// A schedule of EventBridge Scheduler (`ScheduleV2`) or a scheduled rule (`Schedule`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Schedule {
    /// Function id + event id, as the SAM translator names it.
    pub id: String,
    /// `rate(…)`, `cron(…)` or `at(…)`.
    pub expression: String,
    /// IANA time zone; `UTC` for rules.
    pub time_zone: String,
    /// Which of the two services it belongs to.
    pub kind: ScheduleKind,
    /// `Input`: the payload as it stands, keywords not yet replaced.
    pub input: Option<String>,
    /// A tick older than this is not delivered any more.
    pub max_event_age: Duration,
    /// How often delivery is retried.
    pub max_retries: u32,
    /// Queue ARN for ticks that could not be delivered.
    pub dead_letter: Option<String>,
    /// Disabled schedules never fire.
    pub enabled: bool,
}

/// Where a schedule comes from; decides about time zones and the default payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ScheduleKind {
    /// SAM `ScheduleV2`: EventBridge Scheduler.
    Scheduler,
    /// SAM `Schedule`: a rule, always in UTC.
    Rule,
}

/// A route of the HTTP API.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Route {
    /// Upper-case method, or `ANY`.
    pub method: String,
    /// Path as declared: `/x/{id}`, `/files/{proxy+}`, `$default`.
    pub path: String,
}

/// A queue.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Queue {
    /// Logical id in the template.
    pub logical_id: String,
    /// `QueueName` where the template sets one, otherwise the logical id.
    pub name: String,
    /// Attributes in SQS's own names and text form (`VisibilityTimeout`, `RedrivePolicy` as JSON, …).
    pub attributes: BTreeMap<String, String>,
}

impl Queue {
    /// `arn:aws:sqs:…:<name>`.
    pub fn arn(&self) -> String {
        format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{}", self.name)
    }
}
