//! The words of replies whose codes say nothing: phrases of large providers and of the common mail servers.
//!
//! They are asked in an order that errs towards a pause: a reply that speaks of the sender, of an IP address or of a
//! blocklist fails no recipient, even if it mentions a mailbox too.

use super::complaint::Complaint;

/// Quotas of the account.
const QUOTA_OF_SENDER: &[&str] = &[
    "sending quota",
    "sending limit",
    "submission quota",
    "message quota exceeded",
    "daily message limit",
    "daily user",
    "daily limit",
    "daily send",
    "hourly send",
    "emails per hour",
    "defers and failures per hour",
    "credits exceeded",
    "sender thread limit",
    "outgoing messages limit",
    "smtp relay limit",
];

/// Login, relaying, sender address and its domain.
const SENDER: &[&str] = &[
    "relay access denied",
    "relaying denied",
    "relay denied",
    "relay not permitted",
    "relaying not",
    "relay prohibited",
    "relaying prohibited",
    "unable to relay",
    "cannot relay",
    "credentials for relay",
    "not allowed to relay",
    "not permitted to relay",
    "smtp authentication",
    "rcpthosts",
    "allowed hosts",
    "authentication required",
    "authentication is required",
    "not authenticated",
    "not authorized to send",
    "not logged in",
    "auth first",
    "too many login",
    "sender address rejected",
    "sender rejected",
    "sender denied",
    "sender domain",
    "sender verify failed",
    "envelope sender",
    "bad outbound sender",
    "domain of sender",
    "not owned by",
    "send as this sender",
    "address is not verified",
    "verified sender",
    "sending suspended",
    "sending has been disabled",
    "account is disabled from sending",
    "is not allowed to send:",
    "not allowed to send as",
    "not authorized to perform",
    "authorize the sender",
    "sender signature",
    "from address",
    "dmarc",
    "dkim",
    "spf check",
    "spf policy",
    "spf fail",
    "spf record",
    "sender policy framework",
    "unauthenticated",
    "unresolvable",
];

/// What a server thinks of the one that talks to it.
const SERVER: &[&str] = &[
    "blocked using",
    "blocklist",
    "block list",
    "blacklist",
    "black list",
    "denylist",
    "dnsbl",
    " rbl",
    "spamhaus",
    "spamcop",
    "barracudacentral",
    "sorbs",
    "[bl2",
    "[tss",
    "client host",
    "your ip",
    "ip address",
    "sending ip",
    "banned",
    "reputation",
    "reverse dns",
    "reverse hostname",
    "reverse host",
    "ptr record",
    "helo ",
    "too many connections",
    "too many messages",
    "concurrent",
    "rate limit",
    "sending rate",
    "throttl",
    "unusual rate",
    "messages from",
    "connections not accepted",
    "connections will not be accepted",
    "excessive unknown recipients",
];

/// Size. (Spam is no word for content: at RCPT it is said of the sender.)
const CONTENT: &[&str] = &[
    "size limit",
    "message size",
    "too large",
    "too big",
    "exceeds maximum size",
    "virus",
    "malware",
    "line too long",
    "bare lf",
    "rfc compliant",
];

/// A policy about spam, whoever it means.
const POLICY: &[&str] =
    &["spam", "unsolicited", "policy", "policies", "blocked", "prohibit", "suspicious", "message not allowed"];

/// Not now.
const MAILBOX: &[&str] = &[
    "greylist",
    "graylist",
    "grey-list",
    "receiving mail too quickly",
    "receiving mail at a rate",
    "received too much email",
    "recipient thread limit",
    "over quota",
    "overquota",
    "quota exceeded",
    "exceeds quota",
    "exceeded storage",
    "out of storage",
    "storage full",
    "mailbox full",
    "mailbox is full",
    "account is full",
    "mailbox has exceeded",
    "mailbox size limit",
];

/// Unknown, disabled or malformed addresses.
const ADDRESS: &[&str] = &[
    "user unknown",
    "unknown user",
    "recipient unknown",
    "unknown recipient",
    "address unknown",
    "unknown address",
    "addressee unknown",
    "unknown local",
    "no such user",
    "no such mailbox",
    "no such recipient",
    "no such address",
    "no such account",
    "no such person",
    "no such domain",
    "no mailbox here",
    "user not found",
    "recipient not found",
    "mailbox not found",
    "address not found",
    "account not found",
    "does not exist",
    "doesn't exist",
    "user doesn't have a",
    "mailbox unavailable",
    "account unavailable",
    "account is unavailable",
    "mailbox is disabled",
    "mailbox disabled",
    "account is disabled",
    "account disabled",
    "account has been disabled",
    "account inactive",
    "is no longer valid",
    "no longer available",
    "invalid recipient",
    "invalid mailbox",
    "invalid address",
    "malformed address",
    "malformed local part",
    "bad recipient address",
    "bad address syntax",
    "unrouteable address",
    "unroutable address",
    "user not local",
    "mailbox name not allowed",
    "not our customer",
];

/// What the words complain about, if they are known.
pub(super) fn complaint(words: &str) -> Option<Complaint> {
    quota_of_sender(words)
        .or_else(|| sender(words))
        .or_else(|| mailbox(words))
        .or_else(|| any(words, SERVER, Complaint::Server))
        .or_else(|| any(words, CONTENT, Complaint::Content))
        .or_else(|| any(words, POLICY, Complaint::Policy))
        .or_else(|| any(words, ADDRESS, Complaint::Address))
}

/// Only whether the account has sent too much.
pub(super) fn quota_of_sender(words: &str) -> Option<Complaint> {
    any(words, QUOTA_OF_SENDER, Complaint::Sender)
}

/// Only whether it is about who sends.
pub(super) fn sender(words: &str) -> Option<Complaint> {
    any(words, SENDER, Complaint::Sender)
}

/// Only whether the mailbox takes nothing now.
pub(super) fn mailbox(words: &str) -> Option<Complaint> {
    any(words, MAILBOX, Complaint::Mailbox)
}

fn any(words: &str, phrases: &[&str], complaint: Complaint) -> Option<Complaint> {
    phrases.iter().any(|phrase| words.contains(phrase)).then_some(complaint)
}
