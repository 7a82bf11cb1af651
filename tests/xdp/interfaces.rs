//! Several interfaces: frames that come in on one and leave through another. In a namespace of its
//! own, because BPF_PROG_TEST_RUN and devmaps take only interfaces that exist.

use nix::net::if_::if_nametoindex;
use pen_common::net::MacAddr;
use pen_common::verdict::Counter;
use pen_ctl::engine::tables::{Tables, Write};
use pen_tests::Netns;

use crate::bench::{Action, Bench};
use crate::frame::{Arp, Packet, Solicitation, usual_packets};
use crate::world::{NIC, VIP4, VIP6, usual};

/// Interfaces of the namespace besides `lo`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wires {
    pub(crate) front: u32,
    pub(crate) back: u32,
}

/// Runs a test in a namespace with two interfaces.
pub(crate) fn with_wires(test: impl FnOnce(Wires) + Send) {
    let netns = Netns::new("xdp").expect("a namespace can be made");
    netns.ip("link add name front type veth peer name back").expect("veth exists");
    netns.run(|| {
        let index = |name| if_nametoindex(name).expect("it was just made");
        test(Wires { front: index("front"), back: index("back") });
    });
}

/// The usual services with addresses on `front` and backends behind `back`.
fn tables(wires: Wires) -> Tables {
    let mut tables = usual();
    for entry in tables.addrs.values_mut() {
        entry.ifindex = wires.front;
    }
    for backend in tables.backends.values_mut() {
        backend.ifindex = wires.back;
    }
    tables.egress.insert(wires.back);
    tables
}

#[test]
fn a_backend_behind_another_interface_is_reached_by_a_redirect() {
    with_wires(|wires| {
        let mut bench = Bench::new(tables(wires));
        for (what, packet) in usual_packets() {
            let frame = packet.frame();
            let outcome = bench.run_on(wires.front, &frame);
            assert_eq!(outcome.counter, Counter::Redirect, "{what}");
            bench.backend_of(&frame, &outcome.frame);
            // What comes in on the backends' side goes back there.
            let outcome = bench.run_on(wires.back, &frame);
            assert_eq!(outcome.counter, Counter::Transmit, "{what}");
        }
        let counts = bench.counts();
        let total: u64 = counts.backends.values().map(|count| count.packets).sum();
        assert_eq!(total, 8, "redirected and transmitted together");
        assert_eq!(counts.services.values().map(|count| count.packets).sum::<u64>(), 8);
    });
}

#[test]
fn a_backend_behind_an_unknown_interface_is_a_drop() {
    with_wires(|wires| {
        let mut tables = tables(wires);
        tables.egress.clear();
        let mut bench = Bench::new(tables);
        let frame = Packet::tcp(VIP4, 80).frame();
        let counter = |bench: &mut Bench| bench.run_on(wires.front, &frame).counter;
        assert_eq!(counter(&mut bench), Counter::DropRewrite);
        bench.write(Write::AddEgress(wires.back));
        assert_eq!(counter(&mut bench), Counter::Redirect);
        bench.write(Write::RemoveEgress(wires.back));
        assert_eq!(counter(&mut bench), Counter::DropRewrite);
        // Removed twice, as after the kernel did it because the interface went.
        bench.write(Write::RemoveEgress(wires.back));
        assert_eq!(bench.dataplane().read().unwrap().egress, [].into());
    });
}

#[test]
fn an_interface_that_does_not_exist_is_no_egress() {
    let mut bench = Bench::new(usual());
    let error = bench.dataplane().write(&[Write::AddEgress(0x7fff_fff0)]).unwrap_err();
    assert!(error.to_string().contains("map:"), "{error}");
    bench.forwarded(&Packet::tcp(VIP4, 80).frame());
}

#[test]
fn only_on_the_network_of_the_address_must_a_frame_bear_its_station() {
    with_wires(|wires| {
        let mut bench = Bench::new(tables(wires));
        for (what, packet) in usual_packets() {
            let frame = packet.at_station(MacAddr([2, 0, 0, 0, 0, 9])).frame();
            let flooded = bench.run_on(wires.front, &frame).counter;
            assert_eq!(flooded, Counter::PassOtherStation, "{what}");
            let routed = bench.run_on(wires.back, &frame).counter;
            assert_eq!(routed, Counter::Transmit, "{what}");
            assert_eq!(bench.run_on(NIC, &frame).counter, Counter::Redirect, "{what}");
        }
    });
}

#[test]
fn neighbours_are_answered_only_on_the_network_of_the_address() {
    with_wires(|wires| {
        let mut bench = Bench::new(tables(wires));
        let (arp, solicitation) = (Arp::who_has(VIP4).frame(), Solicitation::who_has(VIP6).frame());
        assert_eq!(bench.run_on(wires.front, &arp).counter, Counter::ArpReply);
        assert_eq!(bench.run_on(wires.front, &solicitation).counter, Counter::NdReply);
        for ifindex in [wires.back, NIC] {
            assert_eq!(bench.run_on(ifindex, &arp).counter, Counter::PassNeighbour);
            assert_eq!(bench.run_on(ifindex, &solicitation).counter, Counter::PassNeighbour);
        }
    });
}

#[test]
fn without_virtual_addresses_frames_pass_on_every_interface() {
    with_wires(|wires| {
        let mut bench = Bench::new(Tables::default());
        for (what, packet) in usual_packets() {
            for ifindex in [NIC, wires.front, wires.back] {
                let frame = packet.frame();
                let (action, out) = bench.send(Some(ifindex), &frame);
                assert_eq!((action, out), (Action::Pass, frame), "{what}");
            }
        }
    });
}
