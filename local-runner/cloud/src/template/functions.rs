//! `AWS::Serverless::Function`: settings, environment and what becomes of failed asynchronous invocations.

use std::collections::BTreeMap;
use std::time::Duration;

use super::events;
use super::node::{Node, Place};
use super::queues::{PlacedQueue, automatic};
use super::reader::Reader;
use crate::bundle::{AsyncFailure, Function};

/// A function and where it and its triggers are declared.
pub(super) struct PlacedFunction {
    pub(super) function: Function,
    pub(super) place: Place,
    /// One place for each event source, in the same order.
    pub(super) source_places: Vec<Place>,
    /// One place for each schedule, in the same order.
    pub(super) schedule_places: Vec<Place>,
    /// One place for each route, in the same order.
    pub(super) route_places: Vec<Place>,
}

/// Lambda's default `Timeout`, in seconds.
const DEFAULT_TIMEOUT_SECONDS: u32 = 3;
/// Lambda's default `MemorySize`, in MiB.
const DEFAULT_MEMORY_MIB: u32 = 128;
/// Lambda's default retries of an asynchronous invocation.
const DEFAULT_ASYNC_RETRIES: u32 = 2;
/// Lambda's default for the age at which an asynchronous invocation is given up: six hours.
const DEFAULT_ASYNC_AGE_SECONDS: u32 = 21_600;
/// Lambda takes no environment larger than this, all names and values together.
const ENVIRONMENT_LIMIT_BYTES: usize = 4_096;

/// Names that Lambda sets itself and refuses from anybody else.
const RESERVED_NAMES: [&str; 18] = [
    "_HANDLER",
    "_X_AMZN_TRACE_ID",
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "LAMBDA_RUNTIME_DIR",
    "LAMBDA_TASK_ROOT",
];

/// Reads one function; `properties` are its own with the globals below them. Queues that SAM would make for it are added.
pub(super) fn read(
    reader: &mut Reader<'_>,
    logical_id: &str,
    name: String,
    resource: &Node,
    properties: &Node,
    queues: &mut Vec<PlacedQueue>,
) -> PlacedFunction {
    let timeout = reader.integer(properties, "Timeout", 1..=900).unwrap_or(DEFAULT_TIMEOUT_SECONDS);
    let memory_mib = reader.integer(properties, "MemorySize", 128..=10_240).unwrap_or(DEFAULT_MEMORY_MIB);
    reader.unsupported(properties, &["DeadLetterQueue", "FunctionUrlConfig", "ImageUri"], logical_id);
    let function = Function {
        logical_id: logical_id.to_owned(),
        name,
        binary: binary(reader, logical_id, resource),
        timeout: Duration::from_secs(u64::from(timeout)),
        memory_mib,
        environment: environment(reader, logical_id, properties),
        reserved_concurrency: reader.integer(properties, "ReservedConcurrentExecutions", 0..=u32::MAX),
        on_async_failure: async_failure(reader, logical_id, properties, queues),
        invoke_at_start: invoke_at_start(reader, resource),
        event_sources: Vec::new(),
        schedules: Vec::new(),
        routes: Vec::new(),
    };
    let mut placed = PlacedFunction {
        function,
        place: resource.place,
        source_places: Vec::new(),
        schedule_places: Vec::new(),
        route_places: Vec::new(),
    };
    if let Some(declared) = reader.map(properties, "Events") {
        for (event_id, event) in declared.entries() {
            events::read(reader, &mut placed, event_id, event, queues);
        }
    }
    placed
}

fn binary(reader: &mut Reader<'_>, logical_id: &str, resource: &Node) -> String {
    let metadata = reader.map(resource, "Metadata");
    let method = metadata.as_ref().and_then(|metadata| reader.text(metadata, "BuildMethod"));
    let build = metadata.as_ref().and_then(|metadata| reader.map(metadata, "BuildProperties"));
    let binary = build.as_ref().and_then(|build| reader.text(build, "Binary"));
    if method.as_deref() != Some("rust-cargolambda") || binary.is_none() {
        reader.findings.add(
            resource.place,
            format!(
                "{logical_id} must say which binary it is: Metadata: {{BuildMethod: rust-cargolambda, BuildProperties: \
                 {{Binary: …}}}}"
            ),
        );
    }
    binary.unwrap_or_default()
}

fn invoke_at_start(reader: &mut Reader<'_>, resource: &Node) -> bool {
    let metadata = reader.map(resource, "Metadata");
    let ours = metadata.and_then(|metadata| reader.map(&metadata, "LocalRunner"));
    ours.and_then(|ours| reader.boolean(&ours, "InvokeAtStart")).unwrap_or(false)
}

fn environment(reader: &mut Reader<'_>, logical_id: &str, properties: &Node) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::new();
    let section = reader.map(properties, "Environment");
    let Some(variables) = section.and_then(|section| reader.map(&section, "Variables")) else {
        return environment;
    };
    for (name, value) in variables.entries() {
        let mut bytes = name.bytes();
        let starts_well = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic());
        let rest_well = bytes.len() > 0 && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if RESERVED_NAMES.contains(&name.as_str()) {
            reader.findings.add(
                value.place,
                format!(
                    "Lambda was unable to configure your environment variables because the environment variables you have \
                     provided contains reserved keys that are currently not supported for modification. Reserved keys used \
                     in this request: {name}"
                ),
            );
        } else if !(starts_well && rest_well) {
            let rule = "starts with a letter, has at least two characters, and only letters, digits and _";
            reader.findings.add(value.place, format!("{name:?} is no name of an environment variable: one {rule}"));
        }
        if let Some(text) = reader.text(&variables, name) {
            environment.insert(name.clone(), text);
        }
    }
    let size: usize = environment.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > ENVIRONMENT_LIMIT_BYTES {
        reader.findings.add(
            variables.place,
            format!(
                "Lambda was unable to configure your environment variables because the environment variables you have \
                 provided exceeded the 4KB limit. {logical_id} has {size} bytes."
            ),
        );
    }
    environment
}

fn async_failure(
    reader: &mut Reader<'_>,
    logical_id: &str,
    properties: &Node,
    queues: &mut Vec<PlacedQueue>,
) -> AsyncFailure {
    let mut failure = AsyncFailure {
        max_retries: DEFAULT_ASYNC_RETRIES,
        max_age: Duration::from_secs(u64::from(DEFAULT_ASYNC_AGE_SECONDS)),
        destination: None,
    };
    let Some(config) = reader.map(properties, "EventInvokeConfig") else {
        return failure;
    };
    if let Some(retries) = reader.integer(&config, "MaximumRetryAttempts", 0..=2) {
        failure.max_retries = retries;
    }
    if let Some(seconds) = reader.integer(&config, "MaximumEventAgeInSeconds", 60..=21_600) {
        failure.max_age = Duration::from_secs(u64::from(seconds));
    }
    let Some(destinations) = reader.map(&config, "DestinationConfig") else {
        return failure;
    };
    reader.unsupported(&destinations, &["OnSuccess"], logical_id);
    let Some(on_failure) = reader.map(&destinations, "OnFailure") else {
        return failure;
    };
    match reader.required(&on_failure, "Type", "OnFailure") {
        Some((kind, place)) if kind != "SQS" => {
            reader
                .findings
                .add(place, format!("OnFailure of Type {kind} is not supported by the local runner, only SQS"));
        }
        Some(_) => {
            failure.destination = reader.text(&on_failure, "Destination").or_else(|| {
                let queue = automatic(format!("{logical_id}EventInvokeConfigOnFailureQueue"), on_failure.place);
                let arn = queue.queue.arn();
                queues.push(queue);
                Some(arn)
            });
        }
        None => {}
    }
    failure
}
