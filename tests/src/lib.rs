//! What the end-to-end tests speak: a [`TestApp`] is the real runner with the real functions on servers of its own, in
//! verbs. Everything it starts ends with the test process, however that ends.

mod app;
mod binaries;
mod campaign;
pub mod crash;
mod disasters;
mod guardian;
mod inbox;
mod processes;
mod sinks;
mod verifier;
mod wires;

pub use app::{Said, TestApp};
pub use campaign::{Campaign, Draft, csv_of};
pub use inbox::Caught;
pub use processes::{Process, kill_all, signal_all};
pub use sinks::{assert_one_each, readers, taken};
pub use verifier::{Signature, verify_dkim};
pub use wires::{Effect, Side};
