//! What a reply complains about, whatever the phase.
//!
//! Asked in this order: basic codes with one meaning, the enhanced code, and, where that is missing or says "other",
//! the words. The registry of enhanced codes is IANA's (RFC 3463, 5248, 7372 and others); ranges that Microsoft and
//! Google added are in their lists of SMTP errors.

use super::words;

/// What is wrong in the server's eyes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Complaint {
    /// The address: unknown, disabled, moved, not reachable from here.
    Address,
    /// Its mailbox, or the way to it: full, busy, receiving too fast.
    Mailbox,
    /// The content: too big, malformed.
    Content,
    /// Who sends: login, sender address, relaying, quota, missing SPF, DKIM or DMARC.
    Sender,
    /// The server, or what it thinks of the one that sends for us: overload, rate, blocklists.
    Server,
    /// Some policy; which one, only the phase suggests.
    Policy,
    /// Nothing that can be told.
    Nothing,
}

/// A refusal, taken apart.
#[derive(Debug)]
pub(super) struct Reply {
    code: u16,
    enhanced: Option<EnhancedCode>,
    /// Lower case, single spaces, without addresses and links: those may contain any word.
    words: String,
}

impl Reply {
    pub(super) fn read(code: u16, text: &str) -> Self {
        let words: Vec<&str> =
            text.split_whitespace().filter(|word| !word.contains('@') && !word.contains("://")).collect();
        let words = words.join(" ").to_lowercase();
        Self { code, enhanced: EnhancedCode::find(&words), words }
    }

    /// 421 closes the channel, in any phase (RFC 5321, 3.8).
    pub(super) fn closes_the_channel(&self) -> bool {
        self.code == 421
    }

    /// Both codes say so. Where they disagree, trying again burns nobody.
    pub(super) fn is_permanent(&self) -> bool {
        self.code >= 500 && self.enhanced.is_none_or(|enhanced| enhanced.class == 5)
    }

    pub(super) fn complaint(&self) -> Complaint {
        self.by_clear_basic_code()
            .or_else(|| self.by_enhanced_code())
            .or_else(|| words::complaint(&self.words))
            .unwrap_or_else(|| self.by_vague_basic_code())
    }

    /// Basic codes that have one meaning.
    fn by_clear_basic_code(&self) -> Option<Complaint> {
        match self.code {
            // Exchange says it of either side: 4.3.2 "sender" or "recipient thread limit exceeded".
            432 if self.words.contains("recipient thread limit") => Some(Complaint::Mailbox),
            // Login (RFC 4954), and 403 of one relay for senders it has not verified.
            403 | 432 | 524 | 525 | 530 | 534 | 535 | 538 => Some(Complaint::Sender),
            // The server, or the domain, accepts no mail at all (RFC 7504).
            521 => Some(Complaint::Server),
            556 => Some(Complaint::Address),
            _ => None,
        }
    }

    /// What the enhanced code says; `None` where it says "other", or what each provider means differently.
    fn by_enhanced_code(&self) -> Option<Complaint> {
        let EnhancedCode { class, subject, detail } = self.enhanced?;
        match (subject, detail) {
            (1, 0) => words::complaint(&self.words).or(Some(Complaint::Address)),
            (1, 1..=4 | 6 | 10) => Some(Complaint::Address),
            (1, 7 | 8) => Some(Complaint::Sender),
            (1, 20) => Some(Complaint::Content), // several From addresses
            (1, 90) => Some(Complaint::Sender),  // daily number of recipients

            // "Disabled", also said of mailboxes that receive too fast, and of accounts that send too much.
            (2, 1) => {
                words::quota_of_sender(&self.words).or_else(|| words::mailbox(&self.words)).or(Some(Complaint::Address))
            }
            // "Persistent transient", says RFC 3463, whatever the class; or the quota of the one who sends.
            (2, 2) => words::quota_of_sender(&self.words).or(Some(Complaint::Mailbox)),
            (2, 3) | (3, 4) => Some(Complaint::Content),
            (2, 4 | 121 | 122) => Some(Complaint::Mailbox),

            (3, 1..=3 | 5) => Some(Complaint::Server),

            // "No answer from host"; but Exchange Online says it of addresses that its directory does not know.
            (4, 1) if self.words.contains("recipient address") => Some(Complaint::Address),
            (4, 2) => Some(Complaint::Server),
            (4, 4 | 310) => Some(Complaint::Address), // no such domain
            // "Congestion": a busy server, and for good, at Google, the daily quota.
            (4, 5) => Some(if class == 5 { Complaint::Sender } else { Complaint::Server }),
            (4, 1..) => Some(Complaint::Mailbox),

            // The argument of RCPT may be what is malformed.
            (5, 2 | 4) if self.code == 501 => None,
            (5, 1..) => words::sender(&self.words).or(Some(Complaint::Server)),

            (6, 7) => Some(Complaint::Address), // needs SMTPUTF8 (RFC 6531)
            (6, _) => Some(Complaint::Content),

            (7, 9) => None,                         // "mechanism too weak", and at Yahoo any policy
            (7, 8..=14) => Some(Complaint::Sender), // login and encryption
            (7, 15 | 16) => Some(Complaint::Content),
            (7, 17 | 18) => Some(Complaint::Address), // has a new owner (RFC 7293)
            (7, 25 | 28) => Some(Complaint::Server),  // reverse DNS of the relay; flood
            (7, 20..=49) => Some(Complaint::Sender),  // DKIM, SPF, DMARC, alignment, TLS
            (7, 54 | 57 | 60 | 64 | 68) => Some(Complaint::Sender), // Exchange: relaying, login, "send as"
            (7, 124 | 129 | 133..=136) => Some(Complaint::Address), // Exchange: takes mail from chosen senders only
            (7, 139 | 232 | 233) => Some(Complaint::Sender), // Exchange: login, volume of the tenant
            (7, 504 | 505) => Some(Complaint::Address),
            (7, 509 | 515) => Some(Complaint::Sender), // Exchange, Outlook: DMARC, authentication level
            (7, 512) => Some(Complaint::Content),
            (7, 500..=699 | 850..=899) => Some(Complaint::Server), // Exchange: busy, banned IP address
            (7, 700..=799) => Some(Complaint::Sender),             // Exchange: the tenant
            _ => None,
        }
    }

    /// What is left when neither the enhanced code nor the words helped.
    fn by_vague_basic_code(&self) -> Complaint {
        if self.enhanced.is_some_and(|enhanced| enhanced.subject == 7) {
            return Complaint::Policy;
        }
        match self.code {
            454 | 500 | 502 | 503 | 504 | 555 => Complaint::Server,
            554 | 571 => Complaint::Policy,
            _ => Complaint::Nothing,
        }
    }
}

/// An enhanced status code (RFC 3463).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct EnhancedCode {
    class: u16,
    subject: u16,
    detail: u16,
}

impl EnhancedCode {
    /// At the start, where it belongs, perhaps behind the basic code again or a word of the server's; or anywhere in
    /// the form `(#5.1.1)`, which is qmail's.
    fn find(words: &str) -> Option<Self> {
        let first = words.split(' ').take(3).find_map(Self::parse);
        first.or_else(|| words.split("(#").skip(1).find_map(|rest| Self::parse(rest.split(')').next()?)))
    }

    fn parse(word: &str) -> Option<Self> {
        let word = match word.split_once('-') {
            Some((code, rest)) if code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit()) => rest,
            _ => word,
        };
        let mut numbers = word.trim_matches(|c: char| c.is_ascii_punctuation()).split('.').map(str::parse);
        let mut number = || numbers.next()?.ok();
        let code = Self { class: number()?, subject: number()?, detail: number()? };
        let whole = numbers.next().is_none();
        (whole && matches!(code.class, 4 | 5) && code.subject <= 7 && code.detail <= 999).then_some(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Option<(u16, u16, u16)> {
        Reply::read(550, text).enhanced.map(|code| (code.class, code.subject, code.detail))
    }

    #[test]
    fn an_enhanced_code_is_found_where_servers_put_it() {
        for text in [
            "5.1.1 User unknown",
            "5.1.1: User unknown",
            "#5.1.1 User unknown",
            "cuda_nsu 5.1.1 <a@b.test> User unknown",
            "550-5.1.1 User\r\n550 5.1.1 unknown",
            "550 5.1.1 User unknown",
            "[5.1.1] User unknown",
            "sorry, no mailbox here by that name. (#5.1.1)",
        ] {
            assert_eq!(found(text), Some((5, 1, 1)), "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_an_enhanced_code_is_none() {
        for text in [
            "5.1.1.7 is listed",
            "2.1.5 ok",
            "Exim 4.96.2",
            "5.1 x",
            "9.1.1 x",
            "try rule number 5.1.1",
            "5.1.99999",
            "",
        ] {
            assert_eq!(found(text), None, "{text}");
        }
    }
}
