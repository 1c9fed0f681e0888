//! When a recipient is tried again, and when no more. Nothing here reads a clock.

use std::time::Duration;

use shared::gate::{Cause, Outcome};
use shared::verdict::Verdict;

use crate::work::Delivery;

/// Longest wait between two tries of a recipient.
const LONGEST: Duration = Duration::from_secs(6 * 3600);
/// A recipient is given up when its waits add up to this (RFC 5321, 4.5.4.1 advises 4 to 5 days). Only waits count that
/// its own refusals caused: while a campaign or an account is paused, nobody grows old.
const GIVE_UP_AFTER: Duration = Duration::from_secs(4 * 24 * 3600);
/// First wait of a mail whose try said something about the account or the provider: as long as those are paused.
const FIRST_RETURN: Duration = Duration::from_secs(60);
/// A mail that was returned so often, while others go out, is the reason itself.
const RETURNS_IN_GOOD_FAITH: i32 = 2;

/// The wait after the refusal number `attempt`, counted from 0.
fn wait(first: Duration, attempt: u32) -> Duration {
    first.saturating_mul(1 << attempt.min(16)).min(LONGEST)
}

/// Later, each time twice as long; after days of waiting, never. `attempts`: tries before this one.
pub(crate) fn defer(first: Duration, attempts: i32) -> Outcome {
    let attempts = u32::try_from(attempts).unwrap_or(0);
    let waited: Duration = (0..attempts).map(|attempt| wait(first, attempt)).sum();
    if waited >= GIVE_UP_AFTER {
        return Outcome::Refused(Cause::Expired);
    }
    Outcome::Deferred(wait(first, attempts))
}

/// When a mail is tried again whose try said something about the account or the provider. Longer each time, so that
/// the others go first: some servers answer one odd recipient as if the whole account were at fault.
pub(crate) fn return_delay(returned: i32) -> Duration {
    wait(FIRST_RETURN, u32::try_from(returned).unwrap_or(0))
}

/// Trouble of account or provider that meets the same mail again and again, while others go out over the same
/// connections, is this mail's own and stops nobody else.
pub(crate) fn on_second_thought(verdict: Verdict, delivery: &Delivery, others_go_out: bool) -> Verdict {
    match verdict {
        Verdict::Account | Verdict::Provider if others_go_out && delivery.returned >= RETURNS_IN_GOOD_FAITH => {
            Verdict::RecipientForNow
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn waits_double_up_to_six_hours_and_end_after_four_days_of_waiting() {
        let mut waited = Duration::ZERO;
        let mut tries = 0;
        while let Outcome::Deferred(wait) = defer(MINUTE, tries) {
            assert!(wait <= LONGEST);
            waited += wait;
            tries += 1;
        }
        assert_eq!(defer(MINUTE, 0), Outcome::Deferred(MINUTE));
        assert_eq!(defer(MINUTE, 3), Outcome::Deferred(8 * MINUTE));
        assert_eq!(defer(MINUTE, tries), Outcome::Refused(Cause::Expired));
        assert!(waited >= GIVE_UP_AFTER && waited < GIVE_UP_AFTER + LONGEST, "{waited:?}");
        assert!((20..30).contains(&tries), "{tries} tries");
    }

    #[test]
    fn one_odd_recipient_does_not_stop_the_account_for_ever() {
        let delivery = |returned| Delivery { returned, ..Delivery::for_tests() };
        let judged = |returned, others| on_second_thought(Verdict::Provider, &delivery(returned), others);
        assert_eq!(judged(1, true), Verdict::Provider, "twice may be bad luck");
        assert_eq!(judged(2, true), Verdict::RecipientForNow);
        assert_eq!(judged(50, false), Verdict::Provider, "nobody is burned while nothing goes out");
        assert_eq!(on_second_thought(Verdict::RecipientForGood, &delivery(9), true), Verdict::RecipientForGood);
    }
}
