//! Round trips a mail: the sending function against sinks that are near or far and refuse some recipients.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use sink::{Manners, Sink};

use crate::Options;
use crate::pipeline::{Pipeline, Target};

/// Replies of the sink are held back for so long, in milliseconds.
const DELAYS: [u64; 3] = [0, 20, 100];
/// Recipients that the sink refuses, in percent.
const REFUSALS: [u32; 3] = [0, 5, 20];
/// Mails and connections of one cell: enough mails a connection that its opening does not decide.
const MAILS: u32 = 1_000;
const CONNECTIONS: i32 = 8;

/// One sink.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Cell {
    pub(crate) delay_ms: u64,
    pub(crate) refused_percent: u32,
    pub(crate) mails_per_second: f64,
    /// Times that the sender waited for an answer, connecting included, for each accepted mail.
    pub(crate) round_trips_per_mail: f64,
    /// Connections that were opened.
    pub(crate) connections: u64,
    pub(crate) sent: u64,
    pub(crate) refused: u64,
}

/// A campaign against each sink.
pub(crate) async fn measure(options: &Options) -> Result<Vec<Cell>> {
    let mut cells = vec![];
    for delay_ms in DELAYS {
        for refused_percent in REFUSALS {
            let manners = Manners { refused_percent, delay: Duration::from_millis(delay_ms), ..Manners::default() };
            let sink = Sink::start(manners).await.context("start a sink")?;
            let account = format!("wire-{delay_ms}-{refused_percent}");
            let address = sink.address();
            let host = address.ip().to_string();
            let target = Target { account: &account, host: &host, port: address.port(), connections: CONNECTIONS };
            let pipeline = Pipeline::prepare(options, &target).await?;
            let before = sink.figures();
            let sent = pipeline.send(MAILS).await.with_context(|| format!("campaign of account {account}"))?;
            let after = sink.figures();
            let mails = after.mails - before.mails;
            cells.push(Cell {
                delay_ms,
                refused_percent,
                mails_per_second: sent.mails_per_second,
                round_trips_per_mail: (after.turns - before.turns) as f64 / mails as f64,
                connections: after.connections - before.connections,
                sent: mails,
                refused: after.refused - before.refused,
            });
        }
    }
    Ok(cells)
}
