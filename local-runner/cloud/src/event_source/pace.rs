//! How many invocations of one mapping may run at once.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Invocations that a mapping starts with.
const START: usize = 5;
/// Ceiling where the template names none. AWS goes to 1,250; a machine's processor and memory are spent long before.
const DEFAULT_CEILING: usize = 16;
/// Time between two steps upwards: 300 a minute, as on AWS.
pub(super) const STEP: Duration = Duration::from_millis(200);
/// After a step down it stays there for a while, or throttling would be asked for at once again.
const REST: Duration = Duration::from_secs(2);

/// A limit that rises while it is used up and falls on trouble.
pub(super) struct Pace {
    ceiling: usize,
    state: Mutex<State>,
}

struct State {
    limit: usize,
    next_step: Option<Instant>,
}

/// Most invocations at once, from the mapping's `MaximumConcurrency` and the function's reserved concurrency.
pub(super) fn ceiling(maximum: Option<u32>, reserved: Option<u32>) -> usize {
    let maximum = maximum.map_or(DEFAULT_CEILING, |maximum| maximum as usize);
    let reserved = reserved.map_or(usize::MAX, |reserved| reserved as usize);
    // A function without any place is still asked, and throttles, as on AWS.
    maximum.min(reserved).max(1)
}

impl Pace {
    pub(super) fn new(ceiling: usize) -> Self {
        Self { ceiling, state: Mutex::new(State { limit: START.min(ceiling), next_step: None }) }
    }

    /// The limit at `now` with this many `running`: one more than before where all places are taken and a step is due.
    pub(super) fn limit(&self, running: usize, now: Instant) -> usize {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if running >= state.limit && state.limit < self.ceiling {
            match state.next_step {
                Some(due) if now < due => {}
                Some(_) => {
                    state.limit += 1;
                    state.next_step = Some(now + STEP);
                }
                None => state.next_step = Some(now + STEP),
            }
        }
        state.limit
    }

    /// One invocation less at a time, after an error or a throttle.
    pub(super) fn slower(&self, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.limit = state.limit.saturating_sub(1).max(1);
        state.next_step = Some(now + REST);
    }

    /// Back to the start, after a long poll without messages.
    pub(super) fn quiet(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State { limit: START.min(self.ceiling), next_step: None };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_is_the_lower_of_mapping_and_function() {
        assert_eq!(ceiling(Some(4), None), 4);
        assert_eq!(ceiling(Some(4), Some(3)), 3);
        assert_eq!(ceiling(None, Some(2)), 2);
        assert_eq!(ceiling(None, Some(0)), 1);
    }

    #[test]
    fn it_starts_with_five_and_rises_step_by_step_while_all_places_are_taken() {
        let (pace, start) = (Pace::new(7), Instant::now());
        assert_eq!(pace.limit(5, start), 5);
        assert_eq!(pace.limit(5, start + STEP / 2), 5);
        assert_eq!(pace.limit(5, start + STEP), 6);
        assert_eq!(pace.limit(5, start + STEP * 9), 6, "a place is free");
        assert_eq!(pace.limit(6, start + STEP * 9), 7);
        assert_eq!(pace.limit(7, start + STEP * 99), 7, "the ceiling");
    }

    #[test]
    fn trouble_lowers_it_to_one_at_least_and_keeps_it_there_for_a_while() {
        let (pace, start) = (Pace::new(3), Instant::now());
        for _ in 0..5 {
            pace.slower(start);
        }
        assert_eq!(pace.limit(1, start + STEP), 1);
        assert_eq!(pace.limit(1, start + REST), 2);
        pace.quiet();
        assert_eq!(pace.limit(0, start + REST), 3);
    }
}
