//! Lets a socket that leads to a server come from the client's address (IP_TRANSPARENT, ip(7)). Its
//! answers are taken in by `io::answers`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;

/// Binds a socket that is not connected yet to an address that is not this machine's, if there is
/// one to bind it to.
///
/// # Errors
///
/// What the kernel said: without CAP_NET_ADMIN it does not allow that.
pub(super) fn assume(socket: &impl AsFd, address: Option<IpAddr>) -> io::Result<()> {
    let Some(address) = address else { return Ok(()) };
    let reference = SockRef::from(socket);
    match address {
        IpAddr::V4(_) => reference.set_ip_transparent_v4(true)?,
        IpAddr::V6(_) => reference.set_ip_transparent_v6(true)?,
    }
    // A port is taken when the server is known: a client has then as many for each server as there
    // are, and not for all of them together.
    setsockopt(socket, sockopt::IpBindAddressNoPort, &true)?;
    reference.bind(&SocketAddr::new(address, 0).into())
}
