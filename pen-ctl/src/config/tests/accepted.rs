//! What is accepted, and what it means: defaults, spellings, pools.

use std::time::Duration;

use super::{BASE, FakeSystem, lines, parse_all, parse_with_base};
use crate::config::words::Word;
use crate::config::{
    Access, AccessLog, Acl, Affinity, Backend, Check, CheckKind, Cidr, Config, Control,
    ForwardedFor, Interface, Judgement, Limits, Listen, Memory, Mode, Named, Node, Ports, Protocol,
    Responder, Service, Sizes, Source, Vip, XdpMode, parse,
};

/// Those for masquerading unless told otherwise.
const PORTS: Ports = Ports { first: 10240, last: 32767 };

fn ports(service: &Service) -> Vec<u16> {
    service.backends.iter().map(|backend| backend.port).collect()
}

fn services(snippet: &str) -> Vec<Service> {
    parse_with_base(snippet).unwrap_or_else(|errors| panic!("{snippet}\n{errors:#?}")).services
}

fn service(keys: &str) -> Service {
    services(&format!("[[service]]\nname = \"web\"\n{keys}\n")).remove(0)
}

#[test]
fn nothing_is_a_valid_configuration() {
    let expected = Config {
        node: Node {
            name: "edge1".to_owned(),
            secret: None,
            masquerade_ports: PORTS,
            sizes: Sizes::default(),
            drain_at_exit: None,
            resolvers: Vec::new(),
        },
        interfaces: vec![],
        control: Control { socket: "/run/pen/pend.sock".into() },
        access_log: None,
        responder: None,
        acls: vec![],
        carp: vec![],
        sync: None,
        vips: vec![],
        services: vec![],
        notify: vec![],
    };
    assert_eq!(parse_all(&[""]), Ok(expected.clone()));
    assert_eq!(parse_all(&[]), Ok(expected));
}

#[test]
fn everything_can_be_written_out() {
    let text = r#"
        [node]
        name = "n1"
        secret_file = "/etc/pen/good.key"
        masquerade_ports = "1024-2047"
        flows = 1024
        clients = 16_777_216
        translations = 4096
        drain_at_exit = "90s"
        resolvers = ["10.0.0.53", "[2001:db8::53]:5353"]
        [control]
        socket = "/run/p.sock"
        [responder]
        listen = ["0.0.0.0:80", "[::]:80"]
        https_port = 8443
        webroot = "/var/lib/pen/acme"

        [access_log]
        file = "/var/log/pen/access.log"
        format = "json"
        [[interface]]
        name = "eth1"
        xdp = "native"
        [[acl]]
        name = "office"
        allow = ["10.0.0.0/8", "2001:db8::/32", "::ffff:192.0.2.0/120"]
        deny = ["10.9.0.0/16", "198.51.100.7"]
        default = "deny"
        [[vip]]
        address = "192.0.2.10"
        interface = "eth1"
        echo = true
        acl = "office"
        syn_rate = 100
        [[service]]
        name = "dns"
        listen = "192.0.2.10:53"
        protocol = "udp"
        mode = "dsr"
        scheduler = "maglev"
        affinity = "flow"
        backends = ["10.0.0.11", { address = "10.0.0.12:53", name = "w2", weight = 2 }]
        emergency = { address = "10.0.0.99", name = "sorry" }
        stubborn = true
        check = { type = "tcp", port = 54, interval = "2s", timeout = "1s 500ms", rise = 1, fall = 9 }
    "#;
    let network = |address: &str, bits| Cidr { address: address.parse().unwrap(), bits };
    let backend = |name: &str, address: &str, weight| Backend {
        name: name.to_owned(),
        address: address.parse().unwrap(),
        port: 53,
        socket: None,
        weight,
        limits: Limits::default(),
    };
    let expected = Config {
        notify: vec![],
        node: Node {
            name: "n1".to_owned(),
            secret: Some([0x0011_2233_4455_6677, 0x8899_aabb_ccdd_eeff]),
            masquerade_ports: Ports { first: 1024, last: 2047 },
            sizes: Sizes { flows: 1024, clients: 16_777_216, translations: 4096 },
            drain_at_exit: Some(Duration::from_secs(90)),
            resolvers: ["10.0.0.53:53", "[2001:db8::53]:5353"].map(|at| at.parse().unwrap()).into(),
        },
        interfaces: vec![Interface { name: "eth1".to_owned(), xdp: XdpMode::Native }],
        control: Control { socket: "/run/p.sock".into() },
        access_log: Some(AccessLog { file: "/var/log/pen/access.log".into(), json: true }),
        responder: Some(Responder {
            listen: vec!["0.0.0.0:80".parse().unwrap(), "[::]:80".parse().unwrap()],
            https_port: 8443,
            webroot: Some("/var/lib/pen/acme".into()),
        }),
        acls: vec![Acl {
            name: "office".to_owned(),
            networks: vec![
                (network("10.0.0.0", 8), Access::Allow),
                (network("2001:db8::", 32), Access::Allow),
                (network("192.0.2.0", 24), Access::Allow),
                (network("10.9.0.0", 16), Access::Deny),
                (network("198.51.100.7", 32), Access::Deny),
            ],
            default: Access::Deny,
        }],
        carp: vec![],
        sync: None,
        vips: vec![Vip {
            address: "192.0.2.10".parse().unwrap(),
            interface: "eth1".to_owned(),
            carp: None,
            echo: true,
            acl: Some("office".to_owned()),
            syn_rate: Some(100),
        }],
        services: vec![Service {
            name: "dns".to_owned(),
            listen: Listen { address: "192.0.2.10".parse().unwrap(), ports: Ports::one(53) },
            protocol: Protocol::Udp,
            mode: Mode::Dsr,
            source: None,
            affinity: Affinity::Flow,
            memory: Memory::of(Protocol::Udp),
            backends: vec![backend("10.0.0.11", "10.0.0.11", 1), backend("w2", "10.0.0.12", 2)],
            emergency: Some(backend("sorry", "10.0.0.99", 1)),
            names: Vec::new(),
            stubborn: true,
            judgement: Judgement::usual(),
            proxy: None,
            check: Check {
                kind: CheckKind::Tcp,
                port: Some(54),
                tunnel: false,
                interval: Duration::from_secs(2),
                fast_interval: Duration::from_secs(2),
                down_interval: Duration::from_secs(2),
                timeout: Duration::from_millis(1500),
                rise: 1,
                fall: 9,
                init: crate::config::Init::First,
                jitter: 0,
                agent: None,
                address: None,
            },
        }],
    };
    assert_eq!(parse_all(&[text]), Ok(expected));
}

#[test]
fn a_service_has_defaults() {
    let web = service("listen = \"192.0.2.10:80\"\nbackends = [\"10.0.0.11\"]");
    let check = Check {
        kind: CheckKind::Tcp,
        port: None,
        tunnel: false,
        interval: Duration::from_secs(1),
        fast_interval: Duration::from_secs(1),
        down_interval: Duration::from_secs(1),
        timeout: Duration::from_millis(500),
        rise: 2,
        fall: 3,
        init: crate::config::Init::First,
        jitter: 0,
        agent: None,
        address: None,
    };
    assert_eq!(
        (web.protocol, web.mode, web.affinity, web.check),
        (Protocol::Tcp, Mode::Dsr, Affinity::Client, check)
    );
}

#[test]
fn a_server_is_left_alone_for_what_the_kernel_sees_only_if_that_is_wished() {
    let seconds = |keys: &str| {
        let rest = "listen = \"192.0.2.10:80\"\nbackends = [\"10.0.0.11\"]";
        let Judgement { eject, eject_max, .. } = service(&format!("{rest}\n{keys}")).judgement;
        (eject.as_secs(), eject_max.as_secs())
    };
    assert_eq!(seconds("mode = \"nat\""), (0, 0));
    assert_eq!(seconds("mode = \"nat\"\neject = \"10s\""), (10, 300));
    assert_eq!(seconds("mode = \"masquerade\"\neject = \"10s\"\neject_max = \"1m\""), (10, 60));
    assert_eq!(seconds("mode = \"proxy\"\neject = \"10s\""), (0, 0), "a proxy has its own");
}

#[test]
fn a_check_goes_through_the_tunnel_if_there_is_one_unless_told_otherwise() {
    for (mode, key, tunnel) in [
        ("dsr", "", false),
        ("ipip", "", true),
        ("gue", "", true),
        ("nat", "", false),
        ("ipip", "tunnel = false", false),
        ("gue", "tunnel = true", true),
    ] {
        let web = service(&format!(
            "listen = \"192.0.2.10:80\"\nbackends = [\"10.0.0.11\"]\nmode = \"{mode}\"\n\
             check = {{ {key} }}"
        ));
        assert_eq!(web.check.tunnel, tunnel, "{mode} {key}");
    }
}

#[test]
fn a_service_says_what_it_remembers() {
    let web = service(
        "listen = \"192.0.2.10:80\"\nbackends = [\"10.0.0.11\"]\nslots = 251\nsettle = \"5m\"\n\
         affinity_ttl = \"8h\"\naffinity_prefix_v4 = 24\naffinity_prefix_v6 = 56",
    );
    let expected = Memory {
        slots: 251,
        settle: Duration::from_secs(300),
        affinity_ttl: Duration::from_secs(8 * 3600),
        prefix_v4: 24,
        prefix_v6: 56,
    };
    assert_eq!(web.memory, expected);
}

#[test]
fn backends_have_many_spellings() {
    // backend, name, address, port; the service is on port 80
    let v4 = [
        ("\"10.0.0.11\"", "10.0.0.11", "10.0.0.11"),
        ("\"10.0.0.11:80\"", "10.0.0.11:80", "10.0.0.11"),
        ("\"::ffff:10.0.0.11\"", "::ffff:10.0.0.11", "10.0.0.11"),
    ];
    let v6 = [
        ("\"2001:db8::11\"", "2001:db8::11", "2001:db8::11"),
        ("\"[2001:db8::11]\"", "[2001:db8::11]", "2001:db8::11"),
        ("\"[2001:db8::11]:80\"", "[2001:db8::11]:80", "2001:db8::11"),
    ];
    let v4 = v4.map(|case| ("192.0.2.10:80", case));
    let v6 = v6.map(|case| ("[2001:db8::10]:80", case));
    for (listen, (text, name, address)) in v4.into_iter().chain(v6) {
        let web = service(&format!("listen = \"{listen}\"\nbackends = [{text}]"));
        let address = address.parse().unwrap();
        let limits = Limits::default();
        let name = name.to_owned();
        let expected = Backend { name, address, port: 80, socket: None, weight: 1, limits };
        assert_eq!(web.backends, [expected], "{text}");
    }
}

#[test]
fn the_check_follows_the_service() {
    let own = (CheckKind::Tcp, None);
    let none = (CheckKind::None, None);
    let tcp = |port| (CheckKind::Tcp, Some(port));
    let cases = [
        // listen's port, protocol, check
        (80, "tcp", "", own.clone()),
        (80, "tcp", "check = { port = 81 }", tcp(81)),
        (80, "tcp", "check = { type = \"none\" }", none.clone()),
        (53, "udp", "", none.clone()),
        (53, "udp", "check = { interval = \"1s\" }", none.clone()),
        (53, "udp", "check = { type = \"tcp\" }", own.clone()),
        (53, "udp", "check = { port = 54 }", tcp(54)),
        (0, "tcp", "", none.clone()),
        (0, "tcp", "check = { port = 22 }", tcp(22)),
        (0, "tcp", "check = { type = \"tcp\", port = 22 }", tcp(22)),
    ];
    for (port, protocol, check, expected) in cases {
        let web = service(&format!(
            "listen = \"192.0.2.10:{port}\"\nprotocol = \"{protocol}\"\n\
             backends = [\"10.0.0.11\"]\n{check}"
        ));
        assert_eq!((web.check.kind, web.check.port), expected, "{port} {protocol} {check}");
    }
}

#[test]
fn a_short_interval_shortens_the_default_timeout() {
    let web = service(
        "listen = \"192.0.2.10:80\"\nbackends = [\"10.0.0.11\"]\n\
         check = { interval = \"100ms\" }",
    );
    assert_eq!(web.check.timeout, Duration::from_millis(100));
}

#[test]
fn backends_of_a_service_on_any_port_have_none() {
    for mode in Mode::ALL.iter().map(|(word, _)| word).filter(|word| **word != "proxy") {
        let any = service(&format!(
            "listen = \"192.0.2.10:0\"\nmode = \"{mode}\"\n\
             backends = [\"10.0.0.11:0\", \"10.0.0.12\"]"
        ));
        assert_eq!(ports(&any), [0, 0]);
    }
}

#[test]
fn a_mode_that_translates_takes_other_ports_and_one_address_with_several() {
    for mode in ["nat", "masquerade"] {
        let web = service(&format!(
            "listen = \"192.0.2.10:80\"\nmode = \"{mode}\"\n\
             backends = [\"10.0.0.11:8080\", \"10.0.0.11:8081\", \"10.0.0.11\"]"
        ));
        assert_eq!(ports(&web), [8080, 8081, 80]);
        // Each is probed at its own port.
        assert_eq!(web.check.kind, CheckKind::Tcp);
    }
}

#[test]
fn names_of_servers_have_many_spellings_and_nobody_is_asked() {
    // backend, name, host, records SRV, port, weight
    for (text, name, host, srv, port, weight) in [
        ("\"App.example\"", "App.example", "app.example", false, 80, 1),
        ("\"app.example:8080\"", "app.example:8080", "app.example", false, 8080, 1),
        ("{ address = \"app.example.\", name = \"a\" }", "a", "app.example", false, 80, 1),
        (
            "{ host = \"app.example\", port = 8080, weight = 2 }",
            "app.example",
            "app.example",
            false,
            8080,
            2,
        ),
        (
            "{ srv = \"_http._tcp.app.example\", name = \"a\" }",
            "a",
            "_http._tcp.app.example",
            true,
            0,
            1,
        ),
    ] {
        let web =
            service(&format!("listen = \"192.0.2.10:80\"\nmode = \"nat\"\nbackends = [{text}]"));
        let (name, host, limits) = (name.to_owned(), host.to_owned(), Limits::default());
        assert_eq!(web.names, [Named { name, host, srv, port, weight, limits }], "{text}");
        assert_eq!(web.backends, []);
    }
}

#[test]
fn a_mode_that_encapsulates_takes_backends_of_both_families() {
    for (mode, expected) in [("ipip", Mode::Ipip), ("gue", Mode::Gue)] {
        for listen in ["192.0.2.10:80", "[2001:db8::10]:80"] {
            let web = service(&format!(
                "listen = \"{listen}\"\nmode = \"{mode}\"\n\
                 backends = [\"10.0.0.11\", \"2001:db8::11\"]"
            ));
            assert_eq!(web.mode, expected);
            assert_eq!(web.backends.len(), 2);
        }
    }
}

#[test]
fn an_access_list_may_say_as_little_as_its_name() {
    let config = parse_all(&["[[acl]]\nname = \"a\""]).unwrap();
    let expected = Acl { name: "a".to_owned(), networks: vec![], default: Access::Allow };
    assert_eq!(config.acls, [expected]);
}

#[test]
fn the_backend_for_emergencies_follows_the_rules_of_the_others() {
    let web = service(
        "listen = \"192.0.2.10:80\"\nmode = \"nat\"\nbackends = [\"10.0.0.11:8080\"]\n\
         emergency = \"10.0.0.11:8081\"",
    );
    let emergency = web.emergency.unwrap();
    assert_eq!((emergency.name.as_str(), emergency.port), ("10.0.0.11:8081", 8081));
    assert_eq!(web.backends.len(), 1);
}

#[test]
fn ports_of_the_machine_matter_only_where_something_is_masqueraded() {
    let parse = |mode: &str, local_ports| {
        let text = format!(
            "{BASE}[[service]]\nname = \"web\"\nlisten = \"192.0.2.10:80\"\nmode = \"{mode}\"\n\
             backends = [\"10.0.0.11\"]"
        );
        let source = Source { name: "/etc/pen/0.toml".into(), text };
        parse(&[source], &FakeSystem { local_ports, ..FakeSystem::new() })
    };
    let many = Some(Ports { first: 1024, last: 65535 });
    assert!(parse("nat", many).is_ok());
    assert!(parse("masquerade", None).is_ok());
    let errors = parse("masquerade", many).unwrap_err();
    assert_eq!(
        lines(&errors),
        [
            "13:8: the ports 10240-32767 for masquerading overlap with 1024-65535, which this machine \
          gives its own connections; set `masquerade_ports` in `[node]` to others, or set \
          net.ipv4.ip_local_port_range with `sysctl`"
        ]
    );
}

#[test]
fn two_protocols_share_a_port() {
    let both = services(
        "[[service]]\nname = \"a\"\nlisten = \"192.0.2.10:53\"\nbackends = [\"10.0.0.11\"]\n\
         [[service]]\nname = \"b\"\nlisten = \"192.0.2.10:53\"\nprotocol = \"udp\"\n\
         backends = [\"10.0.0.11\"]\n",
    );
    assert_eq!(both.len(), 2);
}

#[test]
fn ranges_leave_the_other_ports_to_others() {
    let all = services(&listening(&[
        "192.0.2.10:8000-8010",
        "192.0.2.10:8011-8011",
        "192.0.2.10:7999",
        "192.0.2.10:0",
        "[2001:db8::10]:8000-8010",
        "[::ffff:192.0.2.10]:1-7998",
    ]));
    let listens: Vec<_> = all.iter().map(|service| service.listen.to_string()).collect();
    assert_eq!(
        listens,
        [
            "192.0.2.10:8000-8010",
            "192.0.2.10:8011",
            "192.0.2.10:7999",
            "192.0.2.10:0",
            "[2001:db8::10]:8000-8010",
            "192.0.2.10:1-7998",
        ]
    );
    assert_eq!(ports(&all[0]), [0], "the packet's");
    assert_eq!(all[0].check.kind, CheckKind::None);
    assert_eq!(ports(&all[1]), [8011]);
}

/// Services that listen there.
fn listening(listens: &[&str]) -> String {
    let service = |(number, listen): (usize, &&str)| {
        format!(
            "[[service]]\nname = \"s{number}\"\nlisten = \"{listen}\"\nmode = \"gue\"\n\
             backends = [\"10.0.0.11\"]\n"
        )
    };
    listens.iter().enumerate().map(service).collect()
}

#[test]
fn a_pool_takes_the_port_of_each_service() {
    let all = services(
        "[[pool]]\nname = \"p\"\nbackends = [\"web1.example\"]\ncheck = { rise = 7 }\n\
         [[service]]\nname = \"a\"\nlisten = \"192.0.2.10:80\"\npool = \"p\"\n\
         [[service]]\nname = \"b\"\nlisten = \"[2001:db8::10]:443\"\npool = \"p\"\n\
         check = { fall = 5 }\n",
    );
    let seen: Vec<_> = all
        .iter()
        .map(|service| {
            let named = &service.names[0];
            let Check { kind, rise, fall, .. } = service.check.clone();
            (named.host.clone(), named.port, kind, rise, fall)
        })
        .collect();
    // A service's own check replaces the pool's as a whole.
    assert_eq!(
        seen,
        [
            ("web1.example".to_owned(), 80, CheckKind::Tcp, 7, 3),
            ("web1.example".to_owned(), 443, CheckKind::Tcp, 2, 5),
        ]
    );
}

#[test]
fn one_backend_may_rest_at_weight_zero() {
    let web = service(
        "listen = \"192.0.2.10:80\"\n\
         backends = [{ address = \"10.0.0.11\", weight = 0 }, { address = \"10.0.0.12\", weight = 256 }]",
    );
    assert_eq!(web.backends.iter().map(|backend| backend.weight).collect::<Vec<_>>(), [0, 256]);
}

#[test]
fn numbers_have_all_spellings_of_toml() {
    for weight in ["16", "+16", "1_6", "0x10", "0b1_0000", "0o20"] {
        let web = service(&format!(
            "listen = \"192.0.2.10:80\"\nbackends = [{{ address = \"10.0.0.11\", weight = {weight} }}]"
        ));
        assert_eq!(web.backends[0].weight, 16, "{weight}");
    }
}

#[test]
fn further_files_add_tables() {
    let more = |name: &str, port| {
        format!(
            "[[service]]\nname = \"{name}\"\nlisten = \"192.0.2.10:{port}\"\n\
             backends = [\"10.0.0.11\"]\n"
        )
    };
    let config = parse_all(&[BASE, &more("a", 80), &more("b", 81)]).unwrap();
    assert_eq!(config.services.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn a_secret_without_newline_and_a_relative_path_are_fine() {
    for file in ["/etc/pen/bare.key", "good.key"] {
        let config = parse_all(&[&format!("node = {{ secret_file = \"{file}\" }}")]).unwrap();
        assert!(config.node.secret.is_some());
    }
}

#[test]
fn a_transparent_service_on_all_addresses_may_have_servers_of_both_families() {
    let text =
        "listen = \"[::]:80\"\nbackends = [\"10.0.0.11\", \"2001:db8::11\"]\nmode = \"proxy\"\n";
    let transparent =
        |keys: &str| service(&format!("{text}{keys}")).proxy.expect("proxied").transparent;
    assert!(transparent("transparent = true"));
    assert!(!transparent("transparent = false") && !transparent(""));
}

#[test]
fn a_proxied_service_of_udp_may_have_so_many_flows_if_it_does_not_say() {
    let text = "listen = \"192.0.2.10:53\"\nbackends = [\"10.0.0.11\"]\nmode = \"proxy\"\n";
    let most = |keys: &str| {
        let proxy = service(&format!("{text}{keys}")).proxy.expect("proxied");
        (proxy.max_connections, proxy.timeouts.udp)
    };
    assert_eq!(most(""), (None, Duration::from_secs(30)));
    assert_eq!(most("protocol = \"udp\""), (Some(16_384), Duration::from_secs(30)));
    let keys = "protocol = \"udp\"\nmax_connections = 7\ntimeouts = { udp = \"2s\" }";
    assert_eq!(most(keys), (Some(7), Duration::from_secs(2)));
}

#[test]
fn a_proxied_service_leaves_halves_open_and_requests_alone_if_it_does_not_say() {
    let text = "listen = \"192.0.2.10:80\"\nbackends = [\"10.0.0.11\"]\nmode = \"proxy\"\n";
    let read = |keys: &str| {
        let proxy = service(&format!("{text}{keys}")).proxy.expect("proxied");
        (proxy.fast_close, proxy.forwarded_for)
    };
    assert_eq!(read(""), (false, None));
    assert_eq!(
        read("fast_close = false\nforwarded_for = \"replace\""),
        (false, Some(ForwardedFor::Replace))
    );
    assert_eq!(
        read("fast_close = true\nforwarded_for = \"append\""),
        (true, Some(ForwardedFor::Append))
    );
}
