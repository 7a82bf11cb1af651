//! What packets tell of backends whose answers come back through us.

use std::net::IpAddr;

use pen_common::abi::Signals;
use pen_common::net::{MacAddr, protocol};
use pen_common::verdict::Counter;

use super::error::{error_of, family};
use super::{ACK, FIN, MODES, PORT, RST, SYN, Site, flagged, with_site};
use crate::frame::{IPV4_PAYLOAD, IPV6_PAYLOAD, Packet, patch, usual_packets};
use crate::parse::Parsed;
use crate::world::backend_at;

const NONE: Signals = Signals { refused: 0, unanswered: 0, unreachable: 0, answered: 0 };
const SECOND_NS: u64 = 1_000_000_000;

/// A flow of TCP in one direction and the other.
struct Talk {
    packet: Packet,
    /// The backend.
    id: u32,
    answer: Packet,
    sent: Vec<u8>,
}

impl Talk {
    /// A client's SYN goes to a backend.
    fn open(site: &mut Site, packet: &Packet) -> Self {
        let syn = flagged(&packet.frame(), SYN);
        let outcome = site.bench.run_on(site.front, &syn);
        assert_eq!(outcome.counter, Counter::Redirect);
        let answer = site.answer_to(&Parsed::of(&outcome.frame));
        let id = backend_at(&outcome.frame);
        Self { packet: packet.clone(), id, answer, sent: outcome.frame }
    }

    fn request(&self, flags: u8) -> Vec<u8> {
        flagged(&self.packet.frame(), flags)
    }

    fn answer(&self, flags: u8) -> Vec<u8> {
        flagged(&self.answer.frame(), flags)
    }
}

/// Runs a test with each mode and family.
fn with_flows(test: impl Fn(&mut Site, &Packet) + Sync) {
    for mode in MODES {
        for (_, packet) in usual_packets() {
            if packet.protocol == protocol::TCP {
                with_site(mode, |site| test(site, &packet));
            }
        }
    }
}

#[test]
fn a_server_that_resets_what_opens_a_connection_has_refused_it() {
    with_flows(|site, packet| {
        let talk = Talk::open(site, packet);
        site.returned(&talk.answer(RST | ACK));
        let once = Signals { refused: 1, ..NONE };
        assert_eq!(site.bench.signals(talk.id), once);
        site.returned(&talk.answer(RST | ACK));
        assert_eq!(site.bench.signals(talk.id), once, "each connection is refused once");
        let again = Talk::open(site, packet);
        site.returned(&again.answer(RST | ACK));
        assert_eq!(site.bench.signals(talk.id), Signals { refused: 2, ..NONE });
    });
}

#[test]
fn a_server_that_resets_a_connection_that_it_took_has_refused_nobody() {
    with_flows(|site, packet| {
        let talk = Talk::open(site, packet);
        for flags in [SYN | ACK, ACK, FIN, RST, RST | ACK] {
            site.returned(&talk.answer(flags));
            site.request(&talk.request(ACK));
        }
        assert_eq!(site.bench.signals(talk.id), Signals { answered: 1, ..NONE });
    });
}

#[test]
fn a_reset_that_does_not_come_from_where_the_server_is_tells_nothing() {
    with_flows(|site, packet| {
        let talk = Talk::open(site, packet);
        let forged = talk.answer(RST | ACK);
        // From the clients' side; from another server or port; of a frame that was not for us.
        assert_eq!(site.bench.run_on(site.front, &forged).counter, Counter::ReturnTransmit);
        let at = if packet.destination.is_ipv4() { IPV4_PAYLOAD } else { IPV6_PAYLOAD };
        let of_other_port = patch(&forged, at, &(PORT + 1).to_be_bytes());
        let backends = &site.bench.tables().backends;
        let service = backends[&talk.id].service;
        let is_other = |id: u32, found: u32| id != talk.id && found == service;
        let other = backends.iter().find(|(id, backend)| is_other(**id, backend.service));
        let other = other.expect("there are more").1.addr;
        let of_other =
            flagged(&talk.answer.clone().from(IpAddr::from(other), PORT).frame(), RST | ACK);
        let flooded = talk.answer.clone().at_station(MacAddr([2, 0, 0, 0, 0, 9])).frame();
        for frame in [of_other_port, of_other, flagged(&flooded, RST | ACK)] {
            assert_eq!(site.answer(&frame).counter, Counter::PassNotOurs);
        }
        assert_eq!(site.bench.signals(talk.id), NONE);
    });
}

#[test]
fn a_syn_that_is_repeated_without_an_answer_is_counted() {
    with_flows(|site, packet| {
        let talk = Talk::open(site, packet);
        site.request(&talk.request(SYN));
        assert_eq!(site.bench.signals(talk.id), NONE, "the network duplicated it");
        for count in 1..4 {
            site.age(SECOND_NS);
            site.request(&talk.request(SYN));
            assert_eq!(site.bench.signals(talk.id), Signals { unanswered: count, ..NONE });
        }
        site.returned(&talk.answer(SYN | ACK));
        site.age(SECOND_NS);
        site.request(&talk.request(SYN));
        site.request(&talk.request(ACK));
        let expected = Signals { unanswered: 3, answered: 1, ..NONE };
        assert_eq!(site.bench.signals(talk.id), expected, "a new connection on old ports");
    });
}

#[test]
fn an_error_that_says_that_a_server_is_not_there_is_counted_and_others_are_not() {
    with_flows(|site, packet| {
        let talk = Talk::open(site, packet);
        let Parsed { source: to, destination, .. } = Parsed::of(&talk.sent);
        let station = site.bench.tables().backends[&talk.id].source_mac;
        let router = family(&to).router;
        let (tell, others): (&[_], &[_]) = if to.is_ipv4() {
            (&[(3, 0), (3, 1), (3, 3), (3, 13)], &[(3, 4), (11, 0), (12, 0)])
        } else {
            (&[(1, 0), (1, 3), (1, 4)], &[(2, 0), (3, 0), (4, 0)])
        };
        let error = |kind, from| error_of(kind, &talk.sent, 8, from, to, station);
        for kind in others {
            site.returned_error(&error(*kind, router));
        }
        assert_eq!(site.bench.signals(talk.id), NONE);
        for (count, kind) in (1..).zip(tell) {
            // From the server's router, or from itself.
            let from = if count % 2 == 0 { destination } else { router };
            site.returned_error(&error(*kind, from));
            assert_eq!(site.bench.signals(talk.id), Signals { unreachable: count, ..NONE });
        }
        // Also of a connection that was answered.
        let told = site.bench.signals(talk.id).unreachable;
        site.returned(&talk.answer(SYN | ACK));
        site.returned_error(&error(tell[0], router));
        let expected = Signals { unreachable: told + 1, answered: 1, ..NONE };
        assert_eq!(site.bench.signals(talk.id), expected);
    });
}

#[test]
fn an_error_about_no_flow_of_ours_or_from_the_clients_side_tells_nothing() {
    with_flows(|site, packet| {
        let talk = Talk::open(site, packet);
        let to = Parsed::of(&talk.sent).source;
        let station = site.bench.tables().backends[&talk.id].source_mac;
        let at = if to.is_ipv4() { IPV4_PAYLOAD } else { IPV6_PAYLOAD };
        let (router, kind) = (family(&to).router, family(&to).errors[0]);
        let other = patch(&talk.sent, at + 2, &(PORT + 1).to_be_bytes());
        let about_other = error_of(kind, &other, 8, router, to, station);
        assert_eq!(site.answer(&about_other).counter, Counter::PassNotOurs);
        let right = error_of(kind, &talk.sent, 8, router, to, station);
        let forged = site.bench.run_on(site.front, &right);
        assert_eq!(forged.counter, Counter::ReturnTransmit);
        assert_eq!(site.bench.signals(talk.id), NONE);
    });
}

impl Site {
    /// Runs an error about a request, which has to reach the client.
    #[track_caller]
    fn returned_error(&mut self, frame: &[u8]) {
        assert_eq!(self.answer(frame).counter, Counter::ReturnRedirect);
    }
}
