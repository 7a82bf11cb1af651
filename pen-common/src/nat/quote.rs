//! ICMP errors quote a packet as one side knows it; the other side has to read of the packet that it
//! sent itself.

use super::{Job, Translations, is_live};

/// Works out how the client sent the request ([`Job::came`]) that an error from the backends' side
/// quotes: [`Job::ends`]; false if it was not ours.
#[inline(never)]
pub fn quoted_request<T: Translations>(maps: &T, job: &mut Job) -> bool {
    job.now = maps.now();
    job.key = job.came.reversed();
    if !is_live(maps, job) {
        return false;
    }
    job.ends = job.key.translated(&job.found).reversed();
    true
}

/// Works out how the backend sent the answer ([`Job::came`]) that an error from the clients' side
/// quotes: [`Job::ends`]; false if it was not this backend's.
#[inline(never)]
pub fn quoted_answer<T: Translations>(maps: &T, job: &mut Job) -> bool {
    job.key = job.came.reversed();
    job.send(true);
    if job.masquerades() {
        if !maps.translation(&job.key, &mut job.found) || !job.is_known() {
            return false;
        }
        job.ends.source_port = job.found.source_port;
    }
    job.ends = job.ends.reversed();
    true
}

/// Works out with which ends an error about a request goes on ([`Job::ends`] of `error`), as
/// [`quoted_request`] has worked out what it quotes: to the client, and from the service, whoever
/// sent it, because the client knows nothing of what is behind.
#[inline(always)]
pub const fn report(error: &mut Job, quote: &Job) {
    error.ends.source = quote.ends.destination;
    error.ends.destination = quote.ends.source;
    error.ends.protocol = error.came.protocol;
    (error.ends.source_port, error.ends.port) = (error.came.source_port, error.came.port);
    // No answer of a flow: it may tell something whatever has become of the flow.
    (error.found.backend, error.found.flags) = (quote.found.backend, 0);
}
