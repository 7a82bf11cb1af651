//! What is wrong with a ucarp command line, and what is not wrong but should be known. The texts name
//! ucarp's limit where that is the reason.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::config::UCARP_PASSWORD;

/// Why it cannot run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it, and `Display` says it to the operator")]
pub enum Problem {
    AbsentInterface { name: String, existing: Vec<String> },
    AmbiguousOption { option: String, candidates: Vec<&'static str> },
    EmptyPassword,
    IntervalOfFarewell,
    Ipv6 { option: &'static str, text: String },
    Lacks { option: &'static str, example: &'static str },
    MissingValue { option: &'static str },
    NoInterval,
    NoMulticastGroup { text: String },
    NoNumber { option: &'static str, text: String, max: u64 },
    NoShortMcast,
    OutOfRange { option: &'static str, number: u64, min: u64, max: u64, cut: Option<u64> },
    PasswordTooLong { length: usize },
    PasswordUnreadable { file: PathBuf, reason: String },
    SourceIsVip { address: Ipv4Addr },
    UnknownFacility { name: String, valid: Vec<&'static str> },
    UnknownOption { option: String, near: Option<String> },
    UnusableAddress { option: &'static str, text: String },
    UselessValue { option: &'static str },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AbsentInterface { name, existing } => {
                write!(f, "this machine has no interface `{name}`; it has {}", existing.join(", "))
            }
            Self::AmbiguousOption { option, candidates } => {
                write!(f, "--{option} may be --{}; write it out", candidates.join(" or --"))
            }
            Self::EmptyPassword => {
                write!(f, "the password is empty; use 1 to {UCARP_PASSWORD} bytes")
            }
            Self::IntervalOfFarewell => write!(
                f,
                "--advbase and --advskew are both 255, by which a node says farewell; lower one"
            ),
            Self::Ipv6 { option, text } => write!(
                f,
                "--{option}: {text} is IPv6, which ucarp does not know; write a configuration with \
                 `auth = \"bsd\"` or \"sha256\", see docs/carp.md"
            ),
            Self::Lacks { option, example } => {
                write!(f, "--{option} is missing; add --{option}={example}")
            }
            Self::MissingValue { option } => write!(f, "--{option} lacks its value"),
            Self::NoInterval => write!(
                f,
                "--advbase and --advskew are both 0, so that there is no time between two \
                 advertisements; raise one"
            ),
            Self::NoMulticastGroup { text } => write!(
                f,
                "--mcastip: `{text}` is no IPv4 multicast address; leave it out for 224.0.0.18"
            ),
            Self::NoNumber { option, text, max } => {
                write!(f, "--{option}: `{text}` is no number; use one up to {max}")
            }
            Self::NoShortMcast => {
                write!(f, "-m: ucarp's help has it, but ucarp never took it; write --mcastip=IP")
            }
            Self::OutOfRange { option, number, min, max, cut } => {
                write!(f, "--{option}: {number} is not between {min} and {max}")?;
                match cut {
                    Some(cut) => write!(
                        f,
                        ", all that an advertisement has room for; ucarp would truncate it to {cut}"
                    ),
                    None => Ok(()),
                }
            }
            Self::PasswordTooLong { length } => write!(
                f,
                "the password has {length} bytes, and ucarp takes at most {UCARP_PASSWORD}; shorten it \
                 on all nodes"
            ),
            Self::PasswordUnreadable { file, reason } => {
                write!(f, "--passfile: {} cannot be read: {reason}", file.display())
            }
            Self::SourceIsVip { address } => write!(
                f,
                "--srcip and --addr are both {address}; --srcip is the address that stays on this \
                 node"
            ),
            Self::UnknownFacility { name, valid } => {
                write!(f, "--facility: unknown `{name}`; use none or one of {}", valid.join(", "))
            }
            Self::UnknownOption { option, near } => {
                write!(f, "unknown option {option}; ")?;
                match near {
                    Some(near) => write!(f, "did you mean --{near}?"),
                    None => write!(f, "see --help"),
                }
            }
            Self::UnusableAddress { option, text } => {
                write!(
                    f,
                    "--{option}: `{text}` is no IPv4 address of a host; write one like 10.1.1.252"
                )
            }
            Self::UselessValue { option } => write!(f, "--{option} takes no value"),
        }
    }
}

impl std::error::Error for Problem {}

/// What is not wrong but should be known: mostly where ucarp behaves in a way that few expect.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it, and `Display` says it to the operator")]
pub enum Warning {
    AddressStays,
    CarriageReturn,
    FirstInterface { name: String },
    IgnoredWords { words: Vec<String> },
    NoDownScript,
    NoUpScript,
    OpenPasswordFile { file: PathBuf, mode: u32 },
    RatioOfOne,
    RelativeScript { path: PathBuf },
    ShutdownWithoutScript,
    SubSecond,
    TwoPasswords,
    UnusableScript { path: PathBuf, reason: String },
    VisiblePassword,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressStays => write!(
                f,
                "without --shutdown the address stays on the interface when this ends as master, \
                 beside the next master's; add --shutdown"
            ),
            Self::CarriageReturn => write!(
                f,
                "the password ends in a carriage return, which belongs to it, as with ucarp; if that \
                 is not meant, save the file with Unix line ends on all nodes"
            ),
            Self::FirstInterface { name } => {
                write!(f, "no --interface is given; using the first one, {name}")
            }
            Self::IgnoredWords { words } => write!(f, "ignored: {}", words.join(" ")),
            Self::NoDownScript => write!(
                f,
                "without --downscript nothing takes the address away that the up script adds; this \
                 node keeps it beside the next master"
            ),
            Self::NoUpScript => write!(
                f,
                "without --upscript the address is added to the interface and removed from it by \
                 itself"
            ),
            Self::OpenPasswordFile { file, mode } => write!(
                f,
                "the password file {0} has mode {mode:04o} and so is open to others; `chmod 600 {0}`",
                file.display()
            ),
            Self::RatioOfOne => write!(
                f,
                "with --deadratio=1 one advertisement that is late moves the address; use 2 or more"
            ),
            Self::RelativeScript { path } => write!(
                f,
                "the script {} is found from the working directory only; write an absolute path",
                path.display()
            ),
            Self::ShutdownWithoutScript => {
                write!(f, "--shutdown has no effect without --downscript")
            }
            Self::SubSecond => write!(
                f,
                "with --advbase=0 a real ucarp peer takes this node for dead before it reads what it \
                 sent, and the address moves to and fro; use 1 while such peers are there"
            ),
            Self::TwoPasswords => write!(f, "--pass is ignored beside --passfile"),
            Self::UnusableScript { path, reason } => write!(
                f,
                "the script {} cannot be run now ({reason}): this node would be master of an address \
                 that it does not have",
                path.display()
            ),
            Self::VisiblePassword => write!(
                f,
                "--pass shows the password to everybody who lists processes; use --passfile"
            ),
        }
    }
}
