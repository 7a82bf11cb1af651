//! Runs what the operator wants to be run when a group's role changes: detached, one at a time for
//! each group and in order, within a time limit. On a thread of its own, so that neither a slow
//! program nor the start of one ever delays an advertisement (the ancestor stood still meanwhile,
//! and a third node took over beside it).

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use pen_common::abi;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Runs that may wait for the thread: more than all addresses that a node can have, each several
/// times.
const QUEUE: usize = 4 * abi::MAX_ADDRS as usize;
/// Runs for one address that may wait for those before them. More only means that the program is too
/// slow for what happens: the oldest are left out then, for the later ones say what is true.
const WAITING: usize = 4;
/// At the end the last runs are started within this time.
const LAST: Duration = Duration::from_millis(500);

/// A program to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Whose; runs of one group do not overlap.
    pub(super) group: String,
    /// For which of the group's addresses.
    pub(super) vip: IpAddr,
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
    hurry: oneshot::Sender<()>,
}

impl Hooks {
    /// Starts the thread; failures go to `failed`.
    pub(super) fn start(failed: mpsc::Sender<Failed>) -> std::io::Result<Self> {
        let (runs, wanted) = mpsc::channel(QUEUE);
        // Never sent to: it closes when nothing is left to do.
        let (busy, idle) = mpsc::channel(1);
        let (hurry, hurried) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("carp-hooks".to_owned()).spawn(move || {
            runtime.block_on(serve(wanted, failed, hurried));
            drop(busy);
        })?;
        Ok(Self { runs, idle, hurry })
    }

    /// Has a program run when those of its group before it have ended. False if there are too many.
    pub(super) fn run(&self, run: Run) -> bool {
        self.runs.try_send(run).is_ok()
    }

    /// Waits until all have ended, but no longer than this. A program that others wait for is killed
    /// then, and of those the last for each address is started; what runs goes on.
    pub(super) async fn finish(self, limit: Duration) {
        let Self { runs, mut idle, hurry } = self;
        drop(runs);
        if timeout(limit, idle.recv()).await.is_err() {
            // A thread that has just ended needs no hurry.
            let _ = hurry.send(());
            let _ = timeout(LAST, idle.recv()).await;
        }
    }
}

/// A group one of whose programs runs.
struct Busy {
    /// The runs that wait for it.
    waiting: VecDeque<Run>,
    /// Has it killed.
    end: oneshot::Sender<()>,
}

async fn serve(
    mut wanted: mpsc::Receiver<Run>,
    failed: mpsc::Sender<Failed>,
    mut hurried: oneshot::Receiver<()>,
) {
    let mut groups: BTreeMap<String, Busy> = BTreeMap::new();
    let mut running: JoinSet<String> = JoinSet::new();
    let mut open = true;
    while open || !running.is_empty() {
        tokio::select! {
            run = wanted.recv(), if open => match run {
                Some(run) => match groups.get_mut(&run.group) {
                    Some(busy) => wait(&mut busy.waiting, run, &failed),
                    None => start(&mut groups, &mut running, VecDeque::from([run]), &failed),
                },
                None => open = false,
            },
            Some(Ok(group)) = running.join_next() => {
                let waiting = groups.remove(&group).map(|busy| busy.waiting).unwrap_or_default();
                start(&mut groups, &mut running, waiting, &failed);
            }
            Ok(()) = &mut hurried => break,
        }
    }
    // What nothing waits for goes on by itself.
    let (late, _going): (BTreeMap<_, _>, BTreeMap<_, _>) =
        groups.into_iter().partition(|(_, busy)| !busy.waiting.is_empty());
    let mut last = BTreeMap::new();
    for (group, Busy { waiting, end }) in late {
        // One that has just ended needs no end.
        let _ = end.send(());
        last.insert(group, newest(waiting));
    }
    while !last.is_empty()
        && let Some(Ok(group)) = running.join_next().await
    {
        for run in last.remove(&group).into_iter().flatten() {
            // Nobody is there any more to be told of a failure.
            drop(spawn(&run));
        }
    }
}

/// Has a run wait for those of its group before it.
fn wait(waiting: &mut VecDeque<Run>, run: Run, failed: &mpsc::Sender<Failed>) {
    let of_vip = |one: &&Run| one.vip == run.vip;
    if waiting.iter().filter(of_vip).count() >= WAITING
        && let Some(old) = waiting.iter().position(|one| one.vip == run.vip)
        && let Some(old) = waiting.remove(old)
    {
        let text = format!("{} was left out: too many wait already", old.words.join(" "));
        // Who does not follow misses it.
        let _ = failed.try_send(Failed { group: old.group, text });
    }
    waiting.push_back(run);
}

/// The last run for each address.
fn newest(waiting: VecDeque<Run>) -> Vec<Run> {
    let mut newest: Vec<Run> = Vec::new();
    for run in waiting {
        newest.retain(|one| one.vip != run.vip);
        newest.push(run);
    }
    newest
}

/// Starts the first of the runs of a group; the others wait.
fn start(
    groups: &mut BTreeMap<String, Busy>,
    running: &mut JoinSet<String>,
    mut waiting: VecDeque<Run>,
    failed: &mpsc::Sender<Failed>,
) {
    let Some(run) = waiting.pop_front() else { return };
    let (end, ended) = oneshot::channel();
    groups.insert(run.group.clone(), Busy { waiting, end });
    running.spawn(carry_out(run, failed.clone(), ended));
}

/// Runs one to its end, or to the limit, or until it is to be killed; yields its group.
async fn carry_out(run: Run, failed: mpsc::Sender<Failed>, ended: oneshot::Receiver<()>) -> String {
    if let Err(text) = attempt(&run, ended).await {
        // A daemon that is ending has no ear for it any more.
        let _ = failed.try_send(Failed { group: run.group.clone(), text });
    }
    run.group
}

async fn attempt(run: &Run, ended: oneshot::Receiver<()>) -> Result<(), String> {
    let Some(program) = run.words.first() else { return Ok(()) };
    let mut child = spawn(run).map_err(|error| format!("{program} does not start: {error}"))?;
    let waited = tokio::select! {
        waited = timeout(run.limit, child.wait()) => waited.ok(),
        Ok(()) = ended => None,
    };
    match waited {
        Some(Ok(status)) if status.success() => Ok(()),
        Some(Ok(status)) => Err(format!("{program} ended with {status}")),
        Some(Err(error)) => Err(format!("{program}: {error}")),
        None => {
            // Its number cannot be another process's: nobody has waited for it yet.
            if let Some(group) = child.id().and_then(|id| i32::try_from(id).ok()) {
                let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
            }
            let _ = child.wait().await;
            Err(format!("{program} was killed after {:?}", run.limit))
        }
    }
}

fn spawn(run: &Run) -> std::io::Result<Child> {
    let Some((program, arguments)) = run.words.split_first() else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        // The leader of a group of its own: what it starts can be ended with it, and a Ctrl-C that
        // is meant for the daemon does not reach it.
        .process_group(0)
        .spawn()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::io::clock;

    const LONG: Duration = Duration::from_secs(20);

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("pen-hooks-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    fn shell(group: &str, script: &str, limit: Duration) -> Run {
        let words = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        Run { group: group.to_owned(), vip: vip(1), words, limit }
    }

    fn vip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
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
            vip: vip(1),
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

    #[test]
    fn at_the_end_the_last_program_for_each_address_is_started_though_one_before_it_is_slow() {
        let folder = folder("end");
        let log = folder.join("log");
        let run = |last: u8, script: &str| Run { vip: vip(last), ..shell("main", script, LONG) };
        let write =
            |last: u8, word: &str| run(last, &format!("echo {word}{last} >>{}", log.display()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let (sender, _failed) = mpsc::channel(16);
            let hooks = Hooks::start(sender).expect("a thread");
            assert!(hooks.run(run(1, "sleep 30")));
            for last in 1..=40 {
                assert!(hooks.run(write(last, "up")) && hooks.run(write(last, "down")));
            }
            hooks.finish(Duration::from_millis(50)).await;
        });
        let lines = || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let until = clock::now() + LONG;
        while lines().len() < 40 && clock::now() < until {
            thread::yield_now();
        }
        let mut lines = lines();
        lines.sort_unstable();
        let mut expected: Vec<_> = (1..=40).map(|last| format!("down{last}")).collect();
        expected.sort_unstable();
        assert_eq!(lines, expected);
        fs::remove_dir_all(folder).expect("clean up");
    }

    #[test]
    fn runs_for_many_addresses_all_wait_and_too_many_for_one_leave_out_its_oldest() {
        let (sender, mut failed) = mpsc::channel(16);
        let mut waiting = VecDeque::new();
        for last in 1..=100 {
            wait(&mut waiting, Run { vip: vip(last), ..shell("main", "x", LONG) }, &sender);
        }
        assert_eq!(waiting.len(), 100);
        for number in 0..WAITING {
            wait(&mut waiting, shell("main", &format!("y{number}"), LONG), &sender);
        }
        assert_eq!(waiting.len(), 99 + WAITING);
        let told = failed.try_recv().expect("one was left out");
        assert_eq!(told.text, "/bin/sh -c x was left out: too many wait already");
        assert_eq!(newest(waiting).last().map(|run| run.words[2].clone()), Some("y3".to_owned()));
    }
}
