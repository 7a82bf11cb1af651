//! Advertisements captured from Debian's ucarp 1.5.2+git20192404.1a9aaf7-1, and how it reacted to
//! others: whole Ethernet frames.

use std::net::IpAddr;

/// A captured advertisement and what it was made of.
pub(super) struct Vector {
    pub(super) name: &'static str,
    pub(super) password: &'static str,
    pub(super) vhid: u8,
    pub(super) vip: [u8; 4],
    pub(super) source: [u8; 4],
    pub(super) advbase: u8,
    pub(super) advskew: u8,
    pub(super) counter: u64,
    pub(super) broadcast: bool,
    pub(super) frame: &'static str,
}

impl Vector {
    pub(super) fn vips(&self) -> Vec<IpAddr> {
        vec![self.vip.into()]
    }
}

pub(super) const VECTORS: [Vector; 5] = [
    // first advertisement of a node that never heard a peer: random counter
    Vector {
        name: "defaults",
        password: "love",
        vhid: 42,
        vip: [10, 77, 0, 100],
        source: [10, 77, 0, 1],
        advbase: 1,
        advskew: 0,
        counter: 0xe3fe_d3f7_f686_8d89,
        broadcast: false,
        frame: "01005e00001200005e00002a080045100038a3904000ff70ed540a4d0001e0000012212a000700013ff3e3fed3f7f6868d89058753bc7f0e097b23a4e13cadfe3c90900e0188",
    },
    // longest password ucarp accepts (19 bytes)
    Vector {
        name: "skewed",
        password: "s3cr3t-19-bytes-max",
        vhid: 255,
        vip: [192, 0, 2, 254],
        source: [10, 77, 0, 2],
        advbase: 2,
        advskew: 128,
        counter: 0x8195_83da_99d7_669e,
        broadcast: false,
        frame: "01005e00001200005e0000ff08004510003844284000ff704cbc0a4d0002e000001221ff8007000260a7819583da99d7669eddba22df24484403663689ace29bd88d18eaca8d",
    },
    // one-byte password, lowest vhid
    Vector {
        name: "short-key",
        password: "x",
        vhid: 1,
        vip: [10, 77, 0, 100],
        source: [10, 77, 0, 3],
        advbase: 1,
        advskew: 100,
        counter: 0xa93b_2136_c0da_09ed,
        broadcast: false,
        frame: "01005e00001200005e00000108004510003873ed4000ff701cf60a4d0003e00000122101640700012f9da93b2136c0da09edde7d6288087457f6d03f2a12108311672049d829",
    },
    // password bytes are the UTF-8 encoding
    Vector {
        name: "utf8-key",
        password: "pä$ß_wörd",
        vhid: 7,
        vip: [203, 0, 113, 9],
        source: [10, 77, 0, 1],
        advbase: 1,
        advskew: 254,
        counter: 0x173d_2ac4_6b9e_af53,
        broadcast: false,
        frame: "01005e00001200005e000007080045100038f3284000ff709dbc0a4d0001e00000122107fe07000119f3173d2ac46b9eaf53658bbeb601f61b343a295e969abe46e8dd0dd128",
    },
    // -M: Ethernet broadcast, IP destination still the group
    Vector {
        name: "broadcast",
        password: "love",
        vhid: 42,
        vip: [10, 77, 0, 100],
        source: [10, 77, 0, 2],
        advbase: 1,
        advskew: 0,
        counter: 0xea4d_a31c_50fd_9cd3,
        broadcast: true,
        frame: "ffffffffffff00005e00002a08004510003825524000ff706b920a4d0002e0000012212a00070001086bea4da31c50fd9cd3a45aae747199c64da764ab7c4d025c5cee22e60d",
    },
];

/// What was sent to a real ucarp that was master (password `love`, vhid 42, VIP 10.77.0.100, source
/// 10.77.0.2, advbase 1, advskew 0), and whether it gave way.
pub(super) const REACTIONS: [(&str, bool, &str); 24] = [
    (
        "preferred",
        true,
        "01005e00001200005e00002a08004510003800004000ff7090dd0a4d0009e0000012212a01070000cb9a0000000000003039d80e971eb6c26dea4f43bb99753857e4d6d79f4e",
    ),
    (
        "wrong-password",
        false,
        "01005e00001200005e00002a08004510003800004000ff7090dd0a4d0009e0000012212a01070000fcc2000000000000303978c9f7a34cf41235a2bf923e1f99c86d15fdae39",
    ),
    (
        "wrong-vip-set",
        false,
        "01005e00001200005e00002a08004510003800004000ff7090dd0a4d0009e0000012212a010700006dd00000000000003039b099c40c42568ec600d9b4c51c7da42e8fa6f410",
    ),
    (
        "ttl-254",
        false,
        "01005e00001200005e00002a08004510003800004000fe7091dd0a4d0009e0000012212a01070000cb9a0000000000003039d80e971eb6c26dea4f43bb99753857e4d6d79f4e",
    ),
    (
        "version-3",
        false,
        "01005e00001200005e00002a08004510003800004000ff7090dd0a4d0009e0000012312a01070000bb9a0000000000003039d80e971eb6c26dea4f43bb99753857e4d6d79f4e",
    ),
    (
        "type-2",
        true,
        "01005e00001200005e00002a08004510003800004000ff7090dd0a4d0009e0000012222a01070000ca9a0000000000003039d80e971eb6c26dea4f43bb99753857e4d6d79f4e",
    ),
    (
        "authlen-0",
        true,
        "01005e00001200005e00002a08004510003800004000ff7090dd0a4d0009e0000012212a01000000cba10000000000003039d80e971eb6c26dea4f43bb99753857e4d6d79f4e",
    ),
    (
        "demote-200",
        true,
        "01005e00001200005e00002a08004510003800004000ff7090dd0a4d0009e0000012212a0107c800039a0000000000003039d80e971eb6c26dea4f43bb99753857e4d6d79f4e",
    ),
    (
        "other-vhid",
        false,
        "01005e00001200005e00002b08004510003800004000ff7090dd0a4d0009e0000012212b01070000de820000000000003039f193a06c8c167e70ec0d82f8181af9d89b3b1655",
    ),
    (
        "other-group",
        false,
        "01005e00001300005e00002a08004510003800004000ff7090dc0a4d0009e0000013212a01070000cb9a0000000000003039d80e971eb6c26dea4f43bb99753857e4d6d79f4e",
    ),
    (
        "broadcast-mac",
        true,
        "ffffffffffff00005e00002a08004510003800004000ff7090dd0a4d0009e0000012212a01070000cb9a0000000000003039d80e971eb6c26dea4f43bb99753857e4d6d79f4e",
    ),
    (
        "bad-ip-checksum",
        false,
        "01005e00001200005e00002a08004510003800004000ff70c5880a4d0009e0000012212a01070000cb9a0000000000003039d80e971eb6c26dea4f43bb99753857e4d6d79f4e",
    ),
    (
        "bad-carp-checksum",
        false,
        "01005e00001200005e00002a08004510003800004000ff7090dd0a4d0009e0000012212a010700009ecf0000000000003039d80e971eb6c26dea4f43bb99753857e4d6d79f4e",
    ),
    (
        "bad-hmac",
        false,
        "01005e00001200005e00002a08004510003800004000ff7090dd0a4d0009e0000012212a01070000ca9a0000000000003039d90e971eb6c26dea4f43bb99753857e4d6d79f4e",
    ),
    (
        "openbsd-source-mac",
        true,
        "01005e00001200005e00012a08004510003800004000ff7090dd0a4d0009e0000012212a01070000cb9a0000000000003039d80e971eb6c26dea4f43bb99753857e4d6d79f4e",
    ),
    (
        "no-df-tos-0",
        true,
        "01005e00001200005e00002a08004500003800000000ff70d0ed0a4d0009e0000012212a01070000cb9a0000000000003039d80e971eb6c26dea4f43bb99753857e4d6d79f4e",
    ),
    (
        "equal-interval-src-10.77.0.9",
        false,
        "01005e00001200005e00002a08004510003800004000ff7090dd0a4d0009e0000012212a00070001cc990000000000003039d80e971eb6c26dea4f43bb99753857e4d6d79f4e",
    ),
    (
        "equal-interval-src-10.77.0.1",
        true,
        "01005e00001200005e00002a08004510003800004000ff7090e50a4d0001e0000012212a00070001cc990000000000003039d80e971eb6c26dea4f43bb99753857e4d6d79f4e",
    ),
    (
        "equal-interval-src-10.77.1.1",
        true,
        "01005e00001200005e00002a08004510003800004000ff708fe50a4d0101e0000012212a00070001cc990000000000003039d80e971eb6c26dea4f43bb99753857e4d6d79f4e",
    ),
    (
        "equal-interval-src-11.0.0.1",
        true,
        "01005e00001200005e00002a08004510003800004000ff7090320b000001e0000012212a00070001cc990000000000003039d80e971eb6c26dea4f43bb99753857e4d6d79f4e",
    ),
    (
        "equal-interval-src-9.255.255.3",
        false,
        "01005e00001200005e00002a08004510003800004000ff70923009ffff03e0000012212a00070001cc990000000000003039d80e971eb6c26dea4f43bb99753857e4d6d79f4e",
    ),
    (
        "less-preferred",
        false,
        "01005e00001200005e00002a08004510003800004000ff7090dd0a4d0009e0000012212a0a070001c2990000000000003039d80e971eb6c26dea4f43bb99753857e4d6d79f4e",
    ),
    (
        "counter-zero",
        true,
        "01005e00001200005e00002a08004510003800004000ff7090dd0a4d0009e0000012212a010700006a4b0000000000000000167478e55d7b4901a99784d6afda22a46b36d189",
    ),
    (
        "own-source-address",
        false,
        "01005e00001200005e00002a08004510003800004000ff7090e40a4d0002e0000012212a01070000cb9a0000000000003039d80e971eb6c26dea4f43bb99753857e4d6d79f4e",
    ),
];
