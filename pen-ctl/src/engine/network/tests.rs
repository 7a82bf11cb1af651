//! What the network makes of netlink's news.

use super::*;
use crate::config::words::Word;

const BACKEND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 11));
const OWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const ROUTER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 254));
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 11]);

fn link(up: bool) -> Link {
    Link {
        ifindex: 3,
        name: "eth0".into(),
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        up,
        mtu: 1500,
        forwards_v4: false,
        forwards_v6: false,
    }
}

/// A route through `eth0`.
fn route(gateway: Option<IpAddr>) -> Option<Route> {
    Some(Route { ifindex: 3, gateway, source: Some(OWN) })
}

fn at(seconds: u64) -> Moment {
    Moment(seconds * 1_000_000_000)
}

fn empty() -> Network {
    let mut network = Network::default();
    network.declare(["eth0".to_owned()]);
    network
}

fn connected() -> Network {
    let mut network = empty();
    network.watch([BACKEND], at(0));
    network.link_changed(link(true), at(0));
    network.route_found(BACKEND, route(None), None, at(0));
    network.neighbour_changed(3, BACKEND, Neighbour::Resolved(MAC), at(0));
    network
}

#[test]
fn a_resolved_neighbour_on_a_connected_network_is_a_hop() {
    let hop = connected().hop(BACKEND, Mode::Dsr).expect("a way");
    let expected = Hop {
        ifindex: 3,
        source_mac: link(true).mac,
        next: BACKEND,
        mac: MAC,
        source: Some(OWN),
        mtu: 1500,
    };
    assert_eq!(hop, expected);
}

#[test]
fn each_reason_for_no_way_is_told() {
    let mut network = empty();
    network.watch([BACKEND], at(0));
    assert_eq!(network.hop(BACKEND, Mode::Dsr), Err(NoHop::Unknown));
    network.route_found(BACKEND, None, None, at(0));
    assert_eq!(network.hop(BACKEND, Mode::Dsr), Err(NoHop::NoRoute));
    network.route_found(BACKEND, route(Some(ROUTER)), None, at(0));
    assert_eq!(network.hop(BACKEND, Mode::Dsr), Err(NoHop::Routed { gateway: ROUTER }));
    network.route_found(BACKEND, route(None), None, at(0));
    assert_eq!(network.hop(BACKEND, Mode::Dsr), Err(NoHop::NoInterface { ifindex: 3 }));
    network.link_changed(link(false), at(0));
    let interface = || "eth0".to_owned();
    assert_eq!(network.hop(BACKEND, Mode::Dsr), Err(NoHop::LinkDown { interface: interface() }));
    network.link_changed(Link { mac: MacAddr::NONE, ..link(true) }, at(0));
    assert_eq!(network.hop(BACKEND, Mode::Dsr), Err(NoHop::NoEthernet { interface: interface() }));
    network.link_changed(link(true), at(0));
    let unresolved = |gateway| Err(NoHop::Unresolved { interface: interface(), gateway });
    assert_eq!(network.hop(BACKEND, Mode::Dsr), unresolved(None));
    network.route_found(BACKEND, route(Some(ROUTER)), None, at(0));
    assert_eq!(network.hop(BACKEND, Mode::Gue), unresolved(Some(ROUTER)));
    let route = Route { ifindex: 3, gateway: None, source: None };
    network.route_found(BACKEND, Some(route), Some(MAC), at(0));
    let no_source = NoHop::NoSource { interface: interface(), family: "IPv4" };
    assert_eq!(network.hop(BACKEND, Mode::Gue), Err(no_source));
    network.declare([]);
    assert_eq!(network.hop(BACKEND, Mode::Dsr), Err(NoHop::Undeclared { interface: interface() }));
}

#[test]
fn a_neighbour_that_failed_is_no_way_but_a_forgotten_one_still_is() {
    let mut network = connected();
    network.poll(at(0));
    network.neighbour_changed(3, BACKEND, Neighbour::Forgotten, at(1));
    assert!(network.hop(BACKEND, Mode::Dsr).is_ok());
    assert_eq!(network.poll(at(1)), [BACKEND], "asked again at once");
    network.neighbour_changed(3, BACKEND, Neighbour::Failed, at(2));
    assert!(matches!(network.hop(BACKEND, Mode::Dsr), Err(NoHop::Unresolved { .. })));
}

#[test]
fn resolved_neighbours_are_confirmed_less_often_than_missing_ones_are_looked_for() {
    let mut network = connected();
    assert_eq!(network.poll(at(0)), [BACKEND]);
    assert_eq!(network.next_deadline(), at(10));
    network.neighbour_changed(3, BACKEND, Neighbour::Failed, at(5));
    assert_eq!(network.poll(at(6)), [BACKEND]);
    assert_eq!(network.next_deadline(), at(7));
}

#[test]
fn a_lost_interface_takes_its_neighbours_along() {
    let mut network = connected();
    assert_eq!(network.link_removed(3, at(1)).map(|link| link.name), Some("eth0".into()));
    network.link_changed(link(true), at(2));
    assert!(matches!(network.hop(BACKEND, Mode::Dsr), Err(NoHop::Unresolved { .. })));
}

#[test]
fn an_interface_that_took_over_a_name_replaces_the_one_whose_end_was_missed() {
    let mut network = connected();
    network.link_changed(Link { ifindex: 7, ..link(true) }, at(1));
    assert_eq!(network.link_by_name("eth0").map(|link| link.ifindex), Some(7));
    assert!(network.links_beside(&BTreeSet::from([7])).is_empty());
    assert_eq!(network.links_beside(&BTreeSet::new()), [7]);
}

#[test]
fn what_is_known_already_or_concerns_nobody_is_no_news() {
    let mut network = connected();
    let resolved = Neighbour::Resolved(MAC);
    assert!(!network.neighbour_changed(3, BACKEND, resolved, at(1)));
    assert!(!network.route_found(BACKEND, route(None), None, at(0)));
    let other = "10.0.0.99".parse().expect("literal");
    assert!(!network.neighbour_changed(3, other, resolved, at(1)));
    assert!(!network.route_found(other, None, None, at(0)));
    assert!(network.neighbour_changed(3, BACKEND, Neighbour::Failed, at(1)));
    assert!(network.route_found(BACKEND, None, None, at(0)));
}

#[test]
fn watching_anew_keeps_what_is_known() {
    let mut network = connected();
    let other = "10.0.0.12".parse().expect("literal");
    network.watch([BACKEND, other], at(1));
    assert!(network.hop(BACKEND, Mode::Dsr).is_ok());
    assert_eq!(network.hop(other, Mode::Dsr), Err(NoHop::Unknown));
    network.watch([other], at(2));
    assert_eq!(network.hop(BACKEND, Mode::Dsr), Err(NoHop::Unknown));
}

#[test]
fn what_an_earlier_controller_knew_holds_until_the_kernel_is_heard() {
    let mut network = empty();
    network.watch([BACKEND], at(0));
    network.adopt(BACKEND, adopted());
    network.link_changed(link(true), at(0));
    assert_eq!(network.hop(BACKEND, Mode::Dsr).map(|hop| hop.mac), Ok(MAC));
}

/// What the maps say of the way of an earlier controller.
fn adopted() -> Hop {
    let (ifindex, source_mac) = (3, link(true).mac);
    Hop { ifindex, source_mac, next: BACKEND, mac: MAC, source: Some(OWN), mtu: 1500 }
}

#[test]
fn a_router_leads_to_a_backend_of_every_mode_but_dsr() {
    let mut network = connected();
    network.route_found(BACKEND, route(Some(ROUTER)), Some(MAC), at(1));
    for (_, mode) in Mode::ALL {
        match network.hop(BACKEND, *mode) {
            Ok(hop) => assert_eq!((hop.next, hop.mac), (ROUTER, MAC)),
            Err(reason) => {
                assert_eq!((*mode, reason), (Mode::Dsr, NoHop::Routed { gateway: ROUTER }));
            }
        }
    }
}

#[test]
fn only_modes_that_send_from_an_own_address_need_one() {
    let mut network = connected();
    let route = Route { ifindex: 3, gateway: None, source: None };
    network.route_found(BACKEND, Some(route), None, at(1));
    let able = |mode: &Mode| network.hop(BACKEND, *mode).is_ok();
    let able: Vec<_> = Mode::ALL.iter().map(|(_, mode)| *mode).filter(able).collect();
    // A proxy does not ask: the kernel routes its connections.
    assert_eq!(able, [Mode::Dsr, Mode::Nat, Mode::Proxy]);
}

#[test]
fn a_router_that_fails_takes_all_behind_it_along_and_is_asked_for_once() {
    let mut network = empty();
    let other = "10.0.9.12".parse().expect("literal");
    network.watch([BACKEND, other], at(0));
    network.link_changed(link(true), at(0));
    for address in [BACKEND, other] {
        network.route_found(address, route(Some(ROUTER)), Some(MAC), at(0));
    }
    assert_eq!(network.poll(at(0)).len(), 2);
    assert!(!network.neighbour_changed(3, ROUTER, Neighbour::Forgotten, at(1)));
    assert_eq!(network.poll(at(1)), [BACKEND], "for both");
    assert!(network.neighbour_changed(3, ROUTER, Neighbour::Failed, at(2)));
    for address in [BACKEND, other] {
        assert!(network.hop(address, Mode::Nat).is_err());
    }
    assert!(network.neighbour_changed(3, ROUTER, Neighbour::Resolved(MAC), at(3)));
    assert!(network.hop(other, Mode::Nat).is_ok());
}

#[test]
fn a_new_way_replaces_one_that_works_when_its_next_hop_is_known() {
    for outcome in [Neighbour::Resolved(MacAddr([2, 0, 0, 0, 0, 99])), Neighbour::Failed] {
        let mut network = connected();
        assert!(!network.route_found(BACKEND, route(Some(ROUTER)), None, at(1)));
        assert_eq!(network.hop(BACKEND, Mode::Nat).map(|hop| hop.next), Ok(BACKEND));
        assert!(network.neighbour_changed(3, ROUTER, outcome, at(2)));
        let hop = network.hop(BACKEND, Mode::Nat);
        assert_eq!(hop.is_ok(), outcome != Neighbour::Failed);
        assert!(hop.map_or(true, |hop| hop.next == ROUTER));
    }
}

#[test]
fn a_new_way_of_which_nothing_is_heard_replaces_the_old_one_in_the_end() {
    let mut network = connected();
    network.poll(at(0));
    assert!(!network.route_found(BACKEND, route(Some(ROUTER)), None, at(1)));
    assert_eq!(network.poll(at(2)), [BACKEND], "asked for again soon");
    assert!(!network.route_found(BACKEND, route(Some(ROUTER)), None, at(4)));
    assert!(network.route_found(BACKEND, route(Some(ROUTER)), None, at(5)));
    assert!(network.hop(BACKEND, Mode::Nat).is_err());
}

#[test]
fn a_route_that_returns_is_awaited_no_longer() {
    let mut network = connected();
    network.route_found(BACKEND, route(Some(ROUTER)), None, at(1));
    assert!(!network.route_found(BACKEND, route(None), None, at(2)));
    network.neighbour_changed(3, ROUTER, Neighbour::Resolved(MAC), at(3));
    assert_eq!(network.hop(BACKEND, Mode::Nat).map(|hop| hop.next), Ok(BACKEND));
}

#[test]
fn the_way_through_a_router_that_an_earlier_controller_knew_holds_until_the_router_is_heard() {
    let mut network = empty();
    network.watch([BACKEND], at(0));
    network.adopt(BACKEND, adopted());
    network.link_changed(link(true), at(0));
    assert!(!network.route_found(BACKEND, route(Some(ROUTER)), None, at(0)));
    assert_eq!(network.hop(BACKEND, Mode::Ipip).map(|hop| hop.mac), Ok(MAC));
    network.neighbour_changed(3, ROUTER, Neighbour::Resolved(MAC), at(0));
    assert_eq!(network.hop(BACKEND, Mode::Ipip).map(|hop| hop.next), Ok(ROUTER));
}
