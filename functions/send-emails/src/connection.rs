//! The life of one SMTP connection in a batch: envelope, gate, content with the next envelope, answers, gate.

use std::time::Duration;

use shared::gate::{Answer, Cause, Denial, Outcome, Request, Settled};
use shared::mail::Outgoing;
use shared::smtp::{Connection, Failure, Opened, SmtpError};
use shared::verdict::{Verdict, judge};

use crate::gatekeeper::Gate;
use crate::retry;
use crate::work::{Delivery, Shared, Stop, Work, compose, masked};

/// No mail gets its final dot with less than this until the kill: the answer may take its time.
const LEAST_TIME_FOR_A_DOT: Duration = Duration::from_secs(60);
/// The wait for an answer ends this long before the kill, so that "uncertain" can still be recorded.
const TIME_TO_RECORD: Duration = Duration::from_secs(10);
/// A server that takes longer for an envelope keeps the previous mail's outcome waiting: it is recorded on its own then.
const OUTCOME_WAITS: Duration = Duration::from_secs(1);

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

/// A delivery with its mail.
struct Ready {
    delivery: Delivery,
    mail: Outgoing,
}

/// One connection at work on a batch.
struct Courier<'a> {
    work: &'a Work<'a>,
    shared: &'a Shared,
    gate: &'a Gate,
    line: &'a mut Line,
    /// This connection is open and counted as working.
    working: bool,
    /// Outcomes of this connection that the ledger does not know yet.
    unrecorded: Vec<Settled>,
}

/// Sends deliveries of the batch until there are none or work has to stop. Every outcome is recorded at the end.
pub(crate) async fn run(work: &Work<'_>, shared: &Shared, gate: &Gate, line: &mut Line) {
    let mut courier = Courier { work, shared, gate, line, working: false, unrecorded: vec![] };
    courier.send_all().await;
    courier.leave();
    courier.record().await;
}

impl Courier<'_> {
    async fn send_all(&mut self) {
        // The mail whose envelope went out with the content of the one before, and how far that got.
        let mut ahead: Option<(Ready, Opened)> = None;
        loop {
            let (ready, opened) = match ahead.take() {
                Some(opened) => opened,
                None => {
                    let Some(ready) = self.next_mail() else { return };
                    if !self.connect().await {
                        self.shared.put_back(ready.delivery);
                        return;
                    }
                    match self.open_envelope(&ready).await {
                        Ok(opened) => (ready, opened),
                        Err(error) => {
                            self.not_opened(ready, &error);
                            continue;
                        }
                    }
                }
            };
            if !self.admit(&ready, opened).await {
                continue;
            }
            ahead = self.hand_over(ready, opened).await;
        }
    }

    /// The next mail to send. One that cannot be composed is its recipient's own fault, and recorded.
    fn next_mail(&mut self) -> Option<Ready> {
        if self.work.deadline.hard_left() < LEAST_TIME_FOR_A_DOT {
            self.shared.stop(Stop::Deadline);
        }
        loop {
            let delivery = self.shared.next(self.work.deadline)?;
            match compose(self.work, &delivery) {
                Ok(mail) => return Some(Ready { delivery, mail }),
                Err(error) => self.settle(&delivery, Outcome::Refused(Cause::Render), format!("{error:#}")),
            }
        }
    }

    /// Makes sure that there is a connection that may carry a mail. `false`: this one has to end. When other connections
    /// work, a refused connect only means that the server wants fewer.
    async fn connect(&mut self) -> bool {
        if let Some(stale) = self.line.connection.take_if(|connection| !connection.is_fresh()) {
            stale.quit().await;
        }
        if self.line.connection.is_none() {
            match Connection::open(self.work.server).await {
                Ok(connection) => self.line.connection = Some(connection),
                Err(error) if self.shared.working.get() > usize::from(self.working) => {
                    tracing::warn!("one connection less: {error}");
                    return false;
                }
                Err(error) => {
                    self.shared.stop(stop_for(&error).unwrap_or_else(|| Stop::Provider(error.to_string())));
                    return false;
                }
            }
        }
        if !std::mem::replace(&mut self.working, true) {
            self.shared.working.set(self.shared.working.get() + 1);
        }
        true
    }

    fn hang_up(&mut self) {
        self.line.connection = None;
        self.leave();
    }

    fn leave(&mut self) {
        if std::mem::take(&mut self.working) {
            self.shared.working.set(self.shared.working.get() - 1);
        }
    }

    fn connection(&mut self) -> Result<&mut Connection, SmtpError> {
        self.line.connection.as_mut().ok_or_else(SmtpError::no_connection)
    }

    async fn open_envelope(&mut self, ready: &Ready) -> Result<Opened, SmtpError> {
        let early_data = self.shared.early_data();
        let connection = self.line.connection.as_mut().ok_or_else(SmtpError::no_connection)?;
        let mut envelope = std::pin::pin!(connection.envelope(&ready.mail, early_data));
        match tokio::time::timeout(OUTCOME_WAITS, &mut envelope).await {
            Ok(opened) => opened,
            Err(_) => {
                record(self.gate, self.shared, self.line.slot, &mut self.unrecorded).await;
                envelope.await
            }
        }
    }

    /// Asks the gate, telling it what became of the mail before. A mail that may not leave now is left where it is.
    async fn admit(&mut self, ready: &Ready, opened: Opened) -> bool {
        let settled = std::mem::take(&mut self.unrecorded);
        let next = Some(ready.delivery.id);
        match self.gate.pass(Request { slot: self.line.slot, settled, next }).await {
            Ok(Answer::Admitted { tight }) => {
                self.shared.set_tight(tight);
                return true;
            }
            Ok(Answer::Denied(Denial::LeaseLost)) => self.shared.stop(Stop::LeaseLost),
            Ok(Answer::Denied(Denial::Paused)) => self.shared.stop(Stop::Paused),
            Ok(Answer::Denied(Denial::Waits(wait))) => self.shared.stop(Stop::Waits(wait)),
            Ok(Answer::Denied(Denial::Limited(domain))) => {
                self.shared.set_tight(true);
                self.shared.leave_out(&domain);
                self.shared.count(|counts| counts.withheld += 1);
            }
            Ok(Answer::Recorded | Answer::Denied(Denial::Suppressed | Denial::NotOpen)) => {
                self.shared.count(|counts| counts.withheld += 1);
            }
            Err(closed) => self.shared.stop(Stop::Broken(closed.to_string())),
        }
        if opened == Opened::Data {
            // The server waits for content that must not come: only a lost connection is no mail.
            self.hang_up();
        }
        false
    }

    /// Gives an admitted mail away, together with the envelope of the next where the server takes that. From here on the
    /// ledger says that it is being sent: whatever happens must be recorded.
    async fn hand_over(&mut self, ready: Ready, opened: Opened) -> Option<(Ready, Opened)> {
        if opened == Opened::Envelope {
            let said = match self.connection() {
                Ok(connection) => connection.data().await,
                Err(error) => Err(error),
            };
            if let Err(error) = said {
                self.failed(&ready.delivery, &error, true);
                return None;
            }
        }
        let patience = self.work.deadline.hard_left().saturating_sub(TIME_TO_RECORD);
        let chains = self.line.connection.as_ref().is_some_and(Connection::chains);
        let following = if chains { self.next_mail() } else { None };
        let early_data = self.shared.early_data();
        let answer = match self.connection() {
            Ok(connection) => {
                let next = following.as_ref().map(|ready| &ready.mail);
                connection.content(&ready.mail, next, early_data, patience).await
            }
            Err(error) => Err(error),
        };
        let connection_holds = match answer {
            Ok(reply) => {
                self.settle(&ready.delivery, Outcome::Sent, reply);
                true
            }
            Err(error) => self.failed(&ready.delivery, &error, true),
        };
        let following = following?;
        if !connection_holds {
            self.shared.put_back(following.delivery);
            return None;
        }
        match self.opened_meanwhile().await {
            None => {
                self.shared.put_back(following.delivery);
                None
            }
            Some(Ok(opened)) if self.shared.is_stopped() => {
                self.shared.put_back(following.delivery);
                if opened == Opened::Data {
                    self.hang_up();
                }
                None
            }
            Some(Ok(opened)) => Some((following, opened)),
            Some(Err(error)) => {
                self.not_opened(following, &error);
                None
            }
        }
    }

    /// What the server says to the envelope that went out with the last content.
    async fn opened_meanwhile(&mut self) -> Option<Result<Opened, SmtpError>> {
        let connection = self.line.connection.as_mut()?;
        let mut answers = std::pin::pin!(connection.opened());
        match tokio::time::timeout(OUTCOME_WAITS, &mut answers).await {
            Ok(opened) => opened,
            Err(_) => {
                record(self.gate, self.shared, self.line.slot, &mut self.unrecorded).await;
                answers.await
            }
        }
    }

    /// The envelope was refused, or the connection did not hold.
    fn not_opened(&mut self, ready: Ready, error: &SmtpError) {
        if !matches!(error.failure, Failure::Lost(_)) {
            self.failed(&ready.delivery, error, false);
            return;
        }
        let innocent = self.line.connection.as_ref().is_some_and(Connection::deserves_another);
        self.shared.put_back(ready.delivery);
        self.hang_up();
        if !innocent {
            self.shared
                .stop(Stop::Provider(format!("the server closes the connection before the first mail: {error}")));
        }
    }

    /// Carries out the verdict on a failed mail. `admitted`: it had passed the gate. Returns whether the connection can
    /// still be used.
    fn failed(&mut self, delivery: &Delivery, error: &SmtpError, admitted: bool) -> bool {
        let verdict = retry::on_second_thought(judge(error), delivery, self.shared.has_sent());
        let reply = match &error.failure {
            Failure::Refused { code, text } => format!("{code} {text}"),
            Failure::NotOffered(_) | Failure::Lost(_) | Failure::TimedOut(_) => error.to_string(),
        };
        let retry_first = self.work.ctx.settings.retry_first;
        let outcome = match verdict {
            Verdict::RecipientForGood => Some(Outcome::Refused(Cause::Address)),
            Verdict::RecipientForNow => Some(retry::defer(retry_first, delivery.attempts)),
            Verdict::Unknown => Some(Outcome::Uncertain),
            Verdict::Message => admitted.then_some(Outcome::Returned(Duration::ZERO)),
            Verdict::Account | Verdict::Provider => Some(Outcome::Returned(retry::return_delay(delivery.returned))),
        };
        if let Some(outcome) = outcome {
            self.settle(delivery, outcome, reply);
        }
        if let Some(stop) = stop(verdict, error) {
            self.shared.stop(stop);
        }
        let holds = match error.failure {
            Failure::Refused { code, .. } => code != 421,
            Failure::NotOffered(_) => true,
            Failure::Lost(_) | Failure::TimedOut(_) => false,
        };
        if !holds {
            self.hang_up();
        }
        holds
    }

    fn settle(&mut self, delivery: &Delivery, outcome: Outcome, reply: String) {
        self.shared.count(|counts| match outcome {
            Outcome::Sent => counts.sent += 1,
            Outcome::Refused(_) => counts.refused += 1,
            Outcome::Deferred(_) => counts.deferred += 1,
            Outcome::Uncertain => counts.uncertain += 1,
            Outcome::Returned(_) => {}
        });
        tracing::debug!(delivery.id = delivery.id, "{}: {outcome:?}, {reply}", masked(delivery));
        self.unrecorded.push(Settled { delivery_id: delivery.id, outcome, reply });
    }

    async fn record(&mut self) {
        record(self.gate, self.shared, self.line.slot, &mut self.unrecorded).await;
    }
}

/// Takes outcomes to the ledger without asking for anything. A function, because the connection may be in use meanwhile.
async fn record(gate: &Gate, shared: &Shared, slot: i32, unrecorded: &mut Vec<Settled>) {
    let settled = std::mem::take(unrecorded);
    if settled.is_empty() {
        return;
    }
    if let Err(closed) = gate.pass(Request { slot, settled, next: None }).await {
        shared.stop(Stop::Broken(closed.to_string()));
    }
}

/// What has to stop when the failure is not the recipient's.
fn stop_for(error: &SmtpError) -> Option<Stop> {
    stop(judge(error), error)
}

fn stop(verdict: Verdict, error: &SmtpError) -> Option<Stop> {
    match verdict {
        Verdict::Message => Some(Stop::Message(error.to_string())),
        Verdict::Account => Some(Stop::Account(error.to_string())),
        Verdict::Provider => Some(Stop::Provider(error.to_string())),
        Verdict::RecipientForGood | Verdict::RecipientForNow | Verdict::Unknown => None,
    }
}
