//! Servers that the DNS names, in the engine: asks, and takes what was answered as a reload takes another
//! configuration. Who joins is checked first, who is gone leaves with its flows.

use std::collections::BTreeSet;

use pen_common::moment::Moment;

use super::Engine;
use super::event::Action;
use super::names::fill::fill;
use super::names::{Answer, News, Query, list};
use crate::config::Config;

impl Engine {
    /// The configuration as it was written.
    pub(super) fn as_written(&self) -> Config {
        Config { services: self.names.written.clone(), ..self.config.clone() }
    }

    /// Has this configuration from now on, with the servers that names stand for.
    pub(super) fn take_config(&mut self, now: Moment, config: Config) {
        self.names.follow(&config.services, now);
        if config.node.resolvers != self.config.node.resolvers {
            self.names.ask_again(now);
        }
        self.config = config;
        self.fill_names();
    }

    fn fill_names(&mut self) {
        let vips: BTreeSet<_> = self.config.vips.iter().map(|vip| vip.address).collect();
        let (services, left_out) = fill(&self.names, &vips);
        self.config.services = services;
        self.names.left_out = left_out;
    }

    pub(super) fn ask_names(&mut self, now: Moment) {
        for query in self.names.poll(now) {
            let resolvers = self.config.node.resolvers.clone();
            self.actions.push_back(Action::AskName { query, resolvers });
        }
    }

    pub(super) fn name_answered(
        &mut self,
        now: Moment,
        query: &Query,
        result: Result<Answer, String>,
    ) {
        let targets = |engine: &Self| -> BTreeSet<String> {
            let answer = engine.names.answer(query);
            let all = answer.iter().flat_map(|answer| &answer.targets);
            all.map(|target| target.address.to_string()).collect()
        };
        let before = targets(self);
        let (news, differs) = self.names.answered(query, result, now);
        let name = &query.name;
        match news {
            Some(News::Lost(why)) => {
                let fate = match self.names.count(query) {
                    0 => "there are no servers of it",
                    _ => "its last known servers stay",
                };
                let text = format!("{name} is not resolved: {why}; {fate}");
                self.warn(now, "name-unresolved", name, text);
            }
            Some(News::Found) => {
                self.tell(now, "name-resolved", name, format!("{name} is resolved again"));
            }
            None => {}
        }
        for service in &mut self.services {
            let unnamed = self.names.awaited(&service.config);
            self.dirty |= std::mem::replace(&mut service.unnamed, unnamed) != unnamed;
        }
        if !differs {
            return;
        }
        let after = targets(self);
        let list = |some: &BTreeSet<String>, others| {
            list(&some.difference(others).cloned().collect::<Vec<_>>())
        };
        let text = match (list(&after, &before), list(&before, &after)) {
            (joins, leaves) if leaves.is_empty() && !joins.is_empty() => format!("{joins} joins"),
            (joins, leaves) if joins.is_empty() && !leaves.is_empty() => format!("{leaves} leaves"),
            (joins, _) if joins.is_empty() => "its records changed".to_owned(),
            (joins, leaves) => format!("{joins} joins, {leaves} leaves"),
        };
        self.tell(now, "name-changed", name, format!("{name}: {text}"));
        self.fill_names();
        self.merge_config(now);
        self.actions.push_back(Action::KeepNames(self.names.answers()));
    }
}
