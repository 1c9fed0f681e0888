//! The bare SMTP blast: the same mail over as many connections, in the same groups of commands with the pipeline's own
//! SMTP client, and nothing else. No ledger, no template, no queue: what is left of the rate is what these cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::json;
use shared::accounts::Account;
use shared::keys::Keys;
use shared::mail::{Extras, Outgoing, Sender};
use shared::smtp::{Connection, Envelope, Opened, Server};
use shared::template::{MailTemplate, text_from_html};
use shared::unsubscribe::Unsubscribe;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::Options;
use crate::pipeline::{self, SUBJECT};

/// Longest wait for the answer to a mail.
const PATIENCE: Duration = Duration::from_secs(60);
/// Any key: an unsubscribe link is as long with one as with the other.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// Everything that is made before the clock runs.
pub(crate) struct Blast {
    server: Server,
    mail: Outgoing,
    connections: i32,
}

/// What one blast took.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Blasted {
    pub(crate) mails_per_second: f64,
    pub(crate) seconds: f64,
}

impl Blast {
    /// Renders the mail once, as a function would.
    pub(crate) fn prepare(options: &Options, account: &Account) -> Result<Arc<Self>> {
        let html = std::fs::read_to_string(pipeline::html_template(&options.project)).context("read the template")?;
        let to = pipeline::recipient(0).parse().context("address of a recipient")?;
        let link = Unsubscribe { list: String::new(), email_normalised: pipeline::recipient(0) }
            .link(&Keys::parse(KEY)?, "http://127.0.0.1:8000");
        let fields = json!({
            "email": pipeline::recipient(0),
            "first_name": "Anna",
            "last_name": "Andersson",
            "city": "Berlin",
            "order_no": "NS-100000",
            "unsubscribe_url": link,
        });
        let rendered = MailTemplate::parse(SUBJECT, &html, &text_from_html(&html)?)?.render(&fields)?;
        let mail = Sender::of(account)?.compose(
            &to,
            Uuid::new_v4(),
            rendered,
            Extras { unsubscribe: Some(&link), ..Extras::default() },
        )?;
        Ok(Arc::new(Self { server: Server::of(account, None), mail, connections: options.connections }))
    }

    /// Size of the mail on the wire.
    pub(crate) fn content_bytes(&self) -> usize {
        self.mail.content.len()
    }

    /// Sends so many mails, from the first connect to the last answer. The connections share all processors, as the
    /// functions do.
    pub(crate) async fn run(self: &Arc<Self>, mails: u32) -> Result<Blasted> {
        let next = Arc::new(AtomicU32::new(0));
        let started = Instant::now();
        let mut connections = JoinSet::new();
        for _ in 0..self.connections {
            let (blast, next) = (Arc::clone(self), Arc::clone(&next));
            connections.spawn(async move { blast.send(&next, mails).await });
        }
        while let Some(ended) = connections.join_next().await {
            ended.context("a connection of the blast panicked")??;
        }
        let seconds = started.elapsed().as_secs_f64();
        Ok(Blasted { mails_per_second: f64::from(mails) / seconds, seconds })
    }

    /// One connection; like the pipeline's it is opened anew when it is used up, and the content of a mail opens the
    /// envelope of the next where the server takes that.
    async fn send(&self, next: &AtomicU32, mails: u32) -> Result<()> {
        let mut open: Option<Connection> = None;
        let mut following = self.next(next, mails)?;
        let mut ahead = None;
        while let Some(mail) = following.take() {
            if let Some(stale) = open.take_if(|connection| ahead.is_none() && !connection.is_fresh()) {
                stale.quit().await;
            }
            let connection = match &mut open {
                Some(connection) => connection,
                None => open.insert(Connection::open(&self.server).await?),
            };
            let opened = match ahead.take() {
                Some(opened) => opened,
                None => connection.envelope(&mail, true).await?,
            };
            if opened == Opened::Envelope {
                connection.data().await?;
            }
            following = self.next(next, mails)?;
            let chained = following.as_ref().filter(|_| connection.chains());
            connection.content(&mail, chained, true, PATIENCE).await?;
            ahead = connection.opened().await.transpose()?;
        }
        if let Some(connection) = open {
            connection.quit().await;
        }
        Ok(())
    }

    /// The mail to the next recipient.
    fn next(&self, next: &AtomicU32, mails: u32) -> Result<Option<Outgoing>> {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= mails {
            return Ok(None);
        }
        let to = pipeline::recipient(number).parse().context("address of a recipient")?;
        let envelope = Envelope { from: self.mail.envelope.from.clone(), to };
        Ok(Some(Outgoing { envelope, content: self.mail.content.clone() }))
    }
}
