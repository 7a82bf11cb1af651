//! Programs that are not trusted with more than their task: they run without a shell, as another user
//! and without privileges, and are killed with all that they started when their time is over.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::thread;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, User, geteuid};
use rustix::thread::{clear_ambient_capability_set, set_no_new_privs};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::config::Exec;

/// Of what a program says so much is kept.
const HEARD: usize = 512;

/// A program that runs. It does not outlive this, whatever becomes of who waits for it.
pub(super) struct Running {
    child: Child,
    /// The beginning of what it has said.
    pub(super) said: Vec<u8>,
}

impl Running {
    /// Starts it from a thread of its own, of whose privileges nothing is left: they are a matter of
    /// threads, and a child has those of the one that starts it.
    pub(super) async fn start(
        exec: &Exec,
        environment: &[(&str, String)],
        input: bool,
    ) -> io::Result<Self> {
        let mut command = Command::new(exec.program());
        command.args(exec.arguments()).env_clear();
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.current_dir("/").process_group(0).kill_on_drop(true);
        command.stdin(if input { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let user = exec.user.clone();
        let (sender, started) = oneshot::channel();
        let runtime = Handle::current();
        thread::Builder::new().name("exec".to_owned()).spawn(move || {
            let _guard = runtime.enter();
            let child = begin(command, &user);
            // Nobody waits any more: dropping it kills it.
            let _ = sender.send(child);
        })?;
        let child = started.await.map_err(io::Error::other)??;
        Ok(Self { child, said: Vec::new() })
    }

    /// Gives it its input, waits for its end, and takes what it says meanwhile: a full pipe would
    /// hold it up.
    pub(super) async fn end(&mut self, input: &[u8]) -> io::Result<ExitStatus> {
        let (stdin, mut output) = (self.child.stdin.take(), self.child.stdout.take());
        let writing = async {
            if let Some(mut pipe) = stdin {
                // One that does not read may be content all the same.
                let _ = pipe.write_all(input).await;
            }
            std::future::pending::<()>().await;
        };
        let mut writing = std::pin::pin!(writing);
        let mut buffer = [0; 1024];
        loop {
            let reading = async {
                match &mut output {
                    Some(pipe) => pipe.read(&mut buffer).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                read = reading => match read {
                    Ok(length) if length > 0 => {
                        let left = HEARD - self.said.len();
                        self.said.extend_from_slice(&buffer[..length.min(left)]);
                    }
                    // It said all that it has to say.
                    _ => output = None,
                },
                ended = self.child.wait() => return ended,
                () = &mut writing => {}
            }
        }
    }

    /// Ends it, and what it started; it leaves no zombie behind.
    pub(super) async fn stop(&mut self) {
        self.kill();
        // The end of one that was killed is near.
        let _ = self.child.wait().await;
    }

    /// While nobody has waited for it: its number is no other's yet.
    fn kill(&mut self) {
        if let Some(group) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

/// On a thread of its own, also since the directory of users may be a slow server.
fn begin(mut command: Command, user: &str) -> io::Result<Child> {
    if geteuid().is_root() {
        let unknown = || io::Error::other(format!("there is no user {user}"));
        let user = User::from_name(user)?.ok_or_else(unknown)?;
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    clear_ambient_capability_set()?;
    set_no_new_privs(true)?;
    command.spawn()
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
