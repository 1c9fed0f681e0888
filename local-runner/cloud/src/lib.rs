//! The local cloud: what AWS does for the functions of one `template.yaml`, on one machine.
//!
//! It knows the template and AWS's protocols, and nothing of what the functions do.

pub mod async_invoke;
pub mod binaries;
pub mod bundle;
pub mod client;
pub mod endpoint;
pub mod event_source;
pub mod gateway;
pub mod inbox;
pub mod lambda;
pub mod runner;
pub mod runtime_api;
pub mod sandbox;
pub mod scheduler;
pub mod services;
pub mod sqs;
pub mod state;
pub mod template;
