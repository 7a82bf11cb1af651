//! `explain` names the backend that a packet really reaches: asked first, then tried with a real
//! packet of the same 5-tuple.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use pen_ctl::{
    api::{self, Explanation, Request},
    config::Protocol,
    io::control::client::Client,
};
use pen_tests::{
    Pend,
    client::{TcpTalk, UdpTalk, udp_ask},
    process::SHORT,
    wait_until,
};

use crate::stage::{ECHO, ECHO6, Stage, WEB, WEB6};

/// Asks the daemon about many packets, over one connection.
struct Asker {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Asker {
    fn new(pend: &Pend) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(Client::connect(pend.socket())).unwrap();
        Self { runtime, client }
    }

    fn explain(
        &mut self,
        source: SocketAddr,
        destination: SocketAddr,
        protocol: Protocol,
    ) -> Explanation {
        let established = false;
        let request = Request::Explain(api::Explain { source, destination, protocol, established });
        let answer = self.runtime.block_on(self.client.ask(&request)).unwrap();
        serde_json::from_slice(&answer).unwrap()
    }
}

/// One datagram from a port that the kernel chooses, explained before it is sent.
fn explained_and_asked(asker: &mut Asker, stage: &Stage, at: SocketAddr) -> String {
    let talk = UdpTalk::open(stage.client(), at).unwrap();
    let explanation = asker.explain(talk.local().unwrap(), at, Protocol::Udp);
    assert_eq!(explanation.verdict, "forward");
    assert_eq!(explanation.counter, "transmit");
    let answer = talk.ask();
    assert_eq!(explanation.backend, answer, "{:?}", talk.local());
    answer.unwrap()
}

#[test]
fn a_thousand_datagrams_reach_the_backend_that_explain_names() {
    let stage = Stage::new();
    // Other addresses of the client, so that more than the port differs.
    for number in 150..160 {
        stage.client().ip(&format!("address add 10.77.0.{number}/24 dev eth0")).unwrap();
        stage.client().ip(&format!("address add fd77::{number}/64 dev eth0 nodad")).unwrap();
    }
    let mut asker = Asker::new(&stage.pend);
    for (at, prefix) in [(ECHO, "10.77.0."), (ECHO6, "fd77::")] {
        let mut seen = BTreeSet::new();
        for number in (150..160).cycle().take(500) {
            let source: IpAddr = format!("{prefix}{number}").parse().unwrap();
            let talk = UdpTalk::open_from(stage.client(), source, at).unwrap();
            let explanation = asker.explain(talk.local().unwrap(), at, Protocol::Udp);
            let answer = talk.ask();
            assert_eq!(explanation.backend, answer, "{:?} {explanation:?}", talk.local());
            seen.extend(answer);
        }
        assert_eq!(seen.len(), 3, "{seen:?}");
    }
}

#[test]
fn explain_stays_true_while_backends_are_drained_weighted_and_dead() {
    let mut stage = Stage::new();
    let mut asker = Asker::new(&stage.pend);
    stage.order(["drain", "echo/b1"]);
    // UDP flows without a record stay where they were for the settle time.
    wait_until(SHORT, "b1 gets nothing new", || {
        let mut answers = (0..50).map(|_| explained_and_asked(&mut asker, &stage, ECHO));
        answers.all(|answer| answer != "b1").then_some(())
    })
    .unwrap();
    stage.order(["ready", "echo/b1"]);
    stage.order(["weight", "echo/b1", "9"]);
    for _ in 0..50 {
        explained_and_asked(&mut asker, &stage, ECHO);
    }
    stage.demos[2].process().kill9().unwrap();
    stage.pend.wait_health("echo", "b3", "down").unwrap();
    for _ in 0..50 {
        assert_ne!(explained_and_asked(&mut asker, &stage, ECHO), "b3");
    }
}

#[test]
fn explain_is_true_for_tcp_and_for_a_restarted_daemon() {
    let mut stage = Stage::new();
    for round in 0..2 {
        let mut asker = Asker::new(&stage.pend);
        for at in [WEB, WEB6] {
            for _ in 0..30 {
                let mut talk = TcpTalk::open(stage.client(), at).unwrap();
                let explanation = asker.explain(talk.local().unwrap(), at, Protocol::Tcp);
                assert_eq!(explanation.backend, talk.ask().ok(), "{round} {explanation:?}");
                talk.close().unwrap();
            }
        }
        stage.pend.kill9().unwrap();
        stage.pend.launch().unwrap();
        stage.pend.wait_ready(12).unwrap();
    }
}

#[test]
fn explain_tells_why_a_packet_is_none_of_its_business_or_dropped() {
    let mut stage = Stage::new();
    let explain = |words: [&str; 3]| {
        let [source, destination, protocol] = words;
        stage.order(["explain", source, destination, protocol])
    };
    for (words, said) in [
        (["10.77.0.2:5000", "10.77.0.1:80", "tcp"], "10.77.0.1 is no virtual address"),
        (["10.77.0.2:5000", "10.77.0.100:81", "tcp"], "it has: web on 80/tcp, echo on 7/udp"),
        (["10.77.0.2:5000", "10.77.0.100:80", "udp"], "no service on 80/udp"),
        (["[fd77::2]:5000", "[fd77::100]:7", "tcp"], "it has: web6 on 80/tcp, echo6 on 7/udp"),
    ] {
        let text = explain(words);
        assert!(text.contains("pass") && text.contains(said), "{words:?}: {text}");
    }
    for service in ["b1", "b2", "b3"] {
        stage.order(["maint", &format!("echo/{service}")]);
    }
    let text = stage.order(["explain", "10.77.0.2:5000", "10.77.0.100:7", "udp"]);
    assert!(text.contains("drop") && text.contains("no backend"), "{text}");
    assert_eq!(udp_ask(stage.client(), ECHO), None);
    assert!(stage.pend.counter("drop-no-backend").unwrap() > 0);
    assert!(stage.pend.is_running());
}

#[test]
fn explain_tells_an_open_connection_from_a_new_one_and_names_what_decides() {
    let stage = Stage::new();
    let mut talks: Vec<_> = (0..40).map(|_| TcpTalk::open(stage.client(), WEB).unwrap()).collect();
    stage.order(["drain", "web/b1"]);
    let mut of_b1 = 0;
    for talk in &mut talks {
        let source = talk.local().unwrap().to_string();
        let words = ["explain", &source, "10.77.0.100:80", "--established"];
        let open = stage.pend.penctl_json(words).unwrap();
        let by = talk.ask().unwrap();
        assert_eq!(open["backend"], by.as_str(), "{open}");
        let new = stage.pend.penctl_json(&words[..3]).unwrap();
        assert_ne!(new["backend"], "b1", "{new}");
        if by == "b1" {
            of_b1 += 1;
            assert_eq!(open["decided_by"], "base");
            let unsettled = open["steps"][2].as_str().unwrap();
            assert!(unsettled.contains(" is unsettled: base b1, current b"), "{unsettled}");
            // It has just been recorded.
            let text = stage.order(words);
            assert!(text.contains("  a record of the flow names b1, used "), "{text}");
        }
    }
    assert!(of_b1 > 0, "a third of forty");
}

#[test]
fn a_simulation_shows_who_would_get_how_many() {
    let stage = Stage::new();
    stage.order(["weight", "echo6/b3", "2"]);
    let words = ["explain", "--simulate", "40000", "--service", "web", "--seed", "5"];
    let simulation = stage.pend.penctl_json(words).unwrap();
    assert_eq!((&simulation["flows"], &simulation["complete"]), (&40000.into(), &true.into()));
    let shares = simulation["shares"].as_array().unwrap();
    assert_eq!(shares.iter().map(|share| share["flows"].as_u64().unwrap()).sum::<u64>(), 40000);
    for share in shares {
        assert!((32.0..35.0).contains(&share["percent"].as_f64().unwrap()), "{share}");
    }
    let text = stage.order(["explain", "--simulate", "1000", "--service", "echo6"]);
    let rows: Vec<&str> = text.lines().collect();
    assert_eq!(rows[0], "BACKEND\tFLOWS\tSHARE\tBY WEIGHT");
    assert!(rows[1].starts_with("b1\t") && rows[1].ends_with("\t25.00%"), "{text}");
    assert!(rows[3].starts_with("b3\t") && rows[3].ends_with("\t50.00%"), "{text}");

    for (words, status) in [
        (&["explain"][..], 2),
        (&["explain", "10.77.0.2:5000"], 2),
        (&["explain", "--simulate", "5"], 2),
        (&["explain", "10.77.0.2:5", "10.77.0.100:80", "--simulate", "5", "--service", "web"], 2),
        (&["explain", "--simulate", "0", "--service", "web"], 1),
        (&["explain", "--simulate", "5", "--service", "www"], 1),
    ] {
        assert_eq!(stage.pend.penctl(words).unwrap().status.code(), Some(status), "{words:?}");
    }
}
