//! The one thread that starts the functions' processes.
//!
//! Linux ties "kill me when my parent dies" to the parent's *thread*. Worker threads of the async runtime come and go,
//! so processes are started by a thread of their own, which lives exactly as long as the runner.

use std::io;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

struct Order {
    command: Command,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

static SPAWNER: Mutex<Option<mpsc::Sender<Order>>> = Mutex::new(None);

/// Starts a process that Linux kills, stopped or not, when the runner ends in whatever way.
pub(super) async fn spawn(mut command: Command) -> io::Result<Child> {
    let runner = std::process::id();
    let die_with_runner = move || {
        // Standard order in the child: user and group first (they reset this setting), then this, then exec.
        set_pdeathsig(Signal::SIGKILL)?;
        // The runner may have died between fork and the line above; nobody would send the signal then.
        if nix::unistd::getppid().as_raw().cast_unsigned() != runner {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe));
        }
        Ok(())
    };
    #[expect(unsafe_code, reason = "runs between fork and exec: only two system calls, no allocation, no locks")]
    unsafe {
        command.pre_exec(die_with_runner);
    }
    let (reply, started) = oneshot::channel();
    spawner()?.send(Order { command, runtime: Handle::current(), reply }).map_err(|_| gone())?;
    started.await.map_err(|_| gone())?
}

fn gone() -> io::Error {
    io::Error::other("the thread that starts processes is gone; restart the runner")
}

fn spawner() -> io::Result<mpsc::Sender<Order>> {
    let mut spawner = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sender) = spawner.as_ref() {
        return Ok(sender.clone());
    }
    let (sender, orders) = mpsc::channel::<Order>();
    // The sender in `SPAWNER` is never dropped, so the thread never ends before the runner does.
    std::thread::Builder::new().name("spawner".to_owned()).spawn(move || {
        for Order { mut command, runtime, reply } in orders {
            let _inside = runtime.enter();
            let started = spawn_once_writers_are_gone(&mut command);
            // The pipes' writing ends belong to the child alone now.
            drop(command);
            // A child that nobody waits for any more is killed by being dropped.
            drop(reply.send(started));
        }
    })?;
    *spawner = Some(sender.clone());
    Ok(sender)
}

/// Starts a process, also from an executable that was written a moment ago: while another thread is between fork and
/// exec, its child still holds the writing end and Linux refuses to execute the file.
fn spawn_once_writers_are_gone(command: &mut Command) -> io::Result<Child> {
    for _ in 0..20 {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(10));
            }
            started => return started,
        }
    }
    command.spawn()
}
