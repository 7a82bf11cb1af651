//! Pins of other versions of pen beside ours: what is taken over from them, and what is swept away.

use std::fs;
use std::path::PathBuf;

use aya::Pod;
use aya::maps::{Array, MapData};
use pen_common::ABI_VERSION;
use pen_common::abi::map;
use pen_ctl::io::dataplane::{Dataplane, DataplaneError, Leftovers};
use pen_tests::paths;

use crate::bench::Pins;
use crate::world::SECRET;

fn folder(pins: &Pins, version: u32) -> PathBuf {
    pins.0.join(format!("v{version}"))
}

/// Pins an array with this value as `name` of a version.
fn pin<V: Pod>(pins: &Pins, version: u32, name: &str, value: V) {
    let folder = folder(pins, version);
    fs::create_dir_all(&folder).expect("bpffs is mounted");
    let mut array: Array<MapData, V> = Array::create(1, 0).expect("the kernel makes a map");
    array.set(0, value, 0).expect("it has one entry");
    array.pin(folder.join(name)).expect("bpffs takes a pin");
}

#[test]
fn the_secret_of_another_version_is_found_whatever_follows_it() {
    let [a, b] = SECRET;
    for version in [ABI_VERSION - 1, ABI_VERSION + 1] {
        let small = Pins::new();
        pin(&small, version, map::CFG, [a, b]);
        let large = Pins::new();
        pin(&large, version, map::CFG, [a, b, 7, 8, 9]);
        for pins in [small, large] {
            // Something that looks as if it forwarded.
            pin(&pins, version, "link-99-native", 0_u64);
            let dataplane = pins.open().expect("our own pins are new");
            assert!(dataplane.has_other_version());
            assert_eq!(dataplane.inherited_secret(), Some(SECRET));
            assert!(folder(&pins, version).exists());
            dataplane.detach();
            assert!(folder(&pins, version).exists(), "the other version forwards on");
        }
    }
}

#[test]
fn a_secret_that_was_never_set_is_none() {
    let pins = Pins::new();
    pin(&pins, 1, map::CFG, [0_u64; 2]);
    pin(&pins, 1, "link-99-native", 0_u64);
    let dataplane = pins.open().expect("our own pins are new");
    assert_eq!(dataplane.inherited_secret(), None);
    dataplane.detach();
}

#[test]
fn maps_of_another_version_that_forwards_nowhere_are_swept_away_and_nothing_else() {
    let pins = Pins::new();
    pin(&pins, 1, map::CFG, [1_u64, 2]);
    pin(&pins, 1, "WHATEVER", 0_u64);
    pin(&pins, 9, "SOMEBODY_ELSES", 0_u64);
    let dataplane = pins.open().expect("our own pins are new");
    assert!(!dataplane.has_other_version() && !dataplane.has_adopted());
    assert!(!folder(&pins, 1).exists());
    dataplane.detach();
    assert!(folder(&pins, 9).join("SOMEBODY_ELSES").exists());
}

#[test]
fn leftovers_are_found_in_all_versions_and_removed() {
    let pins = Pins::new();
    pin(&pins, 1, map::CFG, [1_u64, 2]);
    pin(&pins, 1, "link-99-generic", 0_u64);
    drop(pins.open().expect("our own pins are new"));
    let leftovers = Leftovers::find(&pins.0).expect("no daemon runs");
    assert_eq!(leftovers.links, [(99, "generic".to_owned())]);
    assert_eq!(leftovers.folders, [folder(&pins, 1), folder(&pins, ABI_VERSION)]);
    assert_eq!(leftovers.solicited, []);
    leftovers.remove().expect("they can be removed");
    assert!(!pins.0.exists());
    let none = Leftovers::find(&pins.0).expect("no daemon runs");
    assert!(none.links.is_empty() && none.folders.is_empty());
}

#[test]
fn a_rehearsal_leaves_nothing_and_finds_out_what_would_fail() {
    let object = paths::program("pen.bpf.o").expect("the object is built");
    let pins = Pins::new();
    Dataplane::rehearse(&object, &pins.0).expect("the kernel takes the program");
    assert!(!pins.0.exists(), "nothing is pinned");
    let missing = object.with_extension("none");
    let error = Dataplane::rehearse(&missing, &pins.0).expect_err("there is none");
    assert!(error.to_string().contains("cargo xtask build"), "{error}");
    let running = pins.open().expect("another daemon");
    Dataplane::rehearse(&object, &pins.0).expect("it is not disturbed");
    running.detach();
    pin(&pins, ABI_VERSION, map::CFG, 0_u32);
    let error = Dataplane::rehearse(&object, &pins.0).expect_err("maps of another build");
    assert!(matches!(error, DataplaneError::Layout { .. }), "{error}");
}
