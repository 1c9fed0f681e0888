//! Typed access to the properties of a resource: each problem becomes a finding at its place, and the reading goes on.

use std::fmt::Display;
use std::ops::RangeInclusive;

use super::findings::{Finding, Findings};
use super::intrinsics::Scope;
use super::node::{Data, Node, Place};

/// Reads properties within a scope of parameters and resources.
pub(super) struct Reader<'a> {
    pub(super) scope: &'a Scope<'a>,
    pub(super) findings: &'a mut Findings,
}

impl Reader<'_> {
    /// The entry `key` as it is after intrinsics; none when it is missing, `AWS::NoValue` or broken.
    pub(super) fn entry(&mut self, map: &Node, key: &str) -> Option<Node> {
        self.findings.keep(self.scope.entry(map, key)).flatten().filter(|node| node.data != Data::Null)
    }

    /// A map; anything else in its place is a finding.
    pub(super) fn map(&mut self, map: &Node, key: &str) -> Option<Node> {
        let node = self.entry(map, key)?;
        if matches!(node.data, Data::Map(_)) {
            return Some(node);
        }
        self.findings.add(node.place, format!("{key} must be a map, not {}", node.described()));
        None
    }

    /// The plain values of a list; empty when it is missing.
    pub(super) fn texts(&mut self, map: &Node, key: &str) -> Vec<String> {
        let Some(node) = map.get(key) else {
            return Vec::new();
        };
        let items = self.findings.keep(self.scope.list(node)).unwrap_or_default();
        items.iter().filter_map(|item| self.findings.keep(self.scope.text(item)).flatten()).collect()
    }

    pub(super) fn text(&mut self, map: &Node, key: &str) -> Option<String> {
        self.placed_text(map, key).map(|(text, _)| text)
    }

    /// A text and where it stands, so that its content can be judged.
    pub(super) fn placed_text(&mut self, map: &Node, key: &str) -> Option<(String, Place)> {
        let node = map.get(key)?;
        let text = self.findings.keep(self.scope.text(node)).flatten()?;
        Some((text, node.place))
    }

    /// As [`placed_text`](Self::placed_text), and a finding when it is missing.
    pub(super) fn required(&mut self, map: &Node, key: &str, owner: &str) -> Option<(String, Place)> {
        if map.get(key).is_none() {
            self.findings.add(map.place, format!("{owner} needs {key}"));
        }
        self.placed_text(map, key)
    }

    /// A whole number within `range`.
    pub(super) fn integer(&mut self, map: &Node, key: &str, range: RangeInclusive<u32>) -> Option<u32> {
        let (text, place) = self.placed_text(map, key)?;
        let value = text.trim().parse().ok().filter(|value| range.contains(value));
        if value.is_none() {
            let (least, most) = (range.start(), range.end());
            self.findings.add(place, format!("{key} must be a whole number from {least} to {most}, not {text:?}"));
        }
        value
    }

    pub(super) fn boolean(&mut self, map: &Node, key: &str) -> Option<bool> {
        let (text, place) = self.placed_text(map, key)?;
        match text.to_ascii_lowercase().as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => {
                self.findings.add(place, format!("{key} must be true or false, not {text:?}"));
                None
            }
        }
    }

    /// `State: ENABLED|DISABLED`.
    pub(super) fn enabled_state(&mut self, map: &Node) -> Option<bool> {
        let (text, place) = self.placed_text(map, "State")?;
        match text.as_str() {
            "ENABLED" => Some(true),
            "DISABLED" => Some(false),
            _ => {
                self.findings.add(place, format!("State must be ENABLED or DISABLED, not {text:?}"));
                None
            }
        }
    }

    /// Properties that AWS honours and this runner does not: said aloud instead of being left out in silence.
    pub(super) fn unsupported(&mut self, map: &Node, keys: &[&str], owner: impl Display) {
        for key in keys {
            if let Some(node) = self.entry(map, key) {
                self.findings
                    .push(Finding::at(node.place, format!("{key} of {owner} is not supported by the local runner")));
            }
        }
    }

    /// Whether a resource is there: it has no `Condition`, or one that holds.
    pub(super) fn exists(&mut self, resource: &Node) -> bool {
        match resource.get("Condition").and_then(|name| name.scalar().map(|text| (text, name.place))) {
            Some((name, place)) => self.findings.keep(self.scope.condition(&name, place)).unwrap_or(false),
            None => true,
        }
    }
}
