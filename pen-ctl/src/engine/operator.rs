//! What the operator asks for at run time: drain, maintenance, ready, weight, and the explanation
//! of a packet's fate by the decision that the kernel makes.

use std::net::IpAddr;
use std::time::Duration;

use pen_common::abi;
use pen_common::forward::{self, Arrival, Flow, Stage};
use pen_common::moment::Moment;
use pen_common::net::{Addr, Be16, MacAddr, protocol};
use pen_common::verdict::{Counter, DropReason, Forward, PassReason, Verdict};

use super::draining::Drain;
use super::health::State;
use super::scheduler;
use super::tables::Records;
use super::why::{Seen, Witness};
use super::{Engine, Service, desired};
use crate::api::{Admin, Change, Explain, Explanation, Refusal, SetAdmin, SetWeight};
use crate::config::{MAX_WEIGHT, Protocol};

/// The deadline of a drain may be so far away.
const LONGEST_DRAIN: Duration = Duration::from_secs(365 * 86_400);

impl Engine {
    /// Sets the operator's wish for a backend.
    ///
    /// # Errors
    ///
    /// If there is no such backend, or the deadline makes no sense.
    pub fn set_admin(&mut self, now: Moment, wish: &SetAdmin) -> Result<Change, Refusal> {
        let (at, index) = self.find(&wish.service, &wish.backend)?;
        let backend = &self.services[at].backends[index];
        let (was, weight) = (backend.admin, backend.weight());
        let deadline = deadline(wish, now)?;
        let said = |admin: Admin, until: Option<Moment>| match until {
            Some(until) => {
                let seconds = until.since(now).as_millis().div_ceil(1000);
                let seconds = Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX));
                format!("{admin} for {} at most", humantime::format_duration(seconds))
            }
            None => admin.to_string(),
        };
        let before = said(was, backend.drain.deadline());
        let after = said(wish.admin, deadline);
        let same = was == wish.admin && backend.drain.deadline() == deadline;
        let moved = self.moved(at, (index, wish.admin, weight));
        let subject = format!("{}/{}", wish.service, wish.backend);
        if !wish.dry_run && !same {
            let backend = &mut self.services[at].backends[index];
            if was == wish.admin {
                backend.drain.set_deadline(deadline);
            } else {
                backend.admin = wish.admin;
                backend.draining_since = now;
                backend.drained = false;
                backend.drain = Drain::until(deadline);
            }
            if was == Admin::Maint {
                // Nothing was probed meanwhile: the first result decides, at once.
                backend.health.restart(State::Checking, now);
            }
            self.elect_leaders();
            self.note_deadlines();
            let text = format!("{subject}: {before} -> {after} by the operator");
            self.tell(now, "admin", &subject, text);
            self.dirty = true;
            self.handle(now, super::event::Event::TimePassed);
        }
        Ok(Change { subject, was: before, now: after, moved, dry_run: wish.dry_run })
    }

    /// Sets a backend's weight.
    ///
    /// # Errors
    ///
    /// If there is no such backend, or the weight is too high.
    pub fn set_weight(&mut self, now: Moment, wish: &SetWeight) -> Result<Change, Refusal> {
        let (at, index) = self.find(&wish.service, &wish.backend)?;
        if wish.weight > MAX_WEIGHT {
            return Err(Refusal {
                error: format!("weight {} is too high", wish.weight),
                cure: format!("give 0 to {MAX_WEIGHT}"),
            });
        }
        let backend = &self.services[at].backends[index];
        let (was, admin) = (backend.weight(), backend.admin);
        let moved = self.moved(at, (index, admin, wish.weight));
        let subject = format!("{}/{}", wish.service, wish.backend);
        if !wish.dry_run && was != wish.weight {
            self.services[at].backends[index].weight = Some(wish.weight);
            let text = format!("{subject}: weight {was} -> {} by the operator", wish.weight);
            self.tell(now, "weight", &subject, text);
            self.dirty = true;
            self.handle(now, super::event::Event::TimePassed);
        }
        Ok(Change {
            subject,
            was: was.to_string(),
            now: wish.weight.to_string(),
            moved,
            dry_run: wish.dry_run,
        })
    }

    /// Slots of a service that a change would move, in percent.
    fn moved(&self, at: usize, change: (usize, Admin, u32)) -> f64 {
        let service = &self.services[at];
        let members = desired::members(service, &self.network, Some(change));
        if service.members.as_ref() == Some(&members) {
            return 0.0;
        }
        let after = scheduler::maglev(&members, self.secret, service.config.memory.slots);
        let moved = service
            .table
            .slots()
            .iter()
            .zip(&after)
            .filter(|(was, now)| was.current() != **now)
            .count();
        percent(moved, after.len())
    }

    pub(super) fn find(&self, service: &str, backend: &str) -> Result<(usize, usize), Refusal> {
        let names = |all: Vec<&str>| format!("there are: {}", all.join(", "));
        let Some(at) = self.services.iter().position(|found| found.config.name == service) else {
            let all = self.services.iter().map(|service| service.config.name.as_str()).collect();
            return Err(Refusal {
                error: format!("there is no service `{service}`"),
                cure: names(all),
            });
        };
        let backends = &self.services[at].backends;
        let Some(index) = backends.iter().position(|found| found.config.name == backend) else {
            let all = backends.iter().map(|backend| backend.config.name.as_str()).collect();
            return Err(Refusal {
                error: format!("service `{service}` has no backend `{backend}`"),
                cure: names(all),
            });
        };
        Ok((at, index))
    }

    /// What would happen to a packet that arrives on its address's network.
    ///
    /// # Errors
    ///
    /// If no packet can look like that.
    pub fn explain(
        &self,
        now: Moment,
        packet: &Explain,
        records: &dyn Records,
    ) -> Result<Explanation, Refusal> {
        if packet.source.is_ipv4() != packet.destination.is_ipv4() {
            return Err(Refusal {
                error: "source and destination are of different families".to_owned(),
                cure: "give two IPv4 or two IPv6 addresses".to_owned(),
            });
        }
        let destination = Addr::from(packet.destination.ip());
        let flow = Flow {
            source: Addr::from(packet.source.ip()),
            source_port: Be16::new(packet.source.port()),
            port: Be16::new(packet.destination.port()),
            protocol: match packet.protocol {
                Protocol::Tcp => protocol::TCP,
                Protocol::Udp => protocol::UDP,
            },
            stage: match packet.protocol {
                Protocol::Tcp if packet.established => Stage::Established,
                Protocol::Tcp => Stage::Open,
                Protocol::Udp => Stage::Datagram,
            },
        };
        let arrival = self.applied.addrs.get(&destination).map_or(
            Arrival { ifindex: 0, station: MacAddr::NONE },
            |entry| Arrival { ifindex: entry.ifindex, station: entry.mac },
        );
        let witness = Witness::new(records);
        let lookup = self.applied.at(now, &witness);
        let verdict = forward::decide(&lookup, &arrival, &destination, || Ok(flow));
        let mut explanation = self.describe(packet, &verdict);
        if let Verdict::Forward(forward) = &verdict {
            let tables = &self.applied;
            let name = |id| self.backend_name(id);
            let stage = flow.stage;
            let why = Seen { forward, stage, witness: &witness, tables, now, name: &name }.why();
            explanation.decided_by = Some(why.decided_by.to_owned());
            // After what selected the slot, before what is done with the packet.
            explanation.steps.insert(2, why.step);
        }
        Ok(explanation)
    }

    fn backend_name(&self, id: u32) -> String {
        let mut backends = self.services.iter().flat_map(|service| &service.backends);
        let found = backends.find(|backend| backend.id == id);
        found.map_or_else(|| "nobody".to_owned(), |backend| backend.config.name.clone())
    }

    fn describe(&self, packet: &Explain, verdict: &Verdict<'_>) -> Explanation {
        let none = |verdict: &str, counter: Counter, why: String| Explanation {
            verdict: verdict.to_owned(),
            counter: counter.name().to_owned(),
            service: None,
            slot: None,
            backend: None,
            address: None,
            decided_by: None,
            steps: vec![why],
        };
        match verdict {
            Verdict::Pass(reason) => none("pass", reason.counter(), self.why_pass(packet, *reason)),
            Verdict::Drop(reason) => none("drop", reason.counter(), why_drop(*reason)),
            Verdict::Forward(forward) => {
                let service = self.services.iter().find(|service| service.id == forward.service);
                let backend = service.and_then(|service| {
                    service.backends.iter().find(|backend| backend.id == forward.id)
                });
                let interface = self.network.link(forward.backend.ifindex);
                let interface = interface.map_or("?", |link| link.name.as_str());
                let address = IpAddr::from(forward.backend.addr);
                let same = self.arrives_on(packet) == Some(forward.backend.ifindex);
                let counter = if same { Counter::Transmit } else { Counter::Redirect };
                Explanation {
                    verdict: "forward".to_owned(),
                    counter: counter.name().to_owned(),
                    service: service.map(|service| service.config.name.clone()),
                    slot: Some(forward.slot),
                    backend: backend.map(|backend| backend.config.name.clone()),
                    address: Some(address),
                    decided_by: None,
                    steps: vec![
                        service.map_or_else(String::new, |service| step_service(packet, service)),
                        format!(
                            "its hash selects slot {} of {}",
                            forward.slot,
                            service.map_or(0, |service| service.config.memory.slots)
                        ),
                        step_mode(forward, interface),
                    ],
                }
            }
        }
    }

    fn arrives_on(&self, packet: &Explain) -> Option<u32> {
        let entry = self.applied.addrs.get(&Addr::from(packet.destination.ip()))?;
        Some(entry.ifindex)
    }

    fn why_pass(&self, packet: &Explain, reason: PassReason) -> String {
        let address = packet.destination.ip();
        match reason {
            PassReason::PassNotOurs => format!("{address} is no virtual address of this node"),
            PassReason::PassNotMaster => {
                format!("{address} is a virtual address that another node holds now")
            }
            PassReason::PassNoService => {
                let services: Vec<_> = self
                    .services
                    .iter()
                    .filter(|service| service.config.listen.address == address)
                    .map(|service| {
                        format!(
                            "{} on {}/{}",
                            service.config.name,
                            service.config.listen.ports,
                            service.config.protocol
                        )
                    })
                    .collect();
                format!(
                    "{address} has no service on {}/{}; it has: {}",
                    packet.destination.port(),
                    packet.protocol,
                    if services.is_empty() { "none".to_owned() } else { services.join(", ") }
                )
            }
            PassReason::PassProxy => {
                "mode proxy: the connection is accepted here, and its backend chosen then"
                    .to_owned()
            }
            // A question names neither fragments nor options nor stations.
            PassReason::PassEthertype
            | PassReason::PassOtherStation
            | PassReason::PassMalformed
            | PassReason::PassFragment
            | PassReason::PassOptions
            | PassReason::PassProtocol
            | PassReason::PassNeighbour => reason.counter().name().to_owned(),
        }
    }
}

/// When what is left is to end.
fn deadline(wish: &SetAdmin, now: Moment) -> Result<Option<Moment>, Refusal> {
    let Some(millis) = wish.deadline_ms else { return Ok(None) };
    let time = Duration::from_millis(millis);
    let (error, cure) = match wish.admin {
        Admin::Drain if time.is_zero() => (
            "a drain that ends at once is none".to_owned(),
            "for no packet at all from now on, say `maint`",
        ),
        Admin::Drain if time > LONGEST_DRAIN => (
            format!("{} is too long", humantime::format_duration(time)),
            "give 365 days at most, or no deadline",
        ),
        Admin::Drain => return Ok(Some(now + time)),
        other => (format!("{other} has no deadline"), "only a drain has one"),
    };
    Err(Refusal { error, cure: cure.to_owned() })
}

fn step_service(packet: &Explain, service: &Service) -> String {
    format!(
        "{}/{} is service {}, affinity {}",
        packet.destination, packet.protocol, service.config.name, service.config.affinity
    )
}

fn step_mode(forward: &Forward<'_>, interface: &str) -> String {
    let abi::Backend { addr, source, mac, port, .. } = forward.backend;
    let (to, from) = (IpAddr::from(*addr), IpAddr::from(*source));
    let port = match port.value() {
        0 => String::new(),
        port => format!(", port {port}"),
    };
    let packet = match forward.mode {
        abi::Service::IPIP => format!("mode ipip: the packet goes within one from {from} to {to}"),
        abi::Service::GUE => {
            format!("mode gue: the packet goes within a UDP datagram from {from} to {to}")
        }
        abi::Service::NAT => format!("mode nat: the destination becomes {to}{port}"),
        abi::Service::MASQUERADE => format!(
            "mode masquerade: the source becomes {from} with a port of its own, the destination \
             {to}{port}"
        ),
        _ => {
            return format!(
                "mode dsr: the frame goes to {mac} on {interface}, the packet unchanged"
            );
        }
    };
    format!("{packet}, by way of {mac} on {interface}")
}

fn why_drop(reason: DropReason) -> String {
    match reason {
        DropReason::DropNoBackend => "no backend of the service is usable".to_owned(),
        DropReason::DropNoTable => "the service has no table yet".to_owned(),
        DropReason::DropStubborn => {
            "the flow's backend is down, and the service is stubborn".to_owned()
        }
        DropReason::DropAcl => "the access list of the address denies the source".to_owned(),
        DropReason::DropRate => "the source opens connections too fast".to_owned(),
        DropReason::DropNoEntry => "no translation of the flow could be made".to_owned(),
        DropReason::DropNoPort => "every port for masquerading is in use".to_owned(),
        DropReason::DropNatConflict => {
            "the client has the same ports through another service".to_owned()
        }
        DropReason::DropTtl => "the packet has reached its last hop".to_owned(),
        DropReason::DropRewrite => "the frame cannot be rewritten".to_owned(),
        DropReason::DropTooBig => "too big for the way to the backend".to_owned(),
    }
}

/// `part` of `whole` in percent.
pub(super) fn percent(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    100.0 * part as f64 / whole as f64
}
