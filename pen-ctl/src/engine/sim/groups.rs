//! Groups of virtual addresses that nodes share: what CARP is told about them, and what the maps and
//! the operator see.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use pen_common::abi;
use pen_common::net::{Addr, MacAddr};

use super::{NIC, Sim, VIP, config, secs, vip};
use crate::config::{
    AddressesBy, Carp, CarpAuth, CarpMac, CarpTransport, Config, DEFAULT_GROUP, Demotion, Hooks,
    Mode, Proxy, Secret, TieBreak, Vip, XdpMode,
};
use crate::engine::carp::{Role, VipMac};
use crate::engine::event::{Event, Link};
use crate::engine::tables::Tables;

const VIRTUAL: MacAddr = MacAddr([0, 0, 0x5e, 0, 1, 7]);
/// An address on which no service listens.
const SPARE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 11));

fn group(name: &str) -> Carp {
    Carp {
        name: name.into(),
        interface: "eth0".into(),
        vhid: 7,
        advbase: secs(1),
        advskew: 0,
        deadratio: 3,
        preempt: false,
        preempt_delay: Duration::ZERO,
        neutral: false,
        auth: CarpAuth::Bsd { password: Secret(b"love".to_vec()) },
        transport: CarpTransport::Multicast { group: DEFAULT_GROUP },
        peers: Vec::new(),
        sources: Vec::new(),
        mac: CarpMac::Virtual,
        tie_break: TieBreak::Numeric,
        ignore_link: false,
        sync_group: None,
        announce_refresh: None,
        hooks: Hooks::default(),
        addresses: AddressesBy::Pen,
        demotion: Demotion { no_backend: 50, ..Demotion::default() },
    }
}

fn member(address: IpAddr, group: &str) -> Vip {
    Vip { carp: Some(group.into()), ..vip(address) }
}

/// The usual service, whose address belongs to a group.
fn shared() -> Config {
    Config { vips: vec![member(VIP, "main")], carp: vec![group("main")], ..config(2) }
}

fn entry(sim: &Sim, address: IpAddr) -> abi::AddrEntry {
    sim.maps.addrs[&Addr::from(address)]
}

#[test]
fn an_address_of_a_group_refers_to_it_and_has_its_ethernet_address() {
    let sim = Sim::start(shared());
    let found = entry(&sim, VIP);
    assert_eq!((found.group, found.mac), (1, VIRTUAL));
    let [told] = &sim.groups[..] else { panic!("one group") };
    let settings = &told.settings;
    assert_eq!((settings.group, settings.name.as_str()), (1, "main"));
    assert_eq!((settings.mac, &settings.vips), (VipMac::Virtual, &vec![VIP]));
    assert!(told.local.is_empty(), "XDP alone answers for it");
    assert_eq!(sim.usable, BTreeMap::from([(1, Ok(()))]));
    assert!(sim.demoted.is_empty());
}

#[test]
fn roles_are_left_to_the_thread_that_writes_them() {
    let mut sim = Sim::start(shared());
    let groups = |sim: &Sim| sim.maps.groups.keys().copied().collect::<Vec<_>>();
    assert_eq!(groups(&sim), [0]);
    let role = |sim: &Sim| sim.engine.vips(sim.now)[0].role.clone();
    assert_eq!(role(&sim), "backup");
    for (event, expected) in
        [(Role::Master, "master"), (Role::Leaving, "leaving"), (Role::Backup, "backup")]
    {
        sim.event(Event::CarpRole { group: 1, role: event });
        assert_eq!(role(&sim), expected);
        assert_eq!(sim.engine.status(sim.now, 1).carp[0].role, expected);
        sim.run_for(secs(1));
        assert_eq!(groups(&sim), [0], "nothing is written");
    }
    let master = abi::Group { role: abi::Group::MASTER, lease_ns: sim.now.0 + 1, _pad: 0 };
    sim.engine.note_groups(BTreeMap::from([(0, abi::Group::default()), (1, master)]));
    assert_eq!(role(&sim), "master");
    assert_eq!(sim.engine.tables().groups[&0], abi::Group::ALWAYS);
    sim.now = sim.now + Duration::from_nanos(1);
    assert_eq!(role(&sim), "backup", "its lease has run out");
}

#[test]
fn the_machine_takes_a_proxied_address_only_while_its_group_is_not_backup() {
    let mut shared = shared();
    shared.services[0].mode = Mode::Proxy;
    shared.services[0].proxy = Some(Box::new(Proxy::usual()));
    let mut sim = Sim::start(shared);
    assert!(sim.held.is_empty(), "another node may have it");
    let [told] = &sim.groups[..] else { panic!("one group") };
    assert_eq!(told.settings.mac, VipMac::Interface, "its own stack has to take the frames");
    assert!(told.local.is_empty(), "a route is enough");
    assert_ne!(entry(&sim, VIP).mac, VIRTUAL);
    for (role, held) in
        [(Role::Master, true), (Role::Leaving, true), (Role::Backup, false), (Role::Master, true)]
    {
        sim.event(Event::CarpRole { group: 1, role });
        assert_eq!(sim.held.contains(&VIP), held, "{role:?}");
    }
}

#[test]
fn numbers_of_groups_last_across_restarts_whatever_their_order() {
    let both = |first: &str, second: &str| Config {
        vips: vec![member(VIP, "a"), member(SPARE, "b")],
        carp: vec![group(first), Carp { vhid: 8, ..group(second) }],
        ..config(2)
    };
    let sim = Sim::start(both("a", "b"));
    let numbers = |sim: &Sim| [VIP, SPARE].map(|address| entry(sim, address).group);
    let before = numbers(&sim);
    let mut maps: Tables = sim.maps.clone();
    let master = abi::Group { role: abi::Group::MASTER, lease_ns: 77, _pad: 0 };
    maps.groups.insert(before[1], master);
    let again = Sim::start_over(both("b", "a"), maps.clone());
    assert_eq!(numbers(&again), before);
    assert_eq!(again.maps.groups[&before[1]], master, "its role is not touched");
    // Also if a new one comes first in the alphabet.
    let mut more = both("a", "b");
    more.vips.push(member([192, 0, 2, 12].into(), "0"));
    more.carp.insert(0, Carp { vhid: 9, ..group("0") });
    assert_eq!(numbers(&Sim::start_over(more, maps)), before);
}

#[test]
fn addresses_without_a_service_are_given_to_the_kernel_under_the_interfaces_own_ethernet_address() {
    let mut config = shared();
    config.vips.push(member(SPARE, "main"));
    let sim = Sim::start(config.clone());
    assert_eq!(sim.groups[0].local, [SPARE]);
    assert_eq!(sim.groups[0].settings.mac, VipMac::Interface);
    assert_eq!([VIP, SPARE].map(|address| entry(&sim, address).mac), [NIC; 2]);
    assert_eq!(sim.engine.vips(sim.now)[0].mac, Some(NIC.to_string()));
    // Hooks do it themselves.
    config.carp[0].addresses = AddressesBy::Hooks;
    let sim = Sim::start(config);
    assert!(sim.groups[0].local.is_empty());
}

#[test]
fn without_xdp_the_kernel_has_all_addresses() {
    let mut config = shared();
    config.interfaces[0].xdp = XdpMode::Off;
    config.carp[0].mac = CarpMac::Interface;
    let sim = Sim::start(config);
    assert_eq!(sim.groups[0].local, [VIP]);
    assert_eq!(sim.usable[&1], Ok(()), "that XDP is off is no fault");
    assert!(sim.demoted.is_empty());
}

#[test]
fn a_node_that_cannot_serve_says_so_and_is_demoted() {
    let mut sim = Sim::start(shared());
    sim.event(Event::LinkRemoved { ifindex: 3 });
    let fault = "XDP is not attached to eth0".to_owned();
    assert_eq!(sim.usable[&1], Err(fault.clone()));
    assert_eq!(sim.demoted[&(1, fault.clone())], 240);
    sim.event(Event::LinkChanged(super::link(true)));
    assert_eq!(sim.usable[&1], Ok(()));
    assert_eq!(sim.demoted[&(1, fault)], 0);
}

#[test]
fn a_service_without_backends_demotes_its_group_until_it_has_one() {
    let mut sim = Sim::start(shared());
    sim.refusing.extend([super::address(1), super::address(2)]);
    sim.run_for(secs(10));
    let reason = (1, "a service has no usable backend".to_owned());
    assert_eq!(sim.demoted.get(&reason), Some(&50));
    sim.refusing.clear();
    sim.run_for(secs(10));
    assert_eq!(sim.demoted.get(&reason), Some(&0));
}

#[test]
fn a_service_that_has_lost_its_quorum_demotes_the_groups_that_name_it() {
    let mut config = shared();
    config.carp[0].demotion.services = vec![("web".into(), 30)];
    config.services[0].judgement.quorum = Some(2);
    let mut sim = Sim::start(config);
    sim.run_for(secs(2));
    let reason = (1, "service web has lost its quorum".to_owned());
    assert_eq!(sim.demoted.get(&reason), None);
    sim.refusing.insert(super::address(1));
    sim.run_for(secs(10));
    assert_eq!(sim.demoted.get(&reason), Some(&30));
    sim.refusing.clear();
    sim.run_for(secs(10));
    assert_eq!(sim.demoted.get(&reason), Some(&0));
}

#[test]
fn an_interface_that_a_group_depends_on_demotes_it_while_it_is_down() {
    let mut config = shared();
    config.carp[0].demotion.interfaces = vec![("eth1".into(), 20)];
    let mut sim = Sim::start(config);
    let reason = (1, "interface eth1 is down".to_owned());
    assert_eq!(sim.demoted.get(&reason), Some(&20), "it is not there yet");
    let eth1 = Link { ifindex: 4, name: "eth1".into(), ..super::link(true) };
    for (up, weight) in [(true, 0), (false, 20), (true, 0)] {
        sim.event(Event::LinkChanged(Link { up, ..eth1.clone() }));
        assert_eq!(sim.demoted.get(&reason), Some(&weight), "up: {up}");
    }
}

#[test]
fn a_reload_tells_carp_what_is_new_and_nothing_that_is_not() {
    let mut sim = Sim::start(shared());
    let told = sim.groups.clone();
    sim.groups.clear();
    sim.event(Event::TimePassed);
    sim.reload(shared());
    assert!(sim.groups.is_empty(), "nothing is new");
    let auth = CarpAuth::Bsd { password: Secret(b"hate".to_vec()) };
    let other = Config { carp: vec![Carp { auth, preempt: true, ..group("main") }], ..shared() };
    let lines = sim.reload(other);
    let expected = ["~ carp main: preempt false -> true", "~ carp main: secret one -> another one"];
    assert_eq!(lines, expected);
    sim.reload(shared());
    let hooks = Hooks { up: Some(PathBuf::from("/bin/true")), ..Hooks::default() };
    let other = Config { carp: vec![Carp { hooks, advskew: 9, ..group("main") }], ..shared() };
    sim.reload(other);
    let [group] = &sim.groups[..] else { panic!("one group") };
    assert_eq!((group.settings.group, group.settings.advskew), (told[0].settings.group, 9));
    assert_eq!(group.hooks.up, Some(PathBuf::from("/bin/true")));
    let mut alone = shared();
    (alone.carp, alone.vips[0].carp) = (Vec::new(), None);
    sim.reload(alone);
    assert!(sim.groups.is_empty());
    assert_eq!((entry(&sim, VIP).group, entry(&sim, VIP).mac), (0, NIC));
}

#[test]
fn what_carp_tells_is_in_the_journal_and_what_hinders_it_in_the_status() {
    let mut sim = Sim::start(shared());
    let (subject, text) = ("main".to_owned(), "main is master: the master is silent".to_owned());
    let told = |warning, kind| Event::CarpTold {
        warning,
        kind,
        subject: subject.clone(),
        text: text.clone(),
    };
    sim.event(told(false, "carp-master"));
    sim.event(told(true, "carp-late"));
    let events = sim.engine.events(0);
    for kind in ["carp-master", "carp-late"] {
        assert!(events.iter().any(|event| event.kind == kind && event.text == text), "{kind}");
    }
    sim.event(Event::CarpHindered(vec!["CARP runs as any other thread".to_owned()]));
    assert!(sim.engine.status(sim.now, 1).warnings[0].starts_with("CARP runs"));
}

#[test]
fn another_node_with_the_name_of_this_one_is_in_the_status_as_long_as_it_is_heard() {
    let mut sim = Sim::start(shared());
    let address = Some([192, 0, 2, 3].into());
    sim.event(Event::CarpTwin { group: 1, address });
    let name = sim.engine.config.node.name.clone();
    let expected =
        format!("192.0.2.3 is called {name} as well: give each node another `node.name`");
    assert!(sim.engine.warnings().contains(&expected));
    sim.event(Event::CarpTwin { group: 1, address: None });
    assert!(!sim.engine.warnings().contains(&expected));
}
