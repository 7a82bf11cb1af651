//! What follows from time. A timer that is served much too late is not obeyed: the node was stopped,
//! and what it believes is old.

use std::time::Duration;

use pen_common::moment::Moment;

use super::{Cause, Context, Fault, Instance, Leaving, State, TAKE_LIMIT, send};
use crate::engine::carp::event::{Action, Hook};

/// Delay of a timer that is no sign of anything.
const TOLERATED: Duration = Duration::from_millis(20);

impl Instance {
    /// Before anything else: a master whose lease has run out is none. Others may have taken over,
    /// and it must not go on as if it had never been away.
    pub(in crate::engine::carp) fn wake(&mut self, context: &mut Context<'_>) {
        if !self.lease_ran_out(context.now) {
            return;
        }
        self.master = None;
        if self.failed {
            self.errors = send::MAX_ERRORS;
        } else {
            self.counts.late += 1;
        }
        self.give_way(context, true, "it sent nothing for so long that its lease ran out");
    }

    /// Does what is due. A node is preempted only if the whole sync group is `ready` to do it.
    pub(in crate::engine::carp) fn run_timers(&mut self, context: &mut Context<'_>, ready: bool) {
        self.forget_twin(context);
        match self.state {
            State::Init => self.try_addresses_again(context),
            State::Backup { .. } => self.run_backup_timers(context, ready),
            State::Taking { until } => {
                if until <= context.now {
                    let error = format!("no answer within {} ms", TAKE_LIMIT.as_millis());
                    self.addresses_failed(context, error);
                }
            }
            State::Master { .. } => self.run_master_timers(context),
            State::Gone => {}
        }
    }

    fn try_addresses_again(&mut self, context: &mut Context<'_>) {
        if self.address_error.as_ref().is_some_and(|(_, again_at)| *again_at <= context.now) {
            self.address_error = None;
            self.faults.remove(&Fault::Addresses);
            self.obey_faults(context);
        }
    }

    fn run_backup_timers(&mut self, context: &mut Context<'_>, ready: bool) {
        let now = context.now;
        let State::Backup { down_at, take_at, preempt_at } = self.state else { return };
        if now < down_at.min(take_at).min(preempt_at) {
            return;
        }
        let interval = match &self.master {
            Some((_, announced, _)) => announced.interval(),
            None => self.rank().interval(),
        };
        let tolerated = TOLERATED.max(interval / 2);
        let State::Backup { down_at, take_at, preempt_at } = &mut self.state else { return };
        let late = |at: Moment| at <= now && now.since(at) > tolerated;
        if late(*down_at) || late(*take_at) {
            // What was sent meanwhile may still wait to be read.
            (*down_at, *take_at) = (now + interval + interval / 4, Moment::NEVER);
            self.counts.late += 1;
            let name = &self.settings.name;
            let text = format!("{name} was served too late to take over, and listens once more");
            self.tell(context, true, "carp-late", text);
            return;
        }
        let why = if *take_at <= now {
            "the master leaves"
        } else if *down_at <= now {
            "the master is silent"
        } else if *preempt_at <= now && ready {
            "the master is less preferred"
        } else {
            return;
        };
        self.take(context, why);
    }

    fn run_master_timers(&mut self, context: &mut Context<'_>) {
        self.run_announcements(context);
        if let State::Master { leaving: Some(Leaving { cause, until, .. }), .. } = self.state
            && until <= context.now
        {
            match cause {
                Cause::Stop => self.end(context, self.settings.down_at_exit),
                Cause::SyncFault => {
                    self.master = None;
                    self.give_way(context, true, "no other node took it");
                }
                Cause::Order | Cause::Demotion | Cause::Follow => {
                    self.stay(context, "no other node took it")
                }
            }
        }
        if matches!(self.state, State::Master { advertise_at, .. } if advertise_at <= context.now) {
            self.advertise(context);
        }
    }

    /// When something is due. A node preempts only if its sync group is `ready`.
    pub(in crate::engine::carp) fn next_deadline(&self, now: Moment, ready: bool) -> Moment {
        let due = match &self.state {
            State::Init => {
                self.address_error.as_ref().map_or(Moment::NEVER, |(_, again_at)| *again_at)
            }
            State::Backup { down_at, take_at, preempt_at } => {
                let preempt_at =
                    if *preempt_at > now || ready { *preempt_at } else { Moment::NEVER };
                (*down_at).min(*take_at).min(preempt_at)
            }
            State::Taking { until } => *until,
            State::Master { advertise_at, lease, leaving, .. } => {
                let until = leaving.map_or(Moment::NEVER, |leaving| leaving.until);
                (*advertise_at).min(*lease).min(until).min(self.announcer.next_deadline())
            }
            State::Gone => return Moment::NEVER,
        };
        due.min(self.twin.unwrap_or(Moment::NEVER))
    }

    /// The end of the group on this node.
    pub(super) fn end(&mut self, context: &mut Context<'_>, run_hook: bool) {
        let group = self.settings.group;
        let was_master = matches!(self.state, State::Master { .. });
        if was_master || matches!(self.state, State::Taking { .. }) {
            context.set_role(group, super::Role::Backup, Moment(0));
            context.actions.push_back(Action::DropAddresses { group });
        }
        if was_master {
            self.counts.transitions += 1;
            if run_hook {
                context.actions.push_back(Action::RunHook { group, hook: Hook::Down });
            }
        }
        self.announcer.stop();
        self.set_state(context, State::Gone);
        self.forget_twin(context);
    }
}
