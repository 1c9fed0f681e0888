//! What several tests of the library share.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

/// A temporary folder that other users can pass, as the state of a root process needs.
pub(crate) fn open_temp_dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("nightshift-").permissions(Permissions::from_mode(0o711)).tempdir().unwrap()
}
