//! Decides when names of servers are asked for, and keeps what the DNS said: the last good answer holds
//! until there is another one. `fill` makes backends of it, [`wire`] has the messages.

pub(super) mod fill;
pub mod wire;
mod wishes;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use pen_common::moment::Moment;
use serde::{Deserialize, Serialize};

use crate::config::{Named, Service};

/// An answer is asked for again no sooner than this, whatever its time to live.
const SHORTEST: Duration = Duration::from_secs(1);
/// And no later.
const LONGEST: Duration = Duration::from_secs(3600);
/// After a failure the next question comes so much later, twice as long after each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// But never later than this.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// So many of a list are shown.
const SHOWN: usize = 8;

/// A list in words. Of a long one only the beginning: the DNS may name thousands.
pub(super) fn list(all: &[String]) -> String {
    let (shown, others) = all.split_at(all.len().min(SHOWN));
    match others.len() {
        0 => shown.join(", "),
        others => format!("{} and {others} more", shown.join(", ")),
    }
}

/// A question to the DNS.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Query {
    /// The name, in lower case and without a dot at the end.
    pub name: String,
    /// For records SRV, and then for the addresses of their targets; otherwise for addresses.
    pub srv: bool,
    /// Addresses of this family are asked for.
    pub v6: bool,
    /// If there are none, the other family is.
    pub both: bool,
}

impl Query {
    /// What a service has to ask.
    #[must_use]
    pub fn of(service: &Service, named: &Named) -> Self {
        let v6 = service.listen.address.is_ipv6();
        let (name, srv) = (named.host.clone(), named.srv);
        Self { name, srv, v6, both: service.mode.takes_families() }
    }
}

/// What the DNS said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// At least one; in order, each only once.
    pub targets: Vec<Target>,
    /// How long it holds.
    pub ttl: Duration,
}

/// A server that the DNS names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Target {
    /// Its address.
    pub address: IpAddr,
    /// What a record SRV says of it.
    pub srv: Option<Srv>,
}

/// What a record SRV says of a server (RFC 2782).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Srv {
    /// The lowest is preferred.
    pub priority: u16,
    /// Share among those of the same priority.
    pub weight: u16,
    /// Port.
    pub port: u16,
}

/// What became of a name, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// The DNS does not say any more, for this reason.
    Lost(String),
    /// It does so again, the same or something else.
    Found,
}

/// A question and what is known.
#[derive(Clone, Debug)]
struct Asked {
    answer: Option<Answer>,
    /// Why the last question failed.
    why: Option<String>,
    /// So many have failed in a row.
    failures: u32,
    /// When it is asked again; never while it is being asked.
    due: Moment,
}

/// All questions.
#[derive(Debug, Default)]
pub(super) struct Names {
    asked: BTreeMap<Query, Asked>,
    /// Answers of the daemon before this one, for questions that are still to come.
    remembered: BTreeMap<Query, Answer>,
    /// Services as the configuration has them.
    pub(super) written: Vec<Service>,
    /// Servers that cannot be had, in words.
    pub(super) left_out: Vec<String>,
    pub(super) wishes: wishes::Wishes,
}

impl Names {
    pub(super) fn new(remembered: impl IntoIterator<Item = (Query, Answer)>) -> Self {
        Self { remembered: remembered.into_iter().collect(), ..Self::default() }
    }

    /// Asks for what these services need from now on, and for nothing else.
    pub(super) fn follow(&mut self, services: &[Service], now: Moment) {
        let mut before = std::mem::take(&mut self.asked);
        for service in services {
            for named in &service.names {
                let query = Query::of(service, named);
                let answer = self.remembered.remove(&query);
                let fresh = Asked { answer, why: None, failures: 0, due: now };
                let asked = before.remove(&query).unwrap_or(fresh);
                self.asked.entry(query).or_insert(asked);
            }
        }
        self.written = services.to_vec();
    }

    /// Others are asked from now on, who may know better.
    pub(super) fn ask_again(&mut self, now: Moment) {
        for asked in self.asked.values_mut() {
            asked.due = now;
        }
    }

    /// Questions that are to be asked now.
    pub(super) fn poll(&mut self, now: Moment) -> Vec<Query> {
        let due = self.asked.iter_mut().filter(|(_, asked)| asked.due <= now);
        due.map(|(query, asked)| {
            asked.due = Moment::NEVER;
            query.clone()
        })
        .collect()
    }

    /// When [`Names::poll`] has something.
    pub(super) fn next_deadline(&self) -> Moment {
        self.asked.values().map(|asked| asked.due).min().unwrap_or(Moment::NEVER)
    }

    /// A question was answered, or not. Says what is new about that, and whether there are other servers.
    pub(super) fn answered(
        &mut self,
        query: &Query,
        result: Result<Answer, String>,
        now: Moment,
    ) -> (Option<News>, bool) {
        // Nobody wants to know any more.
        let Some(asked) = self.asked.get_mut(query) else { return (None, false) };
        match result {
            Ok(answer) => {
                asked.due = now + answer.ttl.clamp(SHORTEST, LONGEST);
                let was_lost = asked.why.take().is_some();
                asked.failures = 0;
                let before = asked.answer.replace(answer);
                let targets = |answer: &Option<Answer>| answer.as_ref().map(|a| a.targets.clone());
                let differs = targets(&before) != targets(&asked.answer);
                (was_lost.then_some(News::Found), differs)
            }
            Err(why) => {
                let pause = FIRST_RETRY * 2_u32.saturating_pow(asked.failures.min(10));
                asked.due = now + pause.min(LAST_RETRY);
                asked.failures = asked.failures.saturating_add(1);
                let is_news = asked.why.is_none();
                asked.why = Some(why.clone());
                (is_news.then_some(News::Lost(why)), false)
            }
        }
    }

    pub(super) fn answer(&self, query: &Query) -> Option<&Answer> {
        self.asked.get(query)?.answer.as_ref()
    }

    /// All good answers, for the daemon after this one.
    pub(super) fn answers(&self) -> Vec<(Query, Answer)> {
        let known = self.asked.iter();
        known.filter_map(|(query, asked)| Some((query.clone(), asked.answer.clone()?))).collect()
    }

    /// How many servers a name has; nothing is known before the first good answer.
    pub(super) fn count(&self, query: &Query) -> usize {
        self.answer(query).map_or(0, |answer| answer.targets.len())
    }

    /// Whether a service waits for the first answer to one of its names.
    pub(super) fn awaited(&self, service: &Service) -> bool {
        service.names.iter().any(|named| {
            let asked = self.asked.get(&Query::of(service, named));
            asked.is_some_and(|asked| asked.answer.is_none() && asked.why.is_none())
        })
    }

    /// What an operator should look after.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let lost = self.asked.iter().filter_map(|(query, asked)| {
            let (why, failures) = (asked.why.as_ref()?, asked.failures);
            let fate = match self.count(query) {
                0 => "there are no servers of it".to_owned(),
                1 => "its last known server stays".to_owned(),
                count => format!("its last {count} known servers stay"),
            };
            let name = &query.name;
            Some(format!("{name} is not resolved ({why}; {failures} times in a row): {fate}"))
        });
        lost.chain(self.left_out.iter().cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sim::named;

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000_000)
    }

    fn answer(ttl: u64) -> Answer {
        let target = Target { address: "10.0.0.1".parse().expect("literal"), srv: None };
        Answer { targets: vec![target], ttl: Duration::from_secs(ttl) }
    }

    fn asking() -> (Names, Query) {
        let mut names = Names::default();
        names.follow(&named(false).services, at(0));
        let query = names.poll(at(0)).remove(0);
        assert_eq!((names.next_deadline(), names.poll(at(9))), (Moment::NEVER, vec![]));
        (names, query)
    }

    #[test]
    fn it_is_asked_again_by_the_time_to_live_within_bounds() {
        for (ttl, next) in [(0, 1), (30, 30), (86400, 3600)] {
            let (mut names, query) = asking();
            assert_eq!(names.answered(&query, Ok(answer(ttl)), at(0)), (None, true));
            assert_eq!(names.next_deadline(), at(next));
        }
    }

    #[test]
    fn failures_are_told_once_and_asked_again_later_and_later_while_the_last_answer_stays() {
        let (mut names, query) = asking();
        names.answered(&query, Ok(answer(1)), at(0));
        let mut pauses = Vec::new();
        for failure in 0..8 {
            let (news, differs) = names.answered(&query, Err("SERVFAIL".to_owned()), at(0));
            assert_eq!((news.is_some(), differs), (failure == 0, false));
            pauses.push(names.next_deadline().since(at(0)).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(names.answer(&query), Some(&answer(1)));
        let text =
            "app.example is not resolved (SERVFAIL; 8 times in a row): its last known server stays";
        assert_eq!(names.problems().collect::<Vec<_>>(), [text]);
        assert_eq!(names.answered(&query, Ok(answer(1)), at(0)), (Some(News::Found), false));
        assert_eq!(names.problems().count(), 0);
    }
}
