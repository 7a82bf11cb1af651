//! Tells people and their programs of events: starts what the engine says, and tells it how that
//! went. One short task per message, bounded by its timeout.

mod program;
mod webhook;

use std::time::Duration;

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::api::{NotifyTested, Refusal, Reply};
use crate::config::To;
use crate::engine::event::Event;
use crate::engine::notify::{Delivery, Message};
use crate::io::clock;

/// Sends messages.
#[derive(Debug)]
pub struct Notifier {
    events: mpsc::Sender<Event>,
}

/// A message as receivers read it. Fields may be added, none is renamed or removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Told<'a> {
    /// Name of the node.
    node: &'a str,
    /// Kind of the event.
    event: &'a str,
    /// What it is about.
    subject: &'a str,
    /// The whole story in a sentence.
    text: &'a str,
    /// `warning` or `info`.
    severity: &'a str,
    /// When it happened, in seconds since 1970.
    time: u64,
    /// Number of the event; 0 of what is none.
    sequence: u64,
    /// Events that it sums up.
    left_out: u64,
}

impl<'a> Told<'a> {
    fn new(node: &'a str, message: &'a Message) -> Self {
        let Message { at, sequence, warning, kind, subject, text, left_out } = message;
        let ago = clock::now().since(*at).as_secs();
        Self {
            node,
            event: kind,
            subject,
            text,
            severity: if *warning { "warning" } else { "info" },
            time: clock::wall_seconds().saturating_sub(ago),
            sequence: *sequence,
            left_out: *left_out,
        }
    }
}

impl Notifier {
    /// How it went is sent to `events`.
    #[must_use]
    pub const fn new(events: mpsc::Sender<Event>) -> Self {
        Self { events }
    }

    /// Sends a message of this node. How it went is sent as [`Event::Notified`].
    pub fn start(&self, node: &str, delivery: Delivery) {
        let (node, events) = (node.to_owned(), self.events.clone());
        tokio::spawn(async move {
            let result = deliver(&node, &delivery).await;
            let (receiver, serial) = (delivery.to.name.clone(), delivery.serial);
            // The loop is gone only when the daemon ends.
            let _ = events.send(Event::Notified { receiver, serial, result }).await;
        });
    }

    /// Sends one of which only the one who asked hears how it went.
    pub fn test(
        &self,
        node: &str,
        delivery: Delivery,
        answer: oneshot::Sender<Result<Reply, Refusal>>,
    ) {
        let node = node.to_owned();
        tokio::spawn(async move {
            let begin = clock::now();
            let result = deliver(&node, &delivery).await;
            let took = clock::now().since(begin);
            let (receiver, to) = (delivery.to.name.clone(), delivery.to.to.to_string());
            let reply = match result {
                Ok(()) => Ok(Reply::NotifyTested(NotifyTested {
                    receiver,
                    to,
                    took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                })),
                Err(why) => Err(Refusal {
                    error: format!("{receiver} was not told: {why}"),
                    cure: format!("see whether its [[notify]] is right ({to})"),
                }),
            };
            // A peer that went away does not want its answer.
            let _ = answer.send(reply);
        });
    }
}

async fn deliver(node: &str, Delivery { to, message, .. }: &Delivery) -> Result<(), String> {
    let told = Told::new(node, message);
    match &to.to {
        To::Program(exec) => program::tell(exec, &told, to.timeout).await,
        To::Webhook(webhook) => {
            within(to.timeout, webhook::tell(webhook, &told)).await.unwrap_or_else(Err)
        }
    }
}

/// Waits for something, but no longer than this.
async fn within<T>(limit: Duration, what: impl Future<Output = T>) -> Result<T, String> {
    let late = || format!("no answer within {}", humantime::format_duration(limit));
    timeout(limit, what).await.map_err(|_elapsed| late())
}

fn json(told: &Told<'_>) -> Vec<u8> {
    serde_json::to_vec(told).expect("plain data is JSON")
}

#[cfg(test)]
mod tests;
