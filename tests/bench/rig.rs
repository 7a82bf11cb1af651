//! The apparatus: two namespaces and a wire between them for each program under test, so that
//! nothing is attached or detached while one is compared with another.
//! ```text
//!   generator's namespace                        namespace under test
//!   generate ─▶ near ═══════════ veth ══════════▶ far: empty | pass | macswap | pen
//!        sink ◀─ near ═══════════ veth ══════════◀ far  (XDP_TX)
//! ```
//! Everything runs on one CPU. [`Rig::run`] is one run of so many frames, and fails unless every
//! one of them took the way that its case says, by the counters of the sink and of pen itself.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::{
    ProgramError, ProgramInfo, TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode,
};
use aya::sys::{Stats, enable_stats};
use aya::{Ebpf, EbpfLoader};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use pen_common::abi::Count;
use pen_common::bench::Template;
use pen_common::net::MacAddr;
use pen_common::verdict::Counter;
use pen_ctl::config::{Sizes, XdpMode as Mode};
use pen_ctl::engine::tables::{Tables, diff};
use pen_ctl::io::dataplane::{Build, Dataplane};
use pen_tests::Netns;
use pen_tests::link::veth;
use pen_tests::paths::{Pins, program};
use pen_tests::wait::{Stopwatch, interrupted};

use crate::cases::{self, Case, End, Way};

/// Frames that the kernel generates and sends at a time: what a busy NIC hands over at once, and
/// far below the 256 that the ring of a veth holds.
const BATCH: u32 = 64;

/// Of the wires: what a veth has at first.
const MTU: u32 = 1500;
/// How long frames may be on their way after the last one was generated.
const LAG: Duration = Duration::from_millis(200);

/// A program under test, each on a wire of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Drops: what the measurement costs.
    Empty,
    /// Passes all frames to the kernel.
    Pass,
    /// Sends all frames back.
    Macswap,
    /// The real object with the real maps.
    Pen,
    /// The same once more, with services that translate addresses: then frames that are not for a
    /// virtual address may be answers, and cost a look-up more.
    PenNat,
}

/// What one run took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// From the generation of a frame to its end, on average.
    pub(crate) per_frame: Duration,
    /// Nanoseconds in the program under test, if the kernel was asked to measure them.
    pub(crate) inside: Option<f64>,
}

/// The interface of pen under test, for the tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nic {
    pub(crate) ifindex: u32,
    pub(crate) mac: MacAddr,
}

/// The apparatus. Dropping it removes everything.
pub(crate) struct Rig {
    bench: Ebpf,
    template: Array<MapData, Template>,
    position: Array<MapData, u32>,
    sunk: PerCpuArray<MapData, Count>,
    wires: Vec<Wire>,
    generator: Netns,
    _under_test: Netns,
}

/// A wire with what is at its far end.
struct Wire {
    lane: Lane,
    /// Index of the interface at the generator's end.
    near: u32,
    pen: Option<Pen>,
}

/// A pen, detached on drop.
struct Pen {
    dataplane: Option<Dataplane>,
    _pins: Pins,
}

/// All counters that tell where frames went.
#[derive(Clone, Debug)]
struct Seen {
    sunk: Count,
    verdicts: Vec<Count>,
    run_time: Duration,
    run_count: u64,
}

// === impl Lane ===

impl Lane {
    const ALL: [Self; 5] = [Self::Empty, Self::Pass, Self::Macswap, Self::Pen, Self::PenNat];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Pass => "pass",
            Self::Macswap => "macswap",
            Self::Pen => "pen",
            Self::PenNat => "pen-nat",
        }
    }

    /// Name of the interface under test.
    fn far(self) -> String {
        format!("far-{}", self.name())
    }

    /// Name of the interface of the generator.
    fn near(self) -> String {
        format!("near-{}", self.name())
    }

    const fn is_pen(self) -> bool {
        matches!(self, Self::Pen | Self::PenNat)
    }

    /// Ethernet address of the interface under test, which the frames are addressed to.
    pub(crate) const fn station(self) -> MacAddr {
        MacAddr([2, 0x70, 0x65, 0x6e, 0, self as u8])
    }
}

// === impl Rig ===

impl Rig {
    /// Builds it for these cases, none of which has more flows than `most_flows`.
    pub(crate) fn new(cases: &[Case], most_flows: u32) -> Result<Self> {
        let generator = Netns::new("generator")?;
        let under_test = Netns::new("under-test")?;
        for netns in [&generator, &under_test] {
            // Only the bench's frames are on the wires.
            netns.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        }
        let object = fs::read(program("bench.bpf.o")?)?;
        let mut bench = EbpfLoader::new().load(&object).context("the bench's own programs")?;
        for name in ["generate", "sink", "empty", "pass", "macswap"] {
            named(&mut bench, name)?.load()?;
        }
        let mut wires = Vec::new();
        for lane in Lane::ALL {
            if !cases.iter().any(|case| case.way.lane == lane) {
                continue;
            }
            let (far, near) = (lane.far(), lane.near());
            veth((&generator, &near), (&under_test, &far))?;
            under_test.ip(&format!("link set dev {far} address {} up", lane.station()))?;
            generator.ip(&format!("link set dev {near} up"))?;
            let near = attach(&generator, &mut bench, "sink", &near)?;
            let pen = if lane.is_pen() {
                let sizes = cases::sizes(cases, lane, most_flows);
                let tables = |nic| cases::tables(cases, lane, nic);
                Some(Pen::attached(&under_test, lane, sizes, tables)?)
            } else {
                attach(&under_test, &mut bench, lane.name(), &far)?;
                None
            };
            wires.push(Wire { lane, near, pen });
        }
        let map = |bench: &mut Ebpf, name| bench.take_map(name).context(name);
        Ok(Self {
            template: Array::try_from(map(&mut bench, "TEMPLATE")?)?,
            position: Array::try_from(map(&mut bench, "POSITION")?)?,
            sunk: PerCpuArray::try_from(map(&mut bench, "SUNK")?)?,
            bench,
            wires,
            generator,
            _under_test: under_test,
        })
    }

    /// Runs `work` on this rig from inside the generator's namespace, where frames are generated,
    /// and on one CPU, on which the whole way of a frame then lies.
    pub(crate) fn inside<T: Send>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T> + Send,
    ) -> Result<T> {
        let generator = self.generator.clone();
        generator.run(|| {
            pin_to_one_cpu()?;
            work(self)
        })
    }

    /// Runs so many frames of a case, the first of which is at this position of the round of flows.
    /// With `measured`, the kernel measures the time inside the program, which costs time itself.
    pub(crate) fn run(
        &mut self,
        way: &Way,
        template: &Template,
        position: u32,
        frames: u32,
        measured: bool,
    ) -> Result<Run> {
        self.template.set(0, template, 0)?;
        self.position.set(0, position, 0)?;
        let frame = &template.words.concat()[..template.length as usize];
        let ingress = context(self.wire(way.lane)?.near, template.length);
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.ctx_in = Some(&ingress);
        options.repeat = frames;
        options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);

        let statistics = measured.then(|| enable_stats(Stats::RunTime)).transpose()?;
        let before = self.seen(way.lane)?;
        let clock = Stopwatch::start();
        let result = named(&mut self.bench, "generate")?.test_run(options);
        let wall = clock.elapsed();
        if interrupted() || result.as_ref().is_err_and(is_interrupt) {
            bail!("interrupted");
        }
        let result = result
            .context("the kernel does not generate live frames (Linux 5.18 or later does)")?;
        // The last batch may still be on its way, if the kernel put that off to a thread.
        let mut after = self.seen(way.lane)?;
        while verify(way, template, frames, &before, &after).is_err()
            && clock.elapsed() < wall + LAG
        {
            after = self.seen(way.lane)?;
        }
        drop(statistics);
        verify(way, template, frames, &before, &after)?;
        let inside = if measured {
            let count = after.run_count - before.run_count;
            ensure!(count == u64::from(frames), "ran for {count} of {frames} frames");
            #[expect(clippy::cast_precision_loss, reason = "seconds in nanoseconds fit 52 bits")]
            let total = (after.run_time - before.run_time).as_nanos() as f64;
            Some(total / f64::from(frames))
        } else {
            None
        };
        // The kernel's own clock stands still while it lets other programs run.
        Ok(Run { per_frame: result.duration, inside })
    }

    fn seen(&mut self, lane: Lane) -> Result<Seen> {
        let sunk = self.sunk.get(&0, 0)?.iter().fold(Count::default(), |sum, count| Count {
            packets: sum.packets + count.packets,
            bytes: sum.bytes + count.bytes,
        });
        let (verdicts, info) = match &mut self.wire(lane)?.pen {
            Some(pen) => pen.seen()?,
            None => (Vec::new(), named(&mut self.bench, lane.name())?.info()?),
        };
        Ok(Seen { sunk, verdicts, run_time: info.run_time(), run_count: info.run_count() })
    }

    fn wire(&mut self, lane: Lane) -> Result<&mut Wire> {
        self.wires.iter_mut().find(|wire| wire.lane == lane).context("a wire for each case")
    }
}

// === impl Pen ===

impl Pen {
    /// Loads it, and attaches it to its end of the wire with the tables for that.
    fn attached(
        netns: &Netns,
        lane: Lane,
        sizes: Sizes,
        tables: impl FnOnce(Nic) -> Tables,
    ) -> Result<Self> {
        let pins = Pins::new()?;
        let dataplane = Dataplane::open(&program("pen.bpf.o")?, pins.path(), sizes)?;
        let mut pen = Self { dataplane: Some(dataplane), _pins: pins };
        let dataplane = pen.dataplane()?;
        let far = lane.far();
        let ifindex = netns.run(|| if_nametoindex(far.as_str()))?;
        netns
            .run(|| dataplane.attach(&far, ifindex, MTU, Mode::Native))
            .map_err(|error| anyhow!("{error}"))?;
        let tables = tables(Nic { ifindex, mac: lane.station() });
        dataplane.write(&diff(&Tables::default(), &tables))?;
        Ok(pen)
    }

    fn dataplane(&mut self) -> Result<&mut Dataplane> {
        self.dataplane.as_mut().context("open until the drop")
    }

    fn seen(&mut self) -> Result<(Vec<Count>, ProgramInfo)> {
        let dataplane = self.dataplane()?;
        let verdicts = dataplane.counts(&Tables::default())?.verdicts;
        Ok((verdicts, dataplane.program(Build::Linear)?.info()?))
    }
}

impl Drop for Pen {
    fn drop(&mut self) {
        if let Some(dataplane) = self.dataplane.take() {
            dataplane.detach();
        }
    }
}

/// Whether every frame ended where its way says: all at the sink, all in one counter of pen.
fn verify(way: &Way, template: &Template, frames: u32, before: &Seen, after: &Seen) -> Result<()> {
    let length = u64::from(template.length) + u64::from(way.growth);
    let frames = u64::from(frames);
    let back = match way.end {
        End::Transmit => Count { packets: frames, bytes: frames * length },
        End::Drop | End::Pass => Count::default(),
    };
    let sunk = difference(after.sunk, before.sunk);
    ensure!(sunk == back, "{sunk:?} came back instead of {back:?}");
    let ends = Counter::ALL.iter().zip(before.verdicts.iter().zip(&after.verdicts));
    for (counter, (before, after)) in ends {
        let count = difference(*after, *before).packets;
        let expected = if way.counter == Some(*counter) { frames } else { 0 };
        ensure!(
            count == expected,
            "{count} frames of {frames} ended in {}, not {expected}",
            counter.name()
        );
    }
    Ok(())
}

fn difference(after: Count, before: Count) -> Count {
    Count { packets: after.packets - before.packets, bytes: after.bytes - before.bytes }
}

/// Keeps this thread on the last CPU that it may use: the first one has most of the interrupts.
fn pin_to_one_cpu() -> Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    let last = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(last.context("a thread has a CPU")?)?;
    Ok(sched_setaffinity(this, &one)?)
}

/// Attaches one of the bench's own programs natively; yields the interface's index.
fn attach(netns: &Netns, bench: &mut Ebpf, name: &str, interface: &str) -> Result<u32> {
    let program = named(bench, name)?;
    netns.run(|| {
        let ifindex = if_nametoindex(interface)?;
        program.attach_to_if_index(ifindex, XdpMode::Driver)?;
        Ok(ifindex)
    })
}

fn named<'a>(bench: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = bench.program_mut(name).with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}

/// `struct xdp_md` of a frame on an interface.
fn context(ifindex: u32, length: u32) -> Vec<u8> {
    let (data, meta, queue, egress) = (0, 0, 0, 0);
    [data, length, meta, ifindex, queue, egress].map(u32::to_ne_bytes).concat()
}

fn is_interrupt(error: &ProgramError) -> bool {
    match error {
        ProgramError::SyscallError(error) => {
            error.io_error.raw_os_error() == Some(Errno::EINTR as i32)
        }
        _ => false,
    }
}
