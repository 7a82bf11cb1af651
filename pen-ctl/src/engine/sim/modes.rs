//! What the modes ask of the way to a backend, and what the maps then hold.

use pen_common::abi;

use super::*;

fn of_mode(mode: Mode) -> Config {
    let mut config = config(2);
    config.services[0].mode = mode;
    config
}

#[test]
fn the_maps_say_how_packets_reach_the_backends() {
    for (mode, number, flags) in [
        (Mode::Dsr, abi::Service::DSR, 0),
        (Mode::Ipip, abi::Service::IPIP, 0),
        (Mode::Gue, abi::Service::GUE, 0),
        (Mode::Nat, abi::Service::NAT, abi::Cfg::NAT),
        (Mode::Masquerade, abi::Service::MASQUERADE, abi::Cfg::NAT),
    ] {
        let mut sim = Sim::start(of_mode(mode));
        sim.run_for(secs(1));
        assert!(sim.maps.services.values().all(|service| service.mode == number));
        let cfg = sim.maps.cfg;
        let ports = (cfg.first_port.value(), cfg.last_port.value());
        assert_eq!((cfg.flags, ports), (flags, (10240, 32767)));
        for backend in sim.maps.backends.values() {
            assert_eq!((IpAddr::from(backend.source), backend.mtu), (OWN, 1500));
        }
        assert_eq!(sim.serving(), BTreeSet::from([1, 2]), "{mode}");
    }
}

/// The clients may be on another interface than the backends, and answers have to leave there.
#[test]
fn answers_may_leave_on_every_interface_with_xdp_and_on_no_other() {
    for (mode, egress) in [(Mode::Dsr, [3].as_slice()), (Mode::Nat, &[3, 4]), (Mode::Gue, &[3])] {
        let mut wanted = of_mode(mode);
        for (name, xdp) in
            [("eth1", XdpMode::Auto), ("eth2", XdpMode::Off), ("eth3", XdpMode::Auto)]
        {
            wanted.interfaces.push(Interface { name: name.into(), xdp });
        }
        let mut sim = Sim::start(wanted);
        // There is no eth3.
        for (ifindex, name) in [(4, "eth1"), (5, "eth2"), (6, "eth9")] {
            sim.event(Event::LinkChanged(Link { ifindex, name: name.into(), ..link(true) }));
        }
        sim.run_for(secs(1));
        assert_eq!(sim.maps.egress, egress.iter().copied().collect(), "{mode}");
    }
}

#[test]
fn a_backend_behind_a_router_gets_its_frames_through_the_router() {
    let router = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 253));
    let mac = MacAddr([2, 0, 0, 0, 1, 253]);
    let why = |sim: &Sim| sim.engine.backends(sim.now, &Counts::default())[0].why.clone();
    for mode in [Mode::Dsr, Mode::Gue] {
        let mut sim = Sim::start(of_mode(mode));
        sim.router = Some(router);
        sim.run_for(secs(11));
        if mode == Mode::Dsr {
            let text = "behind router 10.0.0.253: mode dsr needs a backend on a connected network";
            assert_eq!(why(&sim).as_deref(), Some(text));
            continue;
        }
        assert!(sim.maps.backends.values().all(|backend| backend.mac == mac));
        // The router is what is doubted when a backend goes silent.
        sim.dead.insert(address(1));
        sim.run_for(secs(9));
        assert_eq!(sim.doubted, [router]);
        sim.dead.insert(router);
        sim.run_for(secs(11));
        let text = "router 10.0.0.253 does not answer ARP or neighbour discovery on eth0";
        assert_eq!(why(&sim).as_deref(), Some(text));
    }
}

#[test]
fn without_an_address_to_send_from_a_tunnel_is_not_used_and_shown_as_such() {
    let mut sim = Sim::start(of_mode(Mode::Ipip));
    sim.own = None;
    sim.run_for(secs(11));
    assert_eq!(sim.serving(), BTreeSet::new());
    let why = sim.engine.backends(sim.now, &Counts::default())[0].why.clone();
    assert_eq!(why.as_deref(), Some("eth0 has no IPv4 address to send from: add one"));
}

#[test]
fn a_machine_that_does_not_forward_answers_is_warned_of_once_and_as_long_as_it_lasts() {
    let warning = "eth0 does not forward IPv4, so that answers to clients of service web (mode \
                   nat) are lost: sysctl -w net.ipv4.ip_forward=1";
    let mut sim = Sim::start(of_mode(Mode::Nat));
    sim.run_for(secs(5));
    assert_eq!(sim.engine.status(sim.now, 1).warnings, [warning]);
    let told: Vec<_> =
        sim.engine.events(0).into_iter().filter(|event| event.kind == "warning").collect();
    assert_eq!(told.len(), 1, "{told:?}");
    sim.event(Event::LinkChanged(Link { forwards_v4: true, ..link(true) }));
    assert_eq!(sim.engine.status(sim.now, 1).warnings, [""; 0]);
    // Nobody else needs it.
    let mut sim = Sim::start(of_mode(Mode::Gue));
    sim.run_for(secs(1));
    assert_eq!(sim.engine.status(sim.now, 1).warnings, [""; 0]);
}

#[test]
fn explain_tells_what_the_mode_does_with_the_packet() {
    for (mode, step) in [
        (Mode::Dsr, "mode dsr: the frame goes to 02:00:00:00:01:01 on eth0, the packet unchanged"),
        (
            Mode::Ipip,
            "mode ipip: the packet goes within one from 10.0.0.254 to 10.0.0.1, by way of \
             02:00:00:00:01:01 on eth0",
        ),
        (
            Mode::Gue,
            "mode gue: the packet goes within a UDP datagram from 10.0.0.254 to 10.0.0.1, by way \
             of 02:00:00:00:01:01 on eth0",
        ),
        (
            Mode::Nat,
            "mode nat: the destination becomes 10.0.0.1, port 80, by way of 02:00:00:00:01:01 on \
             eth0",
        ),
        (
            Mode::Masquerade,
            "mode masquerade: the source becomes 10.0.0.254 with a port of its own, the \
             destination 10.0.0.1, port 80, by way of 02:00:00:00:01:01 on eth0",
        ),
    ] {
        let mut config = of_mode(mode);
        config.services[0].backends.truncate(1);
        let mut sim = Sim::start(config);
        sim.run_for(secs(1));
        let packet = Explain {
            source: (Ipv4Addr::new(198, 51, 100, 7), 5000).into(),
            destination: (VIP, 80).into(),
            protocol: Protocol::Tcp,
            established: false,
        };
        let explanation = sim.engine.explain(sim.now, &packet, &NoRecords).expect("one family");
        assert_eq!(explanation.steps.last().map(String::as_str), Some(step));
    }
}
