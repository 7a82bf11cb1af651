//! The few system calls that no crate offers safely: packet sockets are bound and told what to hear by
//! structures of their own, and a thread asks for its scheduling by one. The only unsafe code of this
//! crate; everything else of packet sockets is in `carp/socket.rs`.
#![expect(unsafe_code, reason = "system calls that neither std nor nix nor socket2 offer")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::libc;
use pen_common::net::MacAddr;
use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `PACKET_IGNORE_OUTGOING` (linux/if_packet.h), since Linux 4.20.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// `AF_PACKET`, in the width of the field.
const AF_PACKET: libc::sa_family_t = 17;
const _: () = assert!(AF_PACKET as libc::c_int == libc::AF_PACKET);

/// What a packet socket lets its interface receive besides what it does already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Membership {
    /// Frames to this group.
    Multicast(MacAddr),
    /// Frames to this station.
    Unicast(MacAddr),
}

/// `struct packet_mreq` (packet(7)).
#[repr(C)]
struct PacketMreq {
    ifindex: libc::c_int,
    kind: libc::c_ushort,
    length: libc::c_ushort,
    address: [u8; 8],
}

impl PacketMreq {
    fn new(ifindex: u32, membership: Membership) -> Self {
        // linux/if_packet.h.
        let (kind, mac) = match membership {
            Membership::Multicast(mac) => (0, mac),
            Membership::Unicast(mac) => (3, mac),
        };
        let mut address = [0; 8];
        address[..6].copy_from_slice(&mac.0);
        Self { ifindex: ifindex.cast_signed(), kind, length: 6, address }
    }
}

/// From now on the socket hears frames of this ethertype (0x0003 is all of them) that arrive at this
/// interface.
pub(crate) fn bind(socket: &Socket, ifindex: u32, ethertype: u16) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: AF_PACKET,
        sll_protocol: ethertype.to_be(),
        sll_ifindex: ifindex.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = const { length_of::<libc::sockaddr_ll>() };
    // SAFETY: the kernel reads `length` bytes of `address`, which is that long and lives until the
    // call returns; the descriptor is open for as long as `socket` is borrowed.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    done(result)
}

/// Frames that this host sends itself are not heard.
pub(crate) fn ignore_outgoing(socket: &Socket) -> io::Result<()> {
    set(socket.as_raw_fd(), PACKET_IGNORE_OUTGOING, &1_i32)
}

/// Begins a membership. It ends with the socket, with the interface, or by [`leave`].
pub(crate) fn join(socket: &Socket, ifindex: u32, membership: Membership) -> io::Result<()> {
    let mreq = PacketMreq::new(ifindex, membership);
    set(socket.as_raw_fd(), libc::PACKET_ADD_MEMBERSHIP, &mreq)
}

/// Ends a membership.
pub(crate) fn leave(socket: &Socket, ifindex: u32, membership: Membership) -> io::Result<()> {
    let mreq = PacketMreq::new(ifindex, membership);
    set(socket.as_raw_fd(), libc::PACKET_DROP_MEMBERSHIP, &mreq)
}

/// Sets an option of level `SOL_PACKET`; `T` is what packet(7) says for that option.
fn set<T>(socket: RawFd, option: libc::c_int, value: &T) -> io::Result<()> {
    let length = const { length_of::<T>() };
    // SAFETY: the kernel reads `length` bytes of `value`, which is that long and borrowed until the
    // call returns; it keeps no pointer.
    let result = unsafe {
        libc::setsockopt(socket, libc::SOL_PACKET, option, (&raw const *value).cast(), length)
    };
    done(result)
}

/// This thread runs before all ordinary ones, as soon as it has something to do; those that it
/// starts are ordinary again.
pub(crate) fn run_first(priority: i32) -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: priority };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: 0 means the calling thread; the kernel reads one `sched_param`, which lives until the
    // call returns.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) };
    done(result)
}

/// Lets the runtime of this thread say when there is something to read.
pub(crate) fn watch(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: the socket owns its descriptor, gives out the same one for as long as it lives, and
    // does not close it before; `AsyncFd` owns the socket.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(io::Error::from)
}

/// Bytes that were written to this stream and that the other side has not acknowledged, or on a Unix
/// socket not read (`SIOCOUTQ`, tcp(7) and unix(7)).
pub(crate) fn unacknowledged(stream: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open for as long as it is borrowed; the kernel writes one int, which
    // lives until the call returns.
    done(unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) })?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

#[expect(clippy::cast_possible_truncation, reason = "a structure of a few bytes")]
const fn length_of<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
