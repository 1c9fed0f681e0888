//! Unsubscribe links: who leaves which list, sealed so that nobody can guess or forge one.

mod page;

use sqlx::PgConnection;

use crate::keys::{CannotDecrypt, Keys};
use crate::suppressions::{self, Wanted};

pub use page::{HEADERS, Page, ask, leave};

/// What a link stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe {
    /// The list to leave; empty stands for all mail.
    pub list: String,
    /// The address, normalised.
    pub email_normalised: String,
}

/// What a recipient wants no more of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// The list of the link.
    List,
    /// Everything.
    AllMail,
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

    /// Takes the address off the list, or off all mail, and out of what is still queued. A second time changes nothing.
    pub async fn carry_out(&self, db: &mut PgConnection, leave: Leave) -> Result<(), sqlx::Error> {
        let list = match leave {
            Leave::List => self.list.as_str(),
            Leave::AllMail => "",
        };
        let wanted = Wanted { email_normalised: &self.email_normalised, list, reason: "unsubscribed", note: None };
        suppressions::add_all(db, &[wanted]).await?;
        Ok(())
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
