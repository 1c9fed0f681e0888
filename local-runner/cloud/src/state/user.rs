//! The user that servers and functions run as when the runner is root.

use std::process::Command;
use std::sync::OnceLock;

use nix::unistd::{User, geteuid};

const NAME: &str = "nightshift";
/// What Linux calls nobody, for a machine without such an entry.
const NOBODY: (u32, u32) = (65534, 65534);

/// Whether this process is root.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// User and group id for servers and functions when this process is root: the system user `nightshift`, made when it is
/// missing, else `nobody` with a warning. `None` for a plain user, whose processes run as that user.
pub fn unprivileged_user() -> Option<(u32, u32)> {
    static USER: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *USER.get_or_init(|| {
        is_root().then(|| {
            find(NAME).or_else(create).unwrap_or_else(|| {
                tracing::warn!("cannot make the system user `{NAME}`; servers and functions run as `nobody`");
                find("nobody").unwrap_or(NOBODY)
            })
        })
    })
}

fn find(name: &str) -> Option<(u32, u32)> {
    let user = User::from_name(name).ok().flatten()?;
    Some((user.uid.as_raw(), user.gid.as_raw()))
}

fn create() -> Option<(u32, u32)> {
    let output = Command::new("useradd")
        .args(["--system", "--user-group", "--no-create-home"])
        .args(["--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", NAME])
        .output();
    if let Ok(output) = &output
        && !output.status.success()
    {
        tracing::debug!("useradd: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    // Whoever made it: another runner may have been faster.
    find(NAME)
}
