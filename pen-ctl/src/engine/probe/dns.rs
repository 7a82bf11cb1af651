//! Asks a name server, and judges its answer (RFC 1035).

use std::net::{Ipv4Addr, Ipv6Addr};

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};

use super::{other, quoted};
use crate::config::{Dns, Record};
use crate::engine::event::Outcome;

/// Of several records so many are shown.
const SHOWN: usize = 4;

/// The question, as it goes over the wire. The answer to it has the same number.
///
/// # Errors
///
/// If the name does not fit a message, which the configuration rules out.
pub fn question(dns: &Dns, number: u16) -> Result<Vec<u8>, simple_dns::SimpleDnsError> {
    let mut packet = Packet::new_query(number);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let (name, kind) = (Name::new(&dns.name)?, QTYPE::TYPE(code(dns.record)));
    packet.questions.push(Question::new(name, kind, QCLASS::CLASS(CLASS::IN), false));
    packet.build_bytes_vec()
}

/// Judges a message; `None` if it is no answer to the question of this number.
#[must_use]
pub fn judge(dns: &Dns, number: u16, message: &[u8]) -> Option<Outcome> {
    // The number comes first, also of a message that is otherwise broken.
    if message.get(..2)? != number.to_be_bytes() {
        return None;
    }
    let Ok(packet) = Packet::parse(message) else {
        return Some(Err(other("no DNS message", "one")));
    };
    if !packet.has_flags(PacketFlag::RESPONSE) || !repeats(dns, &packet) {
        return None;
    }
    let rcode = spelled(packet.rcode());
    if rcode != dns.rcode.name() {
        return Some(Err(other(rcode, dns.rcode.name())));
    }
    if packet.rcode() != RCODE::NoError {
        return Some(Ok(()));
    }
    let answers = packet.answers.iter().map(|answer| &answer.rdata);
    let found: Vec<String> = answers.filter_map(|rdata| shown(dns.record, rdata)).collect();
    let wanted = dns.answer.as_deref().map(bare);
    Some(match wanted {
        _ if found.is_empty() && packet.has_flags(PacketFlag::TRUNCATION) => {
            Err(other("what does not fit a datagram", "less; ask with `transport = \"tcp\"`"))
        }
        _ if found.is_empty() => {
            let record = dns.record;
            Err(other(format!("without a record {record}"), "one"))
        }
        Some(wanted) if !found.iter().any(|found| bare(found).eq_ignore_ascii_case(wanted)) => {
            let some: Vec<_> = found.iter().take(SHOWN).map(String::as_str).collect();
            Err(other(quoted(some.join(", ").as_bytes()), quoted(wanted.as_bytes())))
        }
        _ => Ok(()),
    })
}

/// Whether a message is about what was asked. Servers that could not read the question leave it out.
fn repeats(dns: &Dns, packet: &Packet<'_>) -> bool {
    packet.questions.iter().all(|question| {
        bare(&question.qname.to_string()).eq_ignore_ascii_case(bare(&dns.name))
            && question.qtype == QTYPE::TYPE(code(dns.record))
    })
}

/// Names are written with a dot at the end or without.
fn bare(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

const fn code(record: Record) -> TYPE {
    match record {
        Record::A => TYPE::A,
        Record::Aaaa => TYPE::AAAA,
        Record::Cname => TYPE::CNAME,
        Record::Mx => TYPE::MX,
        Record::Ns => TYPE::NS,
        Record::Ptr => TYPE::PTR,
        Record::Soa => TYPE::SOA,
        Record::Txt => TYPE::TXT,
    }
}

/// A record of the type that was asked for, as `dig +short` shows it; of SOA only the server's name.
fn shown(wanted: Record, rdata: &RData<'_>) -> Option<String> {
    Some(match (wanted, rdata) {
        (Record::A, RData::A(a)) => Ipv4Addr::from_bits(a.address).to_string(),
        (Record::Aaaa, RData::AAAA(aaaa)) => Ipv6Addr::from_bits(aaaa.address).to_string(),
        (Record::Cname, RData::CNAME(name)) => name.to_string(),
        (Record::Mx, RData::MX(mx)) => format!("{} {}", mx.preference, mx.exchange),
        (Record::Ns, RData::NS(name)) => name.to_string(),
        (Record::Ptr, RData::PTR(name)) => name.to_string(),
        (Record::Soa, RData::SOA(soa)) => soa.mname.to_string(),
        (Record::Txt, RData::TXT(txt)) => {
            let mut text = Vec::new();
            for (key, value) in txt.iter_raw() {
                text.extend_from_slice(key);
                if let Some(value) = value {
                    text.push(b'=');
                    text.extend_from_slice(value);
                }
            }
            String::from_utf8_lossy(&text).into_owned()
        }
        _ => return None,
    })
}

/// As `dig` shows it.
const fn spelled(rcode: RCODE) -> &'static str {
    match rcode {
        RCODE::NoError => "NOERROR",
        RCODE::FormatError => "FORMERR",
        RCODE::ServerFailure => "SERVFAIL",
        RCODE::NameError => "NXDOMAIN",
        RCODE::NotImplemented => "NOTIMP",
        RCODE::Refused => "REFUSED",
        RCODE::YXDOMAIN => "YXDOMAIN",
        RCODE::YXRRSET => "YXRRSET",
        RCODE::NXRRSET => "NXRRSET",
        RCODE::NOTAUTH => "NOTAUTH",
        RCODE::NOTZONE => "NOTZONE",
        RCODE::BADVERS => "BADVERS",
        RCODE::Reserved => "a code that is reserved",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use simple_dns::rdata::{A, MX, TXT};
    use simple_dns::{ResourceRecord, rdata};

    use super::*;
    use crate::config::{Protocol, Rcode};

    fn asking(record: Record, rcode: Rcode, answer: Option<&str>) -> Dns {
        Dns {
            name: "www.example".to_owned(),
            record,
            rcode,
            answer: answer.map(str::to_owned),
            transport: Protocol::Udp,
        }
    }

    /// What a server says to the question.
    fn reply(dns: &Dns, rcode: RCODE, records: &[RData<'static>]) -> Vec<u8> {
        let question = question(dns, 7).expect("a name");
        let mut packet = Packet::parse(&question).expect("our own").into_reply();
        *packet.rcode_mut() = rcode;
        let name = Name::new("www.example").expect("a name");
        let record = |rdata: &RData<'static>| {
            ResourceRecord::new(name.clone(), CLASS::IN, 60, rdata.clone())
        };
        packet.answers = records.iter().map(record).collect();
        packet.build_bytes_vec().expect("it fits")
    }

    fn address(last: u8) -> RData<'static> {
        RData::A(A { address: u32::from_be_bytes([10, 0, 0, last]) })
    }

    #[test]
    fn the_question_asks_for_the_record() {
        let bytes = question(&asking(Record::Txt, Rcode::NoError, None), 0x0102).expect("a name");
        assert_eq!(
            bytes,
            b"\x01\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x07example\x00\x00\x10\x00\x01"
        );
    }

    #[test]
    fn rcode_and_answer_have_to_be_right() {
        let text = || RData::TXT(TXT::new().with_string("b1").expect("short"));
        let alias = || RData::CNAME(rdata::CNAME(Name::new("b.example").expect("a name")));
        let mail =
            || RData::MX(MX { preference: 5, exchange: Name::new("m.example").expect("a name") });
        use RCODE::{NameError, NoError, ServerFailure};
        use Record::{A, Cname, Mx, Txt};
        for (record, rcode, answer, came, records, error) in [
            (A, Rcode::NoError, None, NoError, vec![address(1)], None),
            (A, Rcode::NoError, Some("10.0.0.2"), NoError, vec![address(1), address(2)], None),
            (Txt, Rcode::NoError, Some("b1"), NoError, vec![text()], None),
            (Cname, Rcode::NoError, Some("B.example."), NoError, vec![alias()], None),
            (Mx, Rcode::NoError, Some("5 m.example"), NoError, vec![mail()], None),
            (A, Rcode::NxDomain, None, NameError, vec![], None),
            (
                A,
                Rcode::NoError,
                None,
                ServerFailure,
                vec![],
                Some("answered SERVFAIL, expected NOERROR"),
            ),
            (
                A,
                Rcode::NoError,
                Some("10.0.0.3"),
                NoError,
                vec![address(1), address(2)],
                Some(r#"answered "10.0.0.1, 10.0.0.2", expected "10.0.0.3""#),
            ),
            (
                A,
                Rcode::NoError,
                None,
                NoError,
                vec![alias()],
                Some("answered without a record A, expected one"),
            ),
        ] {
            let dns = asking(record, rcode, answer);
            let outcome = judge(&dns, 7, &reply(&dns, came, &records)).expect("an answer");
            let found = outcome.err().map(|error| error.to_string());
            assert_eq!(found.as_deref(), error);
        }
    }

    #[test]
    fn only_an_answer_to_this_very_question_counts() {
        let dns = asking(Record::A, Rcode::NoError, None);
        let right = reply(&dns, RCODE::NoError, &[address(1)]);
        assert_eq!(judge(&dns, 7, &right), Some(Ok(())));
        assert_eq!(judge(&dns, 8, &right), None, "another number");
        let asked = question(&dns, 7).expect("a name");
        assert_eq!(judge(&dns, 7, &asked), None, "a question");
        let elsewhere = Dns { name: "other.example".to_owned(), ..dns.clone() };
        assert_eq!(judge(&elsewhere, 7, &right), None, "about something else");
        let broken = judge(&dns, 7, &right[..right.len() - 3]).expect("its number is right");
        let error = broken.expect_err("it is broken").to_string();
        assert_eq!(error, "answered no DNS message, expected one");
    }

    #[test]
    fn an_answer_that_was_cut_off_names_the_cure() {
        let dns = asking(Record::A, Rcode::NoError, None);
        let mut cut = reply(&dns, RCODE::NoError, &[]);
        // TC (RFC 1035 section 4.1.1).
        cut[2] |= 0x02;
        let error = judge(&dns, 7, &cut).expect("an answer").expect_err("nothing in it");
        assert!(error.to_string().contains("transport = \"tcp\""), "{error}");
    }

    proptest! {
        #[test]
        fn no_message_makes_a_panic(mut message: Vec<u8>, ours: bool) {
            if ours && message.len() > 2 {
                message[..2].copy_from_slice(&[0, 7]);
            }
            let _ = judge(&asking(Record::Txt, Rcode::NoError, Some("b1")), 7, &message);
        }

        #[test]
        fn no_change_of_an_answer_makes_a_panic(at in 2_usize..60, byte: u8) {
            let dns = asking(Record::A, Rcode::NoError, Some("10.0.0.1"));
            let mut message = reply(&dns, RCODE::NoError, &[address(1)]);
            let last = message.len() - 1;
            message[at.min(last)] = byte;
            let _ = judge(&dns, 7, &message);
        }
    }
}
