//! The state folder: what one runner keeps between two starts, and what tells other commands where things listen.
//!
//! A plain user has it in `.nightshift/<name>` inside the project. Root has it in
//! `/var/lib/nightshift/<project>-<hash>/<name>`, because servers and functions then run as an unprivileged user, to whom
//! `/root` and the like are closed. The folder itself belongs to whoever runs the runner; only the sub folders made by
//! [`State::server_dir`] belong to the unprivileged user.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::prelude::{BASE64_URL_SAFE, Engine};
use chrono::{DateTime, Utc};
use rand::Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

mod process;
mod user;

pub use process::{ProcessId, processes_in};
pub use user::{is_root, unprivileged_user};

/// Where root keeps state, one folder per project.
const ROOT_BASE: &str = "/var/lib/nightshift";
const RECORD: &str = "runner.json";
const LOCK: &str = "runner.lock";

/// Why a state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The name would not make one plain folder.
    #[error("`{0}` is no name for a state: use letters, digits, `-`, `_` and dots, not at the start")]
    Name(String),
    /// Another runner holds the lock.
    #[error(
        "another runner (pid {pid}) works on {dir}; stop it, or give this one a name of its own",
        dir = dir.display()
    )]
    Locked {
        /// The state folder.
        dir: PathBuf,
        /// Process id of the holder as it wrote it down, `unknown` when it had no time to.
        pid: String,
    },
    /// The unprivileged user cannot get into the folder.
    #[error(
        "{closed} is closed to the unprivileged user that servers run as; choose a state folder outside of it, or open it with `chmod o+x`",
        closed = closed.display()
    )]
    Closed {
        /// The first closed folder on the way.
        closed: PathBuf,
    },
    /// Reading or writing failed.
    #[error("cannot {action} {path}", path = path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of the state folder has been damaged.
    #[error("{path} does not contain what it should; remove it and start again", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

impl StateError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// What a running runner tells other commands; kept in `runner.json`, readable by its owner only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunnerRecord {
    /// The runner's process.
    pub process: ProcessId,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// URL of Postgres, with password.
    pub database_url: Option<String>,
    /// URL of Redis, with password.
    pub redis_url: Option<String>,
    /// Base URL of the HTTP gateway.
    pub gateway: Option<String>,
    /// Base URL of the AWS endpoint.
    pub aws_endpoint: Option<String>,
    /// `host:port` of the SMTP inbox.
    pub inbox: Option<String>,
}

impl RunnerRecord {
    /// A record of this process, started now, with no address yet.
    pub fn of_this_process() -> Self {
        Self {
            process: ProcessId::of_this_process(),
            started_at: Utc::now(),
            database_url: None,
            redis_url: None,
            gateway: None,
            aws_endpoint: None,
            inbox: None,
        }
    }
}

/// What the state file says about a runner.
#[derive(Debug, Clone, PartialEq)]
pub enum Runner {
    /// None has run here, or the last one ended in order.
    None,
    /// It died without tidying up; its servers may still run.
    Stale(RunnerRecord),
    /// It runs.
    Live(RunnerRecord),
}

/// An open state folder.
#[derive(Debug, Clone)]
pub struct State {
    dir: PathBuf,
    user: Option<(u32, u32)>,
}

/// The right to run on a state folder; ends with the value, and with the process however it dies.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

impl State {
    /// Opens the state `name` (`main`, `demo`, …) of a project, making its folder where there is none.
    pub fn open(project: &Path, name: &str) -> Result<Self, StateError> {
        Self::open_dir(&Self::path(project, name)?)
    }

    /// Where [`State::open`] keeps the state `name` of a project; touches nothing.
    pub fn path(project: &Path, name: &str) -> Result<PathBuf, StateError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
            return Err(StateError::Name(name.to_owned()));
        }
        let project = project.canonicalize().map_err(StateError::io("find the project folder", project))?;
        if !is_root() {
            return Ok(project.join(".nightshift").join(name));
        }
        let title: String = project
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
            .chars()
            .map(|c| if plain(c) { c } else { '-' })
            .take(40)
            .collect();
        let hash = short_hash(project.as_os_str().as_encoded_bytes());
        Ok(Path::new(ROOT_BASE).join(format!("{title}-{hash}")).join(name))
    }

    /// Opens an explicit folder as state. As root, every folder on the way must let other users pass.
    pub fn open_dir(dir: &Path) -> Result<Self, StateError> {
        let user = unprivileged_user();
        let mode = if user.is_some() { 0o711 } else { 0o700 };
        DirBuilder::new()
            .recursive(true)
            .mode(if user.is_some() { 0o755 } else { 0o700 })
            .create(dir)
            .map_err(StateError::io("create", dir))?;
        let dir = dir.canonicalize().map_err(StateError::io("find", dir))?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(mode))
            .map_err(StateError::io("set permissions of", &dir))?;
        if user.is_some() {
            check_passable(&dir)?;
        }
        Ok(Self { dir, user })
    }

    /// The folder, absolute.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// User and group id that servers and functions run as; `None` when this is no root process.
    pub fn run_as(&self) -> Option<(u32, u32)> {
        self.user
    }

    /// A short name that no other state folder has.
    pub fn id(&self) -> String {
        short_hash(self.dir.as_os_str().as_encoded_bytes())
    }

    /// Takes the folder for this process. At most one runner holds it.
    pub fn lock(&self) -> Result<StateLock, StateError> {
        let path = self.dir.join(LOCK);
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(StateError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {
                let write = |file: &mut File| {
                    file.set_len(0)?;
                    file.seek(SeekFrom::Start(0))?;
                    write!(file, "{}", std::process::id())
                };
                write(&mut file).map_err(StateError::io("write", &path))?;
                Ok(StateLock { _file: file })
            }
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let readable = file.read_to_string(&mut pid).is_ok() && !pid.is_empty();
                Err(StateError::Locked {
                    dir: self.dir.clone(),
                    pid: if readable { pid } else { "unknown".to_owned() },
                })
            }
            Err(TryLockError::Error(error)) => Err(StateError::io("lock", &path)(error)),
        }
    }

    /// What is known of a runner on this folder.
    pub fn read(&self) -> Result<Runner, StateError> {
        Ok(match self.read_json::<RunnerRecord>(RECORD)? {
            None => Runner::None,
            Some(record) if record.process.is_alive() => Runner::Live(record),
            Some(record) => Runner::Stale(record),
        })
    }

    /// Publishes where things listen. Readers see the former record or this one, never a half.
    pub fn write(&self, record: &RunnerRecord) -> Result<(), StateError> {
        self.write_json(RECORD, record)
    }

    /// Withdraws the record at an orderly end.
    pub fn clear(&self) -> Result<(), StateError> {
        self.remove(RECORD)
    }

    /// A secret that is made once and kept: 32 random bytes in URL-safe Base64 with padding, which is also a Fernet key.
    pub fn secret(&self, name: &str) -> Result<String, StateError> {
        let dir = self.private_dir("secrets")?;
        let path = dir.join(name);
        match fs::read_to_string(&path) {
            Ok(secret) => return check_secret(secret, &path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StateError::io("read", &path)(error)),
        }
        let mut bytes = [0_u8; 32];
        rand::rng().fill_bytes(&mut bytes);
        let mut file = tempfile::NamedTempFile::new_in(&dir).map_err(StateError::io("create a file in", &dir))?;
        file.write_all(BASE64_URL_SAFE.encode(bytes).as_bytes())
            .and_then(|()| file.as_file().sync_all())
            .map_err(StateError::io("write", &path))?;
        // Two processes may make it at once: the first one's stays, both return it.
        match file.persist_noclobber(&path) {
            Ok(_) => {}
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(StateError::io("write", &path)(error.error)),
        }
        let secret = fs::read_to_string(&path).map_err(StateError::io("read", &path))?;
        check_secret(secret, &path)
    }

    /// A sub folder that only the owner of the state can enter.
    pub fn private_dir(&self, name: &str) -> Result<PathBuf, StateError> {
        self.sub_dir(name, 0o700)
    }

    /// A sub folder that everybody can enter and read, for executables.
    pub fn public_dir(&self, name: &str) -> Result<PathBuf, StateError> {
        self.sub_dir(name, 0o755)
    }

    /// A sub folder for the data of one server: it belongs to the user that the server runs as.
    pub fn server_dir(&self, name: &str) -> Result<PathBuf, StateError> {
        let path = self.sub_dir(name, 0o700)?;
        if let Some((uid, gid)) = self.user {
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).map_err(StateError::io("give away", &path))?;
        }
        Ok(path)
    }

    /// Opens a log of this name for appending.
    pub fn log(&self, name: &str) -> Result<(File, PathBuf), StateError> {
        let path = self.private_dir("logs")?.join(format!("{name}.log"));
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(StateError::io("open", &path))?;
        Ok((file, path))
    }

    pub(crate) fn read_json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let path = self.dir.join(name);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|_| StateError::Damaged { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StateError::io("read", &path)(error)),
        }
    }

    pub(crate) fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StateError> {
        let path = self.dir.join(name);
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
            serde_json::to_writer_pretty(&mut file, value)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok(())
        };
        write().map_err(StateError::io("write", &path))
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), StateError> {
        let path = self.dir.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StateError::io("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    fn sub_dir(&self, name: &str, mode: u32) -> Result<PathBuf, StateError> {
        let path = self.dir.join(name);
        DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(&path)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
            .map_err(StateError::io("create", &path))?;
        Ok(path)
    }
}

fn check_secret(secret: String, path: &Path) -> Result<String, StateError> {
    match BASE64_URL_SAFE.decode(&secret) {
        Ok(bytes) if bytes.len() == 32 => Ok(secret),
        _ => Err(StateError::Damaged { path: path.to_owned() }),
    }
}

fn check_passable(dir: &Path) -> Result<(), StateError> {
    let mut folders: Vec<&Path> = dir.ancestors().collect();
    folders.reverse();
    for folder in folders {
        let metadata = fs::metadata(folder).map_err(StateError::io("look at", folder))?;
        if metadata.mode() & 0o001 == 0 {
            return Err(StateError::Closed { closed: folder.to_owned() });
        }
    }
    Ok(())
}

/// Twelve hexadecimal digits of SHA-256.
pub(crate) fn short_hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}
