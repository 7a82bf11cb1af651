//! Turns the daemon's answers into text for a person or a pipe: aligned columns on a terminal, with
//! colour where it helps, and tab-separated values elsewhere. Pure; the binary prints.

mod carp;
mod certificates;
mod changes;
mod decap;
mod draining;
mod notify;
mod probes;
mod sync;
mod table;

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

pub use self::carp::{carp_group, carp_groups, carp_ordered, no_such_group};
pub use self::certificates::certificates;
pub use self::changes::{change_lines, changes};
pub use self::decap::decap;
pub use self::draining::draining;
pub use self::notify::notify_tested;
pub use self::probes::probes;
pub use self::sync::sync;
pub use self::table::Style;
use self::table::{Cell, Paint, Table, cell, painted, plain, short};
use crate::api::{
    Backend, Change, Client, Clients, Closed, Connections, Counter, Event, Explanation, Flow,
    Flows, Health, Left, Service, Simulation, Status, Vip,
};
use crate::config::Endpoint;

/// `penctl status`.
#[must_use]
pub fn status(status: &Status, style: Style) -> String {
    let mut text = format!(
        "node {}, pen {}, up {}, process {}\n",
        status.node,
        status.version,
        short(Duration::from_secs(status.uptime_s)),
        status.pid
    );
    let _ = writeln!(
        text,
        "{} services, {} of {} backends usable",
        status.services, status.backends_usable, status.backends
    );
    for service in &status.services_down {
        let line = format!("service {service} has no usable backend");
        text.push_str(&painted(&cell(line, Paint::Bad), style));
        text.push('\n');
    }
    for group in &status.carp {
        let paint = if group.role == "master" { Paint::Good } else { Paint::Plain };
        let line = cell(format!("group {} is {}", group.name, group.role), paint);
        text.push_str(&painted(&line, style));
        text.push('\n');
    }
    for peer in &status.peers {
        text.push_str(&painted(&sync::line(peer), style));
        text.push('\n');
    }
    for warning in &status.warnings {
        text.push_str(&painted(&cell(format!("warning: {warning}"), Paint::Odd), style));
        text.push('\n');
    }
    let mut table = Table::new(&["INTERFACE", "LINK", "XDP", "WANTED", "NOTE"]);
    for interface in &status.interfaces {
        let link = if interface.up { ("up", Paint::Good) } else { ("down", Paint::Bad) };
        let paint = match interface.xdp.as_str() {
            "native" => Paint::Good,
            "generic" => Paint::Odd,
            _ => Paint::Bad,
        };
        table.row([
            plain(&interface.name),
            cell(link.0, link.1),
            cell(&interface.xdp, paint),
            plain(&interface.wanted),
            plain(interface.note.as_deref().unwrap_or("-")),
        ]);
    }
    text + &table.render(style)
}

/// `penctl services`.
#[must_use]
pub fn services(services: &[Service], style: Style) -> String {
    let mut table = Table::new(&[
        "SERVICE", "LISTEN", "MODE", "AFFINITY", "USABLE", "SETTLED", "PACKETS", "BYTES",
    ]);
    for service in services {
        let paint = match service.usable {
            0 => Paint::Bad,
            usable if usable < service.total => Paint::Odd,
            _ => Paint::Good,
        };
        table.row([
            plain(&service.name),
            plain(listen(service)),
            plain(&service.mode),
            plain(&service.affinity),
            cell(format!("{}/{}", service.usable, service.total), paint),
            settled(service),
            plain(service.packets),
            plain(service.bytes),
        ]);
    }
    table.render(style)
}

/// Not rounded up: 100 % means that nothing has to be looked up.
fn settled(service: &Service) -> Cell {
    let percent = format!("{:.1}%", (10.0 * service.settled).floor() / 10.0);
    match service.settled_in_ms {
        None => plain(percent),
        Some(left) => {
            let left = short(Duration::from_millis(left));
            cell(format!("{percent}, all in {left}"), Paint::Odd)
        }
    }
}

fn listen(service: &Service) -> String {
    let Service { listen, last_port, protocol, .. } = service;
    match listen {
        Endpoint::Inet(at) if *last_port > at.port() => format!("{at}-{last_port}/{protocol}"),
        Endpoint::Inet(at) => format!("{at}/{protocol}"),
        Endpoint::Unix(path) => path.to_string(),
    }
}

/// `penctl backends`.
#[must_use]
pub fn backends(backends: &[Backend], style: Style) -> String {
    let mut table = Table::new(&[
        "BACKEND", "ADDRESS", "ADMIN", "HEALTH", "WEIGHT", "SHARE", "PACKETS", "BYTES", "MAC",
        "SINCE", "WHY NOT",
    ]);
    for backend in backends {
        let paint = match (backend.usable, backend.health) {
            (true, _) => Paint::Good,
            (false, Health::Down) => Paint::Bad,
            (false, _) => Paint::Odd,
        };
        table.row([
            cell(format!("{}/{}", backend.service, backend.name), paint),
            plain(match backend.address.parse() {
                Ok(address) => SocketAddr::new(address, backend.port).to_string(),
                Err(_) => backend.address.clone(),
            }),
            plain(backend.admin),
            plain(backend.health),
            plain(if backend.emergency {
                "emergency".to_owned()
            } else {
                backend.weight.to_string()
            }),
            plain(format!("{:.1}%", backend.share)),
            plain(backend.packets),
            plain(backend.bytes),
            plain(backend.mac.as_deref().unwrap_or("-")),
            plain(short(Duration::from_millis(backend.since_ms))),
            plain(why_not(backend)),
        ]);
    }
    table.render(style)
}

/// Why it gets nothing new, and what is still there.
fn why_not(backend: &Backend) -> String {
    match (&backend.why, &backend.draining) {
        (None, None) => "-".to_owned(),
        (Some(why), None) => why.clone(),
        // The reason tells what was ended.
        (Some(why), Some(left)) if left.over => why.clone(),
        (Some(why), Some(left)) => format!("{why}; {}", draining(left)),
        (None, Some(left)) => draining(left),
    }
}

/// `penctl vips`.
#[must_use]
pub fn vips(vips: &[Vip], style: Style) -> String {
    let mut table = Table::new(&[
        "ADDRESS",
        "INTERFACE",
        "ROLE",
        "GROUP",
        "MAC",
        "ECHO",
        "ACL",
        "SYN RATE",
        "SERVICES",
    ]);
    for vip in vips {
        let paint = if vip.role == "master" { Paint::Good } else { Paint::Odd };
        table.row([
            plain(vip.address),
            plain(&vip.interface),
            cell(&vip.role, paint),
            plain(vip.carp.as_deref().unwrap_or("-")),
            plain(vip.mac.as_deref().unwrap_or("-")),
            plain(if vip.echo { "yes" } else { "no" }),
            plain(vip.acl.as_deref().unwrap_or("-")),
            plain(vip.syn_rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate}/s"))),
            plain(if vip.services.is_empty() { "-".to_owned() } else { vip.services.join(",") }),
        ]);
    }
    table.render(style)
}

/// `penctl counters`; those that are zero are left out on a terminal.
#[must_use]
pub fn counters(counters: &[Counter], style: Style) -> String {
    let mut table = Table::new(&["COUNTER", "PACKETS", "BYTES", "REASON"]);
    for counter in counters {
        if style.aligned && counter.packets == 0 {
            continue;
        }
        let paint = if counter.name.starts_with("drop-") { Paint::Bad } else { Paint::Plain };
        table.row([
            cell(&counter.name, paint),
            plain(counter.packets),
            plain(counter.bytes),
            plain(&counter.reason),
        ]);
    }
    table.render(style)
}

/// `penctl events`.
#[must_use]
pub fn events(events: &[Event], style: Style) -> String {
    let mut table = Table::new(&["NUMBER", "AT", "KIND", "SUBJECT", "TEXT"]);
    for event in events {
        let paint = match event.kind.as_str() {
            kind if kind.ends_with("-down") || kind.ends_with("-failed") => Paint::Bad,
            kind if kind.ends_with("-up") => Paint::Good,
            _ => Paint::Plain,
        };
        let at = Duration::from_millis(event.at_ms);
        table.row([
            plain(event.sequence),
            plain(format!("+{:.3}s", at.as_secs_f64())),
            cell(&event.kind, paint),
            plain(&event.subject),
            plain(&event.text),
        ]);
    }
    table.render(style)
}

/// `penctl flows`.
#[must_use]
pub fn flows(flows: &Flows, style: Style) -> String {
    let mut table = Table::new(&[
        "SERVICE", "CLIENT", "VIP", "BACKEND", "ADDRESS", "KIND", "SEEN AS", "AGE", "STATE",
    ]);
    for flow in &flows.flows {
        let Flow { kind, service, client, vip, backend, address, seen_as, age_ms, live, why } =
            flow;
        table.row([
            known(service),
            plain(client),
            known(vip),
            known(backend),
            known(address),
            plain(kind),
            known(seen_as),
            plain(short(Duration::from_millis(*age_ms))),
            standing(*live, why.as_deref()),
        ]);
    }
    table.render(style)
}

/// `penctl clients`.
#[must_use]
pub fn clients(clients: &Clients, style: Style) -> String {
    let mut table = Table::new(&["SERVICE", "CLIENT", "BACKEND", "ADDRESS", "AGE", "STATE"]);
    for Client { service, client, backend, address, age_ms, live, why } in &clients.clients {
        table.row([
            known(service),
            plain(client),
            known(backend),
            known(address),
            plain(short(Duration::from_millis(*age_ms))),
            standing(*live, why.as_deref()),
        ]);
    }
    table.render(style)
}

/// `penctl connections`.
#[must_use]
pub fn connections(connections: &Connections, style: Style) -> String {
    let mut table = Table::new(&[
        "ID", "PROTO", "SERVICE", "CLIENT", "BACKEND", "ADDRESS", "STATE", "AGE", "IDLE", "UP",
        "DOWN",
    ]);
    for connection in &connections.connections {
        let short = |millis: u64| plain(short(Duration::from_millis(millis)));
        table.row([
            plain(connection.id),
            plain(&connection.protocol),
            plain(&connection.service),
            plain(&connection.client),
            known(&connection.backend),
            known(&connection.address),
            plain(&connection.state),
            short(connection.age_ms),
            short(connection.idle_ms),
            plain(connection.bytes_up),
            plain(connection.bytes_down),
        ]);
    }
    table.render(style)
}

/// `penctl close`.
#[must_use]
pub fn closed(closed: &Closed) -> String {
    let verb = if closed.dry_run { "would be closed" } else { "closed" };
    let plural = if closed.closed == 1 { "connection" } else { "connections" };
    format!("{} {plural} {verb}\n", closed.closed)
}

/// `penctl leave`.
#[must_use]
pub fn left(left: &Left) -> String {
    let Left { pid, interfaces } = left;
    match &interfaces[..] {
        [] => format!("pend (process {pid}) has left; it was attached to no interface\n"),
        all => format!(
            "pend (process {pid}) has left; the kernel goes on forwarding on {}\n",
            all.join(", ")
        ),
    }
}

/// What a list leaves out, if it does; not part of the list, so that a pipe gets only rows.
#[must_use]
pub fn left_out(more: u64, complete: bool) -> Option<String> {
    match (more, complete) {
        (0, true) => None,
        (more, true) => Some(format!("{more} more; --limit shows more of them")),
        (more, false) => Some(format!(
            "at least {more} more: time was up before all records were seen; ask again"
        )),
    }
}

fn known<T: ToString>(value: &Option<T>) -> Cell {
    plain(value.as_ref().map_or_else(|| "-".to_owned(), T::to_string))
}

fn standing(live: bool, why: Option<&str>) -> Cell {
    match (live, why) {
        (true, _) => cell("live", Paint::Good),
        (false, Some(why)) => cell(format!("void: {why}"), Paint::Odd),
        (false, None) => cell("void", Paint::Odd),
    }
}

/// `penctl explain`.
#[must_use]
pub fn explanation(explanation: &Explanation, style: Style) -> String {
    let outcome = match (explanation.verdict.as_str(), &explanation.backend, explanation.address) {
        ("forward", Some(backend), Some(address)) => format!("forward to {backend} ({address})"),
        (verdict, ..) => verdict.to_owned(),
    };
    let paint = if explanation.verdict == "drop" { Paint::Bad } else { Paint::Good };
    let mut text = painted(&cell(outcome, paint), style);
    let _ = writeln!(text, ", counted as {}", explanation.counter);
    for step in &explanation.steps {
        let _ = writeln!(text, "  {step}");
    }
    text
}

/// `penctl explain --simulate`.
#[must_use]
pub fn simulation(simulation: &Simulation, style: Style) -> String {
    let mut table = Table::new(&["BACKEND", "FLOWS", "SHARE", "BY WEIGHT"]);
    let percent = |percent: f64| plain(format!("{percent:.2}%"));
    for share in &simulation.shares {
        table.row([
            plain(&share.backend),
            plain(share.flows),
            percent(share.percent),
            percent(share.expected),
        ]);
    }
    for other in &simulation.others {
        let counter = cell(format!("({})", other.counter), Paint::Bad);
        table.row([counter, plain(other.flows), percent(other.percent), plain("-")]);
    }
    table.render(style)
}

/// `penctl drain`, `maint`, `ready` and `weight`.
#[must_use]
pub fn change(change: &Change) -> String {
    let verb = if change.dry_run { "would be" } else { "is" };
    let moves = if change.dry_run { "would move" } else { "moved" };
    if change.was == change.now {
        return format!("{} {verb} {} as before\n", change.subject, change.now);
    }
    format!(
        "{} {verb} {} (was {}), {:.1}% of the slots {moves}\n",
        change.subject, change.now, change.was, change.moved
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Admin;

    fn backend(usable: bool) -> Backend {
        Backend {
            service: "web".into(),
            name: "b1".into(),
            address: "10.0.0.11".into(),
            port: 80,
            weight: 1,
            share: 33.333,
            admin: Admin::Ready,
            health: if usable { Health::Up } else { Health::Down },
            usable,
            emergency: false,
            why: (!usable).then(|| "check failed: connection refused".into()),
            mac: Some("02:00:00:00:00:0b".into()),
            interface: Some("eth0".into()),
            packets: 7,
            bytes: 700,
            signals: None,
            proxy: None,
            since_ms: 65_000,
            draining: None,
        }
    }

    #[test]
    fn a_terminal_gets_aligned_columns() {
        let style = Style { aligned: true, colour: false };
        let text = backends(&[backend(true), backend(false)], style);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "BACKEND  ADDRESS       ADMIN  HEALTH  WEIGHT  SHARE  PACKETS  BYTES  MAC                SINCE  WHY NOT",
                "web/b1   10.0.0.11:80  ready  up      1       33.3%  7        700    02:00:00:00:00:0b  1m5s   -",
                "web/b1   10.0.0.11:80  ready  down    1       33.3%  7        700    02:00:00:00:00:0b  1m5s   check failed: connection refused",
            ]
        );
    }

    #[test]
    fn what_is_left_stands_behind_the_reason() {
        let mut drained = backend(false);
        drained.why = Some("drained by the operator".into());
        let left = crate::api::Draining {
            left: Some(2),
            connections: Some(2),
            ..crate::api::Draining::default()
        };
        drained.draining = Some(left);
        let text = backends(std::slice::from_ref(&drained), Style::default());
        assert!(text.ends_with("\tdrained by the operator; 2 connections left\n"), "{text}");
        let over = crate::api::Draining { over: true, ..crate::api::Draining::default() };
        drained.draining = Some(over);
        let text = backends(&[drained], Style::default());
        assert!(text.ends_with("\tdrained by the operator\n"), "{text}");
    }

    #[test]
    fn a_pipe_gets_tabs_and_no_colour() {
        let text = backends(&[backend(true)], Style::default());
        assert_eq!(text.lines().count(), 2);
        assert!(text.lines().all(|line| line.split('\t').count() == 11), "{text}");
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn colour_marks_what_is_down() {
        let style = Style { aligned: true, colour: true };
        assert!(backends(&[backend(false)], style).contains("\x1b[31mweb/b1\x1b[0m"));
    }

    #[test]
    fn counters_at_zero_are_left_out_for_people_only() {
        let counter = |name: &str, packets| Counter {
            name: name.into(),
            reason: "Sent.".into(),
            packets,
            bytes: 60 * packets,
        };
        let all = [counter("transmit", 3), counter("redirect", 0)];
        let people = Style { aligned: true, colour: false };
        assert_eq!(
            counters(&all, people),
            "COUNTER   PACKETS  BYTES  REASON\ntransmit  3        180    Sent.\n"
        );
        assert_eq!(counters(&all, Style::default()).lines().count(), 3);
    }

    #[test]
    fn a_service_that_moves_says_when_it_will_have_settled() {
        let mut service = Service {
            name: "web".into(),
            listen: "192.0.2.10:80".parse().expect("literal"),
            last_port: 80,
            protocol: crate::config::Protocol::Tcp,
            mode: "dsr".into(),
            affinity: "flow".into(),
            usable: 2,
            total: 3,
            settled: 66.68,
            settled_in_ms: Some(3_540_000),
            packets: 7,
            bytes: 700,
            proxy: None,
        };
        let style = Style { aligned: true, colour: false };
        let row = |service: &Service| {
            let text = services(std::slice::from_ref(service), style);
            text.lines().nth(1).expect("a row").to_owned()
        };
        assert_eq!(
            row(&service),
            "web      192.0.2.10:80/tcp  dsr   flow      2/3     66.6%, all in 59m0s  7        700"
        );
        service.settled = 99.99;
        assert!(row(&service).contains("99.9%, "), "not all of them");
        (service.settled, service.settled_in_ms) = (100.0, None);
        assert!(row(&service).contains("  100.0%  "));
    }

    #[test]
    fn a_change_reads_as_a_sentence() {
        let mut done = Change {
            subject: "web/b1".into(),
            was: "ready".into(),
            now: "drain".into(),
            moved: 33.4,
            dry_run: false,
        };
        assert_eq!(change(&done), "web/b1 is drain (was ready), 33.4% of the slots moved\n");
        done.dry_run = true;
        assert_eq!(
            change(&done),
            "web/b1 would be drain (was ready), 33.4% of the slots would move\n"
        );
        done.was = "drain".into();
        assert_eq!(change(&done), "web/b1 would be drain as before\n");
    }
}
