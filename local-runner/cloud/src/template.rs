//! Reads `template.yaml` (SAM) into a [`Bundle`]: parameters, intrinsic functions, globals, functions, queues and triggers.
//!
//! What the template holds beyond that (roles, alarms, outputs) is none of the local cloud's business and is not looked
//! at. What concerns it and cannot be honoured is an error with its place, and all errors are told at once.

mod checks;
mod events;
mod findings;
mod functions;
mod intrinsics;
mod node;
mod parameters;
mod queues;
mod reader;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use self::findings::Findings;
pub use self::findings::{Finding, TemplateError};
use self::intrinsics::{Resource, Scope};
pub use self::node::Place;
use self::node::{Data, Node};
pub use self::parameters::Parameter;
use self::queues::PlacedQueue;
use self::reader::Reader;
use crate::bundle::{ACCOUNT, Bundle, Queue, REGION};

const FUNCTION: &str = "AWS::Serverless::Function";
const QUEUE: &str = "AWS::SQS::Queue";

/// A template that has been read but not resolved: its parameters may still need values.
#[derive(Debug, Clone)]
pub struct Template {
    path: PathBuf,
    root: Node,
    parameters: Vec<Parameter>,
}

/// Where the SQS endpoint answers; `Ref` of a queue is a URL below it.
#[derive(Debug, Clone)]
pub struct QueueUrls {
    base: String,
}

impl QueueUrls {
    /// `base` is the endpoint without a slash at the end, for example `http://127.0.0.1:9000`.
    pub fn new(base: impl Into<String>) -> Self {
        Self { base: base.into() }
    }

    /// URL of the queue of that name.
    pub fn of(&self, queue_name: &str) -> String {
        format!("{}/{ACCOUNT}/{queue_name}", self.base.trim_end_matches('/'))
    }
}

/// Reads the template at `path`. Nothing is resolved yet, so that the caller can see which parameters need a value.
pub fn load(path: &Path) -> Result<Template, TemplateError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| TemplateError::Unreadable { path: path.to_owned(), source })?;
    Template::parse(path, &text)
}

impl Template {
    /// Reads a template from text; `path` is only named in errors.
    pub fn parse(path: &Path, text: &str) -> Result<Self, TemplateError> {
        let root = Node::parse(text).map_err(|(place, message)| TemplateError::Wrong {
            path: path.to_owned(),
            findings: vec![Finding::at(place, message)],
        })?;
        let mut findings = Findings::default();
        if root.get("Resources").is_none_or(|resources| !matches!(resources.data, Data::Map(_))) {
            findings.add(root.place, "a template needs a map of Resources");
        }
        let parameters = parameters::read(root.get("Parameters"), &mut findings);
        findings.into_result(path)?;
        Ok(Self { path: path.to_owned(), root, parameters })
    }

    /// What can be set from outside, in the order of the template.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Everything the template declares, with `values` for its parameters. Settings are checked against each other as AWS
    /// would; all that is wrong is reported together.
    pub fn resolve(&self, values: &BTreeMap<String, String>, urls: &QueueUrls) -> Result<Bundle, TemplateError> {
        let mut findings = Findings::default();
        let values = parameters::values(&self.parameters, values, &mut findings);
        // Without its parameters everything else would be found wrong too.
        findings.into_result(&self.path)?;

        let mut findings = Findings::default();
        let mut scope = self.scope(&values);
        let resources = self.existing(&scope, &mut findings);
        let names = self.names(&scope, &resources, &mut findings);
        for ((logical_id, resource), name) in resources.iter().zip(&names) {
            let referable = match kind(resource) {
                Some(QUEUE) => queue_resource(logical_id, name, urls),
                _ => function_resource(name),
            };
            scope.resources.insert(logical_id.to_string(), referable);
        }

        let mut reader = Reader { scope: &scope, findings: &mut findings };
        let mut queues: Vec<PlacedQueue> = Vec::new();
        let mut functions = Vec::new();
        for ((logical_id, resource), name) in resources.iter().zip(&names) {
            if kind(resource) == Some(QUEUE) {
                queues.push(queues::read(&mut reader, logical_id, name.clone(), resource));
            }
        }
        for ((logical_id, resource), name) in resources.iter().zip(&names) {
            if kind(resource) == Some(FUNCTION) {
                let properties = self.with_globals(resource);
                functions.push(functions::read(
                    &mut reader,
                    logical_id,
                    name.clone(),
                    resource,
                    &properties,
                    &mut queues,
                ));
            }
        }
        checks::check(&functions, &queues, &mut findings);
        findings.into_result(&self.path)?;
        Ok(Bundle {
            functions: functions.into_iter().map(|placed| placed.function).collect(),
            queues: queues.into_iter().map(|placed| placed.queue).collect(),
        })
    }

    fn scope(&self, values: &BTreeMap<String, String>) -> Scope<'_> {
        let data = |parameter: &Parameter| {
            let value = values.get(&parameter.name)?;
            let data = if parameter.is_list() {
                let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
                intrinsics::list(parameter.place, items).data
            } else {
                Data::Text(value.clone())
            };
            Some((parameter.name.clone(), data))
        };
        Scope {
            parameters: self.parameters.iter().filter_map(data).collect(),
            conditions: self.root.get("Conditions"),
            mappings: self.root.get("Mappings"),
            resources: BTreeMap::new(),
            evaluating: RefCell::new(Vec::new()),
        }
    }

    /// The functions and queues whose condition holds, in the order of the template.
    fn existing(&self, scope: &Scope<'_>, findings: &mut Findings) -> Vec<(&str, &Node)> {
        let mut reader = Reader { scope, findings };
        let declared = self.root.get("Resources").map(Node::entries).unwrap_or_default();
        declared
            .iter()
            .filter(|(_, resource)| matches!(kind(resource), Some(FUNCTION | QUEUE)))
            .filter(|(_, resource)| reader.exists(resource))
            .map(|(logical_id, resource)| (logical_id.as_str(), resource))
            .collect()
    }

    /// The name of each resource, in the same order. Names may use parameters, not other resources.
    fn names(&self, scope: &Scope<'_>, resources: &[(&str, &Node)], findings: &mut Findings) -> Vec<String> {
        let mut reader = Reader { scope, findings };
        let mut name = |(logical_id, resource): &(&str, &Node)| {
            if kind(resource) == Some(QUEUE) {
                let properties = reader.map(resource, "Properties");
                return queues::name(&mut reader, logical_id, properties.as_ref());
            }
            let stated = resource.get("Properties").and_then(|properties| reader.text(properties, "FunctionName"));
            stated.unwrap_or_else(|| (*logical_id).to_owned())
        };
        resources.iter().map(&mut name).collect()
    }

    fn with_globals(&self, resource: &Node) -> Node {
        let empty = Node { place: resource.place, data: Data::Map(Vec::new()) };
        let own = resource.get("Properties").unwrap_or(&empty);
        match self.root.get("Globals").and_then(|globals| globals.get("Function")) {
            Some(global) => Node::merged(global, own),
            None => own.clone(),
        }
    }
}

/// The resource type, of those that the local cloud knows.
fn kind(resource: &Node) -> Option<&'static str> {
    match resource.get("Type").map(|kind| &kind.data) {
        Some(Data::Text(text)) if text == FUNCTION => Some(FUNCTION),
        Some(Data::Text(text)) if text == QUEUE => Some(QUEUE),
        _ => None,
    }
}

fn queue_resource(logical_id: &str, name: &str, urls: &QueueUrls) -> Resource {
    let queue = Queue { logical_id: logical_id.to_owned(), name: name.to_owned(), attributes: BTreeMap::new() };
    Resource {
        reference: urls.of(name),
        attributes: BTreeMap::from([("Arn", queue.arn()), ("QueueName", name.to_owned()), ("QueueUrl", urls.of(name))]),
    }
}

fn function_resource(name: &str) -> Resource {
    Resource {
        reference: name.to_owned(),
        attributes: BTreeMap::from([("Arn", format!("arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}"))]),
    }
}
