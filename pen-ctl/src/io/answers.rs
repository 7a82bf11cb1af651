//! Takes in answers that are addressed to clients: servers of a transparent service believe that they
//! talk to those, and this machine would forward or drop what they say.
//!
//! By policy routing, without a firewall. For each server there is a rule that matches what comes
//! from its address and port over the interface that leads there, and no other packet; it leads to a
//! table in which every address is this machine's. Rules and routes bear a protocol number of their
//! own (`ip rule` shows it), by which those of a daemon that was killed are found again.
//!
//! It runs in a thread of its own: the loop of the daemon waits for it only when something changes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use futures_util::stream::TryStreamExt;
use nix::errno::Errno;
use pen_common::net::protocol;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteScope, RouteType};
use rtnetlink::packet_route::rule::{
    RuleAction, RuleAttribute, RuleHeader, RuleMessage, RulePortRange,
};
use rtnetlink::packet_route::{AddressFamily, IpProtocol};
use rtnetlink::{Error, Handle, IpVersion, RouteMessageBuilder};
use tokio::sync::mpsc::Sender;
use tokio::time::timeout;

use super::netlink::{LOOPBACK, PEN};
use crate::engine::event::Event;
use crate::engine::proxy::transparent::Answers;

/// Number of our table: "pen".
const TABLE: u32 = 0x0070_656e;
/// After the machine's own addresses (0), before whatever else there is (32766 and usually more than
/// 100).
const PRIORITY: u32 = 90;
/// The kernel answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// A rule: what comes from a server over an interface is for this machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rule {
    answers: Answers,
    interface: String,
}

struct Order {
    wanted: BTreeSet<Answers>,
    done: mpsc::Sender<()>,
}

/// The thread, once there is something for it to do.
#[derive(Debug)]
pub struct Answering {
    events: Sender<Event>,
    thread: Option<mpsc::Sender<Order>>,
    wanted: BTreeSet<Answers>,
    /// Nothing was asked of it yet: rules of an earlier daemon may be there.
    fresh: bool,
}

impl Answering {
    /// Tells `events` what comes of it.
    #[must_use]
    pub const fn new(events: Sender<Event>) -> Self {
        Self { events, thread: None, wanted: BTreeSet::new(), fresh: true }
    }

    /// Removes what an earlier daemon left, unless something is wanted.
    pub fn begin(&mut self) {
        if self.fresh {
            self.follow(BTreeSet::new(), BTreeSet::new());
            // Most daemons never need it again.
            self.thread = None;
        }
    }

    /// From now on takes in these answers, and returns when that is done; and those to connections
    /// that exist.
    pub fn follow(&mut self, wanted: BTreeSet<Answers>, in_use: BTreeSet<Answers>) {
        self.wanted = wanted;
        self.fresh = false;
        if let Some(done) = self.order(in_use) {
            // If it takes longer, then it does.
            let _ = done.recv_timeout(PATIENCE);
        }
    }

    /// Puts right what has changed meanwhile.
    pub fn check(&mut self, in_use: BTreeSet<Answers>) {
        let _ = self.order(in_use);
    }

    /// Takes in no more answers.
    pub fn end(&mut self) {
        if self.thread.is_some() {
            self.follow(BTreeSet::new(), BTreeSet::new());
        }
    }

    fn order(&mut self, in_use: BTreeSet<Answers>) -> Option<mpsc::Receiver<()>> {
        if self.thread.is_none() {
            let (sender, orders) = mpsc::channel();
            let events = self.events.clone();
            let thread = thread::Builder::new().name("answers".to_owned());
            match thread.spawn(move || run(&orders, &events)) {
                // It ends when the sender is dropped.
                Ok(_) => self.thread = Some(sender),
                Err(error) => {
                    tracing::error!("answers to transparent services are not taken in: {error}");
                    return None;
                }
            }
        }
        let wanted: BTreeSet<_> = self.wanted.union(&in_use).copied().collect();
        let (done, receiver) = mpsc::channel();
        self.thread.as_ref()?.send(Order { wanted, done }).ok()?;
        Some(receiver)
    }
}

fn run(orders: &mpsc::Receiver<Order>, events: &Sender<Event>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    while let Ok(Order { wanted, done }) = orders.recv() {
        let any = !wanted.is_empty();
        let problems = match &runtime {
            Ok(runtime) => runtime.block_on(carry_out(&wanted)),
            Err(error) => BTreeSet::from([error.to_string()]),
        };
        // Who waits for the work does not read events meanwhile.
        let _ = done.send(());
        // Without a receiver the daemon has ended.
        let _ = events.blocking_send(Event::AnswersRouted { problems, any });
    }
}

/// Makes rules and routes what they have to be; returns what keeps it from that.
async fn carry_out(wanted: &BTreeSet<Answers>) -> BTreeSet<String> {
    let connected = rtnetlink::new_connection();
    let (connection, handle, _) = match connected {
        Ok(connected) => connected,
        Err(error) => return BTreeSet::from([format!("rtnetlink: {error}")]),
    };
    let connection = tokio::spawn(connection);
    let mut problems = BTreeSet::new();
    for family in [IpVersion::V4, IpVersion::V6] {
        let of_it = |found: &&Answers| found.server.is_ipv4() == (family == IpVersion::V4);
        let wanted: BTreeSet<_> = wanted.iter().filter(of_it).copied().collect();
        let done = follow(&handle, &family, &wanted, &mut problems);
        match timeout(PATIENCE, done).await {
            Ok(Ok(())) => {}
            // A kernel without IPv6 has no rules of ours either.
            Ok(Err(_)) if wanted.is_empty() => {}
            Ok(Err(error)) => drop(problems.insert(describe(&error, &family))),
            Err(late) => drop(problems.insert(format!("rtnetlink: {late}"))),
        }
    }
    connection.abort();
    problems
}

/// The same of one family.
async fn follow(
    handle: &Handle,
    family: &IpVersion,
    wanted: &BTreeSet<Answers>,
    problems: &mut BTreeSet<String>,
) -> Result<(), Error> {
    let mut rules = BTreeSet::new();
    for answers in wanted {
        match interface(handle, answers.server.ip()).await {
            Ok(interface) => drop(rules.insert(Rule { answers: *answers, interface })),
            Err(problem) => drop(problems.insert(problem)),
        }
    }
    // First the table: a rule to an empty one would let packets pass.
    if !rules.is_empty() {
        known(handle.route().add(everything(family)).execute().await, Errno::EEXIST)?;
    }
    let mut kept = BTreeSet::new();
    for found in ours(handle, family).await? {
        match parse(&found).filter(|rule| rules.contains(rule)) {
            Some(rule) => drop(kept.insert(rule)),
            None => known(handle.rule().del(found).execute().await, Errno::ENOENT)?,
        }
    }
    for rule in rules.difference(&kept) {
        let mut request = handle.rule().add();
        *request.message_mut() = message(rule);
        known(request.execute().await, Errno::EEXIST)?;
    }
    if rules.is_empty() {
        known(handle.route().del(everything(family)).execute().await, Errno::ESRCH)?;
    }
    Ok(())
}

/// Things may be as they shall be already.
fn known(result: Result<(), Error>, already: Errno) -> Result<(), Error> {
    match result {
        Err(Error::NetlinkError(error)) if error.raw_code() == -(already as i32) => Ok(()),
        result => result,
    }
}

/// What an error means to the operator.
fn describe(error: &Error, family: &IpVersion) -> String {
    let (name, option) = match family {
        IpVersion::V4 => ("IPv4", "CONFIG_IP_MULTIPLE_TABLES"),
        IpVersion::V6 => ("IPv6", "CONFIG_IPV6_MULTIPLE_TABLES"),
    };
    let number = match error {
        Error::NetlinkError(error) => Errno::from_raw(error.raw_code().abs()),
        _ => Errno::UnknownErrno,
    };
    let cause = match number {
        Errno::EPERM => "missing capability CAP_NET_ADMIN".to_owned(),
        Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT => {
            format!("the kernel has no policy routing of {name}: build it with {option}")
        }
        _ => format!("{name}: {error}"),
    };
    format!("answers to transparent services are not taken in: {cause}")
}

// === Interfaces ===

/// Name of the interface over which a server's answers come.
async fn interface(handle: &Handle, server: IpAddr) -> Result<String, String> {
    let lost = |why: &str| {
        format!("{server} cannot be shown the addresses of clients of transparent services: {why}")
    };
    let index = leads_over(handle, server).await;
    let index = index.ok_or_else(|| lost("there is no route to it"))?;
    if index == LOOPBACK && !server.is_loopback() {
        return Err(lost(
            "it is this machine, and its answers to others are not to be touched; let the server \
             listen on 127.0.0.1 or ::1, and write that",
        ));
    }
    let mut links = handle.link().get().match_index(index).execute();
    let link = links.try_next().await.ok().flatten();
    let attributes = link.map(|link| link.attributes).unwrap_or_default();
    let mut names = attributes.into_iter().filter_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    });
    names.next().ok_or_else(|| lost("its interface has just vanished"))
}

async fn leads_over(handle: &Handle, server: IpAddr) -> Option<u32> {
    let message = match server {
        IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(v4, 32).build(),
        IpAddr::V6(v6) => {
            RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(v6, 128).build()
        }
    };
    let mut answers = Box::pin(handle.route().get(message).execute());
    let found = answers.try_next().await.ok().flatten()?;
    found.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

// === Messages ===

/// The only route of our table: every address is this machine's.
fn everything(family: &IpVersion) -> RouteMessage {
    let mut message = match family {
        IpVersion::V4 => RouteMessageBuilder::<Ipv4Addr>::new().output_interface(LOOPBACK).build(),
        IpVersion::V6 => RouteMessageBuilder::<Ipv6Addr>::new().output_interface(LOOPBACK).build(),
    };
    message.header.table = 0;
    message.attributes.push(RouteAttribute::Table(TABLE));
    message.header.kind = RouteType::Local;
    message.header.scope = RouteScope::Host;
    message.header.protocol = PEN;
    message
}

/// All rules that pend has made.
async fn ours(handle: &Handle, family: &IpVersion) -> Result<Vec<RuleMessage>, Error> {
    let mut all = handle.rule().get(family.clone()).execute();
    let mut ours = Vec::new();
    while let Some(rule) = all.try_next().await? {
        let has = |attribute| rule.attributes.contains(&attribute);
        if has(RuleAttribute::Protocol(PEN)) && has(RuleAttribute::Table(TABLE)) {
            ours.push(rule);
        }
    }
    Ok(ours)
}

fn message(rule: &Rule) -> RuleMessage {
    let Answers { server, udp } = rule.answers;
    let (family, src_len) = match server {
        SocketAddr::V4(_) => (AddressFamily::Inet, 32),
        SocketAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    let mut message = RuleMessage::default();
    message.header =
        RuleHeader { family, src_len, action: RuleAction::ToTable, ..RuleHeader::default() };
    let port = server.port();
    message.attributes = vec![
        RuleAttribute::Priority(PRIORITY),
        RuleAttribute::Table(TABLE),
        RuleAttribute::Protocol(PEN),
        RuleAttribute::Source(server.ip()),
        RuleAttribute::Iifname(rule.interface.clone()),
        RuleAttribute::IpProtocol(IpProtocol::from(i32::from(if udp {
            protocol::UDP
        } else {
            protocol::TCP
        }))),
        RuleAttribute::SourcePortRange(RulePortRange { start: port, end: port }),
    ];
    message
}

/// What a rule that pend has made is for; `None` if that is nothing of this version.
fn parse(message: &RuleMessage) -> Option<Rule> {
    let (mut address, mut port, mut udp, mut interface) = (None, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Source(found) => address = Some(*found),
            RuleAttribute::SourcePortRange(found) if found.start == found.end => {
                port = Some(found.start);
            }
            RuleAttribute::IpProtocol(IpProtocol::Tcp) => udp = Some(false),
            RuleAttribute::IpProtocol(IpProtocol::Udp) => udp = Some(true),
            RuleAttribute::Iifname(found) => interface = Some(found.clone()),
            RuleAttribute::Priority(found) if *found != PRIORITY => return None,
            _ => {}
        }
    }
    let server = SocketAddr::new(address?, port?);
    let answers = Answers { server, udp: udp? };
    Some(Rule { answers, interface: interface? })
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::ErrorMessage;

    use super::*;

    #[test]
    fn what_a_rule_is_for_can_be_read_from_it() {
        for (server, udp) in [("10.0.0.1:80", false), ("[fd00::1]:53", true)] {
            let answers = Answers { server: server.parse().expect("literal"), udp };
            let rule = Rule { answers, interface: "eth0".into() };
            assert_eq!(parse(&message(&rule)), Some(rule));
        }
        let mut other = message(&Rule {
            answers: Answers { server: "10.0.0.1:80".parse().expect("literal"), udp: false },
            interface: "eth0".into(),
        });
        other.attributes[0] = RuleAttribute::Priority(7);
        assert_eq!(parse(&other), None, "of another version: it is replaced");
        other.attributes.clear();
        assert_eq!(parse(&other), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = |errno: Errno| {
            let mut message = ErrorMessage::default();
            message.code = std::num::NonZeroI32::new(-(errno as i32));
            Error::NetlinkError(message)
        };
        for (errno, family, named) in [
            (Errno::EPERM, IpVersion::V4, "missing capability CAP_NET_ADMIN"),
            (Errno::EOPNOTSUPP, IpVersion::V4, "CONFIG_IP_MULTIPLE_TABLES"),
            (Errno::EAFNOSUPPORT, IpVersion::V6, "CONFIG_IPV6_MULTIPLE_TABLES"),
            (Errno::EINVAL, IpVersion::V6, "IPv6: "),
        ] {
            let text = describe(&error(errno), &family);
            assert!(text.contains(named), "{text}");
        }
        assert!(known(Err(error(Errno::EEXIST)), Errno::EEXIST).is_ok());
        assert!(known(Err(error(Errno::EPERM)), Errno::EEXIST).is_err());
    }

    #[test]
    fn a_server_on_this_machine_is_answered_over_its_loopback_interface_only() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().expect("rtnetlink");
            tokio::spawn(connection);
            let of =
                async |address: &str| interface(&handle, address.parse().expect("literal")).await;
            assert_eq!(of("127.0.0.1").await, Ok("lo".to_owned()));
        });
    }
}
