//! rustls without its buffers: bytes of the stream in, bytes for the stream and plain bytes out, in
//! memory that the caller has.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus,
};
use rustls::{CommonState, Error, InvalidMessage};

/// Bytes that a record adds to what is in it, at most (RFC 5246 6.2.3 with an explicit nonce).
const OVERHEAD: usize = 5 + 8 + 1 + 16;
/// Most that is in a record.
const FRAGMENT: usize = 16 * 1024;
/// For a notice of the end, and of new keys.
const NOTICES: usize = 256;

/// Room that so many plain bytes need when they are enciphered.
pub(super) const fn room(bytes: usize) -> usize {
    bytes + (bytes.div_ceil(FRAGMENT) + 1) * OVERHEAD + NOTICES
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes of the input that are done with; the rest is the beginning of a record, to be given again.
    pub(super) taken: usize,
    /// The peer has said that nothing more comes.
    pub(super) ended: bool,
}

/// One end of TLS, of whichever side it is the end.
pub(super) trait Records {
    /// As [`take_in`].
    fn take_in(
        &mut self,
        input: &mut [u8],
        out: &mut Vec<u8>,
        plain: &mut Vec<u8>,
    ) -> Result<Progress, Error>;

    /// As [`seal`].
    fn seal(
        &mut self,
        begun: &mut [u8],
        bytes: &[u8],
        last: bool,
        out: &mut [u8],
    ) -> Result<usize, Error>;

    /// The protocol above it that was agreed upon.
    fn alpn(&self) -> Option<&[u8]>;
}

/// What rustls has twice.
pub(super) trait Role {
    type Data;

    fn step<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn common(&self) -> &CommonState;
}

impl Role for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn step<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

impl Role for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn step<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

impl<R: Role> Records for R {
    fn take_in(
        &mut self,
        input: &mut [u8],
        out: &mut Vec<u8>,
        plain: &mut Vec<u8>,
    ) -> Result<Progress, Error> {
        take_in(self, input, out, plain)
    }

    fn seal(
        &mut self,
        begun: &mut [u8],
        bytes: &[u8],
        last: bool,
        out: &mut [u8],
    ) -> Result<usize, Error> {
        seal(self, begun, bytes, last, out)
    }

    fn alpn(&self) -> Option<&[u8]> {
        self.common().alpn_protocol()
    }
}

/// Works through what has come. What is to be sent is added to `out`, also if it is an error: then that
/// is the alert by which the peer is told. What was said is added to `plain`.
pub(super) fn take_in(
    tls: &mut impl Role,
    input: &mut [u8],
    out: &mut Vec<u8>,
    plain: &mut Vec<u8>,
) -> Result<Progress, Error> {
    let mut progress = Progress { taken: 0, ended: false };
    loop {
        let status = tls.step(&mut input[progress.taken..]);
        let UnbufferedStatus { mut discard, state } = status;
        let state = match state {
            Ok(state) => state,
            Err(error) => {
                last_words(tls, input.len(), out);
                return Err(error);
            }
        };
        let more = match state {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    plain.extend_from_slice(record.payload);
                }
                true
            }
            ConnectionState::EncodeTlsData(mut data) => {
                encode(&mut data, out)?;
                true
            }
            ConnectionState::TransmitTlsData(data) => {
                // `out` is sent in its order, and before anything else.
                data.done();
                true
            }
            ConnectionState::PeerClosed => {
                progress.ended = true;
                true
            }
            ConnectionState::BlockedHandshake
            | ConnectionState::WriteTraffic(_)
            | ConnectionState::Closed => false,
            // Early data is not offered; and states that this version of rustls does not have.
            _ => {
                return Err(Error::InvalidMessage(InvalidMessage::UnexpectedMessage("early data")));
            }
        };
        progress.taken = (progress.taken + discard).min(input.len());
        if !more {
            return Ok(progress);
        }
    }
}

/// Adds what rustls wants to be sent.
fn encode<Data>(data: &mut EncodeTlsData<'_, Data>, out: &mut Vec<u8>) -> Result<(), Error> {
    let at = out.len();
    // How much room it needs is what it says when there is none.
    if let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) {
        out.resize(at + size.required_size, 0);
        data.encode(&mut out[at..]).map_err(|_| Error::EncryptError)?;
    }
    Ok(())
}

/// Adds the alert by which the peer is told of an error, if there is one. rustls remembers where in the
/// input messages were, and panics if there is less of it now: it gets as much as before, of nothing.
fn last_words(tls: &mut impl Role, length: usize, out: &mut Vec<u8>) {
    let mut nothing = vec![0; length];
    loop {
        match tls.step(&mut nothing).state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while traffic.next_record().is_some() {}
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                let _ = encode(&mut data, out);
                return;
            }
            _ => return,
        }
    }
}

/// Enciphers. `begun` is the beginning of a record that has come. `room()` says how much `out` needs;
/// returned is how much of it was used.
pub(super) fn seal(
    tls: &mut impl Role,
    begun: &mut [u8],
    bytes: &[u8],
    last: bool,
    out: &mut [u8],
) -> Result<usize, Error> {
    let mut used = 0;
    loop {
        match tls.step(begun).state? {
            ConnectionState::WriteTraffic(mut traffic) => {
                let failed = |error| match error {
                    EncryptError::EncryptExhausted => Error::EncryptError,
                    EncryptError::InsufficientSize(_) => Error::BadMaxFragmentSize,
                };
                if !bytes.is_empty() {
                    used += traffic.encrypt(bytes, &mut out[used..]).map_err(failed)?;
                }
                if last {
                    used += traffic.queue_close_notify(&mut out[used..]).map_err(failed)?;
                }
                return Ok(used);
            }
            ConnectionState::EncodeTlsData(mut data) => {
                used += data.encode(&mut out[used..]).map_err(|_| Error::BadMaxFragmentSize)?;
            }
            ConnectionState::TransmitTlsData(data) => data.done(),
            _ => return Err(Error::HandshakeNotComplete),
        }
    }
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
