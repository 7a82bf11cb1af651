//! The first message of TLS: no bytes do harm, and however they are cut, they say the same. Seeds are
//! what real clients have sent:
//! `cargo +nightly fuzz run hello fuzz/corpus/hello pen-ctl/tests/hello`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pen_ctl::engine::proxy::hello::Reader;

fuzz_target!(|bytes: &[u8]| {
    let whole = Reader::default().read(bytes);
    // The first byte says how the others are cut.
    let piece = bytes.first().map_or(1, |byte| usize::from(*byte).max(1));
    let mut reader = Reader::default();
    let mut said = Ok(None);
    for piece in bytes.chunks(piece) {
        said = reader.read(piece);
        if said != Ok(None) {
            break;
        }
    }
    assert_eq!(said, whole);
});
