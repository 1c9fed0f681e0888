//! Finding server binaries, and running them as the user the servers run as.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tokio::process::Command;

/// Where Debian keeps binaries that are not always on `PATH`.
const STANDARD: [&str; 4] = ["/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin"];
/// One folder per major version below it.
const DEBIAN_POSTGRES: &str = "/usr/lib/postgresql";

/// Files of this name on `path`, and in the standard folders if asked for, symbolic links resolved, each once.
pub(super) fn candidates(name: &str, path: &str, standard_folders: bool) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::split_paths(path).collect();
    if standard_folders {
        folders.extend(STANDARD.map(PathBuf::from));
        let versions = std::fs::read_dir(DEBIAN_POSTGRES).into_iter().flatten().flatten();
        folders.extend(versions.map(|version| version.path().join("bin")));
    }
    let mut seen = BTreeSet::new();
    folders
        .into_iter()
        .filter(|folder| folder.is_absolute())
        .filter_map(|folder| {
            let file = folder.join(name);
            let real = file.canonicalize().ok()?;
            // The link's name decides what a binary with several names is (`redis-server` is one), so the name is kept
            // where the target has another.
            let kept = if real.file_name() == file.file_name() { real.clone() } else { file };
            (real.is_file() && seen.insert(real)).then_some(kept)
        })
        .collect()
}

/// A command that runs as the given user with an environment of its own, so that no `PG…` variable of ours reaches it.
pub(super) fn command(program: &Path, run_as: Option<(u32, u32)>, working_dir: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .current_dir(working_dir);
    if let Some((uid, gid)) = run_as {
        command.uid(uid).gid(gid);
    }
    command
}

/// Major version from `postgres (PostgreSQL) 17.2 (Debian …)` or `Redis server v=7.0.15 sha=…`.
pub(super) fn major_version(output: &str) -> Option<u32> {
    output.split_ascii_whitespace().find_map(|word| {
        let word = word.strip_prefix("v=").unwrap_or(word);
        let digits: String = word.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    })
}

/// Major version that a server binary gives when the servers' user runs it; `None` when it cannot.
pub(super) async fn version_of(program: &Path, run_as: Option<(u32, u32)>) -> Option<u32> {
    let output = command(program, run_as, Path::new("/"))
        .arg("--version")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(std::time::Duration::from_secs(10), output).await.ok()?.ok()?;
    output.status.success().then(|| major_version(&String::from_utf8_lossy(&output.stdout)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_servers_print() {
        assert_eq!(major_version("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)"), Some(15));
        assert_eq!(major_version("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major_version("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc"), Some(7));
        assert_eq!(major_version("Valkey server v=8.1.1 sha=0"), Some(8));
        assert_eq!(major_version("nothing of use"), None);
    }
}
