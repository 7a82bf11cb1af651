//! Numbered datagrams through pen: whatever happens to it meanwhile, none may be lost or doubled.

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
    ConfigText, Lab, Netns, VIP4, VIP6,
    client::UdpTalk,
    wait::{Stopwatch, pace},
    wait_until,
};

use crate::stage::{ECHO, Stage, usual};

/// Where they are sent. Instead of the demo's own UDP port, whose sockets would answer.
const PORT: u16 = 9;

/// The lab, in which the UDP services only listen.
pub(crate) struct Numbered {
    pub(crate) stage: Stage,
    sockets: Vec<UdpSocket>,
}

impl Numbered {
    pub(crate) fn new() -> Self {
        let lab = Lab::builder().build().unwrap();
        let sockets = lab.backends.iter().flat_map(|backend| {
            [VIP4, VIP6].map(|vip| listen(&backend.netns, SocketAddr::new(vip, PORT)))
        });
        let sockets = sockets.collect();
        Self { sockets, stage: Stage::in_lab(lab, numbered) }
    }

    /// Sends them while something happens, and until there are so many; how many there were.
    pub(crate) fn send_while(&mut self, least: u32, during: impl FnOnce(&mut Stage)) -> u32 {
        let Self { stage, sockets } = self;
        let numbers = Numbers { over: false.into(), received: Mutex::default() };
        let client = stage.lab.client().netns.clone();
        let stop = AtomicBool::new(false);
        let sent = thread::scope(|scope| {
            let numbers = &numbers;
            for socket in &*sockets {
                scope.spawn(move || numbers.receive(socket));
            }
            let (client, stop) = (&client, &stop);
            let sender = scope.spawn(move || send(client, least, stop));
            // A panic must reach the end of the scope, where all threads have to have ended.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| during(stage)));
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
        let doubled: Vec<_> = received.iter().filter(|(_, times)| **times != 1).collect();
        assert!(doubled.is_empty(), "{doubled:?}");
        sent
    }
}

/// All four services, the UDP ones on the port for numbers.
pub(crate) fn numbered(lab: &Lab) -> ConfigText {
    let mut config = usual(lab);
    for service in &mut config.services {
        if service.listen.port() == ECHO.port() {
            service.listen.set_port(PORT);
            for (_, at) in &mut service.backends {
                at.set_port(PORT);
            }
        }
    }
    config
}

/// Who received which.
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

/// About two thousand in a second, over twenty flows in both families; how many.
fn send(client: &Netns, least: u32, stop: &AtomicBool) -> u32 {
    let flows: Vec<_> = (0..10)
        .flat_map(|_| [VIP4, VIP6])
        .map(|vip| UdpTalk::open(client, SocketAddr::new(vip, PORT)).unwrap())
        .collect();
    let clock = Stopwatch::start();
    let mut sent = 0_u32;
    for flow in flows.iter().cycle() {
        if stop.load(Ordering::Relaxed) && sent >= least {
            break;
        }
        flow.send(&sent.to_be_bytes()).unwrap();
        sent += 1;
        // By the clock, not by the pause: a busy machine pauses longer than asked.
        pace(Duration::from_micros(500 * u64::from(sent)).saturating_sub(clock.elapsed()));
    }
    sent
}
