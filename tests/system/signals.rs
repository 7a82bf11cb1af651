//! A server fails, and clients notice before its check would: that is a reason to ask it at once. The
//! checks of these services are a minute apart, and three have to fail.

use std::{
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use pen_tests::{
    ConfigText, Lab, Netns, Pend, Protocol, VIP4,
    server::HTTP_PORT,
    wait::{Stopwatch, pace},
    wait_until,
};

use crate::stage::{Stage, WEB, over_all};

/// Regular checks need twice as long at least.
const LONG: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(5);
const RARE: &str = r#"{ type = "tcp", interval = "60s", timeout = "200ms", rise = 1, fall = 3 }"#;

/// One service of this mode over all backends.
fn one(lab: &Lab, mode: &str, check: &str, keys: &str) -> ConfigText {
    let mut web = over_all(lab, "web", WEB, Protocol::Tcp, HTTP_PORT);
    (web.mode, web.check, web.keys) = (mode.to_owned(), Some(check.to_owned()), keys.to_owned());
    ConfigText::on("eth0").vip(VIP4).service(web)
}

/// Two backends whose way to the client leads through the balancer.
fn behind_nat(check: &str, keys: &str) -> Stage {
    let lab = Lab::builder().backends(2).vips(&[]).build().unwrap();
    let (client, balancer) = (lab.client(), lab.balancer());
    balancer.netns.sysctl("net/ipv4/ip_forward", "1").unwrap();
    for scope in ["all", "eth0"] {
        balancer.netns.sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0").unwrap();
    }
    for host in &lab.backends {
        host.netns.ip(&format!("route add {}/32 via {}", client.v4, balancer.v4)).unwrap();
    }
    Stage::in_lab(lab, |lab| one(lab, "nat", check, keys))
}

/// Many clients come while something happens.
fn with_clients<T>(client: &Netns, at: SocketAddr, during: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // Some fail: that is the point. Patient enough to repeat a SYN.
                    let _ = client.run(|| TcpStream::connect_timeout(&at, PATIENCE));
                    pace(Duration::from_millis(50));
                }
            });
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(during));
        over.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Waits for an event of this kind and returns its text.
#[track_caller]
fn event(pend: &Pend, kind: &str) -> String {
    wait_until(LONG, kind, || pend.events(kind).unwrap().first().cloned()).unwrap()
}

#[test]
fn a_server_that_refuses_clients_is_found_out_long_before_its_check_would() {
    let mut stage = behind_nat(RARE, "");
    assert_eq!(stage.web_tally(40).len(), 2);
    let clock = Stopwatch::start();
    stage.demos[0].process().kill9().unwrap();
    let down = with_clients(stage.client(), WEB, || event(&stage.pend, "backend-down"));
    println!("found out after {:?}", clock.elapsed());
    assert_eq!(down, "web/b1 is down: connection refused");
    let doubted = event(&stage.pend, "doubted");
    let start = "web/b1 is asked at once, because of its clients: ";
    assert!(doubted.starts_with(start) && doubted.contains(" refused"), "{doubted}");
    let row = stage.pend.backend("web", "b1").unwrap();
    assert_eq!(row["usable"], false);
    let row = stage.pend.backend("web", "b2").unwrap();
    assert_eq!(row["signals"]["refused"], 0, "{row}");
    assert!(row["signals"]["answered"].as_u64().unwrap() > 0, "{row}");
    assert_eq!(stage.web_tally(20).keys().collect::<Vec<_>>(), ["b2"]);
    assert!(stage.order(["backends", "web/b1"]).contains("\nsignals: "));
}

#[test]
fn a_server_that_refuses_clients_is_left_alone_if_that_is_wished() {
    let mut stage = behind_nat(r#"{ type = "none" }"#, "eject = \"2s\"\neject_max = \"4s\"");
    stage.demos[0].process().kill9().unwrap();
    let ejected = with_clients(stage.client(), WEB, || {
        let ejected = event(&stage.pend, "ejected");
        event(&stage.pend, "ejection-over");
        ejected
    });
    assert_eq!(ejected, "web/b1 gets no new clients for 2s: a connection was refused");
}

#[test]
fn a_server_that_answers_no_syn_is_found_out_though_answers_do_not_come_by() {
    let lab = Lab::builder().backends(2).build().unwrap();
    let stage = Stage::in_lab(lab, |lab| one(lab, "dsr", RARE, ""));
    assert_eq!(stage.web_tally(40).len(), 2);
    let clock = Stopwatch::start();
    stage.lab.switch.set_link("b1", false).unwrap();
    let down = with_clients(stage.client(), WEB, || event(&stage.pend, "backend-down"));
    println!("found out after {:?}", clock.elapsed());
    assert!(down.starts_with("web/b1 is down: "), "{down}");
    let doubted = event(&stage.pend, "doubted");
    let start = "web/b1 is asked at once, because of its clients: ";
    assert!(doubted.starts_with(start) && doubted.contains(" unanswered"), "{doubted}");
    assert_eq!(stage.web_tally(20).keys().collect::<Vec<_>>(), ["b2"]);
}
