//! One step of work as one line. Its output is kept back and shown only when it fails; meanwhile
//! seconds tick on a terminal, and elsewhere (CI logs) a line every 15 s proves that we are alive.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::cmd;

const TICK: Duration = Duration::from_secs(1);
const HEARTBEAT_SECS: u64 = 15;

/// All that is left of the output of a step that reached its limit.
pub(crate) const GAVE_UP: &str = "gave up: it took too long";

/// What is being done, in the words of its line `verb: name ... ok (12 s)`.
pub(crate) struct Step<'a> {
    pub(crate) verb: &'static str,
    pub(crate) name: &'a str,
    /// How long it usually takes; announces a slow step on a line of its own.
    pub(crate) usually: Option<&'a str>,
    /// When to give up; for what may hang on a network that is not there.
    pub(crate) limit: Option<Duration>,
    /// The word at the end of the line.
    pub(crate) verdict: fn(&Finished) -> &'static str,
}

/// A step that has come to its end, well or not.
pub(crate) struct Finished {
    pub(crate) success: bool,
    /// Standard output and error in the order they were written.
    pub(crate) output: String,
}

pub(crate) fn ok_or_failed(finished: &Finished) -> &'static str {
    if finished.success { "ok" } else { "FAILED" }
}

/// The clock of everything that shows a duration.
#[expect(clippy::disallowed_methods, reason = "xtask decides nothing by it, it shows durations")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

impl Step<'_> {
    /// Runs the command to its end. An error means that it could not be run at all.
    pub(crate) fn run(&self, command: &mut Command) -> Result<Finished> {
        let terminal = io::stdout().is_terminal();
        let begin = now();
        self.begin(terminal);

        let (mut reader, writer) = io::pipe()?;
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let mut child = command.spawn().with_context(|| cmd::cannot_start(command))?;
        // Our copies of the pipe's writing end live in `command`: let go, or reading never ends.
        command.stdout(Stdio::null()).stderr(Stdio::null());

        let (sender, output) = mpsc::sync_channel(1);
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let complete = reader.read_to_end(&mut bytes);
            // The receiver is gone only when the step was given up.
            let _ = sender.send(complete.map(|_| bytes));
        });
        let bytes = loop {
            match output.recv_timeout(TICK) {
                Ok(bytes) => break bytes?,
                Err(RecvTimeoutError::Disconnected) => break Vec::new(),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let elapsed = begin.elapsed();
            if self.limit.is_some_and(|limit| elapsed > limit) {
                child.kill()?;
                break GAVE_UP.into();
            }
            self.tick(elapsed.as_secs(), terminal);
        };
        let success = child.wait()?.success();
        let finished = Finished { success, output: String::from_utf8_lossy(&bytes).into_owned() };
        let word = (self.verdict)(&finished);
        self.show(terminal, &format!("{word} ({})", seconds(begin.elapsed())), true);
        Ok(finished)
    }

    /// Like `run`, for a step that has to succeed.
    pub(crate) fn run_or_fail(&self, command: &mut Command) -> Result<String> {
        let finished = self.run(command)?;
        anyhow::ensure!(finished.success, "{}", cmd::failure(command, &finished.output));
        Ok(finished.output)
    }

    fn begin(&self, terminal: bool) {
        match self.usually {
            Some(time) if terminal => self.show(terminal, &format!("(usually {time})"), false),
            Some(time) => println!("{}: {} ... (usually {time})", self.verb, self.name),
            None if terminal => self.show(terminal, "", false),
            None => {}
        }
    }

    fn tick(&self, elapsed: u64, terminal: bool) {
        if terminal {
            let usually = self.usually.map(|time| format!(" (usually {time})")).unwrap_or_default();
            self.show(terminal, &format!("{elapsed} s{usually}"), false);
        } else if elapsed > 0 && elapsed.is_multiple_of(HEARTBEAT_SECS) {
            println!("{}: {} ... {elapsed} s", self.verb, self.name);
        }
    }

    fn show(&self, terminal: bool, state: &str, last: bool) {
        let clear = if terminal { "\r\x1b[K" } else { "" };
        let end = if last { "\n" } else { "" };
        print!("{clear}{}: {} ... {state}{end}", self.verb, self.name);
        // A closed standard output is no reason to leave the work half done.
        let _ = io::stdout().flush();
    }
}

/// A duration for people: `0.4 s`, `12 s`, `3 min 5 s`.
pub(crate) fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0..2 => format!("{:.1} s", time.as_secs_f32()),
        secs @ 2..120 => format!("{secs} s"),
        secs => format!("{} min {} s", secs / 60, secs % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Step<'static> =
        Step { verb: "test", name: "a step", usually: None, limit: None, verdict: ok_or_failed };

    #[test]
    fn durations_are_readable() {
        for (millis, text) in [(420, "0.4 s"), (12_900, "12 s"), (185_000, "3 min 5 s")] {
            assert_eq!(seconds(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn both_outputs_of_a_failing_step_are_kept() {
        let script = "echo out; echo err >&2; exit 1";
        let finished = STEP.run(Command::new("sh").args(["-c", script])).expect("sh exists");
        assert!(!finished.success);
        assert_eq!(finished.output, "out\nerr\n");
    }

    #[test]
    fn a_step_that_hangs_is_given_up() {
        let step = Step { limit: Some(Duration::from_millis(10)), ..STEP };
        let finished = step.run(Command::new("sleep").arg("60")).expect("sleep exists");
        assert!(!finished.success);
    }
}
