//! Jumbo frames: drivers hand over frames that are longer than a page only in fragments, for which
//! there is a second build of the program. pend takes the one that suits the interface.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use pen_tests::{
    ConfigText, Lab, Protocol, VIP4, VIP6, client::UdpTalk, client::http, link::xdp_mode,
    process::SHORT, server::HTTP_PORT, wait_until,
};
use serde_json::Value;

use crate::crash::{link_id, program_id};
use crate::stage::{Stage, WEB, WEB6, over_all, tally, usual};

const MTU: u32 = 9000;
const BULK_PORT: u16 = 9999;
/// Fits into one jumbo frame, and fills three pages.
const PAYLOAD: usize = 8900;

fn bulk(vip: IpAddr) -> SocketAddr {
    SocketAddr::new(vip, BULK_PORT)
}

/// The usual services, and one for long datagrams on each virtual address.
fn config(lab: &Lab) -> ConfigText {
    usual(lab)
        .service(over_all(lab, "bulk", bulk(VIP4), Protocol::Udp, HTTP_PORT))
        .service(over_all(lab, "bulk6", bulk(VIP6), Protocol::Udp, HTTP_PORT))
}

fn interface(stage: &Stage) -> Value {
    stage.pend.penctl_json(["status"]).unwrap()["interfaces"][0].clone()
}

/// Sends a long datagram, and returns what the backends received.
fn through(stage: &Stage, vip: IpAddr, payload: &[u8]) -> Vec<u8> {
    let listening: Vec<UdpSocket> = stage
        .lab
        .backends
        .iter()
        .map(|backend| {
            // Until it executes its program, a process that another test has just started has the
            // sockets of the last time.
            let bind = || backend.netns.run(|| UdpSocket::bind(bulk(vip))).ok();
            let socket = wait_until(SHORT, "the port is free", bind).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        })
        .collect();
    UdpTalk::open(stage.client(), bulk(vip)).unwrap().send(payload).unwrap();
    wait_until(SHORT, "the datagram arrives", || {
        listening.iter().find_map(|socket| {
            let mut buffer = vec![0; 65_536];
            match socket.recv(&mut buffer) {
                Ok(length) => Some(buffer[..length].to_vec()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => None,
                Err(error) => panic!("{error}"),
            }
        })
    })
    .map_err(|error| stage.pend.with_log(&error))
    .unwrap()
}

/// Bytes of which no page is like another.
fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

#[test]
fn jumbo_frames_are_forwarded_in_native_mode_byte_for_byte() {
    let stage = Stage::in_lab(Lab::builder().mtu(MTU).build().unwrap(), config);
    assert_eq!(xdp_mode(stage.balancer(), "eth0").unwrap().as_deref(), Some("xdp"));
    let status = interface(&stage);
    assert_eq!(
        (&status["xdp"], &status["note"]),
        (&"native".into(), &"frames in fragments (jumbo)".into())
    );
    for vip in [VIP4, VIP6] {
        for length in [100, 3490, 4096, PAYLOAD] {
            let payload = payload(length);
            assert!(through(&stage, vip, &payload) == payload, "{vip}: {length} bytes");
        }
    }
    for at in [WEB, WEB6] {
        let by = tally(60, || http(stage.client(), at).unwrap());
        assert_eq!(by.len(), 3, "{by:?}");
    }
}

#[test]
fn generic_mode_forwards_jumbo_frames_too() {
    let lab = Lab::builder().mtu(MTU).build().unwrap();
    let stage = Stage::in_lab(lab, |lab| {
        let mut config = config(lab);
        "generic".clone_into(&mut config.interfaces[0].1);
        config
    });
    assert_eq!(xdp_mode(stage.balancer(), "eth0").unwrap().as_deref(), Some("xdpgeneric"));
    for vip in [VIP4, VIP6] {
        let payload = payload(PAYLOAD);
        assert!(through(&stage, vip, &payload) == payload, "{vip}");
    }
}

/// Lets the next pend find the interface with another MTU, and returns its note.
fn restart_with_mtu(stage: &mut Stage, set_mtu: impl FnOnce(&Stage)) -> Value {
    stage.pend.kill9().unwrap();
    set_mtu(stage);
    stage.pend.launch().unwrap();
    stage.pend.wait_ready(18).unwrap();
    assert!(http(stage.client(), WEB).is_ok());
    interface(stage)["note"].clone()
}

#[test]
fn the_next_pend_replaces_one_build_by_the_other_in_the_same_link() {
    let mut stage = Stage::in_lab(Lab::builder().mtu(MTU).build().unwrap(), config);
    let (link, program) = (link_id(&stage), program_id(stage.balancer()));
    let both = |stage: &Stage, mtu: u32| {
        stage.lab.switch.set_mtu("balancer", stage.balancer(), mtu).unwrap();
    };
    assert_eq!(restart_with_mtu(&mut stage, |stage| both(stage, 1500)), Value::Null);
    assert_ne!(program_id(stage.balancer()), program);
    // Under a program for frames in one piece, the kernel keeps the MTU of the other end low.
    let note = restart_with_mtu(&mut stage, |stage| {
        stage.balancer().ip(&format!("link set dev eth0 mtu {MTU}")).unwrap();
    });
    assert_eq!(note, "frames in fragments (jumbo)");
    assert_eq!(link_id(&stage), link, "there was no gap");
    both(&stage, MTU);
    let payload = payload(PAYLOAD);
    assert!(through(&stage, VIP4, &payload) == payload);
}
