//! Headers of the PROXY protocol: no bytes do harm, a length is within what has come, and more bytes do
//! not change what was understood:
//! `cargo +nightly fuzz run header fuzz/corpus/header fuzz/seeds/header`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pen_ctl::engine::proxy::header::parse;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(header)) = parse(bytes) {
        assert!(header.length <= bytes.len());
        assert_eq!(parse(&bytes[..header.length]), Ok(Some(header)));
        for end in 0..header.length {
            assert_eq!(parse(&bytes[..end]), Ok(None));
        }
    }
});
