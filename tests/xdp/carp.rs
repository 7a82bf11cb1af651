//! Addresses of a CARP group: a backup is as silent as if it had none of them, a master whose lease
//! has run out too, and a change of the role holds from the next frame on.

use std::time::Duration;

use pen_common::abi::Group;
use pen_common::moment::Moment;
use pen_common::verdict::Counter;
use pen_ctl::engine::tables::Write;
use pen_ctl::io::clock::now;
use pen_tests::wait_until;

use crate::bench::Bench;
use crate::frame::{Arp, Packet, Solicitation, usual_packets};
use crate::world::{VIP4, VIP6, usual};

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

#[track_caller]
fn assert_silent(bench: &mut Bench, frames: &[(Vec<u8>, Counter)]) {
    for (frame, counter) in frames {
        bench.ends_in(Counter::PassNotMaster, frame, &format!("silent, not {counter:?}"));
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
    let (mut bench, frames) = bench(Group { role: 2, ..master(Moment::NEVER) });
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
