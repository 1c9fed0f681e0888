//! Which cells are run.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt as _, SeedableRng};

use super::{Action, Case};
use crate::wires::Effect;

/// Cases in the order in which they are run.
pub type Plan = Vec<Case>;

/// Every action at every effect of the rehearsal, the slow ones first so that no lane ends with them.
pub fn whole(rehearsed: &BTreeMap<Effect, usize>, seed: u64) -> Plan {
    let mut random = StdRng::seed_from_u64(seed);
    let mut cases: Plan = every(rehearsed, &mut random).collect();
    cases.shuffle(&mut random);
    cases.sort_by_key(|case| !case.action.is_slow());
    cases
}

/// One case of every quick action, and `more` of any.
pub fn sample(rehearsed: &BTreeMap<Effect, usize>, seed: u64, more: usize) -> Plan {
    let mut random = StdRng::seed_from_u64(seed);
    let quick: Plan = every(rehearsed, &mut random).filter(|case| !case.action.is_slow()).collect();
    let mut cases = vec![];
    for action in Action::ALL {
        let of_action: Vec<_> = quick.iter().filter(|case| case.action == action).collect();
        cases.extend(of_action.choose(&mut random).map(|case| (*case).clone()));
    }
    cases.extend(quick.sample(&mut random, more).cloned());
    cases
}

fn every<'a>(rehearsed: &'a BTreeMap<Effect, usize>, random: &'a mut StdRng) -> impl Iterator<Item = Case> + 'a {
    rehearsed.iter().flat_map(move |(effect, &count)| {
        // Not the last occurrences: no two campaigns share out their work alike.
        let nth = random.random_range(1..=(count * 2 / 3).max(1));
        Action::ALL
            .into_iter()
            .filter(|action| action.applies_to(effect))
            .map(|action| Case { effect: effect.clone(), nth, action })
            .collect::<Vec<_>>()
    })
}
