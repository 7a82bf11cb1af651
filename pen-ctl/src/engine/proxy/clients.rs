//! The clients that a service remembers, and where: pen's main idea. Bounded: of too many the one
//! that came least recently is forgotten.

use std::collections::HashMap;
use std::time::Duration;

use pen_common::moment::Moment;
use pen_common::net::Addr;

/// Nobody.
const NONE: usize = usize::MAX;

/// Where a client was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Id of the backend.
    pub backend: u32,
    /// The backend's incarnation: a memory of one that has died since is none.
    pub incarnation: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    client: Addr,
    memory: Memory,
    seen: Moment,
    newer: usize,
    older: usize,
}

/// The clients of a service.
#[derive(Debug)]
pub struct Clients {
    capacity: usize,
    by_client: HashMap<Addr, usize>,
    /// Linked from the newest to the oldest.
    entries: Vec<Entry>,
    newest: usize,
    oldest: usize,
}

impl Clients {
    /// Nobody yet, and never more than `capacity`.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            by_client: HashMap::new(),
            entries: Vec::new(),
            newest: NONE,
            oldest: NONE,
        }
    }

    /// Where a client was sent, if that is not longer ago than `ttl`.
    #[must_use]
    pub fn find(&self, client: &Addr, now: Moment, ttl: Duration) -> Option<Memory> {
        let entry = &self.entries[*self.by_client.get(client)?];
        (now.since(entry.seen) <= ttl).then_some(entry.memory)
    }

    /// A client comes, and is sent there.
    pub fn note(&mut self, client: &Addr, memory: Memory, now: Moment) {
        let at = match self.by_client.get(client).copied() {
            Some(at) => {
                self.unlink(at);
                at
            }
            None if self.entries.len() < self.capacity => {
                self.entries.push(Entry {
                    client: *client,
                    memory,
                    seen: now,
                    newer: NONE,
                    older: NONE,
                });
                self.entries.len() - 1
            }
            None => {
                let at = self.oldest;
                self.unlink(at);
                self.by_client.remove(&self.entries[at].client);
                at
            }
        };
        self.by_client.insert(*client, at);
        let newer = NONE;
        self.entries[at] = Entry { client: *client, memory, seen: now, newer, older: self.newest };
        match self.newest {
            NONE => self.oldest = at,
            newest => self.entries[newest].newer = at,
        }
        self.newest = at;
    }

    /// How many are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn unlink(&mut self, at: usize) {
        let Entry { newer, older, .. } = self.entries[at];
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older].newer = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    fn client(number: u8) -> Addr {
        Addr::v6([0x20, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, number])
    }

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000_000)
    }

    const fn there(backend: u32) -> Memory {
        Memory { backend, incarnation: 1 }
    }

    #[test]
    fn addresses_that_differ_in_the_last_byte_are_two_clients() {
        let mut clients = Clients::new(10);
        clients.note(&client(1), there(1), at(0));
        clients.note(&client(2), there(2), at(0));
        assert_eq!(clients.find(&client(1), at(1), TTL), Some(there(1)));
        assert_eq!(clients.find(&client(2), at(1), TTL), Some(there(2)));
    }

    #[test]
    fn a_client_is_forgotten_after_its_time_and_not_before() {
        let mut clients = Clients::new(10);
        clients.note(&client(1), there(1), at(0));
        assert_eq!(clients.find(&client(1), at(60), TTL), Some(there(1)));
        assert_eq!(clients.find(&client(1), at(61), TTL), None);
        // Each visit begins the time anew.
        clients.note(&client(1), there(1), at(60));
        assert_eq!(clients.find(&client(1), at(120), TTL), Some(there(1)));
    }

    #[test]
    fn of_too_many_the_one_that_came_least_recently_is_forgotten() {
        let mut clients = Clients::new(3);
        for number in [1, 2, 3, 1, 4] {
            clients.note(&client(number), there(number.into()), at(0));
        }
        let known = |number| clients.find(&client(number), at(0), TTL).is_some();
        assert_eq!([1, 2, 3, 4].map(known), [true, false, true, true]);
        assert_eq!((clients.len(), clients.is_empty()), (3, false));
    }

    proptest! {
        #[test]
        fn it_is_a_list_of_the_last_that_came(
            capacity in 1..5_usize, visits in prop::collection::vec(0..8_u8, 0..60),
        ) {
            let mut clients = Clients::new(capacity);
            let mut recent: Vec<u8> = Vec::new();
            for (time, number) in visits.iter().enumerate() {
                clients.note(&client(*number), there(u32::try_from(time).expect("few")), at(0));
                recent.retain(|known| known != number);
                recent.push(*number);
            }
            let kept = recent.len().saturating_sub(capacity);
            for number in 0..8 {
                let found = clients.find(&client(number), at(0), TTL);
                prop_assert_eq!(found.is_some(), recent[kept..].contains(&number));
            }
        }
    }
}
