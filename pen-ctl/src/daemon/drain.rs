//! Connections of the proxies go on for a time after the daemon was told to end.

use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::Daemon;
use super::signals::Signals;
use crate::engine::event::Event;
use crate::io::clock;
use crate::io::proxy::Proxies;

/// Pause between two looks whether there are still some.
const LOOK: Duration = Duration::from_millis(20);

impl Daemon {
    /// Writes what the engine has put off: an operator who was answered relies on it, and the next
    /// daemon knows only what the maps say.
    pub(super) fn catch_up(&mut self) {
        self.engine.catch_up(clock::now());
        self.carry_out();
    }

    /// Leaves the sockets that clients connect to to whoever takes this place; false if nobody does.
    pub(super) fn leave_to_heir(&mut self, control: &Path) -> bool {
        let has_heir = self.proxies.leave_to_heir(control).unwrap_or_else(|error| {
            tracing::warn!("the next pend does not get the sockets of the proxies: {error}");
            false
        });
        if has_heir {
            self.proxies.retire(true);
        }
        has_heir
    }

    /// Takes no more clients, and lets connections go on for as long as the configuration wants. All
    /// else is served meanwhile.
    pub(super) async fn drain(&mut self, inbox: &mut mpsc::Receiver<Event>, signals: &mut Signals) {
        let limit = self.engine.drain_at_exit().unwrap_or(Duration::ZERO);
        if limit.is_zero() {
            return;
        }
        self.proxies.retire(false);
        say(&self.proxies, limit);
        let until = clock::now() + limit;
        let mut looks = looks();
        while clock::now() < until && !self.proxies.is_over() {
            tokio::select! {
                biased;
                () = signals.end.recv() => return,
                _ = signals.user1.recv() => self.proxies.reopen_log(),
                _ = signals.hangup.recv() => self.proxies.reopen_log(),
                Some(event) = inbox.recv() => self.handle(event),
                () = clock::sleep_until(self.engine.next_deadline()) => {
                    self.handle(Event::TimePassed);
                }
                _ = looks.tick() => {}
            }
        }
    }
}

/// Lets connections go on beside the daemon that has taken this place, which has all else.
pub(super) async fn go_on(proxies: &mut Proxies, limit: Duration, signals: &mut Signals) {
    say(proxies, limit);
    let until = clock::now() + limit;
    let mut looks = looks();
    while clock::now() < until && !proxies.is_over() {
        tokio::select! {
            () = signals.end.recv() => return,
            _ = signals.user1.recv() => proxies.reopen_log(),
            _ = signals.hangup.recv() => proxies.reopen_log(),
            _ = looks.tick() => {}
        }
    }
}

fn say(proxies: &Proxies, limit: Duration) {
    let open = proxies.open();
    if open > 0 {
        let limit = humantime::format_duration(limit);
        tracing::info!("{open} connections and flows of proxies may go on for {limit}");
    }
}

fn looks() -> tokio::time::Interval {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}
