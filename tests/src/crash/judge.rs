//! The verdict on one cell.

use std::collections::BTreeMap;
use std::time::Duration;

use sink::Accepted;

use super::Case;

/// The longest that work may take from the end of the disturbance until everything is done.
const PATIENCE: Duration = Duration::from_secs(120);

/// What came of a case.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// The case.
    pub case: Case,
    /// Whether its effect was reached, so that something was judged at all.
    pub happened: bool,
    /// Recipients without a mail who are neither uncertain nor refused by the sink.
    pub lost: usize,
    /// Mails that were accepted beyond the first of each recipient.
    pub doubled: usize,
    /// Recipients that the ledger calls uncertain.
    pub uncertain: usize,
    /// How many may be: one for each open SMTP connection.
    pub uncertain_allowed: usize,
    /// The receipt adds up.
    pub balances: bool,
    /// From the disturbance until the campaign was over; where a function hung, from its end. `None`: it never was.
    pub done_after: Option<Duration>,
}

impl Verdict {
    /// Compares what the sink took with what the ledger says of each recipient. `unwanted`: whom the sink refuses.
    pub(super) fn of(
        case: Case,
        states: &BTreeMap<String, String>,
        accepted: &[Accepted],
        unwanted: impl Fn(&str) -> bool,
    ) -> Self {
        let taken = |email: &str| accepted.iter().filter(|mail| mail.recipient == email).count();
        let lost = |(email, state): &(&String, &String)| match state.as_str() {
            "uncertain" => false,
            "sent" => taken(email) == 0,
            "refused" => !unwanted(email),
            _ => true,
        };
        Self {
            case,
            happened: true,
            lost: states.iter().filter(lost).count(),
            doubled: states.keys().map(|email| taken(email).saturating_sub(1)).sum(),
            uncertain: states.values().filter(|state| *state == "uncertain").count(),
            uncertain_allowed: 0,
            balances: false,
            done_after: None,
        }
    }

    /// Everything is as promised.
    pub fn is_green(&self) -> bool {
        self.happened
            && self.lost == 0
            && self.doubled == 0
            && self.uncertain <= self.uncertain_allowed
            && self.balances
            && self.done_after.is_some_and(|after| after <= PATIENCE)
    }

    /// One line for a person.
    pub fn sentence(&self) -> String {
        if !self.happened {
            return format!("{}: never reached", self.case);
        }
        let done = match self.done_after {
            Some(after) => format!("done after {:.1} s", after.as_secs_f64()),
            None => "never done".to_owned(),
        };
        let books = if self.balances { "" } else { ", BOOKS DO NOT BALANCE" };
        let Self { case, lost, doubled, uncertain, .. } = self;
        format!("{case}: lost {lost}, twice {doubled}, uncertain {uncertain}, {done}{books}")
    }
}
