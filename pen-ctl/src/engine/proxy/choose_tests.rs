//! The rules of selection, each as a sentence.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pen_common::abi::ServiceKey;
use proptest::prelude::*;

use super::*;
use crate::config::{Memory as Remember, Protocol, Proxy};
use crate::engine::proxy::tests::backend;
use crate::engine::scheduler::{self, Member};

const SECRET: Secret = [3, 4];
const START: Moment = Moment(1_000_000_000);

/// A service and all that its proxy knows.
/// A client without an address, of a Unix socket.
const NOBODY: Addr = Addr::v4([0, 0, 0, 0]);

#[derive(Debug)]
struct World {
    service: Service,
    state: State,
    connections: RefCell<Vec<u32>>,
    ejected: RefCell<BTreeSet<usize>>,
    now: Moment,
    draw: u64,
    barred: Vec<usize>,
}

impl Load for World {
    fn connections(&self, place: usize) -> u32 {
        self.connections.borrow()[place]
    }

    fn is_ejected(&self, place: usize) -> bool {
        self.ejected.borrow().contains(&place)
    }
}

impl World {
    fn new(scheduler: Scheduler, affinity: Affinity, backends: usize) -> Self {
        let backends: Vec<Backend> = (0..backends).map(backend).collect();
        let mut world = Self {
            connections: RefCell::new(vec![0; backends.len()]),
            service: Service {
                key: ServiceKey::new(Addr::v4([192, 0, 2, 10]), Be16::new(80), 6),
                name: "web".into(),
                listen: SocketAddr::from(([192, 0, 2, 10], 80)).into(),
                virtual_address: true,
                affinity,
                memory: Remember::of(Protocol::Tcp),
                stubborn: false,
                max_ejected: 100,
                uses_all: false,
                proxy: Proxy { scheduler, ..Proxy::usual() },
                vip_access: None,
                access: None,
                trusted: None,
                routes: None,
                starting: false,
                slots: Arc::from([]),
                backends,
            },
            state: State { clients: Clients::new(1000), turns: Turns::default() },
            ejected: RefCell::default(),
            now: START,
            barred: Vec::new(),
            draw: 1,
        };
        world.fill_table();
        world
    }

    fn fill_table(&mut self) {
        let members: Vec<Member> = self
            .service
            .backends
            .iter()
            .filter(|backend| backend.state == abi::Backend::UP && !backend.emergency)
            .map(|backend| Member {
                addr: Addr::from(backend.address.key().ip()),
                port: Be16::new(backend.address.key().port()),
                weight: backend.weight,
                id: u16::try_from(backend.id).expect("few"),
            })
            .collect();
        let ids = scheduler::maglev(&members, SECRET, 251);
        self.service.slots = ids.iter().map(|id| abi::Slot::settled(*id)).collect();
    }

    fn weights<const N: usize>(mut self, weights: [u32; N]) -> Self {
        for (backend, weight) in self.service.backends.iter_mut().zip(weights) {
            backend.weight = weight;
        }
        self.fill_table();
        self
    }

    fn prios<const N: usize>(mut self, prios: [u32; N]) -> Self {
        for (backend, prio) in self.service.backends.iter_mut().zip(prios) {
            backend.limits.prio = prio;
        }
        self
    }

    fn limits(mut self, all: u32, known: Option<u32>) -> Self {
        for backend in &mut self.service.backends {
            backend.limits.max_connections = Some(all);
            backend.limits.max_known = known;
        }
        self
    }

    fn stubborn(mut self) -> Self {
        self.service.stubborn = true;
        self
    }

    fn with_emergency(mut self) -> Self {
        let place = self.service.backends.len();
        self.service.backends.push(Backend { emergency: true, ..backend(place) });
        self.connections.get_mut().push(0);
        self
    }

    fn set_state(&mut self, place: usize, state: u32) {
        let backend = &mut self.service.backends[place];
        if state == abi::Backend::DOWN {
            backend.incarnation += 1;
        }
        backend.state = state;
    }

    fn ask(&mut self, address: Addr, port: u16, tried: &[usize]) -> Choice {
        self.draw = self.draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let address = Some(address).filter(|address| *address != NOBODY);
        let client =
            Client { address, port: Be16::new(port), barred: &self.barred, tried, draw: self.draw };
        let mut state = std::mem::replace(
            &mut self.state,
            State { clients: Clients::new(1), turns: Turns::default() },
        );
        let choice = choose(&self.service, SECRET, &client, &mut state, self, self.now);
        self.state = state;
        choice
    }

    /// Where client number so and so is sent.
    fn send(&mut self, client: u8) -> Choice {
        self.ask(address(client), 5000, &[])
    }

    /// The same, and it stays connected.
    fn hold(&mut self, client: u8) -> Choice {
        let choice = self.send(client);
        if let Choice::Take { place, .. } = choice {
            self.connections.get_mut()[place] += 1;
        }
        choice
    }

    fn order(&mut self, clients: impl IntoIterator<Item = u8>) -> Vec<usize> {
        clients.into_iter().map(|client| place(self.send(client))).collect()
    }
}

fn address(client: u8) -> Addr {
    Addr::v4([198, 51, 100, client])
}

fn place(choice: Choice) -> usize {
    match choice {
        Choice::Take { place, .. } => place,
        other => panic!("{other:?}"),
    }
}

const fn new(place: usize) -> Choice {
    Choice::Take { place, known: false }
}

const fn known(place: usize) -> Choice {
    Choice::Take { place, known: true }
}

const ALL: [Scheduler; 7] = [
    Scheduler::Maglev,
    Scheduler::RoundRobin,
    Scheduler::LeastConn,
    Scheduler::Random,
    Scheduler::Weight,
    Scheduler::Prio,
    Scheduler::Hash,
];

#[test]
fn a_client_keeps_its_server_whatever_the_scheduler() {
    for scheduler in ALL {
        let mut world = World::new(scheduler, Affinity::Client, 3);
        let first = place(world.send(1));
        for _ in 0..10 {
            assert_eq!(world.send(1), known(first), "{scheduler}");
            world.send(2);
        }
    }
}

#[test]
fn who_asks_for_a_name_gets_only_the_backends_that_are_for_it() {
    for scheduler in [Scheduler::Maglev, Scheduler::RoundRobin, Scheduler::Weight] {
        let mut world = World::new(scheduler, Affinity::Client, 4);
        for client in 1..50 {
            world.barred = vec![0, 1];
            assert!(place(world.ask(address(client), 1, &[])) > 1, "{scheduler}");
            // Neither memory nor stubbornness leads it to what is not for the name.
            world.barred = vec![2, 3];
            world.service.stubborn = client % 2 == 0;
            assert!(place(world.ask(address(client), 1, &[])) < 2, "{scheduler}");
        }
        world.barred = vec![0, 1, 2, 3];
        assert_eq!(world.ask(address(1), 1, &[]), Choice::None, "{scheduler}");
    }
}

#[test]
fn maglev_is_the_kernels_choice() {
    for affinity in [Affinity::Client, Affinity::Flow] {
        let mut world = World::new(Scheduler::Maglev, affinity, 3).weights([1, 2, 1]);
        for client in 0..200 {
            let source = address(client);
            let hash = match affinity {
                Affinity::Client => hash::client(SECRET, &source, 128),
                Affinity::Flow => hash::flow(SECRET, &source, Be16::new(5000), Be16::new(80)),
            };
            let slot = world.service.slots[hash::slot_index(hash, 251) as usize];
            let chosen = world.send(client);
            assert_eq!(world.service.backends[place(chosen)].id, u32::from(slot.current()));
        }
    }
}

#[test]
fn ipv6_clients_are_told_apart_by_their_network() {
    let mut world = World::new(Scheduler::RoundRobin, Affinity::Client, 2);
    let client =
        |net: u8, host: u8| Addr::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, net, 0, 0, 0, 0, 0, 0, 0, host]);
    let first = world.ask(client(1, 1), 1, &[]);
    assert_eq!(world.ask(client(1, 2), 1, &[]), known(place(first)), "privacy addresses");
    assert_eq!(world.ask(client(2, 1), 1, &[]), new(1 - place(first)));
    world.service.memory.prefix_v6 = 128;
    assert!(matches!(world.ask(client(1, 3), 1, &[]), Choice::Take { known: false, .. }));
}

#[test]
fn round_robin_is_cyclic_and_spreads_new_clients_evenly() {
    let mut world = World::new(Scheduler::RoundRobin, Affinity::Flow, 3);
    assert_eq!(world.order([1; 9]), [0, 1, 2, 0, 1, 2, 0, 1, 2]);
    let mut world = World::new(Scheduler::RoundRobin, Affinity::Client, 3);
    assert_eq!(world.order([1, 2, 3, 4, 5, 6]), [0, 1, 2, 0, 1, 2]);
}

#[test]
fn round_robin_honours_weights() {
    let mut world = World::new(Scheduler::RoundRobin, Affinity::Flow, 2).weights([3, 1]);
    let order = world.order([1; 100]);
    assert_eq!(order.iter().filter(|place| **place == 0).count(), 75);
}

#[test]
fn least_connections_fills_up_who_has_fewest() {
    let mut world = World::new(Scheduler::LeastConn, Affinity::Flow, 2);
    world.connections = vec![10, 0].into();
    for _ in 0..10 {
        assert_eq!(world.hold(1), new(1));
    }
    let rest = [world.hold(1), world.hold(1)].map(place);
    assert_eq!(BTreeSet::from(rest), BTreeSet::from([0, 1]), "equals take turns");
}

#[test]
fn weight_is_pens_rule() {
    let mut world = World::new(Scheduler::Weight, Affinity::Flow, 3).weights([1, 2, 1]);
    assert_eq!(world.order([1; 5]), [0; 5], "an idle pool begins at the first one");
    for client in 0..8 {
        world.hold(client);
    }
    assert_eq!(world.connections.into_inner(), [2, 4, 2]);
}

#[test]
fn random_draws_two_and_takes_the_idler_one() {
    let mut world = World::new(Scheduler::Random, Affinity::Flow, 3);
    world.connections = vec![100, 0, 0].into();
    let mut seen = BTreeMap::new();
    for place in world.order([1; 300]) {
        *seen.entry(place).or_insert(0) += 1;
    }
    // Two different ones are drawn, so that the busy one always meets an idler one.
    assert_eq!(seen.get(&0), None, "{seen:?}");
    assert!(seen[&1] > 80 && seen[&2] > 80, "{seen:?}");
    let mut one = World::new(Scheduler::Random, Affinity::Flow, 1);
    assert_eq!(one.send(1), new(0));
}

#[test]
fn the_lowest_prio_takes_all_until_it_cannot() {
    let mut world = World::new(Scheduler::Prio, Affinity::Flow, 3).prios([3, 1, 5]);
    assert_eq!(world.order([1, 2, 3]), [1, 1, 1]);
    world.set_state(1, abi::Backend::DOWN);
    assert_eq!(world.order([1, 2, 3]), [0, 0, 0]);
    world.set_state(1, abi::Backend::UP);
    assert_eq!(world.order([1, 2, 3]), [1, 1, 1]);
    // A fail-over goes to the next tier as well.
    assert_eq!(world.ask(address(1), 1, &[1]), new(0));
    let mut tiers = World::new(Scheduler::Prio, Affinity::Flow, 3).prios([1, 1, 2]);
    assert_eq!(tiers.order([1; 4]), [0, 1, 0, 1], "those of one tier take turns");
}

#[test]
fn of_a_server_that_goes_only_its_own_clients_are_hashed_anew() {
    let mut world = World::new(Scheduler::Hash, Affinity::Client, 3);
    let mut before = BTreeMap::new();
    for client in 0..=255 {
        before.insert(client, place(world.send(client)));
    }
    assert!((0..3).all(|place| before.values().filter(|found| **found == place).count() > 50));
    // As after a restart: nobody is remembered.
    let mut world = World::new(Scheduler::Hash, Affinity::Client, 3);
    world.set_state(2, abi::Backend::DOWN);
    for (client, was) in before {
        let now = place(world.send(client));
        assert!(if was == 2 { now != 2 } else { now == was }, "client {client}");
    }
}

#[test]
fn a_hash_by_flow_spreads_one_client_and_keeps_each_port() {
    let mut world = World::new(Scheduler::Hash, Affinity::Flow, 3);
    let ports: Vec<Choice> = (1..60).map(|port| world.ask(address(1), port, &[])).collect();
    let used: BTreeSet<usize> = ports.iter().map(|choice| place(*choice)).collect();
    assert_eq!(used.len(), 3);
    let again: Vec<Choice> = (1..60).map(|port| world.ask(address(1), port, &[])).collect();
    assert_eq!(ports, again);
}

#[test]
fn hashing_honours_weights() {
    let mut world = World::new(Scheduler::Hash, Affinity::Flow, 2).weights([3, 1]);
    let first = (0..4000).filter(|port| place(world.ask(address(1), *port, &[])) == 0).count();
    assert!((2900..3100).contains(&first), "{first}");
}

#[test]
fn each_scheduler_fails_over_to_all_others_and_then_gives_up() {
    for scheduler in ALL {
        let mut world = World::new(scheduler, Affinity::Client, 4);
        let mut tried = Vec::new();
        for _ in 0..4 {
            let place = place(world.ask(address(1), 1, &tried));
            assert!(!tried.contains(&place), "{scheduler}: {tried:?}");
            tried.push(place);
        }
        assert_eq!(world.ask(address(1), 1, &tried), Choice::None, "{scheduler}");
    }
}

#[test]
fn who_was_moved_stays_where_it_is_when_its_first_server_is_back() {
    let mut world = World::new(Scheduler::RoundRobin, Affinity::Client, 2);
    let first = place(world.send(1));
    world.set_state(first, abi::Backend::DOWN);
    assert_eq!(world.send(1), new(1 - first));
    world.set_state(first, abi::Backend::UP);
    assert_eq!(world.send(1), known(1 - first));
}

#[test]
fn memory_of_a_server_that_died_is_none_even_if_nobody_came_meanwhile() {
    let mut world = World::new(Scheduler::RoundRobin, Affinity::Client, 2);
    let first = place(world.send(1));
    world.set_state(first, abi::Backend::DOWN);
    world.set_state(first, abi::Backend::UP);
    assert!(matches!(world.send(1), Choice::Take { known: false, .. }));
}

#[test]
fn a_client_is_chosen_for_afresh_after_its_time() {
    let mut world = World::new(Scheduler::RoundRobin, Affinity::Client, 3);
    world.service.memory.affinity_ttl = Duration::from_secs(60);
    assert_eq!([world.send(1), world.send(1)], [new(0), known(0)]);
    world.now = world.now + Duration::from_secs(61);
    assert_eq!(world.send(1), new(1));
}

#[test]
fn a_draining_server_keeps_the_clients_that_it_has_and_gets_no_others() {
    let mut world = World::new(Scheduler::RoundRobin, Affinity::Client, 2);
    assert_eq!([world.send(1), world.send(2)], [new(0), new(1)]);
    world.set_state(0, abi::Backend::DRAIN);
    assert_eq!([world.send(1), world.send(3)], [known(0), new(1)]);
    world.set_state(0, abi::Backend::DRAINED);
    assert_eq!(world.send(1), new(1));
}

#[test]
fn new_clients_find_room_elsewhere_and_known_ones_have_some_in_reserve() {
    let mut world = World::new(Scheduler::RoundRobin, Affinity::Client, 2).limits(2, Some(4));
    let held: Vec<Choice> = (1..=4).map(|client| world.hold(client)).collect();
    assert_eq!(held, [new(0), new(1), new(0), new(1)]);
    assert_eq!(world.hold(9), Choice::Full, "a new one");
    assert_eq!([world.hold(1), world.hold(1)], [known(0), known(0)]);
    assert_eq!(world.hold(1), Choice::Full, "four are four");
    world.connections.get_mut()[1] = 1;
    assert_eq!(world.hold(9), new(1));
}

#[test]
fn the_server_for_emergencies_takes_over_only_when_nobody_else_can() {
    for scheduler in ALL {
        let mut world = World::new(scheduler, Affinity::Client, 2).with_emergency();
        assert!(place(world.send(1)) < 2);
        world.set_state(0, abi::Backend::DOWN);
        world.ejected.get_mut().insert(1);
        assert_eq!(world.send(1), new(2), "{scheduler}");
        world.ejected.get_mut().clear();
        assert_eq!(place(world.send(1)), 1, "{scheduler}: its clients leave it");
        assert_eq!(world.ask(address(1), 1, &[1]), new(2), "as a last resort");
        assert_eq!(world.ask(address(1), 1, &[1, 2]), Choice::None);
    }
}

#[test]
fn who_failed_lately_is_better_than_nobody_once() {
    for scheduler in ALL {
        let mut world = World::new(scheduler, Affinity::Client, 3);
        world.ejected.get_mut().extend([0, 1, 2]);
        assert!(matches!(world.ask(address(1), 1, &[]), Choice::Take { known: false, .. }));
        assert!(place(world.ask(address(1), 1, &[0])) > 0, "{scheduler}: another one");
        assert_eq!(world.ask(address(1), 1, &[0, 1]), Choice::None, "{scheduler}: not all of them");
        world.ejected.get_mut().remove(&2);
        assert_eq!(place(world.ask(address(1), 1, &[])), 2, "{scheduler}: rather one that did not");
        world.service.stubborn = true;
        world.ejected.get_mut().insert(2);
        assert_eq!(world.ask(address(2), 1, &[]), Choice::None, "{scheduler}");
    }
}

#[test]
fn overload_is_an_emergency_too() {
    let mut world =
        World::new(Scheduler::LeastConn, Affinity::Flow, 2).limits(1, None).with_emergency();
    let held: BTreeSet<usize> = (1..=2).map(|client| place(world.hold(client))).collect();
    assert_eq!(held, BTreeSet::from([0, 1]));
    assert_eq!(world.hold(3), new(2));
}

#[test]
fn a_stubborn_service_waits_for_its_choice_and_asks_nobody_else() {
    for scheduler in ALL {
        let mut world = World::new(scheduler, Affinity::Client, 2).stubborn();
        let first = place(world.send(1));
        world.set_state(first, abi::Backend::DOWN);
        let fate = world.send(1);
        // Round robin and the like have no opinion about one that they know nothing of.
        let fixed = matches!(scheduler, Scheduler::Maglev | Scheduler::Hash);
        assert!(fate == Choice::None || !fixed, "{scheduler}: {fate:?}");
        assert_eq!(world.ask(address(2), 1, &[0]), Choice::None, "{scheduler}: no second try");
    }
    let mut world = World::new(Scheduler::Hash, Affinity::Client, 2).stubborn().limits(1, None);
    let first = place(world.hold(1));
    assert_eq!(world.hold(1), Choice::Full, "it is at {first}, and full");
    let mut world = World::new(Scheduler::Hash, Affinity::Client, 2).stubborn().with_emergency();
    world.set_state(0, abi::Backend::DOWN);
    world.set_state(1, abi::Backend::DOWN);
    assert_eq!(world.send(1), new(2), "there is nothing to wait for when all are down");
}

#[test]
fn weight_zero_and_those_that_leave_take_nobody_new() {
    for scheduler in ALL {
        let mut world = World::new(scheduler, Affinity::Flow, 2);
        world.service.backends[0].wanted = false;
        assert!((0..50).all(|client| place(world.send(client)) == 1), "{scheduler}");
    }
}

#[test]
fn without_backends_there_is_nothing() {
    for scheduler in ALL {
        let mut world = World::new(scheduler, Affinity::Client, 2);
        world.set_state(0, abi::Backend::DOWN);
        world.set_state(1, abi::Backend::DOWN);
        assert_eq!(world.send(1), Choice::None, "{scheduler}");
    }
}

#[test]
fn clients_without_an_address_are_not_kept_together_and_nobody_remembers_them() {
    for scheduler in ALL {
        let mut world = World::new(scheduler, Affinity::Client, 2);
        let places: BTreeSet<usize> = (0..64)
            .map(|port| {
                let choice = world.ask(NOBODY, port, &[]);
                assert!(matches!(choice, Choice::Take { known: false, .. }), "{scheduler:?}");
                world.connections.get_mut()[place(choice)] += 1;
                place(choice)
            })
            .collect();
        assert_eq!(places.len(), 2, "{scheduler:?}");
        let kept = world.state.clients.find(&NOBODY, world.now, Duration::from_secs(3600));
        assert!(kept.is_none());
        assert_eq!(world.ask(NOBODY, 1, &[0]), new(1), "{scheduler:?}");
    }
}

fn any_world() -> impl Strategy<Value = World> {
    let states = prop::collection::vec((0..4_u32, any::<bool>(), any::<bool>(), 0..4_u32), 1..5);
    let words = (prop::sample::select(ALL.to_vec()), any::<bool>(), any::<bool>(), any::<bool>());
    (states, words).prop_map(|(states, (scheduler, by_client, stubborn, emergency))| {
        let affinity = if by_client { Affinity::Client } else { Affinity::Flow };
        let mut world = World::new(scheduler, affinity, states.len()).limits(2, Some(3));
        world.service.stubborn = stubborn;
        for (place, (state, wanted, ejected, connections)) in states.into_iter().enumerate() {
            world.service.backends[place].state = state;
            world.service.backends[place].wanted = wanted;
            world.connections.get_mut()[place] = connections;
            if ejected {
                world.ejected.get_mut().insert(place);
            }
        }
        world.fill_table();
        if emergency { world.with_emergency() } else { world }
    })
}

proptest! {
    /// Whatever the state of affairs, nobody is sent where nobody may go.
    #[test]
    fn a_choice_is_always_one_that_may_be_made(
        mut world in any_world(), clients in prop::collection::vec((0..5_u8, 0..5_usize), 1..20),
    ) {
        for (client, tried) in clients {
            let tried: Vec<usize> = (0..tried).collect();
            let Choice::Take { place, known } = world.ask(address(client), 1, &tried) else {
                continue;
            };
            let backend = &world.service.backends[place];
            prop_assert!(!tried.contains(&place));
            let rather = |at| world.is_able_at(at) && world.connections(at) < 2 && !tried.contains(&at);
            if world.is_ejected(place) {
                prop_assert!(!known && !(0..world.service.backends.len()).any(rather));
            }
            let least = if known { abi::Backend::DRAIN } else { abi::Backend::UP };
            prop_assert!(backend.state >= least);
            prop_assert!(backend.limit(known).is_none_or(|limit| world.connections(place) < limit));
            prop_assert!(known || backend.wanted);
            if backend.emergency {
                let free = |at| world.is_able_at(at) && world.connections(at) < 2 && !tried.contains(&at);
                prop_assert!(world.service.stubborn || !(0..place).any(free));
            }
        }
    }
}

impl World {
    fn is_able_at(&self, place: usize) -> bool {
        let backend = &self.service.backends[place];
        backend.state == abi::Backend::UP && backend.wanted && !self.is_ejected(place)
    }
}
