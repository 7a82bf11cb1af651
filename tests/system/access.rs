//! What virtual addresses ask of clients: access lists and rates.

use pen_tests::{Lab, client::http, process::SHORT, wait_until};

use crate::stage::{Stage, WEB, WEB6, usual};

/// The lab with two clients and these keys in both VIPs.
fn stage(lists: &str, keys: &str) -> Stage {
    let lab = Lab::builder().clients(2).build().unwrap();
    Stage::in_lab(lab, |lab| {
        let mut config = usual(lab);
        let vips = std::mem::take(&mut config.vips);
        let mut text = lists.to_owned();
        for (address, interface) in vips {
            text +=
                &format!("[[vip]]\naddress = \"{address}\"\ninterface = \"{interface}\"\n{keys}\n");
        }
        config.extra(&text)
    })
}

#[test]
fn a_denied_client_gets_no_answer_and_the_others_do() {
    // The second client is 10.77.0.3, fd77::3.
    let list = r#"
[[acl]]
name = "lab"
allow = ["10.77.0.0/24", "fd77::/64"]
deny = ["10.77.0.3", "fd77::3"]
default = "deny"
"#;
    let stage = stage(list, "acl = \"lab\"");
    for at in [WEB, WEB6] {
        assert!(http(stage.client(), at).is_ok(), "{at}");
        let before = stage.pend.counter("drop-acl").unwrap();
        assert!(http(&stage.lab.clients[1].netns, at).is_err(), "{at}");
        assert!(stage.pend.counter("drop-acl").unwrap() > before);
    }
    let fate = |source: &str| {
        let words = ["explain", source, "10.77.0.100:80"];
        stage.pend.penctl_json(words).unwrap()["counter"].as_str().unwrap().to_owned()
    };
    assert_eq!([fate("10.77.0.2:1"), fate("10.77.0.3:1")], ["transmit", "drop-acl"]);
    assert_eq!(fate("198.51.100.7:1"), "drop-acl", "the default");
    let vips = stage.order(["vips"]);
    assert!(vips.contains("\tlab\t"), "{vips}");
}

#[test]
fn a_hasty_client_is_slowed_down_and_a_calm_one_is_not() {
    let stage = stage("", "syn_rate = 4");
    let mut failures = 0;
    for _ in 0..20 {
        failures += u32::from(http(stage.client(), WEB).is_err());
    }
    assert!(failures > 0 && stage.pend.counter("drop-rate").unwrap() > 0, "{failures} failures");
    assert!(http(&stage.lab.clients[1].netns, WEB).is_ok(), "another source");
    wait_until(SHORT, "the hasty one may come again", || http(stage.client(), WEB).ok()).unwrap();
    let vips = stage.pend.penctl_json(["vips"]).unwrap();
    assert_eq!(vips[0]["syn_rate"], 4);
}
