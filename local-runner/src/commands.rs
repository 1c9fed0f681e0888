//! What one does with accounts, campaigns, single and caught mail. The commands are small: they write rows through `shared` and
//! ring a queue.

pub(crate) mod account;
pub(crate) mod api_key;
pub(crate) mod campaign;
pub(crate) mod health_check;
pub(crate) mod inbox;
pub(crate) mod mail;
pub(crate) mod suppression;
