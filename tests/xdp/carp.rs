//! Addresses of a CARP group: a backup is as silent as if it had none of them, a master whose lease
//! has run out too, and a change of the role holds from the next frame on.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use pen_common::abi::Group;
use pen_common::moment::Moment;
use pen_common::net::MacAddr;
use pen_common::verdict::Counter;
use pen_ctl::engine::tables::Write;
use pen_ctl::io::clock::now;
use pen_tests::wait_until;

use crate::bench::Bench;
use crate::frame::{Arp, Packet, Solicitation, usual_packets};
use crate::world::{CLIENT4, VIP4, VIP6, usual};

const GROUP: u32 = 3;

/// Both addresses in a group; what each frame ends in while this node is master.
fn bench(group: Group) -> (Bench, Vec<(Vec<u8>, Counter)>) {
    let mut tables = usual();
    for entry in tables.addrs.values_mut() {
        entry.group = GROUP;
    }
    tables.groups.insert(GROUP, group);
    let mut frames: Vec<_> = usual_packets()
        .into_iter()
        .map(|(_, packet)| (packet.frame(), Counter::Transmit))
        .collect();
    frames.push((Arp::who_has(VIP4).frame(), Counter::ArpReply));
    frames.push((Solicitation::who_has(VIP6).frame(), Counter::NdReply));
    let echo = Packet::other(VIP6, 58, &[128; 64]);
    frames.push((echo.frame(), Counter::PassProtocol));
    (Bench::new(tables), frames)
}

fn master(lease: Moment) -> Group {
    Group { role: Group::MASTER, lease_ns: lease.0, _pad: 0 }
}

fn backup(lease: Moment) -> Group {
    Group { role: Group::BACKUP, ..master(lease) }
}

#[track_caller]
fn assert_master(bench: &mut Bench, frames: &[(Vec<u8>, Counter)]) {
    for (frame, counter) in frames {
        bench.ends_in(*counter, frame, "master");
    }
}

/// What becomes of a frame that a master would answer so. Packets are left to the kernel; questions
/// for the Ethernet address are not, for the address may be on one of its interfaces.
fn silent(counter: Counter) -> Counter {
    match counter {
        Counter::ArpReply | Counter::NdReply => Counter::DropNotMaster,
        _ => Counter::PassNotMaster,
    }
}

#[track_caller]
fn assert_silent(bench: &mut Bench, frames: &[(Vec<u8>, Counter)]) {
    for (frame, counter) in frames {
        bench.ends_in(silent(*counter), frame, &format!("silent, not {counter:?}"));
    }
}

#[test]
fn a_backup_neither_forwards_nor_answers() {
    let (mut bench, frames) = bench(backup(Moment::NEVER));
    assert_silent(&mut bench, &frames);
}

#[test]
fn the_role_holds_from_the_frame_after_its_write() {
    let (mut bench, frames) = bench(backup(Moment::NEVER));
    for _ in 0..3 {
        assert_silent(&mut bench, &frames);
        bench.write(Write::SetGroup(GROUP, master(Moment::NEVER)));
        assert_master(&mut bench, &frames);
        bench.write(Write::SetGroup(GROUP, backup(Moment::NEVER)));
    }
}

#[test]
fn a_group_that_was_never_written_is_silent() {
    let (mut bench, frames) = bench(Group::default());
    assert_silent(&mut bench, &frames);
    // An index that the map does not have.
    let mut tables = usual();
    for entry in tables.addrs.values_mut() {
        entry.group = 256;
    }
    bench.change(tables);
    assert_silent(&mut bench, &frames);
}

#[test]
fn an_unknown_role_is_silent() {
    let (mut bench, frames) = bench(Group { role: 3, ..master(Moment::NEVER) });
    assert_silent(&mut bench, &frames);
}

#[test]
fn a_lease_in_the_past_ends_the_role_of_master() {
    let (mut bench, frames) = bench(master(now()));
    assert_silent(&mut bench, &frames);
    bench.write(Write::SetGroup(GROUP, master(Moment(1))));
    assert_silent(&mut bench, &frames);
    bench.write(Write::SetGroup(GROUP, master(now() + Duration::from_secs(60))));
    assert_master(&mut bench, &frames);
}

#[test]
fn a_lease_that_nobody_renews_runs_out_by_itself() {
    let (mut bench, frames) = bench(backup(Moment::NEVER));
    let lease = now() + Duration::from_millis(500);
    bench.write(Write::SetGroup(GROUP, master(lease)));
    let (frame, _) = &frames[0];
    let mut forwarded = 0;
    let ended = wait_until(Duration::from_secs(5), "the lease runs out", || {
        // Asked before: a frame that starts after the end must not be forwarded.
        let before = now();
        match bench.run(frame).counter {
            Counter::PassNotMaster => Some(now()),
            Counter::Transmit => {
                assert!(before < lease, "forwarded after the end of the lease");
                forwarded += 1;
                None
            }
            other => panic!("{other:?}"),
        }
    });
    assert!(ended.unwrap() >= lease, "silent before the end of the lease");
    assert!(forwarded > 0, "silent at once");
    assert_silent(&mut bench, &frames);
}

#[test]
fn addresses_outside_the_group_are_not_concerned() {
    let mut tables = usual();
    tables.groups.insert(GROUP, backup(Moment::NEVER));
    for (addr, entry) in &mut tables.addrs {
        entry.group = if addr.is_v4() { GROUP } else { 0 };
    }
    let mut bench = Bench::new(tables);
    bench.ends_in(Counter::PassNotMaster, &Packet::tcp(VIP4, 80).frame(), "in the group");
    bench.forwarded(&Packet::tcp(VIP6, 80).frame());
}

#[test]
fn one_that_leaves_forwards_and_tells_nobody_any_more_where_it_is() {
    let (mut bench, frames) = bench(Group { role: Group::LEAVING, ..master(Moment::NEVER) });
    for (frame, counter) in &frames {
        let expected = match counter {
            Counter::ArpReply | Counter::NdReply => Counter::DropNotMaster,
            other => *other,
        };
        bench.ends_in(expected, frame, "leaving");
    }
    bench.write(Write::SetGroup(GROUP, Group { role: Group::LEAVING, ..master(now()) }));
    assert_silent(&mut bench, &frames);
}

#[test]
fn an_announcement_of_our_address_is_news_for_the_kernel_and_no_question() {
    for group in [master(Moment::NEVER), backup(Moment::NEVER)] {
        let (mut bench, _) = bench(group);
        let announcement = Arp { sender_ip: VIP4, ..Arp::who_has(VIP4) };
        bench.ends_in(Counter::PassNeighbour, &announcement.frame(), "announcement");
        let probe = Arp { sender_ip: Ipv4Addr::UNSPECIFIED, ..announcement };
        let expected =
            if group.role == Group::MASTER { Counter::ArpReply } else { Counter::DropNotMaster };
        bench.ends_in(expected, &probe.frame(), "probe");
    }
}

#[test]
fn questions_for_an_address_of_a_backup_are_dropped_on_every_interface() {
    let (mut bench, _) = bench(backup(Moment::NEVER));
    for arrival in [1, 77] {
        let mut tables = bench.tables().clone();
        for entry in tables.addrs.values_mut() {
            entry.ifindex = arrival;
        }
        bench.change(tables);
        bench.ends_in(Counter::DropNotMaster, &Arp::who_has(VIP4).frame(), "ARP");
        bench.ends_in(Counter::DropNotMaster, &Solicitation::who_has(VIP6).frame(), "ND");
    }
}

#[test]
fn packets_of_carp_itself_pass_whatever_the_role_and_the_destination() {
    const CARP: u8 = 112;
    let advertisement = [0x21; 36];
    let group4 = Ipv4Addr::new(224, 0, 0, 18);
    let group6 = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
    let leaving = Group { role: Group::LEAVING, ..master(Moment::NEVER) };
    for group in [master(Moment::NEVER), backup(Moment::NEVER), leaving] {
        let (mut bench, _) = bench(group);
        let ours = if group.role == Group::BACKUP {
            Counter::PassNotMaster
        } else {
            Counter::PassProtocol
        };
        for (what, packet, counter) in [
            ("to the group", Packet::other(group4, CARP, &advertisement), Counter::PassNotOurs),
            (
                "to the group of IPv6",
                Packet::other(group6, CARP, &advertisement),
                Counter::PassNotOurs,
            ),
            ("to a peer", Packet::other(CLIENT4, CARP, &advertisement), Counter::PassNotOurs),
            ("to the virtual address", Packet::other(VIP4, CARP, &advertisement), ours),
            ("to that of IPv6", Packet::other(VIP6, CARP, &advertisement), ours),
        ] {
            bench.ends_in(counter, &packet.frame(), what);
        }
    }
}

#[test]
fn frames_to_the_virtual_ethernet_address_are_forwarded_and_it_is_what_neighbours_are_told() {
    let virtual_mac = MacAddr([0, 0, 0x5e, 0, 1, 7]);
    let (mut bench, _) = bench(master(Moment::NEVER));
    let mut tables = bench.tables().clone();
    for entry in tables.addrs.values_mut() {
        entry.mac = virtual_mac;
    }
    bench.change(tables);
    for packet in [Packet::tcp(VIP4, 80), Packet::tcp(VIP6, 80)] {
        bench.forwarded(&packet.at_station(virtual_mac).frame());
    }
    let reply = bench.run(&Arp::who_has(VIP4).frame());
    assert_eq!(reply.counter, Counter::ArpReply);
    assert_eq!(reply.frame[6..12], virtual_mac.0, "source of the frame");
    assert_eq!(reply.frame[22..28], virtual_mac.0, "sender of the reply");
    let reply = bench.run(&Solicitation::who_has(VIP6).frame());
    assert_eq!(reply.counter, Counter::NdReply);
    assert_eq!(reply.frame[6..12], virtual_mac.0, "source of the frame");
    assert_eq!(reply.frame[80..86], virtual_mac.0, "target link-layer address");
}
