//! Intrinsic functions, conditions and pseudo-parameters, evaluated only where a value is needed.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::findings::Finding;
use super::node::{Data, Node, Place};
use crate::bundle::{ACCOUNT, REGION};

/// The stack name that `AWS::StackName` yields.
const STACK: &str = "local";

/// What `Ref` and `GetAtt` of a resource yield.
#[derive(Debug, Clone)]
pub(super) struct Resource {
    pub(super) reference: String,
    pub(super) attributes: BTreeMap<&'static str, String>,
}

/// Everything that calls can refer to.
pub(super) struct Scope<'a> {
    pub(super) parameters: BTreeMap<String, Data>,
    pub(super) conditions: Option<&'a Node>,
    pub(super) mappings: Option<&'a Node>,
    pub(super) resources: BTreeMap<String, Resource>,
    /// Conditions under evaluation, so that one that refers to itself is an error and no endless loop.
    pub(super) evaluating: RefCell<Vec<String>>,
}

type Evaluated = Result<Option<Node>, Finding>;

impl Scope<'_> {
    /// The node with calls at its top replaced; calls inside maps and lists stay until they are needed. `None` is
    /// `AWS::NoValue`.
    pub(super) fn head(&self, node: &Node) -> Evaluated {
        match &node.data {
            Data::Call(name, argument) => self.call(name, argument, node.place),
            _ => Ok(Some(node.clone())),
        }
    }

    /// The entry of a map, its calls at the top replaced.
    pub(super) fn entry(&self, map: &Node, key: &str) -> Evaluated {
        match map.get(key) {
            Some(value) => self.head(value),
            None => Ok(None),
        }
    }

    /// The text form of a scalar.
    pub(super) fn text(&self, node: &Node) -> Result<Option<String>, Finding> {
        match self.head(node)? {
            None => Ok(None),
            Some(value) => match value.scalar() {
                Some(text) => Ok(Some(text)),
                None => Err(Finding::at(node.place, format!("expected a plain value, found {}", value.described()))),
            },
        }
    }

    fn required_text(&self, node: &Node) -> Result<String, Finding> {
        self.text(node)?.ok_or_else(|| Finding::at(node.place, "AWS::NoValue where a value is needed"))
    }

    /// The items of a list, without those that are `AWS::NoValue`; items may still hold calls inside.
    pub(super) fn list(&self, node: &Node) -> Result<Vec<Node>, Finding> {
        match self.head(node)? {
            Some(Node { data: Data::List(items), .. }) => {
                items.iter().filter_map(|item| self.head(item).transpose()).collect()
            }
            Some(other) => Err(Finding::at(node.place, format!("expected a list, found {}", other.described()))),
            None => Ok(Vec::new()),
        }
    }

    fn texts(&self, node: &Node) -> Result<Vec<String>, Finding> {
        self.list(node)?.iter().map(|item| self.required_text(item)).collect()
    }

    /// Whether the condition `name` holds.
    pub(super) fn condition(&self, name: &str, place: Place) -> Result<bool, Finding> {
        let node = self
            .conditions
            .and_then(|section| section.get(name))
            .ok_or_else(|| Finding::at(place, format!("the template has no condition {name}")))?;
        if self.evaluating.borrow().iter().any(|outer| outer == name) {
            return Err(Finding::at(node.place, format!("condition {name} refers to itself")));
        }
        self.evaluating.borrow_mut().push(name.to_owned());
        let holds = self.truth(node);
        self.evaluating.borrow_mut().pop();
        holds
    }

    fn truth(&self, node: &Node) -> Result<bool, Finding> {
        let Data::Call(name, argument) = &node.data else {
            return Err(Finding::at(node.place, "expected Equals, Not, And, Or or Condition"));
        };
        match name.as_str() {
            "Condition" => self.condition(&argument.scalar().unwrap_or_default(), node.place),
            "Equals" => {
                let [left, right] = arguments::<2>(name, argument)?;
                Ok(self.required_text(left)? == self.required_text(right)?)
            }
            "Not" => {
                let [inner] = arguments::<1>(name, argument)?;
                Ok(!self.truth(inner)?)
            }
            // Both look at every part, so that a broken part is found whatever the others say.
            "And" | "Or" => {
                let Data::List(parts) = &argument.data else {
                    return Err(Finding::at(node.place, format!("{name} needs a list of conditions")));
                };
                let parts = parts.iter().map(|part| self.truth(part)).collect::<Result<Vec<_>, _>>()?;
                Ok(if name == "And" { parts.iter().all(|part| *part) } else { parts.iter().any(|part| *part) })
            }
            other => Err(Finding::at(node.place, format!("{other} is no condition"))),
        }
    }

    fn call(&self, name: &str, argument: &Node, place: Place) -> Evaluated {
        let text = |text: String| Ok(Some(Node { place, data: Data::Text(text) }));
        match name {
            "Ref" => {
                let name = argument.scalar().ok_or_else(|| Finding::at(place, "Ref needs a name"))?;
                self.reference(&name, place)
            }
            "GetAtt" => {
                let (resource, attribute) = match &argument.data {
                    Data::Text(path) => path
                        .split_once('.')
                        .map(|(resource, attribute)| (resource.to_owned(), attribute.to_owned()))
                        .ok_or_else(|| Finding::at(place, "GetAtt needs Resource.Attribute"))?,
                    _ => {
                        let [resource, attribute] = arguments::<2>(name, argument)?;
                        (self.required_text(resource)?, self.required_text(attribute)?)
                    }
                };
                text(self.attribute(&resource, &attribute, place)?)
            }
            "Sub" => text(self.substitute(argument, place)?),
            "If" => {
                let [condition, yes, no] = arguments::<3>(name, argument)?;
                let condition = condition.scalar().ok_or_else(|| Finding::at(place, "If needs a condition's name"))?;
                self.head(if self.condition(&condition, place)? { yes } else { no })
            }
            "Join" => {
                let [separator, items] = arguments::<2>(name, argument)?;
                text(self.texts(items)?.join(&self.required_text(separator)?))
            }
            "Split" => {
                let [separator, whole] = arguments::<2>(name, argument)?;
                let (separator, whole) = (self.required_text(separator)?, self.required_text(whole)?);
                if separator.is_empty() {
                    return Err(Finding::at(place, "Split needs a separator"));
                }
                Ok(Some(list(place, whole.split(separator.as_str()))))
            }
            "Select" => {
                let [index, items] = arguments::<2>(name, argument)?;
                let (index, items) = (self.required_text(index)?, self.list(items)?);
                let chosen = index.parse::<usize>().ok().and_then(|index| items.get(index));
                let count = items.len();
                chosen
                    .map(|item| Some(item.clone()))
                    .ok_or_else(|| Finding::at(place, format!("Select {index} of a list of {count}")))
            }
            "FindInMap" => {
                let [map, first, second] = arguments::<3>(name, argument)?;
                let path = [self.required_text(map)?, self.required_text(first)?, self.required_text(second)?];
                let found = path.iter().try_fold(self.mappings, |node, key| node.map(|node| node.get(key)));
                found
                    .flatten()
                    .map(|value| Some(value.clone()))
                    .ok_or_else(|| Finding::at(place, format!("Mappings hold nothing at {}", path.join("."))))
            }
            other => Err(Finding::at(
                place,
                format!(
                    "{other} cannot be resolved on one machine, and its value is needed here; known: Ref, GetAtt, Sub, If, \
                     Join, Split, Select, FindInMap"
                ),
            )),
        }
    }

    fn reference(&self, name: &str, place: Place) -> Evaluated {
        if name == "AWS::NoValue" {
            return Ok(None);
        }
        let pseudo = match name {
            "AWS::AccountId" => Some(ACCOUNT.to_owned()),
            "AWS::Region" => Some(REGION.to_owned()),
            "AWS::Partition" => Some("aws".to_owned()),
            "AWS::URLSuffix" => Some("amazonaws.com".to_owned()),
            "AWS::StackName" => Some(STACK.to_owned()),
            "AWS::StackId" => Some(format!("arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/{STACK}/{ACCOUNT}")),
            _ => None,
        };
        let data = pseudo
            .map(Data::Text)
            .or_else(|| self.parameters.get(name).cloned())
            .or_else(|| self.resources.get(name).map(|resource| Data::Text(resource.reference.clone())))
            .ok_or_else(|| Finding::at(place, format!("{name} is no parameter, queue or function of this template")))?;
        let data = match data {
            // The items of a list parameter stand where the call stands.
            Data::List(items) => Data::List(items.into_iter().map(|item| Node { place, ..item }).collect()),
            other => other,
        };
        Ok(Some(Node { place, data }))
    }

    fn attribute(&self, resource: &str, attribute: &str, place: Place) -> Result<String, Finding> {
        let found = self
            .resources
            .get(resource)
            .ok_or_else(|| Finding::at(place, format!("{resource} is no queue or function of this template")))?;
        found.attributes.get(attribute).cloned().ok_or_else(|| {
            let known = found.attributes.keys().copied().collect::<Vec<_>>().join(", ");
            Finding::at(place, format!("{resource} has no attribute {attribute}; it has: {known}"))
        })
    }

    /// `Sub` in both forms: `${Name}`, `${Resource.Attribute}`, a map of own names, and `${!literal}`.
    fn substitute(&self, argument: &Node, place: Place) -> Result<String, Finding> {
        let (text, own) = match &argument.data {
            Data::List(_) => {
                let [text, own] = arguments::<2>("Sub", argument)?;
                (self.required_text(text)?, Some(own))
            }
            _ => (self.required_text(argument)?, None),
        };
        let mut result = String::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once("${") {
            let (name, after) =
                after.split_once('}').ok_or_else(|| Finding::at(place, format!("${{ without }} in {text:?}")))?;
            result.push_str(before);
            rest = after;
            if let Some(literal) = name.strip_prefix('!') {
                result.push_str(&format!("${{{literal}}}"));
            } else if let Some(value) = own.and_then(|own| own.get(name)) {
                result.push_str(&self.required_text(value)?);
            } else if let Some((resource, attribute)) = name.split_once('.') {
                result.push_str(&self.attribute(resource, attribute, place)?);
            } else {
                let value = self.reference(name, place)?.and_then(|value| value.scalar());
                let value = value.ok_or_else(|| Finding::at(place, format!("{name} is no plain value")))?;
                result.push_str(&value);
            }
        }
        result.push_str(rest);
        Ok(result)
    }
}

fn arguments<'a, const N: usize>(name: &str, argument: &'a Node) -> Result<&'a [Node; N], Finding> {
    match &argument.data {
        Data::List(items) => items.as_slice().try_into().ok(),
        _ => None,
    }
    .ok_or_else(|| Finding::at(argument.place, format!("{name} needs a list of {N}")))
}

/// A list of texts, all at one place.
pub(super) fn list<'a>(place: Place, items: impl IntoIterator<Item = &'a str>) -> Node {
    let node = |text: &str| Node { place, data: Data::Text(text.to_owned()) };
    Node { place, data: Data::List(items.into_iter().map(node).collect()) }
}
