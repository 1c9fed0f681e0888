//! The bundle's own `template.yaml`, as this crate reads it and as SAM expands it: one declaration must mean the same in
//! both homes. And the rules about it that neither SAM nor AWS would tell.
//!
//! `fixtures/template-expanded.json` comes from SAM's translator; `make check-cloud` checks that it is fresh, and
//! `infra/check-cloud/run.sh expand` writes it anew after a change of the template.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use local_cloud::bundle::{Bundle, ScheduleKind};
use local_cloud::template::{self, QueueUrls, Template, TemplateError};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// One set of parameters and what SAM makes of the template with it.
#[derive(Debug, Deserialize)]
struct Case {
    parameters: BTreeMap<String, String>,
    expanded: Value,
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read_template() -> Template {
    template::load(&project().join("template.yaml")).expect("template.yaml can be read")
}

/// The template with these parameters; what has no default stands for itself, as in the fixture.
fn resolve(template: &Template, given: &BTreeMap<String, String>) -> Result<Bundle, TemplateError> {
    let mut values = given.clone();
    for parameter in template.parameters().iter().filter(|parameter| parameter.default.is_none()) {
        values.entry(parameter.name.clone()).or_insert_with(|| format!("<{}>", parameter.name));
    }
    template.resolve(&values, &QueueUrls::new("http://127.0.0.1:9000"))
}

fn bundle() -> Bundle {
    resolve(&read_template(), &BTreeMap::new()).expect("template.yaml is sound with its defaults")
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("fixtures/template-expanded.json")).expect("the fixture is JSON")
}

/// The bundle in the form of the fixture.
fn normal_form(bundle: &Bundle) -> Value {
    let mut functions = Map::new();
    let mut event_sources = Map::new();
    let mut schedules = Map::new();
    let mut routes = Map::new();
    for function in &bundle.functions {
        let failure = &function.on_async_failure;
        functions.insert(
            function.logical_id.clone(),
            json!({
                "timeout_seconds": function.timeout.as_secs(),
                "memory_mib": function.memory_mib,
                "reserved_concurrency": function.reserved_concurrency,
                "environment": function.environment,
                "async_retries": failure.max_retries,
                "async_age_seconds": failure.max_age.as_secs(),
                "async_failures_to": failure.destination,
            }),
        );
        for source in &function.event_sources {
            let form = json!({
                "function": function.name,
                "queue": source.queue_arn,
                "batch_size": source.batch_size,
                "window_seconds": source.batching_window.as_secs(),
                "max_concurrency": source.max_concurrency,
                "reports_item_failures": source.reports_item_failures,
                "enabled": source.enabled,
            });
            event_sources.insert(source.id.clone(), form);
        }
        for schedule in &function.schedules {
            let service = match schedule.kind {
                ScheduleKind::Scheduler => "scheduler",
                ScheduleKind::Rule => "rule",
            };
            let form = json!({
                "function": function.name,
                "service": service,
                "expression": schedule.expression,
                "time_zone": schedule.time_zone,
                "input": schedule.input,
                "max_age_seconds": schedule.max_event_age.as_secs(),
                "max_retries": schedule.max_retries,
                "dead_letters_to": schedule.dead_letter,
                "enabled": schedule.enabled,
            });
            schedules.insert(schedule.id.clone(), form);
        }
        for route in &function.routes {
            routes.insert(format!("{} {}", route.method, route.path), json!(function.name));
        }
    }
    let queues = bundle.queues.iter().map(|queue| {
        let attributes = queue.attributes.iter().map(|(name, value)| {
            // Policies are maps in CloudFormation and JSON in a text in SQS.
            let policy = serde_json::from_str(value).ok().filter(Value::is_object);
            (name.clone(), policy.unwrap_or_else(|| json!(value)))
        });
        (queue.logical_id.clone(), json!({"name": queue.name, "attributes": attributes.collect::<Map<_, _>>()}))
    });
    let queues: Map<_, _> = queues.collect();
    json!({
        "functions": functions,
        "event_sources": event_sources,
        "schedules": schedules,
        "routes": routes,
        "queues": queues,
    })
}

/// Every difference by its path, so that a failure reads as a list of settings and not as two pages of JSON.
fn differences(path: &str, ours: &Value, sams: &Value, found: &mut Vec<String>) {
    match (ours, sams) {
        (Value::Object(ours), Value::Object(sams)) => {
            for key in ours.keys().chain(sams.keys()).collect::<BTreeSet<_>>() {
                let (ours, sams) = (ours.get(key), sams.get(key));
                let (ours, sams) = (ours.unwrap_or(&Value::Null), sams.unwrap_or(&Value::Null));
                differences(&format!("{path}/{key}"), ours, sams, found);
            }
        }
        _ if ours != sams => found.push(format!("{path}: the runner reads {ours}, SAM {sams}")),
        _ => {}
    }
}

#[test]
fn the_runner_reads_the_template_as_sam_expands_it() {
    let template = read_template();
    let cases = cases();
    assert!(cases.len() > 1, "the fixture compares the defaults and changed parameters");
    for Case { parameters, expanded } in cases {
        let bundle = resolve(&template, &parameters).expect("the parameters of the fixture are accepted");
        let mut found = Vec::new();
        differences("", &normal_form(&bundle), &expanded, &mut found);
        assert!(
            found.is_empty(),
            "with {parameters:?}:\n{}\n(after a change of template.yaml: infra/check-cloud/run.sh expand)",
            found.join("\n")
        );
    }
}

#[test]
fn the_changed_parameters_of_the_fixture_change_what_is_compared() {
    let cases = cases();
    for part in ["functions", "event_sources", "schedules"] {
        assert_ne!(cases[0].expanded[part], cases[1].expanded[part], "{part}");
    }
}

#[test]
fn every_function_of_the_template_has_a_crate_and_every_crate_an_entry() {
    let declared: BTreeSet<String> = bundle().functions.into_iter().map(|function| function.binary).collect();
    let folders = std::fs::read_dir(project().join("functions")).expect("functions/ can be read");
    let built: BTreeSet<String> = folders
        .map(|entry| entry.expect("an entry of functions/ can be read").path())
        .filter(|folder| folder.join("Cargo.toml").exists())
        .map(|folder| {
            assert!(folder.join("src/main.rs").exists(), "{} has no binary", folder.display());
            folder.file_name().expect("a folder has a name").to_string_lossy().into_owned()
        })
        .collect();
    assert_eq!(declared, built);
    for name in &built {
        let manifest = project().join("functions").join(name).join("Cargo.toml");
        let manifest = std::fs::read_to_string(manifest).expect("the manifest can be read");
        assert!(
            manifest.lines().any(|line| line == format!("name = \"{name}\"")),
            "the crate in functions/{name} must have its name, or the template would name another binary"
        );
    }
}

/// Six times the timeout (and the window of gathering), as AWS advises: a batch that is refused for want of concurrency
/// is tried again within the same visibility, and must not come back to the queue while it runs.
fn assert_queues_outlast_their_functions(bundle: &Bundle, with: &str) {
    for function in &bundle.functions {
        for source in &function.event_sources {
            let queue = bundle.queues.iter().find(|queue| queue.arn() == source.queue_arn).expect("the queue is there");
            let visibility = queue.attributes.get("VisibilityTimeout").expect("it states its visibility timeout");
            let visibility: u64 = visibility.parse().expect("it is a number");
            let least = function.timeout.as_secs() * 6 + source.batching_window.as_secs();
            assert!(
                visibility >= least,
                "{with}: {} keeps messages invisible for {visibility} s, {} may need {least} s",
                queue.logical_id,
                function.logical_id
            );
        }
    }
}

#[test]
fn visibility_is_six_timeouts_whatever_the_parameters_are() {
    let template = read_template();
    assert_queues_outlast_their_functions(&bundle(), "defaults");
    // No timeout is longer than Lambda's 900 s, so these are all values of a parameter that can be one.
    for parameter in template.parameters().iter().filter(|parameter| parameter.kind == "Number") {
        let mut accepted = 0;
        for value in 1..=900 {
            let with = format!("{}={value}", parameter.name);
            match resolve(&template, &BTreeMap::from([(parameter.name.clone(), value.to_string())])) {
                Ok(bundle) => {
                    accepted += 1;
                    assert_queues_outlast_their_functions(&bundle, &with);
                }
                // Only the parameter's own limits may refuse it: what they let through must be sound.
                Err(error) => {
                    let words = error.to_string();
                    assert!(words.contains(&format!("parameter {} must be", parameter.name)), "{with}: {words}");
                }
            }
        }
        assert!(accepted > 0, "{} takes no value at all", parameter.name);
    }
}

#[test]
fn every_source_queue_has_a_dead_letter_queue_that_keeps_longer() {
    let bundle = bundle();
    let attribute = |arn: &str, name: &str| {
        let queue = bundle.queues.iter().find(|queue| queue.arn() == arn).expect("the queue is there");
        queue.attributes.get(name).cloned()
    };
    // SQS keeps messages for four days unless told otherwise.
    let kept = |arn: &str| {
        attribute(arn, "MessageRetentionPeriod").map_or(345_600, |text| text.parse::<u64>().expect("it is a number"))
    };
    for source in bundle.functions.iter().flat_map(|function| &function.event_sources) {
        let policy = attribute(&source.queue_arn, "RedrivePolicy").expect("a source queue has a RedrivePolicy");
        let policy: Value = serde_json::from_str(&policy).expect("it is JSON");
        let dead_letters = policy["deadLetterTargetArn"].as_str().expect("it names a queue");
        assert!(kept(dead_letters) > kept(&source.queue_arn), "{}", source.id);
        assert!(policy["maxReceiveCount"].as_u64().expect("it is a number") >= 5, "{}", source.id);
    }
}

#[test]
fn every_scheduled_function_says_where_failures_and_lost_ticks_go() {
    for function in bundle().functions.iter().filter(|function| !function.schedules.is_empty()) {
        assert!(function.on_async_failure.destination.is_some(), "{} fails into nothing", function.logical_id);
        for schedule in &function.schedules {
            assert!(schedule.dead_letter.is_some(), "{} loses its ticks", schedule.id);
        }
    }
}
