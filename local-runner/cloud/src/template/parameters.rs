//! The `Parameters` section: what it declares, and the values it accepts.

use std::collections::BTreeMap;

use super::findings::{Finding, Findings};
use super::node::{Data, Node, Place};

/// A parameter of the template.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// What it is for, in the template's words.
    pub description: Option<String>,
    /// The value when none is given; a parameter without one must be given.
    pub default: Option<String>,
    /// Whether its value must not be shown.
    pub no_echo: bool,
    /// `String`, `Number`, `CommaDelimitedList`, ….
    pub kind: String,
    /// The only values it takes; empty when it takes any.
    pub allowed_values: Vec<String>,
    pub(super) place: Place,
    limits: Limits,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Limits {
    min_value: Option<f64>,
    max_value: Option<f64>,
    min_length: Option<f64>,
    max_length: Option<f64>,
}

/// Reads the section; a template without one has no parameters.
pub(super) fn read(section: Option<&Node>, findings: &mut Findings) -> Vec<Parameter> {
    let Some(section) = section else {
        return Vec::new();
    };
    let mut parameters = Vec::new();
    for (name, node) in section.entries() {
        let text = |key: &str| node.get(key).and_then(Node::scalar);
        let number = |key: &str| text(key).and_then(|value| value.parse::<f64>().ok());
        let Some(kind) = text("Type") else {
            findings.add(node.place, format!("parameter {name} needs a Type"));
            continue;
        };
        let allowed_values = match node.get("AllowedValues").map(|values| &values.data) {
            Some(Data::List(values)) => values.iter().filter_map(Node::scalar).collect(),
            _ => Vec::new(),
        };
        let parameter = Parameter {
            name: name.clone(),
            description: text("Description"),
            default: text("Default"),
            no_echo: text("NoEcho").is_some_and(|value| value.eq_ignore_ascii_case("true")),
            kind,
            allowed_values,
            place: node.place,
            limits: Limits {
                min_value: number("MinValue"),
                max_value: number("MaxValue"),
                min_length: number("MinLength"),
                max_length: number("MaxLength"),
            },
        };
        if let Some(default) = &parameter.default
            && let Err(why) = parameter.check(default)
        {
            findings.add(node.place, format!("the default of parameter {name} {why}"));
        }
        parameters.push(parameter);
    }
    parameters
}

impl Parameter {
    /// `Err` says what the value must be, as the rest of a sentence. A hidden value is not repeated. `AllowedPattern` is
    /// left to CloudFormation.
    fn check(&self, value: &str) -> Result<(), String> {
        let shown = if self.no_echo { "the given value".to_owned() } else { format!("{value:?}") };
        if !self.allowed_values.is_empty() && !self.allowed_values.iter().any(|allowed| allowed == value) {
            return Err(format!("must be one of {}, not {shown}", self.allowed_values.join(", ")));
        }
        let Limits { min_value, max_value, min_length, max_length } = self.limits;
        if self.kind == "Number" {
            let number: f64 = value
                .trim()
                .parse()
                .ok()
                .filter(|number: &f64| number.is_finite())
                .ok_or_else(|| format!("must be a number, not {shown}"))?;
            if min_value.is_some_and(|least| number < least) || max_value.is_some_and(|most| number > most) {
                return Err(format!("must be {}, not {shown}", between(min_value, max_value)));
            }
        } else {
            let length = value.chars().count() as f64;
            if min_length.is_some_and(|least| length < least) || max_length.is_some_and(|most| length > most) {
                return Err(format!("must be {} characters long", between(min_length, max_length)));
            }
        }
        Ok(())
    }

    /// Whether a `Ref` to it yields a list.
    pub(super) fn is_list(&self) -> bool {
        self.kind == "CommaDelimitedList" || self.kind.starts_with("List<")
    }
}

fn between(least: Option<f64>, most: Option<f64>) -> String {
    match (least, most) {
        (Some(least), Some(most)) => format!("{least} to {most}"),
        (Some(least), None) => format!("at least {least}"),
        (None, Some(most)) => format!("at most {most}"),
        (None, None) => "any size".to_owned(),
    }
}

/// The value of every parameter: the given one or the default. Names that the template does not know, missing values and
/// values it does not accept are findings.
pub(super) fn values(
    parameters: &[Parameter],
    given: &BTreeMap<String, String>,
    findings: &mut Findings,
) -> BTreeMap<String, String> {
    let known = || parameters.iter().map(|parameter| parameter.name.as_str()).collect::<Vec<_>>().join(", ");
    for name in given.keys().filter(|name| !parameters.iter().any(|parameter| parameter.name == **name)) {
        findings.push(Finding {
            place: None,
            message: format!("the template has no parameter {name:?}; it has: {}", known()),
        });
    }
    let mut values = BTreeMap::new();
    for parameter in parameters {
        let name = &parameter.name;
        match given.get(name).or(parameter.default.as_ref()) {
            Some(value) => {
                if given.contains_key(name)
                    && let Err(why) = parameter.check(value)
                {
                    findings.add(parameter.place, format!("parameter {name} {why}"));
                }
                values.insert(name.clone(), value.clone());
            }
            None => findings.add(parameter.place, format!("parameter {name} has no default and needs a value")),
        }
    }
    values
}
