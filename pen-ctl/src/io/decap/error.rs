//! Why packets cannot be taken out of tunnels, each with the cure.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::io::cause::chain;

/// An error of `penctl decap`.
#[derive(Debug)]
pub enum DecapError {
    /// There is no interface of this name.
    NoInterface(String),
    /// The interface has no address, and none was named.
    NoAddress(String),
    /// More addresses than the program has room for.
    TooMany {
        /// What they are.
        what: &'static str,
        /// Room for so many.
        most: u32,
    },
    /// The object file cannot be read.
    NoObject {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The object does not hold what it should.
    Object(&'static str),
    /// The pins cannot be made, read or removed.
    Pins {
        /// The pin or the folder.
        path: PathBuf,
        /// What the system said.
        error: String,
    },
    /// The kernel refused maps or program.
    Kernel(String),
    /// Another XDP program is there.
    Busy(String),
    /// The driver has no native XDP.
    NotNative {
        /// Name of the interface.
        interface: String,
        /// What the kernel said.
        error: String,
    },
    /// It runs in another mode than the one that is wanted.
    Mode {
        /// Name of the interface.
        interface: String,
        /// The mode that it runs in.
        mode: &'static str,
    },
    /// The kernel refused to attach the program.
    Attach {
        /// Name of the interface.
        interface: String,
        /// What the kernel said.
        error: String,
    },
    /// Nothing is attached to this interface.
    NotAttached(String),
}

impl DecapError {
    /// The kernel's own words.
    pub(super) fn kernel(error: &dyn std::error::Error) -> Self {
        Self::Kernel(chain(error))
    }
}

impl fmt::Display for DecapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoInterface(name) => write!(f, "there is no interface {name}"),
            Self::NoAddress(name) => write!(
                f,
                "{name} has no address; name those to which pen sends tunnels with --address"
            ),
            Self::TooMany { what, most } => write!(f, "more than {most} {what}"),
            Self::NoObject { path, source } => write!(
                f,
                "{}: {source}; build the XDP program with `cargo xtask build`, or name it with \
                 --object",
                path.display()
            ),
            Self::Object(what) => write!(f, "the object of the XDP program {what}"),
            Self::Pins { path, error } => write!(
                f,
                "{}: {error}; the folder must be on a bpffs: mount -t bpf bpf /sys/fs/bpf",
                path.display()
            ),
            Self::Kernel(error) => write!(f, "the kernel refused the XDP program: {error}"),
            Self::Busy(name) => write!(
                f,
                "{name} has another XDP program; see `bpftool net` or `ip link show {name}`, and \
                 remove it with `ip link set {name} xdp off`"
            ),
            Self::NotNative { interface, error } => write!(
                f,
                "{interface} refuses native XDP ({error}): check the driver and the MTU, or use \
                 --mode generic"
            ),
            Self::Mode { interface, mode } => write!(
                f,
                "{interface} runs in {mode} mode, which cannot be changed without a gap: first \
                 `penctl decap detach --interface {interface}`"
            ),
            Self::Attach { interface, error } => {
                write!(f, "XDP cannot be attached to {interface}: {error}")
            }
            Self::NotAttached(name) => write!(f, "nothing is attached to {name}"),
        }
    }
}

impl std::error::Error for DecapError {}
