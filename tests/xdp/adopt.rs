//! What stays in the kernel between two daemons: tables and counters are read back as they were
//! written, a second daemon adopts them, and maps of another layout are refused, not misread.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use aya::Pod;
use aya::maps::{Array, MapData, MapInfo};
use pen_common::ABI_VERSION;
use pen_common::abi::{AddrEntry, Group, map};
use pen_common::verdict::Counter;
use pen_ctl::config::Sizes;
use pen_ctl::engine::tables::{Tables, diff};
use pen_ctl::io::dataplane::{Dataplane, DataplaneError};

use pen_tests::paths;

use crate::bench::{Bench, Pins, SIZES};
use crate::frame::{Packet, usual_packets};
use crate::world::{NIC, VIP4, by_client, empty, usual};

/// Tables with something in each map.
fn rich() -> Tables {
    let mut tables = by_client(usual());
    tables.groups.insert(7, Group { role: Group::MASTER, _pad: 0, lease_ns: u64::MAX });
    tables.groups.insert(255, Group { role: Group::BACKUP, _pad: 0, lease_ns: 99 });
    let entry = AddrEntry { ifindex: 9, group: 7, ..AddrEntry::default() };
    tables.addrs.insert(std::net::IpAddr::from([203, 0, 113, 1]).into(), entry);
    tables.egress.insert(NIC);
    tables
}

#[test]
fn a_fresh_start_reads_empty_tables() {
    let mut bench = Bench::new(Tables::default());
    assert_eq!(bench.dataplane().read().unwrap(), Tables::default());
}

#[test]
fn what_was_written_is_read_back() {
    let mut bench = Bench::new(rich());
    assert_eq!(bench.dataplane().read().unwrap(), rich());
    // And so it is on the way to other tables and back.
    for tables in [usual(), empty(), rich(), Tables::default()] {
        bench.change(tables.clone());
        assert_eq!(bench.dataplane().read().unwrap(), tables);
    }
}

#[test]
fn a_second_daemon_adopts_tables_and_counters() {
    let mut bench = Bench::new(rich());
    let frame = Packet::tcp(VIP4, 80).frame();
    let id = bench.forwarded(&frame);
    let before = bench.counts();
    let first = bench.lend();
    let error = bench.pins().open().err();
    assert!(matches!(error, Some(DataplaneError::InUse { .. })), "the first one lives: {error:?}");
    drop(first);
    let mut second = bench.pins().open().unwrap();
    let adopted = second.read().unwrap();
    assert_eq!(adopted, rich());
    assert_eq!(diff(&adopted, &rich()), [], "nothing is left to write");
    let counts = second.counts(&adopted).unwrap();
    assert_eq!(counts.backends, before.backends);
    assert_eq!(counts.backends[&id].packets, 1);
    assert_eq!(counts.verdicts[Counter::Transmit as usize].packets, 1);
    // What the second one writes, the first one's program sees.
    second.write(&diff(&adopted, &empty())).unwrap();
    bench.give_back(second);
    bench.ends_in(Counter::PassNotOurs, &frame, "the second daemon removed the address");
}

#[test]
fn maps_of_a_daemon_that_knew_nothing_of_signals_are_adopted() {
    let pins = Pins::new();
    let mut first = pins.open().unwrap();
    first.write(&diff(&Tables::default(), &rich())).unwrap();
    fs::remove_file(first.folder().join(map::SIGNALS)).unwrap();
    first.leave();
    let second = pins.open().unwrap();
    assert_eq!(second.read().unwrap(), rich());
    assert!(second.signals(&rich(), None).unwrap().is_some(), "counted from now on");
    second.detach();
}

#[test]
fn maps_outlive_a_daemon_that_was_killed() {
    let pins = Pins::new();
    let mut first = pins.open().unwrap();
    first.write(&diff(&Tables::default(), &rich())).unwrap();
    // Not detached: its descriptors are closed, its pins stay.
    drop(first);
    let second = pins.open().unwrap();
    assert_eq!(second.read().unwrap(), rich());
    second.detach();
    assert!(!pins.0.exists(), "the clean end leaves nothing");
    let third = pins.open().unwrap();
    assert_eq!(third.read().unwrap(), Tables::default());
    third.detach();
}

#[test]
fn a_daemon_killed_between_two_writes_is_adopted_too() {
    let writes = diff(&Tables::default(), &usual());
    for done in 0..writes.len() {
        // Each fifth is enough; the end is where tables and services are.
        if done % 5 != 0 && done < writes.len() - 8 {
            continue;
        }
        let mut bench = Bench::new(Tables::default());
        bench.dataplane().write(&writes[..done]).unwrap();
        let adopted = bench.dataplane().read().unwrap();
        bench.dataplane().write(&diff(&adopted, &usual())).unwrap();
        assert_eq!(bench.dataplane().read().unwrap(), usual(), "after {done} writes");
        for (what, packet) in usual_packets() {
            bench.ends_in(Counter::Transmit, &packet.frame(), what);
        }
    }
}

#[test]
fn a_clean_end_removes_all_pins() {
    let bench = Bench::new(usual());
    let pins = bench.pins().0.clone();
    let folder = pins.join(format!("v{ABI_VERSION}"));
    for name in map::ALL {
        assert!(folder.join(name).exists(), "{name} is pinned");
    }
    drop(bench);
    assert!(!pins.exists());
}

/// Pins an array of another layout under the name of one of our maps.
fn pin_array<V: Pod>(pins: &Pins, name: &str, entries: u32) {
    let folder = pins.0.join(format!("v{ABI_VERSION}"));
    fs::create_dir_all(&folder).expect("bpffs is mounted");
    let array: Array<MapData, V> = Array::create(entries, 0).expect("the kernel makes a map");
    array.pin(folder.join(name)).expect("bpffs takes a pin");
}

#[track_caller]
fn assert_refused(pins: &Pins, name: &str, words: &[&str]) {
    let expected = pins.0.join(format!("v{ABI_VERSION}")).join(name);
    let error = pins.open().err().expect("another layout is refused");
    let text = error.to_string();
    let DataplaneError::Layout { path, difference } = error else { panic!("{text}") };
    assert_eq!(path, expected);
    assert!(text.contains(&expected.display().to_string()), "{text}");
    for word in words {
        assert!(difference.contains(word), "{word:?} is missing in {difference:?}");
    }
    // What is there is left alone: the other build goes on using it.
    MapInfo::from_pin(&path).expect("the pin is still there");
}

#[test]
fn a_pinned_map_of_another_layout_is_refused_with_the_difference() {
    let value = Pins::new();
    pin_array::<u32>(&value, map::CFG, 1);
    assert_refused(&value, map::CFG, &["Array", "value 4", "not", "value 32"]);
    let entries = Pins::new();
    pin_array::<[u64; 2]>(&entries, map::CARP, 16);
    assert_refused(&entries, map::CARP, &["16 entries", "256 entries"]);
    let kind = Pins::new();
    pin_array::<[u64; 2]>(&kind, map::COUNTERS, 64);
    assert_refused(&kind, map::COUNTERS, &["is Array", "not PerCpuArray"]);
    let key = Pins::new();
    pin_array::<[u64; 2]>(&key, map::ADDRS, 4096);
    assert_refused(&key, map::ADDRS, &["key 4", "Hash", "key 16"]);
}

#[test]
fn a_map_of_the_right_layout_is_adopted_whoever_made_it() {
    let pins = Pins::new();
    pin_array::<[u64; 4]>(&pins, map::CFG, 1);
    let dataplane = pins.open().unwrap();
    assert_eq!(dataplane.read().unwrap(), Tables::default());
    dataplane.detach();
}

#[test]
fn the_tables_that_forget_have_the_size_asked_for_until_they_are_made_anew() {
    let pins = Pins::new();
    let object = paths::program("pen.bpf.o").unwrap();
    let small = Sizes { flows: 2048, clients: 4096, translations: 1024 };
    let dataplane = Dataplane::open(&object, &pins.0, small).unwrap();
    assert_eq!(dataplane.sizes().unwrap(), small);
    drop(dataplane);
    let adopted = pins.open().unwrap();
    assert_eq!(adopted.sizes().unwrap(), small, "with all that they remember");
    adopted.detach();
    let anew = pins.open().unwrap();
    assert_eq!(anew.sizes().unwrap(), SIZES);
    anew.detach();
}

#[test]
fn a_missing_object_says_where_it_was_looked_for_and_what_to_do() {
    let pins = Pins::new();
    let path = Path::new("/nonexistent/pen.bpf.o");
    let error = Dataplane::open(path, &pins.0, SIZES).err().expect("there is no object");
    let text = error.to_string();
    let DataplaneError::NoObject { path: looked, source } = error else { panic!("{text}") };
    assert_eq!((looked.as_path(), source.kind()), (path, ErrorKind::NotFound));
    assert!(text.contains("cargo xtask build"), "{text}");
    assert!(!pins.0.exists(), "nothing is made");
}

#[test]
fn a_file_that_is_no_object_is_refused() {
    let pins = Pins::new();
    let error = Dataplane::open(Path::new("/proc/self/cmdline"), &pins.0, SIZES).err();
    let error = error.expect("no object");
    assert!(matches!(error, DataplaneError::Load(_)), "{error}");
}
