//! Interfaces that XDP is (to be) attached to: when that is tried, and how it went.

use std::time::Duration;

use pen_common::moment::Moment;

use super::Engine;
use super::event::{Action, Attachment};
use crate::config::XdpMode;

/// An interface that could not be attached is tried again after this time.
const ATTACH_RETRY: Duration = Duration::from_secs(5);

impl Engine {
    pub(super) fn attach_due(&mut self, now: Moment) {
        for (name, interface) in &mut self.interfaces {
            if interface.retry_at > now {
                continue;
            }
            interface.retry_at = Moment::NEVER;
            let Some(link) = self.network.link_by_name(name) else { continue };
            interface.ifindex = Some(link.ifindex);
            self.actions.push_back(Action::AttachXdp {
                interface: name.clone(),
                ifindex: link.ifindex,
                mtu: link.mtu,
                mode: interface.mode,
            });
        }
    }

    pub(super) fn detach_others(&mut self) {
        let with_xdp = self.interfaces.iter().filter(|(_, found)| found.mode != XdpMode::Off);
        let links = with_xdp.filter_map(|(name, _)| self.network.link_by_name(name));
        let keep = links.map(|link| link.ifindex).collect();
        self.actions.push_back(Action::DetachOthers(keep));
    }

    pub(super) fn attach_done(
        &mut self,
        now: Moment,
        name: &str,
        result: Result<Attachment, String>,
    ) {
        let Some(interface) = self.interfaces.get_mut(name) else { return };
        // Groups depend on it.
        self.dirty |= !self.config.carp.is_empty();
        match result {
            Ok(attachment) => {
                let how = if attachment.native { "native" } else { "generic" };
                let warning = attachment.warning.clone();
                interface.error = None;
                interface.attached = Some(attachment);
                self.tell(now, "attached", name, format!("XDP attached to {name}, {how} mode"));
                if let Some(warning) = warning {
                    self.warn(now, "xdp-warning", name, warning);
                }
            }
            Err(error) => {
                interface.attached = None;
                interface.retry_at = now + ATTACH_RETRY;
                let news = interface.error.as_ref() != Some(&error);
                interface.error = Some(error.clone());
                if news {
                    self.warn(now, "attach-failed", name, error);
                }
            }
        }
    }
}
