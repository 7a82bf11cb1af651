//! Runs what the operator wants to be run when a group's role changes: detached, one at a time for
//! each group and in order, within a time limit. On a thread of its own, so that neither a slow
//! program nor the start of one ever delays an advertisement (the ancestor stood still meanwhile,
//! and a third node took over beside it).

use std::collections::{BTreeMap, VecDeque};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Runs that may wait for the thread.
const QUEUE: usize = 256;
/// Runs of one group that may wait for the one before them. More only means that its program is too
/// slow for what happens: the oldest are left out then.
const WAITING: usize = 16;

/// A program to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Whose; runs of one group do not overlap.
    pub(super) group: String,
    /// Program and arguments.
    pub(super) words: Vec<String>,
    /// Is killed after this time, with all that it has started.
    pub(super) limit: Duration,
}

/// How a run ended that did not end well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    /// Whose.
    pub(super) group: String,
    /// What went wrong, in a sentence.
    pub(super) text: String,
}

/// The thread. It ends when this is dropped and what runs has ended or the process does.
#[derive(Debug)]
pub(super) struct Hooks {
    runs: mpsc::Sender<Run>,
    idle: mpsc::Receiver<()>,
}

impl Hooks {
    /// Starts the thread; failures go to `failed`.
    pub(super) fn start(failed: mpsc::Sender<Failed>) -> std::io::Result<Self> {
        let (runs, wanted) = mpsc::channel(QUEUE);
        // Never sent to: it closes when nothing is left to do.
        let (busy, idle) = mpsc::channel(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("carp-hooks".to_owned()).spawn(move || {
            runtime.block_on(serve(wanted, failed));
            drop(busy);
        })?;
        Ok(Self { runs, idle })
    }

    /// Has a program run when those of its group before it have ended. False if there are too many.
    pub(super) fn run(&self, run: Run) -> bool {
        self.runs.try_send(run).is_ok()
    }

    /// Waits until all have ended, but no longer than this; those that still run then go on.
    pub(super) async fn finish(self, limit: Duration) {
        let Self { runs, mut idle } = self;
        drop(runs);
        let _ = timeout(limit, idle.recv()).await;
    }
}

async fn serve(mut wanted: mpsc::Receiver<Run>, failed: mpsc::Sender<Failed>) {
    // The runs that wait, of each group that has one running.
    let mut groups: BTreeMap<String, VecDeque<Run>> = BTreeMap::new();
    let mut running: JoinSet<String> = JoinSet::new();
    let mut open = true;
    while open || !running.is_empty() {
        tokio::select! {
            run = wanted.recv(), if open => match run {
                Some(run) => match groups.get_mut(&run.group) {
                    Some(waiting) => {
                        if waiting.len() == WAITING {
                            waiting.pop_front();
                        }
                        waiting.push_back(run);
                    }
                    None => {
                        groups.insert(run.group.clone(), VecDeque::new());
                        running.spawn(carry_out(run, failed.clone()));
                    }
                },
                None => open = false,
            },
            Some(Ok(group)) = running.join_next() => {
                match groups.get_mut(&group).and_then(VecDeque::pop_front) {
                    Some(next) => drop(running.spawn(carry_out(next, failed.clone()))),
                    None => drop(groups.remove(&group)),
                }
            }
        }
    }
}

/// Runs one to its end, or to the limit; yields its group.
async fn carry_out(run: Run, failed: mpsc::Sender<Failed>) -> String {
    if let Err(text) = attempt(&run).await {
        // A daemon that is ending has no ear for it any more.
        let _ = failed.try_send(Failed { group: run.group.clone(), text });
    }
    run.group
}

async fn attempt(run: &Run) -> Result<(), String> {
    let Some((program, arguments)) = run.words.split_first() else { return Ok(()) };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        // The leader of a group of its own: what it starts can be ended with it, and a Ctrl-C that
        // is meant for the daemon does not reach it.
        .process_group(0)
        .spawn()
        .map_err(|error| format!("{program} does not start: {error}"))?;
    match timeout(run.limit, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("{program} ended with {status}")),
        Ok(Err(error)) => Err(format!("{program}: {error}")),
        Err(_) => {
            // Its number cannot be another process's: nobody has waited for it yet.
            if let Some(group) = child.id().and_then(|id| i32::try_from(id).ok()) {
                let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
            }
            let _ = child.wait().await;
            Err(format!("{program} was killed after {:?}", run.limit))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("pen-hooks-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    fn shell(group: &str, script: &str, limit: Duration) -> Run {
        let words = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        Run { group: group.to_owned(), words, limit }
    }

    /// Has all of them run, and returns what failed when all have ended.
    fn run_all(runs: impl IntoIterator<Item = Run>) -> Vec<Failed> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let (sender, mut failed) = mpsc::channel(16);
            let hooks = Hooks::start(sender).expect("a thread");
            for run in runs {
                assert!(hooks.run(run));
            }
            hooks.finish(LONG).await;
            let mut all = Vec::new();
            while let Some(one) = failed.recv().await {
                all.push(one);
            }
            all
        })
    }

    #[test]
    fn programs_of_one_group_run_in_order_and_never_beside_each_other() {
        let folder = folder("order");
        let log = folder.join("log");
        let script =
            |name: &str| format!("echo {name} >>{0}; sleep 0.05; echo . >>{0}", log.display());
        let runs = ["a", "b", "c"].map(|name| shell("main", &script(name), LONG));
        assert_eq!(run_all(runs), []);
        assert_eq!(fs::read_to_string(&log).expect("a log"), "a\n.\nb\n.\nc\n.\n");
        fs::remove_dir_all(folder).expect("clean up");
    }

    #[test]
    fn a_slow_program_is_killed_with_all_that_it_started() {
        let folder = folder("slow");
        let file = folder.join("still-there");
        let script = format!("(sleep 1; touch {}) & wait", file.display());
        let failed = run_all([shell("main", &script, Duration::from_millis(50))]);
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0].text, "/bin/sh was killed after 50ms");
        // A second group, whose program ends later than the first one's child would have.
        assert_eq!(run_all([shell("other", "sleep 1.2", LONG)]), []);
        assert!(!file.exists());
        fs::remove_dir_all(folder).expect("clean up");
    }

    #[test]
    fn what_goes_wrong_is_told_with_the_groups_name() {
        let absent = Run {
            group: "b".to_owned(),
            words: vec!["/nonexistent/up".to_owned(), "eth0".to_owned()],
            limit: LONG,
        };
        let mut failed = run_all([shell("a", "exit 3", LONG), absent]);
        failed.sort_by(|one, other| one.group.cmp(&other.group));
        let texts: Vec<_> =
            failed.iter().map(|one| (one.group.as_str(), one.text.as_str())).collect();
        let expected = [
            ("a", "/bin/sh ended with exit status: 3"),
            ("b", "/nonexistent/up does not start: No such file or directory (os error 2)"),
        ];
        assert_eq!(texts, expected);
    }
}
