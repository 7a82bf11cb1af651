//! Reads the configuration again, beside the daemon's loop: files may be on a slow
//! disk. What was read comes back to the loop, one reading at a time.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::api::{Refusal, Reply};
use crate::config::{self, Config, ConfigError, RealSystem};

/// A reading that takes longer is given up. Below the patience of the control interface with it.
const PATIENCE: Duration = Duration::from_secs(40);

/// Why the configuration is read again.
pub(super) struct Wish {
    /// Only to say what would change.
    pub(super) dry_run: bool,
    /// Who asked; nobody does who sends SIGHUP.
    pub(super) answer: Option<oneshot::Sender<Result<Reply, Refusal>>>,
}

/// What came of it.
pub(super) struct Outcome {
    pub(super) wish: Wish,
    pub(super) config: Result<Config, Refusal>,
}

/// Reads the configuration of one file.
pub(super) struct Reader {
    file: PathBuf,
    done: mpsc::Sender<Outcome>,
    busy: bool,
    /// SIGHUP came while it was being read: what was read may be too old.
    again: bool,
}

impl Reader {
    /// With the end of the channel that the loop listens to.
    pub(super) fn new(file: PathBuf) -> (Self, mpsc::Receiver<Outcome>) {
        let (done, outcomes) = mpsc::channel(1);
        (Self { file, done, busy: false, again: false }, outcomes)
    }

    /// Begins to read. Of two at a time the second is refused, or waits if it is a signal.
    pub(super) fn begin(&mut self, wish: Wish) {
        if self.busy {
            match wish.answer {
                Some(answer) => {
                    let _ = answer.send(Err(Refusal {
                        error: "the configuration is being read already".to_owned(),
                        cure: "try again when that has ended".to_owned(),
                    }));
                }
                None => self.again = true,
            }
            return;
        }
        self.busy = true;
        let (file, done) = (self.file.clone(), self.done.clone());
        tokio::spawn(async move {
            let reading = spawn_blocking(move || config::load(&file, &RealSystem));
            let config = match timeout(PATIENCE, reading).await {
                Ok(Ok(read)) => read.map_err(|errors| refusal(&errors)),
                Ok(Err(_)) | Err(_) => Err(Refusal {
                    error: format!("the configuration was not read within {PATIENCE:?}"),
                    cure: "see whether its disk answers; nothing was changed".to_owned(),
                }),
            };
            // Without a receiver the daemon has ended.
            let _ = done.send(Outcome { wish, config }).await;
        });
    }

    /// The loop has what was read.
    pub(super) fn end(&mut self) {
        self.busy = false;
        if std::mem::take(&mut self.again) {
            self.begin(Wish { dry_run: false, answer: None });
        }
    }
}

fn refusal(errors: &[ConfigError]) -> Refusal {
    let plural = if errors.len() == 1 { "error" } else { "errors" };
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    Refusal {
        error: format!("the configuration has {} {plural}", errors.len()),
        cure: format!("nothing was changed; correct it:\n{}", lines.join("\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(test);
    }

    fn missing() -> PathBuf {
        "/nonexistent/pen.toml".into()
    }

    fn asked() -> (Wish, oneshot::Receiver<Result<Reply, Refusal>>) {
        let (answer, asked) = oneshot::channel();
        (Wish { dry_run: true, answer: Some(answer) }, asked)
    }

    #[test]
    fn what_is_wrong_comes_back_with_who_asked() {
        run(async {
            let (mut reader, mut outcomes) = Reader::new(missing());
            let (wish, _asked) = asked();
            reader.begin(wish);
            let Outcome { wish, config } = outcomes.recv().await.expect("an outcome");
            assert!(wish.dry_run && wish.answer.is_some());
            let refusal = config.expect_err("there is no file").to_string();
            let text = "the configuration has 1 error; nothing was changed; correct it:\n\
                        /nonexistent/pen.toml:1:1: cannot be read";
            assert!(refusal.starts_with(text), "{refusal}");
        });
    }

    #[test]
    fn a_second_question_is_refused_and_a_signal_waits_for_its_turn() {
        run(async {
            let (mut reader, mut outcomes) = Reader::new(missing());
            reader.begin(Wish { dry_run: true, answer: None });
            let (wish, second) = asked();
            reader.begin(wish);
            let refusal = second.await.expect("an answer").expect_err("busy");
            assert_eq!(refusal.error, "the configuration is being read already");
            reader.begin(Wish { dry_run: false, answer: None });
            assert!(outcomes.recv().await.expect("an outcome").wish.dry_run);
            reader.end();
            assert!(!outcomes.recv().await.expect("another one").wish.dry_run);
            reader.end();
            assert!(outcomes.try_recv().is_err(), "no third one");
        });
    }
}
