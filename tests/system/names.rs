//! Servers that the DNS names, with a real dnsmasq: they join through their checks and leave as its records
//! change, and stay when it dies.

use std::collections::BTreeMap;

use pen_tests::{ConfigText, Dnsmasq, Host, Lab, Pend, wait_until};

use crate::{
    proxy::{LONG, connect, lab, name_at},
    stage::{WEB, vips},
};

/// Addresses of the name, for a second.
fn hosts(hosts: &[&Host]) -> Vec<String> {
    hosts.iter().map(|host| format!("--host-record=app.pen.test,{},1", host.v4)).collect()
}

fn dnsmasq(lab: &Lab, options: &[String]) -> Dnsmasq {
    Dnsmasq::start_with(&lab.client().netns, "dns", options).unwrap()
}

/// A service over what this backend stands for.
fn config(lab: &Lab, backend: &str) -> ConfigText {
    let resolver = lab.client().v4;
    vips().extra(&format!(
        r#"
[node]
resolvers = ["{resolver}"]
[[service]]
name = "web"
listen = "{WEB}"
mode = "proxy"
scheduler = "roundrobin"
affinity = "flow"
backends = [{backend}]
check = {{ type = "tcp", interval = "200ms", timeout = "100ms", rise = 2, fall = 3 }}
"#
    ))
}

/// Names of the backends that take clients.
fn usable(pend: &Pend) -> Vec<String> {
    let rows = pend.penctl_json(["backends"]).unwrap();
    let usable = rows.as_array().unwrap().iter().filter(|row| row["usable"] == true);
    usable.map(|row| row["name"].as_str().unwrap().to_owned()).collect()
}

fn wait_usable(pend: &Pend, hosts: &[&Host]) {
    let mut expected: Vec<_> = hosts.iter().map(|host| format!("app/{}", host.v4)).collect();
    expected.sort();
    wait_until(LONG, &format!("{expected:?} are usable"), || {
        (usable(pend) == expected).then_some(())
    })
    .unwrap();
}

fn visits(lab: &Lab, count: u32) -> BTreeMap<String, u32> {
    crate::stage::tally(count, || {
        let stream = connect(&lab.client().netns, WEB).unwrap();
        name_at(&stream).unwrap()
    })
}

/// Servers that say their name to everybody, at these ports.
fn servers(lab: &Lab, port: u16) -> Vec<crate::proxy::Server> {
    let serve =
        |host: &Host| crate::proxy::Server::named(&host.netns, (host.v4.into(), port), &host.name);
    lab.backends.iter().map(serve).collect()
}

#[test]
fn servers_join_and_leave_as_the_dns_says_and_stay_when_it_dies() {
    let lab = lab(3);
    let [b1, b2, b3] = [0, 1, 2].map(|at| &lab.backends[at]);
    let _servers = servers(&lab, 80);
    let dns = dnsmasq(&lab, &hosts(&[b1, b2]));
    let text = config(&lab, r#"{ host = "app.pen.test", name = "app" }"#);
    let mut pend = Pend::start(&lab.balancer().netns, &text).unwrap();
    pend.wait_ready(2).unwrap();
    wait_usable(&pend, &[b1, b2]);
    assert_eq!(visits(&lab, 10).keys().collect::<Vec<_>>(), ["b1", "b2"]);

    drop(dns);
    let dns = dnsmasq(&lab, &hosts(&[b2, b3]));
    wait_usable(&pend, &[b2, b3]);
    assert_eq!(visits(&lab, 10).keys().collect::<Vec<_>>(), ["b2", "b3"]);
    let changes = pend.events("name-changed").unwrap();
    let text = format!("app.pen.test: {} joins, {} leaves", b3.v4, b1.v4);
    assert!(changes.contains(&text), "{changes:?}");

    drop(dns);
    let warning = || {
        let status = pend.penctl_json(["status"]).unwrap();
        let warnings = status["warnings"].as_array().unwrap().clone();
        warnings.iter().find_map(|text| {
            let text = text.as_str()?;
            text.starts_with("app.pen.test is not resolved (").then(|| text.to_owned())
        })
    };
    let text = wait_until(LONG, "a warning", warning).unwrap();
    assert!(text.ends_with("times in a row): its last 2 known servers stay"), "{text}");
    assert!(!pend.events("name-unresolved").unwrap().is_empty());
    wait_usable(&pend, &[b2, b3]);
    assert_eq!(visits(&lab, 10).len(), 2);

    // Another daemon has them as well, while the DNS is still silent.
    pend.leave().unwrap();
    pend.launch().unwrap();
    pend.wait_ready(2).unwrap();
    wait_usable(&pend, &[b2, b3]);

    let _dns = dnsmasq(&lab, &hosts(&[b1]));
    wait_usable(&pend, &[b1]);
    assert_eq!(visits(&lab, 4).len(), 1);
    assert!(!pend.events("name-resolved").unwrap().is_empty());
}

#[test]
fn records_say_ports_and_weights() {
    let lab = lab(3);
    let _servers = servers(&lab, 8080);
    let mut records = vec!["--local-ttl=1".to_owned()];
    for (host, weight, priority) in [(0, 1, 0), (1, 3, 0), (2, 9, 1)] {
        let host = &lab.backends[host];
        let name = format!("{}.pen.test", host.name);
        records.push(format!("--srv-host=_http._tcp.app.pen.test,{name},8080,{priority},{weight}"));
        records.push(format!("--host-record={name},{},1", host.v4));
    }
    let _dns = dnsmasq(&lab, &records);
    let text = config(&lab, r#"{ srv = "_http._tcp.app.pen.test", name = "app" }"#);
    let mut pend = Pend::start(&lab.balancer().netns, &text).unwrap();
    pend.wait_ready(2).unwrap();
    let by = visits(&lab, 40);
    assert_eq!(by.keys().collect::<Vec<_>>(), ["b1", "b2"], "of the other priority nobody");
    // Each worker of the proxy counts for itself.
    assert!((27..=33).contains(&by["b2"]), "{by:?}");
    let row = pend.backend("web", &format!("app/{}:8080", lab.backends[1].v4)).unwrap();
    assert_eq!((row["weight"].as_u64(), row["port"].as_u64()), (Some(3), Some(8080)));
}
