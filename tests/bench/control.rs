//! Two figures of the controller's side of the data plane: how long a change of a large service
//! takes until the kernel has it, and what a service costs that has nothing to do.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{ArrayOfMaps, Map, MapData};
use pen_common::ABI_VERSION;
use pen_common::abi::{Backend, Slot, map};
use pen_common::affinity::moved;
use pen_ctl::config::Sizes;
use pen_ctl::engine::scheduler::maglev;
use pen_ctl::engine::tables::{Tables, diff};
use pen_ctl::io::dataplane::Dataplane;
use pen_tests::paths::{Pins, program};
use pen_tests::wait::Stopwatch;

use crate::cases::{self, SECRET, SLOTS};
use crate::stats::median;

/// Backends of the large service.
const MANY: u16 = 1000;
/// Backends of the idle one.
const FEW: u16 = 3;
/// Changes that are timed.
const CHANGES: u32 = 15;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Control {
    /// From "one backend fewer" to the kernel's use of the new table, median.
    pub(crate) change: Duration,
    /// Bytes of kernel memory of an idle service.
    pub(crate) kernel: u64,
    /// Bytes of the daemon's memory of its slots.
    pub(crate) daemon: u64,
}

/// Measures both.
pub(crate) fn measure() -> Result<Control> {
    let pins = Pins::new()?;
    let mut dataplane = Dataplane::open(&program("pen.bpf.o")?, pins.path(), Sizes::default())?;
    let found = measure_with(&mut dataplane, pins.path());
    dataplane.detach();
    found
}

fn measure_with(dataplane: &mut Dataplane, pins: &Path) -> Result<Control> {
    let folder = pins.join(format!("v{ABI_VERSION}"));
    let before = memory_of_hashes(&folder)?;
    let few = cases::one_service(FEW);
    dataplane.write(&diff(&Tables::default(), &few))?;
    let (service, slots) = few.slots.iter().next().context("one service")?;
    let kernel = memory_of_hashes(&folder)? - before + memory_of_table(&folder, *service)?;
    let daemon = u64::try_from(size_of_val::<[Slot]>(slots))?;

    let many = cases::one_service(MANY);
    dataplane.write(&diff(&few, &many))?;
    Ok(Control { change: change(dataplane, many)?, kernel, daemon })
}

/// Takes one backend after the other out, as the engine does when one dies.
fn change(dataplane: &mut Dataplane, mut applied: Tables) -> Result<Duration> {
    let mut times = Vec::new();
    for gone in 1..=CHANGES {
        let clock = Stopwatch::start();
        let mut desired = applied.clone();
        let backend = desired.backends.get_mut(&gone).context("there are many")?;
        backend.state = Backend::DOWN;
        let members: Vec<_> = desired
            .backends
            .iter()
            .filter(|(_, backend)| backend.state == Backend::UP)
            .map(|(id, backend)| cases::member(*id, backend))
            .collect();
        let table = maglev(&members, SECRET, SLOTS);
        let dead = |id: u16| u32::from(id) == gone;
        for slots in desired.slots.values_mut() {
            let pairs = slots.iter().zip(&table);
            *slots = pairs.map(|(slot, current)| moved(*slot, *current, dead)).collect();
        }
        dataplane.write(&diff(&applied, &desired))?;
        times.push(clock.elapsed().as_secs_f64());
        applied = desired;
    }
    ensure!(dataplane.read()?.slots == applied.slots, "the kernel holds another table");
    Ok(Duration::from_secs_f64(median(&times).context("some changes")?))
}

/// Memory of the maps that grow with each service.
fn memory_of_hashes(folder: &Path) -> Result<u64> {
    [map::ADDRS, map::SERVICES]
        .into_iter()
        .map(|name| memory(MapData::from_pin(folder.join(name))?.fd().as_fd()))
        .sum()
}

/// Memory of a service's table.
fn memory_of_table(folder: &Path, service: u32) -> Result<u64> {
    let outer = Map::ArrayOfMaps(MapData::from_pin(folder.join(map::TABLES))?);
    let outer: ArrayOfMaps<MapData, MapData> = outer.try_into()?;
    memory(outer.get(&service, 0)?.fd().as_fd())
}

/// What the kernel says that a map takes.
fn memory(map: BorrowedFd<'_>) -> Result<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    let bytes = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    Ok(bytes.context("the kernel does not say what a map takes")?.trim().parse()?)
}
