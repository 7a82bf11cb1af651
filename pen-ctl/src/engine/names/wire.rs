//! Messages of the DNS about servers (RFC 1035, 2782), and what the machine's files say of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};

use super::Srv;

/// Aliases that are followed within one answer.
const LONGEST_CHAIN: usize = 16;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Services.
    Srv,
}

/// A record that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An address.
    Address(IpAddr),
    /// A service, and the host that it is on.
    Service(Srv, String),
}

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// These records, which hold for so long; none if there are none.
    Records(Vec<Record>, Duration),
    /// More than a datagram holds.
    Truncated,
    /// Nothing of use, in words.
    Failed(String),
}

const fn code(kind: Kind) -> TYPE {
    match kind {
        Kind::A => TYPE::A,
        Kind::Aaaa => TYPE::AAAA,
        Kind::Srv => TYPE::SRV,
    }
}

/// The question, as it goes over the wire.
///
/// # Errors
///
/// If the name does not fit a message.
pub fn question(name: &str, kind: Kind, number: u16) -> Result<Vec<u8>, String> {
    let mut packet = Packet::new_query(number);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(name).map_err(|error| error.to_string())?;
    let (kind, class) = (QTYPE::TYPE(code(kind)), QCLASS::CLASS(CLASS::IN));
    packet.questions.push(Question::new(name, kind, class, false));
    packet.build_bytes_vec().map_err(|error| error.to_string())
}

/// Reads a message; `None` if it is no answer to this question.
#[must_use]
pub fn read(name: &str, kind: Kind, number: u16, message: &[u8]) -> Option<Reply> {
    if message.get(..2)? != number.to_be_bytes() {
        return None;
    }
    let Ok(packet) = Packet::parse(message) else {
        return Some(Reply::Failed("no DNS message".to_owned()));
    };
    let repeats = |question: &Question<'_>| {
        plain(&question.qname) == name && question.qtype == QTYPE::TYPE(code(kind))
    };
    if !packet.has_flags(PacketFlag::RESPONSE) || !packet.questions.iter().all(repeats) {
        return None;
    }
    Some(match packet.rcode() {
        // Whatever came before it is not all.
        _ if packet.has_flags(PacketFlag::TRUNCATION) => Reply::Truncated,
        RCODE::NoError => records(name, &packet),
        RCODE::NameError => Reply::Records(Vec::new(), Duration::ZERO),
        RCODE::ServerFailure => Reply::Failed("the server failed (SERVFAIL)".to_owned()),
        RCODE::Refused => Reply::Failed("the server refused (REFUSED)".to_owned()),
        other => Reply::Failed(format!("the server answered {other:?}")),
    })
}

fn records(name: &str, packet: &Packet<'_>) -> Reply {
    let mut ttl = u32::MAX;
    let mut owner = name.to_owned();
    for _ in 0..LONGEST_CHAIN {
        let alias = packet.answers.iter().find_map(|answer| match &answer.rdata {
            RData::CNAME(alias) if plain(&answer.name) == owner => {
                Some((plain(&alias.0), answer.ttl))
            }
            _ => None,
        });
        let Some((alias, time)) = alias else { break };
        (owner, ttl) = (alias, ttl.min(time));
    }
    let mut found = Vec::new();
    for answer in packet.answers.iter().filter(|answer| plain(&answer.name) == owner) {
        found.push(match &answer.rdata {
            RData::A(a) => Record::Address(Ipv4Addr::from_bits(a.address).into()),
            RData::AAAA(aaaa) => Record::Address(Ipv6Addr::from_bits(aaaa.address).into()),
            RData::SRV(srv) => {
                let (priority, weight, port) = (srv.priority, srv.weight, srv.port);
                Record::Service(Srv { priority, weight, port }, plain(&srv.target))
            }
            _ => continue,
        });
        ttl = ttl.min(answer.ttl);
    }
    Reply::Records(found, Duration::from_secs(u64::from(ttl)))
}

/// One spelling for each name.
fn plain(name: &Name<'_>) -> String {
    let name = name.to_string();
    name.strip_suffix('.').unwrap_or(&name).to_ascii_lowercase()
}

/// The servers that `/etc/resolv.conf` names; the machine itself if it names none (resolv.conf(5)).
#[must_use]
pub fn servers(resolv_conf: &str) -> Vec<SocketAddr> {
    let lines = resolv_conf.lines().map(str::split_whitespace);
    let found = lines.filter_map(|mut words| {
        let address =
            words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        Some(SocketAddr::new(address.parse().ok()?, 53))
    });
    let found: Vec<_> = found.collect();
    if found.is_empty() { vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53)] } else { found }
}

/// The addresses that `/etc/hosts` has for a name.
#[must_use]
pub fn hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or(line).split_whitespace());
    let found = lines.filter_map(|mut words| {
        let address = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::{A, CNAME, SRV};

    use super::*;

    fn answer(kind: Kind, rcode: RCODE, records: Vec<(&'static str, RData<'static>)>) -> Vec<u8> {
        let asked = question("app.example", kind, 7).expect("a name");
        let mut packet = Packet::parse(&asked).expect("our own").into_reply();
        *packet.rcode_mut() = rcode;
        let record = |(ttl, (name, rdata)): (u32, (&'static str, RData<'static>))| {
            ResourceRecord::new(Name::new(name).expect("a name"), CLASS::IN, ttl, rdata)
        };
        packet.answers = (60..).zip(records).map(record).collect();
        packet.build_bytes_vec().expect("it fits")
    }

    fn address(last: u8) -> RData<'static> {
        RData::A(A { address: u32::from_be_bytes([10, 0, 0, last]) })
    }

    #[test]
    fn records_of_the_name_and_its_aliases_count_and_no_others() {
        let alias = RData::CNAME(CNAME(Name::new("B.example").expect("a name")));
        let all =
            vec![("app.example", alias), ("b.example", address(1)), ("c.example", address(2))];
        let message = answer(Kind::A, RCODE::NoError, all);
        let expected = vec![Record::Address("10.0.0.1".parse().expect("literal"))];
        let expected = Some(Reply::Records(expected, Duration::from_secs(60)));
        assert_eq!(read("app.example", Kind::A, 7, &message), expected);
        assert_eq!(read("app.example", Kind::A, 8, &message), None, "another number");
        assert_eq!(read("app.example", Kind::Aaaa, 7, &message), None, "another type");
        let target = Name::new("b.example").expect("a name");
        let srv = RData::SRV(SRV { priority: 1, weight: 2, port: 80, target });
        let message = answer(Kind::Srv, RCODE::NoError, vec![("app.example", srv)]);
        let srv = Srv { priority: 1, weight: 2, port: 80 };
        let expected = vec![Record::Service(srv, "b.example".to_owned())];
        let expected = Some(Reply::Records(expected, Duration::from_secs(60)));
        assert_eq!(read("app.example", Kind::Srv, 7, &message), expected);
    }

    #[test]
    fn each_other_answer_is_told_apart() {
        let read = |message: &[u8]| read("app.example", Kind::A, 7, message);
        let failed = |text: &str| Some(Reply::Failed(text.to_owned()));
        let of = |rcode| answer(Kind::A, rcode, Vec::new());
        let nothing = Some(Reply::Records(Vec::new(), Duration::ZERO));
        assert_eq!(read(&of(RCODE::NameError)), nothing);
        assert_eq!(read(&of(RCODE::ServerFailure)), failed("the server failed (SERVFAIL)"));
        assert_eq!(read(&of(RCODE::Refused)), failed("the server refused (REFUSED)"));
        assert_eq!(read(&of(RCODE::NotImplemented)), failed("the server answered NotImplemented"));
        let mut cut = of(RCODE::NoError);
        // TC (RFC 1035 section 4.1.1).
        cut[2] |= 0x02;
        assert_eq!(read(&cut), Some(Reply::Truncated));
        assert_eq!(read(&of(RCODE::NoError)[..9]), failed("no DNS message"));
    }

    #[test]
    fn the_files_of_the_machine_are_understood() {
        let text =
            "# nameserver 10.0.0.1\nsearch example\nnameserver 10.0.0.53\nnameserver fd00::53\n";
        let expected = ["10.0.0.53:53", "[fd00::53]:53"].map(|at| at.parse().expect("literal"));
        assert_eq!(servers(text), expected);
        assert_eq!(servers(""), ["127.0.0.1:53".parse().expect("literal")]);
        let text =
            "10.0.0.1 a.example App.example # b.example\n::1 app.example\nnonsense app.example";
        let expected = ["10.0.0.1", "::1"].map(|at| at.parse::<IpAddr>().expect("literal"));
        assert_eq!(hosts(text, "app.example"), expected);
        assert_eq!(hosts(text, "b.example"), [""; 0].map(|_| IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }

    proptest! {
        #[test]
        fn no_message_makes_a_panic(mut message: Vec<u8>) {
            if message.len() > 2 {
                message[..2].copy_from_slice(&[0, 7]);
            }
            let _ = read("app.example", Kind::Srv, 7, &message);
        }
    }
}
