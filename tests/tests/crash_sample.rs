//! A sample of the crash matrix; `make crash-matrix` runs all of it.

use end_to_end::crash::{self, Dispatch, Lane, Verdict};

/// Cases beyond one of each quick action. Each takes about four seconds.
const MORE: usize = 3;

#[test]
fn a_sample_of_the_crash_matrix_loses_nobody_and_mails_nobody_twice() {
    let seed = std::env::var("NIGHTSHIFT_CRASH_SEED").map_or_else(
        |_| rand::random(),
        |seed| seed.parse().expect("NIGHTSHIFT_CRASH_SEED is the number that a former run printed"),
    );
    println!("NIGHTSHIFT_CRASH_SEED={seed} repeats this sample");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let lane = Lane::open("crashes", runtime.handle(), Dispatch::EverySecond);
    let sample = crash::sample(&lane.rehearse(), seed, MORE);
    let verdicts: Vec<Verdict> = sample.iter().map(|case| lane.run(case)).collect();
    for verdict in &verdicts {
        println!("{}", verdict.sentence());
    }
    assert!(verdicts.iter().all(Verdict::is_green), "seed {seed}, see above\n{}", lane.log_tail());
}
