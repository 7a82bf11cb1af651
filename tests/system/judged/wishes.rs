//! What is known of servers, and what the operator wants of them, is the same after a reload, after an
//! upgrade and after a crash of the daemon; a server that is configured anew starts anew.

use pen_tests::{
    ConfigText, Demo, Lab, Pend, Protocol, ServiceText, client::http, server::HTTP_PORT, wait_until,
};
use serde_json::{Value, json};

use crate::{
    proxy::LONG,
    stage::{WEB, balance, count, over_all, vips},
};

const PROXY_PORT: u16 = 8080;
/// Whoever is new is taken for up until three checks have failed.
const CHECK: &str =
    r#"{ type = "tcp", interval = "1s", timeout = "500ms", rise = 2, fall = 3, init = "up" }"#;

/// The same servers below a service of the kernel and one of the proxy.
fn config(lab: &Lab) -> ConfigText {
    let checked = |service: ServiceText| ServiceText {
        check: Some(CHECK.to_owned()),
        settle: Some("1s".to_owned()),
        ..service
    };
    let kernel = over_all(lab, "kernel", WEB, Protocol::Tcp, HTTP_PORT);
    let mut at = WEB;
    at.set_port(PROXY_PORT);
    let mut proxy = over_all(lab, "proxy", at, Protocol::Tcp, PROXY_PORT);
    proxy.backends.iter_mut().for_each(|(_, at)| at.set_port(HTTP_PORT));
    "proxy".clone_into(&mut proxy.mode);
    vips().service(checked(kernel)).service(checked(proxy))
}

const SERVICES: [&str; 2] = ["kernel", "proxy"];

fn order(pend: &Pend, words: &[&str]) {
    let output = pend.penctl(words).unwrap();
    assert!(output.status.success(), "penctl {words:?}: {}", output.stderr);
}

fn reload(pend: &Pend, config: &ConfigText) {
    pend.write_config(&config.render(Some(pend.socket()))).unwrap();
    order(pend, &["reload"]);
}

/// What shall not change: state, wish, weight, and what comes of it.
fn known(pend: &Pend) -> Value {
    let rows = pend.penctl_json(["backends"]).unwrap();
    let key = |row: &Value| {
        let keys = ["service", "name", "admin", "weight", "usable"];
        json!(keys.map(|key| row[key].clone()))
    };
    rows.as_array().unwrap().iter().map(key).collect()
}

fn health(pend: &Pend, backend: &str) -> [String; 2] {
    SERVICES.map(|service| {
        let row = pend.backend(service, backend).unwrap();
        row["health"].as_str().unwrap().to_owned()
    })
}

fn wait_health(pend: &Pend, backend: &str, wanted: &str) {
    wait_until(LONG, &format!("{backend} is {wanted}"), || {
        (health(pend, backend) == [wanted, wanted]).then_some(())
    })
    .map_err(|error| pend.with_log(&error))
    .unwrap();
}

/// Who serves, over both services.
fn served_by(lab: &Lab) -> Vec<String> {
    let ask = |port| {
        let mut at = WEB;
        at.set_port(port);
        http(&lab.client().netns, at)
    };
    // One that has just been started may not be ready.
    wait_until(LONG, "both serve", || {
        (ask(HTTP_PORT).is_ok() && ask(PROXY_PORT).is_ok()).then_some(())
    })
    .unwrap();
    let asked = (0..20).flat_map(|_| [ask(HTTP_PORT).unwrap(), ask(PROXY_PORT).unwrap()]);
    count(asked).into_keys().collect()
}

#[test]
fn what_is_known_and_wanted_of_servers_outlives_reloads_upgrades_and_crashes() {
    let lab = Lab::builder().backends(4).build().unwrap();
    let mut demos: Vec<Demo> = lab.backends.iter().map(|host| Demo::on(host).unwrap()).collect();
    let mut pend = balance(&lab, &config(&lab));
    demos[0].process().kill9().unwrap();
    for service in SERVICES {
        order(&pend, &["drain", &format!("{service}/b2")]);
        order(&pend, &["weight", &format!("{service}/b3"), "5"]);
        order(&pend, &["maint", &format!("{service}/b4")]);
    }
    wait_health(&pend, "b1", "down");
    let before = known(&pend);
    assert_eq!(served_by(&lab), ["b3"]);

    let mut more = over_all(&lab, "more", WEB, Protocol::Tcp, HTTP_PORT);
    more.listen.set_port(81);
    more.backends.truncate(1);
    more.backends[0].1.set_port(81);
    reload(&pend, &config(&lab).service(more));
    reload(&pend, &config(&lab));
    assert_eq!(known(&pend), before, "nothing is forgotten for a moment");
    assert_eq!(health(&pend, "b1"), ["down"; 2]);
    let downs = pend.events("backend-down").unwrap();
    let of_both = SERVICES.map(|service| {
        let begins = format!("{service}/b1 is down");
        downs.iter().filter(|text| text.starts_with(&begins)).count()
    });
    assert_eq!(of_both, [1, 1], "{downs:?}");

    pend.replace().unwrap();
    pend.wait_ready(2).unwrap();
    wait_health(&pend, "b1", "down");
    assert_eq!(known(&pend), before, "after an upgrade");
    assert_eq!(served_by(&lab), ["b3"]);

    pend.kill9().unwrap();
    pend.launch().unwrap();
    pend.wait_ready(2).unwrap();
    wait_health(&pend, "b1", "down");
    assert_eq!(known(&pend), before, "after a crash");
    assert_eq!(served_by(&lab), ["b3"]);

    for service in SERVICES {
        order(&pend, &["ready", &format!("{service}/b4")]);
    }
    wait_health(&pend, "b4", "up");
    wait_until(LONG, "it serves", || (served_by(&lab) == ["b3", "b4"]).then_some(())).unwrap();
}

#[test]
fn a_server_that_was_removed_and_comes_again_starts_as_a_new_one() {
    let lab = Lab::builder().backends(2).build().unwrap();
    let mut demos: Vec<Demo> = lab.backends.iter().map(|host| Demo::on(host).unwrap()).collect();
    let pend = balance(&lab, &config(&lab));
    demos[1].process().kill9().unwrap();
    for service in SERVICES {
        order(&pend, &["drain", &format!("{service}/b2")]);
        order(&pend, &["weight", &format!("{service}/b2"), "7"]);
    }
    wait_health(&pend, "b2", "down");

    let mut without = config(&lab);
    without.services.iter_mut().for_each(|service| service.backends.truncate(1));
    reload(&pend, &without);
    wait_until(LONG, "its last connections are forgotten", || {
        let gone = |service: &&str| pend.backend(service, "b2").is_err();
        SERVICES.iter().all(gone).then_some(())
    })
    .unwrap();

    reload(&pend, &config(&lab));
    // Three checks of a second lie between this and the truth.
    for service in SERVICES {
        let row = pend.backend(service, "b2").unwrap();
        let of = |key: &str| row[key].clone();
        assert_eq!(
            [of("health"), of("admin"), of("weight")],
            [json!("up"), json!("ready"), json!(1)]
        );
    }
    wait_health(&pend, "b2", "down");
}
