//! Measures an outage: asks a virtual address each millisecond whether it is there, so that what is
//! not answered counts milliseconds.

use std::{
    collections::BTreeMap,
    io::Read,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use pen_tests::{
    Netns,
    wait::{Stopwatch, pace},
};
use socket2::{Domain, Protocol, Socket, Type};

/// Between two probes.
const GAP: Duration = Duration::from_millis(1);
/// The last answers get this time.
const LATE: Duration = Duration::from_millis(200);
/// Bytes of an ICMP echo's header, after which the probe's number stands.
const HEADER: usize = 8;
/// Bytes of an IPv4 header, which raw sockets hand over as well.
const IP: usize = 20;

/// Probes under way; [`Probes::stop`] ends them.
pub(crate) struct Probes {
    over: Arc<AtomicBool>,
    sender: Option<JoinHandle<Vec<Duration>>>,
    receiver: Option<JoinHandle<BTreeMap<usize, u32>>>,
}

/// What was seen.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) sent: usize,
    /// Probes without an answer.
    pub(crate) lost: usize,
    /// Probes with more than one.
    pub(crate) doubled: usize,
    /// Longest time from a probe that was answered to the next one.
    pub(crate) outage: Duration,
}

impl Probes {
    /// Begins to ask from a namespace.
    pub(crate) fn start(from: &Netns, vip: Ipv4Addr) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let socket = from.run(|| {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
            socket.connect(&SocketAddr::new(IpAddr::V4(vip), 0).into()).unwrap();
            socket.set_read_timeout(Some(LATE)).unwrap();
            socket.set_recv_buffer_size(1 << 20).unwrap();
            socket
        });
        let ears = socket.try_clone().unwrap();
        let (send_over, receive_over) = (Arc::clone(&over), Arc::clone(&over));
        let sender = thread::spawn(move || send(&socket, &send_over));
        let receiver = thread::spawn(move || receive(ears, &receive_over));
        Self { over, sender: Some(sender), receiver: Some(receiver) }
    }

    pub(crate) fn stop(mut self) -> Seen {
        self.over.store(true, Ordering::Relaxed);
        let sent = self.sender.take().unwrap().join().unwrap();
        let answers = self.receiver.take().unwrap().join().unwrap();
        let answered = |number: &usize| answers.contains_key(number);
        let times: Vec<_> = (0..sent.len()).filter(answered).map(|number| sent[number]).collect();
        Seen {
            sent: sent.len(),
            lost: sent.len() - times.len(),
            doubled: answers.values().filter(|count| **count > 1).count(),
            outage: times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default(),
        }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// When each probe was sent.
fn send(socket: &Socket, over: &AtomicBool) -> Vec<Duration> {
    let (started, mut times) = (Stopwatch::start(), Vec::new());
    while !over.load(Ordering::Relaxed) {
        let number = u32::try_from(times.len()).unwrap();
        let mut packet = [8, 0, 0, 0, 0x70, 0x65, 0, 0, 0, 0, 0, 0];
        packet[HEADER..].copy_from_slice(&number.to_be_bytes());
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum);
        times.push(started.elapsed());
        // Lost if there is no way: that is what is measured.
        let _ = socket.send(&packet);
        pace(GAP);
    }
    times
}

/// How often each number was answered.
fn receive(mut socket: Socket, over: &AtomicBool) -> BTreeMap<usize, u32> {
    let mut answers = BTreeMap::new();
    loop {
        let mut packet = [0; 128];
        match socket.read(&mut packet) {
            // An echo reply, and ours.
            Ok(length) if length >= IP + HEADER + 4 && packet[IP] == 0 => {
                let number = &packet[IP + HEADER..IP + HEADER + 4];
                let number = u32::from_be_bytes(number.try_into().unwrap());
                *answers.entry(usize::try_from(number).unwrap()).or_default() += 1;
            }
            Ok(_) => {}
            Err(_) if over.load(Ordering::Relaxed) => return answers,
            Err(_) => {}
        }
    }
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum = words.sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    sum.to_be_bytes()
}
