//! What a server makes of grouped commands (RFC 2920). Offering PIPELINING is one thing and bearing it another, so each
//! step is given up for a host where it went wrong.

use std::sync::Mutex;

/// How commands may be sent to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manners {
    /// MAIL and RCPT go out in one write.
    pub grouped: bool,
    /// The content of a mail opens the group of the next: one round trip a mail.
    pub chained: bool,
    /// DATA closes the group. A host that answers it with 354 although it refused the recipient waits for a mail to
    /// nobody then, and costs the connection.
    pub data_in_group: bool,
}

impl Default for Manners {
    fn default() -> Self {
        Self { grouped: true, chained: true, data_in_group: true }
    }
}

/// What was sent when it went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Commands in one write.
    Group,
    /// Content and commands in one write.
    Chain,
    /// DATA behind a recipient that was refused.
    DataInGroup,
}

/// The manners towards one host, shared by its connections and adjusted by what they meet.
#[derive(Debug, Default)]
pub(super) struct Learned(Mutex<State>);

#[derive(Debug, Default, Clone, Copy)]
struct State {
    manners: Manners,
    /// Steps that have been answered in order: later trouble has other reasons.
    group_proven: bool,
    chain_proven: bool,
}

impl Learned {
    pub(super) fn new(manners: Manners) -> Self {
        Self(Mutex::new(State { manners, ..State::default() }))
    }

    pub(super) fn now(&self) -> Manners {
        self.state(|state| state.manners)
    }

    pub(super) fn is_proven(&self, step: Step) -> bool {
        self.state(|state| match step {
            Step::Group => state.group_proven,
            Step::Chain => state.chain_proven,
            Step::DataInGroup => false,
        })
    }

    pub(super) fn prove(&self, step: Step) {
        self.state(|state| match step {
            Step::Group => state.group_proven = true,
            Step::Chain => state.chain_proven = true,
            Step::DataInGroup => {}
        });
    }

    /// Does without the step from now on.
    pub(super) fn give_up(&self, step: Step) {
        self.state(|state| match step {
            Step::Group => state.manners.grouped = false,
            Step::Chain => state.manners.chained = false,
            Step::DataInGroup => state.manners.data_in_group = false,
        });
    }

    fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        // A panic while this is held is impossible: nothing here can fail.
        look(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}
