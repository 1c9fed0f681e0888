//! Redis: which binary, its settings, and whether it answers.

use std::path::PathBuf;
use std::time::Duration;

use super::server::StartError;
use super::{ServicesOptions, search};
use crate::state::State;

const OLDEST: u32 = 6;
/// Debian's Redis, then its fork, which speaks the same.
const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];

/// The first binary that runs and is new enough.
pub(super) async fn find(state: &State, options: &ServicesOptions) -> Result<PathBuf, StartError> {
    let mut note = "no server binary found".to_owned();
    for name in PROGRAMS {
        for program in search::candidates(name, options.path(), options.standard_folders) {
            match search::version_of(&program, state.run_as()).await {
                Some(version) if version >= OLDEST => return Ok(program),
                Some(version) => {
                    note = format!("this machine's server is version {version}, {OLDEST} or later is needed");
                }
                None => {}
            }
        }
    }
    Err(StartError::Missing(note))
}

/// Configuration, handed over on standard input so that the password stands neither in a file of the server's user nor in
/// the process list. The working directory is the data folder.
pub(super) fn configuration(port: u16, password: &str, durable: bool) -> String {
    let fsync = if durable { "everysec" } else { "no" };
    format!(
        "port {port}\n\
         bind 127.0.0.1\n\
         protected-mode yes\n\
         requirepass {password}\n\
         daemonize no\n\
         supervised no\n\
         dir ./\n\
         save \"\"\n\
         appendonly yes\n\
         appendfsync {fsync}\n\
         maxmemory-policy noeviction\n"
    )
}

/// URL of database 0.
pub(super) fn url(port: u16, password: &str) -> String {
    format!("redis://:{password}@127.0.0.1:{port}/0")
}

/// Connects with the password and asks for a sign of life. The error is for a person.
pub(super) async fn answers(port: u16, password: &str) -> Result<(), String> {
    let ask = async {
        let client = ::redis::Client::open(url(port, password))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        // While it loads its file it answers with an error, and so is not ready yet.
        ::redis::cmd("PING").query_async::<()>(&mut connection).await
    };
    match tokio::time::timeout(Duration::from_secs(10), ask).await {
        Ok(result) => result.map_err(|error: ::redis::RedisError| error.to_string()),
        Err(_) => Err("no answer within 10 s".to_owned()),
    }
}
