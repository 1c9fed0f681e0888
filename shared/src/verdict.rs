//! What a refusal means: whose fault it is decides what happens, and only a recipient's own fault ever fails a
//! recipient.

use crate::smtp::{Failure, Phase, SmtpError};

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

/// Judges a failure by its phase, code and enhanced code (RFC 3463).
pub fn judge(error: &SmtpError) -> Verdict {
    let (code, enhanced) = match &error.failure {
        Failure::Refused { code, text } => (*code, EnhancedCode::at_start_of(text)),
        Failure::NotOffered(_) => {
            return match error.phase {
                Phase::Rcpt | Phase::Mail => Verdict::RecipientForGood, // SMTPUTF8: this server cannot reach it
                Phase::Connect | Phase::Tls | Phase::Auth | Phase::Data | Phase::Content => Verdict::Account,
            };
        }
        Failure::Lost(_) | Failure::TimedOut(_) => {
            return match error.phase {
                Phase::Content => Verdict::Unknown,
                Phase::Connect | Phase::Tls | Phase::Auth | Phase::Mail | Phase::Rcpt | Phase::Data => {
                    Verdict::Provider
                }
            };
        }
    };
    // 421 closes the channel, in any phase (RFC 5321, 3.8).
    if code == 421 {
        return Verdict::Provider;
    }
    let permanent = code >= 500;
    match error.phase {
        Phase::Connect | Phase::Tls => Verdict::Provider,
        // 454: temporary authentication failure (RFC 4954, 4.7); anything else is the login's fault.
        Phase::Auth => {
            if code == 454 {
                Verdict::Provider
            } else {
                Verdict::Account
            }
        }
        Phase::Mail => {
            if permanent {
                Verdict::Account
            } else {
                Verdict::Provider
            }
        }
        Phase::Rcpt => match (permanent, enhanced) {
            (false, _) => Verdict::RecipientForNow,
            // Bad sender address; authentication required; relaying denied.
            (true, Some(EnhancedCode(1, 7 | 8))) => Verdict::Account,
            (true, _) if code == 530 => Verdict::Account,
            (true, _) => Verdict::RecipientForGood,
        },
        Phase::Data | Phase::Content => match (permanent, enhanced) {
            (false, _) => Verdict::RecipientForNow,
            (true, Some(EnhancedCode(1 | 2, _))) => Verdict::RecipientForGood,
            // 5.3.4 too big, 5.6.x content, 5.7.x policy; without a code nobody can tell whose fault it is, and a
            // pause burns nobody.
            (true, _) => Verdict::Message,
        },
    }
}

/// Subject and detail of an enhanced status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct EnhancedCode(u16, u16);

impl EnhancedCode {
    fn at_start_of(text: &str) -> Option<Self> {
        let mut numbers = text.split_whitespace().next()?.splitn(3, '.');
        let class: u16 = numbers.next()?.parse().ok()?;
        let code = Self(numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
        matches!(class, 2 | 4 | 5).then_some(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(phase: Phase, code: u16, text: &str) -> Verdict {
        judge(&SmtpError { phase, failure: Failure::Refused { code, text: text.to_owned() } })
    }

    #[test]
    fn only_the_recipients_own_fault_fails_a_recipient() {
        use Verdict::*;
        for (phase, code, text, verdict) in [
            (Phase::Rcpt, 550, "5.1.1 User unknown", RecipientForGood),
            (Phase::Rcpt, 550, "No such user here", RecipientForGood),
            (Phase::Rcpt, 552, "5.2.2 Mailbox full", RecipientForGood),
            (Phase::Rcpt, 451, "4.7.1 Greylisted, try again later", RecipientForNow),
            (Phase::Rcpt, 452, "4.2.2 Over quota", RecipientForNow),
            (Phase::Rcpt, 530, "5.7.0 Authentication required", Account),
            (Phase::Rcpt, 421, "4.7.0 Too many connections", Provider),
            (Phase::Mail, 553, "5.7.1 Sender address rejected: not owned by user", Account),
            (Phase::Mail, 451, "4.3.0 Try again", Provider),
            (Phase::Auth, 535, "5.7.8 Authentication credentials invalid", Account),
            (Phase::Auth, 454, "4.7.0 Temporary authentication failure", Provider),
            (Phase::Connect, 554, "5.7.1 You are listed", Provider),
            (Phase::Content, 554, "5.7.1 Spam message rejected", Message),
            (Phase::Content, 552, "5.3.4 Message too big", Message),
            (Phase::Content, 550, "5.1.1 No such user", RecipientForGood),
            (Phase::Content, 554, "Transaction failed", Message),
            (Phase::Content, 451, "4.3.0 Try later", RecipientForNow),
        ] {
            assert_eq!(refused(phase, code, text), verdict, "{phase:?} {code} {text}");
        }
    }

    #[test]
    fn a_silence_after_the_content_is_unknown_and_before_it_the_providers() {
        let lost = |phase| judge(&SmtpError { phase, failure: Failure::Lost("connection reset".to_owned()) });
        assert_eq!(lost(Phase::Content), Verdict::Unknown);
        assert_eq!(lost(Phase::Rcpt), Verdict::Provider);
    }
}
