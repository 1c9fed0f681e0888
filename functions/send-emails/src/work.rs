//! What the connections of a batch work with, and what they share.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use shared::address::{self, EmailAddress};
use shared::deadline::Deadline;
use shared::gate::Lease;
use shared::limits::Wait;
use shared::mail::{Extras, Outgoing, Sender};
use shared::single_mail::SingleMail;
use shared::smtp::Server;
use shared::template::{MailTemplate, with_built_in};
use shared::unsubscribe::Unsubscribe;
use uuid::Uuid;

use crate::{Counts, Ctx};

/// What the mails of a batch have in common.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) content: Content,
    /// What their unsubscribe link leaves; a mail without a list has no such link.
    pub(crate) list: Option<String>,
}

/// What the mails of a batch say.
#[derive(Debug)]
pub(crate) enum Content {
    /// A campaign's, parsed once.
    Template(MailTemplate),
    /// One mail's own. A host may have written what cannot be rendered; that is this mail's fault alone.
    Single(SingleMail),
}

/// Everything that sending from one batch needs.
pub(crate) struct Work<'a> {
    pub(crate) ctx: &'a Ctx,
    pub(crate) lease: &'a Lease,
    pub(crate) server: &'a Server,
    pub(crate) sender: &'a Sender,
    pub(crate) message: &'a Message,
    pub(crate) deadline: Deadline,
}

/// An open delivery.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) id: i64,
    pub(crate) public_id: Uuid,
    pub(crate) email: String,
    pub(crate) fields: serde_json::Value,
    /// Tries that reached the server.
    pub(crate) attempts: i32,
    /// Tries whose answer was about the account or the provider.
    pub(crate) returned: i32,
}

#[cfg(test)]
impl Delivery {
    pub(crate) fn for_tests() -> Self {
        Self {
            id: 1,
            public_id: Uuid::nil(),
            email: "ann@example.test".to_owned(),
            fields: serde_json::json!({}),
            attempts: 0,
            returned: 0,
        }
    }
}

/// Why work on a batch ended before its deliveries did.
#[derive(Debug, Clone)]
pub(crate) enum Stop {
    /// The soft limit has passed.
    Deadline,
    /// Another function has the batch.
    LeaseLost,
    /// Campaign or account are paused.
    Paused,
    /// A limit is reached or a sending window closed.
    Waits(Wait),
    /// The account is at fault: login, sender address.
    Account(String),
    /// The server is, or the way to it.
    Provider(String),
    /// The content is.
    Message(String),
    /// We are: the ledger cannot be written.
    Broken(String),
}

impl Stop {
    /// What is left can be sent without anybody's doing. Otherwise ringing at once would only go round in circles.
    pub(crate) fn goes_on_by_itself(&self) -> bool {
        match self {
            Self::Deadline | Self::Waits(_) | Self::Account(_) | Self::Provider(_) => true,
            Self::LeaseLost | Self::Paused | Self::Message(_) | Self::Broken(_) => false,
        }
    }
}

/// What the connections of a batch share. They are futures of one task, so cells are enough.
pub(crate) struct Shared {
    waiting: RefCell<VecDeque<Delivery>>,
    stop: RefCell<Option<Stop>>,
    counts: Cell<Counts>,
    /// Connections that are open and work.
    pub(crate) working: Cell<usize>,
    /// A limit is nearly used up.
    tight: Cell<bool>,
    /// Mails of this invocation that had gone out before this batch.
    sent_before: u64,
}

impl Shared {
    /// Deliveries for the connections to share out.
    pub(crate) fn new(waiting: Vec<Delivery>, sent_before: u64) -> Self {
        Self {
            sent_before,
            tight: Cell::default(),
            waiting: RefCell::new(waiting.into()),
            stop: RefCell::new(None),
            counts: Cell::default(),
            working: Cell::default(),
        }
    }

    /// What was done, and why it ended early, if it did.
    pub(crate) fn into_parts(self) -> (Counts, Option<Stop>) {
        (self.counts.get(), self.stop.into_inner())
    }

    /// The next delivery, unless work has to stop.
    pub(crate) fn next(&self, deadline: Deadline) -> Option<Delivery> {
        if deadline.soft_passed() {
            self.stop(Stop::Deadline);
        }
        if self.stop.borrow().is_some() { None } else { self.waiting.borrow_mut().pop_front() }
    }

    /// Work has to end.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.borrow().is_some()
    }

    /// Whether DATA may be said before the gate has decided. A mail that is denied then costs its connection, so it is
    /// not done while a limit is about to deny.
    pub(crate) fn early_data(&self) -> bool {
        !self.tight.get()
    }

    /// Whether a limit is nearly used up, by the gate's last word.
    pub(crate) fn set_tight(&self, tight: bool) {
        self.tight.set(tight);
    }

    /// Mails go out in this invocation.
    pub(crate) fn has_sent(&self) -> bool {
        self.sent_before + self.counts.get().sent > 0
    }

    /// Leaves out what is for a domain that takes no more now; the gate has deferred it.
    pub(crate) fn leave_out(&self, domain: &str) {
        let mut waiting = self.waiting.borrow_mut();
        let before = waiting.len();
        let is_for = |delivery: &Delivery| {
            delivery.email.parse::<EmailAddress>().is_ok_and(|address| address.domain() == domain)
        };
        waiting.retain(|delivery| !is_for(delivery));
        let left_out = before - waiting.len();
        self.count(|counts| counts.withheld += left_out as u64);
    }

    /// Hands a delivery back that was not touched.
    pub(crate) fn put_back(&self, delivery: Delivery) {
        self.waiting.borrow_mut().push_front(delivery);
    }

    /// Ends the work on the batch; the first reason stands.
    pub(crate) fn stop(&self, reason: Stop) {
        self.stop.borrow_mut().get_or_insert(reason);
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }
}

/// The delivery's mail. An error is the recipient's own: their fields do not fit the template.
pub(crate) fn compose(work: &Work<'_>, delivery: &Delivery) -> anyhow::Result<Outgoing> {
    let to: EmailAddress = delivery.email.parse()?;
    let link = work.message.list.as_ref().map(|list| {
        let unsubscribe = Unsubscribe { list: list.clone(), email_normalised: to.normalised().to_owned() };
        unsubscribe.link(&work.ctx.keys, &work.ctx.settings.public_url)
    });
    let fields = with_built_in(&delivery.fields, &to, link.as_deref());
    let extras = Extras { unsubscribe: link.as_deref(), ..Extras::default() };
    match &work.message.content {
        Content::Template(template) => work.sender.compose(&to, delivery.public_id, template.render(&fields)?, extras),
        Content::Single(mail) => {
            let extras = Extras { reply_to: mail.reply_to.as_deref(), attachments: &mail.attachments, ..extras };
            work.sender.compose(&to, delivery.public_id, mail.render(&fields)?, extras)
        }
    }
}

/// For logs: the delivery without the person.
pub(crate) fn masked(delivery: &Delivery) -> String {
    address::mask(&delivery.email)
}
