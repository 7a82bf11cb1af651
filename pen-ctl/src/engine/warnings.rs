//! What is not as it should be although everything runs: shown by `penctl status` for as long as it
//! lasts, and told in the log once.

use std::collections::BTreeSet;

use pen_common::moment::Moment;

use super::Engine;

impl Engine {
    /// All that an operator should look after now.
    #[must_use]
    pub fn warnings(&self) -> BTreeSet<String> {
        let mut warnings = self.lasting();
        warnings.extend(self.names.problems());
        warnings
    }

    /// Those that no other event tells of.
    fn lasting(&self) -> BTreeSet<String> {
        let mut warnings = self.answers_that_are_not_forwarded();
        warnings.extend(self.answers.problems().cloned());
        warnings.extend(self.maps_of_another_size());
        warnings.extend(self.groups.hindered.iter().cloned());
        warnings.extend(self.differences_of_peers());
        warnings.extend(self.nodes_of_one_name());
        warnings.extend(self.certificate_problems.iter().cloned());
        warnings
    }

    /// Peers tell nodes apart by their names.
    fn nodes_of_one_name(&self) -> impl Iterator<Item = String> + '_ {
        let name = &self.config.node.name;
        self.groups.twins.values().flatten().map(move |address| {
            format!("{address} is called {name} as well: give each node another `node.name`")
        })
    }

    /// Tells what was not told yet.
    pub(super) fn refresh_warnings(&mut self, now: Moment) {
        let mut warnings = self.lasting();
        warnings.extend(self.names.left_out.iter().cloned());
        for warning in &warnings {
            if !self.warned.contains(warning) {
                self.warn(now, "warning", "node", warning.clone());
            }
        }
        self.warned = warnings;
    }

    /// The size of a map is given when it is made.
    fn maps_of_another_size(&self) -> Vec<String> {
        let Some(found) = self.sizes else { return Vec::new() };
        let wanted = self.config.node.sizes;
        let sizes = [
            ("flows", found.flows, wanted.flows),
            ("clients", found.clients, wanted.clients),
            ("translations", found.translations, wanted.translations),
        ];
        let others = sizes.into_iter().filter(|(_, found, wanted)| found != wanted);
        others
            .map(|(key, found, wanted)| {
                format!(
                    "the kernel's table has room for {found} {key}, the configuration asks for \
                     {wanted}: stop pend with SIGTERM and start it again to make it anew"
                )
            })
            .collect()
    }

    /// Answers that were translated are sent on by the kernel's routes.
    fn answers_that_are_not_forwarded(&self) -> BTreeSet<String> {
        let mut warnings = BTreeSet::new();
        for service in &self.services {
            let (name, mode) = (&service.config.name, service.config.mode);
            if !mode.translates() {
                continue;
            }
            for backend in &service.backends {
                let address = backend.config.address;
                let Ok(hop) = self.network.hop(address, mode) else { continue };
                let Some(link) = self.network.link(hop.ifindex) else { continue };
                let (forwards, family, sysctl) = if address.is_ipv4() {
                    (link.forwards_v4, "IPv4", "net.ipv4.ip_forward")
                } else {
                    (link.forwards_v6, "IPv6", "net.ipv6.conf.all.forwarding")
                };
                if !forwards {
                    warnings.insert(format!(
                        "{} does not forward {family}, so that answers to clients of service {name} \
                         (mode {mode}) are lost: sysctl -w {sysctl}=1",
                        link.name
                    ));
                }
            }
        }
        warnings
    }
}
