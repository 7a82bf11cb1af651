//! Takes another configuration while everything runs. What both have goes on as it is: numbers, slots,
//! health, what the operator set, counters.

use pen_common::moment::Moment;

use super::changes::changes;
use super::event::Event;
use super::{Engine, Interface};
use crate::api::{ChangeKind, Changes, ConfigChange, Refusal};
use crate::config::{Config, XdpMode};

impl Engine {
    /// Takes another configuration. With `dry_run` only says what that would change.
    ///
    /// # Errors
    ///
    /// If something changed that only another start can change.
    pub fn reconfigure(
        &mut self,
        now: Moment,
        config: Config,
        dry_run: bool,
    ) -> Result<Changes, Refusal> {
        self.refuse_fixed(&config)?;
        let changes = changes(&self.as_written(), &config);
        if !dry_run {
            self.take_config(now, config);
            self.merge_config(now);
            // Who is answered may rely on it.
            self.hurry();
            self.handle(now, Event::TimePassed);
            // Only now: frames that are under way to an interface still leave by it.
            self.detach_others();
            self.tell_changes(now, &changes);
        }
        Ok(Changes { changes, dry_run })
    }

    /// A new configuration was not taken; `why` has a line for each reason.
    pub fn reload_refused(&mut self, now: Moment, why: &str) {
        for line in why.lines() {
            self.warn(now, "reload-refused", "configuration", line.to_owned());
        }
    }

    /// Everything hangs on these: whoever speaks to the daemon, and where each flow goes.
    fn refuse_fixed(&self, config: &Config) -> Result<(), Refusal> {
        let mut fixed = Vec::new();
        if config.control != self.config.control {
            fixed.push("[control] socket");
        }
        if config.sync != self.config.sync {
            fixed.push("[sync]");
        }
        if config.node.secret != self.config.node.secret {
            fixed.push("the secret of [node] secret_file");
        }
        if fixed.is_empty() {
            return Ok(());
        }
        Err(Refusal {
            error: format!("{} changed, which a running pend keeps", fixed.join(" and ")),
            cure: "restart pend, or undo that change; nothing was changed".to_owned(),
        })
    }

    fn tell_changes(&mut self, now: Moment, changes: &[ConfigChange]) {
        let count = |kind| changes.iter().filter(|change| change.kind == kind).count();
        let [added, removed, changed] =
            [ChangeKind::Added, ChangeKind::Removed, ChangeKind::Changed].map(count);
        let text = format!(
            "configuration read again: {added} added, {removed} removed, {changed} changed"
        );
        self.tell(now, "reloaded", "configuration", text);
    }

    /// Interfaces as the configuration has them; those that it had before with the same mode stay
    /// attached as they are.
    pub(super) fn merge_interfaces(&mut self, now: Moment) {
        let mut before = std::mem::take(&mut self.interfaces);
        for wanted in &self.config.interfaces {
            let kept = before.remove(&wanted.name).filter(|known| known.mode == wanted.xdp);
            let interface = kept.unwrap_or(Interface {
                mode: wanted.xdp,
                attached: None,
                error: None,
                ifindex: None,
                retry_at: if wanted.xdp == XdpMode::Off { Moment::NEVER } else { now },
            });
            self.interfaces.insert(wanted.name.clone(), interface);
        }
        let attached = self.config.interfaces.iter().filter(|found| found.xdp != XdpMode::Off);
        self.network.declare(attached.map(|interface| interface.name.clone()));
    }
}
