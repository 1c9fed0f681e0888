//! Everything that is wrong with a template, gathered so that it can be shown at once.

use std::fmt;
use std::path::{Path, PathBuf};

use super::node::Place;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where; none for what came from outside, such as an unknown parameter.
    pub place: Option<Place>,
    /// What, and what would be right.
    pub message: String,
}

impl Finding {
    pub(super) fn at(place: Place, message: impl Into<String>) -> Self {
        Self { place: Some(place), message: message.into() }
    }
}

/// Why a template could not be read or used; its text lists every finding on a line of its own.
#[derive(Debug)]
pub enum TemplateError {
    /// The file could not be opened.
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file says something that cannot work.
    Wrong {
        /// Which file.
        path: PathBuf,
        /// At least one finding, in the order of the file.
        findings: Vec<Finding>,
    },
}

impl TemplateError {
    /// The findings, when the file could be opened at all.
    pub fn findings(&self) -> &[Finding] {
        match self {
            Self::Unreadable { .. } => &[],
            Self::Wrong { findings, .. } => findings,
        }
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, .. } => write!(out, "cannot read template {}", path.display()),
            Self::Wrong { path, findings } => {
                for (index, finding) in findings.iter().enumerate() {
                    let line_break = if index == 0 { "" } else { "\n" };
                    write!(out, "{line_break}{}", path.display())?;
                    if let Some(place) = finding.place {
                        write!(out, ":{place}")?;
                    }
                    write!(out, ": {}", finding.message)?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for TemplateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { source, .. } => Some(source),
            Self::Wrong { .. } => None,
        }
    }
}

/// Collects findings while the reading goes on.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    pub(super) fn add(&mut self, place: Place, message: impl Into<String>) {
        self.push(Finding::at(place, message));
    }

    pub(super) fn push(&mut self, finding: Finding) {
        // A value that several functions inherit is wrong once.
        if !self.0.contains(&finding) {
            self.0.push(finding);
        }
    }

    /// The value of a success; a failure is noted.
    pub(super) fn keep<T>(&mut self, result: Result<T, Finding>) -> Option<T> {
        result.map_err(|finding| self.push(finding)).ok()
    }

    pub(super) fn into_result(mut self, path: &Path) -> Result<(), TemplateError> {
        if self.0.is_empty() {
            return Ok(());
        }
        self.0.sort_by_key(|finding| finding.place);
        Err(TemplateError::Wrong { path: path.to_owned(), findings: self.0 })
    }
}
