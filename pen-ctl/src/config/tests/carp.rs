//! Groups that are accepted, and what they mean.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::{lines, parse_with_base};
use crate::config::{
    Accept, AddressesBy, Carp, CarpAuth, CarpKey, CarpMac, CarpTransport, Config, DEFAULT_GROUP,
    Demotion, Hooks, Secret, StateSync, TieBreak,
};

fn config(snippet: &str) -> Config {
    parse_with_base(&format!("{snippet}\n"))
        .unwrap_or_else(|errors| panic!("{:#?}", lines(&errors)))
}

fn love() -> Secret {
    Secret(b"love".to_vec())
}

/// What a group is that says as little as it can.
fn least() -> Carp {
    Carp {
        name: "main".to_owned(),
        interface: "eth0".to_owned(),
        vhid: 7,
        advbase: Duration::from_secs(1),
        advskew: 0,
        deadratio: 3,
        preempt: false,
        preempt_delay: Duration::ZERO,
        neutral: false,
        auth: CarpAuth::Ucarp { password: love() },
        transport: CarpTransport::Multicast { group: DEFAULT_GROUP },
        peers: vec![],
        sources: vec![],
        mac: CarpMac::Virtual,
        tie_break: TieBreak::UcarpLe,
        ignore_link: false,
        sync_group: None,
        announce_refresh: None,
        hooks: Hooks::default(),
        addresses: AddressesBy::Pen,
        demotion: Demotion {
            no_backend: 0,
            xdp_detached: 240,
            sync_incomplete: 240,
            interfaces: vec![],
            services: vec![],
        },
    }
}

#[test]
fn a_group_needs_a_number_and_a_password_and_is_a_ucarp_for_the_rest() {
    let config = config(carp!(r#"password_file = "/etc/pen/love""#));
    assert_eq!(config.carp, [least()]);
    let groups: Vec<_> = config.vips.iter().map(|vip| vip.carp.as_deref()).collect();
    assert_eq!(groups, [Some("main"), None, None]);
}

#[test]
fn every_key_of_a_group_can_be_written_out() {
    let config = config(carp!(
        r#"advbase = "100ms"
advskew = 0xff
deadratio = 5
preempt = true
preempt_delay = "1m"
neutral = true
auth = "sha256"
password_file = "/etc/pen/20-bytes"
keys = [{ id = 9, file = "/etc/pen/32-bytes" }, { id = 255, file = "/etc/pen/64-bytes" }]
active_key = 255
accept = "receive-only"
legacy_peers = ["192.0.2.4"]
transport = "broadcast"
group = "239.1.2.3"
peers = ["192.0.2.3", "192.0.2.4", "fe80::3"]
source = ["fe80::2", "192.0.2.2"]
mac = "interface"
tie_break = "ucarp-le"
ignore_link = true
sync_group = "both"
announce_refresh = "30s"
addresses = "hooks"
up = "/etc/pen/up.sh"
down = "/etc/pen/down.sh"
xparam = "extra words"
down_at_exit = true
demote_on = { no_backend = 100, xdp_detached = 0, sync_incomplete = 7, interface = ["eth1", { name = "lo", weight = 3 }] }"#
    ));
    let key = |id, secret: &str| CarpKey { id, secret: Secret(secret.as_bytes().to_vec()) };
    let expected = Carp {
        advbase: Duration::from_millis(100),
        advskew: 255,
        deadratio: 5,
        preempt: true,
        preempt_delay: Duration::from_secs(60),
        neutral: true,
        auth: CarpAuth::Sha256 {
            password: Some(Secret(b"twenty bytes, no les".to_vec())),
            keys: vec![
                key(9, "01234567890123456789012345678901"),
                key(255, &"00112233445566778899aabbccddeeff".repeat(2)),
            ],
            active: 255,
            accept: Accept::ReceiveOnly,
            legacy_peers: vec!["192.0.2.4".parse().unwrap()],
        },
        transport: CarpTransport::Broadcast { group: Ipv4Addr::new(239, 1, 2, 3) },
        peers: ["192.0.2.3", "192.0.2.4", "fe80::3"].map(|text| text.parse().unwrap()).to_vec(),
        sources: ["fe80::2", "192.0.2.2"].map(|text| text.parse().unwrap()).to_vec(),
        mac: CarpMac::Interface,
        tie_break: TieBreak::UcarpLe,
        ignore_link: true,
        sync_group: Some("both".to_owned()),
        announce_refresh: Some(Duration::from_secs(30)),
        hooks: Hooks {
            up: Some("/etc/pen/up.sh".into()),
            down: Some("/etc/pen/down.sh".into()),
            xparam: Some("extra words".to_owned()),
            down_at_exit: true,
        },
        addresses: AddressesBy::Hooks,
        demotion: Demotion {
            no_backend: 100,
            xdp_detached: 0,
            sync_incomplete: 7,
            interfaces: vec![("eth1".to_owned(), 240), ("lo".to_owned(), 3)],
            services: vec![],
        },
        ..least()
    };
    assert_eq!(config.carp, [expected]);
}

#[test]
fn defaults_follow_the_authentication() {
    let group = |snippet| config(snippet).carp.remove(0);
    let bsd = group(carp!("auth = \"bsd\"\npassword_file = \"/etc/pen/20-bytes\""));
    assert_eq!((bsd.tie_break, bsd.auth.name()), (TieBreak::Numeric, "bsd"));
    assert_eq!(bsd.announce_refresh, Some(Duration::from_secs(60)));
    let strong =
        group(carp!("auth = \"sha256\"\nkeys = [{ id = 1, file = \"/etc/pen/32-bytes\" }]"));
    let CarpAuth::Sha256 { password, active, accept, legacy_peers, .. } = strong.auth else {
        panic!("{strong:?}");
    };
    assert_eq!((password, active, accept), (None, 1, Accept::Enforce));
    assert!(legacy_peers.is_empty());
    let hooks =
        carp!("password_file = \"/etc/pen/love\"\naddresses = \"hooks\"\nup = \"/etc/pen/up.sh\"");
    assert_eq!(group(hooks).mac, CarpMac::Interface);
}

#[test]
fn neighbours_need_not_be_told_again() {
    let snippet =
        carp!("password_file = \"/etc/pen/20-bytes\"\nauth = \"bsd\"\nannounce_refresh = \"0s\"");
    assert_eq!(config(snippet).carp[0].announce_refresh, None);
}

#[test]
fn unicast_goes_to_peers_that_may_be_behind_routers() {
    let keys = carp!(
        "password_file = \"/etc/pen/love\"\nauth = \"bsd\"\ntransport = \"unicast\"\npeers = [\"198.51.100.3\"]\nmin_ttl = 250"
    );
    let group = config(keys).carp.remove(0);
    assert_eq!(group.transport, CarpTransport::Unicast { min_ttl: 250 });
    assert_eq!(group.peers, ["198.51.100.3".parse::<std::net::IpAddr>().unwrap()]);
}

#[test]
fn many_addresses_of_both_families_share_a_group_unless_it_is_ucarp() {
    let more = "\n[[vip]]\naddress = \"192.0.2.21\"\ninterface = \"eth0\"\ncarp = \"main\"\n[[vip]]\naddress = \
                \"2001:db8::20\"\ninterface = \"eth0\"\ncarp = \"main\"";
    let group = carp!("auth = \"bsd\"\npassword_file = \"/etc/pen/love\"");
    let config = config(&format!("{group}{more}"));
    assert_eq!(config.vips.iter().filter(|vip| vip.carp.is_some()).count(), 3);
}

#[test]
fn one_number_serves_on_several_interfaces() {
    let second = "\n[[interface]]\nname = \"eth1\"\n[[carp]]\nname = \"other\"\ninterface = \"eth1\"\nvhid = \
                  7\npassword_file = \"/etc/pen/love\"\n[[vip]]\naddress = \"192.0.2.21\"\ninterface = \
                  \"eth1\"\ncarp = \"other\"";
    let config = config(&format!("{}{second}", carp!("password_file = \"/etc/pen/love\"")));
    assert_eq!(config.carp.len(), 2);
}

#[test]
fn an_address_without_xdp_is_the_interfaces_own_while_this_node_is_master() {
    let config = config(
        "[[interface]]\nname = \"eth1\"\nxdp = \"off\"\n[[carp]]\nname = \"a\"\ninterface = \"eth1\"\nvhid = \
         7\nmac = \"interface\"\npassword_file = \"/etc/pen/love\"\n[[vip]]\naddress = \
         \"192.0.2.20\"\ninterface = \"eth1\"\ncarp = \"a\"",
    );
    assert_eq!(config.vips[0].interface, "eth1");
}

#[test]
fn peers_are_told_of_connections_over_udp() {
    let config = config(
        "[sync]\nlisten = \"[2001:db8::2]:7077\"\npeers = [\"[2001:db8::3]:7077\"]\nkey_file = \
         \"/etc/pen/32-bytes\"",
    );
    let expected = StateSync {
        listen: "[2001:db8::2]:7077".parse().unwrap(),
        peers: vec!["[2001:db8::3]:7077".parse().unwrap()],
        key: Secret(b"01234567890123456789012345678901".to_vec()),
    };
    assert_eq!(config.sync, Some(expected));
}

#[test]
fn masqueraded_packets_may_come_from_an_address_that_moves() {
    let config = config(
        "[[service]]\nname = \"web\"\nlisten = \"192.0.2.10:80\"\nbackends = [\"10.0.0.11\"]\nmode = \
         \"masquerade\"\nsource = \"192.0.2.10\"",
    );
    assert_eq!(config.services[0].source, Some([192, 0, 2, 10].into()));
}

#[test]
fn a_secret_shows_in_no_log() {
    let config = config(carp!("password_file = \"/etc/pen/love\""));
    assert!(!format!("{config:?}").contains("love"));
    assert!(format!("{config:?}").contains("4 bytes"));
}
