//! How a group gets from one state to another, and what has to be done on the way.

use std::time::Duration;

use pen_common::moment::Moment;

use super::{Cause, Context, Fault, Instance, Leaving, State, TAKE_LIMIT, send};
use crate::engine::carp::event::{Action, Hook, Order, Role};
use crate::engine::carp::settings::Auth;

impl Instance {
    pub(super) fn set_fault(&mut self, fault: Fault, present: bool) {
        if present {
            self.faults.insert(fault);
        } else {
            self.faults.remove(&fault);
        }
    }

    pub(super) fn obey_faults(&mut self, context: &mut Context<'_>) {
        let leaving_for_sync = self.faults.len() == 1
            && self.faults.contains(&Fault::SyncGroup)
            && matches!(self.state, State::Master { leaving: Some(_), .. });
        match (&self.state, self.faults.is_empty()) {
            (State::Init, true) => {
                self.address_error = None;
                self.enter_backup(context);
                let text = format!("{} takes part", self.settings.name);
                self.tell(context, false, "carp-backup", text);
                if self.order == Some(Order::Promote) {
                    self.take(context, "an operator ordered it");
                }
            }
            (State::Backup { .. } | State::Taking { .. } | State::Master { .. }, false)
                if !leaving_for_sync =>
            {
                let text = format!("{} takes no part: {}", self.settings.name, self.fault_text());
                self.tell(context, true, "carp-fault", text);
                if self.stops() {
                    self.end(context, true);
                    return;
                }
                // Where the wire works, others need not wait for what they no longer hear.
                let is_heard = |fault: &Fault| matches!(fault, Fault::Addresses | Fault::SyncGroup);
                if matches!(self.state, State::Master { .. }) && self.faults.iter().all(is_heard) {
                    self.say(context, send::Word::BowOut);
                }
                self.release(context);
                self.set_state(context, State::Init);
                self.master = None;
            }
            _ => {}
        }
    }

    /// The handover is for the end of the daemon.
    pub(super) const fn stops(&self) -> bool {
        matches!(
            self.state,
            State::Master { leaving: Some(Leaving { cause: Cause::Stop, .. }), .. }
        )
    }

    /// Ends the roles of master and of one that becomes it.
    pub(super) fn release(&mut self, context: &mut Context<'_>) {
        let group = self.settings.group;
        if matches!(self.state, State::Master { .. }) {
            self.counts.transitions += 1;
            context.set_role(group, Role::Backup, Moment(0));
            context.actions.push_back(Action::DropAddresses { group });
            context.actions.push_back(Action::RunHook { group, hook: Hook::Down });
        } else if matches!(self.state, State::Taking { .. }) {
            context.actions.push_back(Action::DropAddresses { group });
        }
        self.announcer.stop();
    }

    pub(super) fn enter_backup(&mut self, context: &mut Context<'_>) {
        let mut wait = self.down() + self.jitter;
        if self.master.is_none() && matches!(self.settings.auth, Auth::Sha256(_)) {
            wait = wait.max(self.rank().first_listening());
        }
        let state = State::Backup {
            down_at: context.now + wait,
            take_at: Moment::NEVER,
            preempt_at: Moment::NEVER,
        };
        self.set_state(context, state);
    }

    /// Becomes master as soon as the VIPs are usable.
    pub(super) fn take(&mut self, context: &mut Context<'_>, why: &str) {
        let text = format!("{} becomes master: {why}", self.settings.name);
        self.tell(context, false, "carp-take", text);
        self.set_state(context, State::Taking { until: context.now + TAKE_LIMIT });
        context.actions.push_back(Action::TakeAddresses { group: self.settings.group });
    }

    pub(super) fn become_master(&mut self, context: &mut Context<'_>) {
        let (group, now) = (self.settings.group, context.now);
        let lease = now + self.rank().lease();
        let state = State::Master {
            advertise_at: now,
            advertised_at: now,
            // Nothing is left of it if the first advertisement cannot be sent.
            lease: now,
            earlier_lease: now,
            leaving: None,
        };
        self.set_state(context, state);
        self.counts.transitions += 1;
        (self.master, self.jitter) = (None, Duration::ZERO);
        context.set_role(group, Role::Master, lease);
        self.announcer.start(now, self.settings.announce_refresh);
        self.run_announcements(context);
        self.advertise(context);
        context.actions.push_back(Action::RunHook { group, hook: Hook::Up });
        let text = format!("{} is master", self.settings.name);
        self.tell(context, false, "carp-master", text);
    }

    /// Gives the VIPs to another node, or up.
    pub(super) fn give_way(&mut self, context: &mut Context<'_>, warning: bool, why: &str) {
        let stops = self.stops();
        self.release(context);
        if stops {
            self.set_state(context, State::Gone);
            return;
        }
        self.enter_backup(context);
        let text = format!("{} is backup: {why}", self.settings.name);
        self.tell(context, warning, "carp-backup", text);
        self.obey_faults(context);
    }

    /// Starts a handover: others are asked to take the VIPs, which are served until one does.
    pub(super) fn leave(&mut self, context: &mut Context<'_>, cause: Cause) {
        let until = context.now + self.settings.handover_limit;
        let State::Master { leaving, advertise_at, lease, .. } = &mut self.state else { return };
        if leaving.is_some_and(|leaving| leaving.cause.is_final()) && cause != Cause::Stop {
            return;
        }
        *leaving = Some(Leaving { cause, bow_outs: send::BOW_OUTS, until });
        *advertise_at = context.now;
        // Others are to be told by the next master only.
        let role = if cause == Cause::Demotion { Role::Master } else { Role::Leaving };
        let lease = *lease;
        context.set_role(self.settings.group, role, lease);
        self.announcer.stop();
        let text = format!("{} is offered to other nodes", self.settings.name);
        self.tell(context, false, "carp-leaving", text);
    }

    /// No one took the VIPs: they stay.
    pub(super) fn stay(&mut self, context: &mut Context<'_>, why: &str) {
        let State::Master { leaving, advertise_at, lease, .. } = &mut self.state else { return };
        *leaving = None;
        *advertise_at = context.now;
        let lease = *lease;
        context.set_role(self.settings.group, Role::Master, lease);
        self.announcer.go_on(context.now, self.settings.announce_refresh);
        let text = format!("{} stays master: {why}", self.settings.name);
        self.tell(context, false, "carp-master", text);
    }

    pub(super) fn set_state(&mut self, context: &Context<'_>, state: State) {
        if std::mem::discriminant(&self.state) != std::mem::discriminant(&state) {
            self.since = context.now;
        }
        self.state = state;
    }

    pub(super) fn tell(
        &self,
        context: &mut Context<'_>,
        warning: bool,
        kind: &'static str,
        text: String,
    ) {
        let subject = self.settings.name.clone();
        context.actions.push_back(Action::Tell { warning, kind, subject, text });
    }
}
