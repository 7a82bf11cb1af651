//! Questions of the operator that only the threads of the proxy can answer.

use tokio::sync::{mpsc, oneshot};

use super::worker::Question;
use crate::api::{Close, Closed, Connections, RecordQuery};

/// Asks the threads of the proxy, from any other thread that may wait.
#[derive(Clone, Debug)]
pub struct Asker {
    pub(super) questions: Vec<mpsc::Sender<Question>>,
}

impl Asker {
    /// The connections that fit.
    #[must_use]
    pub fn connections(&self, wanted: &RecordQuery) -> Connections {
        let mut all = Connections::default();
        for (connections, more) in self.ask(|answer| Question::List(wanted.clone(), answer)) {
            all.connections.extend(connections);
            all.more += more;
        }
        all.connections.sort_by_key(|connection| std::cmp::Reverse(connection.id));
        all.more += all.connections.len().saturating_sub(wanted.limit) as u64;
        all.connections.truncate(wanted.limit);
        all
    }

    /// Closes the connections that fit.
    #[must_use]
    pub fn close(&self, wish: &Close) -> Closed {
        let counts = self.ask(|answer| Question::Close(wish.clone(), answer));
        Closed { closed: counts.into_iter().sum(), dry_run: wish.dry_run }
    }

    /// Threads that have ended have nothing to say.
    fn ask<T>(&self, question: impl Fn(oneshot::Sender<T>) -> Question) -> Vec<T> {
        let asked: Vec<_> = self
            .questions
            .iter()
            .filter_map(|ask| {
                let (answer, answered) = oneshot::channel();
                ask.blocking_send(question(answer)).ok().map(|()| answered)
            })
            .collect();
        asked.into_iter().filter_map(|answered| answered.blocking_recv().ok()).collect()
    }
}
