//! The loop of the thread: what happens goes to `Carp`, what it wants is done at once. `groups` is what
//! depends on what the configuration says of a group.

mod groups;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::task::Poll;
use std::time::Duration;

use pen_common::abi;
use pen_common::moment::Moment;
use pen_common::net::MacAddr;
use tokio::sync::{mpsc, oneshot, watch};

use super::addresses::{Added, Addresses};
use super::hooks::{Failed, Hooks};
use super::hosts::{Groups, Hush};
use super::links::{self, Nics};
use super::routed::Routed;
use super::saying::Saying;
use super::socket::PacketSocket;
use super::taken::Taken;
use super::telling::Telling;
use super::{Beginning, Command, Question, RoleWriter, priority};
use crate::api::carp::{CarpOrdered, CarpState, CarpWish};
use crate::api::{Refusal, Reply};
use crate::engine::carp::{Action, Carp, Event as CarpEvent, Family, Hook, Link, Role};
use crate::engine::event::{Event, Group};
use crate::io::clock;

/// A program of the operator is killed after this time.
const HOOK_LIMIT: Duration = Duration::from_secs(30);
/// At the end those that run get this time; after it they go on by themselves.
const FAREWELL: Duration = Duration::from_millis(500);
/// A deadline that is over already is looked at again after this time. It never should be, but this
/// thread would keep all others from a processor.
const BREATH: Duration = Duration::from_millis(1);
/// Sockets are asked so often for more before timers are served: a flood must not stop them for ever.
const ROUNDS: usize = 16;
/// Results that may wait for the loop.
const QUEUE: usize = 256;
/// Length of an Ethernet header.
const ETHERNET: usize = 14;

/// Why the loop woke up.
enum Woken {
    /// Something to read, or the time has come.
    Called,
    Command(Command),
    Links,
    Added(Added),
    Failed(Failed),
}

/// Ears and mouth on an interface.
struct Wire {
    socket: PacketSocket,
    groups: Groups,
}

/// All that the thread owns.
pub(super) struct Driver {
    carp: Carp,
    groups: BTreeMap<u32, Group>,
    writer: RoleWriter,
    /// Roles as they were written last.
    roles: BTreeMap<u32, Role>,
    /// Leases that an earlier daemon left.
    adopted: BTreeMap<u32, abi::Group>,
    /// Groups of these that are to go on from there.
    adopting: BTreeSet<u32>,
    wires: BTreeMap<u32, Wire>,
    /// Interfaces that cannot be listened to, with what is to be heard there.
    deaf: BTreeMap<u32, (BTreeSet<IpAddr>, BTreeSet<MacAddr>)>,
    routed: Routed,
    saying: Saying,
    nics: Nics,
    news_of_links: watch::Receiver<Nics>,
    /// What the daemon said of each group.
    usable: BTreeMap<u32, Result<(), String>>,
    /// Groups that have taken their addresses.
    taken: BTreeMap<u32, Taken>,
    addresses: Addresses,
    /// What its addresses are marked with; 0 if they are not, or those of an earlier run were seen to.
    mark: u8,
    added: mpsc::Receiver<Added>,
    hooks: Hooks,
    failed: mpsc::Receiver<Failed>,
    telling: Telling,
    _hush: Option<Hush>,
}

impl Driver {
    pub(super) async fn new(beginning: Beginning) -> io::Result<Self> {
        let Beginning { start, writer, adopted, mark, events } = beginning;
        let (failures, failed) = mpsc::channel(QUEUE);
        let (results, added) = mpsc::channel(QUEUE);
        // Before this thread gets its priority: the other one is an ordinary one.
        let hooks = Hooks::start(failures)?;
        let mut hindered: Vec<String> = priority::raise().iter().map(ToString::to_string).collect();
        let hush = Hush::new();
        if let Err(error) = &hush {
            hindered.push(format!("peers may be told that nobody listens to CARP here: {error}"));
        }
        let driver = Self {
            carp: Carp::new(start, clock::now()),
            groups: BTreeMap::new(),
            writer,
            roles: BTreeMap::new(),
            adopted,
            adopting: BTreeSet::new(),
            wires: BTreeMap::new(),
            deaf: BTreeMap::new(),
            routed: Routed::default(),
            saying: Saying::default(),
            nics: Nics::new(),
            news_of_links: links::watch().await?,
            usable: BTreeMap::new(),
            taken: BTreeMap::new(),
            addresses: Addresses::connect(results, mark)?,
            mark,
            added,
            hooks,
            failed,
            telling: Telling::new(events),
            _hush: hush.ok(),
        };
        driver.telling.send(Event::CarpHindered(hindered));
        Ok(driver)
    }

    /// Runs until everything is handed over, or nobody gives commands any more.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut deadline = self.carp.next_deadline();
        loop {
            let woken = tokio::select! {
                () = readable(&self.wires) => Woken::Called,
                command = commands.recv() => match command {
                    Some(command) => Woken::Command(command),
                    // Roles, leases and addresses stay for the next daemon.
                    None => return,
                },
                Ok(()) = self.news_of_links.changed() => Woken::Links,
                Some(added) = self.added.recv() => Woken::Added(added),
                Some(failed) = self.failed.recv() => Woken::Failed(failed),
                () = clock::sleep_until(deadline) => Woken::Called,
            };
            // What has arrived comes before what the time brings, and everything but what is received
            // has timers served: a thread that was held up must not take a master for dead whose
            // advertisements wait in the socket.
            self.receive();
            match woken {
                Woken::Called => {}
                Woken::Command(command) => self.obey(command),
                Woken::Links => self.follow_links(),
                Woken::Added(Added { group, result }) => self.were_added(group, result),
                Woken::Failed(Failed { group, text }) => {
                    self.telling.tell(
                        true,
                        "carp-hook-failed",
                        &group,
                        format!("group {group}: {text}"),
                    );
                }
            }
            let now = clock::now();
            if now >= self.carp.next_deadline() {
                self.carp.handle(now, CarpEvent::TimePassed);
            }
            if self.carry_out() {
                break;
            }
            self.end_adoption();
            self.telling.catch_up();
            deadline = self.carp.next_deadline().max(clock::now() + BREATH);
        }
        let Self { addresses, hooks, .. } = self;
        addresses.finish().await;
        hooks.finish(FAREWELL).await;
    }

    // --- what happens ---

    fn receive(&mut self) {
        let mut wires: Vec<_> = self.wires.iter().collect();
        for _ in 0..ROUNDS {
            wires.retain(|(ifindex, wire)| {
                let all = wire.socket.receive(|frame| {
                    let family = match frame.get(12..ETHERNET) {
                        Some([0x08, 0x00]) => Family::V4,
                        Some([0x86, 0xdd]) => Family::V6,
                        // The filter lets nothing else in.
                        _ => return,
                    };
                    let (ifindex, packet) = (**ifindex, frame[ETHERNET..].to_vec());
                    self.carp.handle(clock::now(), CarpEvent::Received { ifindex, family, packet });
                });
                !all
            });
            if wires.is_empty() {
                break;
            }
        }
    }

    fn follow_links(&mut self) {
        let nics = self.news_of_links.borrow_and_update().clone();
        let now = clock::now();
        for ifindex in self.nics.keys().filter(|ifindex| !nics.contains_key(*ifindex)) {
            // Bound to nothing from now on.
            self.wires.remove(ifindex);
            self.carp.handle(now, CarpEvent::LinkGone { ifindex: *ifindex });
        }
        for (ifindex, nic) in &nics {
            if self.nics.get(ifindex) != Some(nic) {
                let link = Link {
                    ifindex: *ifindex,
                    name: nic.name.clone(),
                    up: nic.up,
                    carrier: nic.carrier,
                    mac: nic.mac,
                    router: nic.router,
                    addresses: nic.addresses.clone(),
                };
                self.carp.handle(now, CarpEvent::LinkChanged(link));
            }
        }
        let lost = self.lost_addresses(&nics);
        self.nics = nics;
        for (group, error) in lost {
            let result = Err(error);
            self.carp.handle(now, CarpEvent::AddressesReady { group, result });
        }
        for wire in self.wires.values_mut() {
            wire.groups.retry();
        }
    }

    /// Groups one of whose addresses somebody else took off its interface.
    fn lost_addresses(&mut self, nics: &Nics) -> Vec<(u32, String)> {
        let lost = self.taken.iter_mut().filter_map(|(group, taken)| {
            let address = taken.lost(&nics.get(&taken.ifindex)?.addresses)?;
            Some((*group, format!("{address} was removed")))
        });
        lost.collect()
    }

    fn were_added(&mut self, group: u32, result: Result<(), String>) {
        // They may have been given back meanwhile.
        if let Some(taken) = self.taken.get_mut(&group) {
            taken.added();
            self.carp.handle(clock::now(), CarpEvent::AddressesReady { group, result });
        }
    }

    // --- what the daemon wants ---

    fn obey(&mut self, command: Command) {
        let now = clock::now();
        match command {
            Command::Configure(groups) => self.configure(groups),
            Command::Usable { group, result } => {
                let news = self.usable.get(&group) != Some(&result);
                self.usable.insert(group, result.clone());
                if news && self.taken.contains_key(&group) {
                    self.carp.handle(now, CarpEvent::AddressesReady { group, result });
                }
            }
            Command::Demote { group, reason, weight } => {
                let group = Some(group);
                self.carp.handle(now, CarpEvent::Demotion { group, reason, weight });
            }
            Command::Ask(question, answer) => self.answer(&question, answer),
            Command::Stop => self.carp.handle(now, CarpEvent::Stop),
        }
    }

    fn answer(&mut self, question: &Question, answer: oneshot::Sender<Result<Reply, Refusal>>) {
        let reply = match question {
            Question::Show => Ok(Reply::Carp(self.carp.snapshot(clock::now()))),
            Question::Order(wish) => self.order(wish).map(Reply::CarpOrdered),
        };
        // A peer that went away does not want its answer.
        let _ = answer.send(reply);
    }

    fn order(&mut self, wish: &CarpWish) -> Result<CarpOrdered, Refusal> {
        let found = self.groups.values().find(|group| group.settings.name == wish.group);
        let Some(group) = found.map(|group| group.settings.group) else {
            let names: Vec<_> =
                self.groups.values().map(|group| group.settings.name.as_str()).collect();
            return Err(Refusal {
                error: format!("there is no group `{}`", wish.group),
                cure: format!("there are: {}", names.join(", ")),
            });
        };
        let now = clock::now();
        let was = self.carp.snapshot(now).into_iter().find(|one| one.group == group);
        self.carp.may(group, wish.order).map_err(|why| Refusal {
            error: format!("group `{}` cannot {}: {why}", wish.group, wish.order),
            cure: "see `penctl carp show`".to_owned(),
        })?;
        if !wish.dry_run {
            self.carp.handle(now, CarpEvent::Order { group, order: wish.order });
        }
        Ok(CarpOrdered {
            group: wish.group.clone(),
            order: wish.order,
            was: was.as_ref().and_then(|was| was.order),
            state: was.map_or(CarpState::Init, |was| was.state),
            dry_run: wish.dry_run,
        })
    }

    // --- what is to be done ---

    /// True if nothing follows any more.
    fn carry_out(&mut self) -> bool {
        loop {
            let action = self.carp.poll_action();
            let next = match &action {
                Some(Action::Send { group, frame, .. }) => Some((*group, frame.as_slice())),
                _ => None,
            };
            if let Some((group, error)) = self.saying.end(next) {
                self.carp.handle(clock::now(), CarpEvent::SendFailed { group, error });
            }
            // What follows from that comes behind what waits already.
            let Some(action) = action.or_else(|| self.carp.poll_action()) else { return false };
            match action {
                Action::Send { group, ifindex, frame, next_hop } => {
                    let result = self.transmit(ifindex, &frame, next_hop);
                    let result = result.map_err(|error| error.to_string());
                    if let Some(text) = self.saying.note(group, &frame, next_hop, result) {
                        self.tell_of(group, "carp-send", text);
                    }
                }
                Action::SetRole { group, role, lease } => self.write(group, role, lease),
                Action::TakeAddresses { group } => self.take(group),
                // What the daemon before this one did lasts until it is clear what becomes of it.
                Action::DropAddresses { group } | Action::RunHook { group, hook: Hook::Down }
                    if self.goes_on(group) => {}
                Action::DropAddresses { group } => self.give_back(group),
                Action::Listen { ifindex, groups, macs } => self.hear(ifindex, groups, macs),
                Action::Unlisten { ifindex } => {
                    self.wires.remove(&ifindex);
                    self.deaf.remove(&ifindex);
                }
                Action::RunHook { group, hook } => self.run_hook(group, hook),
                Action::Tell { warning, kind, subject, text } => {
                    self.telling.tell(warning, kind, &subject, text);
                }
                Action::Twin { group, address } => {
                    self.telling.send(Event::CarpTwin { group, address });
                }
                Action::Stopped => return true,
            }
        }
    }

    fn tell_of(&self, group: u32, kind: &'static str, text: String) {
        let name = self.groups.get(&group).map_or("?", |found| found.settings.name.as_str());
        self.telling.tell(true, kind, name, format!("{name}: {text}"));
    }

    fn transmit(&mut self, ifindex: u32, frame: &[u8], to: Option<IpAddr>) -> io::Result<()> {
        match to {
            None => match self.wires.get(&ifindex) {
                Some(wire) => wire.socket.send(frame),
                None => Err(io::ErrorKind::NotConnected.into()),
            },
            Some(to) => {
                let name = self.nics.get(&ifindex).map_or("", |nic| nic.name.as_str());
                self.routed.send((ifindex, name), to, frame.get(ETHERNET..).unwrap_or_default())
            }
        }
    }

    fn write(&mut self, group: u32, role: Role, lease: Moment) {
        let word = match role {
            Role::Backup => abi::Group::BACKUP,
            Role::Master => abi::Group::MASTER,
            Role::Leaving => abi::Group::LEAVING,
        };
        let entry = abi::Group { role: word, _pad: 0, lease_ns: lease.0 };
        if self.adopting.contains(&group) {
            // The role of the daemon before this one holds until it is clear what becomes of it.
            if role == Role::Backup {
                return;
            }
            self.adopting.remove(&group);
        }
        if let Err(error) = (self.writer)(group, entry) {
            let text = format!("the role of group {group} cannot be written: {error}");
            self.telling.tell(true, "carp-role-failed", "maps", text);
        }
        if self.roles.insert(group, role) != Some(role) {
            self.telling.role(group, role);
        }
    }

    fn hear(&mut self, ifindex: u32, groups: BTreeSet<IpAddr>, macs: BTreeSet<MacAddr>) {
        self.deaf.remove(&ifindex);
        let Err(error) = self.listen(ifindex, &groups, &macs) else { return };
        let name = self.nics.get(&ifindex).map_or("?", |nic| nic.name.as_str());
        let text = format!("{name} may not hear all of CARP: {error}");
        self.telling.tell(true, "carp-deaf", name, text);
        if !self.wires.contains_key(&ifindex) {
            self.deaf.insert(ifindex, (groups, macs));
        }
    }

    /// Who hears nobody must not become master: others may be. It is tried again, and if that works
    /// the node has to listen first all the same.
    fn hears(&mut self, ifindex: u32) -> Result<(), String> {
        let Some((groups, macs)) = self.deaf.remove(&ifindex) else { return Ok(()) };
        self.hear(ifindex, groups, macs);
        Err("nothing of CARP could be heard until now".to_owned())
    }

    fn listen(
        &mut self,
        ifindex: u32,
        groups: &BTreeSet<IpAddr>,
        macs: &BTreeSet<MacAddr>,
    ) -> io::Result<()> {
        let wire = match self.wires.entry(ifindex) {
            Entry::Occupied(wire) => wire.into_mut(),
            Entry::Vacant(place) => {
                let (socket, groups) = (PacketSocket::open(ifindex)?, Groups::new(ifindex)?);
                place.insert(Wire { socket, groups })
            }
        };
        let heard = wire.socket.listen_to(groups.iter().map(group_mac), macs.iter().copied());
        wire.groups.join_only(groups);
        heard
    }
}

/// Waits until there may be something to read on one of them.
async fn readable(wires: &BTreeMap<u32, Wire>) {
    poll_fn(|context| {
        let mut any = false;
        // All of them, so that each wakes the task.
        for wire in wires.values() {
            any |= wire.socket.poll_readable(context).is_ready();
        }
        if any { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// The Ethernet address of a multicast group (RFC 1112 section 6.4, RFC 2464 section 7).
fn group_mac(group: &IpAddr) -> MacAddr {
    match group {
        IpAddr::V4(group) => {
            let [_, a, b, c] = group.octets();
            MacAddr([0x01, 0x00, 0x5e, a & 0x7f, b, c])
        }
        IpAddr::V6(group) => {
            let [.., a, b, c, d] = group.octets();
            MacAddr([0x33, 0x33, a, b, c, d])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_the_ethernet_addresses_that_the_standards_say() {
        let mac = |group: &str| group_mac(&group.parse().expect("literal")).to_string();
        assert_eq!(mac("224.0.0.18"), "01:00:5e:00:00:12");
        assert_eq!(mac("239.255.3.4"), "01:00:5e:7f:03:04");
        assert_eq!(mac("ff02::12"), "33:33:00:00:00:12");
    }
}
