//! E-mail addresses, parsed once at the edge.

use std::fmt;
use std::str::FromStr;

/// A syntactically valid address, as given and in the form that makes two addresses the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmailAddress {
    given: String,
    normalised: String,
}

/// Why a text is no address that mail can be sent to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing there.
    #[error("it is empty")]
    Empty,
    /// Not of the form `name@domain`.
    #[error("{0}")]
    Syntax(String),
    /// The domain cannot be written in ASCII.
    #[error("the domain {0:?} is not a valid internationalised name")]
    Domain(String),
}

impl EmailAddress {
    /// The address as a person wrote it, without surrounding space.
    pub fn as_given(&self) -> &str {
        &self.given
    }

    /// Lower case, the domain in its ASCII form (IDNA). Mailbox names are case-sensitive on paper (RFC 5321, 2.4) and
    /// nowhere in practice; two spellings of one address must not get two mails.
    pub fn normalised(&self) -> &str {
        &self.normalised
    }

    /// The domain in its ASCII form.
    pub fn domain(&self) -> &str {
        domain_of(&self.normalised)
    }

    /// First two letters and the domain, for logs.
    pub fn masked(&self) -> String {
        mask(&self.given)
    }
}

/// The part behind the last `@`, or nothing.
pub fn domain_of(address: &str) -> &str {
    address.rsplit_once('@').map_or("", |(_, domain)| domain)
}

/// First two letters and the domain of any address, for logs.
pub fn mask(address: &str) -> String {
    let (local, domain) = address.rsplit_once('@').unwrap_or((address, ""));
    let start: String = local.chars().take(2).collect();
    format!("{start}…@{domain}")
}

impl FromStr for EmailAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let given = text.trim();
        if given.is_empty() {
            return Err(AddressError::Empty);
        }
        let options =
            email_address::Options::default().with_required_tld().without_display_text().without_domain_literal();
        email_address::EmailAddress::parse_with_options(given, options)
            .map_err(|error| AddressError::Syntax(error.to_string().trim_end_matches('.').to_lowercase()))?;
        let (local, domain) = given.rsplit_once('@').ok_or_else(|| AddressError::Syntax("no @ in it".to_owned()))?;
        let ascii = idna::domain_to_ascii_strict(domain).map_err(|_| AddressError::Domain(domain.to_owned()))?;
        if !ascii.contains('.') || ascii.ends_with('.') {
            return Err(AddressError::Domain(domain.to_owned()));
        }
        Ok(Self { given: given.to_owned(), normalised: format!("{}@{}", local.to_lowercase(), ascii.to_lowercase()) })
    }
}

impl fmt::Display for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_space_and_script_of_the_domain_do_not_make_another_address() {
        for (given, normalised) in [
            ("Ann@Example.TEST", "ann@example.test"),
            ("  bob@example.test\t", "bob@example.test"),
            ("иван@почта.рф", "иван@xn--80a1acny.xn--p1ai"),
            ("o'neil+tag@sub.example.test", "o'neil+tag@sub.example.test"),
        ] {
            assert_eq!(given.parse::<EmailAddress>().expect(given).normalised(), normalised);
        }
    }

    #[test]
    fn what_cannot_be_mailed_is_refused_with_a_reason() {
        for text in [
            "",
            "  ",
            "ann",
            "ann@",
            "@example.test",
            "ann@example",
            "a b@example.test",
            "ann@@example.test",
            "ann@exa mple.test",
            "ann@-.test",
            "ann@example..test",
            "ann@example.test, bob@example.test",
            "Ann <ann@example.test>",
            "ann@[127.0.0.1]",
            "ann\r\nBcc: x@example.test",
        ] {
            let error = text.parse::<EmailAddress>().expect_err(text);
            assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn a_masked_address_shows_two_letters_and_the_domain() {
        assert_eq!(mask("annabel@example.test"), "an…@example.test");
        assert_eq!(mask("a@example.test"), "a…@example.test");
    }
}
