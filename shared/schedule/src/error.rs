//! Why an expression was refused, in words that say what would have been accepted.

use std::fmt;

use crate::Dialect;

/// An expression that AWS would refuse: which part, at which character, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// The expression as it was given.
    pub expression: String,
    /// The service it was meant for.
    pub dialect: Dialect,
    /// The cron field, where one is to blame.
    pub field: Option<Field>,
    /// Character of the expression at which the refused part begins, counted from 1.
    pub position: usize,
    /// What is wrong with it.
    pub problem: Problem,
}

impl ParseError {
    /// `offset` counts bytes from 0, as the parser does.
    pub(crate) fn new(text: &str, dialect: Dialect, field: Option<Field>, offset: usize, problem: Problem) -> Self {
        let position = text.char_indices().take_while(|(index, _)| *index < offset).count() + 1;
        Self { expression: text.to_owned(), dialect, field, position, problem }
    }

    /// The sentence with which AWS itself refuses the expression.
    pub fn aws_message(&self) -> String {
        match self.dialect {
            Dialect::Scheduler => format!("Invalid Schedule Expression {}.", self.expression),
            Dialect::Rule => "Parameter ScheduleExpression is not valid.".to_owned(),
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} In {:?}, ", self.aws_message(), self.expression)?;
        if let Some(field) = self.field {
            write!(out, "field {field}, ")?;
        }
        write!(out, "character {}: ", self.position)?;
        match (&self.problem, self.dialect) {
            (Problem::Form, Dialect::Scheduler) => {
                out.write_str("expected `rate(…)`, `cron(…)` or `at(…)`, in lower case and without spaces around it")
            }
            (Problem::Form, Dialect::Rule) => {
                out.write_str("expected `rate(…)` or `cron(…)`, in lower case and without spaces around it")
            }
            (problem, _) => write!(out, "{problem}"),
        }
    }
}

impl std::error::Error for ParseError {}

/// A field of a cron expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// 0 to 59.
    Minutes,
    /// 0 to 23.
    Hours,
    /// 1 to 31, `L`, `LW`, `15W` or `?`.
    DayOfMonth,
    /// 1 to 12 or `JAN` to `DEC`.
    Month,
    /// 1 to 7 or `SUN` to `SAT`, `L`, `6L`, `6#3` or `?`.
    DayOfWeek,
    /// 1970 to 2199.
    Year,
}

impl Field {
    /// What a value of the field may look like, for messages.
    fn allowed(self) -> &'static str {
        match self {
            Self::Minutes => "0-59 with , - * /",
            Self::Hours => "0-23 with , - * /",
            Self::DayOfMonth => "1-31 with , - * /, or ? or L or LW or a day with W behind it",
            Self::Month => "1-12 or JAN-DEC with , - * /",
            Self::DayOfWeek => {
                "1-7 or SUN-SAT (1 is Sunday) with , - * /, or ? or L or a day with L or #1 to #5 behind it"
            }
            Self::Year => "1970-2199 with , - * /",
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Minutes => "minutes",
            Self::Hours => "hours",
            Self::DayOfMonth => "day-of-month",
            Self::Month => "month",
            Self::DayOfWeek => "day-of-week",
            Self::Year => "year",
        })
    }
}

/// What is wrong with an expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It is none of the known forms.
    #[error("expected `rate(…)`, `cron(…)` or `at(…)`")]
    Form,
    /// The inside of `rate(…)` is not `N unit`.
    #[error("expected a whole number, one space and minute, minutes, hour, hours, day or days")]
    Rate,
    /// `rate(0 …)`.
    #[error("the number must be at least 1")]
    RateZero,
    /// The interval is longer than anybody could wait for.
    #[error("the interval is too long")]
    RateTooLong,
    /// `rate(1 minutes)` or `rate(2 minute)` in a rule.
    #[error("rules want the singular after 1 and the plural after any other number")]
    RatePlural,
    /// The inside of `at(…)` is no local date and time.
    #[error("expected a date and time that exist, `yyyy-mm-ddThh:mm:ss`, without a zone")]
    At,
    /// Not six fields.
    #[error(
        "expected six fields (minutes hours day-of-month month day-of-week year) with one space between them, got {0}"
    )]
    FieldCount(usize),
    /// Neither day field is `?`, or both are.
    #[error("exactly one of day-of-month and day-of-week must be `?`")]
    DayFields,
    /// Something the field does not take.
    #[error("{0:?} is not allowed; allowed: {allowed}", allowed = .1.allowed())]
    Value(String, Field),
    /// A step of 0, or one that leads out of the field at once.
    #[error("a step must be a whole number from 1 to {0}")]
    Step(u16),
    /// A range of years whose end comes before its start.
    #[error("a range of years must not run backwards")]
    BackwardYears,
    /// `L`, `W` or `#` in a list.
    #[error("L, W and # must stand alone, not in a list or range")]
    NotAlone,
}
