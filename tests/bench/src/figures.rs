//! The figures of a run, for people and for scripts.

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use shared::accounts::Account;

use crate::Options;
use crate::blast::Blasted;
use crate::pipeline::Sent;
use crate::surroundings::Surroundings;
use crate::wire::Cell;

/// Pipeline and blast, one after the other.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Round {
    pub(crate) pipeline: Sent,
    pub(crate) blast: Blasted,
}

impl Round {
    /// What share of the bare rate the pipeline reaches.
    pub(crate) fn ratio(&self) -> f64 {
        self.pipeline.mails_per_second / self.blast.mails_per_second
    }
}

/// Everything that a run says.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    measured_at: chrono::DateTime<chrono::Utc>,
    /// Median of the rounds' ratios, pipeline to blast.
    ratio: f64,
    pipeline_mails_per_second: f64,
    blast_mails_per_second: f64,
    wall_seconds: f64,
    commits_per_mail: f64,
    peak_memory_kib: u64,
    mails: u32,
    mail_bytes: usize,
    connections: i32,
    connections_seen: i64,
    batch_size: u32,
    concurrency: i32,
    sink: String,
    durable_when_counted: &'static str,
    sink_keeps: &'static str,
    surroundings: Surroundings,
    rounds: Vec<Round>,
    wire: Vec<Cell>,
}

impl Figures {
    pub(crate) fn new(
        options: &Options,
        account: &Account,
        mail_bytes: usize,
        surroundings: Surroundings,
        rounds: Vec<Round>,
        wire: Vec<Cell>,
    ) -> Self {
        let over = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
        let durable_when_counted = if surroundings.postgres.is_durable() {
            "its outcome: committed by Postgres and flushed to disk"
        } else {
            "nothing: these settings lose commits with the power"
        };
        let sink_keeps = match options.sink {
            None => "mail written to a file before its answer, not flushed to disk",
            Some(_) => "whatever it promises with its answer; not known here",
        };
        Self {
            measured_at: chrono::Utc::now(),
            ratio: over(Round::ratio),
            pipeline_mails_per_second: over(|round| round.pipeline.mails_per_second),
            blast_mails_per_second: over(|round| round.blast.mails_per_second),
            wall_seconds: over(|round| round.pipeline.wall_seconds),
            commits_per_mail: over(|round| round.pipeline.commits_per_mail),
            peak_memory_kib: rounds.iter().map(|round| round.pipeline.peak_memory_kib).max().unwrap_or_default(),
            mails: options.mails,
            mail_bytes,
            connections: options.connections,
            connections_seen: rounds.iter().map(|round| round.pipeline.connections_seen).max().unwrap_or_default(),
            batch_size: options.batch_size,
            concurrency: options.functions(),
            sink: match options.sink {
                None => "built-in inbox".to_owned(),
                Some(_) => format!("{}:{}", account.host, account.port),
            },
            durable_when_counted,
            sink_keeps,
            surroundings,
            rounds,
            wire,
        }
    }

    /// The table for people.
    pub(crate) fn print(&self) {
        let all = |figure: fn(&Round) -> f64, digits: usize| {
            self.rounds.iter().map(|round| format!("{:.digits$}", figure(round))).collect::<Vec<_>>().join(", ")
        };
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(["", "Median", "Rounds"]);
        table.add_row(["Ratio, pipeline to blast".to_owned(), format!("{:.2}", self.ratio), all(Round::ratio, 2)]);
        table.add_row([
            "Pipeline, mails/s".to_owned(),
            format!("{:.0}", self.pipeline_mails_per_second),
            all(|round| round.pipeline.mails_per_second, 0),
        ]);
        table.add_row([
            "Bare SMTP blast, mails/s".to_owned(),
            format!("{:.0}", self.blast_mails_per_second),
            all(|round| round.blast.mails_per_second, 0),
        ]);
        table.add_row([
            "Start command to closed campaign, s".to_owned(),
            format!("{:.1}", self.wall_seconds),
            all(|round| round.pipeline.wall_seconds, 1),
        ]);
        table.add_row([
            "Transactions per mail, about".to_owned(),
            format!("{:.2}", self.commits_per_mail),
            all(|round| round.pipeline.commits_per_mail, 2),
        ]);
        println!("\n{table}\n");

        let machine = &self.surroundings;
        let (postgres, redis) = (&machine.postgres, &machine.redis);
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        for (label, value) in [
            ("Mails in a round", format!("{} of {} bytes", self.mails, self.mail_bytes)),
            ("Connections", format!("{} (most seen at once: {})", self.connections, self.connections_seen)),
            ("Batch size, concurrency", format!("{}, {} functions", self.batch_size, self.concurrency)),
            ("Sink", format!("{}: {}", self.sink, self.sink_keeps)),
            ("Durable when a mail counts", self.durable_when_counted.to_owned()),
            (
                "Postgres",
                format!(
                    "{}, fsync={}, synchronous_commit={}, full_page_writes={}, wal_sync_method={}",
                    postgres.version,
                    postgres.fsync,
                    postgres.synchronous_commit,
                    postgres.full_page_writes,
                    postgres.wal_sync_method
                ),
            ),
            ("Redis", format!("{}, appendonly={}, appendfsync={}", redis.version, redis.appendonly, redis.appendfsync)),
            ("Peak memory of a sender", format!("{:.1} MiB", self.peak_memory_kib as f64 / 1024.0)),
            (
                "Machine",
                format!(
                    "{}, {} cores, {:.0} GiB, load {:.2} before",
                    machine.processor, machine.cores, machine.memory_gib, machine.load_before
                ),
            ),
        ] {
            table.add_row([label.to_owned(), value]);
        }
        println!("{table}");
        self.print_wire();
    }

    fn print_wire(&self) {
        if self.wire.is_empty() {
            return;
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["Delay", "Refused", "Round trips a mail", "Connections", "Mails/s"]);
        for cell in &self.wire {
            table.add_row([
                format!("{} ms", cell.delay_ms),
                format!("{} of {}", cell.refused, cell.sent + cell.refused),
                format!("{:.2}", cell.round_trips_per_mail),
                cell.connections.to_string(),
                format!("{:.0}", cell.mails_per_second),
            ]);
        }
        println!("\n{table}");
    }
}

/// The middle one, or the mean of the middle two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        even if even % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_of_an_even_count_lies_between_the_middle_two() {
        assert!((median(vec![4.0, 1.0, 3.0, 100.0]) - 3.5).abs() < f64::EPSILON);
        assert!((median(vec![9.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }
}
