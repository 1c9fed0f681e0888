//! The life of one SMTP connection in a batch: envelope, gate, content, answer, next.

use std::time::Duration;

use chrono::Utc;
use shared::gate::{Answer, Cause, Denial, Outcome, Request, Settled};
use shared::smtp::{Connection, Failure, SmtpError};
use shared::verdict::{Verdict, judge};

use crate::gatekeeper::Gate;
use crate::work::{Delivery, Shared, Stop, Work, compose, masked};

/// No mail gets its final dot with less than this until the kill: the answer may take its time.
const LEAST_TIME_FOR_A_DOT: Duration = Duration::from_secs(60);
/// The wait for an answer ends this long before the kill, so that "uncertain" can still be recorded.
const TIME_TO_RECORD: Duration = Duration::from_secs(10);
/// A server that takes longer for an envelope keeps the previous mail's outcome waiting: it is recorded on its own then.
const OUTCOME_WAITS: Duration = Duration::from_secs(1);
/// Longest wait between two tries of a recipient.
const RETRY_CAP: Duration = Duration::from_secs(6 * 3600);
/// A recipient deferred for longer is given up (RFC 5321, 4.5.4.1 advises 4 to 5 days).
const EXPIRES_AFTER: chrono::Duration = chrono::Duration::days(4);

/// A connection slot of the account, with the connection in it when it is open.
pub(crate) struct Line {
    slot: i32,
    connection: Option<Connection>,
}

impl Line {
    pub(crate) fn new(slot: i32) -> Self {
        Self { slot, connection: None }
    }

    /// Says QUIT.
    pub(crate) async fn hang_up(self) {
        if let Some(connection) = self.connection {
            connection.quit().await;
        }
    }
}

/// Outcomes of this connection that the ledger does not know yet.
#[derive(Default)]
struct Unrecorded(Vec<Settled>);

impl Unrecorded {
    fn add(&mut self, shared: &Shared, delivery: &Delivery, outcome: Outcome, reply: String) {
        shared.count(|counts| match outcome {
            Outcome::Sent => counts.sent += 1,
            Outcome::Refused(_) => counts.refused += 1,
            Outcome::Deferred(_) => counts.deferred += 1,
            Outcome::Uncertain => counts.uncertain += 1,
            Outcome::Returned => {}
        });
        tracing::debug!(delivery.id = delivery.id, "{}: {outcome:?}, {reply}", masked(delivery));
        self.0.push(Settled { delivery_id: delivery.id, outcome, reply });
    }
}

/// Sends deliveries of the batch until there are none or work has to stop. Every outcome is recorded at the end.
pub(crate) async fn run(work: &Work<'_>, shared: &Shared, gate: &Gate, line: &mut Line) {
    let mut unrecorded = Unrecorded::default();
    let mut working = false;
    while let Some(delivery) = shared.next(work.deadline) {
        if work.deadline.hard_left() < LEAST_TIME_FOR_A_DOT {
            shared.put_back(delivery);
            shared.stop(Stop::Deadline);
            break;
        }
        if !connect(work, shared, line, &mut working).await {
            shared.put_back(delivery);
            break;
        }
        let Some(connection) = &mut line.connection else { break };
        let was_used = connection.is_used();
        match send(work, shared, gate, line.slot, connection, &mut unrecorded, &delivery).await {
            Next::SameConnection => {}
            Next::NewConnection => hang_up(shared, line, &mut working),
            Next::SameMailAgain if was_used => {
                // The server closed the connection between two mails: that costs no mail.
                shared.put_back(delivery);
                hang_up(shared, line, &mut working);
            }
            Next::SameMailAgain => {
                shared.put_back(delivery);
                hang_up(shared, line, &mut working);
                shared.stop(Stop::Provider("the server closes the connection before the first mail".to_owned()));
            }
        }
    }
    if working {
        shared.working.set(shared.working.get() - 1);
    }
    if !unrecorded.0.is_empty() {
        let request = Request { slot: line.slot, settled: unrecorded.0, next: None };
        if let Err(closed) = gate.pass(request).await {
            shared.stop(Stop::Broken(closed.to_string()));
        }
    }
}

fn hang_up(shared: &Shared, line: &mut Line, working: &mut bool) {
    line.connection = None;
    if std::mem::take(working) {
        shared.working.set(shared.working.get() - 1);
    }
}

/// Makes sure that the line has a connection that may carry a mail. `false`: this line has to end. When other lines
/// work, a refused connect only means that the server wants fewer connections.
async fn connect(work: &Work<'_>, shared: &Shared, line: &mut Line, working: &mut bool) -> bool {
    if let Some(stale) = line.connection.take_if(|connection| !connection.is_fresh()) {
        stale.quit().await;
    }
    if line.connection.is_none() {
        match Connection::open(work.server).await {
            Ok(connection) => line.connection = Some(connection),
            Err(error) if shared.working.get() > usize::from(*working) => {
                tracing::warn!("one connection less: {error}");
                return false;
            }
            Err(error) => {
                shared.stop(stop_for(&error).unwrap_or_else(|| Stop::Provider(error.to_string())));
                return false;
            }
        }
    }
    if !std::mem::replace(working, true) {
        shared.working.set(shared.working.get() + 1);
    }
    true
}

/// How to go on after a mail.
enum Next {
    SameConnection,
    NewConnection,
    SameMailAgain,
}

/// One mail: envelope, gate, DATA, content.
async fn send(
    work: &Work<'_>,
    shared: &Shared,
    gate: &Gate,
    slot: i32,
    connection: &mut Connection,
    unrecorded: &mut Unrecorded,
    delivery: &Delivery,
) -> Next {
    let mail = match compose(work, delivery) {
        Ok(mail) => mail,
        Err(error) => {
            unrecorded.add(shared, delivery, Outcome::Refused(Cause::Render), format!("{error:#}"));
            return Next::SameConnection;
        }
    };

    let ascii = mail.content.is_ascii();
    let accepted = {
        let mut envelope = std::pin::pin!(connection.envelope(&mail.envelope, ascii));
        match tokio::time::timeout(OUTCOME_WAITS, &mut envelope).await {
            Ok(accepted) => accepted,
            Err(_) => {
                if !unrecorded.0.is_empty() {
                    let settled = std::mem::take(&mut unrecorded.0);
                    if let Err(closed) = gate.pass(Request { slot, settled, next: None }).await {
                        shared.stop(Stop::Broken(closed.to_string()));
                        return Next::NewConnection;
                    }
                }
                envelope.await
            }
        }
    };
    if let Err(error) = accepted {
        if matches!(error.failure, Failure::Lost(_)) {
            return Next::SameMailAgain;
        }
        return failed(work, shared, unrecorded, delivery, &error, false);
    }

    let settled = std::mem::take(&mut unrecorded.0);
    let answer = gate.pass(Request { slot, settled, next: Some(delivery.id) }).await;
    let denial = match answer {
        Ok(Answer::Admitted) => None,
        Ok(Answer::Recorded) => Some(None),
        Ok(Answer::Denied(Denial::LeaseLost)) => Some(Some(Stop::LeaseLost)),
        Ok(Answer::Denied(Denial::Paused)) => Some(Some(Stop::Paused)),
        Ok(Answer::Denied(Denial::Suppressed | Denial::NotOpen | Denial::Limited)) => Some(None),
        Err(closed) => Some(Some(Stop::Broken(closed.to_string()))),
    };
    if let Some(stop) = denial {
        match stop {
            Some(reason) => shared.stop(reason),
            None => shared.count(|counts| counts.withheld += 1),
        }
        return match connection.reset().await {
            Ok(()) => Next::SameConnection,
            Err(_) => Next::NewConnection,
        };
    }

    // From here on the ledger says that this mail is being sent: whatever happens must be recorded.
    if let Err(error) = connection.data().await {
        return failed(work, shared, unrecorded, delivery, &error, true);
    }
    let patience = work.deadline.hard_left().saturating_sub(TIME_TO_RECORD);
    match connection.content(&mail.content, patience).await {
        Ok(reply) => {
            unrecorded.add(shared, delivery, Outcome::Sent, reply);
            Next::SameConnection
        }
        Err(error) => failed(work, shared, unrecorded, delivery, &error, true),
    }
}

/// Carries out the verdict on a failed mail. `admitted`: it had passed the gate.
fn failed(
    work: &Work<'_>,
    shared: &Shared,
    unrecorded: &mut Unrecorded,
    delivery: &Delivery,
    error: &SmtpError,
    admitted: bool,
) -> Next {
    let verdict = judge(error);
    let reply = match &error.failure {
        Failure::Refused { code, text } => format!("{code} {text}"),
        Failure::NotOffered(_) | Failure::Lost(_) | Failure::TimedOut(_) => error.to_string(),
    };
    let outcome = match verdict {
        Verdict::RecipientForGood => Some(Outcome::Refused(Cause::Address)),
        Verdict::RecipientForNow => Some(defer(work, delivery)),
        Verdict::Unknown => Some(Outcome::Uncertain),
        Verdict::Message | Verdict::Account | Verdict::Provider => admitted.then_some(Outcome::Returned),
    };
    if let Some(outcome) = outcome {
        unrecorded.add(shared, delivery, outcome, reply);
    }
    if let Some(stop) = stop_for(error) {
        shared.stop(stop);
    }
    match error.failure {
        Failure::Refused { code, .. } if code != 421 => Next::SameConnection,
        Failure::NotOffered(_) => Next::SameConnection,
        Failure::Refused { .. } | Failure::Lost(_) | Failure::TimedOut(_) => Next::NewConnection,
    }
}

/// What has to stop when the failure is not the recipient's.
fn stop_for(error: &SmtpError) -> Option<Stop> {
    match judge(error) {
        Verdict::Message => Some(Stop::Message(error.to_string())),
        Verdict::Account => Some(Stop::Account(error.to_string())),
        Verdict::Provider => Some(Stop::Provider(error.to_string())),
        Verdict::RecipientForGood | Verdict::RecipientForNow | Verdict::Unknown => None,
    }
}

/// Later, each time twice as long; after days, never.
fn defer(work: &Work<'_>, delivery: &Delivery) -> Outcome {
    if work.campaign.started_at.is_some_and(|started| Utc::now() - started > EXPIRES_AFTER) {
        return Outcome::Refused(Cause::Expired);
    }
    let doublings = u32::try_from(delivery.attempts).unwrap_or(0).min(16);
    Outcome::Deferred(work.ctx.settings.retry_first.saturating_mul(1 << doublings).min(RETRY_CAP))
}
