//! The fixture: the real object in the kernel, with maps of its own, and frames that are run through
//! it one by one (BPF_PROG_TEST_RUN).
//!
//! [`Bench::run`] holds for every frame of every test what must hold for all of them: exactly one
//! verdict counter rises, by one frame of the right length; the XDP action is that counter's; and
//! a frame that passes is byte for byte the frame that came.

use std::fs;
use std::path::PathBuf;
use std::process;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya_obj::programs::XdpAttachType;
use pen_common::abi::{Backend, Count, Signals};
use pen_common::verdict::Counter;
use pen_ctl::api::Counts;
use pen_ctl::config::Sizes;
use pen_ctl::engine::event::SignalsRead;
use pen_ctl::engine::tables::{Tables, Write, diff};
use pen_ctl::io::dataplane::{Build, Dataplane, DataplaneError};
use pen_tests::{paths, prune};

use crate::frame::IP;
use crate::world::backend_at;

/// Longest frame that comes out.
const BUFFER: usize = 16_384;

/// What XDP does with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Aborted,
    Drop,
    Pass,
    Tx,
    Redirect,
}

/// What became of a frame.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) counter: Counter,
    pub(crate) frame: Vec<u8>,
}

/// A folder below bpffs that nobody else uses, removed with its pins on drop.
pub(crate) struct Pins(pub(crate) PathBuf);

/// Small: memory for all entries is taken when a map is made.
pub(crate) const SIZES: Sizes = Sizes { flows: 1 << 16, clients: 1 << 14, translations: 1 << 14 };

/// The program with maps of its own.
pub(crate) struct Bench {
    /// None while it is dropped, or with [`Bench::lend`].
    dataplane: Option<Dataplane>,
    /// The program on its own, once the daemon's handle of it may be away.
    program: Option<Xdp>,
    /// Which program runs.
    build: Build,
    tables: Tables,
    counted: Vec<Count>,
    pins: Pins,
}

// === impl Action ===

impl Action {
    /// By the number that a program returns.
    pub(crate) fn of(number: u32) -> Self {
        match number {
            0 => Self::Aborted,
            1 => Self::Drop,
            2 => Self::Pass,
            3 => Self::Tx,
            4 => Self::Redirect,
            other => panic!("no XDP action: {other}"),
        }
    }
}

// === impl Pins ===

impl Pins {
    pub(crate) fn new() -> Self {
        static PRUNED: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // What a killed run has left.
        PRUNED.call_once(|| drop(prune::prune()));
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(PathBuf::from(format!("/sys/fs/bpf/pen-xdp-{}-{number}", process::id())))
    }

    /// Loads the program with the maps that are pinned here, or with new ones.
    pub(crate) fn open(&self) -> Result<Dataplane, DataplaneError> {
        let object = paths::program("pen.bpf.o").expect("the object is built");
        Dataplane::open(&object, &self.0, SIZES)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // A detached data plane has removed it already.
        let _ = fs::remove_dir_all(&self.0);
    }
}

// === impl Bench ===

impl Bench {
    /// Loads the program and fills its maps.
    pub(crate) fn new(tables: Tables) -> Self {
        let pins = Pins::new();
        let dataplane = pins.open().expect("the kernel takes the program");
        let counted = vec![Count::default(); Counter::ALL.len()];
        let mut bench = Self {
            dataplane: Some(dataplane),
            program: None,
            build: Build::Linear,
            tables: Tables::default(),
            counted,
            pins,
        };
        bench.change(tables);
        bench
    }

    /// The same with the program that takes frames in fragments.
    pub(crate) fn with_frags(tables: Tables) -> Self {
        let mut bench = Self::new(tables);
        bench.build = Build::Frags;
        bench
    }

    /// Leads the maps to other contents, as the daemon does.
    pub(crate) fn change(&mut self, tables: Tables) {
        let writes = diff(&self.tables, &tables);
        self.dataplane().write(&writes).expect("the kernel takes the writes");
        self.tables = tables;
    }

    /// One write.
    pub(crate) fn write(&mut self, write: Write) {
        self.tables.apply(&write);
        self.dataplane().write(&[write]).expect("the kernel takes the write");
    }

    /// Sets the state of a backend, and nothing else.
    pub(crate) fn set_state(&mut self, id: u32, state: u32) {
        let backend = Backend { state, ..self.tables.backends[&id] };
        self.write(Write::SetBackend(id, backend));
    }

    /// What the maps should hold.
    pub(crate) fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Takes the daemon's side away; frames go on, as they do in the kernel without a daemon.
    pub(crate) fn lend(&mut self) -> Dataplane {
        let pin = self.pins.0.join("program");
        let build = self.build;
        let program = self.dataplane().program(build).expect("the object has the program");
        program.pin(&pin).expect("programs can be pinned");
        self.program =
            Some(Xdp::from_pin(&pin, XdpAttachType::Interface).expect("and opened again"));
        fs::remove_file(&pin).expect("the handle is enough");
        self.dataplane.take().expect("open until the drop")
    }

    /// Takes back what was lent, or another daemon of the same maps.
    pub(crate) fn give_back(&mut self, dataplane: Dataplane) {
        self.dataplane = Some(dataplane);
    }

    /// Where the maps are pinned.
    pub(crate) fn pins(&self) -> &Pins {
        &self.pins
    }

    pub(crate) fn dataplane(&mut self) -> &mut Dataplane {
        self.dataplane.as_mut().expect("open until the drop")
    }

    /// All counters.
    pub(crate) fn counts(&mut self) -> Counts {
        let tables = self.tables.clone();
        self.dataplane().counts(&tables).expect("counters can be read")
    }

    /// What packets have told of a backend; that the sum is that of all is verified on the way.
    pub(crate) fn signals(&mut self, id: u32) -> Signals {
        let tables = self.tables.clone();
        let read = self.dataplane().signals(&tables, None).expect("signals can be read");
        let SignalsRead { total, of } = read.expect("nothing was known");
        let sum = |count: fn(&Signals) -> u64| of.values().map(count).sum::<u64>();
        assert_eq!(total.refused, sum(|signals| signals.refused));
        assert_eq!(total.unanswered, sum(|signals| signals.unanswered));
        assert_eq!(total.unreachable, sum(|signals| signals.unreachable));
        let again = self.dataplane().signals(&tables, Some(total)).expect("signals can be read");
        assert_eq!(again, None, "nothing has happened since");
        of.get(&id).copied().unwrap_or_default()
    }

    /// Runs a frame that arrives on `lo`.
    #[track_caller]
    pub(crate) fn run(&mut self, frame: &[u8]) -> Outcome {
        self.judge(None, frame)
    }

    /// Runs a frame that arrives on this interface of the namespace of this thread.
    #[track_caller]
    pub(crate) fn run_on(&mut self, ifindex: u32, frame: &[u8]) -> Outcome {
        self.judge(Some(ifindex), frame)
    }

    #[track_caller]
    fn judge(&mut self, ingress: Option<u32>, frame: &[u8]) -> Outcome {
        let (action, out) = self.send(ingress, frame);
        let now = self.verdicts();
        let risen: Vec<(Counter, Count)> = Counter::ALL
            .iter()
            .zip(now.iter().zip(&self.counted))
            .map(|(counter, (now, before))| (*counter, difference(*now, *before)))
            .filter(|(_, count)| *count != Count::default())
            .collect();
        self.counted = now;
        let [(counter, count)] = risen[..] else { panic!("{frame:02x?} ends in {risen:?}") };
        let bytes = u64::try_from(frame.len()).expect("64 bits");
        assert_eq!(count, Count { packets: 1, bytes }, "{counter:?} counts one frame");
        assert_eq!(action, action_of(counter), "what is counted is what happens: {counter:?}");
        if action == Action::Pass && counter != Counter::ReturnStack {
            assert_eq!(out, frame, "a frame that passes is untouched");
        }
        Outcome { counter, frame: out }
    }

    /// Runs a frame without a look at the counters, for tests of many frames; they look at the sum.
    pub(crate) fn send(&mut self, ingress: Option<u32>, frame: &[u8]) -> (Action, Vec<u8>) {
        let mut out = vec![0; BUFFER];
        let context = ingress.map(|ifindex| context(ifindex, frame.len()));
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.ctx_in = context.as_deref();
        let program = match &mut self.program {
            Some(program) => program,
            None => {
                let dataplane = self.dataplane.as_mut().expect("open until the drop");
                dataplane.program(self.build).expect("the object has the program")
            }
        };
        let result = program.test_run(options).expect("the kernel runs the frame");
        out.truncate(usize::try_from(result.data_size_out).expect("fits the buffer"));
        (Action::of(result.return_value), out)
    }

    /// Verdict counters as they are, in the order of [`Counter::ALL`]; [`Bench::run`] starts from
    /// here.
    pub(crate) fn verdicts(&mut self) -> Vec<Count> {
        self.dataplane().counts(&Tables::default()).expect("counters can be read").verdicts
    }

    /// Frames counted in all verdict counters together; [`Bench::run`] goes on from here.
    pub(crate) fn total(&mut self) -> u64 {
        self.counted = self.verdicts();
        self.counted.iter().map(|count| count.packets).sum()
    }

    /// Runs a frame that has to end in this counter.
    #[track_caller]
    pub(crate) fn ends_in(&mut self, counter: Counter, frame: &[u8], what: &str) {
        let outcome = self.run(frame);
        assert_eq!(outcome.counter, counter, "{what}");
    }

    /// Runs a frame that has to be forwarded: only its stations change, to those of the backend
    /// whose id is returned.
    #[track_caller]
    pub(crate) fn forwarded(&mut self, frame: &[u8]) -> u32 {
        let outcome = self.run(frame);
        assert_eq!(outcome.counter, Counter::Transmit, "{frame:02x?}");
        self.backend_of(frame, &outcome.frame)
    }

    /// The backend to which `frame` went as `out`.
    #[track_caller]
    pub(crate) fn backend_of(&self, frame: &[u8], out: &[u8]) -> u32 {
        let id = backend_at(out);
        let backend = self.tables.backends.get(&id).expect("a backend of the tables");
        assert_eq!(out[..6], backend.mac.0, "addressed to the backend");
        assert_eq!(out[6..12], backend.source_mac.0, "from the interface that leads to it");
        assert_eq!(out[12..IP], frame[12..IP]);
        assert_eq!(out[IP..], frame[IP..], "the packet is as the client sent it");
        id
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(dataplane) = self.dataplane.take() {
            dataplane.detach();
        }
    }
}

fn difference(now: Count, before: Count) -> Count {
    Count { packets: now.packets - before.packets, bytes: now.bytes - before.bytes }
}

/// The action that a counter's name promises.
fn action_of(counter: Counter) -> Action {
    match counter.name() {
        "transmit" | "return-transmit" => Action::Tx,
        "redirect" | "return-redirect" => Action::Redirect,
        "return-stack" => Action::Pass,
        name if name.starts_with("drop-") => Action::Drop,
        name if name.starts_with("pass-") => Action::Pass,
        name if name.ends_with("-reply") => Action::Tx,
        name => panic!("no action is known for {name}"),
    }
}

/// `struct xdp_md` of a frame that arrives on an interface.
fn context(ifindex: u32, length: usize) -> Vec<u8> {
    let length = u32::try_from(length).expect("a frame is short");
    let (data, meta, queue, egress) = (0, 0, 0, 0);
    [data, length, meta, ifindex, queue, egress].map(u32::to_ne_bytes).concat()
}
