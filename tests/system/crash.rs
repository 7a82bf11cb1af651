//! pend is killed as by a crash while clients talk: the kernel forwards on, and the next pend takes
//! over what it finds, so that nobody outside notices either.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use pen_tests::{
    Lab, Netns, VIP4, VIP6,
    client::{TcpTalk, UdpTalk},
    link::xdp_mode,
    wait::{Stopwatch, pace},
    wait_until,
};

use crate::stage::{ECHO, Stage, WEB, WEB6, usual, while_asking};

/// The program that the kernel has on an interface, as "prog/xdp id 17 …".
fn program_id(netns: &Netns) -> String {
    let shown = netns.ip("-details link show dev eth0").unwrap();
    let words: Vec<_> = shown.split_whitespace().collect();
    let at = words.iter().position(|word| word.starts_with("prog/xdp")).expect("XDP is attached");
    words[at..at + 3].join(" ")
}

fn link_pins(stage: &Stage) -> Vec<String> {
    let folder = stage.pend.pins().join(format!("v{}", pen_common::ABI_VERSION));
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter_map(|name| name.into_string().ok()).filter(|n| n.starts_with("link-")).collect()
}

/// The kernel's id of the link below a pin: another id would mean detached and attached anew.
fn link_id(stage: &Stage) -> String {
    let [pin] = &*link_pins(stage) else { panic!("one link per interface") };
    let path = stage.pend.pins().join(format!("v{}", pen_common::ABI_VERSION)).join(pin);
    let info = aya::programs::links::PinnedLink::from_pin(path).unwrap();
    let link = aya::programs::links::FdLink::from(info);
    format!("{:?}", link.info().unwrap().id())
}

#[test]
fn no_request_fails_while_pend_is_killed_stays_dead_and_returns() {
    let mut stage = Stage::new();
    stage.order(["drain", "web/b2"]);
    stage.order(["weight", "web6/b3", "5"]);
    let mut kept: Vec<_> =
        [WEB, WEB6].map(|at| TcpTalk::open(&stage.lab.client().netns, at).unwrap()).into();
    let before: Vec<_> = kept.iter_mut().map(|talk| talk.ask().unwrap()).collect();
    let (link, program) = (link_id(&stage), program_id(stage.balancer()));

    let client = stage.lab.client().netns.clone();
    let ((), heard) = while_asking(&client, &[WEB, WEB6], || {
        stage.pend.kill9().unwrap();
        assert_eq!(xdp_mode(stage.balancer(), "eth0").unwrap().as_deref(), Some("xdp"));
        assert_eq!(program_id(stage.balancer()), program);
        // Nobody runs, and a hundred requests go through.
        let by = stage.web_tally(100);
        assert_eq!(by.keys().collect::<Vec<_>>(), ["b1", "b3"], "{by:?}");
        stage.pend.launch().unwrap();
        stage.pend.wait_ready(11).unwrap();
        stage.web_tally(50);
    });
    assert!(heard.asked > 50 && heard.failures.is_empty(), "{heard:?}");

    let after: Vec<_> = kept.iter_mut().map(|talk| talk.ask().unwrap()).collect();
    assert_eq!(before, after, "established connections keep their backends");
    assert_eq!(link_id(&stage), link, "the link was taken over");
    assert_ne!(program_id(stage.balancer()), program, "with the new program in it");
    let row = stage.pend.backend("web", "b2").unwrap();
    assert_eq!((&row["admin"], &row["usable"]), (&"drain".into(), &false.into()));
    assert_eq!(stage.pend.backend("web6", "b3").unwrap()["weight"], 5);
}

#[test]
fn counters_go_on_where_they_were() {
    let mut stage = Stage::new();
    stage.web_tally(20);
    let before = stage.pend.counter("transmit").unwrap();
    assert!(before >= 100, "{before}");
    stage.pend.kill9().unwrap();
    stage.web_tally(20);
    stage.pend.launch().unwrap();
    stage.pend.wait_ready(12).unwrap();
    let after = stage.pend.counter("transmit").unwrap();
    assert!(after >= before + 100, "{before} {after}");
    let rows = stage.pend.penctl_json(["backends"]).unwrap();
    let rows = rows.as_array().unwrap().iter().filter(|row| row["service"] == "web");
    let by_backend: u64 = rows.map(|row| row["packets"].as_u64().unwrap()).sum();
    assert_eq!(by_backend, after);
}

#[test]
fn a_backend_that_dies_while_nobody_looks_is_found_by_the_next_pend() {
    let mut stage = Stage::new();
    stage.pend.kill9().unwrap();
    stage.demos[0].process().kill9().unwrap();
    stage.pend.launch().unwrap();
    stage.pend.wait_health("web", "b1", "down").unwrap();
    assert_eq!(stage.web_tally(60).keys().collect::<Vec<_>>(), ["b2", "b3"]);
}

/// Datagrams that carry a number, and who received which.
struct Numbers {
    over: AtomicBool,
    received: Mutex<BTreeMap<u32, u32>>,
}

impl Numbers {
    fn receive(&self, socket: &UdpSocket) {
        let mut datagram = [0; 64];
        while !self.over.load(Ordering::Relaxed) {
            // The end of its patience, in order to look whether it is over.
            let Ok(length) = socket.recv(&mut datagram) else { continue };
            let number = datagram[..length].try_into().map(u32::from_be_bytes);
            let mut received = self.received.lock().unwrap();
            *received.entry(number.expect("four bytes")).or_default() += 1;
        }
    }
}

impl Drop for Numbers {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn listen(netns: &Netns, at: SocketAddr) -> UdpSocket {
    let socket = netns.run(|| UdpSocket::bind(at)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    socket
}

#[test]
fn of_numbered_datagrams_none_is_lost_or_doubled_through_a_crash_and_a_restart() {
    let lab = Lab::builder().build().unwrap();
    // Instead of the demo's own UDP sockets, which would answer.
    let sockets: Vec<_> = lab
        .backends
        .iter()
        .flat_map(|backend| [VIP4, VIP6].map(|vip| listen(&backend.netns, SocketAddr::new(vip, 9))))
        .collect();
    let mut stage = Stage::in_lab(lab, |lab| {
        let mut config = usual(lab);
        for service in &mut config.services {
            if service.listen.port() == ECHO.port() {
                service.listen.set_port(9);
                for (_, at) in &mut service.backends {
                    at.set_port(9);
                }
            }
        }
        config
    });
    let numbers = Numbers { over: false.into(), received: Mutex::default() };
    let client = stage.lab.client().netns.clone();
    let stop = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let numbers = &numbers;
        for socket in &sockets {
            scope.spawn(move || numbers.receive(socket));
        }
        let (client, stop) = (&client, &stop);
        let sender = scope.spawn(move || send_numbers(client, stop));
        // A panic must reach the end of the scope, where all threads have to have ended.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..4 {
                stage.pend.kill9().unwrap();
                stage.web_tally(50);
                stage.pend.launch().unwrap();
                stage.pend.wait_ready(12).unwrap();
                stage.web_tally(50);
            }
        }));
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join().unwrap();
        let all = wait_until(Duration::from_secs(3), "all datagrams have arrived", || {
            let received = numbers.received.lock().unwrap().len();
            (received == sent as usize).then_some(())
        });
        numbers.over.store(true, Ordering::Relaxed);
        result.and(Ok(all)).unwrap_or_else(|cause| std::panic::resume_unwind(cause)).unwrap();
        sent
    });
    let received = numbers.received.lock().unwrap();
    assert!(sent > 500, "{sent}");
    let doubled: Vec<_> = received.iter().filter(|(_, times)| **times != 1).collect();
    assert!(doubled.is_empty(), "{doubled:?}");
}

/// About a thousand in a second, over twenty flows in both families; how many.
fn send_numbers(client: &Netns, stop: &AtomicBool) -> u32 {
    let flows: Vec<_> = (0..10)
        .flat_map(|_| [VIP4, VIP6])
        .map(|vip| UdpTalk::open(client, SocketAddr::new(vip, 9)).unwrap())
        .collect();
    let clock = Stopwatch::start();
    let mut sent = 0_u32;
    for flow in flows.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        flow.send(&sent.to_be_bytes()).unwrap();
        sent += 1;
        // By the clock, not by the pause: a busy machine pauses longer than asked.
        pace(Duration::from_millis(u64::from(sent)).saturating_sub(clock.elapsed()));
    }
    sent
}
