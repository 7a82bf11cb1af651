//! One peer: what is still to be told to it, and what it has told.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use pen_common::abi::ServiceKey;
use pen_common::moment::Moment;

use super::bytes::{Malformed, Reader, Writer};
use super::greet;
use super::item::{Fact, Item, MOST, Part, Record, Topic};
use super::seal::{BODY, Header, Kind};
use super::session::Session;
use super::stream::{Inbox, Outbox};

/// Records that wait to be told. More are left out, and told by the next scan.
pub(super) const QUEUE: usize = 16_384;
/// While records are being read, so many are enough for the moment.
const ENOUGH: usize = 4096;
/// Who was silent for so long is not there.
pub(super) const SILENCE: Duration = Duration::from_secs(3);
/// Between two greetings.
const PAUSE: Duration = Duration::from_millis(500);
/// The same while nobody answers: who comes back shall know everything soon.
const SHORT_PAUSE: Duration = Duration::from_millis(100);
/// Between two datagrams of the stream, on average: 11 MB a second.
const SPACING: Duration = Duration::from_micros(125);
/// So many may go at once.
const BURST: u32 = 128;

/// A peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    pub(super) session: Session,
    pub(super) heard_at: Option<Moment>,
    pub(super) alive: bool,
    pub(super) greeting: Greeting,
    pub(super) stats: Stats,
    hello_at: Moment,
    owes_ack: bool,
    /// When the next part of the stream may go.
    paced: Moment,
    pub(super) outbox: Outbox,
    inbox: Inbox,
    /// When the peer last acknowledged something that was under way, or nothing was.
    pub(super) acked_at: Moment,
    // --- what is to be told ---
    dirty: BTreeSet<Topic>,
    /// Facts were told that are not committed.
    open: bool,
    records: VecDeque<Record>,
    pub(super) telling: Option<Telling>,
    /// The last request for everything.
    asked: u32,
    /// Something was left out.
    gap: bool,
    // --- what was told ---
    pub(super) facts: BTreeMap<Topic, Fact>,
    /// Facts that were not told again yet.
    stale: Option<BTreeSet<Topic>>,
    changed: BTreeSet<ServiceKey>,
    /// Services whose address it says that it holds, and since when.
    claims: BTreeMap<ServiceKey, Moment>,
    /// Under this number everything is asked for; 0 if nothing is.
    wants: u32,
    last_wish: u32,
    /// Everything was told once in this session.
    pub(super) complete: bool,
}

/// What a peer says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Greeting {
    pub(super) name: String,
    /// Fingerprint of the secret.
    pub(super) secret: u64,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stats {
    /// Records that were told.
    pub(super) told: u64,
    /// Records that were taken.
    pub(super) taken: u64,
    /// Records that mean nothing here.
    pub(super) ignored: u64,
    /// Records that were left out because too many were waiting.
    pub(super) left_out: u64,
    /// Datagrams of other sessions, or doubled ones.
    pub(super) replayed: u64,
    /// Sealed datagrams that nobody can read.
    pub(super) malformed: u64,
}

/// Everything is being told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Telling {
    serial: u32,
    pub(super) stage: Stage,
}

/// How far that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It has not begun.
    Begin,
    /// Facts are told.
    Facts,
    /// All records have to be read, in a scan that begins after this.
    Waiting,
    /// They are being read.
    Reading,
    /// They have been read; the last ones are waiting.
    Tail,
}

/// What came of an item.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Nothing to do.
    None,
    /// A record.
    Record(Record),
    /// These services' facts have changed.
    Facts(BTreeSet<ServiceKey>),
}

impl Peer {
    pub(super) fn new(address: SocketAddr, session: u64, now: Moment) -> Self {
        Self {
            address,
            session: Session::new(session),
            heard_at: None,
            alive: false,
            greeting: Greeting::default(),
            stats: Stats::default(),
            hello_at: now,
            owes_ack: false,
            paced: now,
            outbox: Outbox::default(),
            inbox: Inbox::default(),
            acked_at: now,
            dirty: BTreeSet::new(),
            open: false,
            records: VecDeque::new(),
            telling: None,
            asked: 0,
            gap: false,
            facts: BTreeMap::new(),
            stale: None,
            changed: BTreeSet::new(),
            claims: BTreeMap::new(),
            wants: 0,
            last_wish: 0,
            complete: false,
        }
    }

    /// The peer has started again, and knows nothing. What it told before holds until it tells
    /// otherwise.
    pub(super) fn renew(&mut self, now: Moment) {
        self.outbox = Outbox::default();
        self.inbox = Inbox::default();
        self.acked_at = now;
        self.dirty.clear();
        self.records.clear();
        self.open = false;
        self.telling = None;
        self.asked = 0;
        self.gap = false;
        self.stale = None;
        self.complete = false;
        self.want_all(now);
    }

    /// Asks the peer to tell everything.
    pub(super) fn want_all(&mut self, now: Moment) {
        self.last_wish += 1;
        self.wants = self.last_wish;
        self.hello_at = now;
    }

    /// A datagram of it came.
    pub(super) fn hear(
        &mut self,
        now: Moment,
        header: &Header,
        topics: impl Iterator<Item = Topic>,
    ) {
        self.heard_at = Some(now);
        self.alive = true;
        let before = self.outbox.items();
        self.outbox.acknowledge(now, header.next, header.beyond);
        if before == 0 || self.outbox.items() < before {
            self.acked_at = now;
        }
        // Numbers rise: a smaller one was overtaken on its way.
        if header.wants > self.asked {
            self.asked = header.wants;
            self.telling = Some(Telling { serial: header.wants, stage: Stage::Begin });
            self.gap = false;
            self.records.clear();
            self.dirty = topics.collect();
        }
    }

    /// Lets go of a peer that is silent; true if it was not before.
    pub(super) fn give_up(&mut self, now: Moment) -> bool {
        let silent = self.heard_at.is_none_or(|heard| now.since(heard) >= SILENCE);
        if !(silent && self.alive) {
            return false;
        }
        self.alive = false;
        self.dirty.clear();
        self.records.clear();
        self.telling = None;
        self.gap = true;
        true
    }

    // --- telling ---

    /// A fact has changed.
    pub(super) fn note(&mut self, topic: Topic) {
        if self.alive && !self.gap {
            self.dirty.insert(topic);
        }
    }

    /// A record is to be told; false if too many wait.
    pub(super) fn tell(&mut self, record: Record) -> bool {
        if !self.alive || self.gap {
            // It will ask for everything.
            return true;
        }
        if self.records.len() >= QUEUE {
            self.stats.left_out += 1;
            return false;
        }
        self.records.push_back(record);
        true
    }

    /// Whether more records of a scan may come. Who is not there holds nobody up.
    pub(super) fn has_room(&self) -> bool {
        !self.alive || self.records.len() < ENOUGH
    }

    /// Items that the peer does not have yet.
    pub(super) fn behind(&self) -> usize {
        self.dirty.len() + self.records.len() + self.outbox.items()
    }

    /// Whether there is a part to be sent.
    fn has_news(&self) -> bool {
        let telling = self.telling.map(|telling| telling.stage);
        self.gap
            || !self.dirty.is_empty()
            || self.open
            || !self.records.is_empty()
            || matches!(telling, Some(Stage::Begin | Stage::Facts | Stage::Tail))
    }

    fn may_send(&self, now: Moment) -> bool {
        self.alive
            && self.session.theirs() != 0
            && self.outbox.has_room()
            && self.paced <= now + SPACING * BURST
            && self.has_news()
    }

    /// The next datagram for it, if one is due: header and body.
    pub(super) fn poll(
        &mut self,
        now: Moment,
        greeting: &Greeting,
        own: &BTreeMap<Topic, Fact>,
    ) -> Option<(Header, Vec<u8>)> {
        if self.alive && self.session.theirs() != 0 {
            if let Some((number, body)) = self.outbox.overdue(now) {
                let body = part(number, body);
                return Some((self.header(Kind::Data), body));
            }
            if self.may_send(now) {
                let mut body = Writer::default();
                let items = self.fill(now, own, &mut body);
                let number = self.outbox.push(now, body.0.clone(), items);
                self.paced = self.paced.max(now) + SPACING;
                return Some((self.header(Kind::Data), part(number, &body.0)));
            }
        }
        if self.hello_at <= now {
            self.hello_at = now + if self.alive { PAUSE } else { SHORT_PAUSE };
            return Some((self.header(Kind::Hello), greet(greeting)));
        }
        if self.owes_ack {
            return Some((self.header(Kind::Ack), Vec::new()));
        }
        None
    }

    /// When [`Peer::poll`] has something.
    pub(super) fn deadline(&self, now: Moment) -> Moment {
        let mut next = self.hello_at;
        if self.owes_ack {
            next = now;
        }
        if self.alive {
            next = next.min(self.outbox.deadline());
            if self.session.theirs() != 0 && self.outbox.has_room() && self.has_news() {
                let burst = u64::try_from((SPACING * BURST).as_nanos()).unwrap_or(u64::MAX);
                next = next.min(Moment(self.paced.0.saturating_sub(burst)).max(now));
            }
            next = next.min(self.heard_at.unwrap_or(now) + SILENCE);
        }
        next
    }

    fn header(&mut self, kind: Kind) -> Header {
        self.owes_ack = false;
        let (next, beyond) = self.inbox.received();
        Header {
            kind,
            from: self.session.mine(),
            to: self.session.theirs(),
            number: self.session.number(),
            heard: self.session.heard(),
            next,
            beyond,
            wants: self.wants,
        }
    }

    /// The answer to a greeting of a peer that does not know our session yet, in its session: nothing
    /// of the streams, which belong to another one.
    pub(super) fn introduce(&mut self, greeting: &Header) -> Header {
        let (from, number) = (self.session.mine(), self.session.number());
        let (to, heard) = (greeting.from, greeting.number);
        Header { kind: Kind::Hello, from, to, number, heard, next: 0, beyond: 0, wants: 0 }
    }

    /// Fills a part; returns the number of items.
    fn fill(&mut self, now: Moment, own: &BTreeMap<Topic, Fact>, body: &mut Writer) -> usize {
        let mut items = 0;
        while body.0.len() + MOST <= BODY - size_of::<u64>() {
            let Some(item) = self.next_item(own) else { break };
            item.write(now, body);
            items += 1;
        }
        items
    }

    fn next_item(&mut self, own: &BTreeMap<Topic, Fact>) -> Option<Item> {
        if std::mem::take(&mut self.gap) {
            return Some(Item::Gap);
        }
        if let Some(telling) = &mut self.telling
            && telling.stage == Stage::Begin
        {
            telling.stage = Stage::Facts;
            // Also if there is nothing to commit: what holds no more has to go.
            self.open = true;
            return Some(Item::Begin(telling.serial));
        }
        if let Some(topic) = self.dirty.pop_first() {
            self.open = true;
            return Some(Item::Fact(topic, own.get(&topic).cloned()));
        }
        if std::mem::take(&mut self.open) {
            if let Some(telling) = &mut self.telling
                && telling.stage == Stage::Facts
            {
                telling.stage = Stage::Waiting;
            }
            return Some(Item::Commit);
        }
        if let Some(record) = self.records.pop_front() {
            self.stats.told += 1;
            return Some(Item::Record(record));
        }
        let Telling { serial, .. } =
            self.telling.take_if(|telling| telling.stage == Stage::Tail)?;
        Some(Item::Done(serial))
    }

    // --- being told ---

    /// A part of the stream came: what is in order by now.
    pub(super) fn receive(&mut self, body: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
        let mut reader = Reader::new(body);
        let number = reader.u64()?;
        self.owes_ack = true;
        Ok(self.inbox.take(number, &body[size_of::<u64>()..]))
    }

    /// Takes note of an item.
    pub(super) fn take(&mut self, now: Moment, item: Item) -> News {
        match item {
            Item::Begin(_) => self.stale = Some(self.facts.keys().copied().collect()),
            Item::Fact(topic, fact) => {
                if let Some(stale) = &mut self.stale {
                    stale.remove(&topic);
                }
                self.set(now, topic, fact);
            }
            Item::Commit => {
                for topic in self.stale.take().unwrap_or_default() {
                    self.set(now, topic, None);
                }
                return News::Facts(std::mem::take(&mut self.changed));
            }
            Item::Record(record) => return News::Record(record),
            Item::Done(serial) => {
                if serial == self.wants {
                    self.wants = 0;
                    self.complete = true;
                }
            }
            Item::Gap => self.want_all(now),
        }
        News::None
    }

    fn set(&mut self, now: Moment, topic: Topic, fact: Option<Fact>) {
        let before = self.facts.get(&topic);
        if before == fact.as_ref() {
            return;
        }
        if topic.part == Part::Service {
            let masters = matches!(&fact, Some(Fact::Service(outline)) if outline.mastered);
            if !masters {
                self.claims.remove(&topic.service);
            } else if let Entry::Vacant(claim) = self.claims.entry(topic.service) {
                claim.insert(now);
                // A new holder of the address has records that it never told; unless all is being
                // told just now, and the records have not been read yet.
                if self.stale.is_none() {
                    self.want_all(now);
                }
            }
        }
        self.changed.insert(topic.service);
        match fact {
            Some(fact) => self.facts.insert(topic, fact),
            None => self.facts.remove(&topic),
        };
    }

    /// Whether it holds the address of a service, as far as is known: whoever is there rather than who
    /// is not, and then who took it last.
    pub(super) fn claim(&self, service: &ServiceKey) -> Option<(bool, Moment)> {
        self.claims.get(service).map(|since| (self.alive, *since))
    }

    /// All facts of a service.
    pub(super) fn about(&self, service: ServiceKey) -> impl Iterator<Item = (&Part, &Fact)> {
        let first = Topic { service, part: Part::Service };
        let facts =
            self.facts.range(first..).take_while(move |(topic, _)| topic.service == service);
        facts.map(|(topic, fact)| (&topic.part, fact))
    }
}

fn part(number: u64, body: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes(), body].concat()
}
