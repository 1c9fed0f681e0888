//! `inbox list|show`.

use std::io::Write;

use anyhow::{Context, Result};
use clap::Subcommand;
use comfy_table::Cell;
use local_cloud::inbox::{Filter, Mailbox};
use mail_parser::{MessageParser, MimeHeaders};

use crate::output;

#[derive(Debug, Subcommand)]
pub(crate) enum InboxCommand {
    /// Show the newest caught mails
    List {
        /// Only mails to addresses with this in them
        #[arg(long)]
        to: Option<String>,
        /// Only subjects with this in them
        #[arg(long)]
        subject: Option<String>,
        /// How many
        #[arg(long, default_value_t = 20)]
        limit: usize,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one mail
    Show {
        /// Its number in the list
        id: u64,
        /// As it came, headers and all
        #[arg(long)]
        raw: bool,
        /// Its HTML part
        #[arg(long, conflicts_with = "raw")]
        html: bool,
    },
}

pub(crate) fn run(command: InboxCommand, mailbox: &Mailbox) -> Result<()> {
    match command {
        InboxCommand::List { to, subject, limit, json } => {
            list(&Filter { to, subject, limit: Some(limit), ..Filter::default() }, json, mailbox)
        }
        InboxCommand::Show { id, raw, html } => show(id, raw, html, mailbox),
    }
}

fn list(filter: &Filter, json: bool, mailbox: &Mailbox) -> Result<()> {
    let mails = mailbox.list(filter)?;
    if json {
        return output::json(&mails);
    }
    if mails.is_empty() {
        println!("No mail here.");
        return Ok(());
    }
    let mut table = output::table(["No.", "Arrived", "To", "Subject", "Bytes"]);
    for mail in &mails {
        table.add_row([
            output::number(mail.id),
            Cell::new(mail.arrived.format("%F %T")),
            Cell::new(mail.envelope.to.join(", ")),
            Cell::new(&mail.subject),
            output::number(mail.size),
        ]);
    }
    println!("{table}");
    println!("{} shown of {}; read one with: local-runner inbox show NO", mails.len(), mailbox.count()?);
    Ok(())
}

fn show(id: u64, raw: bool, html: bool, mailbox: &Mailbox) -> Result<()> {
    let mail = mailbox.read(id)?.with_context(|| format!("there is no mail {id}"))?;
    if raw {
        std::io::stdout().write_all(&mail.raw).context("write to standard output")?;
        return Ok(());
    }
    let parsed = MessageParser::default().parse(&mail.raw).with_context(|| format!("mail {id} has no headers"))?;
    if html {
        println!("{}", parsed.body_html(0).unwrap_or_default());
        return Ok(());
    }
    for name in ["From", "To", "Reply-To", "Subject", "Date", "Message-ID", "List-Unsubscribe"] {
        if let Some(value) = parsed.header_raw(name) {
            println!("{name}: {}", decoded(&parsed, name).unwrap_or_else(|| value.trim().to_owned()));
        }
    }
    println!("\n{}", parsed.body_text(0).unwrap_or_default());
    for part in parsed.attachments() {
        println!("[attachment {}]", part.attachment_name().unwrap_or("without a name"));
    }
    Ok(())
}

/// Headers with encoded words, readable.
fn decoded(mail: &mail_parser::Message<'_>, name: &str) -> Option<String> {
    match name {
        "Subject" => mail.subject().map(str::to_owned),
        "From" => mail.from().and_then(|from| from.first()).map(|address| {
            let email = address.address().unwrap_or_default();
            address.name().map_or_else(|| email.to_owned(), |name| format!("{name} <{email}>"))
        }),
        _ => None,
    }
}
