//! How processes end: unused, used up, asked politely, with the runner.

use std::time::Duration;

use local_cloud::lambda::{InvokeError, LambdaFunction, LambdaOptions};

use lambda_support::{eventually, example, json, probe, process_state, start, start_with};

mod lambda_support;

async fn pid(lambda: &local_cloud::lambda::Lambda) -> u64 {
    let invoked = lambda.invoke("Probe", "{}".into()).await.expect("the function is reached");
    json(&invoked.payload)["pid"].as_u64().expect("the probe tells its process number")
}

#[tokio::test]
async fn idle_processes_are_stopped_and_used_up_ones_replaced() {
    let options =
        LambdaOptions { idle_limit: Duration::from_millis(100), max_invocations: Some(2), ..LambdaOptions::default() };
    let lambda = start_with(probe(), options).await;
    let first = pid(&lambda).await;
    assert_eq!(pid(&lambda).await, first);
    assert_eq!(process_state(first), None);
    let second = pid(&lambda).await;
    assert_ne!(second, first);
    eventually("the idle process is gone", async || process_state(second).is_none().then_some(())).await;
    lambda.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_process_that_dies_in_its_sleep_is_replaced_unseen() {
    let lambda = start(probe()).await;
    let first = pid(&lambda).await;
    let victim = nix::unistd::Pid::from_raw(i32::try_from(first).expect("process numbers are small"));
    nix::sys::signal::kill(victim, nix::sys::signal::Signal::SIGKILL).expect("the process is ours");
    eventually("the process is dead", async || process_state(first).is_none().then_some(())).await;
    assert_ne!(pid(&lambda).await, first);
    lambda.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn shutdown_waits_for_running_invocations_up_to_its_grace_and_refuses_new_ones() {
    let lambda = start(probe()).await;
    let running = tokio::spawn({
        let lambda = lambda.clone();
        async move { lambda.invoke("Probe", r#"{"do":"sleep","ms":300}"#.into()).await }
    });
    let stuck = tokio::spawn({
        let lambda = lambda.clone();
        async move { lambda.invoke("Probe", r#"{"do":"sleep","ms":9000}"#.into()).await }
    });
    eventually("both run", async || (lambda.activity()[0].running == 2).then_some(())).await;
    lambda.shutdown(Duration::from_millis(1500)).await;
    assert!(running.await.expect("no panic").is_ok());
    assert_eq!(stuck.await.expect("no panic"), Err(InvokeError::ShuttingDown));
    assert_eq!(lambda.invoke("Probe", "{}".into()).await, Err(InvokeError::ShuttingDown));
}

#[tokio::test]
async fn no_process_survives_kill_9_of_the_runner_busy_or_frozen() {
    kill_the_runner_of(&[example("probe-function").as_os_str()]).await;
}

#[tokio::test]
async fn no_process_of_another_user_survives_kill_9_of_the_runner_either() {
    if nix::unistd::geteuid().is_root() {
        let (_folder, executable) = probe_for_everyone();
        kill_the_runner_of(&[executable.as_os_str(), "65534".as_ref()]).await;
    }
}

async fn kill_the_runner_of(arguments: &[&std::ffi::OsStr]) {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let mut host = tokio::process::Command::new(example("probe-host"))
        .args(arguments)
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the host starts");
    let mut lines = BufReader::new(host.stdout.take().expect("it is piped")).lines();
    let line = lines.next_line().await.expect("the host writes").expect("the host tells the process numbers");
    let pids: Vec<u64> = line.split(' ').map(|pid| pid.parse().expect("a number")).collect();
    assert_eq!(pids.len(), 2, "{line}");
    eventually("one of them is frozen", async || pids.iter().any(|pid| process_state(*pid) == Some('T')).then_some(()))
        .await;
    host.kill().await.expect("the host is ours");
    eventually("both are gone", async || pids.iter().all(|pid| process_state(*pid).is_none()).then_some(())).await;
}

/// The probe where every user may execute it; the target folder may be closed to others.
fn probe_for_everyone() -> (tempfile::TempDir, std::path::PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder can be made");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
    let executable = folder.path().join("probe-function");
    std::fs::copy(example("probe-function"), &executable).expect("the probe can be copied");
    (folder, executable)
}

#[tokio::test]
async fn a_process_with_an_extension_gets_a_sigterm_before_it_is_stopped() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let marker = folder.path().join("marker");
    let mut function = probe();
    function.environment.insert("PROBE_START".to_owned(), "extension".to_owned());
    function.environment.insert("PROBE_MARKER".to_owned(), marker.display().to_string());
    let lambda = start(function).await;
    pid(&lambda).await;
    assert!(!marker.exists());
    lambda.shutdown(Duration::from_secs(1)).await;
    assert_eq!(std::fs::read_to_string(marker).expect("the process noted its SIGTERM"), "SIGTERM");
}

#[tokio::test]
async fn functions_run_as_the_user_that_was_asked_for() {
    const NOBODY: u32 = 65534;
    let options = LambdaOptions { run_as: Some((NOBODY, NOBODY)), ..LambdaOptions::default() };
    let (_folder, executable) = probe_for_everyone();
    let started = local_cloud::lambda::Lambda::start(vec![LambdaFunction { function: probe(), executable }], options);
    if !nix::unistd::geteuid().is_root() {
        let refusal = started.await.expect_err("only root may choose the user");
        assert!(refusal.to_string().contains("root"), "{refusal}");
        return;
    }
    let lambda = started.await.expect("root may choose the user");
    let pid = pid(&lambda).await;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    assert!(status.contains("\nUid:\t65534\t65534\t65534\t65534\n"), "{status}");
    assert!(status.contains("\nGid:\t65534\t65534\t65534\t65534\n"), "{status}");
    assert!(status.contains("\nGroups:\t \n"), "{status}");
    lambda.shutdown(Duration::from_secs(1)).await;
}
