//! `crash-matrix`: strikes a small campaign at every effect of its life, in every way, and prints what came of it.

use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use clap::Parser;
use end_to_end::crash::{self, Case, Dispatch, Lane, Verdict};

/// Strikes a small campaign at every effect of its life, in every way; exit code 1 when a cell is red
#[derive(Debug, Parser)]
struct Options {
    /// Decides which occurrence of each effect is struck
    #[arg(long, env = "NIGHTSHIFT_CRASH_SEED")]
    seed: Option<u64>,
    /// Runners that work at once; most of the time they wait
    #[arg(long, default_value_t = 6)]
    lanes: usize,
    /// Only cells whose description contains this, such as "kill at" or "SMTP content"
    #[arg(long)]
    only: Option<String>,
    /// Dispatch every second instead of every minute: quicker, and "done after" lacks up to a minute
    #[arg(long)]
    hurry: bool,
    /// Show the last lines of the functions' log after a red cell
    #[arg(long)]
    logs: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(rand::random);
    println!("Seed {seed}; NIGHTSHIFT_CRASH_SEED={seed} repeats the choice of occurrences");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let dispatch = if options.hurry { Dispatch::EverySecond } else { Dispatch::Schedule };

    let first = Lane::open("matrix0", runtime.handle(), dispatch);
    let rehearsed = first.rehearse();
    let mut cases = crash::whole(&rehearsed, seed);
    if let Some(only) = &options.only {
        cases.retain(|case| case.to_string().contains(only.as_str()));
    }
    println!("{} effects, {} cells", rehearsed.len(), cases.len());
    cases.reverse();

    let work = Work { waiting: Mutex::new(cases), verdicts: Mutex::new(vec![]), logs: options.logs };
    let started = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| work.run(&first));
        for number in 1..options.lanes {
            let (work, runtime) = (&work, runtime.handle());
            scope.spawn(move || work.run(&Lane::open(&format!("matrix{number}"), runtime, dispatch)));
        }
    });
    let verdicts = work.verdicts.into_inner().expect("no lane panicked");
    crash::print(&verdicts);
    println!("Took {:.0} s with seed {seed}", started.elapsed().as_secs_f64());
    if verdicts.iter().all(Verdict::is_green) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the lanes share.
struct Work {
    waiting: Mutex<Vec<Case>>,
    verdicts: Mutex<Vec<Verdict>>,
    logs: bool,
}

impl Work {
    fn run(&self, lane: &Lane) {
        loop {
            let Some(case) = self.waiting.lock().expect("no lane panicked").pop() else { return };
            let verdict = lane.run(&case);
            let left = self.waiting.lock().expect("no lane panicked").len();
            let mark = if verdict.is_green() { "ok " } else { "RED" };
            println!("{mark} {} ({left} left)", verdict.sentence());
            if self.logs && !verdict.is_green() {
                println!("{}", lane.log_tail());
            }
            self.verdicts.lock().expect("no lane panicked").push(verdict);
        }
    }
}
