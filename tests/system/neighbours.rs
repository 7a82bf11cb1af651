//! Who answers for which address on the wire: pen for VIPs and nothing else, each question once;
//! the kernel for the balancer's own address; backends never for a VIP.

use std::net::IpAddr;

use pen_tests::{Capture, Lab, Netns, Output, Pend, VIP4, VIP6, process::SHORT, wait_until};

use crate::stage::{Stage, WEB, balance, over_one, usual, vips};

/// One question, and every answer that reaches the client within a second or so.
fn who_has(client: &Netns, address: IpAddr) -> (Output, Vec<String>) {
    let capture = Capture::start(client, "eth0", "arp or icmp6").unwrap();
    let output = match address {
        IpAddr::V4(v4) => client.output("arping", ["-c1", "-w1", "-i", "eth0", &v4.to_string()]),
        // "-m" waits to the end whether or not somebody has answered.
        IpAddr::V6(v6) => client.output("ndisc6", ["-m", "-r1", "-w700", &v6.to_string(), "eth0"]),
    };
    let told = [format!("Reply {address} is-at"), format!("tgt is {address}")];
    let lines = capture.stop().unwrap().into_iter();
    (output.unwrap(), lines.filter(|line| told.iter().any(|told| line.contains(told))).collect())
}

#[test]
fn a_question_for_a_vip_is_answered_once_and_by_the_balancer() {
    let stage = Stage::new();
    let mac = &stage.lab.balancer().mac;
    for vip in [VIP4, VIP6] {
        let (output, answers) = who_has(stage.client(), vip);
        assert!(output.status.success(), "{output:?}");
        assert!(output.stdout.to_lowercase().contains(mac), "{output:?}");
        assert_eq!(answers.len(), 1, "{answers:#?}");
        assert!(answers[0].contains(&format!("{mac} >")), "{answers:#?}");
    }
    assert_eq!(stage.pend.counter("arp-reply").unwrap(), 1);
    assert_eq!(stage.pend.counter("nd-reply").unwrap(), 1);
}

#[test]
fn a_vip_is_answered_for_even_while_no_backend_is_usable() {
    let lab = Lab::builder().backends(1).build().unwrap();
    // Nobody listens there.
    let config = vips().service(over_one("web", WEB, lab.backends[0].v4.into()));
    let mut pend = Pend::start(&lab.balancer().netns, &config).unwrap();
    pend.wait_ready(0).unwrap();
    pend.wait_health("web", "b1", "down").unwrap();
    assert_eq!(who_has(&lab.client().netns, VIP4).1.len(), 1);
}

#[test]
fn other_addresses_are_left_to_those_who_have_them() {
    let stage = Stage::new();
    let client = stage.client();
    for nobody in ["10.77.0.200", "fd77::200"] {
        let (output, answers) = who_has(client, nobody.parse().unwrap());
        assert!(!output.status.success() && answers.is_empty(), "{output:?} {answers:#?}");
    }
    for host in [stage.lab.balancer(), &stage.lab.backends[0]] {
        for address in [IpAddr::from(host.v4), host.v6.into()] {
            let (output, answers) = who_has(client, address);
            assert!(output.status.success(), "{output:?}");
            assert_eq!(answers.len(), 1, "{answers:#?}");
            assert!(answers[0].contains(&format!("{} >", host.mac)), "{answers:#?}");
        }
    }
    assert_eq!(stage.pend.counter("arp-reply").unwrap(), 0);
    assert_eq!(stage.pend.counter("nd-reply").unwrap(), 0);
}

#[test]
fn without_pend_nobody_answers_for_a_vip() {
    let lab = Lab::builder().backends(1).build().unwrap();
    let _demo = pen_tests::Demo::on(&lab.backends[0]).unwrap();
    let mut pend = balance(&lab, &usual(&lab));
    pend.terminate().unwrap();
    for vip in [VIP4, VIP6] {
        assert!(who_has(&lab.client().netns, vip).1.is_empty());
    }
}

#[test]
fn a_client_that_forgets_the_vip_finds_it_again() {
    let stage = Stage::new();
    for vip in [VIP4, VIP6] {
        let at = std::net::SocketAddr::new(vip, 80);
        for _ in 0..5 {
            pen_tests::client::http(stage.client(), at).unwrap();
            stage.client().ip("neighbour flush dev eth0").unwrap();
        }
    }
    // Its confirmation of a stale entry is a question to the balancer's own Ethernet address.
    let asks = || stage.client().ip(&format!("neighbour show {VIP4}")).unwrap();
    pen_tests::client::http(stage.client(), WEB).unwrap();
    stage
        .client()
        .ip(&format!(
            "neighbour replace {VIP4} lladdr {} dev eth0 nud probe",
            stage.lab.balancer().mac
        ))
        .unwrap();
    wait_until(std::time::Duration::from_secs(3), "the entry is confirmed", || {
        asks().contains("REACHABLE").then_some(())
    })
    .unwrap();
}

#[test]
fn a_neighbour_that_the_operator_set_by_hand_stays_as_it_is() {
    let lab = Lab::builder().backends(1).build().unwrap();
    let balancer = &lab.balancer().netns;
    let backend = &lab.backends[0];
    let entry = format!("{} lladdr {} nud permanent dev eth0", backend.v4, backend.mac);
    balancer.ip(&format!("neigh replace {entry}")).unwrap();
    let mut pend = Pend::start(balancer, &usual(&lab)).unwrap();
    pend.wait_ready(0).unwrap();
    wait_until(SHORT, "the address is known to pend", || {
        (pend.backend("web", "b1").unwrap()["mac"] == backend.mac.as_str()).then_some(())
    })
    .unwrap();
    let shown = balancer.ip(&format!("neigh show {}", backend.v4)).unwrap();
    assert!(shown.contains("PERMANENT"), "{shown}");
}
