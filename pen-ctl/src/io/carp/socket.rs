//! A packet socket on one interface: hears the CARP packets of all instances there, and sends whole
//! frames. Without a ring, so that a packet wakes the thread at once.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::task::{Context, Poll};

use pen_common::net::MacAddr;
use socket2::{Domain, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::filter;
use crate::io::sys::{self, Membership};

/// All ethertypes: the filter chooses.
const ALL: u16 = 0x0003;
/// Frames that are read at once. A flood of them must not keep the thread from its timers.
const AT_ONCE: usize = 64;
/// Longest part of a frame that is read. An advertisement with a trailer is far shorter, so that one
/// of this length is refused whatever follows.
pub(super) const LONGEST: usize = 2048;
/// Bytes of frames that may wait, for a thread that was held up.
const QUEUE: usize = 1 << 20;

/// The socket. Memberships end with it.
#[derive(Debug)]
pub(super) struct PacketSocket {
    socket: AsyncFd<Socket>,
    ifindex: u32,
    memberships: BTreeSet<Membership>,
}

impl PacketSocket {
    /// Opens it; nothing else than CARP ever gets into it.
    pub(super) fn open(ifindex: u32) -> io::Result<Self> {
        // Protocol 0 hears nothing until the filter is there.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)?;
        socket.attach_filter(&filter::carp())?;
        sys::ignore_outgoing(&socket)?;
        // As much as the machine gives.
        let _ = socket.set_recv_buffer_size(QUEUE);
        sys::bind(&socket, ifindex, ALL)?;
        Ok(Self { socket: sys::watch(socket)?, ifindex, memberships: BTreeSet::new() })
    }

    /// Hears frames to these groups and stations, and to no others besides the interface's own.
    /// Goes on after an error, and yields the first.
    pub(super) fn listen_to(
        &mut self,
        groups: impl IntoIterator<Item = MacAddr>,
        stations: impl IntoIterator<Item = MacAddr>,
    ) -> io::Result<()> {
        let groups = groups.into_iter().map(Membership::Multicast);
        let wanted: BTreeSet<_> =
            groups.chain(stations.into_iter().map(Membership::Unicast)).collect();
        let socket = self.socket.get_ref();
        let mut result = Ok(());
        for new in wanted.difference(&self.memberships) {
            let joined = sys::join(socket, self.ifindex, *new);
            result = result.and(joined);
        }
        for old in self.memberships.difference(&wanted) {
            let left = sys::leave(socket, self.ifindex, *old);
            result = result.and(left);
        }
        self.memberships = wanted;
        result
    }

    /// Whether there may be something to read; wakes the task when there is.
    pub(super) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        match self.socket.poll_read_ready(context) {
            Poll::Ready(Ok(_)) => Poll::Ready(()),
            // An error means that the runtime ends.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }

    /// Hands over frames that have arrived, oldest first; false if there may be more.
    pub(super) fn receive(&self, mut hand_over: impl FnMut(&[u8])) -> bool {
        let mut socket = self.socket.get_ref();
        let mut frame = [0; LONGEST];
        for _ in 0..AT_ONCE {
            match socket.read(&mut frame) {
                Ok(length) => hand_over(&frame[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.clear_readiness();
                    return true;
                }
                // That the interface is down is said once, and is news from elsewhere too.
                Err(_) => {}
            }
        }
        false
    }

    /// Sends a whole frame, at once or not at all.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.get_ref().send(frame).map(drop)
    }

    /// Nothing is there to be read: the runtime is to watch for more. What arrives meanwhile counts.
    fn clear_readiness(&self) {
        let waker = std::task::Waker::noop();
        if let Poll::Ready(Ok(mut guard)) =
            self.socket.poll_read_ready(&mut Context::from_waker(waker))
        {
            guard.clear_ready();
        }
    }
}
