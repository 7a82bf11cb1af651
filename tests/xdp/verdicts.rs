//! One frame for each counter: a reason that nothing can construct, or a new one without a test,
//! does not get in. The match has no wildcard, so that a new counter fails to compile here.

use std::sync::Arc;

use pen_common::abi::{ACL_DENY, Backend, Service};
use pen_common::net::{Addr, MacAddr, protocol};
use pen_common::verdict::Counter;
use pen_ctl::engine::tables::{Prefix, Tables};

use crate::bench::Bench;
use crate::frame::{Arp, IP, Packet, Solicitation, patch, tagged};
use crate::icmp::{V4, replies::narrow, with_echo};
use crate::interfaces::{Wires, with_wires};
use crate::nat::{RST, flagged, set_mode, with_tables};
use crate::world::{CLIENT4, VIP4, VIP6, add_service, be_backup, one_service, uniform, usual};

/// Tables and a frame that end in this counter; `None` if another frame has to come first.
fn example(counter: Counter, wires: Wires) -> Option<(Tables, Vec<u8>)> {
    let tcp = Packet::tcp(VIP4, 80);
    let frame = tcp.frame();
    Some(match counter {
        Counter::PassEthertype => (usual(), patch(&frame, 12, &[0x88, 0xcc])),
        Counter::PassNotOurs => (usual(), Packet::tcp(CLIENT4, 80).frame()),
        Counter::PassNotMaster => {
            let mut tables = usual();
            be_backup(&mut tables);
            (tables, frame)
        }
        Counter::DropNotMaster => {
            let (tables, _) = example(Counter::PassNotMaster, wires)?;
            (tables, Arp::who_has(VIP4).frame())
        }
        Counter::PassOtherStation => (usual(), tcp.at_station(MacAddr([2; 6])).frame()),
        Counter::PassMalformed => (usual(), frame[..frame.len() - 1].to_vec()),
        Counter::PassFragment => (usual(), patch(&frame, IP + 6, &[0, 1])),
        Counter::PassOptions => {
            let options: (u8, &[u8]) = (protocol::DESTINATION_OPTIONS, &[1, 4, 0, 0, 0, 0]);
            (usual(), Packet::tcp(VIP6, 80).extended(&[options; 9]).frame())
        }
        Counter::PassProtocol => (usual(), Packet::other(VIP4, 112, &[0; 36]).frame()),
        Counter::PassNoService => (usual(), Packet::tcp(VIP4, 81).frame()),
        Counter::PassNeighbour => (usual(), Arp { operation: 2, ..Arp::who_has(VIP4) }.frame()),
        Counter::PassProxy => {
            let mut tables = usual();
            for service in tables.services.values_mut() {
                service.mode = Service::PROXY;
            }
            (tables, frame)
        }
        Counter::DropNoBackend => {
            let mut tables = one_service(&[1; 3]);
            for backend in tables.backends.values_mut() {
                backend.state = Backend::DOWN;
            }
            (tables, frame)
        }
        Counter::DropNoTable => {
            let mut tables = usual();
            tables.slots.clear();
            (tables, frame)
        }
        Counter::DropRewrite => {
            let mut tables = usual();
            for backend in tables.backends.values_mut() {
                backend.ifindex = wires.back;
            }
            (tables, frame)
        }
        Counter::DropStubborn => {
            let (mut tables, frame) = example(Counter::DropNoBackend, wires)?;
            for service in tables.services.values_mut() {
                service.flags = Service::STUBBORN;
            }
            (tables, frame)
        }
        Counter::DropAcl => {
            let mut tables = usual();
            for entry in tables.addrs.values_mut() {
                entry.acl = 1;
            }
            let everybody = Prefix { list: 1, addr: Addr::default(), bits: 0 };
            Arc::make_mut(&mut tables.prefixes).insert(everybody, ACL_DENY);
            (tables, frame)
        }
        Counter::DropRate => {
            let mut tables = usual();
            for entry in tables.addrs.values_mut() {
                // Longer than a burst: nobody gets in.
                entry.syn_interval_ns = 2_000_000_000;
            }
            (tables, frame)
        }
        Counter::DropTooBig => {
            let mut tables = narrow(30);
            tables.cfg.icmp_per_second = 0;
            (tables, frame)
        }
        Counter::DropNoEntry => (masquerading(), flagged(&frame, RST)),
        Counter::DropNoPort => (masquerading(), frame),
        Counter::DropTtl => {
            let mut tables = masquerading();
            tables.cfg.icmp_per_second = 0;
            (tables, patch(&frame, IP + 8, &[1]))
        }
        Counter::DropNatConflict
        | Counter::ReturnTransmit
        | Counter::ReturnRedirect
        | Counter::ReturnStack => return None,
        Counter::Transmit => (usual(), frame),
        Counter::Redirect => {
            let (mut tables, frame) = example(Counter::DropRewrite, wires)?;
            tables.egress.insert(wires.back);
            (tables, frame)
        }
        Counter::ArpReply => (usual(), Arp::who_has(VIP4).frame()),
        Counter::NdReply => (usual(), Solicitation::who_has(VIP6).frame()),
        Counter::EchoReply => (with_echo(usual()), V4.ping(&[]).frame()),
        Counter::TtlReply => (masquerading(), patch(&frame, IP + 8, &[1])),
        Counter::TooBigReply => (narrow(30), frame),
    })
}

/// Services that masquerade, without a port to do it.
fn masquerading() -> Tables {
    let mut tables = usual();
    for (key, service) in &mut tables.services {
        service.mode = Service::MASQUERADE;
        for backend in tables.backends.values_mut().filter(|b| b.service == service.id) {
            (backend.addr, backend.source) = (key.vip, key.vip);
        }
    }
    tables
}

/// A request of mode `nat`, and then what ends in this counter.
fn follow_a_request(counter: Counter) {
    let twin = |tables: &mut Tables| {
        let id = add_service(tables, VIP4.into(), 81, protocol::TCP, &[1]);
        set_mode(tables, Service::NAT);
        tables.slots.insert(0, uniform(1));
        let service = tables.backends.values_mut().find(|backend| backend.service == id);
        service.expect("it was just added").addr = Addr::v4([10, 0, 0, 1]);
    };
    with_tables(twin, |site| {
        let request = Packet::tcp(VIP4, 80);
        let sent = site.request(&request.frame());
        let answer = site.answer_to(&sent).frame();
        let (ingress, frame) = match counter {
            Counter::DropNatConflict => (site.front, Packet::tcp(VIP4, 81).frame()),
            Counter::ReturnTransmit => (site.front, answer),
            Counter::ReturnStack => (site.back, tagged(&answer, 0x8100)),
            _ => (site.back, answer),
        };
        assert_eq!(site.bench.run_on(ingress, &frame).counter, counter);
    });
}

#[test]
fn every_counter_has_a_frame_that_ends_in_it() {
    with_wires(|wires| {
        for counter in Counter::ALL {
            match example(*counter, wires) {
                Some((tables, frame)) => {
                    Bench::new(tables).ends_in(*counter, &frame, counter.name());
                }
                None => follow_a_request(*counter),
            }
        }
    });
}
