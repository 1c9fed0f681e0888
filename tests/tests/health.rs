//! The health page while servers hang, die and come back. One test, because it takes the servers away from everybody.

use std::time::{Duration, Instant};

use end_to_end::{Process, TestApp, kill_all, signal_all};
use nix::sys::signal::Signal;

/// What the page promises.
const PATIENCE: Duration = Duration::from_secs(2);

async fn assert_down(app: &TestApp, part: &str) {
    for path in ["/health/", "/health/ready"] {
        let (status, body, took) = app.get(path).await;
        assert_eq!(status, 503, "{path}: {body}");
        assert!(body.contains(&format!(r#""{part}":"error""#)), "{path}: {body}");
        assert!(body.contains(r#""status":"degraded""#), "{path}: {body}");
        assert!(took < PATIENCE, "{path} took {took:?}");
    }
    let (status, _, took) = app.get("/health/live").await;
    assert_eq!(status, 200, "/health/live does no I/O");
    assert!(took < PATIENCE);
}

async fn wait_until_well(app: &TestApp) {
    app.wait_for("health to recover", Duration::from_secs(30), async || app.get("/health/").await.0 == 200).await;
    assert_eq!(app.get("/health/ready").await.0, 200);
}

#[tokio::test]
async fn health_tells_within_two_seconds_what_hangs_or_is_gone_and_when_it_is_back() {
    let app = TestApp::launch("health", &[]);
    let (status, body, _) = app.get("/health/").await;
    assert_eq!(body, r#"{"status":"ok","checks":{"database":"ok","cache":"ok","worker":"ok"}}"#);
    assert_eq!(status, 200);
    for path in ["/health", "/health/live", "/health/live/", "/health/ready", "/health/ready/"] {
        assert_eq!(app.get(path).await.0, 200, "{path}");
    }

    for (server, part) in [("postgres", "database"), ("redis", "cache")] {
        let processes = app.server_processes(server);
        assert!(!processes.is_empty(), "no process of {server} was found");
        signal_all(&processes, Signal::SIGSTOP);
        assert_down(&app, part).await;
        signal_all(&processes, Signal::SIGCONT);
        wait_until_well(&app).await;

        let killed = app.server_processes(server);
        kill_all(&killed);
        assert_answers_until_back(&app, server, part, &killed).await;
        wait_until_well(&app).await;
    }
}

/// The runner starts a dead server again, sometimes before anybody can ask: whatever is asked meanwhile is answered in
/// time, and says either that the part is down or that it is well.
async fn assert_answers_until_back(app: &TestApp, server: &str, part: &str, before: &[Process]) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (status, body, took) = app.get("/health/ready").await;
        assert!(took < PATIENCE, "took {took:?}");
        if status == 200 {
            let now = app.server_processes(server);
            if !now.is_empty() && now.iter().all(|process| !before.contains(process)) {
                return;
            }
        } else {
            assert_eq!(status, 503, "{body}");
            assert!(body.contains(&format!(r#""{part}":"error""#)), "{body}");
        }
        assert!(Instant::now() < deadline, "{part} is not back: {body}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
