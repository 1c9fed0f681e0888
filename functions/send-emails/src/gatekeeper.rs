//! Brings the connections of one batch to the gate: those that are ready together go through it together.

use std::time::Duration;

use shared::deadline::Deadline;
use shared::gate::{self, Answer, Lease, Request};
use sqlx::PgPool;
use tokio::sync::{mpsc, oneshot};

/// With less than this until the kill, a failing database is not asked again.
const GIVE_UP_BEFORE_KILL: Duration = Duration::from_secs(10);

/// The database did not take a decision: nothing was admitted.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the ledger cannot be written: {0}")]
pub(crate) struct GateClosed(String);

type Visit = (Request, oneshot::Sender<Result<Answer, GateClosed>>);

/// A connection's way to the gate.
#[derive(Debug, Clone)]
pub(crate) struct Gate(mpsc::Sender<Visit>);

impl Gate {
    /// A gate and the keeper that must run beside those who ask.
    pub(crate) fn new() -> (Self, Keeper) {
        let (sender, receiver) = mpsc::channel(64);
        (Self(sender), Keeper(receiver))
    }

    /// Waits for the gate's answer.
    pub(crate) async fn pass(&self, request: Request) -> Result<Answer, GateClosed> {
        let (answer, answered) = oneshot::channel();
        let gone = |_| GateClosed("its keeper has ended".to_owned());
        self.0.send((request, answer)).await.map_err(|_| gone(()))?;
        answered.await.map_err(|_| gone(()))?
    }
}

/// Takes requests to the gate until nobody can ask any more.
#[derive(Debug)]
pub(crate) struct Keeper(mpsc::Receiver<Visit>);

impl Keeper {
    /// While one transaction is under way, the requests that arrive form the next one. Nobody waits for company.
    pub(crate) async fn run(mut self, db: &PgPool, lease: &Lease, deadline: Deadline) {
        let mut visits = Vec::with_capacity(64);
        while self.0.recv_many(&mut visits, 64).await > 0 {
            let (requests, answers): (Vec<_>, Vec<_>) = visits.drain(..).unzip();
            let outcome = pass_patiently(db, lease, &requests, deadline).await;
            for (index, answer) in answers.into_iter().enumerate() {
                // Nobody listens when the connection's task has ended; the database knows all the same.
                let _ = answer.send(match &outcome {
                    Ok(decided) => Ok(decided[index].clone()),
                    Err(closed) => Err(closed.clone()),
                });
            }
        }
    }
}

/// Outcomes are worth waiting for: what is not recorded becomes uncertain.
async fn pass_patiently(
    db: &PgPool,
    lease: &Lease,
    requests: &[Request],
    deadline: Deadline,
) -> Result<Vec<Answer>, GateClosed> {
    loop {
        match gate::pass(db, lease, requests).await {
            Ok(decided) => return Ok(decided),
            Err(error) => {
                let worth_it = requests.iter().any(|request| !request.settled.is_empty());
                if !worth_it || deadline.hard_left() < GIVE_UP_BEFORE_KILL {
                    return Err(GateClosed(error.to_string()));
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}
