//! What the program tells of new records, for the peers of this node: each one once, nothing of what
//! needs none, and nothing at all to a node without peers.

use aya::maps::{Map, MapData, PerCpuArray, RingBuf};
use pen_common::ABI_VERSION;
use pen_common::abi::{Cfg, Service, Slot, Translation, map};
use pen_common::event::{Event, RING, RecordMade};
use pen_common::net::{Addr, Be16, protocol};
use pen_common::verdict::Counter;
use pen_ctl::engine::tables::Tables;

use crate::bench::Bench;
use crate::frame::{IPV4_PAYLOAD, Packet, patch};
use crate::nat::{ACK, FIN, MODES, Site, flagged, set_mode, with_tables};
use crate::world::{CLIENT4, SLOTS, VIP4, by_client, one_service, usual};

/// Where the flags of a TCP header stand.
const FLAGS: usize = IPV4_PAYLOAD + 13;

fn pinned(bench: &Bench, name: &str) -> MapData {
    let pin = bench.pins().0.join(format!("v{ABI_VERSION}")).join(name);
    MapData::from_pin(pin).expect("it is pinned")
}

/// What was told since it was last asked.
fn told(bench: &Bench) -> Vec<Event> {
    let mut ring = RingBuf::try_from(Map::RingBuf(pinned(bench, map::EVENTS))).expect("a ring");
    let mut events = Vec::new();
    while let Some(entry) = ring.next() {
        events.push(Event::read(&entry).expect("one of ours"));
    }
    events
}

fn missed(bench: &Bench) -> u64 {
    let map = Map::PerCpuArray(pinned(bench, map::MISSED));
    let missed: PerCpuArray<_, u64> = PerCpuArray::try_from(map).expect("an array");
    missed.get(&0, 0).expect("it can be read").iter().sum()
}

fn with_peers(mut tables: Tables) -> Tables {
    tables.cfg.flags |= Cfg::SYNC;
    tables
}

fn moving(mut tables: Tables) -> Tables {
    tables.slots.insert(0, vec![Slot::new(1, 2, true); SLOTS as usize].into());
    tables
}

fn syn(port: u16) -> Vec<u8> {
    Packet::tcp(VIP4, 80).from(CLIENT4, port).frame()
}

#[test]
fn a_new_record_of_a_flow_is_told_once() {
    let mut bench = Bench::new(with_peers(moving(one_service(&[1; 3]))));
    assert_eq!(bench.forwarded(&syn(1000)), 2);
    assert_eq!(bench.forwarded(&syn(1000)), 2);
    assert_eq!(bench.forwarded(&patch(&syn(1000), FLAGS, &[ACK])), 2);
    let events = told(&bench);
    let [Event::Flow(key, record)] = events[..] else { panic!("{events:?}") };
    assert_eq!((key.client, key.service), (Addr::from(std::net::IpAddr::from(CLIENT4)), 0));
    assert_eq!((key.source_port, key.port), (Be16::new(1000), Be16::new(80)));
    assert_eq!((record.backend, record.generation), (2, 1));
    // One that is made of an old flow's first packet.
    assert_eq!(bench.forwarded(&patch(&syn(2000), FLAGS, &[ACK])), 1);
    let events = told(&bench);
    assert!(matches!(events[..], [Event::Flow(_, record)] if record.backend == 1), "{events:?}");
}

#[test]
fn a_client_is_told_when_it_is_remembered() {
    let mut bench = Bench::new(with_peers(by_client(one_service(&[1; 3]))));
    let backend = bench.forwarded(&syn(1000));
    bench.forwarded(&syn(1001));
    let events = told(&bench);
    let [Event::Client(key, record)] = events[..] else { panic!("{events:?}") };
    assert_eq!((key.service, record.backend), (0, backend));
}

#[test]
fn settled_slots_have_nothing_to_tell() {
    let mut bench = Bench::new(with_peers(usual()));
    for port in 0..100 {
        bench.forwarded(&syn(port));
        bench.forwarded(&Packet::udp(VIP4, 53).from(CLIENT4, port).frame());
    }
    assert_eq!(told(&bench), []);
}

#[test]
fn a_node_without_peers_tells_nothing() {
    let mut bench = Bench::new(by_client(moving(one_service(&[1; 3]))));
    for port in 0..100 {
        bench.forwarded(&syn(port));
    }
    assert_eq!((told(&bench), missed(&bench)), (vec![], 0));
}

#[test]
fn what_finds_no_room_is_counted_and_forwarded_all_the_same() {
    let mut bench = Bench::new(with_peers(moving(one_service(&[1; 3]))));
    let fits = RING as usize / (size_of::<RecordMade>() + 8);
    let flows = u16::try_from(fits + 500).expect("fewer than ports");
    for port in 0..flows {
        assert_eq!(bench.forwarded(&syn(port)), 2);
    }
    assert_eq!(told(&bench).len() as u64 + missed(&bench), u64::from(flows));
    assert!((490..=510).contains(&missed(&bench)), "{}", missed(&bench));
    bench.forwarded(&syn(flows));
    assert_eq!(told(&bench).len(), 1, "there is room again");
}

/// The translations that were told, and the flags of each.
fn translations(site: &Site) -> Vec<(u8, u32)> {
    let events = told(&site.bench).into_iter();
    let of = |event| match event {
        Event::Translation(ends, to) => (ends.protocol, to.flags),
        other => panic!("{other:?}"),
    };
    events.map(of).collect()
}

#[test]
fn translations_are_told_when_they_are_made_and_when_that_changes_how_long_they_live() {
    for mode in MODES {
        let change = |tables: &mut Tables| {
            set_mode(tables, mode);
            tables.cfg.flags |= Cfg::SYNC;
        };
        with_tables(change, |site| {
            let tcp = Packet::tcp(VIP4, 80).frame();
            let sent = site.request(&tcp);
            let mut expected = vec![(protocol::TCP, Translation::RETURN)];
            if mode == Service::MASQUERADE {
                expected.push((protocol::TCP, 0));
            }
            assert_eq!(translations(site), expected);
            for _ in 0..3 {
                site.request(&flagged(&tcp, ACK));
            }
            assert_eq!(translations(site), []);
            let answer = site.answer_to(&sent).frame();
            site.returned(&answer);
            site.returned(&answer);
            let answered = Translation::RETURN | Translation::ANSWERED;
            assert_eq!(translations(site), [(protocol::TCP, answered)]);
            site.request(&flagged(&tcp, FIN));
            let closing = answered | Translation::CLIENT_FIN;
            assert_eq!(translations(site), [(protocol::TCP, closing)]);
            site.request(&Packet::udp(VIP4, 53).frame());
            assert_eq!(translations(site)[0], (protocol::UDP, Translation::RETURN));
        });
    }
}

#[test]
fn no_room_for_translations_is_counted_as_well() {
    let change = |tables: &mut Tables| {
        set_mode(tables, Service::NAT);
        tables.cfg.flags |= Cfg::SYNC;
    };
    with_tables(change, |site| {
        for port in 0..11_000 {
            let packet = Packet::udp(VIP4, 53).from(CLIENT4, port);
            assert_eq!(site.bench.run_on(site.front, &packet.frame()).counter, Counter::Redirect);
        }
        assert!(missed(&site.bench) > 900, "{}", missed(&site.bench));
    });
}
