//! Unsubscribe links: who leaves which list, sealed so that nobody can guess or forge one.

use crate::keys::{CannotDecrypt, Keys};

/// What a link stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe {
    /// The list to leave; empty stands for all mail.
    pub list: String,
    /// The address, normalised.
    pub email_normalised: String,
}

impl Unsubscribe {
    /// The link under `public_url` (without a slash at its end).
    pub fn link(&self, keys: &Keys, public_url: &str) -> String {
        // An address holds no line feed, so the first one separates.
        let token = keys.encrypt(&format!("{}\n{}", self.email_normalised, self.list));
        format!("{public_url}/unsubscribe/{token}")
    }

    /// Reads the token of a link.
    pub fn from_token(keys: &Keys, token: &str) -> Result<Self, CannotDecrypt> {
        let text = keys.decrypt(token)?;
        let (email, list) = text.expose().split_once('\n').ok_or(CannotDecrypt)?;
        Ok(Self { list: list.to_owned(), email_normalised: email.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_comes_back_and_a_changed_one_does_not() {
        let keys = Keys::parse("cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=").expect("key");
        let wanted = Unsubscribe { list: "news".to_owned(), email_normalised: "ann@example.test".to_owned() };
        let link = wanted.link(&keys, "https://mail.example.test");
        let token = link.strip_prefix("https://mail.example.test/unsubscribe/").expect("path");
        assert_eq!(Unsubscribe::from_token(&keys, token).expect("own token"), wanted);

        let changed = token.replacen(|c: char| c.is_ascii_lowercase(), "0", 1);
        assert!(Unsubscribe::from_token(&keys, &changed).is_err());
    }
}
