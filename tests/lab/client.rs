//! What clients do: requests with a short bound, each answered by the name of a backend.
//!
//! `curl` and `dig` are the real programs; the others use plain sockets, for thousands of requests
//! and for connections that are kept while the lab changes under them. A socket stays in the
//! namespace in which it was made.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use crate::{
    netns::Netns,
    process::{SHORT, run},
};

/// How long one request may take before it has failed.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// Fetches a URL with curl: the body without its line end, or curl's complaint.
pub fn curl(netns: &Netns, url: &str) -> Result<String, String> {
    let mut command = netns.command("curl");
    command.args(["--silent", "--show-error", "--fail", "--globoff", "--noproxy", "*"]);
    command.args(["--max-time", "2", url]);
    let output = run(&mut command, SHORT).map_err(|error| format!("{error:#}"))?;
    if output.status.success() {
        Ok(output.stdout.trim_end().to_owned())
    } else {
        Err(output.stderr.trim_end().to_owned())
    }
}

/// Fetches a URL `times` times with one curl, over a new connection each time: the bodies' lines, or
/// curl's complaint about the first that failed.
pub fn curl_times(netns: &Netns, server: SocketAddr, times: u32) -> Result<Vec<String>, String> {
    let mut command = netns.command("curl");
    command.args(["--silent", "--show-error", "--fail", "--fail-early", "--noproxy", "*"]);
    command.args(["--max-time", "2", "--header", "Connection: close"]);
    command.arg(format!("http://{server}/?[1-{times}]"));
    let output = run(&mut command, Duration::from_secs(30)).map_err(|e| format!("{e:#}"))?;
    if output.status.success() {
        Ok(output.stdout.lines().map(str::to_owned).collect())
    } else {
        let answers = output.stdout.lines().count();
        Err(format!("after {answers} answers: {}", output.stderr.trim_end()))
    }
}

/// Asks a name server with dig: the answers' data, one a line, or dig's complaint.
pub fn dig(netns: &Netns, server: SocketAddr, name: &str, kind: &str) -> Result<String, String> {
    let mut command = netns.command("dig");
    command.arg(format!("@{}", server.ip())).args(["-p", &server.port().to_string()]);
    command.args(["+short", "+tries=1", "+time=1", name, kind]);
    let output = run(&mut command, SHORT).map_err(|error| format!("{error:#}"))?;
    if output.status.success() {
        Ok(output.stdout.trim_end().to_owned())
    } else {
        // dig complains on its standard output.
        Err(output.stdout.trim_end().to_owned())
    }
}

/// One HTTP request over a new connection, without a process: the body's text.
pub fn http(netns: &Netns, server: SocketAddr) -> io::Result<String> {
    let mut stream = connect(netns, server)?;
    write!(stream, "GET / HTTP/1.1\r\nHost: pen.test\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(io::Error::other(head.lines().next().unwrap_or_default()));
    }
    Ok(body.trim_end().to_owned())
}

/// One datagram from a new port: who answered, if anyone did in time.
pub fn udp_ask(netns: &Netns, server: SocketAddr) -> Option<String> {
    UdpTalk::open(netns, server).ok()?.ask()
}

fn connect(netns: &Netns, server: SocketAddr) -> io::Result<TcpStream> {
    let stream = netns.run(|| TcpStream::connect_timeout(&server, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A TCP connection to the demo server that stays open and asks again and again who is there.
#[derive(Debug)]
pub struct TcpTalk(BufReader<TcpStream>);

impl TcpTalk {
    /// Connects.
    pub fn open(netns: &Netns, server: SocketAddr) -> io::Result<Self> {
        Ok(Self(BufReader::new(connect(netns, server)?)))
    }

    /// Asks once: the name of the backend at the other end.
    pub fn ask(&mut self) -> io::Result<String> {
        self.0.get_mut().write_all(b"who\n")?;
        let mut line = String::new();
        match self.0.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    /// Its own address and port.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.0.get_ref().local_addr()
    }

    /// Ends its own half, and expects the other to do the same.
    pub fn close(mut self) -> io::Result<()> {
        self.0.get_mut().shutdown(Shutdown::Write)?;
        self.0.read_to_end(&mut Vec::new()).map(drop)
    }
}

/// A UDP "connection": datagrams from one source port.
#[derive(Debug)]
pub struct UdpTalk(UdpSocket);

impl UdpTalk {
    /// Takes a port. Only answers that come from `server` will count.
    pub fn open(netns: &Netns, server: SocketAddr) -> io::Result<Self> {
        let any = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        Self::open_from(netns, any, server)
    }

    /// As [`UdpTalk::open`], from this one of the namespace's addresses.
    pub fn open_from(netns: &Netns, source: IpAddr, server: SocketAddr) -> io::Result<Self> {
        netns.run(|| {
            let socket = UdpSocket::bind((source, 0))?;
            socket.connect(server)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(Self(socket))
        })
    }

    /// Its own address and port.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Sends without waiting for an answer.
    pub fn send(&self, datagram: &[u8]) -> io::Result<()> {
        self.0.send(datagram).map(drop)
    }

    /// Asks once: who answered, if anyone did in time.
    pub fn ask(&self) -> Option<String> {
        self.0.send(b"who\n").ok()?;
        let mut answer = [0; 512];
        let length = self.0.recv(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer[..length]).trim_end().to_owned())
    }
}
