//! The binaries under test: the runner and the functions, as cargo has them for the sources at hand.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The project's folder.
pub(crate) fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a folder of the project").to_owned()
}

/// Folder with `local-runner` and every function. `NIGHTSHIFT_BIN_DIR` names one with prebuilt ones; otherwise cargo
/// brings them up to date, once per test process, which takes about a second when they are.
pub(crate) fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| match std::env::var_os("NIGHTSHIFT_BIN_DIR") {
        Some(folder) => Path::new(&folder).canonicalize().expect("NIGHTSHIFT_BIN_DIR names a folder"),
        None => build(),
    })
}

fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--workspace", "--bins", "--message-format", "json-render-diagnostics"])
        .current_dir(project())
        .env("SQLX_OFFLINE", "true")
        .env_remove("DATABASE_URL")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(built.status.success(), "the binaries do not build, see above");
    String::from_utf8_lossy(&built.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "local-runner")
        .find_map(|message| PathBuf::from(message["executable"].as_str()?).parent().map(Path::to_owned))
        .expect("cargo says where the runner is")
}
