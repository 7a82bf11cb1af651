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
use aya::programs::{ProgramError, TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
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

use crate::cases::{End, Way};

/// Frames that the kernel generates and sends at a time: what a busy NIC hands over at once, and
/// far below the 256 that the ring of a veth holds.
const BATCH: u32 = 64;

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
    dataplane: Option<Dataplane>,
    near: [u32; 4],
    _pins: Pins,
    generator: Netns,
    _under_test: Netns,
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
    const ALL: [Self; 4] = [Self::Empty, Self::Pass, Self::Macswap, Self::Pen];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Pass => "pass",
            Self::Macswap => "macswap",
            Self::Pen => "pen",
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

    /// Ethernet address of the interface under test, which the frames are addressed to.
    pub(crate) const fn station(self) -> MacAddr {
        MacAddr([2, 0x70, 0x65, 0x6e, 0, self as u8])
    }
}

// === impl Rig ===

impl Rig {
    /// Builds it, with pen's tables made by `tables` for the interface that pen gets.
    pub(crate) fn new(tables: impl FnOnce(Nic) -> Tables) -> Result<Self> {
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
        let pins = Pins::new()?;
        let mut dataplane = Dataplane::open(&program("pen.bpf.o")?, pins.path(), Sizes::default())?;

        let mut near = [0; 4];
        let mut nic = None;
        for lane in Lane::ALL {
            veth((&generator, &lane.near()), (&under_test, &lane.far()))?;
            under_test.ip(&format!("link set dev {} address {}", lane.far(), lane.station()))?;
            under_test.ip(&format!("link set dev {} up", lane.far()))?;
            generator.ip(&format!("link set dev {} up", lane.near()))?;
            near[lane as usize] = attach(&generator, &mut bench, "sink", &lane.near())?;
            if lane == Lane::Pen {
                let far = lane.far();
                let ifindex = under_test.run(|| if_nametoindex(far.as_str()))?;
                let native = Mode::Native;
                under_test
                    .run(|| dataplane.attach(&far, ifindex, 1500, native))
                    .map_err(|error| anyhow!("{error}"))?;
                nic = Some(Nic { ifindex, mac: lane.station() });
            } else {
                attach(&under_test, &mut bench, lane.name(), &lane.far())?;
            }
        }
        let tables = tables(nic.context("pen has a lane")?);
        dataplane.write(&diff(&Tables::default(), &tables))?;
        let map = |bench: &mut Ebpf, name| bench.take_map(name).context(name);
        Ok(Self {
            template: Array::try_from(map(&mut bench, "TEMPLATE")?)?,
            position: Array::try_from(map(&mut bench, "POSITION")?)?,
            sunk: PerCpuArray::try_from(map(&mut bench, "SUNK")?)?,
            bench,
            dataplane: Some(dataplane),
            near,
            _pins: pins,
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
        let ingress = context(self.near[way.lane as usize], template.length);
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
        let dataplane = self.dataplane.as_mut().context("open until the drop")?;
        let (verdicts, info) = if lane == Lane::Pen {
            let verdicts = dataplane.counts(&Tables::default())?.verdicts;
            (verdicts, dataplane.program(Build::Linear)?.info()?)
        } else {
            (Vec::new(), named(&mut self.bench, lane.name())?.info()?)
        };
        Ok(Seen { sunk, verdicts, run_time: info.run_time(), run_count: info.run_count() })
    }
}

impl Drop for Rig {
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
