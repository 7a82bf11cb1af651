//! What this node shares with its peers about services whose address moves, and what it takes from
//! whoever holds that address: where flows without a record belong, what the operator wishes, and
//! which records are void. The traffic between nodes is [`super::sync`]'s.

use std::collections::BTreeMap;
use std::sync::Arc;

use pen_common::abi::{self, Slot};
use pen_common::moment::Moment;
use pen_common::net::{Addr, Be16};

use super::draining::Drain;
use super::event::Action;
use super::merge::service_key;
use super::scheduler::{self, Member};
use super::sync::item::{Outline, Place, Standing};
use super::sync::view::{self, Role, View};
use super::sync::{Adopted, digest};
use super::{Backend, Engine, Service, desired};
use crate::api::{self, Admin};
use crate::config::{self, Carp, Mode, Named};

/// What is known of peers.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    /// What they were last told.
    told: BTreeMap<abi::ServiceKey, Arc<view::Service>>,
    /// This node knows what the others know.
    complete: bool,
    report: api::Sync,
}

impl Engine {
    /// Who holds the flows of a service, as far as peers are concerned: not a node that reaches none of
    /// its backends. Cut off from the network it may take itself for the master, but it is the other
    /// one that has the flows, and is to be asked when both hear each other again. Whoever had them
    /// goes on to tell until somebody else says that it has them.
    pub(super) fn sharing_role(&self, service: &Service) -> Role {
        match self.carp_role(service) {
            Role::Alone => Role::Alone,
            _ if service.down == Some(true) => Role::Backup,
            Role::Backup if !service.held => Role::Backup,
            Role::Backup | Role::Master => Role::Master,
        }
    }

    /// Who has the address of a service.
    fn carp_role(&self, service: &Service) -> Role {
        if self.config.sync.is_none() {
            return Role::Alone;
        }
        let Some(group) = self.group_of(service) else { return Role::Alone };
        let index = self.group_index(Some(&group.name));
        match self.applied.groups.get(&index).map_or(abi::Group::BACKUP, |found| found.role) {
            abi::Group::BACKUP => Role::Backup,
            _ => Role::Master,
        }
    }

    /// The group that the address of a service moves with.
    fn group_of(&self, service: &Service) -> Option<&Carp> {
        let address = service.config.listen.address;
        let vip = self.config.vips.iter().find(|vip| vip.address == address)?;
        let name = vip.carp.as_ref()?;
        self.config.carp.iter().find(|group| group.name == *name)
    }

    /// Notes which services this node has the flows of.
    pub(super) fn note_held(&mut self) {
        for at in 0..self.services.len() {
            let masters = self.carp_role(&self.services[at]) == Role::Master;
            let service = &mut self.services[at];
            service.held = (service.held || masters) && service.down != Some(true);
        }
    }

    /// Tells peers what has changed.
    pub(super) fn refresh_shared(&mut self) {
        if self.config.sync.is_none() {
            return;
        }
        let mut told = BTreeMap::new();
        let mut services = Vec::new();
        let mut changed = false;
        for service in &self.services {
            let new = self.shared(service);
            let old = self.sharing.told.get(&service.key);
            let kept = old.filter(|old| ***old == new).map(Arc::clone);
            changed |= kept.is_none();
            let service = kept.unwrap_or_else(|| Arc::new(new));
            told.insert(service.key, Arc::clone(&service));
            services.push(service);
        }
        changed |= told.len() != self.sharing.told.len();
        self.sharing.told = told;
        if changed {
            let (view, secret) = (Arc::new(View::new(services)), self.secret);
            self.actions.push_back(Action::ShareState { view, secret });
        }
    }

    fn shared(&self, service: &Service) -> view::Service {
        let entry = desired::service_entry(service);
        let members = service.members.as_deref().unwrap_or_default();
        let weights: BTreeMap<u32, u32> =
            members.iter().map(|member| (u32::from(member.id), member.weight)).collect();
        let backends = service.backends.iter().map(|backend| {
            let standing = Standing {
                weight: weights.get(&backend.id).copied().unwrap_or(0),
                life: backend.incarnation,
                admin: desired::admin_word(backend.admin),
                set_weight: backend.weight,
                draining_since: (backend.admin == Admin::Drain).then_some(backend.draining_since),
            };
            let usable = backend.state != abi::Backend::DOWN;
            (place(backend), view::Backend { id: backend.id, standing, usable })
        });
        view::Service {
            key: service.key,
            id: service.id,
            name: service.config.name.clone(),
            role: self.sharing_role(service),
            outline: Outline {
                mastered: false,
                mode: entry.mode,
                slots: entry.slots,
                backends: digest_of_backends(self.as_shared(service)),
                rest: digest_of_rest(service),
                patience: self.group_of(service).map_or(0, digest_of_patience),
            },
            moves: match service.config.mode {
                Mode::Masquerade => service.config.source.is_some(),
                Mode::Dsr | Mode::Ipip | Mode::Gue | Mode::Nat => true,
                // Its connections end in this machine's own stack.
                Mode::Proxy => false,
            },
            flow_ttl_ns: entry.flow_ttl_ns,
            client_ttl_ns: entry.client_ttl_ns,
            slots: Some(Arc::clone(service.table.slots())),
            backends: backends.collect(),
        }
    }

    /// What nodes have to have in common. Of names that is how they are written: nodes ask the DNS one
    /// after the other, so that for a while each of its changes is known to some of them only.
    fn as_shared<'a>(&'a self, service: &'a Service) -> &'a config::Service {
        let mut written = self.names.written.iter();
        let found = written.find(|written| service_key(written) == service.key);
        found.filter(|written| !written.names.is_empty()).unwrap_or(&service.config)
    }

    /// The holder of a service's address says how that stands.
    pub(super) fn adopt_state(&mut self, now: Moment, adopted: &Adopted) {
        let Some(at) = self.services.iter().position(|found| found.key == adopted.service) else {
            return;
        };
        let (carp, down) = (self.carp_role(&self.services[at]), self.services[at].down);
        if carp == Role::Alone || carp == Role::Master && down != Some(true) {
            return;
        }
        let mut news = Vec::new();
        let service = &mut self.services[at];
        for backend in &mut service.backends {
            let Some(standing) = adopted.backends.get(&place(backend)) else { continue };
            let subject = format!("{}/{}", service.config.name, backend.config.name);
            let wishes = backend.adopt_wish(now, standing).into_iter();
            news.extend(wishes.map(|what| (subject.clone(), what)));
            let there = (adopted.from.clone(), standing.life);
            let before = backend.life_there.replace(there);
            // Numbers of another node say nothing about those of this one.
            if before.is_some_and(|(from, life)| from == adopted.from && life != standing.life) {
                self.last_generation = self.last_generation.wrapping_add(1);
                backend.incarnation = self.last_generation;
            }
        }
        service.held = false;
        service.inherited = inherited(service, adopted, self.secret);
        service.usable_there.clone_from(&adopted.usable);
        service.members = None;
        self.dirty = true;
        self.note_deadlines();
        for (subject, what) in news {
            let text = format!("{subject}: {what}, as {} has it", adopted.from);
            self.tell(now, "adopted", &subject, text);
        }
    }

    pub(super) fn note_complete(&mut self, complete: bool) {
        self.sharing.complete = complete;
        // Groups depend on it.
        self.dirty = true;
    }

    pub(super) fn note_sync(&mut self, report: api::Sync) {
        self.sharing.report = report;
    }

    /// Whether some peer has told everything and is there, as far as was last heard.
    pub(super) fn hears_peers(&self) -> bool {
        self.sharing.complete && self.sharing.report.peers.iter().any(|peer| peer.state == "up")
    }

    /// Whether this node knows what its peers know, or has none.
    pub(super) fn is_complete(&self) -> bool {
        self.config.sync.is_none() || self.sharing.complete
    }

    /// How this node and its peers keep each other informed; `None` if they do not.
    #[must_use]
    pub fn sync(&self) -> Option<api::Sync> {
        self.config.sync.as_ref().map(|_| self.sharing.report.clone())
    }

    pub(super) fn differences_of_peers(&self) -> impl Iterator<Item = String> + '_ {
        self.sharing.report.peers.iter().flat_map(|peer| {
            let name = if peer.name.is_empty() { "peer" } else { peer.name.as_str() };
            peer.differs.iter().map(move |what| {
                format!("{name} ({}) has something else than this node: {what}", peer.address)
            })
        })
    }
}

impl Service {
    /// Whether the holder of its address can use a backend that this node has, but cannot use: the
    /// flows of that one would go elsewhere.
    pub(super) fn lags(&self) -> bool {
        let mut down = self.backends.iter().filter(|backend| backend.state == abi::Backend::DOWN);
        down.any(|backend| self.usable_there.contains(&place(backend)))
    }
}

impl Backend {
    /// Takes the operator's wishes over; says what has changed.
    fn adopt_wish(&mut self, now: Moment, standing: &Standing) -> Vec<String> {
        let mut news = Vec::new();
        let admin = desired::admin_of_word(standing.admin);
        if self.admin != admin {
            news.push(format!("{} -> {admin}", self.admin));
            if self.admin == Admin::Maint {
                self.health.restart(super::health::State::Checking, now);
            }
            self.admin = admin;
            self.draining_since = standing.draining_since.unwrap_or(now);
            self.drained = false;
            self.drain = Drain::default();
        }
        if self.weight != standing.set_weight {
            self.weight = standing.set_weight;
            news.push(format!("weight {}", self.weight()));
        }
        news
    }
}

/// The slots as the holder of the address has them, in our numbers; `None` if they cannot be
/// compared with ours.
fn inherited(
    service: &Service,
    adopted: &Adopted,
    secret: pen_common::hash::Secret,
) -> Option<Arc<[Slot]>> {
    let memory = &service.config.memory;
    if !adopted.same_secret || adopted.slots != memory.slots {
        return None;
    }
    let ids: BTreeMap<Place, u16> = service
        .backends
        .iter()
        .map(|found| (place(found), u16::try_from(found.id).expect("ids end below 2^14")))
        .collect();
    // By their order rather than by our numbers: we may not have all of them.
    let theirs = adopted.backends.iter().filter(|(_, standing)| standing.weight > 0);
    let (places, members): (Vec<Place>, Vec<Member>) = theirs
        .zip(1_u16..)
        .map(|((place, standing), number)| {
            let (addr, port, weight) = (place.addr, place.port, standing.weight);
            (*place, Member { addr, port, weight, id: number })
        })
        .unzip();
    let id = |place: &Place| ids.get(place).copied().unwrap_or(0);
    let targets = scheduler::maglev(&members, secret, memory.slots);
    let slots = (0_u32..).zip(targets).map(|(index, number)| {
        let place = usize::from(number).checked_sub(1).and_then(|at| places.get(at));
        let target = place.map_or(0, id);
        match adopted.bases.get(&index) {
            Some(base) => Slot::new(id(base), target, true),
            None => Slot::settled(target),
        }
    });
    Some(slots.collect())
}

fn place(backend: &Backend) -> Place {
    let (addr, port) = (Addr::from(backend.config.address), Be16::new(backend.config.port));
    Place { addr, port }
}

fn digest_of_backends(service: &config::Service) -> u64 {
    let name = |backend: &config::Backend| {
        format!("{}:{}*{}", backend.address, backend.port, backend.weight)
    };
    let mut backends: Vec<String> = service.backends.iter().map(name).collect();
    backends.extend(
        service
            .names
            .iter()
            .map(|Named { host, srv, port, weight, .. }| format!("{host} {srv}:{port}*{weight}")),
    );
    backends.sort();
    backends.extend(service.emergency.as_ref().map(name));
    digest(&backends.join(" "))
}

fn digest_of_rest(service: &Service) -> u64 {
    let config = &service.config;
    let memory = &config.memory;
    digest(&format!(
        "{:?} {:?} {:?} {:?} {:?} {} {} {} {:?} {}",
        config.listen.ports,
        config.affinity,
        config.source,
        memory.settle,
        memory.affinity_ttl,
        memory.prefix_v4,
        memory.prefix_v6,
        config.stubborn,
        config.check,
        config.emergency.is_some(),
    ))
}

fn digest_of_patience(group: &Carp) -> u64 {
    digest(&format!("{:?} {}", group.advbase, group.deadratio))
}
