//! What two functions of Nightshift need: configuration, database, queues, mail and the campaign ledger.
//!
//! `docs/architecture.md` follows one mail through it.

pub mod accounts;
pub mod address;
pub mod api_keys;
pub mod batches;
pub mod bounces;
pub mod campaigns;
pub mod config;
pub mod database;
pub mod deadline;
pub mod deliveries;
pub mod dkim;
pub mod doorbell;
pub mod gate;
pub mod job_runs;
pub mod keys;
pub mod limits;
pub mod mail;
pub mod monitor;
pub mod queue;
pub mod receipt;
pub mod recipients;
pub mod single_mail;
pub mod smtp;
pub mod suppressions;
pub mod telemetry;
pub mod template;
pub mod uncertain;
pub mod unsubscribe;
pub mod verdict;
pub mod waits;
