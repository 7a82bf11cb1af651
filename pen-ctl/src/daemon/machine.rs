//! What daemons ask of the machine when they start: descriptors and random bits.

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pen_common::hash::Secret;

/// A probe of each backend may be under way at a time, and the usual soft limit is 1024.
pub(super) fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!("the limit of open files cannot be raised: {error}");
    }
}

/// Bits that nobody can guess, from the kernel.
pub(super) fn random_secret() -> anyhow::Result<Secret> {
    use std::io::Read;

    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("/dev/urandom")?;
    let number = u128::from_be_bytes(bytes);
    let low = u64::try_from(number & u128::from(u64::MAX)).expect("masked to 64 bits");
    let high = u64::try_from(number >> 64).expect("shifted to 64 bits");
    Ok([high, low])
}
