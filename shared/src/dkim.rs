//! DKIM (RFC 6376, RFC 8463): signatures by which a receiver knows that a mail comes from the domain it names.
//!
//! Everything is canonicalised "relaxed": white space may change on the way. The signature is made over the mail as it
//! goes to the wire, not over the parts that it was built from, so nothing can come between.

mod canonical;
mod key;
mod keys;

use std::fmt::Write as _;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, Utc};

pub use key::{Algorithm, PrivateKey, Rejected};
pub use keys::{Listed, NewKey, Row, Signers, add, list, of_account, remove};

/// Headers that a signature covers. Each is named once more than it stands in the mail: nobody can put a second one in
/// front of it, or add one that was not there.
const COVERED: [&str; 10] = [
    "from",
    "to",
    "subject",
    "date",
    "message-id",
    "reply-to",
    "mime-version",
    "content-type",
    "list-unsubscribe",
    "list-unsubscribe-post",
];
/// Signatures are cut into lines of this many characters: with the space before it below the 78 of RFC 5322.
const LINE: usize = 72;

/// Signs mail with one key.
#[derive(Debug)]
pub struct Signer {
    /// Whose name the signature bears.
    pub domain: String,
    /// Where in DNS its public key stands.
    pub selector: String,
    /// The key.
    pub key: PrivateKey,
}

/// The `DKIM-Signature` headers of all signers, to be put in front of the mail. `content` is the whole mail with its
/// headers, `at` the time that the signatures bear.
pub fn signatures<'a>(signers: impl IntoIterator<Item = &'a Signer>, content: &str, at: DateTime<Utc>) -> String {
    let (headers, body) = content.split_once("\r\n\r\n").unwrap_or((content, ""));
    let body_hash = BASE64.encode(canonical::body_hash(body));
    let headers = canonical::Headers::parse(headers);
    let (covered, text) = headers.covered(&COVERED);
    let mut all = String::new();
    for signer in signers {
        all += &signer.header(&covered, &text, &body_hash, at);
    }
    all
}

impl Signer {
    fn header(&self, covered: &[&str], text: &str, body_hash: &str, at: DateTime<Utc>) -> String {
        let mut header = format!(
            "DKIM-Signature: v=1; a={}-sha256; c=relaxed/relaxed; d={};\r\n s={}; t={};\r\n h={};\r\n bh={};\r\n b=",
            self.key.algorithm(),
            self.domain,
            self.selector,
            at.timestamp(),
            in_lines(covered),
            body_hash,
        );
        let mut signed = text.to_owned();
        // The signature covers its own header, as it is before the signature stands in it, without a line end.
        signed += canonical::header(&header).trim_end_matches("\r\n");
        let signature = BASE64.encode(match &self.key {
            PrivateKey::Rsa(_) => self.key.sign(signed.as_bytes()),
            // RFC 8463: what Ed25519 signs is the hash.
            PrivateKey::Ed25519(_) => self.key.sign(digest::digest(&digest::SHA256, signed.as_bytes()).as_ref()),
        });
        for (index, line) in signature.as_bytes().chunks(LINE).enumerate() {
            let fold = if index == 0 { "" } else { "\r\n " };
            let _ = write!(header, "{fold}{}", String::from_utf8_lossy(line));
        }
        header + "\r\n"
    }
}

/// Names between colons, folded before they grow too long.
fn in_lines(names: &[&str]) -> String {
    let mut text = String::new();
    let mut length = 0;
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
            text.push(':');
            if length + name.len() > LINE {
                text += "\r\n  ";
                length = 0;
            }
        }
        text += name;
        length += name.len() + 1;
    }
    text
}

/// The TXT record that publishes a key: its name, without the final dot.
pub fn record_name(domain: &str, selector: &str) -> String {
    format!("{selector}._domainkey.{domain}")
}

/// What the TXT record says.
pub fn record(algorithm: Algorithm, public_key: &str) -> String {
    format!("v=DKIM1; k={algorithm}; p={public_key}")
}

/// The record's text as zone files have it: strings of 255 bytes at most, which resolvers put together again.
pub fn record_strings(record: &str) -> Vec<&str> {
    // It is ASCII: Base64 and fixed words.
    (0..record.len()).step_by(255).map(|start| &record[start..record.len().min(start + 255)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mail of RFC 8463, appendix A.
    const MAIL: &str = "From: Joe SixPack <joe@football.example.com>\r\n\
        To: Suzie Q <suzie@shopping.example.net>\r\n\
        Subject: Is dinner ready?\r\n\
        Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n\
        Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n\
        \r\n\
        Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n";

    #[test]
    fn the_body_of_the_rfc_has_the_hash_of_the_rfc() {
        let (_, body) = MAIL.split_once("\r\n\r\n").expect("a body");
        assert_eq!(BASE64.encode(canonical::body_hash(body)), "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=");
    }

    #[test]
    fn no_line_of_a_signature_is_longer_than_a_mail_may_have() {
        let key = PrivateKey::generate(Algorithm::Rsa).expect("a key");
        let signer = Signer { domain: "example.test".to_owned(), selector: "night".to_owned(), key };
        let header = signatures([&signer], MAIL, DateTime::UNIX_EPOCH);
        assert!(header.split("\r\n").all(|line| line.len() <= 78), "{header}");
        assert!(header.contains("h=from:from:to:to:"), "{header}");
    }

    #[test]
    #[ignore = "a measurement, not a test: what a signature costs"]
    fn cost_of_a_signature() {
        let mail = format!("{MAIL}{}", "<p>A paragraph of a mail as campaigns have it.</p>\r\n".repeat(300));
        for algorithm in [Algorithm::Rsa, Algorithm::Ed25519] {
            let key = PrivateKey::generate(algorithm).expect("a key");
            let signer = Signer { domain: "example.test".to_owned(), selector: "night".to_owned(), key };
            let started = std::time::Instant::now();
            for _ in 0..1000 {
                std::hint::black_box(signatures([&signer], &mail, DateTime::UNIX_EPOCH));
            }
            println!("{algorithm}: {:.3} ms for {} bytes", started.elapsed().as_secs_f64(), mail.len());
        }
    }

    #[test]
    fn a_long_record_is_cut_into_strings_that_dns_can_carry() {
        let key = PrivateKey::generate(Algorithm::Rsa).expect("a key");
        let record = record(Algorithm::Rsa, &key.public());
        let strings = record_strings(&record);
        assert_eq!(strings.len(), 2);
        assert!(strings.iter().all(|text| text.len() <= 255));
        assert_eq!(strings.concat(), record);
    }
}
