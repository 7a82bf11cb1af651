//! Lines of the log for syslog(3): a datagram each to `/dev/log`. For `pend carp`, whose ancestor
//! logged there; a `pend` of its own leaves that to the service manager, which reads its output.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Where syslog listens.
pub const DEV_LOG: &str = "/dev/log";

/// A connection to syslog.
#[derive(Debug)]
pub struct Syslog {
    socket: UnixDatagram,
    facility: u8,
}

impl Syslog {
    /// Connects to the syslog at `path`, for messages of a facility of RFC 5424.
    ///
    /// # Errors
    ///
    /// If nobody listens there.
    pub fn connect(path: &Path, facility: u8) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        // A syslog that does not follow misses lines, rather than hold the daemon up.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, facility })
    }

    fn line(&self, severity: u8) -> Line<'_> {
        Line { socket: &self.socket, priority: self.facility * 8 + severity, text: Vec::new() }
    }
}

impl<'a> MakeWriter<'a> for Syslog {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        self.line(6)
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line<'a> {
        self.line(match *metadata.level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        })
    }
}

/// A line in the making; it is sent when it is complete.
#[derive(Debug)]
pub struct Line<'a> {
    socket: &'a UnixDatagram,
    priority: u8,
    text: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        let head = format!("<{}>pend[{}]: ", self.priority, process::id());
        let message = [head.as_bytes(), self.text.trim_ascii()].concat();
        // There is nobody to complain to.
        let _ = self.socket.send(&message);
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::prelude::*;

    use super::*;

    #[test]
    fn a_line_bears_facility_and_severity_and_its_process() {
        let path = std::env::temp_dir().join(format!("pen-syslog-test-{}", process::id()));
        let server = UnixDatagram::bind(&path).unwrap();
        let syslog = Syslog::connect(&path, 16).unwrap();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(syslog)
            .with_ansi(false)
            .without_time()
            .with_level(false)
            .with_target(false);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!("ü is {}", "here");
            tracing::info!("fine");
        });
        std::fs::remove_file(&path).unwrap();
        let mut buffer = [0; 200];
        for expected in [(132, "ü is here"), (134, "fine")] {
            let length = server.recv(&mut buffer).unwrap();
            let (priority, text) = expected;
            let line = format!("<{priority}>pend[{}]: {text}", process::id());
            assert_eq!(str::from_utf8(&buffer[..length]).unwrap(), line);
        }
    }

    #[test]
    fn without_a_syslog_there_is_an_error() {
        assert!(Syslog::connect(Path::new("/no/such/log"), 3).is_err());
    }
}
