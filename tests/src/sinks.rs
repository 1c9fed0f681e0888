//! Accounts towards sinks, and what the sinks took.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use sink::Sink;

use crate::app::TestApp;

impl TestApp {
    /// Adds an account at a server, with a login where it wants one. One of its connections is kept for single mails.
    pub fn add_account_at(&self, server: SocketAddr, name: &str, connections: u32, login: bool) {
        let (host, port) = (server.ip().to_string(), server.port().to_string());
        let connections = connections.to_string();
        let mut add = vec!["account", "add", name, "--security", "plain", "--from", "night@example.org"];
        add.extend(["--host", &host, "--port", &port, "--max-connections", &connections]);
        if login {
            add.extend(["--username", "night", "--password-stdin"]);
        }
        self.runner_with_input(&add, "secret\n").expect_success();
    }
}

/// Addresses at a domain.
pub fn readers(domain: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |number| format!("reader{number:02}@{domain}"))
}

/// How many mails each recipient at this domain has got.
pub fn taken(sink: &Sink, domain: &str) -> BTreeMap<String, usize> {
    let mut taken = BTreeMap::new();
    for mail in sink.accepted().into_iter().filter(|mail| mail.recipient.ends_with(domain)) {
        *taken.entry(mail.recipient).or_default() += 1;
    }
    taken
}

/// So many people at this domain have got a mail, and nobody two.
pub fn assert_one_each(sink: &Sink, domain: &str, count: usize) {
    let taken = taken(sink, domain);
    assert_eq!(taken.len(), count, "{taken:?}");
    assert!(taken.values().all(|&mails| mails == 1), "{taken:?}");
}
