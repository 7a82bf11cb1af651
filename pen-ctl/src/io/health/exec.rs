//! Asks a program whether a backend is well: it ends with 0 if so. The program runs without a shell,
//! as another user and without privileges, and is killed with all that it started when its time is
//! over.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::thread;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, User, geteuid};
use rustix::thread::{clear_ambient_capability_set, set_no_new_privs};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::{Limit, Way, is_local};
use crate::config::{Endpoint, Exec};
use crate::engine::event::{Outcome, ProbeError};
use crate::engine::probe::exec::judge;

/// Of what a program says so much is kept.
const HEARD: usize = 512;

pub(super) async fn ask(exec: &Exec, way: &Way, limit: &Limit) -> Outcome {
    let child = start(exec, way).await.map_err(|error| match is_local(&error) {
        true => ProbeError::Local(error.to_string()),
        false => ProbeError::System(format!("{}: {error}", exec.program())),
    })?;
    let mut child = Killed(child);
    let mut said = Vec::new();
    let waiting = async {
        let ended = hear(&mut child.0, &mut said).await;
        ended.map_err(|error| ProbeError::Local(error.to_string()))
    };
    let status = limit.wait(waiting, ProbeError::Killed).await;
    if status.is_err() {
        child.kill();
        // The end of one that was killed is near, and leaves no zombie behind.
        let _ = child.0.wait().await;
    }
    judge(status?.code(), &said)
}

/// A child that does not outlive the probe, whatever becomes of that.
struct Killed(Child);

impl Killed {
    /// Ends it, and what it started, while nobody has waited for it: its number is no other's yet.
    fn kill(&mut self) {
        if let Some(group) = self.0.id().and_then(|id| i32::try_from(id).ok()) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits for its end, and takes what it says meanwhile: a full pipe would hold it up.
async fn hear(child: &mut Child, said: &mut Vec<u8>) -> io::Result<ExitStatus> {
    let mut output = child.stdout.take();
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
                    let left = HEARD - said.len();
                    said.extend_from_slice(&buffer[..length.min(left)]);
                }
                // It said all that it has to say.
                _ => output = None,
            },
            ended = child.wait() => return ended,
        }
    }
}

/// Starts it from a thread of its own, of whose privileges nothing is left: they are a matter of
/// threads, and a child has those of the one that starts it.
async fn start(exec: &Exec, way: &Way) -> io::Result<Child> {
    let mut command = Command::new(exec.program());
    command.args(exec.arguments());
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    match &way.target {
        Endpoint::Inet(at) => {
            command.env("PEN_ADDRESS", at.ip().to_string()).env("PEN_PORT", at.port().to_string());
        }
        Endpoint::Unix(path) => {
            command.env("PEN_SOCKET", path.path());
        }
    }
    command.current_dir("/").process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    if geteuid().is_root() {
        let unknown = || io::Error::other(format!("there is no user {}", exec.user));
        let user = User::from_name(&exec.user)?.ok_or_else(unknown)?;
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    let (sender, started) = oneshot::channel();
    let runtime = Handle::current();
    thread::Builder::new().name("exec".to_owned()).spawn(move || {
        let _guard = runtime.enter();
        let powerless = clear_ambient_capability_set().and_then(|()| set_no_new_privs(true));
        let child = powerless.map_err(io::Error::from).and_then(|()| command.spawn());
        // Nobody waits any more: dropping it kills it.
        let _ = sender.send(child);
    })?;
    started.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;
    use crate::io::clock;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn run(script: &str, limit: Duration) -> Outcome {
        let words = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        run_words(words, limit)
    }

    fn run_words(words: Vec<String>, limit: Duration) -> Outcome {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let target: SocketAddr = "192.0.2.1:80".parse().expect("literal");
            let exec = Exec { words, user: "nobody".to_owned() };
            ask(&exec, &Way { target: target.into(), through: None }, &Limit::of(limit)).await
        })
    }

    #[test]
    fn the_exit_status_decides_and_the_programs_words_say_why() {
        assert_eq!(run("exit 0", PATIENCE), Ok(()));
        let told = |script: &str| run(script, PATIENCE).expect_err("it fails").to_string();
        assert_eq!(told("echo no space left; exit 3"), "ended with 3: \"no space left\"");
        assert_eq!(told("exit 1"), "ended with 1");
        assert_eq!(told("kill -9 $$"), "was ended by a signal");
        let absent = run_words(vec!["/nonexistent".to_owned()], PATIENCE);
        let error = absent.expect_err("it is not there").to_string();
        assert!(error.starts_with("/nonexistent: No such file"), "{error}");
    }

    #[test]
    fn it_knows_which_backend_it_is_about_and_little_else() {
        let script = r#"test "$PEN_ADDRESS $PEN_PORT $HOME" = "192.0.2.1 80 " && pwd | grep -qx /"#;
        assert_eq!(run(script, PATIENCE), Ok(()));
    }

    #[test]
    fn it_has_no_privileges() {
        let script = "grep -q 'CapAmb:.0000000000000000' /proc/self/status && \
                      grep -q 'NoNewPrivs:.1' /proc/self/status";
        assert_eq!(run(script, PATIENCE), Ok(()));
        if geteuid().is_root() {
            assert_eq!(run("test $(id -u) != 0 && test $(id -g) != 0", PATIENCE), Ok(()));
            assert_eq!(
                run("grep -q 'CapEff:.0000000000000000' /proc/self/status", PATIENCE),
                Ok(())
            );
        }
    }

    #[test]
    fn a_program_that_says_much_is_not_held_up() {
        assert_eq!(run("head -c 1000000 /dev/zero", PATIENCE), Ok(()));
    }

    #[test]
    fn who_takes_too_long_is_killed_with_all_that_it_started() {
        let limit = Duration::from_millis(300);
        let begin = clock::now();
        // The inner one holds the pipe, and would be there for a minute.
        let marker = format!("61.{}", std::process::id());
        let outcome = run(&format!("sleep {marker} & wait"), limit);
        assert_eq!(outcome, Err(ProbeError::Killed(limit)));
        assert!(clock::now().since(begin) < PATIENCE);
        let gone = || {
            let all = std::fs::read_dir("/proc").expect("a list of processes");
            let mut lines = all.filter_map(|entry| {
                std::fs::read_to_string(entry.ok()?.path().join("cmdline")).ok()
            });
            !lines.any(|line| line.contains(&marker))
        };
        let until = clock::now() + PATIENCE;
        while !gone() {
            assert!(clock::now() < until, "it is still there");
            thread::yield_now();
        }
    }
}
