//! Keeps the peers of this node informed, so that flows go on when one of them takes an address over:
//! which slots are unsettled and where their flows belong, records of flows and clients,
//! translations, what the operator wishes.
//!
//! Whoever holds the address of a service tells; the others listen. All of it is a stream to each
//! peer (`stream`) under a shared key (`seal`) in fresh sessions (`session`): facts, which hold
//! until they change, and records, which grow old and are told again now and then. Who joins, or
//! missed something, asks for everything.
//!
//! [`Node`] is pure: datagrams, entries of the maps and the engine's [`View`] come in, datagrams and
//! [`Output`]s go out.

mod bytes;
pub mod item;
mod peer;
mod report;
mod scan;
mod seal;
mod session;
mod stream;
#[cfg(test)]
mod tests;
pub mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use pen_common::abi::ServiceKey;
use pen_common::moment::Moment;

use self::bytes::Reader;
use self::item::{Fact, Item, Part, Place, Record, Standing, Topic};
use self::peer::{Greeting, News, Peer};
use self::scan::Scan;
pub use self::seal::{Key, LONGEST, digest};
use self::seal::{Kind, Random};
use self::session::Freshness;
use self::view::{Entry, Role, Untold, View};

/// Whoever cannot hear anybody for so long after the start goes on alone.
const PATIENCE: Duration = Duration::from_secs(3);
/// Strangers are answered so often at most, all together.
const INTRODUCTION: Duration = Duration::from_millis(20);

/// What a node is told once.
#[derive(Debug)]
pub struct Settings {
    /// This node's name, for people.
    pub name: String,
    /// What all nodes share.
    pub key: Key,
    /// The others.
    pub peers: Vec<SocketAddr>,
    /// Random bytes.
    pub seed: [u8; 32],
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Write this entry.
    Write {
        /// It.
        entry: Entry,
        /// Also if there is another one in its place.
        replace: bool,
    },
    /// The holder of a service's address says how that stands.
    Adopt(Adopted),
    /// Read all entries of the maps: [`Node::scanned`], and [`Node::scan_ended`] in the end.
    Scan,
    /// Whether this node knows what the others know: it may take addresses over then.
    Complete(bool),
}

/// How a service stands at the holder of its address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// The service.
    pub service: ServiceKey,
    /// The holder's name.
    pub from: String,
    /// Slots of its table.
    pub slots: u32,
    /// Its backends.
    pub backends: BTreeMap<Place, Standing>,
    /// Bases of the unsettled slots.
    pub bases: BTreeMap<u32, Place>,
    /// Backends that it can use.
    pub usable: BTreeSet<Place>,
    /// Both nodes have the same secret: slots mean the same.
    pub same_secret: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Node {
    key: Key,
    greeting: Greeting,
    peers: Vec<Peer>,
    started_at: Moment,
    view: Arc<View>,
    /// What is told of it.
    facts: BTreeMap<Topic, Fact>,
    scan: Scan,
    outputs: VecDeque<Output>,
    /// As it was last said.
    complete: Option<bool>,
    /// When the next stranger is answered.
    introduce_at: Moment,
    introductions: VecDeque<(SocketAddr, Vec<u8>)>,
    /// Datagrams that were not sealed with our key, or are none of ours.
    refused: u64,
    /// The peer that is asked first for a datagram.
    turn: usize,
}

impl Node {
    /// A node that knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings, now: Moment) -> Self {
        let mut random = Random::new(settings.seed);
        let peers = settings.peers.iter().map(|address| Peer::new(*address, random.draw(), now));
        Self {
            peers: peers.collect(),
            key: settings.key,
            greeting: Greeting { name: settings.name, secret: 0 },
            started_at: now,
            view: Arc::default(),
            facts: BTreeMap::new(),
            scan: Scan::new(now),
            outputs: VecDeque::new(),
            complete: None,
            introduce_at: now,
            introductions: VecDeque::new(),
            refused: 0,
            turn: 0,
        }
    }

    /// The engine knows this by now. `secret` is the key of the flow hash.
    pub fn share(&mut self, now: Moment, view: Arc<View>, secret: [u64; 2]) {
        let secret = [secret[0].to_be_bytes(), secret[1].to_be_bytes()].concat();
        self.greeting.secret = self.key.fingerprint(&secret);
        let before = std::mem::replace(&mut self.view, Arc::clone(&view));
        let mut lost = false;
        let mut listens = Vec::new();
        let mut kept = BTreeSet::new();
        for service in view.shared() {
            kept.insert(service.key);
            let old = before.service(&service.key);
            if old.is_some_and(|old| Arc::ptr_eq(old, service)) {
                continue;
            }
            self.set_facts(service.key, service.facts());
            if service.role != Role::Backup {
                continue;
            }
            match old {
                Some(old) if old.role == Role::Backup => {
                    // Records of it that were taken are void, or could not be taken.
                    lost |= service.backends.iter().any(|(place, backend)| {
                        let life = |backend: &view::Backend| backend.standing.life;
                        old.backends.get(place).map(life) != Some(life(backend))
                    });
                }
                _ => listens.push(service.key),
            }
        }
        let gone: Vec<ServiceKey> =
            before.shared().map(|old| old.key).filter(|key| !kept.contains(key)).collect();
        for key in gone {
            self.set_facts(key, BTreeMap::new());
        }
        for peer in &mut self.peers {
            if !listens.is_empty() {
                peer.complete = false;
            }
            if lost || !listens.is_empty() {
                peer.want_all(now);
            }
        }
        for key in listens {
            self.adopt(key);
        }
        self.refresh_complete(now);
    }

    fn set_facts(&mut self, service: ServiceKey, facts: BTreeMap<Topic, Fact>) {
        let first = Topic { service, part: Part::Service };
        let known = self.facts.range(first..).take_while(|(topic, _)| topic.service == service);
        let gone: Vec<Topic> =
            known.map(|(topic, _)| *topic).filter(|topic| !facts.contains_key(topic)).collect();
        for topic in gone {
            self.facts.remove(&topic);
            self.peers.iter_mut().for_each(|peer| peer.note(topic));
        }
        for (topic, fact) in facts {
            if self.facts.get(&topic) != Some(&fact) {
                self.facts.insert(topic, fact);
                self.peers.iter_mut().for_each(|peer| peer.note(topic));
            }
        }
    }

    /// The kernel made or changed these entries.
    pub fn observed(&mut self, now: Moment, entries: &[Entry]) {
        for entry in entries {
            match self.view.record(now, entry) {
                Ok(record) => {
                    let told = self.peers.iter_mut().map(|peer| peer.tell(record));
                    if !told.fold(true, |all, one| all & one) {
                        self.scan.lose(now);
                    }
                }
                Err(Untold::Private) => {}
                Err(Untold::Unknown) => self.scan.lose(now),
            }
        }
    }

    /// The kernel made entries that nobody saw.
    pub fn missed(&mut self, now: Moment) {
        self.scan.lose(now);
    }

    /// A datagram came.
    pub fn receive(&mut self, now: Moment, from: SocketAddr, datagram: &[u8]) {
        let same = |peer: &Peer| plain(peer.address) == plain(from);
        let opened = seal::open(&self.key, datagram);
        let (Some(at), Ok((header, body))) = (self.peers.iter().position(same), opened) else {
            self.refused += 1;
            return;
        };
        let peer = &mut self.peers[at];
        match peer.session.judge(&header) {
            Freshness::Fresh => {}
            Freshness::Renewed => peer.renew(now),
            Freshness::Replayed => {
                peer.stats.replayed += 1;
                return;
            }
            Freshness::Stranger => {
                if header.kind == Kind::Hello && now >= self.introduce_at {
                    self.introduce_at = now + INTRODUCTION;
                    let header = peer.introduce(&header);
                    let datagram = seal::seal(&self.key, &header, &greet(&self.greeting));
                    self.introductions.push_back((peer.address, datagram));
                }
                return;
            }
        }
        peer.hear(now, &header, self.facts.keys().copied());
        match header.kind {
            Kind::Ack => {}
            Kind::Hello => match read_greeting(body) {
                Ok(greeting) => peer.greeting = greeting,
                Err(_) => peer.stats.malformed += 1,
            },
            Kind::Data => match peer.receive(body) {
                Ok(parts) => self.take(now, at, &parts),
                Err(_) => peer.stats.malformed += 1,
            },
        }
        self.refresh_complete(now);
    }

    fn take(&mut self, now: Moment, at: usize, parts: &[Vec<u8>]) {
        for part in parts {
            let mut reader = Reader::new(part);
            while !reader.is_empty() {
                let Ok(item) = Item::read(now, &mut reader) else {
                    // Whatever else was in it is lost.
                    self.peers[at].stats.malformed += 1;
                    break;
                };
                match self.peers[at].take(now, item) {
                    News::None => {}
                    News::Facts(services) => {
                        for service in services {
                            self.adopt(service);
                        }
                    }
                    News::Record(record) => self.take_record(now, at, &record),
                }
            }
        }
    }

    /// What the holder of the address says holds. What others still had to say, just after it has
    /// moved, is as good as nothing else.
    fn take_record(&mut self, now: Moment, at: usize, record: &Record) {
        let is_holder = self.holder(&record.service) == Some(at);
        let peer = &mut self.peers[at];
        let topic = Topic { service: record.service, part: Part::Backend(record.backend) };
        let life = match peer.facts.get(&topic) {
            Some(Fact::Backend(standing)) => Some(standing.life),
            _ => None,
        };
        let role = self.view.service(&record.service).map(|service| service.role);
        match self.view.entry(record, life) {
            Some(entry) => {
                peer.stats.taken += 1;
                let replace = is_holder && role == Some(Role::Backup);
                if role == Some(Role::Master) {
                    // It may be ours by now, and the others may have another one.
                    self.scan.repeat(now);
                }
                self.outputs.push_back(Output::Write { entry, replace });
            }
            None => peer.stats.ignored += 1,
        }
    }

    /// The peer that holds the address of a service.
    fn holder(&self, key: &ServiceKey) -> Option<usize> {
        let peers = self.peers.iter().enumerate();
        let claims = peers.filter_map(|(at, peer)| Some((peer.claim(key)?, at)));
        claims.max().map(|(_, at)| at)
    }

    /// Tells the engine how a service stands at the holder of its address. Whether we are that, it
    /// knows better.
    fn adopt(&mut self, key: ServiceKey) {
        if self.view.service(&key).is_none_or(|service| service.role == Role::Alone) {
            return;
        }
        let Some(peer) = self.holder(&key).and_then(|at| self.peers.get(at)) else { return };
        let mut adopted = Adopted {
            service: key,
            from: peer.greeting.name.clone(),
            same_secret: peer.greeting.secret == self.greeting.secret,
            ..Adopted::default()
        };
        for (part, fact) in peer.about(key) {
            match (part, fact) {
                (Part::Service, Fact::Service(outline)) => {
                    adopted.slots = outline.slots;
                }
                (Part::Backend(place), Fact::Backend(standing)) => {
                    adopted.backends.insert(*place, *standing);
                }
                (Part::Slots(block), Fact::Bases(bases)) => {
                    let first = block.saturating_mul(item::BLOCK);
                    let slots = bases.iter().map(|(at, base)| (first + u32::from(*at), *base));
                    adopted.bases.extend(slots);
                }
                (Part::Usable(_), Fact::Usable(places)) => adopted.usable.extend(places),
                _ => {}
            }
        }
        self.outputs.push_back(Output::Adopt(adopted));
    }

    /// The next datagram to be sent, if one is due.
    pub fn poll_datagram(&mut self, now: Moment) -> Option<(SocketAddr, Vec<u8>)> {
        if let Some(introduction) = self.introductions.pop_front() {
            return Some(introduction);
        }
        for _ in 0..self.peers.len() {
            self.turn = (self.turn + 1) % self.peers.len();
            let peer = &mut self.peers[self.turn];
            if let Some((header, body)) = peer.poll(now, &self.greeting, &self.facts) {
                return Some((peer.address, seal::seal(&self.key, &header, &body)));
            }
        }
        None
    }

    /// The next thing to be done, if any.
    pub fn poll_output(&mut self, now: Moment) -> Option<Output> {
        for peer in &mut self.peers {
            peer.give_up(now);
        }
        self.refresh_complete(now);
        if self.scan_is_due(now) && self.begin_scan(now) {
            return Some(Output::Scan);
        }
        self.outputs.pop_front()
    }

    /// When [`Node::poll_datagram`] or [`Node::poll_output`] have something at the latest.
    #[must_use]
    pub fn next_deadline(&self, now: Moment) -> Moment {
        let peers = self.peers.iter().map(|peer| peer.deadline(now));
        let mut next = peers.min().unwrap_or(Moment::NEVER).min(self.scan_deadline(now));
        if !self.introductions.is_empty() || !self.outputs.is_empty() {
            next = now;
        }
        if self.complete != Some(true) {
            next = next.min((self.started_at + PATIENCE).max(now + INTRODUCTION));
        }
        next
    }

    /// Complete is who was told everything by all who are there; who hears nobody has nobody to wait
    /// for.
    fn refresh_complete(&mut self, now: Moment) {
        let mut there = self.peers.iter().filter(|peer| peer.alive).peekable();
        let complete = match there.peek() {
            Some(_) => there.all(|peer| peer.complete),
            None => now >= self.started_at + PATIENCE,
        };
        if self.complete != Some(complete) {
            self.complete = Some(complete);
            self.outputs.push_back(Output::Complete(complete));
        }
    }
}

/// An address without what belongs to this machine, and IPv4 as such.
fn plain(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

fn greet(greeting: &Greeting) -> Vec<u8> {
    let mut body = bytes::Writer::default();
    body.text(&greeting.name);
    body.u64(greeting.secret);
    body.0
}

fn read_greeting(body: &[u8]) -> Result<Greeting, bytes::Malformed> {
    let mut reader = Reader::new(body);
    let (name, secret) = (reader.text()?.to_owned(), reader.u64()?);
    reader.end()?;
    Ok(Greeting { name, secret })
}
