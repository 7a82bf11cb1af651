//! Work that takes too long for the daemon's loop: done beside it, on a thread of its own, one at a
//! time, and for a bounded time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::api::{Refusal, Reload, Reply};
use crate::engine::notify::Delivery;
use crate::io::carp::Question;
use crate::io::clock;

/// Who comes while another one is at work waits for so long.
const WAIT: Duration = Duration::from_secs(2);
/// The work has to end after this time. With the wait below the patience of the control interface,
/// so that the answer is not lost.
const WORK: Duration = Duration::from_secs(6);

/// Such work. It is handed a function that says whether it may go on: not if its time is up, and
/// not if nobody waits for its answer any more.
pub(super) type Work = Box<dyn FnOnce(&dyn Fn() -> bool) -> Result<Reply, Refusal> + Send>;

/// What the daemon's loop has to say.
pub(super) enum Answer {
    /// This.
    Now(Reply),
    /// Whatever comes out of this.
    Later(Work),
    /// What the thread of CARP says.
    ByCarp(Question),
    /// Whether somebody could be told of events.
    ByReceiver(Delivery),
    /// What comes of the configuration once it has been read again.
    AfterReading(Reload),
}

impl Answer {
    pub(super) fn later(
        work: impl FnOnce(&dyn Fn() -> bool) -> Result<Reply, Refusal> + Send + 'static,
    ) -> Self {
        Self::Later(Box::new(work))
    }
}

/// One place for such work.
#[derive(Clone, Debug)]
pub(super) struct Aside {
    place: Arc<Semaphore>,
    wait: Duration,
}

impl Aside {
    pub(super) fn new() -> Self {
        Self { place: Arc::new(Semaphore::new(1)), wait: WAIT }
    }

    /// Does the work and sends its answer.
    pub(super) fn run(&self, answer: oneshot::Sender<Result<Reply, Refusal>>, work: Work) {
        let Self { place, wait } = self.clone();
        tokio::spawn(async move {
            let Ok(Ok(permit)) = timeout(wait, place.acquire_owned()).await else {
                let _ = answer.send(Err(Refusal {
                    error: "another long list or simulation is under way".to_owned(),
                    cure: "try again when it has ended".to_owned(),
                }));
                return;
            };
            spawn_blocking(move || {
                let _permit = permit;
                let deadline = clock::now() + WORK;
                let reply = work(&|| !answer.is_closed() && clock::now() < deadline);
                // A peer that went away does not want its answer.
                let _ = answer.send(reply);
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    type Asked = oneshot::Receiver<Result<Reply, Refusal>>;

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(test);
    }

    /// Work that ends when the sender is dropped or nobody waits for it.
    fn begin(aside: &Aside) -> (mpsc::Sender<()>, Asked) {
        let (end, ended) = mpsc::channel::<()>();
        let (answer, asked) = oneshot::channel();
        let work = move |go_on: &dyn Fn() -> bool| {
            while go_on() {
                if let Err(mpsc::RecvTimeoutError::Disconnected) =
                    ended.recv_timeout(Duration::from_millis(5))
                {
                    break;
                }
            }
            Ok(Reply::Vips(Vec::new()))
        };
        aside.run(answer, Box::new(work));
        (end, asked)
    }

    #[test]
    fn the_loop_goes_on_while_somebody_works() {
        run(async {
            let (end, asked) = begin(&Aside::new());
            let other = tokio::spawn(async {});
            assert!(other.await.is_ok(), "the runtime has one thread, and it is free");
            drop(end);
            assert_eq!(asked.await, Ok(Ok(Reply::Vips(Vec::new()))));
        });
    }

    #[test]
    fn the_next_one_waits_for_its_turn() {
        run(async {
            let aside = Aside::new();
            let (end, first) = begin(&aside);
            let (other_end, second) = begin(&aside);
            drop(end);
            assert!(first.await.is_ok());
            drop(other_end);
            assert!(second.await.is_ok());
        });
    }

    #[test]
    fn who_would_wait_too_long_is_refused_with_a_cure() {
        run(async {
            let aside = Aside { wait: Duration::from_millis(10), ..Aside::new() };
            let (end, first) = begin(&aside);
            let (_other, second) = begin(&aside);
            let refusal = second.await.expect("answered").expect_err("the place is taken");
            assert_eq!(
                refusal.to_string(),
                "another long list or simulation is under way; try again when it has ended"
            );
            drop(end);
            assert!(first.await.is_ok());
        });
    }

    #[test]
    fn work_that_nobody_waits_for_ends() {
        run(async {
            let aside = Aside::new();
            let (_end, first) = begin(&aside);
            drop(first);
            let (end, second) = begin(&aside);
            drop(end);
            assert!(second.await.is_ok(), "the place is free again");
        });
    }
}
