//! Who is told of which event, and when: kinds that a receiver wants, so many in a minute, one at a
//! time, and again after a while if it could not be told. Pure: `io::notify` carries messages.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use pen_common::moment::Moment;

use crate::config::{Notify, To};

/// Messages that may wait for one receiver; of more the oldest is dropped.
const WAITING: usize = 64;
/// The rate is that of so long.
const WINDOW: Duration = Duration::from_secs(60);
/// A server is tried so often for one message.
const TRIES: u32 = 8;
/// After the first failure the wait is so long, and twice as long after each other one.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// But not longer.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What a receiver is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// When it happened.
    pub at: Moment,
    /// Number of the event; 0 of what is no event.
    pub sequence: u64,
    /// It needs attention.
    pub warning: bool,
    /// Kind of the event, `left-out` of a message that sums others up, or `test`.
    pub kind: &'static str,
    /// What it is about.
    pub subject: String,
    /// The whole story in a sentence.
    pub text: String,
    /// Events that it sums up.
    pub left_out: u64,
}

/// A message on its way; answered by [`Receivers::done`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// To whom.
    pub to: Arc<Notify>,
    /// Which one.
    pub serial: u64,
    /// What is told.
    pub message: Message,
}

/// What became known of a receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It cannot be told; why not.
    Fails(String),
    /// It can be told again.
    Works,
}

/// How many messages there were, of all receivers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Told.
    pub sent: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Never told.
    pub dropped: u64,
}

/// All receivers.
#[derive(Debug, Default)]
pub struct Receivers {
    all: Vec<Receiver>,
    totals: Totals,
    serial: u64,
}

#[derive(Debug)]
struct Receiver {
    config: Arc<Notify>,
    /// Oldest first; of the first one an attempt may be under way.
    waiting: VecDeque<Message>,
    /// The attempt under way.
    under_way: Option<u64>,
    /// Attempts that failed for the first message.
    tries: u32,
    /// The first message is not tried before this time.
    not_before: Moment,
    window: Window,
    /// Why it could not be told.
    failing: Option<String>,
}

/// What a receiver was told in a minute.
#[derive(Debug)]
struct Window {
    /// When it ends; never if there is none.
    end: Moment,
    told: u32,
    /// Events beyond the rate, by kind.
    left_out: BTreeMap<&'static str, u64>,
}

impl Receivers {
    /// These are the receivers from now on. Who is told as before keeps what waits for it.
    pub fn configure(&mut self, wanted: &[Notify]) {
        let mut before = std::mem::take(&mut self.all);
        for config in wanted {
            let same = before.iter().position(|found| found.config.name == config.name);
            let mut receiver = match same.map(|at| before.swap_remove(at)) {
                Some(known) if known.config.to == config.to => known,
                Some(known) => {
                    self.totals.dropped += count(known.waiting.len());
                    Receiver::new(config)
                }
                None => Receiver::new(config),
            };
            receiver.config = Arc::new(config.clone());
            self.all.push(receiver);
        }
        let gone = before.iter().map(|receiver| count(receiver.waiting.len()));
        self.totals.dropped += gone.sum::<u64>();
    }

    /// An event happened: whoever wants it is told as soon as [`Receivers::poll`] says so.
    pub fn offer(&mut self, message: &Message) {
        for receiver in &mut self.all {
            // Nobody is told that it cannot be told.
            let own =
                message.kind.starts_with("notify-") && message.subject == receiver.config.name;
            if receiver.config.wants(message.kind, message.warning) && !own {
                self.totals.dropped += receiver.offer(message);
            }
        }
    }

    /// A message to one receiver that shows whether it can be told.
    pub fn test(&self, name: &str, now: Moment) -> Option<Delivery> {
        let found = self.all.iter().find(|receiver| receiver.config.name == name)?;
        let message = Message {
            at: now,
            sequence: 0,
            warning: false,
            kind: "test",
            subject: name.to_owned(),
            text: "this is a test: events will be told in this way".to_owned(),
            left_out: 0,
        };
        Some(Delivery { to: Arc::clone(&found.config), serial: 0, message })
    }

    /// What is to be told now.
    pub fn poll(&mut self, now: Moment) -> Vec<Delivery> {
        let Self { all, serial, totals } = self;
        all.iter_mut()
            .filter_map(|receiver| {
                totals.dropped += receiver.sum_up(now);
                let message = receiver.next(now)?;
                *serial += 1;
                receiver.under_way = Some(*serial);
                Some(Delivery { to: Arc::clone(&receiver.config), serial: *serial, message })
            })
            .collect()
    }

    /// An attempt ended. Returns what is news of the receiver.
    pub fn done(
        &mut self,
        now: Moment,
        name: &str,
        serial: u64,
        result: Result<(), String>,
    ) -> Option<Change> {
        let receiver = self.all.iter_mut().find(|found| found.config.name == name)?;
        if receiver.under_way != Some(serial) {
            return None;
        }
        receiver.under_way = None;
        match result {
            Ok(()) => {
                self.totals.sent += 1;
                receiver.finish();
                receiver.failing.take().map(|_| Change::Works)
            }
            Err(why) => {
                self.totals.failed += 1;
                receiver.tries += 1;
                let tries = match receiver.config.to {
                    // Who knows what it has done already.
                    To::Program(_) => 1,
                    To::Webhook(_) => TRIES,
                };
                if receiver.tries >= tries {
                    self.totals.dropped += 1;
                    receiver.finish();
                } else {
                    receiver.not_before = now + wait(receiver.tries);
                }
                let news = receiver.failing.is_none();
                receiver.failing = Some(why.clone());
                news.then_some(Change::Fails(why))
            }
        }
    }

    /// When [`Receivers::poll`] wants to be called.
    pub fn next_deadline(&self) -> Moment {
        let deadlines = self.all.iter().flat_map(|receiver| {
            let idle = receiver.under_way.is_none() && !receiver.waiting.is_empty();
            let summary = if receiver.window.left_out.is_empty() {
                Moment::NEVER
            } else {
                receiver.window.end
            };
            [if idle { receiver.not_before } else { Moment::NEVER }, summary]
        });
        deadlines.min().unwrap_or(Moment::NEVER)
    }

    /// Names of those that cannot be told, and why not.
    pub fn failing(&self) -> impl Iterator<Item = (&str, &str)> {
        self.all.iter().filter_map(|receiver| {
            Some((receiver.config.name.as_str(), receiver.failing.as_deref()?))
        })
    }

    /// How many messages there were; `None` if nobody is told.
    pub fn totals(&self) -> Option<Totals> {
        (!self.all.is_empty() || self.totals != Totals::default()).then_some(self.totals)
    }

    /// Names of all.
    pub fn names(&self) -> Vec<&str> {
        self.all.iter().map(|receiver| receiver.config.name.as_str()).collect()
    }
}

impl Receiver {
    fn new(config: &Notify) -> Self {
        Self {
            config: Arc::new(config.clone()),
            waiting: VecDeque::new(),
            under_way: None,
            tries: 0,
            not_before: Moment(0),
            window: Window { end: Moment::NEVER, told: 0, left_out: BTreeMap::new() },
            failing: None,
        }
    }

    /// Returns how many messages had to go.
    fn offer(&mut self, message: &Message) -> u64 {
        let Window { end, told, left_out } = &mut self.window;
        if message.at >= *end && left_out.is_empty() {
            (*end, *told) = (Moment::NEVER, 0);
        }
        if *told >= self.config.rate_limit {
            *left_out.entry(message.kind).or_default() += 1;
            return 0;
        }
        if *told == 0 {
            *end = message.at + WINDOW;
        }
        *told += 1;
        self.push(message.clone())
    }

    /// When the minute is over, what was left out in it is told in one message, the first one of the
    /// next. Returns how many messages had to go.
    fn sum_up(&mut self, now: Moment) -> u64 {
        if now < self.window.end || self.window.left_out.is_empty() {
            return 0;
        }
        let left_out = std::mem::take(&mut self.window.left_out);
        self.window = Window { end: now + WINDOW, told: 1, left_out: BTreeMap::new() };
        let count = left_out.values().sum::<u64>();
        let kinds: Vec<_> =
            left_out.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let (events, were) = if count == 1 { ("event", "was") } else { ("events", "were") };
        self.push(Message {
            at: now,
            sequence: 0,
            warning: true,
            kind: "left-out",
            subject: self.config.name.clone(),
            text: format!("{count} more {events} {were} not told one by one: {}", kinds.join(", ")),
            left_out: count,
        })
    }

    fn push(&mut self, message: Message) -> u64 {
        self.waiting.push_back(message);
        if self.waiting.len() <= WAITING {
            return 0;
        }
        // What is under way cannot be taken back.
        let oldest = usize::from(self.under_way.is_some());
        self.waiting.remove(oldest);
        if oldest == 0 {
            self.tries = 0;
        }
        1
    }

    fn next(&self, now: Moment) -> Option<Message> {
        let due = self.under_way.is_none() && now >= self.not_before;
        self.waiting.front().filter(|_| due).cloned()
    }

    /// The first message is done with.
    fn finish(&mut self) {
        self.waiting.pop_front();
        self.tries = 0;
        self.not_before = Moment(0);
    }
}

/// How long the attempt after so many failed ones has to wait.
fn wait(failed: u32) -> Duration {
    let doubled = 1_u32.checked_shl(failed.saturating_sub(1)).unwrap_or(u32::MAX);
    FIRST_WAIT.saturating_mul(doubled).min(LONGEST_WAIT)
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
