//! Tears a runner down when the test process has ended, in whatever way: a panic, an abort and `kill -9` alike.

use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Waits for the end of its standard input, which the test process holds open and never writes to. The runner is killed
/// only when its command line is still the one that was started.
const TEAR_DOWN: &str = r#"
cat >/dev/null
pid=$(cat "$STATE/runner.lock" 2>/dev/null)
if [ -n "$pid" ] && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q -- "--runner $NAME "; then
    kill -KILL "$pid"
    while kill -0 "$pid" 2>/dev/null && ! grep -q '^State:.Z' "/proc/$pid/status" 2>/dev/null; do sleep 0.1; done
fi
"$RUNNER" --runner "$NAME" --project "$PROJECT" stop-servers
rm -rf "$STATE"
"#;

/// Ends with the test process, or earlier when it is dropped; then it is waited for.
#[derive(Debug)]
pub(crate) struct Guardian(Child);

impl Guardian {
    pub(crate) fn watch(runner: &Path, project: &Path, name: &str, state: &Path) -> Self {
        let child = Command::new("setsid")
            .args(["sh", "-c", TEAR_DOWN])
            .env("RUNNER", runner)
            .env("PROJECT", project)
            .env("NAME", name)
            .env("STATE", state)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell starts");
        Self(child)
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // The tests have their verdict by now; what could not be removed is no part of it.
        let _ = self.0.wait();
    }
}
