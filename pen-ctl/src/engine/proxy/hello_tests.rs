//! Hellos that real clients have sent, hellos that tests make, and bytes that are none.

use proptest::prelude::*;

use super::*;

/// A hello with these extensions, in one record.
pub(super) fn hello(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    let list: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, body)| {
            let length = u16::try_from(body.len()).expect("short");
            [&kind.to_be_bytes()[..], &length.to_be_bytes(), body].concat()
        })
        .collect();
    body.extend(u16::try_from(list.len()).expect("short").to_be_bytes());
    body.extend(list);
    message(&body)
}

fn message(body: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(body.len()).expect("short").to_be_bytes();
    record(&[&[1, a, b, c], body].concat())
}

fn record(fragment: &[u8]) -> Vec<u8> {
    let length = u16::try_from(fragment.len()).expect("short");
    [&[22, 3, 1], &length.to_be_bytes()[..], fragment].concat()
}

pub(super) fn name(name: &[u8]) -> (u16, Vec<u8>) {
    let length = u16::try_from(name.len()).expect("short");
    let entry = [&[0], &length.to_be_bytes()[..], name].concat();
    let length = u16::try_from(entry.len()).expect("short");
    (0, [&length.to_be_bytes()[..], &entry].concat())
}

fn read(bytes: &[u8]) -> Result<Option<Hello>, Reject> {
    Reader::default().read(bytes)
}

fn named(bytes: &[u8]) -> Option<String> {
    read(bytes).expect("a hello").expect("complete").name
}

/// The same message in records of at most so many bytes.
fn in_records(stream: &[u8], most: usize) -> Vec<u8> {
    stream[RECORD_HEAD..].chunks(most).flat_map(record).collect()
}

/// What OpenSSL 3.0, curl (with it) and rustls 0.23 have sent, asked for `www.pen.example`.
const REAL: [&[u8]; 3] = [
    include_bytes!("../../../tests/hello/openssl.bin"),
    include_bytes!("../../../tests/hello/curl.bin"),
    include_bytes!("../../../tests/hello/rustls.bin"),
];

#[test]
fn the_hellos_of_openssl_curl_and_rustls_ask_for_their_name() {
    for bytes in REAL {
        assert_eq!(named(bytes).as_deref(), Some("www.pen.example"));
    }
    assert!(read(REAL[1]).expect("a hello").expect("complete").alpn);
}

#[test]
fn a_hello_cut_anywhere_waits_and_in_single_bytes_and_small_records_says_the_same() {
    for bytes in REAL {
        let whole = read(bytes);
        for end in 0..bytes.len() {
            assert_eq!(read(&bytes[..end]), Ok(None), "{end} bytes");
        }
        for most in [1, 2, 3, 5, 100] {
            let records = in_records(bytes, most);
            let mut reader = Reader::default();
            let (last, before) = records.split_last().expect("not empty");
            for byte in before {
                assert_eq!(reader.read(&[*byte]), Ok(None));
            }
            assert_eq!(reader.read(&[*last]), whole, "records of {most}");
        }
    }
}

#[test]
fn a_hello_may_have_no_name_and_no_extensions_and_things_that_nobody_knows() {
    assert_eq!(read(&hello(&[])), Ok(Some(Hello::default())));
    let mut bare = vec![3, 3];
    bare.extend([7; 32]);
    bare.extend([0, 0, 2, 0, 0x2f, 1, 0]);
    assert_eq!(read(&message(&bare)), Ok(Some(Hello::default())));
    // GREASE before and behind, an encrypted hello, a kind of name that is not a host's.
    let other = (0, vec![0, 8, 9, 0, 1, 7, 0, 0, 1, b'a']);
    let ech = (0xfe0d, vec![0; 300]);
    for extensions in [
        [(0x0a0a, vec![]), ech.clone(), name(b"A.Example."), (0xfafa, vec![0])],
        [(0x0a0a, vec![]), ech, name(b"a.example"), name(b"b.example")],
    ] {
        assert_eq!(named(&hello(&extensions)).as_deref(), Some("a.example"));
    }
    assert_eq!(named(&hello(&[other])).as_deref(), Some("a"));
    assert_eq!(named(&hello(&[(0, vec![0, 0])])), None, "an empty list");
    let more = [hello(&[name(b"a")]), b"and more".to_vec()].concat();
    assert_eq!(named(&more).as_deref(), Some("a"), "what follows is not looked at");
}

#[test]
fn what_is_no_hello_is_rejected_for_its_reason_as_soon_as_it_can_be() {
    let long = [&[22, 3, 1, 0x40, 0, 1, 0, 0x40, 1][..], &[0; 10]].concat();
    let mut cut = hello(&[name(b"a.example")]);
    let at = cut.len() - 10;
    cut[at] = 200;
    for (bytes, reject) in [
        (&b"G"[..], Reject::NotTls),
        (b"SSH-2.0-x", Reject::NotTls),
        (&[22, 2], Reject::NotTls),
        (&[22, 3, 1, 0x40, 1], Reject::NotTls),
        (&[22, 3, 1, 0, 0], Reject::Malformed),
        (&[21, 3, 3, 0, 2, 1, 0], Reject::NotHello),
        (&[22, 3, 1, 0, 1, 2], Reject::NotHello),
        (&[22, 3, 1, 0, 1, 1, 23], Reject::NotHello),
        (&[22, 3, 1, 0, 1, 1, b'G'], Reject::Malformed),
        (&long, Reject::TooLong),
        (&message(&[3, 3]), Reject::Malformed),
        (&cut, Reject::Malformed),
        (&hello(&[name(b"a..example")]), Reject::Malformed),
        (&hello(&[name(b"")]), Reject::Malformed),
        (&hello(&[name(b"../x")]), Reject::Malformed),
        (&hello(&[name(b"a\nb")]), Reject::Malformed),
        (&hello(&[name(&[b'a'; 300])]), Reject::Malformed),
        (&hello(&[(0, vec![0, 9, 0])]), Reject::Malformed),
    ] {
        assert_eq!(read(bytes), Err(reject), "{bytes:?}");
    }
    let heads = in_records(&hello(&[(21, vec![0; LONGEST - 100])]), 1);
    assert_eq!(read(&heads), Err(Reject::TooLong), "a stream that is mostly heads of records");
}

#[test]
fn a_hello_of_16_kib_is_read() {
    let padding = (21, vec![0; LONGEST - 100]);
    let stream = hello(&[padding, name(b"a.example")]);
    for most in [1000, LONGEST_RECORD] {
        assert_eq!(named(&in_records(&stream, most)).as_deref(), Some("a.example"));
    }
}

proptest! {
    #[test]
    fn any_split_says_what_the_whole_says(
        which in 0..REAL.len(),
        most in 1_usize..400,
        cuts in prop::collection::vec(1_usize..700, 0..40),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let mut stream = in_records(REAL[which], most);
        for (at, byte) in flips {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        let whole = read(&stream);
        let mut reader = Reader::default();
        let (mut rest, mut said) = (&stream[..], Ok(None));
        for cut in cuts.into_iter().chain([usize::MAX]) {
            let (piece, left) = rest.split_at(cut.min(rest.len()));
            rest = left;
            said = reader.read(piece);
            if said != Ok(None) {
                break;
            }
        }
        prop_assert_eq!(said, whole);
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200), valid: bool) {
        let bytes = if valid { message(&bytes) } else { bytes };
        if let Ok(Some(Hello { name: Some(name), .. })) = read(&bytes) {
            prop_assert!(crate::config::is_host_name(&name));
        }
    }
}
