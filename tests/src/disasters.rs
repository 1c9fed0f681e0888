//! What can befall the servers of a runner.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::app::TestApp;
use crate::processes::kill_all;

impl TestApp {
    /// Kills Postgres with all its processes, as `kill -9` does. The runner starts it again.
    pub fn kill_postgres(&self) {
        kill_all(&self.server_processes("postgres"));
    }

    /// Empties Redis at `url` and kills it. The runner starts it again.
    pub fn lose_redis(&self, url: &str) {
        flush(url).expect("Redis can be emptied");
        kill_all(&self.server_processes("redis"));
    }
}

fn flush(url: &str) -> io::Result<()> {
    let address = || {
        let (password, rest) = url.strip_prefix("redis://:")?.split_once('@')?;
        Some((password, rest.split('/').next()?))
    };
    let (password, host) = address().ok_or(io::ErrorKind::InvalidInput)?;
    let mut redis = TcpStream::connect(host)?;
    redis.set_read_timeout(Some(Duration::from_secs(5)))?;
    redis.write_all(format!("AUTH {password}\r\nFLUSHALL\r\n").as_bytes())?;
    let mut answer = [0; 10];
    redis.read_exact(&mut answer)?;
    if answer == *b"+OK\r\n+OK\r\n" { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}
