//! Lets the thread of CARP run when it has to: a machine that is busy, or short of memory, must not
//! lose its addresses because its advertisements come late.

use std::fmt;
use std::io;

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MlockAllFlags, mlockall};

use crate::io::{privileges, sys};

/// Above all that is ordinary, below the kernel's own threads (50) and the operator's.
const PRIORITY: i32 = 10;

/// What was not permitted.
#[derive(Debug)]
pub(super) enum Missing {
    /// To run before ordinary threads.
    Priority(io::Error),
    /// To stay in memory.
    Memory(Errno),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Priority(error) => write!(
                f,
                "CARP runs as any other thread: {error}. On a busy machine advertisements may be \
                 late; give pend CAP_SYS_NICE"
            ),
            Self::Memory(error) => write!(
                f,
                "the memory of pend can be swapped out: {error}. Advertisements may be late then; \
                 give it CAP_IPC_LOCK"
            ),
        }
    }
}

/// Asks for all that helps this thread to be in time; yields what was refused.
pub(super) fn raise() -> Vec<Missing> {
    let mut missing = Vec::new();
    missing.extend(sys::run_first(PRIORITY).err().map(Missing::Priority));
    missing.extend(stay_in_memory().err().map(Missing::Memory));
    missing
}

fn stay_in_memory() -> Result<(), Errno> {
    if !privileges::may_lock_memory() {
        return Err(Errno::EPERM);
    }
    // Only what is in use: other threads have stacks of megabytes that they never touch.
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault)
}
