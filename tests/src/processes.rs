//! Processes of a runner: its functions and its servers.

use std::fs;
use std::path::Path;

use local_cloud::state::ProcessId;
use nix::sys::signal::Signal;

/// A process, safe against recycled ids.
pub type Process = ProcessId;

fn all() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .expect("/proc is there")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn parent_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn name_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// Children of `parent` whose executable's name begins with `name`.
pub(crate) fn children(parent: u32, name: &str) -> Vec<Process> {
    let short: String = name.chars().take(15).collect(); // as much as the kernel keeps
    all()
        .filter(|&pid| parent_of(pid) == Some(parent) && name_of(pid).starts_with(&short))
        .filter_map(Process::of)
        .collect()
}

/// Processes whose executable's name begins with `name`, whoever started them.
pub(crate) fn named(name: &str) -> impl Iterator<Item = Process> {
    let short: String = name.chars().take(15).collect(); // as much as the kernel keeps
    all().filter(move |&pid| name_of(pid).starts_with(&short)).filter_map(Process::of)
}

/// Whether a process is stopped, as the runner stops functions that have nothing to do.
pub(crate) fn is_stopped(process: &Process) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// Processes of this name that work somewhere below `folder`.
pub(crate) fn working_below(folder: &Path, name: &str) -> Vec<Process> {
    all()
        .filter(|&pid| name_of(pid).starts_with(name))
        .filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(folder)))
        .filter_map(Process::of)
        .collect()
}

/// Sends all of them a signal.
pub fn signal_all(processes: &[Process], signal: Signal) {
    for process in processes {
        process.signal(signal).expect("the tests may signal what they started");
    }
}

/// `kill -9`.
pub fn kill_all(processes: &[Process]) {
    signal_all(processes, Signal::SIGKILL);
}
