//! Mails that arrived.

use std::collections::BTreeMap;

use local_cloud::inbox::{Filter, Mailbox};

/// The mails that arrived for one domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caught {
    /// Envelope recipients with the number of mails each got.
    pub by_address: BTreeMap<String, usize>,
}

impl Caught {
    pub(crate) fn at(mailbox: &Mailbox, domain: &str) -> Self {
        let filter = Filter { to: Some(format!("@{domain}")), ..Filter::default() };
        let mut by_address = BTreeMap::new();
        for mail in mailbox.list(&filter).expect("the inbox can be read") {
            for to in mail.envelope.to {
                *by_address.entry(to).or_default() += 1;
            }
        }
        Self { by_address }
    }

    /// All mails.
    pub fn count(&self) -> usize {
        self.by_address.values().sum()
    }

    /// How many mails this address got.
    pub fn to(&self, address: &str) -> usize {
        self.by_address.get(address).copied().unwrap_or_default()
    }

    /// Everybody who got a mail.
    pub fn addresses(&self) -> Vec<&str> {
        self.by_address.keys().map(String::as_str).collect()
    }

    /// Fails when anybody got a mail twice.
    pub fn assert_nobody_got_two(&self) {
        let twice: Vec<_> = self.by_address.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "these got more than one mail: {twice:?}");
    }
}
