//! How much time an invocation has left.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// The two limits of an invocation: at the soft one it takes no further work, at the hard one it is killed.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    soft: Instant,
    hard: Instant,
}

impl Deadline {
    /// From now: `soft` to stop taking work, `hard` until the kill.
    pub fn after(soft: Duration, hard: Duration) -> Self {
        let now = Instant::now();
        Self { soft: now + soft.min(hard), hard: now + hard }
    }

    /// From Lambda's own deadline (milliseconds since 1970) and the soft limit of the template.
    pub fn of_invocation(deadline_ms: u64, soft: Duration) -> Self {
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let left = u128::from(deadline_ms).saturating_sub(now_ms);
        Self::after(soft, Duration::from_millis(u64::try_from(left).unwrap_or(u64::MAX)))
    }

    /// The same kill, but a soft limit that is at most this far away.
    #[must_use]
    pub fn soft_within(self, turn: Duration) -> Self {
        Self { soft: self.soft.min(Instant::now() + turn), ..self }
    }

    /// No further work should be taken.
    pub fn soft_passed(&self) -> bool {
        Instant::now() >= self.soft
    }

    /// Until the soft limit.
    pub fn soft_left(&self) -> Duration {
        self.soft.saturating_duration_since(Instant::now())
    }

    /// Until the kill.
    pub fn hard_left(&self) -> Duration {
        self.hard.saturating_duration_since(Instant::now())
    }
}
