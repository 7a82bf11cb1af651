//! What the operator hears of: the log, the journal, and whoever is to be told of events.

use pen_common::moment::Moment;

use super::Engine;
use super::event::Action;
use super::notify::{Change, Delivery, Message, Totals};
use crate::api::{self, Refusal};

impl Engine {
    pub(super) fn tell(&mut self, now: Moment, kind: &'static str, subject: &str, text: String) {
        self.announce(now, false, kind, subject, text);
    }

    pub(super) fn warn(&mut self, now: Moment, kind: &'static str, subject: &str, text: String) {
        self.announce(now, true, kind, subject, text);
    }

    /// Everything that is told at all goes this way.
    pub(super) fn announce(
        &mut self,
        now: Moment,
        warning: bool,
        kind: &'static str,
        subject: &str,
        text: String,
    ) {
        self.actions.push_back(Action::Log { warning, text: text.clone() });
        self.note_event(now, warning, kind, subject, text);
    }

    /// For the journal, and for whoever is to be told.
    pub(super) fn note_event(
        &mut self,
        at: Moment,
        warning: bool,
        kind: &'static str,
        subject: &str,
        text: String,
    ) {
        let sequence = self.journal.add(at, kind, subject, text.clone());
        let subject = subject.to_owned();
        let message = Message { at, sequence, warning, kind, subject, text, left_out: 0 };
        self.receivers.offer(&message);
    }

    /// Sends what is to be told now.
    pub(super) fn notify(&mut self, now: Moment) {
        let deliveries = self.receivers.poll(now);
        self.actions.extend(deliveries.into_iter().map(|found| Action::Notify(Box::new(found))));
    }

    pub(super) fn notified(
        &mut self,
        now: Moment,
        name: &str,
        serial: u64,
        result: Result<(), String>,
    ) {
        match self.receivers.done(now, name, serial, result) {
            None => {}
            Some(Change::Fails(why)) => {
                self.warn(now, "notify-failed", name, format!("{name} cannot be told: {why}"));
            }
            Some(Change::Works) => {
                self.tell(now, "notify-works", name, format!("{name} can be told again"));
            }
        }
    }

    /// Who cannot be told of events.
    pub(super) fn failing_receivers(&self) -> impl Iterator<Item = String> + '_ {
        self.receivers
            .failing()
            .map(|(name, why)| format!("{name} cannot be told of events: {why}"))
    }

    /// How many messages there were.
    #[must_use]
    pub fn notify_counters(&self) -> Vec<api::Counter> {
        let Some(Totals { sent, failed, dropped }) = self.receivers.totals() else {
            return Vec::new();
        };
        let counters = [
            ("notify-sent", "receivers of events were told", sent),
            (
                "notify-failed",
                "receivers of events could not be told at the first or a later try",
                failed,
            ),
            (
                "notify-dropped",
                "messages of events were never told: too many waited, or tries failed",
                dropped,
            ),
        ];
        let counter = |(name, reason, packets): (&str, &str, u64)| api::Counter {
            name: name.to_owned(),
            reason: reason.to_owned(),
            packets,
            bytes: 0,
        };
        counters.map(counter).to_vec()
    }

    /// A message that shows whether a receiver can be told.
    ///
    /// # Errors
    ///
    /// If nobody is called so.
    pub fn notify_test(&self, now: Moment, name: &str) -> Result<Delivery, Refusal> {
        self.receivers.test(name, now).ok_or_else(|| Refusal {
            error: format!("no [[notify]] is called {name}"),
            cure: match self.receivers.names() {
                names if names.is_empty() => "the configuration has none; add one".to_owned(),
                names => format!("there are: {}", names.join(", ")),
            },
        })
    }

    /// What this node is called.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.config.node.name
    }
}
