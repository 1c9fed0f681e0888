//! The executables of the bundle's functions: built by cargo, or taken from a folder of prebuilt ones.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::state::{State, StateError};

/// Executables by binary name.
pub type Executables = BTreeMap<String, PathBuf>;

/// Why the functions have no executables.
#[derive(Debug, thiserror::Error)]
pub enum BinariesError {
    /// Cargo cannot be run.
    #[error("cannot run `{cargo}`; install Rust from https://rustup.rs, or give prebuilt binaries with --bin-dir", cargo = cargo.display())]
    NoCargo {
        /// What was run.
        cargo: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The build failed; cargo has said why on standard error.
    #[error("the functions do not build, see above")]
    Build,
    /// A binary that the template names is not there.
    #[error("there is no executable `{name}` in {place}")]
    NotFound {
        /// Name of the binary.
        name: String,
        /// Folder that was searched.
        place: String,
    },
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// Reading or writing failed.
    #[error("cannot {action} {path}", path = path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Builds binaries of the workspace in `project` with one call of cargo, whose progress goes to standard error. A
/// `DATABASE_URL` that lies around does not take part: queries are checked against the committed descriptions.
pub async fn build(project: &Path, names: &[&str]) -> Result<Executables, BinariesError> {
    if names.is_empty() {
        return Ok(Executables::new());
    }
    let cargo = PathBuf::from(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let mut command = Command::new(&cargo);
    command
        .args(["build", "--workspace", "--message-format", "json-render-diagnostics"])
        .args(names.iter().flat_map(|name| ["--bin", *name]))
        .current_dir(project)
        .env("SQLX_OFFLINE", "true")
        .env_remove("DATABASE_URL")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let failed = |source| BinariesError::NoCargo { cargo: cargo.clone(), source };
    let mut child = command.spawn().map_err(failed)?;
    let mut found = Executables::new();
    if let Some(stdout) = child.stdout.take() {
        let mut lines = BufReader::new(stdout).lines();
        while let Some(line) = lines.next_line().await.map_err(failed)? {
            if let Some((name, executable)) = executable(&line) {
                found.insert(name, executable);
            }
        }
    }
    if !child.wait().await.map_err(failed)?.success() {
        return Err(BinariesError::Build);
    }
    pick(names, "what cargo has built", |name| found.get(name).cloned())
}

/// Takes prebuilt binaries from a folder: `<dir>/<name>`, or `<dir>/<name>/bootstrap` as `cargo lambda` lays them out.
pub fn prebuilt(dir: &Path, names: &[&str]) -> Result<Executables, BinariesError> {
    let dir =
        dir.canonicalize().map_err(|source| BinariesError::Io { action: "find", path: dir.to_owned(), source })?;
    pick(names, &dir.display().to_string(), |name| {
        [dir.join(name), dir.join(name).join("bootstrap")]
            .into_iter()
            .find(|file| fs::metadata(file).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0))
    })
}

/// Copies executables to where the unprivileged user can run them, when the runner is root; otherwise returns them as they
/// are. A copy carries its content's hash in its name, so a running one is never written to; copies of former builds are
/// removed, which leaves processes that run them alone.
pub fn publish(state: &State, executables: Executables) -> Result<Executables, BinariesError> {
    if state.run_as().is_none() {
        return Ok(executables);
    }
    let dir = state.public_dir("bin")?;
    let mut copies = Executables::new();
    for (name, original) in executables {
        let copy = publish_one(&dir, &name, &original).map_err(|source| BinariesError::Io {
            action: "copy",
            path: original,
            source,
        })?;
        copies.insert(name, copy);
    }
    for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
        if !copies.values().any(|copy| *copy == entry.path()) {
            fs::remove_file(entry.path()).ok();
        }
    }
    Ok(copies)
}

fn publish_one(dir: &Path, name: &str, original: &Path) -> io::Result<PathBuf> {
    let mut source = fs::File::open(original)?;
    let mut hasher = HashingWriter(Sha256::new());
    io::copy(&mut source, &mut hasher)?;
    let hash: String = hasher.0.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let copy = dir.join(format!("{name}-{hash}"));
    if !copy.exists() {
        // `fs::copy` closes the file before it gets its name, so that nobody meets "text file busy".
        let temporary = tempfile::Builder::new().prefix(".copy-").tempfile_in(dir)?.into_temp_path();
        fs::copy(original, &temporary)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755))?;
        temporary.persist(&copy)?;
    }
    Ok(copy)
}

struct HashingWriter(Sha256);

impl io::Write for HashingWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn pick(names: &[&str], place: &str, find: impl Fn(&str) -> Option<PathBuf>) -> Result<Executables, BinariesError> {
    names
        .iter()
        .map(|name| {
            let file = find(name)
                .ok_or_else(|| BinariesError::NotFound { name: (*name).to_owned(), place: place.to_owned() })?;
            Ok(((*name).to_owned(), file))
        })
        .collect()
}

#[derive(Deserialize)]
struct Artifact {
    reason: String,
    target: Target,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// Name and path of a binary that a message of cargo announces.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let artifact: Artifact = serde_json::from_str(message).ok()?;
    let is_binary = artifact.reason == "compiler-artifact" && artifact.target.kind.iter().any(|kind| kind == "bin");
    is_binary.then_some((artifact.target.name, artifact.executable?))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn script(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("#!/bin/sh\necho {text}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    }

    #[tokio::test]
    async fn a_workspace_is_built_and_its_executables_are_found() {
        let project = tempfile::tempdir().unwrap();
        fs::create_dir(project.path().join("src")).unwrap();
        let manifest = "[workspace]\n[package]\nname = \"job\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
        fs::write(project.path().join("Cargo.toml"), manifest).unwrap();
        fs::write(project.path().join("src/main.rs"), "fn main() {}").unwrap();
        let built = build(project.path(), &["job"]).await.unwrap();
        assert!(built["job"].is_file());

        fs::write(project.path().join("src/main.rs"), "fn main() { 1 }").unwrap();
        assert!(matches!(build(project.path(), &["job"]).await, Err(BinariesError::Build)));
    }

    #[test]
    fn prebuilt_binaries_lie_flat_or_as_cargo_lambda_leaves_them() {
        let dir = tempfile::tempdir().unwrap();
        script(&dir.path().join("health"), "flat");
        script(&dir.path().join("migrate/bootstrap"), "folder");
        fs::write(dir.path().join("no-program"), "x").unwrap();
        let found = prebuilt(dir.path(), &["health", "migrate"]).unwrap();
        assert!(found["migrate"].ends_with("migrate/bootstrap"));
        let missing = prebuilt(dir.path(), &["no-program"]).unwrap_err();
        assert!(missing.to_string().contains("`no-program`"), "{missing}");
    }

    #[test]
    fn as_root_copies_are_named_by_content_and_former_ones_go() {
        if !crate::state::is_root() {
            return;
        }
        let open = fs::Permissions::from_mode(0o711);
        let dir = tempfile::Builder::new().permissions(open).tempdir().unwrap();
        let state = State::open_dir(dir.path()).unwrap();
        let original = dir.path().join("private/job");
        script(&original, "one");
        let originals = Executables::from([("job".to_owned(), original.clone())]);
        let first = publish(&state, originals.clone()).unwrap();
        assert_eq!(publish(&state, originals.clone()).unwrap(), first);
        assert_eq!(fs::metadata(&first["job"]).unwrap().permissions().mode() & 0o777, 0o755);

        script(&original, "two");
        let second = publish(&state, originals).unwrap();
        assert_ne!(second, first);
        assert!(second["job"].exists() && !first["job"].exists());
        assert_eq!(fs::read_dir(dir.path().join("bin")).unwrap().count(), 1);
    }
}
