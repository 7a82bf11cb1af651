//! Addresses and headers, in memory and in words.

extern crate std;
use super::*;
use std::string::ToString;

#[test]
fn ipv4_is_mapped_and_comes_back() {
    let v4: IpAddr = "192.0.2.10".parse().expect("literal");
    let addr = Addr::from(v4);
    assert!(addr.is_v4());
    assert_eq!(IpAddr::from(addr), v4);
    assert_eq!(addr.to_string(), "192.0.2.10");
    assert_eq!(addr.halves(), (0, 0x0000_ffff_c000_020a));
}

#[test]
fn ipv6_stays_as_it_is() {
    let v6: IpAddr = "2001:db8::1".parse().expect("literal");
    let addr = Addr::from(v6);
    assert!(!addr.is_v4());
    assert_eq!(IpAddr::from(addr), v6);
    assert_eq!(addr.halves(), (0x2001_0db8_0000_0000, 1));
}

#[test]
fn a_mac_address_reads_as_usual() {
    assert_eq!(MacAddr([0, 1, 2, 0xa, 0xb, 0xff]).to_string(), "00:01:02:0a:0b:ff");
}

#[test]
fn dont_fragment_alone_is_no_fragment() {
    let mut header = Ipv4Header {
        version_ihl: 0x45,
        tos: 0,
        total_length: Be16::new(20),
        identification: Be16::default(),
        fragment: Be16::new(0x4000),
        ttl: 64,
        protocol: protocol::UDP,
        checksum: Be16::default(),
        source: [0; 4],
        destination: [0; 4],
    };
    assert!(!header.is_fragment());
    for fragment in [0x2000, 0x0001, 0x1fff, 0x6001] {
        header.fragment = Be16::new(fragment);
        assert!(header.is_fragment(), "{fragment:#x}");
        assert_eq!(header.is_later_fragment(), fragment != 0x2000, "{fragment:#x}");
    }
}

#[test]
fn of_ipv6_fragments_the_first_has_the_offset_zero() {
    for (fragment, later) in [(0, false), (1, false), (6, false), (8, true), (0xfff9, true)] {
        let fragment = Be16::new(fragment);
        let header =
            FragmentHeader { next_header: 17, reserved: 0, fragment, identification: [0; 4] };
        assert_eq!(header.is_later(), later, "{fragment:?}");
    }
}
