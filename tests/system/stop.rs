//! The clean end: after SIGTERM or SIGINT nothing of pen is left in the kernel or in the file
//! system.

use std::{fs, path::Path};

use nix::sys::signal::Signal;
use pen_tests::{client::http, link::xdp_mode, process::SHORT};

use crate::stage::{Stage, WEB, while_asking};

fn leaves_nothing(signal: Signal) {
    let mut stage = Stage::new();
    let socket = stage.pend.socket().to_owned();
    assert!(socket.exists() && stage.pend.pins().exists());
    assert_eq!(xdp_mode(stage.balancer(), "eth0").unwrap().as_deref(), Some("xdp"));

    let status = stage.pend.end_with(signal).unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(xdp_mode(stage.balancer(), "eth0").unwrap(), None);
    assert!(!stage.pend.pins().exists());
    assert!(!socket.exists());
    // Nor an address of the kernel's that hears solicitations for the IPv6 VIP.
    let addresses = stage.balancer().ip("address show dev eth0").unwrap();
    assert!(!addresses.contains("ff02::"), "{addresses}");
    assert!(http(stage.client(), WEB).is_err(), "nobody forwards any more");
}

#[test]
fn sigterm_leaves_nothing_behind() {
    leaves_nothing(Signal::SIGTERM);
}

#[test]
fn sigint_leaves_nothing_behind() {
    leaves_nothing(Signal::SIGINT);
}

#[test]
fn a_pend_that_took_over_after_a_crash_leaves_nothing_behind_either() {
    let mut stage = Stage::new();
    stage.pend.kill9().unwrap();
    assert!(stage.pend.socket().exists() && stage.pend.pins().exists());
    stage.pend.launch().unwrap();
    stage.pend.wait_ready(12).unwrap();
    assert!(stage.pend.terminate().unwrap().success());
    assert_eq!(xdp_mode(stage.balancer(), "eth0").unwrap(), None);
    assert!(!stage.pend.pins().exists() && !stage.pend.socket().exists());
}

#[test]
fn sigterm_in_the_middle_of_a_start_leaves_nothing_behind_either() {
    let mut stage = Stage::new();
    assert!(stage.pend.terminate().unwrap().success());
    let [pins, socket] = [stage.pend.pins(), stage.pend.socket()].map(Path::to_owned);
    let pinned = pins.join(format!("v{}", pen_common::ABI_VERSION)).join("CFG");
    for moment in [socket.clone(), pins.clone(), pinned] {
        stage.pend.launch().unwrap();
        pen_tests::wait_until(SHORT, &format!("there is {}", moment.display()), || {
            moment.exists().then_some(())
        })
        .unwrap();
        let status = stage.pend.terminate().unwrap();
        assert_eq!(status.code(), Some(0), "{}", stage.pend.log());
        assert_eq!(xdp_mode(stage.balancer(), "eth0").unwrap(), None);
        assert!(!pins.exists() && !socket.exists(), "after {}", moment.display());
    }
}

#[test]
fn sigterm_while_clients_talk_ends_pend_at_once() {
    let mut stage = Stage::new();
    let client = stage.lab.client().netns.clone();
    let (status, heard) = while_asking(&client, &[WEB], || {
        stage.web_tally(5);
        stage.pend.terminate().unwrap()
    });
    assert!(status.success(), "{status}");
    assert!(heard.asked > 0);
}

#[test]
fn sighup_ends_nothing() {
    let mut stage = Stage::new();
    stage.pend.signal(Signal::SIGHUP).unwrap();
    pen_tests::wait_until(SHORT, "pend says what it did with SIGHUP", || {
        let said = "configuration read again: 0 added, 0 removed, 0 changed";
        stage.pend.log().contains(said).then_some(())
    })
    .unwrap();
    stage.web_tally(10);
    assert!(stage.pend.is_running());
    assert!(fs::exists(stage.pend.socket()).unwrap());
}
