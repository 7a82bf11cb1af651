//! Taking over from another version of pen, whose maps cannot be read: its program forwards until our
//! tables are filled, and only then is ours put in its place.

use std::time::Duration;

use pen_common::moment::Moment;

use super::event::Action;
use super::{Engine, desired};

/// Our program is attached at the latest after this time, with the backends that are usable by then.
const LONGEST: Duration = Duration::from_secs(10);

const SOON: Duration = Duration::from_millis(1);

impl Engine {
    /// Attaches nothing before what can be learned soon about all backends is known, and the tables
    /// say so. Has to be called before the start.
    pub fn attach_when_filled(&mut self, now: Moment) {
        self.attach_held = Some(Moment::NEVER);
        // Nobody waits for a fresh table meanwhile, so that it may be a complete one.
        for service in self.services.iter_mut().filter(|service| service.fresh) {
            service.start_by = now + LONGEST;
        }
    }

    /// Attaches what was held back, if the tables are filled by now: not before their last write is
    /// known to have succeeded.
    pub(super) fn release_attach(&mut self, now: Moment) {
        if self.attach_held.is_none() {
            return;
        }
        let mut services = self.services.iter();
        let known = services.all(|service| !desired::waits(service, &self.network));
        let written = !self.dirty && self.retry_writes_at == Moment::NEVER;
        let writes = |action: &Action| matches!(action, Action::WriteTables(_));
        if !(self.started && known && written) {
            self.attach_held = Some(Moment::NEVER);
        } else if self.actions.iter().any(writes) {
            // If they fail, that is heard first.
            self.attach_held = Some(now + SOON);
        } else {
            self.attach_held = None;
            self.attach_due(now);
        }
    }

    /// When held-back attachments are looked at again.
    pub(super) fn next_release(&self) -> Moment {
        self.attach_held.unwrap_or(Moment::NEVER)
    }
}
