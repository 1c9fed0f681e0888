//! The state folder as its users see it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::os::unix::fs::PermissionsExt;

use local_cloud::state::{Runner, RunnerRecord, State, StateError, is_root};

mod common;
use common::open_temp_dir;

#[test]
fn a_second_runner_is_told_who_holds_the_state() {
    let dir = open_temp_dir();
    let state = State::open_dir(dir.path()).unwrap();
    let lock = state.lock().unwrap();
    let refused = State::open_dir(dir.path()).unwrap().lock().unwrap_err();
    assert!(refused.to_string().contains(&format!("pid {}", std::process::id())), "{refused}");
    drop(lock);
    state.lock().unwrap();
}

#[test]
fn a_record_is_none_then_live_then_stale() {
    let dir = open_temp_dir();
    let state = State::open_dir(dir.path()).unwrap();
    assert_eq!(state.read().unwrap(), Runner::None);

    let mut record = RunnerRecord::of_this_process();
    record.redis_url = Some("redis://127.0.0.1:1/0".to_owned());
    state.write(&record).unwrap();
    assert_eq!(state.read().unwrap(), Runner::Live(record.clone()));
    let mode = dir.path().join("runner.json").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    record.process.start_ticks += 1;
    state.write(&record).unwrap();
    assert_eq!(state.read().unwrap(), Runner::Stale(record));

    state.clear().unwrap();
    state.clear().unwrap();
    assert_eq!(state.read().unwrap(), Runner::None);
}

#[test]
fn a_secret_is_made_once_and_kept_from_others() {
    let dir = open_temp_dir();
    let state = State::open_dir(dir.path()).unwrap();
    let first = state.secret("encryption").unwrap();
    assert_eq!(first.len(), 44);
    assert!(first.ends_with('='));
    assert_eq!(State::open_dir(dir.path()).unwrap().secret("encryption").unwrap(), first);
    assert_ne!(state.secret("other").unwrap(), first);
    let mode = |path: &str| dir.path().join(path).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("secrets"), 0o700);
    assert_eq!(mode("secrets/encryption"), 0o600);
}

#[test]
fn a_damaged_secret_is_reported_instead_of_replaced() {
    let dir = open_temp_dir();
    let state = State::open_dir(dir.path()).unwrap();
    state.secret("encryption").unwrap();
    std::fs::write(dir.path().join("secrets/encryption"), "").unwrap();
    assert!(matches!(state.secret("encryption"), Err(StateError::Damaged { .. })));
}

#[test]
fn threads_that_make_a_secret_at_once_get_the_same() {
    let dir = open_temp_dir();
    let state = State::open_dir(dir.path()).unwrap();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let state = state.clone();
            std::thread::spawn(move || state.secret("shared").unwrap())
        })
        .collect();
    let secrets: std::collections::BTreeSet<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(secrets.len(), 1);
}

#[test]
fn a_name_cannot_leave_the_folder() {
    let dir = open_temp_dir();
    for name in ["", "..", ".hidden", "a/b", "a b", "ä"] {
        assert!(matches!(State::path(dir.path(), name), Err(StateError::Name(_))), "{name}");
    }
}

#[test]
fn root_keeps_state_outside_of_the_project_and_others_inside() {
    let dir = tempfile::Builder::new().prefix("my project").tempdir().unwrap();
    let path = State::path(dir.path(), "demo").unwrap();
    if is_root() {
        assert!(path.starts_with("/var/lib/nightshift"), "{}", path.display());
        assert!(!path.to_str().unwrap().contains(' '));
        assert!(path.to_str().unwrap().contains("/my-project"), "{}", path.display());
        let other = tempfile::tempdir().unwrap();
        assert_ne!(path, State::path(other.path(), "demo").unwrap());
    } else {
        assert_eq!(path, dir.path().canonicalize().unwrap().join(".nightshift/demo"));
    }
    assert!(path.ends_with("demo"));
}

#[test]
fn as_root_a_folder_that_servers_cannot_reach_is_refused() {
    if !is_root() {
        return;
    }
    let closed = tempfile::tempdir().unwrap();
    std::fs::set_permissions(closed.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let refused = State::open_dir(&closed.path().join("state")).unwrap_err();
    assert!(matches!(&refused, StateError::Closed { closed: path } if path == closed.path()), "{refused}");
}
