//! Mode `proxy`: connections end at pen, others lead to the backends. Real clients and servers; where a
//! test needs one that misbehaves it plays it itself, with sockets in the namespaces of the lab.

mod chaos;
mod data;
mod drain;
mod fail;
mod handover;
mod http;
mod judge;
mod operator;
mod paths;
mod select;
mod transparent;
mod udp;
mod unix;
mod whois;

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use nix::sys::socket;
use pen_tests::{ConfigText, Lab, Netns, Pend, Protocol, ServiceText};

use crate::stage::{Stage, over_all, vips};

/// Longer than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A lab whose backends do not hold the virtual addresses: a proxy asks nothing of them.
pub(crate) fn lab(backends: u8) -> Lab {
    Lab::builder().clients(2).backends(backends).vips(&[]).build().unwrap()
}

/// A proxied service over all backends of a lab, with these keys besides the usual ones.
pub(crate) fn proxied(lab: &Lab, name: &str, at: SocketAddr, keys: &str) -> ServiceText {
    let service = over_all(lab, name, at, Protocol::Tcp, at.port());
    ServiceText { mode: "proxy".to_owned(), keys: keys.to_owned(), ..service }
}

/// pend with one service on [`crate::stage::WEB`] over backends that run the demo server.
pub(crate) fn stage(backends: u8, keys: &str) -> Stage {
    let at = crate::stage::WEB;
    Stage::in_lab(lab(backends), |lab| vips().service(proxied(lab, "web", at, keys)))
}

/// pend in front of servers that the test plays itself, which nobody checks.
pub(crate) fn unchecked(lab: &Lab, keys: &str) -> Pend {
    let service = proxied(lab, "web", crate::stage::WEB, keys);
    let service = ServiceText { check: Some(r#"{ type = "none" }"#.to_owned()), ..service };
    start(lab, &vips().service(service))
}

pub(crate) fn start(lab: &Lab, config: &ConfigText) -> Pend {
    let mut pend = Pend::start(&lab.balancer().netns, config).unwrap();
    pend.wait_ready(config.services.iter().map(|service| service.backends.len()).sum()).unwrap();
    pend
}

/// A client's connection.
pub(crate) fn connect(netns: &Netns, to: SocketAddr) -> io::Result<TcpStream> {
    let stream = netns.run(|| TcpStream::connect_timeout(&to, LONG))?;
    stream.set_read_timeout(Some(LONG))?;
    stream.set_write_timeout(Some(LONG))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// All that comes until the end.
pub(crate) fn read_all(mut stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A server that a test plays: each connection is handed to a closure, in a thread of its own.
pub(crate) struct Server {
    listener: Arc<TcpListener>,
    accepting: Option<thread::JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(
        netns: &Netns,
        at: (IpAddr, u16),
        serve: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> Self {
        let listener = Arc::new(netns.run(|| TcpListener::bind(at)).unwrap());
        let (own, serve) = (Arc::clone(&listener), Arc::new(serve));
        let accepting = thread::spawn(move || {
            while let Ok((stream, _)) = own.accept() {
                let serve = Arc::clone(&serve);
                thread::spawn(move || serve(stream));
            }
        });
        Self { listener, accepting: Some(accepting) }
    }

    /// A server that answers the first line with its name and all that it got.
    pub(crate) fn named(netns: &Netns, at: (IpAddr, u16), name: &str) -> Self {
        let name = name.to_owned();
        Self::start(netns, at, move |mut stream| {
            let _ = writeln!(stream, "{name}");
            let _ = io::copy(&mut stream.try_clone().unwrap(), &mut stream);
            let _ = stream.shutdown(Shutdown::Write);
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        use std::os::fd::AsRawFd;
        // Wakes the thread that accepts.
        let _ = socket::shutdown(self.listener.as_raw_fd(), socket::Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

/// The name that a [`Server::named`] or the demo server gives over this connection.
pub(crate) fn name_at(mut stream: &TcpStream) -> io::Result<String> {
    let mut name = Vec::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(1) if byte[0] != b'\n' => name.push(byte[0]),
            Ok(_) => break,
            // A machine that is stopped for a moment interrupts a read that has a timeout (signal(7)).
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if name.is_empty() {
        Err(io::ErrorKind::UnexpectedEof.into())
    } else {
        Ok(String::from_utf8_lossy(&name).into())
    }
}
