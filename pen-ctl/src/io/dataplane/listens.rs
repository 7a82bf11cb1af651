//! The map `LISTENS`: what `ADDRS` and `SERVICES` say, arranged so that the kernel finds it with one
//! cheap look-up. It follows those two and is never read back.

use std::collections::BTreeMap;

use aya::maps::{Array, ArrayOfMaps, MapData, MapError};
use pen_common::abi::{AddrEntry, Listen, MAX_FAST_LISTENS, Service, ServiceKey};
use pen_common::hash;
use pen_common::net::Addr;

use crate::engine::tables::Write;

pub(super) struct Listens {
    map: ArrayOfMaps<MapData, Array<MapData, Listen>>,
    addrs: BTreeMap<Addr, AddrEntry>,
    services: BTreeMap<ServiceKey, Service>,
    /// The map does not follow yet.
    is_behind: bool,
}

impl Listens {
    /// With what the two maps hold. What this map holds is unknown: a daemon may have died before it
    /// followed.
    pub(super) const fn new(
        map: ArrayOfMaps<MapData, Array<MapData, Listen>>,
        addrs: BTreeMap<Addr, AddrEntry>,
        services: BTreeMap<ServiceKey, Service>,
    ) -> Self {
        Self { map, addrs, services, is_behind: true }
    }

    /// Takes note of a write that was carried out.
    pub(super) fn note(&mut self, write: &Write) {
        match write {
            Write::SetAddr(addr, entry) => drop(self.addrs.insert(*addr, *entry)),
            Write::RemoveAddr(addr) => drop(self.addrs.remove(addr)),
            Write::SetService(key, service) => drop(self.services.insert(*key, *service)),
            Write::RemoveService(key) => drop(self.services.remove(key)),
            _ => return,
        }
        self.is_behind = true;
    }

    /// Lets the map follow, if it has to and unless this write, the next one, is of the kind that it
    /// follows: then it can do so later, once for all of them. What a service refers to must not go
    /// before it does.
    pub(super) fn follow_before(&mut self, next: Option<&Write>) -> Result<(), MapError> {
        let goes_on = matches!(
            next,
            Some(
                Write::SetAddr(..)
                    | Write::RemoveAddr(_)
                    | Write::SetService(..)
                    | Write::RemoveService(_)
            )
        );
        if !self.is_behind || goes_on {
            return Ok(());
        }
        let mut array: Array<MapData, Listen> = Array::create(MAX_FAST_LISTENS, 0)?;
        for (index, listen) in places(&self.addrs, &self.services) {
            array.set(index, listen, 0)?;
        }
        self.map.set(0, &array, 0)?;
        self.is_behind = false;
        Ok(())
    }
}

/// Who stands where. Of two ports for one place the first has it; the other one is found in the maps
/// that this one follows.
fn places(
    addrs: &BTreeMap<Addr, AddrEntry>,
    services: &BTreeMap<ServiceKey, Service>,
) -> BTreeMap<u32, Listen> {
    let mut places = BTreeMap::new();
    for (key, service) in services {
        if let Some(addr) = addrs.get(&key.vip) {
            let listen = Listen { key: *key, addr: *addr, service: *service };
            places.entry(hash::listen_index(key)).or_insert(listen);
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use pen_common::net::{Be16, protocol};

    fn key(number: u16) -> ServiceKey {
        let [high, low] = number.to_be_bytes();
        ServiceKey::new(Addr::v4([192, 0, high, low]), Be16::new(80), protocol::TCP)
    }

    #[test]
    fn each_port_has_the_place_that_the_kernel_looks_at_and_nobody_is_there_twice() {
        let numbers = 0..4096;
        let services: BTreeMap<_, _> = numbers
            .clone()
            .map(|n| (key(n), Service { id: n.into(), ..Service::default() }))
            .collect();
        let addrs: BTreeMap<_, _> = numbers
            .map(|n| (key(n).vip, AddrEntry { id: n.into(), ..AddrEntry::default() }))
            .collect();
        let places = places(&addrs, &services);
        // Half of twice as many as there are places: at random, 1 - 1/e^2 of these are taken.
        assert!(places.len() > 3 * MAX_FAST_LISTENS as usize / 4, "{}", places.len());
        for (index, listen) in places {
            assert_eq!(index, hash::listen_index(&listen.key));
            assert_eq!(services[&listen.key], listen.service);
            assert_eq!(addrs[&listen.key.vip], listen.addr);
        }
    }

    #[test]
    fn a_service_whose_address_is_not_there_has_no_place() {
        let services = BTreeMap::from([(key(1), Service::default())]);
        assert!(places(&BTreeMap::new(), &services).is_empty());
    }
}
