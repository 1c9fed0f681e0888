//! Settings from the environment. Errors name the variable and say what it should hold.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A setting that is missing or makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The variable is not set, or empty.
    #[error("environment variable {name} is not set; template.yaml hands it to the functions that need it")]
    Missing {
        /// Name of the variable.
        name: &'static str,
    },
    /// The variable holds something else than it should.
    #[error("environment variable {name}: {problem}")]
    Invalid {
        /// Name of the variable.
        name: &'static str,
        /// What is wrong and what is expected.
        problem: String,
    },
}

/// The variable's text; an empty one counts as not set.
pub fn optional(name: &'static str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The variable's text, or an error that names it.
pub fn required(name: &'static str) -> Result<String, ConfigError> {
    optional(name).ok_or(ConfigError::Missing { name })
}

/// The variable read as `T`, or `default` where it is not set.
pub fn parsed_or<T: FromStr>(name: &'static str, default: T) -> Result<T, ConfigError>
where
    T::Err: fmt::Display,
{
    match optional(name) {
        None => Ok(default),
        Some(text) => text
            .trim()
            .parse()
            .map_err(|problem| ConfigError::Invalid { name, problem: format!("{text:?} cannot be read: {problem}") }),
    }
}

/// The variable read as whole seconds, at least one.
pub fn seconds_or(name: &'static str, default: Duration) -> Result<Duration, ConfigError> {
    match parsed_or(name, default.as_secs())? {
        0 => Err(ConfigError::Invalid { name, problem: "0 seconds; give at least 1".to_owned() }),
        seconds => Ok(Duration::from_secs(seconds)),
    }
}

/// Text that must not show in logs: its `Debug` prints three dots.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps the text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"…\"")
    }
}
