//! The interfaces below pend go down, vanish and return, or are two: pend follows, and the kernel
//! forwards as soon as there is a way.

use std::{net::SocketAddr, time::Duration};

use pen_tests::{
    ConfigText, Demo, Lab, Netns, Pend, Protocol, ServiceText, VIP4,
    client::{http, udp_ask},
    link::{Switch, attach_pass, xdp_mode},
    process::SHORT,
    server::HTTP_PORT,
    wait_until,
};
use serde_json::Value;

use crate::stage::{ECHO, ECHO6, Stage, WEB, WEB6, tally};

fn interface(pend: &Pend) -> Value {
    pend.penctl_json(["status"]).unwrap()["interfaces"][0].clone()
}

fn wait_status(stage: &Stage, key: &str, value: impl Into<Value>) {
    let value = value.into();
    wait_until(SHORT, &format!("{key} of eth0 is {value}"), || {
        (interface(&stage.pend)[key] == value).then_some(())
    })
    .map_err(|error| stage.pend.with_log(&error))
    .unwrap();
}

fn serves_again(stage: &mut Stage) {
    stage.pend.wait_ready(12).unwrap();
    for at in [WEB, WEB6] {
        let by = tally(60, || http(stage.client(), at).unwrap());
        assert_eq!(by.len(), 3, "{by:?}");
    }
    for at in [ECHO, ECHO6] {
        assert!(udp_ask(stage.client(), at).is_some());
    }
}

#[test]
fn an_interface_that_goes_down_and_up_forwards_again() {
    let mut stage = Stage::new();
    stage.balancer().ip("link set dev eth0 down").unwrap();
    wait_status(&stage, "up", false);
    assert_eq!(stage.pend.usable_backends().unwrap(), 0);
    assert!(http(stage.client(), WEB).is_err());
    let why = stage.pend.backend("web", "b1").unwrap()["why"].clone();
    assert!(
        why.as_str().unwrap().contains("down") || why.as_str().unwrap().contains("route"),
        "{why}"
    );

    stage.balancer().ip("link set dev eth0 up").unwrap();
    // The kernel forgets IPv6 addresses with the link; whoever configures the host sets them again.
    let v6 = stage.lab.balancer().v6;
    stage.balancer().ip(&format!("address add {v6}/64 dev eth0 nodad")).unwrap();
    wait_status(&stage, "up", true);
    assert_eq!(interface(&stage.pend)["xdp"], "native");
    serves_again(&mut stage);
    assert!(!stage.pend.events("link-down").unwrap().is_empty());
    assert!(!stage.pend.events("link-up").unwrap().is_empty());
}

#[test]
fn a_pulled_cable_is_noticed_and_survived() {
    let mut stage = Stage::new();
    stage.lab.switch.set_link("balancer", false).unwrap();
    wait_status(&stage, "up", false);
    stage.lab.switch.set_link("balancer", true).unwrap();
    wait_status(&stage, "up", true);
    serves_again(&mut stage);
}

#[test]
fn an_interface_that_is_deleted_and_made_again_is_attached_again() {
    let mut stage = Stage::new();
    stage.lab.unplug(stage.lab.balancer()).unwrap();
    wait_status(&stage, "note", "the interface is gone");
    assert_eq!(interface(&stage.pend)["xdp"], "off");
    assert!(stage.pend.is_running());

    stage.lab.replug(stage.lab.balancer()).unwrap();
    stage.lab.switch.attach_pass("balancer").unwrap();
    wait_status(&stage, "xdp", "native");
    assert_eq!(interface(&stage.pend)["note"], Value::Null);
    serves_again(&mut stage);
    let pins = std::fs::read_dir(stage.pend.pins().join(format!("v{}", pen_common::ABI_VERSION)));
    let links = pins
        .unwrap()
        .filter(|pin| pin.as_ref().unwrap().file_name().to_str().unwrap().starts_with("link-"));
    assert_eq!(links.count(), 1, "the link of the old interface is not kept");

    assert!(stage.pend.terminate().unwrap().success());
    assert_eq!(xdp_mode(stage.balancer(), "eth0").unwrap(), None);
    assert!(!stage.pend.pins().exists());
}

/// A client's network and, on a second switch, the backends' one; the balancer is in both, and also
/// routes the answers.
pub(crate) struct TwoNetworks {
    pub(crate) lab: Lab,
    back: Switch,
    pub(crate) backends: Vec<Netns>,
    demos: Vec<Demo>,
}

impl TwoNetworks {
    pub(crate) fn build() -> Self {
        let lab = Lab::builder().backends(0).build().unwrap();
        let balancer = &lab.balancer().netns;
        let back = Switch::new().unwrap();
        back.plug_as(balancer, "eth1", "balancer", "02:70:65:6e:88:01").unwrap();
        attach_pass(back.netns(), "balancer").unwrap();
        balancer.ip("address add 10.88.0.1/24 dev eth1").unwrap();
        balancer.sysctl("net/ipv4/ip_forward", "1").unwrap();
        // Answers come from the VIP, which the balancer expects at eth0.
        for scope in ["all", "eth1"] {
            balancer.sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0").unwrap();
        }
        let (mut backends, mut demos) = (Vec::new(), Vec::new());
        for number in 1..=2 {
            let name = format!("r{number}");
            let netns = Netns::new(&name).unwrap();
            back.plug(&netns, &name, &format!("02:70:65:6e:88:1{number}")).unwrap();
            netns.ip(&format!("address add 10.88.0.1{number}/24 dev eth0")).unwrap();
            netns.ip("route add default via 10.88.0.1").unwrap();
            netns.ip(&format!("address add {VIP4}/32 dev lo")).unwrap();
            netns.sysctl("net/ipv4/conf/eth0/arp_ignore", "1").unwrap();
            demos.push(Demo::start(&netns, &name, HTTP_PORT, 7).unwrap());
            backends.push(netns);
        }
        Self { lab, back, backends, demos }
    }

    pub(crate) fn config(&self, interfaces: &[&str]) -> ConfigText {
        let service = |name: &str, at: SocketAddr, protocol| {
            let service = ServiceText::dsr(name, at, protocol, HTTP_PORT);
            (1..=self.backends.len()).fold(service, |service, number| {
                let address = format!("10.88.0.1{number}").parse().unwrap();
                service.backend(Some(&format!("r{number}")), address)
            })
        };
        let mut config = ConfigText::on(interfaces[0]).vip(VIP4);
        for name in &interfaces[1..] {
            config.interfaces.push(((*name).to_owned(), "auto".to_owned()));
        }
        config.service(service("web", WEB, Protocol::Tcp)).service(service(
            "echo",
            ECHO,
            Protocol::Udp,
        ))
    }
}

#[test]
fn backends_on_another_interface_are_reached_by_redirect() {
    let nets = TwoNetworks::build();
    let balancer = &nets.lab.balancer().netns;
    let mut pend = Pend::start(balancer, &nets.config(&["eth0", "eth1"])).unwrap();
    pend.wait_ready(4).unwrap();
    let client = &nets.lab.client().netns;
    let by = tally(60, || http(client, WEB).unwrap());
    assert_eq!(by.keys().collect::<Vec<_>>(), ["r1", "r2"], "{by:?}");
    assert!(udp_ask(client, ECHO).is_some());
    assert!(pend.counter("redirect").unwrap() > 60 * 4);
    assert_eq!(pend.counter("transmit").unwrap(), 0);
    assert_eq!(pend.backend("web", "r1").unwrap()["interface"], "eth1");
    let text = pend.penctl(["explain", "10.77.0.2:5000", "10.77.0.100:80"]).unwrap().stdout;
    assert!(text.contains("on eth1"), "{text}");
    let events = pend.penctl_json(["explain", "10.77.0.2:5000", "10.77.0.100:80"]).unwrap();
    assert_eq!(events["counter"], "redirect");
    assert_eq!((nets.demos.len(), nets.back.netns().name().is_empty()), (2, false));
}

#[test]
fn an_interface_that_left_the_configuration_is_detached_by_the_next_pend() {
    let nets = TwoNetworks::build();
    let balancer = &nets.lab.balancer().netns;
    let mut pend = Pend::start(balancer, &nets.config(&["eth0", "eth1"])).unwrap();
    pend.wait_ready(4).unwrap();
    assert!(xdp_mode(balancer, "eth1").unwrap().is_some());
    pend.kill9().unwrap();
    pend.write_config(&nets.config(&["eth0"]).render(Some(pend.socket()))).unwrap();
    pend.launch().unwrap();
    pend.wait_ready(0).unwrap();
    wait_until(Duration::from_secs(3), "eth1 is detached", || {
        xdp_mode(balancer, "eth1").unwrap().is_none().then_some(())
    })
    .unwrap();
    assert!(xdp_mode(balancer, "eth0").unwrap().is_some());
    // Without XDP most drivers transmit nothing that is redirected to them.
    let backend = pend.backend("web", "r1").unwrap();
    assert_eq!(backend["usable"], false);
    let why = backend["why"].as_str().unwrap_or_default();
    assert!(why.contains("add [[interface]] name = \"eth1\""), "{why}");
}

#[test]
fn an_interface_comes_and_goes_with_the_configuration_while_pend_runs() {
    let nets = TwoNetworks::build();
    let balancer = &nets.lab.balancer().netns;
    let mut pend = Pend::start(balancer, &nets.config(&["eth0"])).unwrap();
    pend.wait_ready(0).unwrap();
    assert!(xdp_mode(balancer, "eth1").unwrap().is_none());
    let reload = |pend: &Pend, interfaces: &[&str]| {
        pend.write_config(&nets.config(interfaces).render(Some(pend.socket()))).unwrap();
        let output = pend.penctl(["reload"]).unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    reload(&pend, &["eth0", "eth1"]);
    pend.wait_ready(4).unwrap();
    assert!(xdp_mode(balancer, "eth1").unwrap().is_some());
    let by = tally(60, || http(&nets.lab.client().netns, WEB).unwrap());
    assert_eq!(by.keys().collect::<Vec<_>>(), ["r1", "r2"], "{by:?}");
    reload(&pend, &["eth0"]);
    assert!(xdp_mode(balancer, "eth1").unwrap().is_none());
    assert_eq!(pend.backend("web", "r1").unwrap()["usable"], false);
}
