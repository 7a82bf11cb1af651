//! From what the operator wrote to what groups are told. The two are apart so that CARP's decisions
//! know neither files nor services.

use std::net::IpAddr;

use pen_common::hash::{Secret as HashSecret, siphash};

use super::settings::{
    Accept, Auth, CARP_GROUP, Key, Legacy, Secret, Settings, Strong, TieBreak, Transport, VipMac,
};
use crate::config::{self, CarpAuth, CarpMac, CarpTransport, Config};

/// The groups of a configuration. `index` gives the number of a group by its name; see
/// [`Settings::group`].
#[must_use]
pub fn settings(config: &Config, secret: HashSecret, index: impl Fn(&str) -> u32) -> Vec<Settings> {
    config.carp.iter().map(|group| of_group(config, group, secret, index(&group.name))).collect()
}

fn of_group(config: &Config, group: &config::Carp, secret: HashSecret, index: u32) -> Settings {
    let vips: Vec<_> = vips(config, &group.name).collect();
    let auth = auth(&group.auth);
    let (transport, multicast) = match group.transport {
        CarpTransport::Multicast { group } => (Transport::Multicast, group),
        CarpTransport::Broadcast { group } => (Transport::Broadcast, group),
        CarpTransport::Unicast { min_ttl } => (Transport::Unicast { min_ttl }, CARP_GROUP),
    };
    Settings {
        group: index,
        name: group.name.clone(),
        interface: group.interface.clone(),
        vhid: group.vhid,
        vips,
        all_vips: config.vips.iter().map(|vip| vip.address).collect(),
        advbase: group.advbase,
        advskew: group.advskew,
        deadratio: group.deadratio,
        preempt: group.preempt,
        preempt_delay: group.preempt_delay,
        neutral: group.neutral,
        handover_limit: auth.handover_limit(group.advbase),
        auth,
        peers: group.peers.clone(),
        transport,
        multicast,
        sources: group.sources.clone(),
        mac: match group.mac {
            CarpMac::Virtual => VipMac::Virtual,
            CarpMac::Interface => VipMac::Interface,
            CarpMac::Ucarp => VipMac::Ucarp,
        },
        tie_break: match group.tie_break {
            config::TieBreak::UcarpLe => TieBreak::UcarpLe,
            config::TieBreak::Numeric => TieBreak::Numeric,
        },
        ignore_link: group.ignore_link,
        sync_group: group.sync_group.clone(),
        announce_refresh: group.announce_refresh,
        down_at_exit: group.hooks.down_at_exit,
        config_hash: config_hash(config, group, secret),
    }
}

/// Addresses of a group, in the order of the configuration.
pub fn vips<'a>(config: &'a Config, group: &'a str) -> impl Iterator<Item = IpAddr> + 'a {
    let vips = config.vips.iter().filter(move |vip| vip.carp.as_deref() == Some(group));
    vips.map(|vip| vip.address)
}

fn auth(auth: &CarpAuth) -> Auth {
    let secret = |secret: &config::Secret| Secret::new(secret.0.clone());
    match auth {
        CarpAuth::Ucarp { password } => Auth::Ucarp { password: secret(password) },
        CarpAuth::Bsd { password } => Auth::Bsd { password: secret(password) },
        CarpAuth::Sha256 { password, keys, active, accept, legacy_peers } => Auth::Sha256(Strong {
            keys: keys.iter().map(|key| Key { id: key.id, secret: secret(&key.secret) }).collect(),
            active: *active,
            accept: match accept {
                config::Accept::Enforce => Accept::Enforce,
                config::Accept::Permissive => Accept::Permissive,
                config::Accept::ReceiveOnly => Accept::ReceiveOnly,
            },
            legacy: password
                .as_ref()
                .map(|password| Legacy { password: secret(password), peers: legacy_peers.clone() }),
        }),
    }
}

/// What nodes of a group have to agree about. So that a fail-over keeps the choice of each flow:
/// addresses and services, and the secret that flows are hashed with; so that a lease does not outlast
/// the patience of the others: advbase and deadratio. The secret is the key here, so that the number
/// tells nobody about it.
fn config_hash(config: &Config, group: &config::Carp, secret: HashSecret) -> u64 {
    let mut addresses: Vec<_> = vips(config, &group.name).collect();
    addresses.sort_unstable();
    let services = config.services.iter().filter(|one| addresses.contains(&one.listen.address));
    let mut services: Vec<_> = services.collect();
    services.sort_unstable_by_key(|service| &service.name);
    let patience = (group.advbase, group.deadratio);
    let ports = config.node.masquerade_ports;
    let text = format!("{addresses:?} {services:?} {ports:?} {patience:?}");
    let word = |chunk: &[u8]| {
        let mut bytes = [0; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(bytes)
    };
    let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
    text.as_bytes()
        .chunks(8)
        .fold(length, |hash, chunk| siphash(secret, [hash, word(chunk), length]))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{
        AddressesBy, Carp, CarpKey, DEFAULT_GROUP, Demotion, Hooks, StateSync, Vip,
    };
    use crate::engine::sim::{config as one_service, vip};

    const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 10));

    fn group(name: &str) -> Carp {
        Carp {
            name: name.into(),
            interface: "eth0".into(),
            vhid: 7,
            advbase: Duration::from_secs(2),
            advskew: 3,
            deadratio: 4,
            preempt: true,
            preempt_delay: Duration::from_secs(5),
            neutral: true,
            auth: CarpAuth::Ucarp { password: config::Secret(b"love".to_vec()) },
            transport: CarpTransport::Multicast { group: DEFAULT_GROUP },
            peers: vec![[192, 0, 2, 3].into()],
            sources: vec![[192, 0, 2, 2].into()],
            mac: CarpMac::Ucarp,
            tie_break: config::TieBreak::UcarpLe,
            ignore_link: true,
            sync_group: Some("both".into()),
            announce_refresh: Some(Duration::from_secs(60)),
            hooks: Hooks { down_at_exit: true, ..Hooks::default() },
            addresses: AddressesBy::Pen,
            demotion: Demotion::default(),
        }
    }

    fn of(vips: Vec<Vip>, carp: Vec<Carp>) -> Config {
        Config { vips, carp, ..one_service(2) }
    }

    fn member(address: IpAddr, group: &str) -> Vip {
        Vip { carp: Some(group.into()), ..vip(address) }
    }

    fn told(config: &Config) -> Settings {
        settings(config, [1, 2], |_| 9).remove(0)
    }

    #[test]
    fn a_group_is_told_what_was_written_and_its_own_addresses() {
        let other = [192, 0, 2, 11].into();
        let vips = vec![member(VIP, "a"), member(other, "b"), vip([192, 0, 2, 12].into())];
        let config = of(vips, vec![group("a"), group("b")]);
        let all = settings(&config, [1, 2], |name| if name == "a" { 4 } else { 2 });
        let expected = Settings {
            group: 4,
            name: "a".into(),
            interface: "eth0".into(),
            vhid: 7,
            vips: vec![VIP],
            all_vips: vec![VIP, other, [192, 0, 2, 12].into()],
            advbase: Duration::from_secs(2),
            advskew: 3,
            deadratio: 4,
            preempt: true,
            preempt_delay: Duration::from_secs(5),
            neutral: true,
            auth: Auth::Ucarp { password: Secret::new("love") },
            peers: vec![[192, 0, 2, 3].into()],
            transport: Transport::Multicast,
            multicast: CARP_GROUP,
            sources: vec![[192, 0, 2, 2].into()],
            mac: VipMac::Ucarp,
            tie_break: TieBreak::UcarpLe,
            ignore_link: true,
            sync_group: Some("both".into()),
            announce_refresh: Some(Duration::from_secs(60)),
            handover_limit: Duration::from_secs(4),
            down_at_exit: true,
            config_hash: all[0].config_hash,
        };
        assert_eq!(all[0], expected);
        assert_eq!((all[1].group, &all[1].vips), (2, &vec![other]));
    }

    #[test]
    fn profiles_ways_and_macs_keep_their_meaning() {
        let transports = [
            (CarpTransport::Broadcast { group: DEFAULT_GROUP }, Transport::Broadcast),
            (CarpTransport::Unicast { min_ttl: 9 }, Transport::Unicast { min_ttl: 9 }),
        ];
        for (transport, expected) in transports {
            let config = of(vec![member(VIP, "a")], vec![Carp { transport, ..group("a") }]);
            assert_eq!(told(&config).transport, expected);
        }
        for (mac, expected) in
            [(CarpMac::Virtual, VipMac::Virtual), (CarpMac::Interface, VipMac::Interface)]
        {
            let config = of(vec![member(VIP, "a")], vec![Carp { mac, ..group("a") }]);
            assert_eq!(told(&config).mac, expected);
        }
        let key = vec![5; 32];
        let strong = |password: Option<&str>, accept| CarpAuth::Sha256 {
            password: password.map(|text| config::Secret(text.into())),
            keys: vec![CarpKey { id: 8, secret: config::Secret(key.clone()) }],
            active: 8,
            accept,
            legacy_peers: vec![[192, 0, 2, 4].into()],
        };
        let keys = vec![Key { id: 8, secret: Secret::new(key.clone()) }];
        let legacy = Legacy { password: Secret::new("old"), peers: vec![[192, 0, 2, 4].into()] };
        let cases = [
            (None, config::Accept::Enforce, Accept::Enforce, None),
            (Some("old"), config::Accept::Permissive, Accept::Permissive, Some(legacy.clone())),
            (Some("old"), config::Accept::ReceiveOnly, Accept::ReceiveOnly, Some(legacy)),
        ];
        for (password, written, accept, legacy) in cases {
            let auth = strong(password, written);
            let config = of(vec![member(VIP, "a")], vec![Carp { auth, ..group("a") }]);
            let expected = Strong { keys: keys.clone(), active: 8, accept, legacy };
            assert_eq!(told(&config).auth, Auth::Sha256(expected));
        }
        let auth = CarpAuth::Bsd { password: config::Secret(b"love".to_vec()) };
        let tie_break = config::TieBreak::Numeric;
        let bsd = of(vec![member(VIP, "a")], vec![Carp { auth, tie_break, ..group("a") }]);
        assert_eq!(told(&bsd).auth, Auth::Bsd { password: Secret::new("love") });
        assert_eq!(told(&bsd).tie_break, TieBreak::Numeric);
    }

    #[test]
    fn nodes_that_differ_in_what_decides_about_flows_have_another_hash() {
        let config = of(vec![member(VIP, "a")], vec![group("a")]);
        let hash = told(&config).config_hash;
        let skewed = of(vec![member(VIP, "a")], vec![Carp { advskew: 100, ..group("a") }]);
        assert_eq!(told(&skewed).config_hash, hash, "the skew is a node's own");
        let sync = StateSync {
            listen: "192.0.2.2:1".parse().unwrap(),
            peers: vec![],
            key: config::Secret(vec![]),
        };
        let elsewhere = Config { sync: Some(sync), ..config.clone() };
        assert_eq!(told(&elsewhere).config_hash, hash, "so are its peers");
        let patient = |advbase, deadratio| {
            let group = Carp { advbase: Duration::from_secs(advbase), deadratio, ..group("a") };
            told(&of(vec![member(VIP, "a")], vec![group])).config_hash
        };
        assert_eq!(patient(2, 4), hash);
        assert_ne!(patient(1, 4), hash, "leases end at another time");
        assert_ne!(patient(2, 3), hash, "so do they");
        let more = Config { services: one_service(3).services, ..config.clone() };
        assert_ne!(told(&more).config_hash, hash, "a backend more");
        let other = settings(&config, [1, 3], |_| 9).remove(0);
        assert_ne!(other.config_hash, hash, "another secret");
    }
}
