//! Explanations name what decided: a record, a side of the slot, or the slot's neighbour.

use pen_common::abi::{self, ClientKey, FlowKey, Record};
use pen_common::hash;

use super::*;
use crate::api::Explanation;
use crate::engine::tables::Records;

/// At most one record of each kind, of whoever asks.
#[derive(Clone, Copy, Default)]
struct Remembered {
    flow: Option<Record>,
    client: Option<Record>,
}

impl Records for Remembered {
    fn flow(&self, _: &FlowKey) -> Option<Record> {
        self.flow
    }

    fn client(&self, _: &ClientKey) -> Option<Record> {
        self.client
    }
}

const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const HOUR: Duration = Duration::from_secs(3600);

/// Three backends, the second of which is drained; and the first port whose slot moved because of
/// it.
fn moving(affinity: Affinity) -> (Sim, u16) {
    let mut config = config(3);
    config.services[0].affinity = affinity;
    let mut sim = Sim::start(config);
    // Later than any record lives.
    sim.run_for(2 * HOUR);
    sim.set_admin("b2", Admin::Drain).expect("known backend");
    let moved = (1..=1000).find(|port| {
        let explanation = sim.explain(*port, false, &Remembered::default());
        explanation.decided_by.as_deref() == Some("current")
    });
    (sim, moved.expect("a third of the flows moved"))
}

impl Sim {
    fn explain(&self, port: u16, established: bool, records: &Remembered) -> Explanation {
        // Of a service that remembers clients the address selects the slot.
        let [a, b] = port.to_be_bytes();
        let [first, second, ..] = CLIENT.octets();
        let packet = Explain {
            source: (Ipv4Addr::new(first, second, a, b), port).into(),
            destination: (VIP, 80).into(),
            protocol: Protocol::Tcp,
            established,
        };
        self.engine.explain(self.now, &packet, records).expect("one family")
    }

    fn record_of(&self, number: u8, age: u64) -> Option<Record> {
        let addr = Addr::from(address(number));
        let mut backends = self.maps.backends.iter();
        let (id, entry) = backends.find(|(_, backend)| backend.addr == addr)?;
        let last_seen_ns = self.now.0 - age * 1_000_000_000;
        Some(Record { backend: *id, generation: entry.generation, last_seen_ns })
    }
}

/// What decided, and the sentence that says so.
fn told(explanation: &Explanation) -> (&str, &str) {
    (explanation.decided_by.as_deref().expect("it is forwarded"), &explanation.steps[2])
}

#[test]
fn in_a_settled_slot_the_slot_decides() {
    let mut sim = Sim::start(config(1));
    sim.run_for(secs(1));
    let explanation = sim.explain(5, false, &Remembered::default());
    let (decided_by, step) = told(&explanation);
    assert_eq!(decided_by, "slot");
    let slot = explanation.slot.expect("it is forwarded");
    assert_eq!(step, format!("slot {slot} is settled: all its flows belong to b1"));
}

#[test]
fn without_a_record_a_new_flow_goes_to_current_and_an_old_one_to_base() {
    let (sim, port) = moving(Affinity::Flow);
    let new = sim.explain(port, false, &Remembered::default());
    let to = new.backend.clone().expect("it is forwarded");
    let slot = new.slot.expect("it is forwarded");
    let unsettled = format!("slot {slot} is unsettled: base b2, current {to}; no record, so ");
    let expected = format!("{unsettled}current, for it opens a new one: {to}");
    assert_eq!(told(&new), ("current", expected.as_str()));
    let old = sim.explain(port, true, &Remembered::default());
    assert_eq!(told(&old), ("base", format!("{unsettled}base: b2").as_str()));
    assert_eq!(old.backend.as_deref(), Some("b2"));
}

#[test]
fn a_record_decides_and_one_that_does_not_count_is_told_with_the_reason() {
    let (mut sim, port) = moving(Affinity::Flow);
    let record = |sim: &Sim, number, age| Remembered {
        flow: sim.record_of(number, age),
        ..Remembered::default()
    };
    let explanation = sim.explain(port, true, &record(&sim, 2, 3));
    let expected = ("flow-record", "a record of the flow names b2, used 3s ago");
    assert_eq!(told(&explanation), expected);
    let explanation = sim.explain(port, false, &record(&sim, 2, 3));
    let (decided_by, step) = told(&explanation);
    assert_eq!(decided_by, "current");
    assert!(step.contains("flow's record of b2 does not count (b2 takes no new flows"), "{step}");
    let explanation = sim.explain(port, true, &record(&sim, 3, 3600));
    let (decided_by, step) = told(&explanation);
    assert_eq!(decided_by, "base");
    assert!(step.contains("record of b3 does not count (last used 1h ago)"), "{step}");
    let before = record(&sim, 3, 0);
    sim.refusing.insert(address(3));
    sim.run_for(secs(10));
    let explanation = sim.explain(port, true, &before);
    let (_, step) = told(&explanation);
    assert!(step.contains("record of b3 does not count (the backend died since)"), "{step}");
    let stranger = before.flow.map(|flow| Record { backend: 99, ..flow });
    let explanation = sim.explain(port, true, &Remembered { flow: stranger, ..before });
    let (_, step) = told(&explanation);
    assert!(step.contains("record of nobody does not count (the backend is gone)"), "{step}");
}

#[test]
fn a_remembered_client_goes_where_it_was() {
    let (sim, port) = moving(Affinity::Client);
    let client = sim.record_of(2, 4);
    let remembered = Remembered { client, ..Remembered::default() };
    let explanation = sim.explain(port, false, &remembered);
    let expected = ("client-record", "the client is remembered at b2, seen 4s ago");
    assert_eq!(told(&explanation), expected);
}

#[test]
fn where_base_and_current_agree_the_slot_decides_also_while_records_disagree() {
    let (mut sim, port) = moving(Affinity::Flow);
    let service = *sim.maps.services.values().next().expect("one service");
    let slot = sim.explain(port, false, &Remembered::default()).slot.expect("it is forwarded");
    let slots = sim.engine.applied.slots[&service.id].to_vec();
    let current = slots[slot as usize].current();
    let mut agreed = slots;
    agreed[slot as usize] = abi::Slot::new(current, current, true);
    sim.engine.applied.slots.insert(service.id, agreed.into());
    let explanation = sim.explain(port, true, &Remembered::default());
    let (decided_by, step) = told(&explanation);
    assert_eq!(decided_by, "slot");
    assert!(step.ends_with("by either"), "{step}");
}

#[test]
fn a_dead_backend_of_a_slot_sends_to_the_next_slots() {
    let mut sim = Sim::start(config(3));
    sim.run_for(secs(1));
    // Between the state word and the new table.
    for backend in sim.engine.applied.backends.values_mut() {
        if backend.addr == Addr::from(address(1)) {
            backend.state = abi::Backend::DOWN;
        }
    }
    let secret = sim.maps.cfg.secret;
    let service = *sim.maps.services.values().next().expect("one service");
    let owner = |port: u16| {
        let [a, b] = port.to_be_bytes();
        let source = Addr::v4([198, 51, a, b]);
        let hash = hash::flow(secret, &source, Be16::new(port), Be16::new(80));
        let index = hash::slot_index(hash, service.slots);
        let id = u32::from(sim.maps.slots[&service.id][index as usize].current());
        sim.maps.backends[&id].addr
    };
    let port = (1..1000).find(|port| owner(*port) == Addr::from(address(1))).expect("a third");
    let explanation = sim.explain(port, false, &Remembered::default());
    let (decided_by, step) = told(&explanation);
    assert_eq!(decided_by, "next-slot");
    assert!(step.starts_with("b1 of slot ") && !step.ends_with("one of b1"), "{step}");
}
