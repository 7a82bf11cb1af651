//! Decisions over maps that are literals.

extern crate std;
use super::*;
use crate::net::protocol;
use core::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::vec;
use std::vec::Vec;

pub(crate) const NIC: Arrival = Arrival { ifindex: 3, station: MacAddr([2, 0, 0, 0, 0, 1]) };

/// Maps as literals.
pub(crate) struct Maps {
    pub(crate) addrs: BTreeMap<Addr, AddrEntry>,
    pub(crate) groups: Vec<Group>,
    services: BTreeMap<ServiceKey, Service>,
    slots: Vec<Slot>,
    backends: Vec<Backend>,
    now: Moment,
    cfg: Cfg,
    flows: RefCell<BTreeMap<FlowKey, Record>>,
    clients: RefCell<BTreeMap<ClientKey, Record>>,
    pub(crate) denied: Vec<(u32, Addr)>,
    hasty: Vec<Addr>,
}

impl Lookup for Maps {
    fn addr(&self, addr: &Addr) -> Option<AddrEntry> {
        self.addrs.get(addr).copied()
    }
    fn group(&self, index: u32) -> Option<Group> {
        self.groups.get(index as usize).copied()
    }
    fn cfg(&self) -> Option<&Cfg> {
        Some(&self.cfg)
    }
    fn service(&self, key: &ServiceKey) -> Option<Service> {
        self.services.get(key).copied()
    }
    fn slot(&self, service: u32, _: u32, index: u32) -> Option<Slot> {
        assert_eq!(service, 5);
        self.slots.get(index as usize).copied()
    }
    fn backend(&self, id: u32) -> Option<&Backend> {
        self.backends.get(id as usize)
    }
    fn flow(&self, key: &FlowKey) -> Option<Record> {
        self.flows.borrow().get(key).copied()
    }
    fn client(&self, key: &ClientKey) -> Option<Record> {
        self.clients.borrow().get(key).copied()
    }
    fn record_flow(&self, key: &FlowKey, record: &Record) -> bool {
        self.flows.borrow_mut().insert(*key, *record);
        true
    }
    fn record_client(&self, key: &ClientKey, record: &Record) -> bool {
        self.clients.borrow_mut().insert(*key, *record);
        true
    }
    fn stamp_flow(&self, key: &FlowKey, now: Moment) {
        if let Some(record) = self.flows.borrow_mut().get_mut(key) {
            record.last_seen_ns = now.0;
        }
    }
    fn stamp_client(&self, key: &ClientKey, now: Moment) {
        if let Some(record) = self.clients.borrow_mut().get_mut(key) {
            record.last_seen_ns = now.0;
        }
    }
    fn acl(&self, list: u32, source: &Addr) -> Option<u32> {
        self.denied.contains(&(list, *source)).then_some(ACL_DENY)
    }
    fn admit(&self, _: &AddrEntry, source: &Addr) -> bool {
        !self.hasty.contains(source)
    }
    fn now(&self) -> Moment {
        self.now
    }
}

fn addr(text: &str) -> Addr {
    Addr::from(text.parse::<IpAddr>().expect("literal"))
}

fn backend(state: u32) -> Backend {
    Backend { state, ..Backend::default() }
}

/// 192.0.2.10:80/tcp over backends 1 and 2, in alternating slots.
pub(crate) fn maps() -> Maps {
    let vip = addr("192.0.2.10");
    let entry = AddrEntry { ifindex: 3, mac: NIC.station, ..AddrEntry::default() };
    let service = Service { id: 5, slots: 7, ..Service::default() };
    Maps {
        addrs: BTreeMap::from([(vip, entry)]),
        groups: vec![Group::ALWAYS],
        services: BTreeMap::from([(ServiceKey::new(vip, Be16::new(80), protocol::TCP), service)]),
        slots: (0..7).map(|slot| Slot::settled(slot % 2 + 1)).collect(),
        backends: vec![backend(0), backend(Backend::UP), backend(Backend::UP)],
        now: Moment(1000),
        cfg: Cfg { secret: [1, 2], ..Cfg::default() },
        flows: RefCell::default(),
        clients: RefCell::default(),
        denied: Vec::new(),
        hasty: Vec::new(),
    }
}

fn flow(port: u16) -> Flow {
    Flow {
        source: addr("198.51.100.7"),
        source_port: Be16::new(40000),
        port: Be16::new(port),
        protocol: protocol::TCP,
        stage: Stage::Established,
    }
}

fn decide_for(maps: &Maps, arrival: Arrival, flow: Flow) -> Verdict<'_> {
    decide(maps, &arrival, &addr("192.0.2.10"), || Ok(flow))
}

#[test]
fn a_packet_to_another_address_is_not_even_parsed() {
    let maps = maps();
    let verdict = decide(&maps, &NIC, &addr("192.0.2.11"), || unreachable!("not ours"));
    assert_eq!(verdict, Verdict::Pass(PassReason::PassNotOurs));
}

#[test]
fn a_packet_to_a_service_goes_to_the_backend_of_its_slot() {
    let maps = maps();
    let Verdict::Forward(forward) = decide_for(&maps, NIC, flow(80)) else { panic!("forward") };
    assert_eq!(forward.service, 5);
    assert_eq!(forward.id, u32::from(maps.slots[forward.slot as usize].current()));
}

#[test]
fn another_port_or_protocol_passes() {
    assert_eq!(decide_for(&maps(), NIC, flow(81)), Verdict::Pass(PassReason::PassNoService));
    let udp = Flow { protocol: protocol::UDP, ..flow(80) };
    assert_eq!(decide_for(&maps(), NIC, udp), Verdict::Pass(PassReason::PassNoService));
}

#[test]
fn port_zero_serves_every_port_without_a_service_of_its_own() {
    let mut maps = maps();
    let vip = addr("192.0.2.10");
    let any = Service { id: 5, slots: 7, ..Service::default() };
    maps.services.insert(ServiceKey::new(vip, Be16::new(0), protocol::TCP), any);
    assert!(matches!(decide_for(&maps, NIC, flow(81)), Verdict::Forward(_)));
}

#[test]
fn a_flooded_frame_for_another_station_passes() {
    let other = Arrival { station: MacAddr([2, 0, 0, 0, 0, 9]), ..NIC };
    assert_eq!(decide_for(&maps(), other, flow(80)), Verdict::Pass(PassReason::PassOtherStation));
    // A frame that was routed to us through another interface bears that interface's address.
    let routed = Arrival { ifindex: 4, ..other };
    assert!(matches!(decide_for(&maps(), routed, flow(80)), Verdict::Forward(_)));
    let broadcast = Arrival { station: MacAddr([0xff; 6]), ..routed };
    assert_eq!(
        decide_for(&maps(), broadcast, flow(80)),
        Verdict::Pass(PassReason::PassOtherStation)
    );
}

#[test]
fn a_backup_and_a_master_whose_lease_ran_out_forward_nothing() {
    let mut maps = maps();
    let not_master = Verdict::Pass(PassReason::PassNotMaster);
    maps.groups = vec![Group { role: Group::BACKUP, ..Group::ALWAYS }; 2];
    assert!(matches!(decide_for(&maps, NIC, flow(80)), Verdict::Forward(_)), "in no group");
    maps.addrs.values_mut().for_each(|entry| entry.group = 1);
    assert_eq!(decide_for(&maps, NIC, flow(80)), not_master);
    maps.groups = vec![Group { lease_ns: 1001, ..Group::ALWAYS }; 2];
    assert!(matches!(decide_for(&maps, NIC, flow(80)), Verdict::Forward(_)));
    maps.now = Moment(1001);
    assert_eq!(decide_for(&maps, NIC, flow(80)), not_master);
    maps.groups.clear();
    assert_eq!(decide_for(&maps, NIC, flow(80)), not_master);
}

#[test]
fn what_the_parser_refuses_passes_with_its_reason() {
    for reason in [PassReason::PassFragment, PassReason::PassMalformed] {
        let maps = maps();
        let verdict = decide(&maps, &NIC, &addr("192.0.2.10"), || Err(reason));
        assert_eq!(verdict, Verdict::Pass(reason));
    }
}

#[test]
fn a_backend_that_went_down_is_replaced_with_the_next_packet() {
    let mut maps = maps();
    let Verdict::Forward(first) = decide_for(&maps, NIC, flow(80)) else { panic!("forward") };
    let (id, slot) = (first.id, first.slot);
    maps.backends[id as usize].state = Backend::DOWN;
    let Verdict::Forward(second) = decide_for(&maps, NIC, flow(80)) else { panic!("forward") };
    assert_ne!(second.id, id);
    assert_eq!(second.slot, slot, "the flow's own slot is what is reported");
}

#[test]
fn a_draining_backend_still_gets_the_flows_of_its_slots() {
    let mut maps = maps();
    maps.backends = vec![backend(0), backend(Backend::DRAIN), backend(Backend::DRAIN)];
    assert!(matches!(decide_for(&maps, NIC, flow(80)), Verdict::Forward(_)));
}

#[test]
fn without_a_usable_backend_the_packet_is_dropped() {
    let mut maps = maps();
    maps.backends = vec![backend(0), backend(Backend::DOWN), backend(Backend::DOWN)];
    assert_eq!(decide_for(&maps, NIC, flow(80)), Verdict::Drop(DropReason::DropNoBackend));
    maps.slots = vec![Slot::default(); 7];
    assert_eq!(decide_for(&maps, NIC, flow(80)), Verdict::Drop(DropReason::DropNoBackend));
}

#[test]
fn a_missing_table_or_backend_is_a_drop_of_its_own() {
    let mut maps = maps();
    maps.slots.clear();
    assert_eq!(decide_for(&maps, NIC, flow(80)), Verdict::Drop(DropReason::DropNoTable));
    maps.slots = vec![Slot::settled(9); 7];
    assert_eq!(decide_for(&maps, NIC, flow(80)), Verdict::Drop(DropReason::DropNoTable));
}

#[test]
fn an_icmp_error_follows_the_record_of_its_flow_and_makes_none() {
    for (protocol, affinity) in [
        (protocol::TCP, Service::FLOW),
        (protocol::UDP, Service::FLOW),
        (protocol::UDP, Service::CLIENT),
    ] {
        let mut maps = maps();
        let service = Service { id: 5, slots: 7, affinity, ..Service::default() };
        let service = Service { flow_ttl_ns: 9, client_ttl_ns: 9, prefix_v4: 128, ..service };
        let key = ServiceKey::new(addr("192.0.2.10"), Be16::new(80), protocol);
        maps.services.insert(key, service);
        maps.slots = vec![Slot::new(1, 2, true); 7];
        let error = Flow { protocol, stage: Stage::Quoted, ..flow(80) };
        let chosen = |maps: &Maps| match decide_for(maps, NIC, error) {
            Verdict::Forward(forward) => forward.id,
            other => panic!("{other:?}"),
        };
        assert_eq!(chosen(&maps), 1, "without a record it belongs to the base");
        assert!(maps.flows.borrow().is_empty() && maps.clients.borrow().is_empty());
        let record = Record { backend: 2, generation: 0, last_seen_ns: 1000 };
        maps.record_flow(&affinity::flow_key(&service, &error), &record);
        maps.record_client(&affinity::client_key(&service, &error), &record);
        assert_eq!(chosen(&maps), 2, "{protocol}, affinity {affinity}");
    }
}

#[test]
fn neither_access_list_nor_rate_hold_an_icmp_error_back() {
    let mut maps = maps();
    for entry in maps.addrs.values_mut() {
        (entry.acl, entry.syn_interval_ns) = (1, 1);
    }
    maps.denied.push((1, flow(80).source));
    maps.hasty.push(flow(80).source);
    assert_eq!(decide_for(&maps, NIC, flow(80)), Verdict::Drop(DropReason::DropAcl));
    let error = Flow { stage: Stage::Quoted, ..flow(80) };
    assert!(matches!(decide_for(&maps, NIC, error), Verdict::Forward(_)));
}

#[test]
fn affinity_by_client_ignores_ports_and_affinity_by_flow_does_not() {
    let mut maps = maps();
    let slots = |maps: &Maps| -> Vec<u32> {
        (0..64)
            .map(|port| {
                let flow = Flow { source_port: Be16::new(40000 + port), ..flow(80) };
                let Verdict::Forward(forward) = decide_for(maps, NIC, flow) else {
                    panic!("forward")
                };
                forward.slot
            })
            .collect()
    };
    assert!(slots(&maps).windows(2).any(|pair| pair[0] != pair[1]));
    for service in maps.services.values_mut() {
        service.affinity = Service::CLIENT;
        service.prefix_v4 = 128;
        service.prefix_v6 = 64;
    }
    assert!(slots(&maps).windows(2).all(|pair| pair[0] == pair[1]));
}
