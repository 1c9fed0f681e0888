//! Postgres: which binaries, its data folder, its settings, and whether it answers.
//!
//! It listens on loopback only, where every local user can knock, so each connection gives a password (SCRAM). There is no
//! Unix socket: nothing here needs one, and its path could not be longer than 107 bytes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use tokio::process::Command;

use super::server::StartError;
use super::{ServicesOptions, search};
use crate::state::State;

/// Superuser, and name of the database that functions use.
pub(super) const NAME: &str = "nightshift";
const OLDEST: u32 = 13;
/// A first start writes some thousand files; a slow disk takes its time.
const INITDB_LIMIT: Duration = Duration::from_secs(180);

/// The newest binary that fits; an existing data folder accepts one major version only.
pub(super) async fn find(state: &State, options: &ServicesOptions, data: &Path) -> Result<PathBuf, StartError> {
    let wanted =
        std::fs::read_to_string(data.join("PG_VERSION")).ok().and_then(|version| version.trim().parse::<u32>().ok());
    let mut found = Vec::new();
    for program in search::candidates("postgres", options.path(), options.standard_folders) {
        if let Some(version) = search::version_of(&program, state.run_as()).await
            && program.with_file_name("initdb").is_file()
        {
            found.push((version, program));
        }
    }
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    let newest = found.first().map(|(version, _)| *version);
    match (wanted, newest) {
        (_, None) => Err(StartError::Missing("no server binaries found".to_owned())),
        (Some(wanted), Some(newest)) => found
            .into_iter()
            .find_map(|(version, program)| (version == wanted).then_some(program))
            .ok_or_else(|| {
                StartError::Failed(format!(
                    "the data in {} belongs to Postgres {wanted}, and this machine has {newest}: install {wanted}, or remove that folder with everything in it",
                    data.display()
                ))
            }),
        (None, Some(newest)) if newest < OLDEST => Err(StartError::Missing(format!(
            "this machine's server is version {newest}, {OLDEST} or later is needed"
        ))),
        (None, Some(_)) => found
            .into_iter()
            .next()
            .map(|(_, program)| program)
            .ok_or_else(|| StartError::Missing("no server binaries found".to_owned())),
    }
}

/// Makes the data folder if there is none. An interrupted attempt leaves nothing that passes for one.
pub(super) async fn prepare(
    state: &State,
    program: &Path,
    data: &Path,
    password: &str,
    durable: bool,
) -> Result<(), StartError> {
    if data.join("PG_VERSION").exists() {
        return Ok(());
    }
    let home = state.server_dir("postgres")?;
    let fresh = home.join("data.new");
    for leftover in [&fresh, &data.to_path_buf()] {
        match std::fs::remove_dir_all(leftover) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StartError::failed("cannot remove", leftover, &error));
            }
            _ => {}
        }
    }
    let password_file = || {
        let mut file = tempfile::NamedTempFile::new_in(&home)?;
        file.write_all(password.as_bytes())?;
        if let Some((uid, gid)) = state.run_as() {
            std::os::unix::fs::chown(file.path(), Some(uid), Some(gid))?;
        }
        Ok(file)
    };
    let password_file = password_file().map_err(|error| StartError::failed("cannot write a file in", &home, &error))?;
    let initdb = program.with_file_name("initdb");
    let output = search::command(&initdb, state.run_as(), &home)
        .arg("--pgdata")
        .arg(&fresh)
        .args(["--username", NAME, "--encoding", "UTF8", "--locale", "C.UTF-8"])
        .args((!durable).then_some("--no-sync"))
        .args(["--auth", "scram-sha-256", "--pwfile"])
        .arg(password_file.path())
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(INITDB_LIMIT, output)
        .await
        .map_err(|_| StartError::Failed(format!("{} does not come to an end", initdb.display())))?
        .map_err(|error| StartError::failed("cannot run", &initdb, &error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(StartError::Failed(format!("{} failed: {}", initdb.display(), said.trim())));
    }
    std::fs::rename(&fresh, data).map_err(|error| StartError::failed("cannot make", data, &error))
}

/// Arguments of the server.
pub(super) fn configure(command: &mut Command, data: &Path, port: u16, durable: bool) {
    let on = if durable { "on" } else { "off" };
    command.arg("-D").arg(data);
    for setting in [
        &format!("port={port}"),
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "max_connections=200",
        // The default, said aloud: enough for millions of deliveries, and small beside the functions.
        "shared_buffers=128MB",
        &format!("fsync={on}"),
        &format!("synchronous_commit={on}"),
        &format!("full_page_writes={on}"),
        "logging_collector=off",
        "log_destination=stderr",
        "log_line_prefix=%m [%p] ",
        "timezone=UTC",
        "log_timezone=UTC",
    ] {
        command.arg("-c").arg(setting);
    }
}

/// Process id in `postmaster.pid`, which a running server keeps in its data folder.
pub(super) fn postmaster(data: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    text.lines().next()?.trim().parse().ok()
}

/// URL of the database that functions use.
pub(super) fn url(port: u16, password: &str) -> String {
    format!("postgres://{NAME}:{password}@127.0.0.1:{port}/{NAME}")
}

/// Connects with the password and makes the database if it is missing. The error is for a person.
pub(super) async fn answers(port: u16, password: &str) -> Result<(), String> {
    let connect = async {
        let mut connection = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(port)
            .username(NAME)
            .password(password)
            .database("postgres")
            .ssl_mode(PgSslMode::Disable)
            .disable_statement_logging()
            .connect()
            .await?;
        let there: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(NAME)
            .fetch_one(&mut connection)
            .await?;
        if !there && let Err(error) = sqlx::query("create database nightshift").execute(&mut connection).await {
            // 42P04: another process made it meanwhile.
            let duplicate =
                error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "42P04");
            if !duplicate {
                return Err(error);
            }
        }
        connection.close().await
    };
    match tokio::time::timeout(Duration::from_secs(10), connect).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("no answer within 10 s".to_owned()),
    }
}
