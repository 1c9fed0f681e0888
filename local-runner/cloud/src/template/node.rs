//! The template's YAML as a tree in which every node knows its place, and calls of intrinsic functions stand out.

use std::fmt;

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, ScanError, YamlData};

/// Where something stands in the template; lines and columns count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line of the file.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.line, self.column)
    }
}

/// A value of the template.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) data: Data,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Data {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
    /// `!Name argument` or `{Fn::Name: argument}`, under its short name.
    Call(String, Box<Node>),
}

impl Node {
    /// Reads the single YAML document of `text`.
    pub(super) fn parse(text: &str) -> Result<Self, (Place, String)> {
        let documents = MarkedYaml::load_from_str(text).map_err(|error: ScanError| {
            let at = error.marker();
            (Place { line: at.line(), column: at.col() + 1 }, error.info().to_owned())
        })?;
        match documents.as_slice() {
            [document] => Self::read(document, Place { line: 1, column: 1 }),
            others => {
                let place = Place { line: 1, column: 1 };
                Err((place, format!("expected one YAML document, found {}", others.len())))
            }
        }
    }

    fn read(yaml: &MarkedYaml<'_>, parent: Place) -> Result<Self, (Place, String)> {
        // Nodes below a tag carry no mark of their own: the tag's is the one to show.
        let start = yaml.span.start;
        let place = if start.line() == 0 { parent } else { Place { line: start.line(), column: start.col() + 1 } };
        let data = match &yaml.data {
            YamlData::Value(Scalar::Null) => Data::Null,
            YamlData::Value(Scalar::Boolean(value)) => Data::Bool(*value),
            YamlData::Value(Scalar::Integer(value)) => Data::Integer(*value),
            YamlData::Value(Scalar::FloatingPoint(value)) => Data::Float(value.into_inner()),
            YamlData::Value(Scalar::String(text)) => Data::Text(text.to_string()),
            YamlData::Sequence(items) => {
                Data::List(items.iter().map(|item| Self::read(item, place)).collect::<Result<_, _>>()?)
            }
            YamlData::Mapping(entries) => {
                let mut map = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    let key = Self::read(key, place)?;
                    let name = key.scalar().ok_or((key.place, "a key must be a plain word".to_owned()))?;
                    map.push((name, Self::read(value, key.place)?));
                }
                long_call(map)
            }
            YamlData::Tagged(tag, inner) => {
                let argument = Self::read(inner, place)?;
                Data::Call(tag.suffix.clone(), Box::new(argument))
            }
            YamlData::Representation(..) | YamlData::Alias(_) | YamlData::BadValue => {
                return Err((place, "this is no value".to_owned()));
            }
        };
        Ok(Self { place, data })
    }

    /// The entry `key` of a map; none when this is no map or has no such entry.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// The entries of a map; none for anything else.
    pub(super) fn entries(&self) -> &[(String, Self)] {
        match &self.data {
            Data::Map(entries) => entries,
            _ => &[],
        }
    }

    /// A scalar in the text form that CloudFormation hands on.
    pub(super) fn scalar(&self) -> Option<String> {
        match &self.data {
            Data::Bool(value) => Some(value.to_string()),
            Data::Integer(value) => Some(value.to_string()),
            Data::Float(value) => Some(value.to_string()),
            Data::Text(text) => Some(text.clone()),
            Data::Null | Data::List(_) | Data::Map(_) | Data::Call(..) => None,
        }
    }

    /// What the node is, for messages.
    pub(super) fn described(&self) -> &'static str {
        match &self.data {
            Data::Null => "nothing",
            Data::Bool(_) => "a boolean",
            Data::Integer(_) | Data::Float(_) => "a number",
            Data::Text(_) => "text",
            Data::List(_) => "a list",
            Data::Map(_) => "a map",
            Data::Call(..) => "an intrinsic function",
        }
    }

    /// Globals below, the resource's own properties above: maps merge, lists are joined, everything else is replaced.
    pub(super) fn merged(global: &Self, own: &Self) -> Self {
        match (&global.data, &own.data) {
            (Data::Map(below), Data::Map(above)) => {
                let mut entries: Vec<(String, Self)> = below
                    .iter()
                    .map(|(key, value)| match own.get(key) {
                        Some(over) => (key.clone(), Self::merged(value, over)),
                        None => (key.clone(), value.clone()),
                    })
                    .collect();
                entries.extend(above.iter().filter(|(key, _)| global.get(key).is_none()).cloned());
                Self { place: own.place, data: Data::Map(entries) }
            }
            (Data::List(below), Data::List(above)) => {
                Self { place: own.place, data: Data::List(below.iter().chain(above).cloned().collect()) }
            }
            _ => own.clone(),
        }
    }
}

/// A map with the single key `Ref`, `Condition` or `Fn::…` is a call in its long form.
fn long_call(mut map: Vec<(String, Node)>) -> Data {
    let name = match map.as_slice() {
        [(key, _)] if key == "Ref" => Some(key.clone()),
        [(key, value)] if key == "Condition" && matches!(value.data, Data::Text(_)) => Some(key.clone()),
        [(key, _)] => key.strip_prefix("Fn::").map(str::to_owned),
        _ => None,
    };
    match (name, map.len()) {
        (Some(name), 1) => Data::Call(name, Box::new(map.remove(0).1)),
        _ => Data::Map(map),
    }
}
