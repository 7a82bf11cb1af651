//! What the engine tells the proxies, and when.

use std::net::SocketAddr;

use super::*;
use crate::config::{Access, Acl, Listen, Ports, Proxy, SocketFile, UnixPath};
use crate::engine::proxy;

fn proxied(config: &mut Config) {
    config.services[0].mode = Mode::Proxy;
    config.services[0].proxy = Some(Box::new(Proxy::usual()));
}

fn start(change: impl FnOnce(&mut Config)) -> Sim {
    let mut config = config(2);
    proxied(&mut config);
    change(&mut config);
    let mut sim = Sim::start(config);
    sim.run_for(secs(1));
    sim
}

fn service(sim: &Sim) -> &proxy::Service {
    &sim.proxies.services[0]
}

fn states(sim: &Sim) -> Vec<u32> {
    service(sim).backends.iter().map(|backend| backend.state).collect()
}

const UP: u32 = pen_common::abi::Backend::UP;
const DRAIN: u32 = pen_common::abi::Backend::DRAIN;
const DOWN: u32 = pen_common::abi::Backend::DOWN;

#[test]
fn proxies_get_the_table_and_the_secret_that_the_kernel_has() {
    let sim = start(|_| {});
    let service = service(&sim);
    assert_eq!(sim.proxies.secret, sim.maps.cfg.secret);
    let id = sim.maps.services[&service.key].id;
    assert_eq!(service.slots, sim.maps.slots[&id]);
    assert!(service.slots.iter().all(|slot| slot.current() != 0));
    assert_eq!(service.listen, SocketAddr::new(VIP, 80).into());
    assert_eq!(states(&sim), [UP, UP]);
    let flows = sim.flows(10);
    assert!(flows.iter().all(Option::is_none), "the kernel leaves its packets alone: {flows:?}");
}

#[test]
fn a_service_starts_when_its_first_checks_have_ended_and_whatever_they_say() {
    let starts = |refusing: &[IpAddr]| {
        let mut config = config(2);
        proxied(&mut config);
        let refusing = refusing.iter().copied().collect();
        let mut sim = Sim::start_among(config, Tables::default(), refusing);
        assert!(service(&sim).starting);
        sim.run_for(secs(1));
        !service(&sim).starting
    };
    let all: Vec<_> = config(2).services[0].backends.iter().map(|found| found.address).collect();
    assert!(starts(&[]) && starts(&all[..1]) && starts(&all));
    // Without a check there is nothing to wait for.
    let mut config = config(2);
    proxied(&mut config);
    config.services[0].check.kind = CheckKind::None;
    assert!(!service(&Sim::start(config)).starting);
}

#[test]
fn a_proxys_backends_need_no_way_that_the_engine_knows() {
    // Nobody on the network answers for them, but they accept connections.
    let mut sim = start(|config| config.interfaces.clear());
    sim.run_for(secs(5));
    assert_eq!(states(&sim), [UP, UP]);
    assert!(sim.doubted.is_empty());
}

#[test]
fn what_happens_to_a_backend_reaches_the_proxies_at_once() {
    let mut sim = start(|_| {});
    let incarnation = service(&sim).backends[0].incarnation;
    sim.dead.insert(address(1));
    sim.run_for(secs(5));
    assert_eq!(states(&sim), [DOWN, UP]);
    assert!(service(&sim).backends[0].incarnation > incarnation, "memories of it are void");
    sim.dead.clear();
    sim.run_for(secs(5));
    assert_eq!(states(&sim), [UP, UP]);
    sim.set_admin("b1", Admin::Drain).expect("drained");
    sim.set_admin("b2", Admin::Maint).expect("in maintenance");
    assert_eq!(states(&sim), [DRAIN, DOWN]);
    let flags = |of: &proxy::Backend| (of.wanted, of.maintenance);
    assert_eq!(
        service(&sim).backends.iter().map(flags).collect::<Vec<_>>(),
        [(false, false), (false, true)]
    );
    sim.set_admin("b1", Admin::Ready).expect("ready");
    sim.set_weight("b1", 0).expect("weight 0");
    let backend = &service(&sim).backends[0];
    assert_eq!((backend.weight, backend.wanted), (0, false));
}

#[test]
fn a_view_is_sent_only_when_something_has_changed() {
    let mut sim = start(|_| {});
    let before = Arc::clone(&sim.proxies);
    sim.run_for(secs(60));
    assert!(Arc::ptr_eq(&before, &sim.proxies));
}

#[test]
fn the_stack_takes_virtual_addresses_while_something_is_proxied_there() {
    let mut sim = start(|_| {});
    assert_eq!(sim.held, BTreeSet::from([VIP]));
    sim.engine.reconfigure(sim.now, config(2), false).expect("another mode");
    sim.carry_out();
    assert!(sim.held.is_empty() && sim.proxies.services.is_empty());
    let mut proxied_again = config(2);
    proxied(&mut proxied_again);
    sim.engine.reconfigure(sim.now, proxied_again, false).expect("back again");
    sim.carry_out();
    assert_eq!(sim.held, BTreeSet::from([VIP]));
    sim.engine.stop();
    sim.carry_out();
    assert!(sim.held.is_empty(), "nothing is left behind");
}

#[test]
fn an_own_address_is_the_stacks_already() {
    let sim = start(|config| config.vips.clear());
    assert!(sim.held.is_empty() && !service(&sim).virtual_address);
}

#[test]
fn access_lists_are_those_of_address_and_service() {
    let list = |name: &str, default| Acl { name: name.into(), networks: Vec::new(), default };
    let sim = start(|config| {
        config.acls = vec![list("all", Access::Allow), list("none", Access::Deny)];
        config.vips[0].acl = Some("all".into());
        config.services[0].proxy.as_mut().expect("proxied").acl = Some("none".into());
    });
    let source = Addr::v4([192, 0, 2, 1]);
    let denies =
        |list: &Option<Arc<proxy::AccessList>>| list.as_ref().map(|list| list.denies(&source));
    assert_eq!(denies(&service(&sim).vip_access), Some(false));
    assert_eq!(denies(&service(&sim).access), Some(true));
}

#[test]
fn sockets_that_are_not_to_be_had_are_tried_again_and_told_once() {
    let mut sim = start(|_| {});
    sim.deaf = vec![("web".into(), "address in use".into())];
    sim.set_weight("b1", 5).expect("something new to serve");
    let told = |sim: &Sim| {
        let events = sim.engine.events(0).into_iter();
        events.filter(|event| event.kind == "not-listening").count()
    };
    sim.run_for(secs(20));
    assert_eq!(told(&sim), 1);
    assert!(sim.engine.next_deadline() <= sim.now + secs(5));
    sim.deaf.clear();
    sim.run_for(secs(6));
    sim.deaf = vec![("web".into(), "address in use".into())];
    sim.set_weight("b1", 6).expect("something new to serve");
    assert_eq!(told(&sim), 2, "after it was well, it is news again");
}

/// A proxy on a Unix socket, in front of one backend that is another and one that is not.
fn on_sockets(config: &mut Config) {
    let service = &mut config.services[0];
    let path = UnixPath::new("/run/web.sock");
    service.listen = Listen { address: path.stand_in(), ports: Ports::ANY };
    let file = SocketFile { path, mode: 0o660, owner: None, group: None };
    service.proxy = Some(Box::new(Proxy { socket: Some(file), ..Proxy::usual() }));
    let backend = &mut service.backends[0];
    let path = UnixPath::new("/run/app.sock");
    (backend.address, backend.port, backend.socket) = (path.stand_in(), 0, Some(path));
}

#[test]
fn unix_sockets_are_served_probed_and_shown_as_what_they_are() {
    let mut sim = start(on_sockets);
    let stand_in = UnixPath::new("/run/app.sock").stand_in();
    assert_eq!(service(&sim).listen.to_string(), "unix:/run/web.sock");
    assert!(!service(&sim).virtual_address);
    let addresses: Vec<_> =
        service(&sim).backends.iter().map(|backend| backend.address.to_string()).collect();
    assert_eq!(addresses, ["unix:/run/app.sock", "10.0.0.2:80"]);
    assert!(!sim.probes[&stand_in].is_empty());
    sim.dead.insert(stand_in);
    sim.run_for(secs(5));
    assert_eq!(states(&sim), [DOWN, UP]);
    let counts = Counts::default();
    assert_eq!(sim.engine.services(sim.now, &counts)[0].listen.to_string(), "unix:/run/web.sock");
    let rows = sim.engine.backends(sim.now, &counts);
    assert_eq!((&*rows[0].address, rows[0].port), ("unix:/run/app.sock", 0));
    assert!(sim.maps.addrs.len() == 1, "no packet leads to it");
}

#[test]
fn a_socket_that_left_while_pend_was_away_is_not_taken_up_again() {
    let mut sim = start(on_sockets);
    sim.set_admin("b2", Admin::Drain).expect("drained");
    let mut config = config(2);
    proxied(&mut config);
    on_sockets(&mut config);
    config.services[0].backends.remove(0);
    let maps = sim.maps.clone();
    let engine = Engine::new(config, maps, [7, 7], sim.now);
    let rows = engine.backends(sim.now, &Counts::default());
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0].admin, Admin::Drain, "the operator's wish outlives a restart");
}

#[test]
fn a_change_of_sockets_is_told_in_their_words() {
    let before = {
        let mut config = config(2);
        proxied(&mut config);
        on_sockets(&mut config);
        config
    };
    let mut after = before.clone();
    let proxy = after.services[0].proxy.as_mut().expect("proxied");
    let file = proxy.socket.as_mut().expect("on a socket");
    (file.mode, file.group) = (0o666, Some("www".into()));
    after.services[0].backends.remove(0);
    let mut engine = Engine::new(before, Tables::default(), [7, 7], Moment(1));
    let changes = engine.reconfigure(Moment(2), after, true).expect("a fair change");
    let told = format!("{changes:?}");
    for words in ["listen_mode 0666, listen_owner -:www", "unix:/run/app.sock, weight 1"] {
        assert!(told.contains(words), "{told}");
    }
}

#[test]
fn answers_of_transparent_services_are_routed_for_as_long_as_they_are_wanted() {
    let mut sim = start(|_| {});
    assert_eq!((sim.answers.len(), sim.answers_checked), (0, 0), "nobody asked for it");
    let mut transparent = config(2);
    proxied(&mut transparent);
    let abuse = Backend { port: 8, ..transparent.services[0].backends[0].clone() };
    let proxy = transparent.services[0].proxy.as_mut().expect("proxied");
    (proxy.transparent, proxy.abuse) = (true, Some(abuse));
    sim.engine.reconfigure(sim.now, transparent, false).expect("transparent");
    sim.carry_out();
    let of = |number, port| proxy::transparent::Answers {
        server: SocketAddr::new(address(number), port),
        udp: false,
    };
    assert_eq!(sim.answers, BTreeSet::from([of(1, 8), of(1, 80), of(2, 80)]));
    // It is looked after, and sooner if an interface changes.
    let checked = sim.answers_checked;
    sim.run_for(secs(25));
    assert_eq!(sim.answers_checked, checked + 2);
    sim.event(Event::LinkChanged(link(false)));
    assert_eq!(sim.answers_checked, checked + 3);
    // Connections that exist keep theirs.
    sim.answers_in_use = true;
    let mut plain = config(2);
    proxied(&mut plain);
    sim.engine.reconfigure(sim.now, plain, false).expect("plain");
    sim.carry_out();
    assert!(sim.answers.is_empty());
    let checked = sim.answers_checked;
    sim.run_for(secs(25));
    assert_eq!(sim.answers_checked, checked + 2);
    sim.answers_in_use = false;
    sim.run_for(secs(100));
    assert_eq!(sim.answers_checked, checked + 3);
}

#[test]
fn what_is_missing_for_it_is_a_warning_while_it_lasts() {
    let mut sim = start(|config| {
        config.services[0].proxy.as_mut().expect("proxied").transparent = true;
    });
    assert!(sim.engine.warnings().is_empty());
    let missing = "the kernel has no policy routing".to_owned();
    sim.unrouted = BTreeSet::from([missing.clone()]);
    sim.run_for(secs(30));
    assert!(sim.engine.warnings().contains(&missing));
    let told = sim.engine.events(0).into_iter().filter(|event| event.text == missing).count();
    assert_eq!(told, 1);
    sim.unrouted.clear();
    sim.run_for(secs(30));
    assert!(!sim.engine.warnings().contains(&missing));
}
