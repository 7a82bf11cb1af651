//! Steps of the wall clock, forwards and back by years: nothing of CARP moves. The machine's clock
//! stays as it is; libfaketime shows the daemon another one, and the real monotonic one.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use pen_tests::{Lab, Pend, paths::Scratch, wait::Stopwatch, wait::pace, wait_until};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(15);
/// Several down times of a group that advertises each 100 ms.
const REST: Duration = Duration::from_millis(1500);

/// Where Debian has the library of its package `faketime` for programs with threads.
fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let files = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    files.into_iter().find(|file| file.exists()).expect("`cargo xtask setup` installs faketime")
}

fn group(pend: &Pend) -> Value {
    pend.penctl_json(["carp"]).unwrap()[0].clone()
}

#[track_caller]
fn wait_for(pend: &Pend, state: &str) {
    let is_so = || (group(pend)["state"] == state).then_some(());
    wait_until(SOON, &format!("the node is {state}"), is_so)
        .map_err(|error| pend.with_log(&error))
        .unwrap();
}

/// Date of the last line of a log.
fn last_date(pend: &Pend) -> String {
    let log = pend.log();
    let line = log.lines().last().unwrap_or_default();
    line.trim_start_matches(|letter: char| !letter.is_ascii_digit()).chars().take(4).collect()
}

#[test]
fn a_clock_that_is_stepped_by_years_moves_no_address_and_delays_no_take_over() {
    let lab = Lab::builder().backends(0).balancers(2).build().unwrap();
    let files = Scratch::new().unwrap();
    let (key, clock) = (files.file("carp.key"), files.file("clock"));
    fs::write(&key, "0123456789abcdef0123456789abcdef").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&clock, "+0").unwrap();
    let preload = format!("LD_PRELOAD={}", library().display());
    let file = format!("FAKETIME_TIMESTAMP_FILE={}", clock.display());
    let wrapper = ["env", &preload, &file, "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"];
    let mut pends = Vec::new();
    for (index, state) in [(0, "master"), (1, "backup")] {
        let host = &lab.balancers[index];
        let mut pend = Pend::prepare(&host.netns).unwrap().through(&wrapper);
        let config = format!(
            "[node]\nname = \"{}\"\n[control]\nsocket = \"{}\"\n[[interface]]\nname = \"eth0\"\n\
             [[carp]]\nname = \"main\"\ninterface = \"eth0\"\nvhid = 7\nadvbase = \"100ms\"\n\
             advskew = {}\nauth = \"sha256\"\nkeys = [{{ id = 1, file = \"{}\" }}]\n\
             [[vip]]\naddress = \"10.77.0.100\"\ninterface = \"eth0\"\ncarp = \"main\"\n",
            host.name,
            pend.socket().display(),
            100 * index,
            key.display(),
        );
        pend.write_config(&config).unwrap();
        pend.launch().unwrap();
        pend.wait_ready(0).unwrap();
        wait_for(&pend, state);
        pends.push(pend);
    }
    let today = last_date(&pends[0]);
    for step in ["+3650d", "-3650d", "+0"] {
        let before = group(&pends[0])["sent"].as_u64().unwrap();
        let watch = Stopwatch::start();
        fs::write(&clock, step).unwrap();
        pace(REST);
        let sent = group(&pends[0])["sent"].as_u64().unwrap() - before;
        let expected = watch.elapsed().as_secs_f64() * 10.0;
        assert!((sent as f64 - expected).abs() < 6.0, "{step}: {sent}, not {expected}");
        for (pend, transitions) in pends.iter().zip([1, 0]) {
            let group = group(pend);
            assert_eq!(group["transitions"], transitions, "{step}: {group}\n{}", pend.log());
        }
        // Its log shows the clock that it sees.
        assert!(pends[0].penctl(["carp", "release", "main"]).unwrap().status.success());
        wait_until(SOON, "the log has another date", || {
            ((last_date(&pends[0]) == today) == (step == "+0")).then_some(())
        })
        .map_err(|error| pends[0].with_log(&error))
        .unwrap();
    }
    // A step between two advertisements of which the second never comes.
    let port = &lab.balancers[0].name;
    lab.switch.netns().ip(&format!("link set dev {port} nomaster")).unwrap();
    fs::write(&clock, "-3650d").unwrap();
    let watch = Stopwatch::start();
    wait_for(&pends[1], "master");
    assert!(watch.elapsed() < Duration::from_secs(3), "{:?}", watch.elapsed());
}
