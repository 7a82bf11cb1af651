//! Reads `[[carp]]`, each for itself; what concerns a group together with its addresses is checked
//! when those are known, in `together`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use pen_common::abi::MAX_GROUPS;
use toml::de::DeValue;

use super::keys::{self, without_effect};
use super::{
    AddressesBy, AuthWord, Carp, CarpMac, CarpTransport, DEFAULT_GROUP, Demotion, Hooks,
    MAX_DEMOTION, TieBreak, TransportWord, timing,
};
use crate::config::error::ErrorKind;
use crate::config::load::Roots;
use crate::config::probe::duration;
use crate::config::raw::{self, At, Names, Place, Read, Report, Spec, Table};
use crate::config::system::System;
use crate::config::{node, vip};

const OWN: [&str; 20] = [
    "name",
    "interface",
    "vhid",
    "neutral",
    "transport",
    "group",
    "peers",
    "min_ttl",
    "source",
    "mac",
    "tie_break",
    "ignore_link",
    "sync_group",
    "announce_refresh",
    "addresses",
    "up",
    "down",
    "xparam",
    "down_at_exit",
    "demote_on",
];
const KEYS: [&str; OWN.len() + timing::KEYS.len() + keys::KEYS.len()] =
    raw::joined(&[&OWN, &timing::KEYS, &keys::KEYS]);
const CARP: Spec = Spec { name: "carp", title: "[[carp]]", keys: &KEYS };
const DEMOTE_ON: Spec = Spec {
    name: "demote_on",
    title: "`demote_on`",
    keys: &["no_backend", "xdp_detached", "sync_incomplete", "interface", "service"],
};
const WEIGHTED: [&str; 2] = ["name", "weight"];
const INTERFACE: Spec =
    Spec { name: "interface", title: "an interface of `demote_on`", keys: &WEIGHTED };
const SERVICE: Spec = Spec { name: "service", title: "a service of `demote_on`", keys: &WEIGHTED };

/// Group 0 means none.
const MAX: usize = MAX_GROUPS as usize - 1;

/// The groups as far as they could be read, for those that refer to them.
pub(in crate::config) struct Groups {
    pub(in crate::config) names: Names<String>,
    /// Where each was written, and what it is.
    pub(super) list: Vec<(Place, Read<Carp>)>,
}

impl Groups {
    pub(in crate::config) fn find(&self, name: &str) -> Option<&Carp> {
        self.list.iter().filter_map(|(_, group)| group.as_ref().ok()).find(|g| g.name == name)
    }

    pub(in crate::config) fn into_list(self) -> Read<Vec<Carp>> {
        self.list.into_iter().map(|(_, group)| group).collect()
    }
}

/// `[[carp]]`.
pub(in crate::config) fn groups(
    roots: &Roots<'_>,
    interfaces: &Names<String>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Groups {
    let tables = roots.all(&CARP, report);
    if let Some(Ok(table)) = tables.get(MAX) {
        report.add(table.place, ErrorKind::TooMany { what: "carp groups", max: MAX });
    }
    let mut reader =
        Reader { interfaces, system, names: Names::new("carp"), vhids: Names::new("vhid") };
    let list = tables
        .into_iter()
        .map(|table| {
            let place = table.map_or(Place::START, |table| table.place);
            (place, table.and_then(|table| reader.group(&table, report)))
        })
        .collect();
    Groups { names: reader.names, list }
}

struct Reader<'a> {
    interfaces: &'a Names<String>,
    system: &'a dyn System,
    names: Names<String>,
    /// As `7 on eth0`.
    vhids: Names<String>,
}

impl Reader<'_> {
    fn group(&mut self, table: &Table<'_>, report: &mut Report<'_>) -> Read<Carp> {
        let name = table
            .required_text("name", "\"main\"", report)
            .and_then(|name| raw::name(name, report));
        let name = self.names.claim(name, report);
        let interface = vip::interface_name(table, self.interfaces, report);
        let vhid = self.vhid(table, interface.as_deref().ok(), report);
        let auth = table.word("auth", report).map(|word| word.unwrap_or(AuthWord::Ucarp));
        let timing = timing::read(table, auth, report);
        let authentication = keys::auth(table, auth, self.system, report);
        let transport = transport(table, auth, report);
        let peers = addresses(table, "peers", report);
        let sources = sources(table, report);
        let addresses = addresses_by(table, report);
        let mac = mac(table, addresses, report);
        let tie_break = table.word("tie_break", report);
        let neutral = table.boolean("neutral", report);
        let ignore_link = table.boolean("ignore_link", report);
        let sync_group = sync_group(table, report);
        let refresh = refresh(table, auth, report);
        let hooks = hooks(table, addresses, self.system, report);
        let demotion = demotion(table, self.system, report);

        let (timing, auth, transport) = (timing?, auth?, transport?);
        let (peers, sources) = (peers?.unwrap_or_default(), sources?);
        if peers.is_empty() && matches!(transport, CarpTransport::Unicast { .. }) {
            return Err(table.lacks("peers", "[\"192.0.2.3\"]", report));
        }
        if let Some(own) = sources.iter().find(|source| peers.contains(source)) {
            let place = table.get("peers").map_or(table.place, |peers| peers.place);
            return Err(report.add(place, ErrorKind::PeerIsSelf { address: *own }));
        }
        let legacy = auth == AuthWord::Ucarp;
        Ok(Carp {
            name: name?.value,
            interface: interface?,
            vhid: vhid?,
            advbase: timing.advbase,
            advskew: timing.advskew,
            deadratio: timing.deadratio,
            preempt: timing.preempt,
            preempt_delay: timing.preempt_delay,
            neutral: neutral?.unwrap_or(false),
            auth: authentication?,
            transport,
            peers,
            sources,
            mac: mac?,
            tie_break: tie_break?.unwrap_or(match legacy {
                true => TieBreak::UcarpLe,
                false => TieBreak::Numeric,
            }),
            ignore_link: ignore_link?.unwrap_or(false),
            sync_group: sync_group?,
            announce_refresh: refresh?,
            hooks: hooks?,
            addresses: addresses?,
            demotion: demotion?,
        })
    }

    fn vhid(
        &mut self,
        table: &Table<'_>,
        interface: Option<&str>,
        report: &mut Report<'_>,
    ) -> Read<u8> {
        let Some(vhid) = table.integer("vhid", 1..=255, report)? else {
            return Err(table.lacks("vhid", "7", report));
        };
        if let Some(interface) = interface {
            let place = table.get("vhid").map_or(table.place, |vhid| vhid.place);
            self.vhids.claim(Ok(At { place, value: format!("{vhid} on {interface}") }), report)?;
        }
        Ok(u8::try_from(vhid).expect("at most 255"))
    }
}

// === The wire ===

fn transport(
    table: &Table<'_>,
    auth: Read<AuthWord>,
    report: &mut Report<'_>,
) -> Read<CarpTransport> {
    let word = table.word("transport", report);
    let group = multicast(table, report);
    let min_ttl = table.integer("min_ttl", 1..=255, report);
    match word?.unwrap_or(TransportWord::Multicast) {
        TransportWord::Unicast => {
            let multicast = "`transport = \"multicast\"` or `\"broadcast\"`";
            without_effect(table, &["group"], multicast, report)?;
            if auth? == AuthWord::Ucarp {
                let place = table.get("transport").map_or(table.place, |word| word.place);
                return Err(report.add(place, ErrorKind::UnicastToUcarp));
            }
            let min_ttl = min_ttl?.map_or(255, |ttl| u8::try_from(ttl).expect("at most 255"));
            Ok(CarpTransport::Unicast { min_ttl })
        }
        word => {
            without_effect(table, &["min_ttl"], "`transport = \"unicast\"`", report)?;
            let group = group?.unwrap_or(DEFAULT_GROUP);
            Ok(match word {
                TransportWord::Broadcast => CarpTransport::Broadcast { group },
                _ => CarpTransport::Multicast { group },
            })
        }
    }
}

fn multicast(table: &Table<'_>, report: &mut Report<'_>) -> Read<Option<Ipv4Addr>> {
    let Some(At { place, value: text }) = table.text("group", report)? else { return Ok(None) };
    match text.parse::<Ipv4Addr>() {
        Ok(group) if group.is_multicast() => Ok(Some(group)),
        _ => Err(report.add(place, ErrorKind::NoMulticastGroup { text: text.to_owned() })),
    }
}

/// One address, or a list of one for each family.
fn sources(table: &Table<'_>, report: &mut Report<'_>) -> Read<Vec<IpAddr>> {
    const KEY: &str = "source";
    let Some(At { place, value }) = table.get(KEY) else { return Ok(Vec::new()) };
    if matches!(value, DeValue::String(_)) {
        let text = raw::text(At { place, value }, "an address", report)?;
        return Ok(vec![vip::address(text, report)?.value]);
    }
    let sources = addresses(table, KEY, report)?.unwrap_or_default();
    for family in [IpAddr::is_ipv4, IpAddr::is_ipv6] {
        if sources.iter().filter(|source| family(source)).count() > 1 {
            return Err(report.add(place, ErrorKind::ManySources));
        }
    }
    Ok(sources)
}

/// A list of addresses of hosts, each only once.
pub(super) fn addresses(
    table: &Table<'_>,
    key: &'static str,
    report: &mut Report<'_>,
) -> Read<Option<Vec<IpAddr>>> {
    let Some(elements) = table.array(key, report)? else { return Ok(None) };
    let mut taken = Names::new("peer");
    let addresses: Vec<_> = elements
        .value
        .into_iter()
        .map(|element| {
            let text = raw::text(element, "an address such as \"192.0.2.3\"", report)?;
            let address = vip::address(text, report);
            Ok(taken.claim(address, report)?.value)
        })
        .collect();
    addresses.into_iter().collect::<Read<_>>().map(Some)
}

// === Addresses ===

fn addresses_by(table: &Table<'_>, report: &mut Report<'_>) -> Read<AddressesBy> {
    Ok(table.word("addresses", report)?.unwrap_or(AddressesBy::Pen))
}

fn mac(table: &Table<'_>, addresses: Read<AddressesBy>, report: &mut Report<'_>) -> Read<CarpMac> {
    match (table.word("mac", report)?, addresses?) {
        // The kernel answers for an address that it holds, with its own MAC.
        (Some(CarpMac::Virtual), AddressesBy::Hooks) => {
            let needs = "`addresses = \"pen\"`";
            without_effect(table, &["mac"], needs, report).map(|()| CarpMac::Interface)
        }
        (None, AddressesBy::Hooks) => Ok(CarpMac::Interface),
        (word, _) => Ok(word.unwrap_or(CarpMac::Virtual)),
    }
}

fn sync_group(table: &Table<'_>, report: &mut Report<'_>) -> Read<Option<String>> {
    let Some(name) = table.text("sync_group", report)? else { return Ok(None) };
    Ok(Some(raw::name(name, report)?.value))
}

fn refresh(
    table: &Table<'_>,
    auth: Read<AuthWord>,
    report: &mut Report<'_>,
) -> Read<Option<Duration>> {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    // ucarp tells nobody again, and its successor is not to surprise anybody.
    let default = match auth {
        Ok(AuthWord::Ucarp) => None,
        _ => Some(Duration::from_secs(60)),
    };
    match duration(table, "announce_refresh", Duration::ZERO, DAY, report)? {
        None => Ok(default),
        Some(At { value: Duration::ZERO, .. }) => Ok(None),
        Some(At { value, .. }) if value >= Duration::from_secs(1) => Ok(Some(value)),
        Some(At { place, value }) => {
            let found = humantime::format_duration(value).to_string();
            let (min, max) = ("1s".to_owned(), "1day, or 0s for never".to_owned());
            let kind = ErrorKind::OutOfRange { key: "announce_refresh", found, min, max };
            Err(report.add(place, kind))
        }
    }
}

// === Hooks and health ===

fn hooks(
    table: &Table<'_>,
    addresses: Read<AddressesBy>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<Hooks> {
    let up = hook(table, "up", system, report);
    let down = hook(table, "down", system, report);
    let xparam = table.text("xparam", report).map(|text| text.map(|at| at.value.to_owned()));
    let down_at_exit = table.boolean("down_at_exit", report);
    let mut useless = Ok(());
    if !table.has("down") {
        useless = without_effect(table, &["down_at_exit"], "`down`", report);
        if !table.has("up") {
            let xparam = without_effect(table, &["xparam"], "`up` or `down`", report);
            useless = useless.and(xparam);
        }
    }
    if addresses? == AddressesBy::Hooks && !table.has("up") {
        return Err(table.lacks("up", "\"/etc/pen/vip-up.sh\"", report));
    }
    useless?;
    let down_at_exit = down_at_exit?.unwrap_or(false);
    Ok(Hooks { up: up?, down: down?, xparam: xparam?, down_at_exit })
}

fn hook(
    table: &Table<'_>,
    key: &'static str,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<Option<PathBuf>> {
    let Some(At { place, value: path }) = table.text(key, report)? else { return Ok(None) };
    let path = PathBuf::from(path);
    if !path.is_absolute() {
        return Err(report.add(place, ErrorKind::HookNotAbsolute { path }));
    }
    match system.runnable(&path) {
        Ok(()) => Ok(Some(path)),
        Err(error) => {
            let reason = error.to_string();
            Err(report.add(place, ErrorKind::HookUnusable { path, reason }))
        }
    }
}

fn demotion(owner: &Table<'_>, system: &dyn System, report: &mut Report<'_>) -> Read<Demotion> {
    let default = Demotion::default();
    let Some(table) = owner.table("demote_on", &DEMOTE_ON, report)? else { return Ok(default) };
    let no_backend = weight(&table, "no_backend", report);
    let xdp_detached = weight(&table, "xdp_detached", report);
    let sync_incomplete = weight(&table, "sync_incomplete", report);
    let exists =
        |name: At<&str>, report: &mut Report<'_>| node::existing_interface(name, system, report);
    let interfaces = tracked(&table, &INTERFACE, "\"eth1\"", exists, report);
    // Whether there is such a service is known later.
    let any = |name: At<&str>, _: &mut Report<'_>| {
        Ok(At { place: name.place, value: name.value.to_owned() })
    };
    let services = tracked(&table, &SERVICE, "\"web\"", any, report);
    Ok(Demotion {
        no_backend: no_backend?.unwrap_or(default.no_backend),
        xdp_detached: xdp_detached?.unwrap_or(default.xdp_detached),
        sync_incomplete: sync_incomplete?.unwrap_or(default.sync_incomplete),
        interfaces: interfaces?,
        services: services?,
    })
}

fn weight(table: &Table<'_>, key: &'static str, report: &mut Report<'_>) -> Read<Option<u8>> {
    let weight = table.integer(key, 0..=u32::from(MAX_DEMOTION), report)?;
    Ok(weight.map(|weight| u8::try_from(weight).expect("at most 240")))
}

fn tracked(
    table: &Table<'_>,
    spec: &'static Spec,
    example: &'static str,
    exists: impl Fn(At<&str>, &mut Report<'_>) -> Read<At<String>>,
    report: &mut Report<'_>,
) -> Read<Vec<(String, u8)>> {
    let Some(elements) = table.array(spec.name, report)? else { return Ok(Vec::new()) };
    let mut taken = Names::new(spec.name);
    let what = spec.title.trim_end_matches(" of `demote_on`");
    let expected = format!("{what}, written {example} or `{{ name = {example}, weight = 100 }}`");
    let tracked: Vec<_> = elements
        .value
        .into_iter()
        .map(|element| {
            let (name, weight) = match element.value {
                DeValue::String(name) => (At { place: element.place, value: &**name }, None),
                _ => {
                    let tracked = raw::element(element, spec, &expected, report)?;
                    let weight = weight(&tracked, "weight", report);
                    (tracked.required_text("name", example, report)?, weight?)
                }
            };
            let name = exists(name, report);
            Ok((taken.claim(name, report)?.value, weight.unwrap_or(MAX_DEMOTION)))
        })
        .collect();
    tracked.into_iter().collect()
}
