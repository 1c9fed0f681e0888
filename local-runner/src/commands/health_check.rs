//! `health-check`: what `monitor-campaigns` does, for a person who wants to know now.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, Utc};
use clap::Args;
use serde::Serialize;
use shared::batches::Timing;
use shared::monitor::{self, Report, Resumed};

use crate::output;
use crate::session::Session;

#[derive(Debug, Args)]
pub(crate) struct HealthCheck {
    /// Resume what is found: settle dead connections, clear leases that ran out, ring, close. Nothing is sent twice
    #[arg(long)]
    fix: bool,
    /// Minutes without progress that count as stuck
    #[arg(long, value_name = "MIN", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    timeout: u32,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Checked<'a> {
    #[serde(flatten)]
    found: &'a Report,
    resumed: Option<&'a Resumed>,
}

/// Exit code 1 when something was stuck before anything was resumed; the next check says whether that helped.
pub(crate) async fn run(check: HealthCheck, session: &Session) -> Result<ExitCode> {
    let limit = Duration::from_secs(u64::from(check.timeout) * 60);
    let found = monitor::judge(&monitor::look(&session.db).await?, Utc::now(), limit);
    let resumed = match check.fix {
        true => Some(monitor::resume(&session.db, &session.batch_queues()?, Timing::from_env()?).await?),
        false => None,
    };
    if check.json {
        output::json(&Checked { found: &found, resumed: resumed.as_ref() })?;
    } else {
        show(&found);
        if let Some(resumed) = &resumed {
            show_resumed(resumed);
        }
    }
    Ok(if found.stuck { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn show(found: &Report) {
    if found.campaigns.is_empty() {
        println!("Every campaign goes on, or waits for a reason (limit: {} minutes)", found.limit_minutes);
    } else {
        let mut table = output::table(["Campaign", "Open", "No progress since", "Why", "What to do"]);
        for campaign in &found.campaigns {
            table.add_row([
                format!("{} {}", campaign.campaign_id, campaign.name),
                campaign.open.to_string(),
                since(campaign.since, found.checked_at),
                campaign.why.to_string(),
                campaign.why.advice().to_owned(),
            ]);
        }
        println!("{table}");
    }
    for single in &found.single_mails {
        println!(
            "Nobody takes the single mails of account {}, {} wait, the first since {}; resume them with --fix; if that does \
             not help, see whether send-emails is invoked for queue transactional",
            single.account,
            single.open,
            since(single.since, found.checked_at),
        );
    }
    for killer in &found.killers {
        println!(
            "Batch {} ({}) ended {} functions in a row; --fix halves it down to the mail that does it",
            killer.batch_id,
            owner(killer.campaign_id),
            killer.fruitless_claims,
        );
    }
    for lease in &found.leases {
        println!(
            "The lease of batch {} ({}) ran out {}",
            lease.batch_id,
            owner(lease.campaign_id),
            since(lease.ran_out_at, found.checked_at),
        );
    }
    for connection in &found.in_flight {
        println!(
            "Connection {} of account {} died with mail {} in flight, {}",
            connection.slot,
            connection.account,
            connection.delivery_id,
            since(connection.ran_out_at, found.checked_at),
        );
    }
    for account in &found.paused_accounts {
        println!(
            "Account {} is paused{} until {}: {}",
            account.account,
            if account.again_and_again { " again and again, now" } else { "" },
            account.until.format("%F %T UTC"),
            account.reason.as_deref().unwrap_or("no reason given"),
        );
    }
}

fn owner(campaign_id: Option<i64>) -> String {
    campaign_id.map_or_else(|| "a single mail".to_owned(), |id| format!("campaign {id}"))
}

fn show_resumed(resumed: &Resumed) {
    println!(
        "Resumed: {} mails in flight settled, {} batches halved, {} leases cleared, {} campaigns closed, {} batches rung",
        resumed.settled,
        resumed.halved,
        resumed.leases_cleared,
        resumed.closed.len(),
        resumed.rung,
    );
    for delivery in &resumed.held {
        println!("Mail {delivery} is held (refused, cause poison): functions end whenever they work on it");
    }
}

/// `2026-01-01 09:00:00 UTC (17 min ago)`.
fn since(time: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let seconds = (now - time).num_seconds().max(0);
    let ago = if seconds < 60 { format!("{seconds} s") } else { format!("{} min", seconds / 60) };
    format!("{} ({ago} ago)", time.format("%F %T UTC"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_with_how_long_ago_it_was() {
        let time: DateTime<Utc> = "2026-01-01T09:00:00Z".parse().expect("time");
        assert_eq!(since(time, time + chrono::Duration::seconds(59)), "2026-01-01 09:00:00 UTC (59 s ago)");
        assert_eq!(since(time, time + chrono::Duration::seconds(1020)), "2026-01-01 09:00:00 UTC (17 min ago)");
    }
}
