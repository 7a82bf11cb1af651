//! How two configurations differ, for people: what came, what went, which values changed. Compares
//! by what the engine knows things by, so that a service that was renamed is not another one.

mod groups;
mod names;
mod notify;
mod tls;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::time::Duration;

use pen_common::abi::ServiceKey;

use super::merge::service_key;
use crate::api::{ChangeKind, ConfigChange};
use crate::config::{self, Access, Acl, Check, CheckKind, Config, Endpoint, Init, Service};

/// Values of a list that are shown: a message must fit a terminal.
const SHOWN: usize = 8;

/// What a part of a configuration is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Id {
    Node,
    Interface(String),
    Acl(String),
    Group(String),
    Vip(IpAddr),
    Notify(String),
    Service(ServiceKey),
    Backend(ServiceKey, IpAddr, u16),
    /// The name of servers, whether records say their ports, and the port.
    Named(ServiceKey, String, bool, u16),
}

/// A part of a configuration in words.
struct Item {
    id: Id,
    subject: String,
    /// All of it in short, for one that comes or goes.
    summary: String,
    fields: Vec<Field>,
}

struct Field {
    key: &'static str,
    values: Vec<String>,
    /// Flows that are established do not outlive a change of it.
    moves_flows: bool,
}

/// The differences, in the order of the new configuration; what is gone comes last.
pub(super) fn changes(old: &Config, new: &Config) -> Vec<ConfigChange> {
    let mut secrets = groups::secrets(old, new);
    secrets.extend(notify::paths(old, new));
    let (old, new) = (items(old), items(new));
    let before: BTreeMap<&Id, &Item> = old.iter().map(|item| (&item.id, item)).collect();
    let after: BTreeMap<&Id, &Item> = new.iter().map(|item| (&item.id, item)).collect();
    // Backends of a service that comes or goes as a whole are not worth lines of their own.
    let is_told = |id: &Id| match id {
        Id::Backend(service, ..) | Id::Named(service, ..) => {
            let service = Id::Service(*service);
            before.contains_key(&service) && after.contains_key(&service)
        }
        _ => true,
    };
    let mut changes = Vec::new();
    for item in &new {
        match before.get(&item.id) {
            Some(before) => changes.extend(changed(before, item)),
            None if is_told(&item.id) => changes.push(ConfigChange {
                kind: ChangeKind::Added,
                subject: item.subject.clone(),
                key: None,
                was: None,
                now: Some(item.summary.clone()),
                moves_flows: false,
            }),
            None => {}
        }
    }
    changes.extend(secrets);
    for item in old.iter().filter(|item| !after.contains_key(&item.id) && is_told(&item.id)) {
        changes.push(ConfigChange {
            kind: ChangeKind::Removed,
            subject: item.subject.clone(),
            key: None,
            was: Some(item.summary.clone()),
            now: None,
            // A backend goes on to serve the flows that it has.
            moves_flows: matches!(item.id, Id::Service(_) | Id::Vip(_)),
        });
    }
    changes
}

/// Values that differ.
fn changed(before: &Item, after: &Item) -> Vec<ConfigChange> {
    let fields = before.fields.iter().zip(&after.fields);
    let differ = fields.filter(|(before, after)| before.values != after.values);
    differ
        .map(|(was, now)| ConfigChange {
            kind: ChangeKind::Changed,
            // A name that changed is told of the old one.
            subject: if now.key == "name" { &before.subject } else { &after.subject }.clone(),
            key: Some(now.key.to_owned()),
            was: beside(&was.values, &now.values),
            now: beside(&now.values, &was.values),
            moves_flows: now.moves_flows,
        })
        .collect()
}

/// Those of `values` that are not among the others.
fn beside(values: &[String], others: &[String]) -> Option<String> {
    let own: Vec<&str> =
        values.iter().filter(|value| !others.contains(value)).map(String::as_str).collect();
    let mut text = own.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    if own.len() > SHOWN {
        text.push_str(", ...");
    }
    (!own.is_empty()).then_some(text)
}

// === Items ===

fn items(config: &Config) -> Vec<Item> {
    let mut items = vec![node(config)];
    items.extend(config.interfaces.iter().map(interface));
    items.extend(config.acls.iter().map(acl));
    items.extend(config.carp.iter().map(groups::group));
    items.extend(config.vips.iter().map(vip));
    items.extend(config.notify.iter().map(notify::receiver));
    for of in &config.services {
        items.push(service(of));
        items.extend(of.all_backends().map(|found| backend(of, found)));
        items.extend(of.names.iter().map(|found| names::named(of, found)));
    }
    items
}

fn field(key: &'static str, value: impl Display) -> Field {
    Field { key, values: vec![value.to_string()], moves_flows: false }
}

/// One whose change established flows do not survive.
fn vital(key: &'static str, value: impl Display) -> Field {
    Field { moves_flows: true, ..field(key, value) }
}

fn maybe(value: Option<impl Display>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

fn node(Config { node, access_log: log, responder, .. }: &Config) -> Item {
    let mut listens = field("responder", "none");
    let (mut port, mut webroot) = ("none".to_owned(), "none".to_owned());
    if let Some(responder) = responder {
        listens.values = responder.listen.iter().map(ToString::to_string).collect();
        port = responder.https_port.to_string();
        webroot = maybe(responder.webroot.as_ref().map(|path| path.display()));
    }
    Item {
        id: Id::Node,
        subject: "node".to_owned(),
        summary: node.name.clone(),
        fields: vec![
            field("name", &node.name),
            field("masquerade_ports", node.masquerade_ports),
            names::resolvers(node),
            field("flows", node.sizes.flows),
            field("clients", node.sizes.clients),
            field("translations", node.sizes.translations),
            field("drain_at_exit", maybe(node.drain_at_exit.map(humantime::format_duration))),
            field("access_log", maybe(log.as_ref().map(|log| log.file.display().to_string()))),
            listens,
            field("responder https_port", port),
            field("responder webroot", webroot),
        ],
    }
}

fn interface(interface: &config::Interface) -> Item {
    Item {
        id: Id::Interface(interface.name.clone()),
        subject: format!("interface {}", interface.name),
        summary: format!("xdp {}", interface.xdp),
        fields: vec![field("xdp", interface.xdp)],
    }
}

fn acl(acl: &Acl) -> Item {
    let networks = |key, wanted: Access| {
        let of_it = acl.networks.iter().filter(|(_, access)| *access == wanted);
        let values = of_it.map(|(network, _)| network.to_string()).collect();
        Field { key, values, moves_flows: false }
    };
    Item {
        id: Id::Acl(acl.name.clone()),
        subject: format!("acl {}", acl.name),
        summary: format!("{} networks, default {}", acl.networks.len(), acl.default),
        fields: vec![
            networks("allow", Access::Allow),
            networks("deny", Access::Deny),
            field("default", acl.default),
        ],
    }
}

fn vip(vip: &config::Vip) -> Item {
    Item {
        id: Id::Vip(vip.address),
        subject: format!("vip {}", vip.address),
        summary: format!("interface {}", vip.interface),
        fields: vec![
            field("interface", &vip.interface),
            vital("carp", maybe(vip.carp.as_ref())),
            field("echo", vip.echo),
            field("acl", maybe(vip.acl.as_ref())),
            field("syn_rate", maybe(vip.syn_rate)),
        ],
    }
}

fn service(service: &Service) -> Item {
    let listen = match service.listens() {
        Endpoint::Inet(_) => format!("{}/{}", service.listen, service.protocol),
        Endpoint::Unix(path) => path.to_string(),
    };
    let (memory, check) = (&service.memory, &service.check);
    let count = service.backends.len() + service.names.len();
    Item {
        id: Id::Service(service_key(service)),
        subject: format!("service {}", service.name),
        summary: format!("{listen}, mode {}, {count} backends", service.mode),
        fields: vec![
            field("name", &service.name),
            field("listen", listen),
            vital("mode", service.mode),
            vital("affinity", service.affinity),
            vital("slots", memory.slots),
            vital("affinity_prefix_v4", memory.prefix_v4),
            vital("affinity_prefix_v6", memory.prefix_v6),
            field("affinity_ttl", humantime::format_duration(memory.affinity_ttl)),
            field("settle", humantime::format_duration(memory.settle)),
            field("stubborn", service.stubborn),
            field("check", words(check)),
            field("judgement", judgement_words(&service.judgement)),
            field("proxy", maybe(service.proxy.as_deref().map(proxy_words))),
            field("tls", maybe(service.proxy.as_deref().and_then(tls_words))),
            field("backend_tls", maybe(service.proxy.as_deref().and_then(backend_tls_words))),
        ],
    }
}

fn words(check: &Check) -> String {
    let agent = check.agent.as_ref().map_or_else(String::new, |agent| format!(", {agent}"));
    if check.kind == CheckKind::None {
        return format!("{}{agent}", check.kind);
    }
    let how = &check.kind;
    let at = check.address.map_or_else(String::new, |address| format!(" at {address}"));
    let init = match check.init {
        Init::First => String::new(),
        init => format!(", init {init}"),
    };
    let port = check.port.map_or_else(String::new, |port| format!(" port {port}"));
    let through = if check.tunnel { " through the tunnel" } else { "" };
    let (interval, timeout) = (check.interval, check.timeout);
    let times = [interval, timeout].map(humantime::format_duration);
    let [interval, timeout] = times;
    let (rise, fall) = (check.rise, check.fall);
    let other = |word: &str, time: Duration| match time == check.interval {
        true => String::new(),
        false => format!(", {word} interval {}", humantime::format_duration(time)),
    };
    let jitter = match check.jitter {
        0 => String::new(),
        percent => format!(", jitter {percent}%"),
    };
    let (fast, down) = (other("fast", check.fast_interval), other("down", check.down_interval));
    format!(
        "{how}{at}{port}{through}, interval {interval}{fast}{down}{jitter}, timeout {timeout}, rise {rise}, fall {fall}{init}{agent}"
    )
}

/// How backends are judged together, as the configuration calls it.
fn judgement_words(judgement: &config::Judgement) -> String {
    let config::Judgement { panic, panic_threshold, max_ejected, quorum, .. } = judgement;
    let config::Judgement { quorum_hysteresis, slow_start, track, eject, eject_max, .. } =
        judgement;
    let panic = match panic_threshold {
        0 => "-".to_owned(),
        threshold => format!("{panic} below {threshold} %"),
    };
    let quorum = maybe(quorum.map(|quorum| format!("{quorum} +{quorum_hysteresis}")));
    let slow_start = humantime::format_duration(*slow_start);
    let [eject, eject_max] = [eject, eject_max].map(|time| humantime::format_duration(*time));
    format!(
        "panic {panic}, eject {eject} to {eject_max}, max_ejected {max_ejected}, quorum {quorum}, slow_start {slow_start}, track {}",
        maybe(track.as_ref())
    )
}

fn tls_words(proxy: &config::Proxy) -> Option<String> {
    proxy.tls.as_deref().map(tls::words)
}

fn backend_tls_words(proxy: &config::Proxy) -> Option<String> {
    proxy.backend_tls.as_deref().map(tls::backend_words)
}

/// What only a proxy has, as the configuration calls it.
fn proxy_words(proxy: &config::Proxy) -> String {
    let config::Proxy { scheduler, timeouts, eject, eject_max, eject_resets, .. } = proxy;
    let max_connections = proxy.max_connections;
    let config::Proxy { max_per_source, queue, acl, abuse, .. } = proxy;
    let config::Proxy { accept_proxy, send_proxy, forwarded_for, fast_close, socket, .. } = proxy;
    let routes = tls::routes_words(&proxy.routes);
    let transparent = proxy.transparent;
    let times = [
        ("connect", timeouts.connect),
        ("client", timeouts.client),
        ("server", timeouts.server),
        ("tunnel", timeouts.tunnel),
        ("half_closed", timeouts.half_closed),
        ("queue", timeouts.queue),
        ("header", timeouts.header),
        ("udp", timeouts.udp),
    ];
    let times = times.map(|(key, time)| format!("{key} {}", humantime::format_duration(time)));
    format!(
        "scheduler {scheduler}, timeouts ({}), eject {} to {}, eject_resets {eject_resets}, max_connections {}, max_per_source {}, \
         queue {queue}, acl {}, abuse {}, accept_proxy {}, send_proxy {}, forwarded_for {}, \
         fast_close {fast_close}, transparent {transparent}, routes {routes}{}",
        times.join(", "),
        humantime::format_duration(*eject),
        humantime::format_duration(*eject_max),
        maybe(max_connections),
        maybe(*max_per_source),
        maybe(acl.as_ref()),
        maybe(abuse.as_ref().map(config::Backend::endpoint)),
        maybe(accept_proxy.as_ref()),
        maybe(*send_proxy),
        maybe(*forwarded_for),
        socket.as_ref().map_or_else(String::new, file_words),
    )
}

/// What the file of a service's Unix socket is like.
fn file_words(file: &config::SocketFile) -> String {
    let owner = [&file.owner, &file.group].map(|name| name.as_deref().unwrap_or("-"));
    format!(", listen_mode {:04o}, listen_owner {}", file.mode, owner.join(":"))
}

fn backend(service: &Service, backend: &config::Backend) -> Item {
    let is_emergency = service.emergency.as_ref() == Some(backend);
    let address = match backend.endpoint() {
        Endpoint::Inet(at) if at.port() == 0 => at.ip().to_string(),
        endpoint => endpoint.to_string(),
    };
    let rest = if is_emergency {
        "for emergencies".to_owned()
    } else {
        format!("weight {}", backend.weight)
    };
    Item {
        id: Id::Backend(service_key(service), backend.address, backend.port),
        subject: format!("backend {}/{}", service.name, backend.name),
        summary: format!("{address}, {rest}"),
        fields: vec![
            field("name", &backend.name),
            field("weight", backend.weight),
            field("max_connections", maybe(backend.limits.max_connections)),
            field("max_known", maybe(backend.limits.max_known)),
            field("prio", backend.limits.prio),
            field("emergency", is_emergency),
        ],
    }
}
