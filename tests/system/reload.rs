//! The configuration is read again while clients talk: what changed takes effect, nothing else moves,
//! and a bad one changes nothing.

use nix::sys::signal::Signal;
use pen_tests::{
    ConfigText, Output, Protocol, VIP4,
    client::{TcpTalk, http},
    process::SHORT,
    server::HTTP_PORT,
    wait_until,
};
use serde_json::json;

use crate::{
    numbers::{Numbered, numbered},
    stage::{Stage, WEB, WEB6, over_all, tally, usual},
};

fn write(stage: &Stage, config: &ConfigText) {
    stage.pend.write_config(&config.render(Some(stage.pend.socket()))).unwrap();
}

fn refused(stage: &Stage, words: &[&str]) -> Output {
    let output = stage.pend.penctl(words).unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    output
}

/// One more service than all of these have.
fn with_more(stage: &Stage, config: ConfigText) -> ConfigText {
    let at = std::net::SocketAddr::new(VIP4, 81);
    let mut more = over_all(&stage.lab, "more", at, Protocol::Tcp, HTTP_PORT);
    more.backends.truncate(2);
    config.service(more)
}

#[test]
fn of_ten_thousand_datagrams_none_is_lost_or_doubled_while_other_services_come_and_go() {
    let mut numbered_stage = Numbered::new();
    let mut reloads = 0;
    let sent = numbered_stage.send_while(10_000, |stage| {
        for _ in 0..10 {
            let usual = numbered(&stage.lab);
            write(stage, &with_more(stage, usual.clone()));
            let said = stage.order(["reload"]);
            assert_eq!(said, "+ service more: 10.77.0.100:81/tcp, mode dsr, 2 backends\ndone\n");
            stage.pend.wait_health("more", "b1", "up").unwrap();
            write(stage, &usual);
            let said = stage.order(["reload"]);
            assert!(said.starts_with("- service more: ") && said.ends_with("\ndone\n"), "{said}");
            reloads += 2;
        }
    });
    assert!(sent >= 10_000 && reloads == 20, "{sent} {reloads}");
}

#[test]
fn a_service_that_was_added_serves_and_one_that_was_removed_does_not() {
    let stage = Stage::new();
    let before = stage.pend.penctl_json(["backends"]).unwrap();
    write(&stage, &with_more(&stage, usual(&stage.lab)));
    stage.order(["reload"]);
    wait_until(SHORT, "the new service is usable", || {
        (stage.pend.backend("more", "b1").unwrap()["usable"] == true).then_some(())
    })
    .unwrap();
    // Nobody listens there, which its backends say.
    let at = std::net::SocketAddr::new(VIP4, 81);
    let error = http(stage.client(), at).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
    let all = stage.pend.penctl_json(["backends"]).unwrap();
    for (was, is) in before.as_array().unwrap().iter().zip(all.as_array().unwrap()) {
        let same =
            ["service", "name", "share", "usable", "health"].map(|key| (&was[key], &is[key]));
        assert!(same.iter().all(|(was, is)| was == is), "{was}\n{is}");
        assert!(is["since_ms"].as_u64() >= was["since_ms"].as_u64(), "{is}");
    }
    write(&stage, &usual(&stage.lab));
    stage.order(["reload"]);
    let words = ["explain", "10.77.0.2:5000", "10.77.0.100:81"];
    assert_eq!(stage.pend.penctl_json(words).unwrap()["counter"], "pass-no-service");
}

#[test]
fn connections_of_a_backend_that_was_removed_go_on_and_new_ones_go_elsewhere() {
    let stage = Stage::new();
    let mut talks: Vec<_> = (0..30).map(|_| TcpTalk::open(stage.client(), WEB).unwrap()).collect();
    let before: Vec<_> = talks.iter_mut().map(|talk| talk.ask().unwrap()).collect();
    assert!(before.contains(&"b2".to_owned()), "{before:?}");
    let mut without = usual(&stage.lab);
    without.services[0].backends.remove(1);
    write(&stage, &without);
    assert_eq!(
        stage.order(["diff"]).lines().next(),
        Some("- backend web/b2: 10.77.0.12:80, weight 1")
    );
    stage.order(["reload"]);
    let by = stage.web_tally(100);
    assert_eq!(by.keys().collect::<Vec<_>>(), ["b1", "b3"], "{by:?}");
    let after: Vec<_> = talks.iter_mut().map(|talk| talk.ask().unwrap()).collect();
    assert_eq!(after, before);
    let row = stage.pend.backend("web", "b2").unwrap();
    assert_eq!(row["why"], "leaves: the configuration no longer has it");
    // It may come back any time.
    write(&stage, &usual(&stage.lab));
    stage.order(["reload"]);
    assert_eq!(stage.web_tally(100).len(), 3);
    let after: Vec<_> = talks.iter_mut().map(|talk| talk.ask().unwrap()).collect();
    assert_eq!(after, before);
}

#[test]
fn a_bad_configuration_is_refused_with_every_error_and_changes_nothing() {
    let mut stage = Stage::new();
    let maps = |stage: &Stage| stage.pend.penctl_json(["services"]).unwrap();
    let before = maps(&stage);
    let mut bad = usual(&stage.lab).render(Some(stage.pend.socket()));
    bad.push_str("[[service]]\nname = \"bad\"\nlisten = \"10.77.0.99:80\"\nbackends = []\n");
    stage.pend.write_config(&bad).unwrap();
    for words in [&["reload"][..], &["diff"], &["reload", "--dry-run"]] {
        let output = refused(&stage, words);
        let lines: Vec<_> = output.stderr.lines().collect();
        assert_eq!(lines.len(), 3, "{output:?}");
        assert_eq!(
            lines[0],
            "penctl: the configuration has 2 errors; nothing was changed; correct it:"
        );
        let file = stage.pend.config().display().to_string();
        assert!(
            lines[1].starts_with(&file) && lines[1].contains("declares 10.77.0.99"),
            "{lines:?}"
        );
        assert!(
            lines[2].starts_with(&file) && lines[2].contains("`backends` is empty"),
            "{lines:?}"
        );
    }
    stage.pend.signal(Signal::SIGHUP).unwrap();
    wait_until(SHORT, "the signal is refused as well", || {
        (stage.pend.events("reload-refused").unwrap().len() == 6).then_some(())
    })
    .unwrap();
    assert!(stage.pend.log().contains("`backends` is empty"), "{}", stage.pend.log());
    for key in ["name", "usable", "listen"] {
        let column = |services: &serde_json::Value| {
            services.as_array().unwrap().iter().map(|row| row[key].clone()).collect::<Vec<_>>()
        };
        assert_eq!(column(&maps(&stage)), column(&before));
    }
    assert_eq!(stage.web_tally(30).len(), 3);
}

#[test]
fn a_signal_reads_the_configuration_again() {
    let mut stage = Stage::new();
    let mut changed = usual(&stage.lab);
    changed.services[0].name = "www".to_owned();
    changed.services[1].backends.truncate(1);
    write(&stage, &changed);
    stage.pend.signal(Signal::SIGHUP).unwrap();
    wait_until(SHORT, "the change is told", || {
        (!stage.pend.events("reloaded").unwrap().is_empty()).then_some(())
    })
    .unwrap();
    let told = stage.pend.events("reloaded").unwrap();
    assert_eq!(told, ["configuration read again: 0 added, 2 removed, 1 changed"]);
    let log = stage.pend.log();
    assert!(log.contains("~ service web: name web -> www"), "{log}");
    assert_eq!(tally(30, || http(stage.client(), WEB6).unwrap()).len(), 1);
    assert!(stage.pend.backend("www", "b1").is_ok());
}

#[test]
fn what_only_a_start_can_change_is_refused() {
    let stage = Stage::new();
    let elsewhere = stage.pend.socket().with_extension("other");
    stage.pend.write_config(&usual(&stage.lab).render(Some(&elsewhere))).unwrap();
    let output = refused(&stage, &["reload"]);
    assert_eq!(
        output.stderr,
        "penctl: [control] socket changed, which a running pend keeps; restart pend, or undo that \
         change; nothing was changed\n"
    );
}

#[test]
fn the_difference_is_told_and_nothing_is_done() {
    let stage = Stage::new();
    assert_eq!(stage.order(["diff"]), "nothing changed in the configuration\n");
    let mut changed = usual(&stage.lab).extra("stubborn = true\n");
    changed.services[0].affinity = "client".to_owned();
    write(&stage, &changed);
    let expected = "~ service web: affinity flow -> client (its connections may move or end)\n\
                    ~ service echo6: stubborn false -> true\n\
                    nothing was done yet: `penctl reload` does it\n";
    assert_eq!(stage.order(["diff"]), expected);
    assert_eq!(stage.order(["reload", "--dry-run"]), expected);
    let told = stage.pend.penctl_json(["diff"]).unwrap();
    assert_eq!(told["dry_run"], true);
    assert_eq!(
        told["changes"][0],
        json!({
            "kind": "changed", "subject": "service web", "key": "affinity",
            "was": "flow", "now": "client", "moves_flows": true,
        })
    );
    let services = stage.pend.penctl_json(["services"]).unwrap();
    assert_eq!(services[0]["affinity"], "flow");
}

#[test]
fn an_interface_changes_its_mode_while_pend_runs() {
    let stage = Stage::new();
    let xdp = || {
        let status = stage.pend.penctl_json(["status"]).unwrap();
        status["interfaces"][0]["xdp"].as_str().unwrap().to_owned()
    };
    for (mode, obtained) in [("generic", "generic"), ("native", "native"), ("auto", "native")] {
        let mut changed = usual(&stage.lab);
        mode.clone_into(&mut changed.interfaces[0].1);
        write(&stage, &changed);
        let said = stage.order(["reload"]);
        assert!(said.starts_with("~ interface eth0: xdp "), "{said}");
        assert_eq!(xdp(), obtained);
        assert_eq!(stage.web_tally(30).len(), 3);
    }
}
