//! The engine in a world of its own: a virtual clock, an interface, and backends that can die.
//! Actions are carried out on plain tables, so that a packet's fate is asked with the decision that
//! the kernel makes. Tests read as stories.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use pen_common::forward::{self, Arrival, Flow};
use pen_common::moment::Moment;
use pen_common::net::{Addr, Be16, MacAddr, protocol};
use pen_common::verdict::Verdict;

use super::Engine;
use super::event::{Action, Attachment, Event, Link, Neighbour, ProbeError, Route};
use super::tables::{Tables, Write};
use crate::api::{Admin, Change, Counts, Explain, Refusal, SetAdmin, SetWeight};
use crate::config::{
    Affinity, Backend, Check, CheckKind, Config, Control, Interface, Mode, Node, Protocol, Service,
    Vip, XdpMode,
};

pub(super) const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
const NIC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// A service `web` on 192.0.2.10:80/tcp with backends b1, b2, ... and checks each second.
pub(super) fn config(backends: u8) -> Config {
    Config {
        node: Node { name: "edge1".into(), secret: Some([1, 2]) },
        interfaces: vec![Interface { name: "eth0".into(), xdp: XdpMode::Auto }],
        control: Control { socket: "/run/pen/pend.sock".into() },
        vips: vec![Vip { address: VIP, interface: "eth0".into() }],
        services: vec![Service {
            name: "web".into(),
            vip: VIP,
            port: 80,
            protocol: Protocol::Tcp,
            mode: Mode::Dsr,
            affinity: Affinity::Flow,
            backends: (1..=backends)
                .map(|number| Backend {
                    name: format!("b{number}"),
                    address: address(number),
                    port: 80,
                    weight: 1,
                })
                .collect(),
            check: Check {
                kind: CheckKind::Tcp { port: 80 },
                interval: Duration::from_secs(1),
                timeout: Duration::from_millis(500),
                rise: 2,
                fall: 3,
            },
        }],
    }
}

pub(super) fn address(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, number))
}

/// The world.
pub(super) struct Sim {
    pub(super) engine: Engine,
    pub(super) now: Moment,
    /// What the kernel's maps hold.
    pub(super) maps: Tables,
    /// Hosts that do not answer at all.
    pub(super) dead: BTreeSet<IpAddr>,
    /// Hosts that refuse connections.
    pub(super) refusing: BTreeSet<IpAddr>,
    /// The next writes to the maps fail.
    pub(super) broken_maps: bool,
    pub(super) attached: Vec<String>,
    /// Neighbours that were to be confirmed.
    pub(super) doubted: Vec<IpAddr>,
    /// Interfaces that were not to be detached when last asked.
    pub(super) kept: BTreeSet<u32>,
    pub(super) probes: BTreeMap<IpAddr, Vec<Moment>>,
    pub(super) solicited: BTreeSet<(u32, Ipv6Addr)>,
}

impl Sim {
    /// Starts with empty maps.
    pub(super) fn start(config: Config) -> Self {
        Self::start_over(config, Tables::default())
    }

    /// Starts with maps that an earlier controller left.
    pub(super) fn start_over(config: Config, maps: Tables) -> Self {
        let now = Moment(1_000_000_000);
        let engine = Engine::new(config, maps.clone(), [7, 7], now);
        let mut sim = Self {
            engine,
            now,
            maps,
            dead: BTreeSet::new(),
            refusing: BTreeSet::new(),
            broken_maps: false,
            attached: Vec::new(),
            doubted: Vec::new(),
            kept: BTreeSet::new(),
            probes: BTreeMap::new(),
            solicited: BTreeSet::new(),
        };
        sim.event(Event::LinkChanged(link(true)));
        sim.event(Event::Started);
        sim
    }

    pub(super) fn event(&mut self, event: Event) {
        self.engine.handle(self.now, event);
        self.carry_out();
    }

    /// Lets time pass.
    pub(super) fn run_for(&mut self, duration: Duration) -> &mut Self {
        let end = self.now + duration;
        loop {
            let next = self.engine.next_deadline();
            if next > end {
                break;
            }
            assert!(next != self.now || self.engine.next_deadline() > Moment(0), "no progress");
            self.now = self.now.max(next);
            self.event(Event::TimePassed);
            assert!(self.engine.next_deadline() > self.now, "a deadline is not served");
        }
        self.now = end;
        self
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::WriteTables(writes) => self.write(&writes),
                Action::ResolveNeighbour(address) => self.resolve(address),
                Action::StartProbe { probe, address, timeout, .. } => {
                    self.probes.entry(address).or_default().push(self.now);
                    let outcome = if self.dead.contains(&address) {
                        assert!(timeout < Duration::from_secs(1));
                        Err(ProbeError::Timeout)
                    } else if self.refusing.contains(&address) {
                        Err(ProbeError::Refused)
                    } else {
                        Ok(())
                    };
                    self.engine.handle(self.now, Event::ProbeDone { probe, outcome });
                }
                Action::AttachXdp { interface, .. } => {
                    self.attached.push(interface.clone());
                    let result = Ok(Attachment { native: true, warning: None });
                    self.engine.handle(self.now, Event::AttachDone { interface, result });
                }
                Action::JoinSolicited { ifindex, address } => {
                    assert!(self.solicited.insert((ifindex, address)), "joined twice");
                }
                Action::LeaveSolicited { ifindex, address } => {
                    assert!(self.solicited.remove(&(ifindex, address)), "never joined");
                }
                Action::ConfirmNeighbour { address, .. } => self.doubted.push(address),
                Action::DetachOthers(keep) => self.kept = keep,
                Action::Log { .. } => {}
            }
        }
    }

    fn write(&mut self, writes: &[Write]) {
        if self.broken_maps {
            self.broken_maps = false;
            let actual = Box::new(self.maps.clone());
            let error = "out of memory".to_owned();
            self.engine.handle(self.now, Event::WriteFailed { error, actual });
            return;
        }
        for write in writes {
            self.maps.apply(write);
        }
    }

    fn resolve(&mut self, address: IpAddr) {
        let route = Some(Route { ifindex: 3, gateway: None });
        self.engine.handle(self.now, Event::RouteFound { address, route });
        let neighbour = if self.dead.contains(&address) {
            Neighbour::Failed
        } else {
            let IpAddr::V4(v4) = address else { unreachable!("the world is IPv4") };
            Neighbour::Resolved(MacAddr([2, 0, 0, 0, 1, v4.octets()[3]]))
        };
        self.engine.handle(self.now, Event::NeighbourChanged { ifindex: 3, address, neighbour });
    }

    /// Backends that `flows` flows reach in the kernel's maps, or `None` for lost packets.
    pub(super) fn flows(&self, flows: u16) -> Vec<Option<IpAddr>> {
        (0..flows).map(|flow| self.reach(flow)).collect()
    }

    fn reach(&self, source_port: u16) -> Option<IpAddr> {
        let flow = Flow {
            source: Addr::v4([198, 51, 100, 7]),
            source_port: Be16::new(source_port),
            port: Be16::new(80),
            protocol: protocol::TCP,
        };
        let arrival = Arrival { ifindex: 3, station: NIC };
        let destination = Addr::from(VIP);
        match forward::decide(&self.maps.at(self.now), &arrival, &destination, || Ok(flow)) {
            Verdict::Forward(forward) => Some(IpAddr::from(forward.backend.addr)),
            Verdict::Drop(_) | Verdict::Pass(_) => None,
        }
    }

    /// Last numbers of the addresses that get flows.
    pub(super) fn serving(&self) -> BTreeSet<u8> {
        let last = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(_) => unreachable!("the world is IPv4"),
        };
        self.flows(500).into_iter().flatten().map(last).collect()
    }

    pub(super) fn set_admin(&mut self, backend: &str, admin: Admin) -> Result<Change, Refusal> {
        let wish =
            SetAdmin { service: "web".into(), backend: backend.into(), admin, dry_run: false };
        let change = self.engine.set_admin(self.now, &wish);
        self.carry_out();
        change
    }

    pub(super) fn set_weight(&mut self, backend: &str, weight: u32) -> Result<Change, Refusal> {
        let wish =
            SetWeight { service: "web".into(), backend: backend.into(), weight, dry_run: false };
        let change = self.engine.set_weight(self.now, &wish);
        self.carry_out();
        change
    }
}

fn link(up: bool) -> Link {
    Link { ifindex: 3, name: "eth0".into(), mac: NIC, up }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

// --- stories ---

#[test]
fn three_healthy_backends_share_the_flows_soon_after_the_start() {
    let mut sim = Sim::start(config(3));
    sim.run_for(secs(1));
    assert_eq!(sim.serving(), BTreeSet::from([1, 2, 3]));
    assert_eq!(sim.attached, ["eth0"]);
}

#[test]
fn a_backend_that_never_answered_gets_nothing() {
    let mut sim = Sim::start(config(3));
    sim.refusing.insert(address(2));
    sim.run_for(secs(1));
    assert_eq!(sim.serving(), BTreeSet::from([1, 3]));
}

#[test]
fn a_killed_backend_is_out_after_fall_checks_and_back_after_rise_checks() {
    let mut sim = Sim::start(config(3));
    sim.run_for(secs(5));
    sim.refusing.insert(address(2));
    sim.run_for(Duration::from_millis(1900));
    assert_eq!(sim.serving(), BTreeSet::from([1, 2, 3]), "two failures are not enough");
    sim.run_for(Duration::from_millis(1100));
    assert_eq!(sim.serving(), BTreeSet::from([1, 3]));
    sim.refusing.clear();
    sim.run_for(secs(2));
    assert_eq!(sim.serving(), BTreeSet::from([1, 2, 3]));
    let kinds: Vec<_> = sim.engine.events(0).into_iter().map(|event| event.kind).collect();
    assert!(kinds.contains(&"backend-down".to_owned()), "{kinds:?}");
}

#[test]
fn flows_of_the_other_backends_hardly_move_when_one_goes_and_return_when_it_comes_back() {
    let mut sim = Sim::start(config(10));
    sim.run_for(secs(1));
    let before = sim.flows(5000);
    sim.refusing.insert(address(4));
    sim.run_for(secs(4));
    let without = sim.flows(5000);
    let moved = before
        .iter()
        .zip(&without)
        .filter(|(was, now)| **was != Some(address(4)) && was != now)
        .count();
    assert!(moved < 75, "{moved} of 5000 flows moved without need");
    sim.refusing.clear();
    sim.run_for(secs(3));
    assert_eq!(sim.flows(5000), before);
}

#[test]
fn first_probes_are_spread_and_later_ones_keep_the_interval() {
    let mut sim = Sim::start(config(5));
    sim.run_for(secs(3));
    let starts: BTreeSet<Moment> = sim.probes.values().map(|probes| probes[0]).collect();
    assert_eq!(starts.len(), 5, "no two backends are probed at the same moment");
    for probes in sim.probes.values() {
        assert!(probes.windows(2).all(|pair| pair[1] - pair[0] == secs(1)), "{probes:?}");
    }
}

#[test]
fn a_drained_backend_gets_nothing_new_and_comes_back_with_ready() {
    let mut sim = Sim::start(config(3));
    sim.run_for(secs(1));
    let change = sim.set_admin("b2", Admin::Drain).expect("known backend");
    assert_eq!((change.was.as_str(), change.now.as_str()), ("ready", "drain"));
    assert!((30.0..37.0).contains(&change.moved), "{} % moved", change.moved);
    assert_eq!(sim.serving(), BTreeSet::from([1, 3]));
    sim.set_admin("b2", Admin::Ready).expect("known backend");
    assert_eq!(sim.serving(), BTreeSet::from([1, 2, 3]));
}

#[test]
fn a_backend_in_maintenance_is_not_probed_and_proves_itself_before_it_returns() {
    let mut sim = Sim::start(config(2));
    sim.run_for(secs(1));
    sim.set_admin("b2", Admin::Maint).expect("known backend");
    assert_eq!(sim.serving(), BTreeSet::from([1]));
    let probes = sim.probes[&address(2)].len();
    sim.refusing.insert(address(2));
    sim.run_for(secs(10));
    assert_eq!(sim.probes[&address(2)].len(), probes);
    sim.set_admin("b2", Admin::Ready).expect("known backend");
    sim.run_for(secs(3));
    assert_eq!(sim.serving(), BTreeSet::from([1]), "it is still refusing");
    sim.refusing.clear();
    sim.run_for(secs(3));
    assert_eq!(sim.serving(), BTreeSet::from([1, 2]));
}

#[test]
fn weights_shift_shares_and_weight_zero_takes_nothing() {
    let mut sim = Sim::start(config(2));
    sim.run_for(secs(1));
    sim.set_weight("b1", 3).expect("known backend");
    let shares: Vec<f64> = sim
        .engine
        .backends(sim.now, &Counts::default())
        .iter()
        .map(|backend| backend.share)
        .collect();
    assert!((74.0..76.0).contains(&shares[0]), "{shares:?}");
    sim.set_weight("b1", 0).expect("known backend");
    assert_eq!(sim.serving(), BTreeSet::from([2]));
    let refusal = sim.set_weight("b1", 257).expect_err("too high");
    assert_eq!(refusal.to_string(), "weight 257 is too high; give 0 to 256");
}

#[test]
fn a_dry_run_says_what_would_move_and_changes_nothing() {
    let mut sim = Sim::start(config(3));
    sim.run_for(secs(1));
    let before = sim.maps.clone();
    let admin = Admin::Drain;
    let wish = SetAdmin { service: "web".into(), backend: "b1".into(), admin, dry_run: true };
    let change = sim.engine.set_admin(sim.now, &wish).expect("known backend");
    assert!(change.dry_run && change.moved > 30.0, "{change:?}");
    sim.run_for(secs(1));
    assert_eq!(sim.maps, before);
}

#[test]
fn an_unknown_service_or_backend_is_refused_with_the_known_names() {
    let mut sim = Sim::start(config(2));
    let refusal = sim.set_admin("b9", Admin::Drain).expect_err("unknown");
    assert_eq!(refusal.to_string(), "service `web` has no backend `b9`; there are: b1, b2");
    let wish = SetWeight { service: "www".into(), backend: "b1".into(), weight: 1, dry_run: false };
    let refusal = sim.engine.set_weight(sim.now, &wish).expect_err("unknown");
    assert_eq!(refusal.to_string(), "there is no service `www`; there are: web");
}

#[test]
fn without_a_usable_backend_packets_are_dropped_and_the_operator_is_told() {
    let mut sim = Sim::start(config(2));
    sim.run_for(secs(1));
    sim.refusing.extend([address(1), address(2)]);
    sim.run_for(secs(4));
    assert_eq!(sim.serving(), BTreeSet::new());
    assert_eq!(sim.engine.status(sim.now, 1).services_down, ["web"]);
    let kinds: Vec<_> = sim.engine.events(0).into_iter().map(|event| event.kind).collect();
    assert!(kinds.contains(&"service-down".to_owned()), "{kinds:?}");
}

#[test]
fn a_backend_whose_ethernet_address_is_unknown_is_not_used_and_shown_as_such() {
    let mut config = config(2);
    config.services[0].check.kind = CheckKind::None;
    let mut sim = Sim::start(config);
    sim.dead.insert(address(2));
    sim.run_for(secs(12));
    assert_eq!(sim.serving(), BTreeSet::from([1]));
    let backends = sim.engine.backends(sim.now, &Counts::default());
    let why = backends[1].why.as_deref();
    assert_eq!(why, Some("no answer to ARP or neighbour discovery on eth0"));
}

#[test]
fn the_ethernet_address_of_a_backend_that_went_silent_is_confirmed_once() {
    let mut sim = Sim::start(config(3));
    sim.run_for(secs(1));
    sim.dead.insert(address(2));
    sim.refusing.insert(address(3));
    sim.run_for(secs(9));
    assert_eq!(sim.serving(), BTreeSet::from([1]));
    assert_eq!(sim.doubted, [address(2)]);
}

#[test]
fn a_lost_interface_is_attached_again_when_it_returns_under_a_new_index() {
    let mut sim = Sim::start(config(1));
    sim.run_for(secs(1));
    assert_eq!(sim.kept, BTreeSet::from([3]));
    sim.event(Event::LinkRemoved { ifindex: 3 });
    assert_eq!(sim.kept, BTreeSet::new());
    assert_eq!(sim.serving(), BTreeSet::new());
    assert!(sim.maps.addrs.is_empty(), "no address without its interface");
    sim.event(Event::LinkChanged(Link { ifindex: 9, ..link(true) }));
    assert_eq!(sim.attached, ["eth0", "eth0"]);
    assert_eq!(sim.maps.addrs[&Addr::from(VIP)].ifindex, 9);
}

#[test]
fn an_interface_hears_solicitations_for_its_ipv6_addresses_until_the_end() {
    let mut config = config(1);
    let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
    config.vips.push(Vip { address: address.into(), interface: "eth0".into() });
    let mut sim = Sim::start(config);
    assert_eq!(sim.solicited, BTreeSet::from([(3, address)]));
    // A new interface has no memberships.
    sim.event(Event::LinkRemoved { ifindex: 3 });
    sim.solicited.clear();
    sim.event(Event::LinkChanged(Link { ifindex: 9, ..link(true) }));
    assert_eq!(sim.solicited, BTreeSet::from([(9, address)]));
    sim.engine.stop();
    sim.carry_out();
    assert_eq!(sim.solicited, BTreeSet::new());
}

#[test]
fn a_link_that_goes_down_takes_its_backends_out_at_once() {
    let mut sim = Sim::start(config(1));
    sim.run_for(secs(1));
    sim.event(Event::LinkChanged(link(false)));
    assert_eq!(sim.serving(), BTreeSet::new());
    sim.event(Event::LinkChanged(link(true)));
    assert_eq!(sim.serving(), BTreeSet::from([1]));
}

#[test]
fn an_attach_that_fails_is_tried_again_and_told_once() {
    let mut sim = Sim::start(config(1));
    for _ in 0..3 {
        let result = Err("eth0 is busy".to_owned());
        sim.event(Event::AttachDone { interface: "eth0".into(), result });
        let interfaces = sim.engine.status(sim.now, 1).interfaces;
        assert_eq!(interfaces[0].note.as_deref(), Some("eth0 is busy"));
        assert_eq!(interfaces[0].xdp, "off");
    }
    let failures =
        sim.engine.events(0).into_iter().filter(|event| event.kind == "attach-failed").count();
    assert_eq!(failures, 1);
    sim.run_for(secs(6));
    assert_eq!(sim.attached, ["eth0", "eth0"]);
}

#[test]
fn writes_that_fail_are_repeated_until_the_maps_are_right() {
    let mut sim = Sim::start(config(2));
    sim.broken_maps = true;
    sim.run_for(secs(3));
    assert_eq!(sim.serving(), BTreeSet::from([1, 2]));
    assert_eq!(&sim.maps, sim.engine.tables());
}

#[test]
fn a_restarted_controller_writes_nothing_that_is_already_right() {
    let mut first = Sim::start(config(3));
    first.run_for(secs(3));
    let maps = first.maps.clone();
    let before = first.flows(1000);
    let mut second = Sim::start_over(config(3), maps.clone());
    assert_eq!(second.flows(1000), before, "at once");
    assert_eq!(second.maps, maps, "nothing was written");
    second.run_for(secs(3));
    assert_eq!(second.maps, maps);
}

#[test]
fn operator_states_and_weights_survive_a_restart() {
    let mut first = Sim::start(config(3));
    first.run_for(secs(1));
    first.set_admin("b1", Admin::Maint).expect("known backend");
    first.set_admin("b2", Admin::Drain).expect("known backend");
    first.set_weight("b3", 0).expect("known backend");
    let mut second = Sim::start_over(config(3), first.maps.clone());
    second.run_for(secs(3));
    let backends = second.engine.backends(second.now, &Counts::default());
    let states: Vec<_> = backends.iter().map(|found| (found.admin, found.weight)).collect();
    assert_eq!(states, [(Admin::Maint, 1), (Admin::Drain, 1), (Admin::Ready, 0)]);
}

#[test]
fn a_backend_removed_from_the_configuration_leaves_the_maps_and_the_rest_keep_their_ids() {
    let mut first = Sim::start(config(3));
    first.run_for(secs(1));
    let mut config = config(3);
    config.services[0].backends.remove(0);
    let mut second = Sim::start_over(config, first.maps.clone());
    second.run_for(secs(3));
    assert_eq!(second.serving(), BTreeSet::from([2, 3]));
    assert!(!second.maps.backends.contains_key(&1));
    assert_eq!(second.maps.backends[&2], first.maps.backends[&2]);
}

#[test]
fn without_a_secret_in_the_configuration_the_one_in_the_maps_is_kept() {
    let mut config = config(1);
    config.node.secret = None;
    let first = Sim::start(config.clone());
    assert_eq!(first.maps.cfg.secret, [7, 7], "the random one");
    let mut maps = first.maps.clone();
    maps.cfg.secret = [8, 8];
    assert_eq!(Sim::start_over(config, maps).maps.cfg.secret, [8, 8]);
}

#[test]
fn explain_names_the_backend_that_the_packet_reaches() {
    let mut sim = Sim::start(config(5));
    sim.run_for(secs(1));
    for port in 0..1000_u16 {
        let packet = Explain {
            source: (Ipv4Addr::new(198, 51, 100, 7), port).into(),
            destination: (VIP, 80).into(),
            protocol: Protocol::Tcp,
        };
        let explanation = sim.engine.explain(sim.now, &packet).expect("one family");
        assert_eq!(explanation.address, sim.reach(port));
        assert_eq!(explanation.verdict, "forward");
    }
}

#[test]
fn explain_tells_why_a_packet_is_not_forwarded() {
    let mut sim = Sim::start(config(1));
    sim.refusing.insert(address(1));
    sim.run_for(secs(4));
    let explain = |source: &str, destination: &str, protocol| {
        let packet = Explain {
            source: source.parse().expect("literal"),
            destination: destination.parse().expect("literal"),
            protocol,
        };
        match sim.engine.explain(sim.now, &packet) {
            Ok(explanation) => format!("{}: {}", explanation.counter, explanation.steps[0]),
            Err(refusal) => refusal.error,
        }
    };
    for (destination, protocol, expected) in [
        (
            "192.0.2.99:80",
            Protocol::Tcp,
            "pass-not-ours: 192.0.2.99 is no virtual address of this node",
        ),
        (
            "192.0.2.10:81",
            Protocol::Tcp,
            "pass-no-service: 192.0.2.10 has no service on 81/tcp; it has: web on 80/tcp",
        ),
        (
            "192.0.2.10:80",
            Protocol::Udp,
            "pass-no-service: 192.0.2.10 has no service on 80/udp; it has: web on 80/tcp",
        ),
        ("192.0.2.10:80", Protocol::Tcp, "drop-no-backend: no backend of the service is usable"),
    ] {
        assert_eq!(explain("198.51.100.7:5000", destination, protocol), expected);
    }
    assert_eq!(
        explain("[2001:db8::1]:5000", "192.0.2.10:80", Protocol::Tcp),
        "source and destination are of different families"
    );
}
