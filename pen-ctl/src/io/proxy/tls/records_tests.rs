//! A real client against the records, whatever way its bytes are cut and altered.

use std::io::Write as _;
use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};

use super::*;

/// Settings of two that agree, the server asking for a certificate or not.
fn settings(asks: bool) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let own = rcgen::generate_simple_self_signed(["a.example".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("a key");
    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone()).expect("a certificate");
    let roots = Arc::new(roots);
    let builder = ServerConfig::builder();
    let builder = match asks {
        false => builder.with_no_client_auth(),
        true => {
            let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::clone(&roots));
            builder.with_client_cert_verifier(verifier.build().expect("it has a root"))
        }
    };
    let chain = vec![own.cert.der().clone()];
    let server = builder.with_single_cert(chain, key).expect("they belong together");
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

/// Two ends, and what is under way to the server.
struct Ends {
    server: UnbufferedServerConnection,
    client: ClientConnection,
    begun: Vec<u8>,
    plain: Vec<u8>,
}

impl Ends {
    fn new((server, client): &(Arc<ServerConfig>, Arc<ClientConfig>)) -> Self {
        let name = "a.example".try_into().expect("a name");
        Self {
            server: UnbufferedServerConnection::new(Arc::clone(server)).expect("a server"),
            client: ClientConnection::new(Arc::clone(client), name).expect("a client"),
            begun: Vec::new(),
            plain: Vec::new(),
        }
    }

    /// What the client wants to send.
    fn said(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).expect("memory");
        }
        bytes
    }

    /// The server hears these bytes, and the client its answer.
    fn hear(&mut self, bytes: &[u8]) -> Result<Progress, Error> {
        self.begun.extend(bytes);
        let mut out = Vec::new();
        let heard = take_in(&mut self.server, &mut self.begun, &mut out, &mut self.plain);
        if let Ok(progress) = &heard {
            self.begun.drain(..progress.taken);
        }
        let mut out = &out[..];
        while !out.is_empty() && self.client.read_tls(&mut out).is_ok_and(|read| read > 0) {
            if self.client.process_new_packets().is_err() {
                break;
            }
        }
        heard
    }

    fn agree(&mut self) {
        while self.server.is_handshaking() || self.client.is_handshaking() {
            let said = self.said();
            self.hear(&said).expect("nothing is wrong");
        }
    }
}

#[test]
fn what_is_said_is_heard_however_it_is_cut_and_the_end_is_told() {
    let settings = settings(false);
    for piece in [1, 7, 100_000] {
        let mut ends = Ends::new(&settings);
        while ends.server.is_handshaking() || ends.client.is_handshaking() {
            for bytes in ends.said().chunks(piece) {
                ends.hear(bytes).expect("nothing is wrong");
            }
        }
        ends.client.writer().write_all(b"hello").expect("memory");
        ends.client.send_close_notify();
        let mut ended = false;
        for bytes in ends.said().chunks(piece) {
            ended |= ends.hear(bytes).expect("nothing is wrong").ended;
        }
        assert!(ended && ends.begun.is_empty(), "{piece}");
        assert_eq!(ends.plain, b"hello", "{piece}");
    }
}

#[test]
fn what_is_enciphered_needs_no_more_than_the_room_that_was_told() {
    let settings = settings(false);
    for length in [0, 1, FRAGMENT, FRAGMENT + 1, 4 * FRAGMENT] {
        let mut ends = Ends::new(&settings);
        ends.agree();
        let mut out = vec![0; room(length)];
        let said = vec![7; length];
        let used = seal(&mut ends.server, &mut [], &said, true, &mut out).expect("room");
        let (mut sealed, mut got) = (&out[..used], Vec::new());
        while !sealed.is_empty() {
            ends.client.read_tls(&mut sealed).expect("memory");
            ends.client.process_new_packets().expect("it is the server's");
            let _ = std::io::Read::read_to_end(&mut ends.client.reader(), &mut got);
        }
        assert!(got == said, "{length}");
    }
}

#[test]
fn a_client_without_a_certificate_gets_an_alert_behind_what_it_has_said() {
    let mut ends = Ends::new(&settings(true));
    let said = ends.said();
    ends.hear(&said).expect("its hello is good");
    let said = ends.said();
    let error = ends.hear(&said).expect_err("none is shown");
    assert_eq!(error, Error::NoCertificatesPresented);
    let told = ends.client.process_new_packets().expect_err("an alert");
    assert!(matches!(told, Error::AlertReceived(_)), "{told}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_do_harm(
        asks: bool,
        agreed: bool,
        cuts in prop::collection::vec(1_usize..600, 1..20),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        tail in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut ends = Ends::new(&settings(asks && !agreed));
        if agreed {
            ends.agree();
            ends.client.writer().write_all(&[7; 5000]).expect("memory");
        }
        for _ in 0..2 {
            let mut said = ends.said();
            for (at, byte) in &flips {
                if !said.is_empty() {
                    let at = at.index(said.len());
                    said[at] = *byte;
                }
            }
            said.extend(&tail);
            let mut rest = &said[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, left) = rest.split_at((*cut).min(rest.len()));
                rest = left;
                if ends.hear(piece).is_err() {
                    return Ok(());
                }
            }
        }
    }
}
