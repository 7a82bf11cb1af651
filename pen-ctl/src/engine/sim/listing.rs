//! Lists of flows and clients: what is shown, what is left out, and what no longer counts.

use pen_common::abi::{ClientKey, FlowKey, Record, Service, Translation, Tuple};

use super::*;
use crate::api::{self, RecordQuery};

/// A service with these backends, all up for longer than any record lives.
fn running(backends: u8) -> Sim {
    let mut sim = Sim::start(config(backends));
    sim.run_for(secs(7200));
    sim
}

impl Sim {
    /// Id of the backend with this number.
    fn id(&self, number: u8) -> u32 {
        let addr = Addr::from(address(number));
        let found = self.maps.backends.iter().find(|(_, backend)| backend.addr == addr);
        *found.expect("the maps hold it").0
    }

    /// A record of a backend as it is, last used so many seconds ago.
    fn record(&self, number: u8, age: u64) -> Record {
        let backend = self.id(number);
        let generation = self.maps.backends[&backend].generation;
        Record { backend, generation, last_seen_ns: self.now.0 - age * 1_000_000_000 }
    }

    fn service(&self) -> Service {
        *self.maps.services.values().next().expect("one service")
    }

    fn flows_like(
        &self,
        query: &RecordQuery,
        records: &[(FlowKey, Record)],
        translations: &[(Tuple, Translation)],
    ) -> api::Flows {
        let mut list = self.engine.listing(self.now, query).expect("a fair question").flows();
        records.iter().for_each(|(key, record)| list.record(*key, *record));
        translations.iter().for_each(|(key, to)| list.translation(*key, *to));
        list.finish(true)
    }

    fn clients_like(&self, query: &RecordQuery, records: &[(ClientKey, Record)]) -> api::Clients {
        let mut list = self.engine.listing(self.now, query).expect("a fair question").clients();
        records.iter().for_each(|(key, record)| list.record(*key, *record));
        list.finish(true)
    }
}

fn flow(last: u8, port: u16) -> FlowKey {
    FlowKey {
        client: Addr::v4([198, 51, 100, last]),
        service: 0,
        source_port: Be16::new(port),
        port: Be16::new(80),
    }
}

fn client(last: u8) -> ClientKey {
    ClientKey { client: Addr::v4([198, 51, 100, last]), service: 0, _pad: 0 }
}

fn all() -> RecordQuery {
    RecordQuery::default()
}

#[test]
fn a_flow_is_shown_with_its_ends_in_the_operators_words() {
    let sim = running(2);
    let flows = sim.flows_like(&all(), &[(flow(7, 5000), sim.record(2, 3))], &[]);
    let expected = api::Flow {
        kind: "record".into(),
        service: Some("web".into()),
        client: "198.51.100.7:5000".parse().expect("literal"),
        vip: Some("192.0.2.10:80".parse().expect("literal")),
        backend: Some("b2".into()),
        address: Some("10.0.0.2:80".parse().expect("literal")),
        seen_as: None,
        age_ms: 3000,
        live: true,
        why: None,
    };
    assert_eq!(flows, api::Flows { flows: vec![expected], more: 0, complete: true });
}

#[test]
fn each_reason_why_a_record_no_longer_counts_is_told() {
    let mut sim = running(3);
    let made_before = sim.record(1, 1);
    sim.refusing.insert(address(1));
    sim.run_for(secs(10));
    let void = |sim: &Sim, key: FlowKey, record: Record| {
        let flows = sim.flows_like(&all(), &[(key, record)], &[]).flows;
        let [flow] = &flows[..] else { panic!("{flows:?}") };
        assert_eq!(flow.live, flow.why.is_none());
        flow.why.clone()
    };
    assert_eq!(void(&sim, flow(7, 1), sim.record(2, 3599)), None);
    let expired = void(&sim, flow(7, 1), sim.record(2, 3600));
    assert_eq!(expired.as_deref(), Some("expired: not used for 1h"));
    let down = void(&sim, flow(7, 1), sim.record(1, 1));
    assert_eq!(down.as_deref(), Some("the backend is down"));
    let died = void(&sim, flow(7, 1), made_before);
    assert_eq!(died.as_deref(), Some("the backend died since"));
    sim.refusing.clear();
    sim.run_for(secs(10));
    let died = void(&sim, flow(7, 1), made_before);
    assert_eq!(died.as_deref(), Some("the backend died since"), "also after its return");
    let stranger = Record { backend: 99, ..sim.record(2, 1) };
    let gone = void(&sim, flow(7, 1), stranger);
    assert_eq!(gone.as_deref(), Some("the backend is gone"));
    let gone = void(&sim, FlowKey { service: 9, ..flow(7, 1) }, sim.record(2, 1));
    assert_eq!(gone.as_deref(), Some("the service is gone"));
}

#[test]
fn a_question_narrows_the_list_down() {
    let sim = running(3);
    let records: Vec<_> = (0..30)
        .map(|number| (flow(number, 5000), sim.record(1 + number % 3, u64::from(number))))
        .collect();
    let ask = |query: RecordQuery| sim.flows_like(&query, &records, &[]).flows;
    assert_eq!(ask(all()).len(), 30);
    let of_b2 = ask(RecordQuery { backend: Some("b2".into()), ..all() });
    assert_eq!(of_b2.len(), 10);
    assert!(of_b2.iter().all(|flow| flow.backend.as_deref() == Some("b2")));
    let network = "198.51.100.8/29".parse().expect("literal");
    let some = ask(RecordQuery { client: Some(network), service: Some("web".into()), ..all() });
    let last: Vec<String> = some.iter().map(|flow| flow.client.ip().to_string()).collect();
    assert_eq!(last.len(), 8);
    assert!(
        last.contains(&"198.51.100.8".to_owned()) && last.contains(&"198.51.100.15".to_owned())
    );
}

#[test]
fn of_too_many_the_newest_are_shown_and_the_others_counted() {
    let sim = running(1);
    // In an order that has nothing to do with their age, and each twice, as a walk through the
    // kernel's table may meet them.
    let records: Vec<_> = (0..200)
        .chain(0..200)
        .map(|number| (flow(u8::try_from(number * 37 % 200).expect("small"), 1), number * 37 % 200))
        .map(|(key, age)| (key, sim.record(1, u64::try_from(age).expect("small"))))
        .collect();
    let flows = sim.flows_like(&RecordQuery { limit: 7, ..all() }, &records, &[]);
    let ages: Vec<u64> = flows.flows.iter().map(|flow| flow.age_ms / 1000).collect();
    assert_eq!(ages, [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(flows.more, 193);
}

#[test]
fn what_does_not_exist_cannot_be_asked_for() {
    let sim = running(2);
    for (query, refused) in [
        (
            RecordQuery { service: Some("www".into()), ..all() },
            "there is no service `www`; there are: web",
        ),
        (
            RecordQuery { backend: Some("b3".into()), ..all() },
            "there is no backend `b3`; there are: b1, b2",
        ),
        (
            RecordQuery { limit: 0, ..all() },
            "a list of 0 rows cannot be had; give a limit of 1 to 100000",
        ),
        (
            RecordQuery { limit: 100_001, ..all() },
            "a list of 100001 rows cannot be had; give a limit of 1 to 100000",
        ),
    ] {
        let refusal = sim.engine.listing(sim.now, &query).expect_err(refused);
        assert_eq!(refusal.to_string(), refused);
    }
}

#[test]
fn a_translation_says_as_whom_the_backend_sees_the_client() {
    let sim = running(2);
    let ours = Addr::v4([10, 0, 0, 254]);
    let key = Tuple {
        source: address(2).into(),
        destination: ours,
        source_port: Be16::new(80),
        port: Be16::new(40_000),
        protocol: protocol::TCP,
        _pad: [0; 3],
    };
    let to = Translation {
        source: VIP.into(),
        destination: Addr::v4([198, 51, 100, 7]),
        source_port: Be16::new(80),
        port: Be16::new(5000),
        flags: Translation::RETURN | Translation::ANSWERED,
        service: 0,
        backend: sim.id(2),
        last_seen_ns: sim.now.0 - 2_000_000_000,
    };
    let request = Translation { flags: 0, ..to };
    let flows = sim.flows_like(&all(), &[], &[(key, to), (Tuple::default(), request)]).flows;
    let [flow] = &flows[..] else { panic!("one flow has one row: {flows:?}") };
    assert_eq!((flow.kind.as_str(), flow.live, flow.age_ms), ("nat", true, 2000));
    assert_eq!(flow.client.to_string(), "198.51.100.7:5000");
    assert_eq!(flow.vip.map(|vip| vip.to_string()).as_deref(), Some("192.0.2.10:80"));
    assert_eq!(flow.backend.as_deref(), Some("b2"));
    assert_eq!(flow.address.map(|at| at.to_string()).as_deref(), Some("10.0.0.2:80"));
    assert_eq!(flow.seen_as.map(|at| at.to_string()).as_deref(), Some("10.0.0.254:40000"));
}

#[test]
fn each_reason_why_a_translation_no_longer_counts_is_told() {
    let mut sim = running(2);
    sim.refusing.insert(address(1));
    sim.run_for(secs(10));
    let to = |sim: &Sim, number: u8, flags: u32, age: u64| Translation {
        flags: flags | Translation::RETURN,
        backend: sim.id(number),
        last_seen_ns: sim.now.0 - age * 1_000_000_000,
        ..Translation::default()
    };
    let closed = Translation::CLIENT_FIN | Translation::BACKEND_FIN;
    for (translation, why) in [
        (to(&sim, 2, Translation::CLIENT_FIN, 1), None),
        (to(&sim, 2, Translation::ANSWERED, 3599), None),
        (to(&sim, 2, Translation::ANSWERED, 3600), Some("expired: not used for 1h")),
        // Never answered.
        (to(&sim, 2, 0, 29), None),
        (to(&sim, 2, 0, 30), Some("expired: not used for 30s")),
        (to(&sim, 2, closed, 1), Some("closed by both ends")),
        (to(&sim, 2, Translation::RESET, 1), Some("reset")),
        (to(&sim, 1, 0, 1), Some("the backend is down")),
        (Translation { backend: 99, ..to(&sim, 2, 0, 1) }, Some("the backend is gone")),
        (Translation { service: 9, ..to(&sim, 2, 0, 1) }, Some("the service is gone")),
    ] {
        let key = Tuple { protocol: protocol::TCP, ..Tuple::default() };
        let flows = sim.flows_like(&all(), &[], &[(key, translation)]).flows;
        assert_eq!(flows[0].why.as_deref(), why);
        assert_eq!(flows[0].live, why.is_none());
    }
}

#[test]
fn translations_are_looked_for_only_if_a_service_translates() {
    let mut sim = running(1);
    let wants = |sim: &Sim| {
        sim.engine.listing(sim.now, &all()).expect("a fair question").flows().wants_translations()
    };
    assert!(!wants(&sim));
    for mode in [Service::NAT, Service::MASQUERADE] {
        let key = *sim.engine.applied.services.keys().next().expect("one service");
        let entry = Service { mode, ..sim.service() };
        sim.engine.applied.services.insert(key, entry);
        assert!(wants(&sim));
    }
}

#[test]
fn a_client_is_an_address_or_the_network_that_the_service_takes_for_one() {
    let mut sim = running(2);
    let ask = |sim: &Sim, key: ClientKey| {
        let clients = sim.clients_like(&all(), &[(key, sim.record(1, 4))]).clients;
        let [client] = &clients[..] else { panic!("{clients:?}") };
        assert_eq!(client.age_ms, 4000);
        assert_eq!(client.backend.as_deref(), Some("b1"));
        assert!(client.live);
        client.client.to_string()
    };
    assert_eq!(ask(&sim, client(7)), "198.51.100.7");
    let network = Addr::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(ask(&sim, ClientKey { client: network, ..client(7) }), "2001:db8:0:7::/64");
    let key = *sim.engine.applied.services.keys().next().expect("one service");
    let entry = Service { prefix_v4: 120, ..sim.service() };
    sim.engine.applied.services.insert(key, entry);
    assert_eq!(ask(&sim, client(0)), "198.51.100.0/24");
}

#[test]
fn clients_are_narrowed_down_and_counted_as_flows_are() {
    let sim = running(2);
    let records: Vec<_> = (0..50)
        .map(|number| (client(number), sim.record(1 + number % 2, u64::from(number))))
        .collect();
    let query = RecordQuery { backend: Some("b2".into()), limit: 4, ..all() };
    let clients = sim.clients_like(&query, &records);
    let ages: Vec<u64> = clients.clients.iter().map(|client| client.age_ms / 1000).collect();
    assert_eq!((ages, clients.more), (vec![1, 3, 5, 7], 21));
}
