//! Why a packet goes to a backend: which record, or which side of its slot, decided. The decision
//! itself is the kernel's (`pen_common::forward::decide`); here it is only watched which records it
//! looked up, and told in words.

use std::cell::Cell;
use std::time::Duration;

use pen_common::abi::{Backend, ClientKey, FlowKey, Record, Service, Slot};
use pen_common::affinity;
use pen_common::forward::Stage;
use pen_common::moment::Moment;
use pen_common::verdict::Forward;

use super::tables::{Records, Tables};

/// Records, and which of them a decision found.
pub(super) struct Witness<'a> {
    records: &'a dyn Records,
    flow: Cell<Option<Record>>,
    client: Cell<Option<Record>>,
}

impl<'a> Witness<'a> {
    pub(super) const fn new(records: &'a dyn Records) -> Self {
        Self { records, flow: Cell::new(None), client: Cell::new(None) }
    }
}

impl Records for Witness<'_> {
    fn flow(&self, key: &FlowKey) -> Option<Record> {
        let found = self.records.flow(key);
        self.flow.set(found);
        found
    }

    fn client(&self, key: &ClientKey) -> Option<Record> {
        let found = self.records.client(key);
        self.client.set(found);
        found
    }
}

/// What decided about a packet: in a word for programs, and in a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Why {
    pub(super) decided_by: &'static str,
    pub(super) step: String,
}

/// A decision, and all that it saw.
pub(super) struct Seen<'a> {
    pub(super) forward: &'a Forward<'a>,
    pub(super) stage: Stage,
    pub(super) witness: &'a Witness<'a>,
    pub(super) tables: &'a Tables,
    pub(super) now: Moment,
    /// Names of backends.
    pub(super) name: &'a dyn Fn(u32) -> String,
}

impl Seen<'_> {
    /// Why the packet goes where it goes.
    pub(super) fn why(&self) -> Why {
        let Forward { id, slot: index, service, .. } = *self.forward;
        let name = (self.name)(id);
        let slots = self.tables.slots.get(&service);
        let slot = slots.and_then(|slots| slots.get(index as usize)).copied().unwrap_or_default();
        let entry = self.tables.services.values().find(|entry| entry.id == service);
        let entry = entry.copied().unwrap_or_default();
        let (flow, client) = (self.witness.flow.get(), self.witness.client.get());
        let counts = |record: Option<Record>, ttl_ns| {
            record.filter(|record| record.backend == id && self.void(record, ttl_ns).is_none())
        };
        if let Some(record) = counts(flow, entry.flow_ttl_ns) {
            let ago = self.ago(&record);
            return why(
                "flow-record",
                format!("a record of the flow names {name}, used {ago} ago"),
            );
        }
        if let Some(record) = counts(client, entry.client_ttl_ns) {
            let step =
                format!("the client is remembered at {name}, seen {} ago", self.ago(&record));
            return why("client-record", step);
        }
        let remark = self.remark(&entry, flow, client);
        let (base, current) = (u32::from(slot.base()), u32::from(slot.current()));
        if id != base && id != current {
            let step = format!(
                "{} of slot {index} is down; the next slot with a usable backend is one of {name}",
                (self.name)(current)
            );
            return why("next-slot", step);
        }
        if !slot.is_unsettled() {
            let remark = remark.map(|remark| format!("; {remark}")).unwrap_or_default();
            let step = format!("slot {index} is settled: all its flows belong to {name}{remark}");
            return why("slot", step);
        }
        let remark = remark.unwrap_or_else(|| "no record".to_owned());
        let (decided_by, so) = self.side(slot);
        let step = format!(
            "slot {index} is unsettled: base {}, current {}; {remark}, so {so}",
            (self.name)(base),
            (self.name)(current),
        );
        why(decided_by, step)
    }

    /// The side of an unsettled slot, and why that one.
    fn side(&self, slot: Slot) -> (&'static str, String) {
        let (base, current) = (u32::from(slot.base()), u32::from(slot.current()));
        let (id, name) = (self.forward.id, (self.name)(self.forward.id));
        if base == current {
            return ("slot", format!("{name} by either"));
        }
        if id == base {
            return ("base", format!("base: {name}"));
        }
        let reason = match self.stage {
            Stage::Open => "it opens a new one",
            _ => "base is down",
        };
        ("current", format!("current, for {reason}: {name}"))
    }

    /// What there is to say of records that did not decide.
    fn remark(
        &self,
        service: &Service,
        flow: Option<Record>,
        client: Option<Record>,
    ) -> Option<String> {
        let (what, record, ttl_ns) = match (flow, client) {
            (_, Some(record)) => ("client's", record, service.client_ttl_ns),
            (Some(record), None) => ("flow's", record, service.flow_ttl_ns),
            (None, None) => return None,
        };
        let name = (self.name)(record.backend);
        let reason = self.void(&record, ttl_ns).unwrap_or_else(|| match self.stage {
            Stage::Open => format!("{name} takes no new flows, or the slot has settled elsewhere"),
            _ => format!("{name} takes nothing"),
        });
        Some(format!("the {what} record of {name} does not count ({reason})"))
    }

    /// Why a record is void, if it is.
    fn void(&self, record: &Record, ttl_ns: u64) -> Option<String> {
        let Some(backend) = self.tables.backends.get(&record.backend) else {
            return Some("the backend is gone".to_owned());
        };
        if affinity::is_live(record, backend, self.now, ttl_ns) {
            return (backend.state == Backend::DOWN).then(|| "the backend is down".to_owned());
        }
        Some(match record.generation == backend.generation {
            true => format!("last used {} ago", self.ago(record)),
            false => "the backend died since".to_owned(),
        })
    }

    fn ago(&self, record: &Record) -> String {
        let age = self.now.since(Moment(record.last_seen_ns));
        humantime::format_duration(Duration::from_secs(age.as_secs())).to_string()
    }
}

fn why(decided_by: &'static str, step: String) -> Why {
    Why { decided_by, step }
}
