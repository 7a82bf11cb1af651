//! Asks a program whether a backend is well: it ends with 0 if so. The program runs without a shell,
//! as another user and without privileges, and is killed with all that it started when its time is
//! over.

use super::{Limit, Way, is_local};
use crate::config::{Endpoint, Exec};
use crate::engine::event::{Outcome, ProbeError};
use crate::engine::probe::exec::judge;
use crate::io::program::Running;

pub(super) async fn ask(exec: &Exec, way: &Way, limit: &Limit) -> Outcome {
    let environment = match &way.target {
        Endpoint::Inet(at) => {
            vec![("PEN_ADDRESS", at.ip().to_string()), ("PEN_PORT", at.port().to_string())]
        }
        Endpoint::Unix(path) => vec![("PEN_SOCKET", path.path().display().to_string())],
    };
    let started = Running::start(exec, &environment, false).await;
    let mut program = started.map_err(|error| match is_local(&error) {
        true => ProbeError::Local(error.to_string()),
        false => ProbeError::System(format!("{}: {error}", exec.program())),
    })?;
    let waiting =
        async { program.end(&[]).await.map_err(|error| ProbeError::Local(error.to_string())) };
    let status = limit.wait(waiting, ProbeError::Killed).await;
    if status.is_err() {
        program.stop().await;
    }
    judge(status?.code(), &program.said)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::thread;
    use std::time::Duration;

    use nix::unistd::geteuid;

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
