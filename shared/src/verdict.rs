//! What a refusal means: whose fault it is decides what happens, and only a recipient's own fault ever fails a
//! recipient. Whatever is in doubt pauses or waits.
//!
//! The reply says what it complains about (`Complaint`), the phase says what that means: "unknown address" is the
//! recipient's fault at RCPT and the account's at MAIL.

mod complaint;
mod words;

use crate::smtp::{Failure, Phase, SmtpError};
use complaint::{Complaint, Reply};

/// At whose door a failure lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// This address will never take mail: give the recipient up.
    RecipientForGood,
    /// This address takes no mail now: try again later.
    RecipientForNow,
    /// The content is not wanted: pause the campaign, so that a person looks at it.
    Message,
    /// Login, sender address or quota of the account: pause the account.
    Account,
    /// The server or the way to it: pause the account briefly.
    Provider,
    /// The content was handed over and no answer came.
    Unknown,
}

/// Judges a failure by its phase, code and enhanced code (RFC 3463), and by its words where those say nothing.
pub fn judge(error: &SmtpError) -> Verdict {
    match &error.failure {
        Failure::Refused { code, text } => refused(error.phase, &Reply::read(*code, text)),
        Failure::NotOffered(_) => match error.phase {
            Phase::Rcpt => Verdict::RecipientForGood, // SMTPUTF8: this server cannot reach such an address
            Phase::Data | Phase::Content => Verdict::Message,
            Phase::Connect | Phase::Tls | Phase::Auth | Phase::Mail => Verdict::Account,
        },
        Failure::Lost(_) | Failure::TimedOut(_) => match error.phase {
            Phase::Content => Verdict::Unknown,
            Phase::Connect | Phase::Tls | Phase::Auth | Phase::Mail | Phase::Rcpt | Phase::Data => Verdict::Provider,
        },
    }
}

fn refused(phase: Phase, reply: &Reply) -> Verdict {
    let complaint = reply.complaint();
    if reply.closes_the_channel() {
        return match complaint {
            Complaint::Sender => Verdict::Account,
            Complaint::Address
            | Complaint::Mailbox
            | Complaint::Content
            | Complaint::Server
            | Complaint::Policy
            | Complaint::Nothing => Verdict::Provider,
        };
    }
    match phase {
        Phase::Connect | Phase::Tls => Verdict::Provider,
        Phase::Auth => match complaint {
            Complaint::Sender => Verdict::Account,
            Complaint::Server => Verdict::Provider,
            Complaint::Address | Complaint::Mailbox | Complaint::Content | Complaint::Policy | Complaint::Nothing => {
                lasting(reply, Verdict::Account, Verdict::Provider)
            }
        },
        Phase::Mail => match complaint {
            Complaint::Sender => Verdict::Account,
            Complaint::Content => Verdict::Message,
            Complaint::Server => Verdict::Provider,
            // No recipient was named yet: an address here is the sender's.
            Complaint::Address | Complaint::Mailbox | Complaint::Policy | Complaint::Nothing => {
                lasting(reply, Verdict::Account, Verdict::Provider)
            }
        },
        Phase::Rcpt => match complaint {
            Complaint::Address => lasting(reply, Verdict::RecipientForGood, Verdict::RecipientForNow),
            Complaint::Mailbox => Verdict::RecipientForNow,
            Complaint::Content => Verdict::Message,
            Complaint::Sender => Verdict::Account,
            Complaint::Server => Verdict::Provider,
            // Nobody has seen the content yet, so a policy is about where the mail comes from. If only for now, it is
            // most often greylisting, which each recipient has to wait out on its own.
            Complaint::Policy => lasting(reply, Verdict::Provider, Verdict::RecipientForNow),
            Complaint::Nothing => Verdict::RecipientForNow,
        },
        Phase::Data | Phase::Content => match complaint {
            Complaint::Address => lasting(reply, Verdict::RecipientForGood, Verdict::RecipientForNow),
            Complaint::Mailbox => Verdict::RecipientForNow,
            Complaint::Content => Verdict::Message,
            Complaint::Sender => Verdict::Account,
            Complaint::Server => Verdict::Provider,
            Complaint::Policy | Complaint::Nothing => lasting(reply, Verdict::Message, Verdict::RecipientForNow),
        },
    }
}

fn lasting(reply: &Reply, for_good: Verdict, for_now: Verdict) -> Verdict {
    if reply.is_permanent() { for_good } else { for_now }
}
