//! Keeps the answers to transparent services coming: tells which are to be taken in, has it looked
//! after that this lasts, and remembers what is missing for it.

use std::collections::BTreeSet;
use std::time::Duration;

use pen_common::moment::Moment;

use super::Engine;
use super::event::Action;
use super::proxy::View;
use super::proxy::transparent::{Answers, answers};

/// How often it is looked after: routes to servers change, and others change rules.
const CHECK: Duration = Duration::from_secs(10);

/// The answers of servers that are to be taken in although they are addressed to clients.
#[derive(Debug)]
pub(super) struct Answering {
    wanted: BTreeSet<Answers>,
    problems: BTreeSet<String>,
    /// When it is to be looked after; never without any.
    check_at: Moment,
}

impl Default for Answering {
    fn default() -> Self {
        Self { wanted: BTreeSet::new(), problems: BTreeSet::new(), check_at: Moment::NEVER }
    }
}

impl Answering {
    /// What keeps servers from being answered, or their answers from coming.
    pub(super) fn problems(&self) -> impl Iterator<Item = &String> {
        self.problems.iter()
    }

    pub(super) const fn next_deadline(&self) -> Moment {
        self.check_at
    }

    /// Something changed that it may depend on.
    pub(super) fn hurry(&mut self, now: Moment) {
        if self.check_at != Moment::NEVER {
            self.check_at = now;
        }
    }
}

impl Engine {
    /// Tells which answers are to be taken in, if that has changed.
    pub(super) fn route_answers(&mut self, view: &View) {
        let wanted = answers(view);
        if wanted != self.answers.wanted {
            self.answers.wanted.clone_from(&wanted);
            self.actions.push_back(Action::RouteAnswers(wanted));
        }
    }

    pub(super) fn check_answers(&mut self, now: Moment) {
        if now >= self.answers.check_at {
            self.answers.check_at = Moment::NEVER;
            self.actions.push_back(Action::CheckAnswers);
        }
    }

    pub(super) fn answers_routed(&mut self, now: Moment, problems: BTreeSet<String>, any: bool) {
        self.answers.check_at = if any { now + CHECK } else { Moment::NEVER };
        // What is missing is told with all other warnings.
        self.dirty |= problems != self.answers.problems;
        self.answers.problems = problems;
    }
}
