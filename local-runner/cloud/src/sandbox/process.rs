//! The process of a sandbox: start, signals, end, memory.

use std::collections::BTreeMap;
use std::io;
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::output::Output;
use super::{Blueprint, spawner};

/// A child process that leads a process group of its own; group and process are killed when it is dropped.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    pid: Pid,
}

impl Process {
    pub(super) async fn start(
        blueprint: &Blueprint,
        environment: BTreeMap<String, String>,
    ) -> io::Result<(Self, Output)> {
        let (output, stdout) = Output::pipe()?;
        let mut command = Command::new(&blueprint.executable);
        command
            .env_clear()
            .envs(environment)
            .stdin(Stdio::null())
            .stderr(stdout.try_clone()?)
            .stdout(stdout)
            .process_group(0)
            .kill_on_drop(true);
        if let Some(folder) = blueprint.executable.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            command.current_dir(folder);
        }
        if let Some((uid, gid)) = blueprint.run_as {
            command.gid(gid).uid(uid);
        }
        let child = spawner::spawn(command).await?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).ok_or(io::ErrorKind::NotFound)?;
        Ok((Self { child, pid: Pid::from_raw(pid) }, output))
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Signals the whole group, unless the process was collected already and its number may belong to another.
    pub(super) fn signal(&self, signal: Signal) {
        if self.child.id().is_some() {
            // Fails only when the group is gone, and then there is nothing to signal.
            let _ = killpg(self.pid, signal);
        }
    }

    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for the end. Cancelling is harmless.
    pub(super) async fn exited(&mut self) -> ExitStatus {
        match self.child.wait().await {
            Ok(status) => status,
            Err(error) => {
                tracing::error!(%error, "cannot wait for process {}; treating it as killed", self.pid);
                self.signal(Signal::SIGKILL);
                std::os::unix::process::ExitStatusExt::from_raw(Signal::SIGKILL as i32)
            }
        }
    }

    pub(super) async fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.exited().await;
    }

    /// Resident memory now, in MiB; 0 when the process is gone.
    pub(super) fn resident_memory_mib(&self) -> u32 {
        self.status_mib("VmRSS:")
    }

    /// Highest resident memory so far, in MiB; 0 when the process is gone.
    pub(super) fn peak_memory_mib(&self) -> u32 {
        self.status_mib("VmHWM:")
    }

    fn status_mib(&self, field: &str) -> u32 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .and_then(|value| value.split_whitespace().next())
            .and_then(|value| value.parse::<u32>().ok())
            .unwrap_or_default();
        kib.div_ceil(1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}
