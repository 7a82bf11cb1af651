//! Hands the sockets that clients connect to from a daemon to the one that takes its place. They stay
//! what they are, with the connections that wait in them, so that no client is turned away between the
//! two.
//!
//! The heir listens beside the control socket before it asks the other one to leave. That one connects,
//! sends descriptors (SCM_RIGHTS, unix(7)), and only then lets go of the lock on the pins: whoever has
//! got the lock after it has all of them in his queue, and never waits for any.

use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use socket2::{Socket, Type};

use super::unix::Bound;

/// Descriptors of one message; Linux takes 253 (SCM_MAX_FD).
const MOST: usize = 128;

/// Where an heir listens for what the daemon behind this control socket has.
fn beside(control: &Path) -> PathBuf {
    control.with_extension("heir")
}

/// Whoever is about to take the place of a daemon. Dropping it removes its socket.
#[derive(Debug)]
pub struct Heir {
    listener: UnixListener,
    path: PathBuf,
}

impl Heir {
    /// Listens for what the daemon behind this control socket leaves.
    ///
    /// # Errors
    ///
    /// If the folder of the control socket cannot be written.
    pub fn new(control: &Path) -> io::Result<Self> {
        let path = beside(control);
        // Who has left it there has no heir any more: two of them fight for the lock anyway.
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path })
    }

    /// What the process `from` has left, which has left.
    ///
    /// # Errors
    ///
    /// If what it sent cannot be received: this process has too few descriptors.
    pub fn inherit(self, from: u32) -> io::Result<Estate> {
        let mut estate = Estate::default();
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                // Nobody has come: it knows nothing of heirs.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(estate),
                Err(error) => return Err(error),
            };
            let peer = getsockopt(&stream, sockopt::PeerCredentials)?;
            if u32::try_from(peer.pid()).is_ok_and(|pid| pid == from) {
                receive(&stream, &mut estate)?;
            }
        }
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn receive(stream: &UnixStream, estate: &mut Estate) -> io::Result<()> {
    // All of it is there already, and its end.
    stream.set_nonblocking(true)?;
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let buffers = &mut [IoSliceMut::new(&mut byte)];
        if recvmsg(stream, buffers, &mut rights, RecvFlags::CMSG_CLOEXEC)?.bytes == 0 {
            return Ok(());
        }
        for right in rights.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = right {
                descriptors.for_each(|descriptor| estate.add(descriptor));
            }
        }
    }
}

/// Leaves these sockets to the heir of the daemon behind this control socket; false if it has none.
///
/// # Errors
///
/// If they cannot be sent.
pub(super) fn leave(control: &Path, sockets: &[BorrowedFd<'_>]) -> io::Result<bool> {
    let stream = match UnixStream::connect(beside(control)) {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(false),
        Err(error) => return Err(error),
    };
    // Who does not receive must not hold this one up.
    stream.set_nonblocking(true)?;
    for some in sockets.chunks(MOST) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        if !rights.push(SendAncillaryMessage::ScmRights(some)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        sendmsg(&stream, &[IoSlice::new(&[0])], &mut rights, SendFlags::NOSIGNAL)?;
    }
    Ok(true)
}

/// What a daemon has left: sockets, by the address that they are bound to.
#[derive(Debug, Default)]
pub struct Estate {
    listeners: HashMap<SocketAddr, Vec<TcpListener>>,
    datagrams: HashMap<SocketAddr, Vec<UdpSocket>>,
    /// By their paths. Files of those that nobody needs are removed.
    paths: HashMap<PathBuf, (Bound, UnixListener)>,
}

impl Estate {
    /// Others than it knows are closed.
    fn add(&mut self, descriptor: OwnedFd) {
        let socket = Socket::from(descriptor);
        let Ok(address) = socket.local_addr() else { return };
        if let Some(path) = address.as_pathname() {
            if socket.is_listener().unwrap_or(false)
                && let Some(bound) = Bound::inherited(path)
            {
                self.paths.insert(path.to_owned(), (bound, socket.into()));
            }
            return;
        }
        match (address.as_socket(), socket.r#type()) {
            (Some(address), Ok(Type::STREAM)) if socket.is_listener().unwrap_or(false) => {
                self.listeners.entry(address).or_default().push(socket.into());
            }
            (Some(address), Ok(Type::DGRAM)) => {
                self.datagrams.entry(address).or_default().push(socket.into());
            }
            _ => {}
        }
    }

    /// Sockets that listen at this address, one for each thread.
    pub(super) fn listeners(&mut self, address: SocketAddr) -> Option<Vec<TcpListener>> {
        self.listeners.remove(&address)
    }

    /// The same for datagrams.
    pub(super) fn datagrams(&mut self, address: SocketAddr) -> Option<Vec<UdpSocket>> {
        self.datagrams.remove(&address)
    }

    /// The one that listens on a path.
    pub(super) fn path(&mut self, path: &Path) -> Option<(Bound, UnixListener)> {
        self.paths.remove(path)
    }

    /// How many threads the predecessor had; 0 if it left nothing.
    pub(super) fn threads(&self) -> usize {
        let listeners = self.listeners.values().map(Vec::len);
        listeners.chain(self.datagrams.values().map(Vec::len)).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    /// A path for a control socket, and what is there in the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("pen-heir-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("a folder");
            Self(path)
        }

        fn control(&self) -> PathBuf {
            self.0.join("pend.sock")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const LOOPBACK: (std::net::Ipv4Addr, u16) = (std::net::Ipv4Addr::LOCALHOST, 0);

    #[test]
    fn an_heir_gets_all_sockets_with_the_clients_that_wait_in_them() {
        let folder = Folder::new("all");
        let heir = Heir::new(&folder.control()).expect("a folder");
        // More than one message takes.
        let listeners: Vec<_> =
            (0..MOST + 3).map(|_| TcpListener::bind(LOOPBACK).expect("a port")).collect();
        let udp = UdpSocket::bind(LOOPBACK).expect("a port");
        let address = |listener: &TcpListener| listener.local_addr().expect("bound");
        let addresses: Vec<_> = listeners.iter().map(address).collect();
        let clients: Vec<_> = addresses
            .iter()
            .map(|at| std::net::TcpStream::connect(at).expect("listened for"))
            .collect();
        let mut sockets: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
        sockets.push(udp.as_fd());
        // Neither listens nor is one of datagrams: nobody needs it.
        sockets.push(clients[0].as_fd());
        assert!(leave(&folder.control(), &sockets).expect("sent"));
        let datagrams_at = udp.local_addr().expect("bound");
        drop((listeners, udp));
        let mut estate = heir.inherit(std::process::id()).expect("descriptors");
        assert_eq!(estate.threads(), 1);
        for (address, client) in addresses.iter().zip(&clients) {
            let found = estate.listeners(*address).expect("left").remove(0);
            let (_, peer) = found.accept().expect("it waits");
            assert_eq!(peer, client.local_addr().expect("connected"));
        }
        assert_eq!(estate.datagrams(datagrams_at).expect("left").len(), 1);
        assert_eq!(estate.threads(), 0);
        assert!(!beside(&folder.control()).exists());
    }

    #[test]
    fn without_an_heir_nothing_is_left_and_without_a_will_nothing_is_inherited() {
        let folder = Folder::new("none");
        assert!(!leave(&folder.control(), &[]).expect("nobody is no error"));
        let heir = Heir::new(&folder.control()).expect("a folder");
        assert_eq!(heir.inherit(1).expect("nothing came").threads(), 0);
        // One that was killed has left its socket, which another one may have.
        let dead = UnixListener::bind(beside(&folder.control())).expect("a folder");
        drop(dead);
        assert!(!leave(&folder.control(), &[]).expect("nobody is no error"));
        drop(Heir::new(&folder.control()).expect("it is replaced"));
    }

    #[test]
    fn a_unix_socket_goes_over_with_its_file_which_is_removed_if_nobody_needs_it() {
        let folder = Folder::new("unix");
        let [needed, other] = ["needed", "other"].map(|name| folder.0.join(name));
        let heir = Heir::new(&folder.control()).expect("a folder");
        let listeners = [&needed, &other].map(|path| UnixListener::bind(path).expect("a path"));
        let client = UnixStream::connect(&needed).expect("listened for");
        // Not one that listens.
        let sockets: Vec<_> = listeners.iter().map(AsFd::as_fd).chain([client.as_fd()]).collect();
        assert!(leave(&folder.control(), &sockets).expect("sent"));
        let mut estate = heir.inherit(std::process::id()).expect("descriptors");
        let (bound, listener) = estate.path(&needed).expect("left");
        listener.accept().expect("it waits");
        drop(estate);
        assert!(needed.exists() && !other.exists());
        drop(bound);
        assert!(!needed.exists());
    }

    #[test]
    fn nothing_is_taken_from_strangers() {
        let folder = Folder::new("stranger");
        let heir = Heir::new(&folder.control()).expect("a folder");
        let listener = TcpListener::bind(LOOPBACK).expect("a port");
        assert!(leave(&folder.control(), &[listener.as_fd()]).expect("sent"));
        let somebody_else = std::process::id() + 1;
        assert_eq!(heir.inherit(somebody_else).expect("nothing of his").threads(), 0);
    }
}
