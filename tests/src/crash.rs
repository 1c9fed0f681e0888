//! The crash matrix: a small campaign is struck at one effect of its life, in one way, and must come out with nobody lost
//! and nobody mailed twice. The sink is the judge; the ledger only has to agree with it.

mod judge;
mod lane;
mod plan;
mod table;

use std::fmt;

pub use judge::Verdict;
pub use lane::{Dispatch, Lane};
pub use plan::{Plan, sample, whole};
pub use table::print;

use crate::wires::{Effect, Side};

/// What happens at an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// The function is killed.
    Kill,
    /// Nothing passes this connection any more, so the function hangs until its time is over.
    TimeOut,
    /// The function stops until its lease has run out and its work has been offered to others; then it wakes up.
    Freeze,
    /// The connection is reset.
    Cut,
    /// Half of a write passes, then the connection is reset.
    Half,
    /// The answer does not arrive; the connection stays.
    Swallow,
    /// Postgres dies and is started again.
    Postgres,
    /// Redis loses everything, dies and is started again.
    Redis,
    /// The runner dies with its functions and is started again.
    Runner,
}

impl Action {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 9] = [
        Self::Kill,
        Self::TimeOut,
        Self::Freeze,
        Self::Cut,
        Self::Half,
        Self::Swallow,
        Self::Postgres,
        Self::Redis,
        Self::Runner,
    ];

    /// Whether it makes sense at this effect. An answer that is swallowed and an answer that never comes are one thing,
    /// so each hangs the function from one side; `dispatch-campaigns` is not hung, as its time is fixed at five minutes.
    pub fn applies_to(self, effect: &Effect) -> bool {
        let sends = effect.function == "send-emails";
        match self {
            Self::Kill | Self::Freeze | Self::Cut | Self::Postgres | Self::Redis | Self::Runner => true,
            Self::TimeOut => sends && effect.side == Side::Sent,
            Self::Swallow => sends && effect.side == Side::Answered,
            Self::Half => effect.side == Side::Sent && effect.what.starts_with("SMTP"),
        }
    }

    /// Takes more than a minute, because a function has to reach its hard limit.
    pub fn is_slow(self) -> bool {
        matches!(self, Self::TimeOut | Self::Swallow)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kill => "kill",
            Self::TimeOut => "time out",
            Self::Freeze => "freeze",
            Self::Cut => "cut",
            Self::Half => "cut half",
            Self::Swallow => "swallow",
            Self::Postgres => "Postgres",
            Self::Redis => "Redis",
            Self::Runner => "runner",
        })
    }
}

/// One cell of the matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Where.
    pub effect: Effect,
    /// At which of its occurrences in the campaign, counted from 1.
    pub nth: usize,
    /// What.
    pub action: Action,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} no. {}", self.action, self.effect, self.nth)
    }
}
