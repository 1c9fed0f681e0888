//! The matrix as people read it.

use comfy_table::{Cell, Color, Table, presets};

use super::{Action, Verdict};
use crate::wires::Effect;

/// Prints a row for each effect and a column for each action.
pub fn print(verdicts: &[Verdict]) {
    let mut effects: Vec<&Effect> = verdicts.iter().map(|verdict| &verdict.case.effect).collect();
    effects.sort();
    effects.dedup();
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["at".to_owned()].into_iter().chain(Action::ALL.map(|action| action.to_string())));
    for effect in effects {
        let cell = |action| {
            verdicts
                .iter()
                .find(|verdict| verdict.case.effect == *effect && verdict.case.action == action)
                .map_or_else(|| Cell::new("·"), shown)
        };
        table.add_row([Cell::new(effect.to_string())].into_iter().chain(Action::ALL.map(cell)));
    }
    println!("{table}");
    println!("Each cell: lost / accepted twice / uncertain, seconds until everything was done. · does not apply.");
    let red = verdicts.iter().filter(|verdict| !verdict.is_green()).count();
    println!("{} cells, {} green, {red} red", verdicts.len(), verdicts.len() - red);
}

fn shown(verdict: &Verdict) -> Cell {
    let text = match (verdict.happened, verdict.done_after) {
        (false, _) => "not reached".to_owned(),
        (true, Some(after)) => {
            let books = if verdict.balances { "" } else { " BOOKS" };
            let Verdict { lost, doubled, uncertain, .. } = verdict;
            format!("{lost}/{doubled}/{uncertain} {:.0}{books}", after.as_secs_f64())
        }
        (true, None) => format!("{}/{}/{} never", verdict.lost, verdict.doubled, verdict.uncertain),
    };
    if verdict.is_green() { Cell::new(text) } else { Cell::new(format!("!! {text}")).fg(Color::Red) }
}
