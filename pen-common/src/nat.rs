//! Modes `nat` and `masquerade`: with which ends a packet goes on, and which entries that takes.
//!
//! | | comes as | goes on as | entries |
//! |---|---|---|---|
//! | request, `nat` | client -> service | client -> backend | return |
//! | request, `masquerade` | client -> service | our address and a port of ours -> backend | request, return |
//! | answer | backend -> client, or us | service -> client | |
//!
//! A return entry is keyed by the answer as it comes from the backend, and says what it becomes. It
//! is the one that holds the flow's state (time of use, FIN and RST), and it is what two flows can
//! quarrel about: whoever holds it gets the answers. A request entry, keyed by the request as the
//! client sent it, only remembers the port.
//!
//! Entries are never removed for their age; a void one ([`LINGER_NS`]) counts as none, and whoever
//! needs its place takes it.

mod job;
mod quote;

pub use self::job::Job;
use self::job::marks;
pub use self::quote::{quoted_answer, quoted_request, report};
use crate::abi::{Cfg, ServiceKey, Translation, Tuple};
use crate::affinity::STAMP_NS;
use crate::forward::{Lookup, Stage};
use crate::hash;
use crate::moment::Moment;
use crate::net::{Be16, TcpHeader};
use crate::signal::{Signal, is_repeated};
use crate::verdict::DropReason;

/// The entry of a TCP flow that was never answered, or that both ends have closed, is void when it
/// was not used for this time: half a minute, so that a lost last acknowledgement is still repeated
/// to the right end. All others live as long as the service says.
pub const LINGER_NS: u64 = 30_000_000_000;

/// Ports tried until a flow is refused. At a load of three quarters 1 flow in 100 is refused, at one
/// half 1 in 65,000.
pub const TRIES: u32 = 16;

/// The map `NAT`, besides what decisions look up.
pub trait Translations: Lookup {
    /// Copies the entry of these ends; false if there is none.
    fn translation(&self, ends: &Tuple, into: &mut Translation) -> bool;
    /// Whether one more entry may be made in this second.
    fn may_translate(&self) -> bool;
    /// Takes a place: where nobody is, or from a void entry, told by the time of its last use. False
    /// if somebody else was faster.
    fn occupy(&self, ends: &Tuple, entry: &Translation, void: Option<Moment>) -> bool;
    /// Makes or replaces an entry that nobody else would; false if that cannot be.
    fn translate(&self, ends: &Tuple, entry: &Translation) -> bool;
    /// An entry was used, and now has these flags besides its own.
    fn touch(&self, ends: &Tuple, flags: u32, now: Moment);
    /// A packet tells something of a backend.
    fn count(&self, backend: u32, signal: Signal);
}

/// What became of a flow's claim to its return entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// The answers are this flow's.
    Held,
    /// Another flow gets them.
    Taken,
    /// There is no entry, and none could be made.
    Unrecorded,
}

/// Works out the [`Job::ends`] with which a request goes on to its backend. Its answers find their
/// way back, or it is refused.
///
/// # Errors
///
/// * [`DropReason::DropNatConflict`] (mode `nat`): the same client talks from the same port to the same
///   backend through another service; an answer could belong to either.
/// * [`DropReason::DropNoPort`] (mode `masquerade`): all ports tried are in use.
/// * [`DropReason::DropNoEntry`]: the entry cannot be made, or a RST belongs to no flow.
/// * [`DropReason::DropRewrite`]: the backend is of the other family.
#[inline(always)]
pub fn outbound<T: Translations>(maps: &T, job: &mut Job) -> Result<(), DropReason> {
    job.now = maps.now();
    job.send(false);
    let family = job.came.source.is_v4();
    if job.ends.source.is_v4() != family || job.ends.destination.is_v4() != family {
        return Err(DropReason::DropRewrite);
    }
    let is_known =
        job.masquerades() && maps.translation(&job.came, &mut job.found) && job.is_known();
    if is_known {
        job.ends.source_port = job.found.source_port;
        // A return entry in use so lately is not void: nobody else has it. If it was evicted it is
        // made anew within a second.
        if job.found.idle_ns(job.now) < STAMP_NS && !job.is_signal() {
            return Ok(());
        }
    }
    if is_known || !job.masquerades() {
        let resets = !job.stage().may_record();
        match claim(maps, job) {
            Claim::Held => {
                if job.masquerades() {
                    maps.touch(&job.came, 0, job.now);
                }
                return Ok(());
            }
            // The backend shall hear of it; there will be no answer.
            Claim::Unrecorded if resets => return Ok(()),
            Claim::Unrecorded => return Err(DropReason::DropNoEntry),
            Claim::Taken if !job.masquerades() => return Err(DropReason::DropNatConflict),
            Claim::Taken => {}
        }
    }
    allocate(maps, job)
}

/// Works out the [`Job::ends`] with which a later fragment of a request goes on: addresses only, for
/// it has no ports. The first one has done the rest.
#[inline(always)]
pub fn follow(job: &mut Job) {
    job.send(false);
}

/// Sees to it that answers to what goes on become answers to the request.
#[inline(never)]
fn claim<T: Translations>(maps: &T, job: &mut Job) -> Claim {
    job.set_key();
    job.make_return();
    let is_there = maps.translation(&job.key, &mut job.found);
    if is_there && job.found.has_ends_of(&job.made) {
        let Job { found, made, .. } = job;
        let flags = found.flags | made.flags;
        let renamed = found.service != made.service || found.backend != made.backend;
        // A SYN is a new connection on the old ports, nothing of which is known yet; or the same one
        // again, because nobody answered.
        if job.stage() != Stage::Open {
            job.made.flags = flags;
        } else if !renamed
            && flags == Translation::RETURN
            && is_repeated(job.found.idle_ns(job.now))
        {
            maps.count(job.id, Signal::Unanswered);
        }
        if renamed || flags & !job.made.flags != 0 {
            maps.translate(&job.key, &job.made);
        } else if flags != job.found.flags || job.found.idle_ns(job.now) >= STAMP_NS {
            maps.touch(&job.key, flags, job.now);
        }
        return Claim::Held;
    }
    if is_there && !is_void(maps, job) {
        return Claim::Taken;
    }
    let made = job.stage().may_record() && maps.may_translate() && occupy(maps, job, is_there);
    if made { Claim::Held } else { Claim::Unrecorded }
}

/// Takes the place of the entry that was found and is void, or of none.
#[inline(always)]
fn occupy<T: Translations>(maps: &T, job: &Job, is_there: bool) -> bool {
    let void = if is_there { Some(Moment(job.found.last_seen_ns)) } else { None };
    maps.occupy(&job.key, &job.made, void)
}

/// Gives a flow a port of ours.
#[inline(always)]
fn allocate<T: Translations>(maps: &T, job: &mut Job) -> Result<(), DropReason> {
    if !job.stage().may_record() || !maps.may_translate() {
        return Err(DropReason::DropNoEntry);
    }
    job.make_return();
    release(maps, job);
    if !find_port(maps, job) {
        return Err(DropReason::DropNoPort);
    }
    job.make_request();
    if maps.translate(&job.came, &job.made) { Ok(()) } else { Err(DropReason::DropNoEntry) }
}

/// Gives the port back that a flow had at another backend, but not at once: that backend still
/// remembers it.
#[inline(never)]
fn release<T: Translations>(maps: &T, job: &mut Job) {
    if maps.translation(&job.came, &mut job.found) {
        job.key = job.came.translated(&job.found).reversed();
        if maps.translation(&job.key, &mut job.found) && job.found.has_ends_of(&job.made) {
            maps.touch(&job.key, Translation::RESET, job.now);
        }
    }
}

/// Finds a port whose answers nobody else gets, and occupies it.
#[inline(never)]
fn find_port<T: Translations>(maps: &T, job: &mut Job) -> bool {
    let Some(cfg) = maps.cfg() else { return false };
    let hash = flow_hash(cfg, &job.came);
    for attempt in 0..TRIES {
        let Some(port) = candidate(cfg, hash, attempt) else { return false };
        job.ends.source_port = port;
        job.set_key();
        let is_there = maps.translation(&job.key, &mut job.found);
        // It may be this flow's own, left when its other entry was evicted.
        let is_free = !is_there || job.found.has_ends_of(&job.made) || is_void(maps, job);
        if is_free && occupy(maps, job, is_there) {
            return true;
        }
    }
    false
}

/// Not inlined, like many of these functions, for the sake of the stack.
#[inline(never)]
const fn flow_hash(cfg: &Cfg, came: &Tuple) -> u64 {
    hash::flow(cfg.secret, &came.source, came.source_port, came.port)
}

/// The port that a flow of this hash tries at this attempt; `None` if there is no range.
///
/// Attempts are a golden section of the range apart: well spread, and up to ranges of eleven ports
/// all of them are tried.
#[must_use]
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "takes half of a hash; the port is in the range"
)]
const fn candidate(cfg: &Cfg, hash: u64, attempt: u32) -> Option<Be16> {
    let (first, last) = (cfg.first_port.value() as u32, cfg.last_port.value() as u32);
    if first == 0 || last < first {
        return None;
    }
    let spread = (hash as u32).wrapping_add(attempt.wrapping_mul(0x9e37_79b9));
    let offset = (spread as u64 * (last - first + 1) as u64) >> 32;
    Some(Be16::new((first + offset as u32) as u16))
}

/// Works out the [`Job::ends`] with which an answer goes on; false if it answers no request of ours.
/// [`Job::found`] is its return entry.
#[inline(always)]
pub fn inbound<T: Translations>(maps: &T, job: &mut Job) -> bool {
    job.now = maps.now();
    job.key = job.came;
    if !is_live(maps, job) {
        return false;
    }
    let always = Translation::ANSWERED;
    let flags = job.found.flags | marks(job.tcp_flags, always, Translation::BACKEND_FIN);
    if flags != job.found.flags || job.found.idle_ns(job.now) >= STAMP_NS {
        maps.touch(&job.key, flags, job.now);
    }
    job.ends = job.came.translated(&job.found);
    true
}

/// What an answer that [`inbound`] let through tells of its backend: something only if it is the
/// first one of its flow.
#[must_use]
#[inline(always)]
pub const fn told(job: &Job) -> Option<Signal> {
    if !job.may_tell() {
        return None;
    }
    // The answer to a SYN acknowledges it; a RST without acknowledgement is about a later segment
    // of a flow whose entry was lost (RFC 9293 section 3.10.7.1).
    match job.tcp_flags & (TcpHeader::RST | TcpHeader::ACK) {
        REFUSAL => Some(Signal::Refused),
        TcpHeader::RST => None,
        _ => Some(Signal::Answered),
    }
}

const REFUSAL: u8 = TcpHeader::RST | TcpHeader::ACK;

/// Finds the return entry of the job's key; false if there is none that holds.
#[inline(always)]
fn is_live<T: Translations>(maps: &T, job: &mut Job) -> bool {
    maps.translation(&job.key, &mut job.found)
        && job.found.flags & Translation::RETURN != 0
        && !is_void(maps, job)
}

/// Whether the return entry that was found no longer counts. Its service says how long it lives,
/// which is asked only about entries that were not used for a second; without the service it lives
/// no longer.
#[inline(always)]
fn is_void<T: Translations>(maps: &T, job: &Job) -> bool {
    let Job { found, key, now, .. } = job;
    let idle = found.idle_ns(*now);
    idle >= STAMP_NS && idle >= found.lifetime(key.protocol, flow_ttl_ns(maps, found, key.protocol))
}

/// How long flows of the service live whose answers this entry makes.
#[inline(never)]
fn flow_ttl_ns<T: Translations>(maps: &T, entry: &Translation, protocol: u8) -> u64 {
    let mut key = ServiceKey::new(entry.source, entry.source_port, protocol);
    if let Some(service) = maps.service(&key) {
        return service.flow_ttl_ns;
    }
    key.port = Be16::new(0);
    maps.service(&key).map_or(0, |service| service.flow_ttl_ns)
}

#[cfg(test)]
mod tests;
