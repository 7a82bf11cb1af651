//! What the packets of clients tell of backends, and what follows: the kernel counts connections that
//! were refused, SYNs that had to be repeated, and errors that say that nobody is there. They raise a
//! doubt, and who is doubted is asked at once, not only when its next probe is due. Several refusals
//! in a row without an answer are worth as much as a failure that a proxy met (`passive`).
//!
//! Repeated SYNs can be forged by anybody, so they do no more than raise a doubt; and however many
//! doubts there are, a backend is not asked more often than `hurry_probe` allows.

use std::time::Duration;

use pen_common::abi::Signals;
use pen_common::moment::Moment;

use super::event::{Action, Failure, SignalsRead};
use super::passive;
use super::{Backend, Engine, SPREAD, Service};
use crate::api;
use crate::config::{CheckKind, Mode};

/// From one look at the sum to the next.
const PACE: Duration = Duration::from_secs(1);
/// So many signals raise a doubt, or are a failure.
const SEVERAL: u64 = 3;
/// Signals are forgotten after this time: one a minute is the way of the world.
const WINDOW: Duration = Duration::from_secs(10);
/// However often a backend is doubted, the operator hears of it once in this time.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// How far the kernel's counts were read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reading {
    /// The sum when they were read last; `None` before.
    total: Option<Signals>,
    /// When that was.
    at: Moment,
    next: Moment,
}

/// What was told of a backend lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Suspicion {
    /// What was counted when it was read last.
    seen: Signals,
    /// When the first of those came that are not forgotten.
    since: Moment,
    /// Those that raised no doubt yet.
    fresh: Signals,
    /// Refusals and errors in a row, without an answer in between.
    row: u64,
    told_at: Option<Moment>,
}

/// What follows from signals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Finding {
    /// The signals that raise a doubt.
    doubt: Option<Signals>,
    /// It failed clients.
    failed: bool,
}

impl Suspicion {
    /// Takes note of what is counted now. Of counts that were last looked at long ago nobody can say
    /// whether answers came before or after refusals (`stale`): they are a doubt at most.
    fn judge(&mut self, now: Moment, counted: Signals, stale: bool) -> Finding {
        let news = difference(counted, self.seen);
        self.seen = counted;
        if now.since(self.since) >= WINDOW {
            *self = Self { since: now, fresh: Signals::default(), row: 0, ..*self };
        }
        self.fresh = sum(self.fresh, news);
        let hard = news.refused + news.unreachable;
        self.row = if news.answered == 0 || stale { self.row + hard } else { 0 };
        let failed = self.row >= SEVERAL && !stale;
        if failed {
            self.row = 0;
        }
        let Signals { refused, unanswered, unreachable, .. } = self.fresh;
        let doubts = refused + unreachable >= SEVERAL || unanswered >= SEVERAL;
        let doubt = doubts.then_some(self.fresh);
        if doubts {
            self.fresh = Signals::default();
        }
        Finding { doubt, failed }
    }

    /// Whether the operator is to hear of a doubt.
    fn is_news(&mut self, now: Moment) -> bool {
        let is_news = self.told_at.is_none_or(|told| now.since(told) >= TELL_AGAIN);
        if is_news {
            self.told_at = Some(now);
        }
        is_news
    }
}

impl Engine {
    /// When to look at the counts again; never while nobody would act on them.
    pub(super) fn next_signals(&self) -> Moment {
        if self.watches_signals() { self.reading.next } else { Moment::NEVER }
    }

    fn watches_signals(&self) -> bool {
        self.started && self.services.iter().any(acts)
    }

    pub(super) fn read_signals(&mut self, now: Moment) {
        if now >= self.reading.next && self.watches_signals() {
            self.reading.next = now + PACE;
            self.actions.push_back(Action::ReadSignals { known: self.reading.total });
        }
    }

    pub(super) fn signals_read(&mut self, now: Moment, read: SignalsRead) {
        let Reading { total, at, .. } = self.reading;
        let is_first = total.is_none();
        let stale = now.since(at) > PACE * 3 / 2;
        (self.reading.total, self.reading.at) = (Some(read.total), now);
        let mut found = Vec::new();
        for (at, service) in self.services.iter_mut().enumerate() {
            let acts = acts(service);
            for (index, backend) in service.backends.iter_mut().enumerate() {
                let Some(counted) = read.of.get(&backend.id) else { continue };
                // Before this daemon came, others have acted on them.
                if is_first || !acts {
                    backend.suspicion.seen = *counted;
                    continue;
                }
                found.push((at, index, backend.suspicion.judge(now, *counted, stale)));
            }
        }
        let mut hurried = 0;
        for (at, index, Finding { doubt, failed }) in found {
            if failed && passive::terms(&self.services[at].config).is_some() {
                let Backend { id, generation, .. } = self.services[at].backends[index];
                self.backend_failed(now, id, generation, Failure::Refused);
            }
            let Some(signals) = doubt else { continue };
            // Whatever may have failed together is not asked all at once.
            if !self.hurry_probe(now + SPREAD * hurried, at, index) {
                continue;
            }
            hurried += 1;
            if self.services[at].backends[index].suspicion.is_news(now) {
                let subject = self.subject(at, index);
                let text = format!(
                    "{subject} is asked at once, because of its clients: {}",
                    api::Signals::from(signals)
                );
                self.tell(now, "doubted", &subject, text);
            }
        }
    }
}

/// Whether anything can follow from signals of a service.
fn acts(service: &Service) -> bool {
    let config = &service.config;
    config.mode != Mode::Proxy
        && (config.check.kind != CheckKind::None || passive::terms(config).is_some())
}

/// What came after `before`. The kernel's counts of a backend begin anew when it has died.
fn difference(now: Signals, before: Signals) -> Signals {
    let since = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
    Signals {
        refused: since(now.refused, before.refused),
        unanswered: since(now.unanswered, before.unanswered),
        unreachable: since(now.unreachable, before.unreachable),
        answered: since(now.answered, before.answered),
    }
}

fn sum(one: Signals, other: Signals) -> Signals {
    Signals {
        refused: one.refused + other.refused,
        unanswered: one.unanswered + other.unanswered,
        unreachable: one.unreachable + other.unreachable,
        answered: one.answered + other.answered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(1) + Duration::from_secs(seconds)
    }

    fn counted(refused: u64, unanswered: u64, unreachable: u64, answered: u64) -> Signals {
        Signals { refused, unanswered, unreachable, answered }
    }

    /// What each of these counts leads to, read second after second: a doubt and a failure.
    fn findings(counts: &[Signals]) -> Vec<(bool, bool)> {
        let mut suspicion = Suspicion { since: at(0), ..Suspicion::default() };
        let judge = |(second, counted): (u64, &Signals)| {
            let found = suspicion.judge(at(second), *counted, false);
            (found.doubt.is_some(), found.failed)
        };
        (0..).zip(counts).map(judge).collect()
    }

    #[test]
    fn several_refusals_in_a_row_are_a_doubt_and_a_failure() {
        let counts = [counted(2, 0, 0, 0), counted(2, 0, 1, 0), counted(3, 0, 2, 0)];
        assert_eq!(findings(&counts), [(false, false), (true, true), (false, false)]);
    }

    #[test]
    fn who_answers_others_is_doubted_but_has_not_failed() {
        assert_eq!(findings(&[counted(3, 0, 0, 1)]), [(true, false)]);
        let counts = [counted(2, 0, 0, 0), counted(2, 0, 0, 1), counted(4, 0, 0, 1)];
        assert_eq!(findings(&counts), [(false, false), (false, false), (true, false)]);
    }

    #[test]
    fn repeated_syns_are_never_a_failure() {
        assert_eq!(findings(&[counted(0, 1000, 0, 0)]), [(true, false)]);
        assert_eq!(findings(&[counted(2, 2, 0, 0)]), [(false, false)], "each kind apart");
    }

    #[test]
    fn signals_that_come_now_and_then_are_forgotten() {
        let mut suspicion = Suspicion::default();
        for round in 1..20 {
            let found = suspicion.judge(at(round * 11), counted(round, round, 0, 0), false);
            assert_eq!(found, Finding::default(), "{round}");
        }
    }

    #[test]
    fn counts_that_nobody_has_looked_at_for_long_are_a_doubt_at_most() {
        let mut suspicion = Suspicion::default();
        let found = suspicion.judge(at(100), counted(3, 0, 0, 1000), true);
        assert_eq!((found.doubt.is_some(), found.failed), (true, false));
        let found = suspicion.judge(at(101), counted(4, 0, 0, 1000), false);
        assert!(found.failed, "they were in a row");
    }

    #[test]
    fn counts_that_began_anew_are_news_from_zero() {
        let mut suspicion = Suspicion { seen: counted(900, 0, 0, 5), ..Suspicion::default() };
        let found = suspicion.judge(at(1), counted(3, 0, 0, 0), false);
        assert_eq!(found.doubt, Some(counted(3, 0, 0, 0)));
    }
}
