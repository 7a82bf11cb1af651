//! What can go wrong with the data plane, each with the place and the cure.

use std::fmt;
use std::io;
use std::path::PathBuf;

pub(super) use crate::io::cause::chain;

/// An error of the data plane.
#[derive(Debug)]
pub enum DataplaneError {
    /// The object file cannot be read.
    NoObject {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder of the pins cannot be made.
    Pins {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another daemon runs with these pins.
    InUse {
        /// Their folder.
        path: PathBuf,
        /// The daemon's process.
        pid: Option<u32>,
    },
    /// A daemon runs with these pins, which are to be removed.
    Runs {
        /// Their folder.
        path: PathBuf,
        /// The daemon's process.
        pid: Option<u32>,
    },
    /// A pinned map has another layout than this program.
    Layout {
        /// The pin.
        path: PathBuf,
        /// What differs.
        difference: String,
    },
    /// The object does not hold what it should.
    Object(String),
    /// The kernel refused maps or BTF.
    Load(aya::EbpfError),
    /// The kernel refused the program.
    Verify(aya::programs::ProgramError),
    /// An operation on a map failed.
    Map(aya::maps::MapError),
}

impl fmt::Display for DataplaneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoObject { path, source } => write!(
                f,
                "{}: {source}; build the XDP program with `cargo xtask build`, or name it with \
                 --object",
                path.display()
            ),
            Self::Pins { path, source } => write!(
                f,
                "{}: {source}; the folder must be on a bpffs: mount -t bpf bpf /sys/fs/bpf",
                path.display()
            ),
            Self::InUse { path, pid } => write!(
                f,
                "{}: another pend{} uses these pins; stop it first, take over from it with \
                 --replace, or give this one others with --pins",
                path.display(),
                process(*pid)
            ),
            Self::Runs { path, pid } => write!(
                f,
                "{}: pend{} runs; stop it with SIGTERM: it detaches by itself",
                path.display(),
                process(*pid)
            ),
            Self::Layout { path, difference } => write!(
                f,
                "{}: {difference}; it belongs to another build of pen, which goes on forwarding. \
                 Stop that one with SIGTERM, or remove the folder to stop its forwarding",
                path.display()
            ),
            Self::Object(what) => write!(f, "the object of the XDP program {what}"),
            Self::Load(error) => {
                write!(f, "the kernel refused the maps: {}", chain(error))
            }
            Self::Verify(error) => {
                write!(f, "the kernel refused the XDP program: {}", chain(error))
            }
            Self::Map(error) => write!(f, "map: {}", chain(error)),
        }
    }
}

fn process(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

impl std::error::Error for DataplaneError {}
