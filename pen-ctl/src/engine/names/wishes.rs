//! What the operator set of servers that the DNS names holds for a while after it named them last: one in
//! maintenance is not back at work for an answer that left it out once.

use std::collections::BTreeMap;
use std::time::Duration;

use pen_common::moment::Moment;

use crate::api::Admin;
use crate::engine::draining::Drain;
use crate::engine::{Backend, BackendKey};

/// For so long. Later the address may be that of another server.
const HOLDS: Duration = Duration::from_secs(3600);

/// What is wished for servers that are gone. No more than the operator ordered one by one.
#[derive(Debug, Default)]
pub(in crate::engine) struct Wishes {
    of: BTreeMap<BackendKey, Wish>,
}

#[derive(Debug)]
struct Wish {
    admin: Admin,
    weight: Option<u32>,
    deadline: Option<Moment>,
    until: Moment,
}

impl Wishes {
    /// A server is not named any more.
    pub(in crate::engine) fn keep(&mut self, key: BackendKey, backend: &Backend, now: Moment) {
        self.of.retain(|_, wish| now < wish.until);
        let Backend { admin, weight, .. } = *backend;
        if admin != Admin::Ready || weight.is_some() {
            let deadline = backend.drain.deadline();
            self.of.insert(key, Wish { admin, weight, deadline, until: now + HOLDS });
        }
    }

    /// It is named again, and here all the time.
    pub(in crate::engine) fn forget(&mut self, key: &BackendKey) {
        self.of.remove(key);
    }

    /// It is named again, and here anew.
    pub(in crate::engine) fn restore(
        &mut self,
        key: &BackendKey,
        backend: &mut Backend,
        now: Moment,
    ) {
        let Some(wish) = self.of.remove(key).filter(|wish| now < wish.until) else { return };
        (backend.admin, backend.weight) = (wish.admin, wish.weight);
        backend.drain = Drain::until(wish.deadline);
    }
}
