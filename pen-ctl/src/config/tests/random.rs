//! Random input: no text makes a panic, and a valid configuration means what was written.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{FakeSystem, parse_all};
use crate::config::words::Word;
use crate::config::{
    Affinity, Backend, Check, CheckKind, Config, Control, Interface, Judgement, Limits, Listen,
    Memory, Mode, Node, Ports, Protocol, Service, Sizes, Source, Vip, XdpMode, parse,
};

/// Pieces of configurations, so that random texts come close to valid ones.
#[rustfmt::skip]
const PIECES: &[&str] = &[
    "[node]", "[control]", "[[interface]]", "[[vip]]", "[[service]]", "[[pool]]", "[[acl]]", "[web]", "[vip]", "[[carp]]", "[sync]",
    "name", "address", "interface", "listen", "protocol", "mode", "backends", "pool", "check",
    "type", "port", "path", "expect", "headers", "name", "command", "send_hex", "interval", "timeout", "rise", "weight", "secret_file", "allow", "deny", "acl", "echo", "emergency", "socket", "xdp", "vhid", "advbase", "keys", "source", "carp", "peers", "up", "demote_on",
    " = ", "\n", "\n", "[", "]", "{ ", " }", ", ", ".", "\"", "0", "80", "-1", "1.5", "true",
    "99999999999999999999", "0x", "1979-05-27", "\"eth0\"", "\"web\"", "\"192.0.2.10\"",
    "\"192.0.2.10:80\"", "\"[2001:db8::10]:0\"", "\"192.0.2.10:1-99\"", "\"10.0.0.11:80\"", "\"web1.example\"",
    "\"tcp\"", "\"http\"", "\"udp\"", "\"dns\"", "\"exec\"", "\"dsr\"", "\"nat\"", "\"gue\"", "\"1s\"", "\"\"", "\"ä\"", "\u{feff}", "'''", "#", "\r\n", "\0",
];

/// Whatever it is, it must be answered.
fn survive(text: String) {
    let sources = [Source { name: "pen.toml".into(), text }];
    if let Err(errors) = parse(&sources, &FakeSystem::new()) {
        assert!(!errors.is_empty());
        for error in errors {
            assert!(!error.to_string().is_empty());
        }
    }
}

/// A service as a person would write it, its name and VIP given by its number.
#[derive(Clone, Debug)]
struct Draft {
    port: u16,
    protocol: Protocol,
    mode: Mode,
    affinity: Affinity,
    weights: Vec<u32>,
    interval_ms: u64,
    timeout_ms: u64,
    rise: u32,
    explicit: bool,
}

fn draft() -> impl Strategy<Value = Draft> {
    let words = (
        prop::sample::select(vec![Protocol::Tcp, Protocol::Udp]),
        prop::sample::select(vec![Affinity::Client, Affinity::Flow]),
        // A proxy does not take many ports.
        prop::sample::select(
            Mode::ALL
                .iter()
                .map(|(_, mode)| *mode)
                .filter(|mode| *mode != Mode::Proxy)
                .collect::<Vec<_>>(),
        ),
    );
    // The first weight is never 0, so that not all are.
    let weights = (1..=256_u32, vec(0..=256_u32, 0..5));
    let numbers = (any::<u16>(), 10..3_600_000_u64, 1..=10_u64, 1..=100_u32, any::<bool>());
    (words, weights, numbers).prop_map(|((protocol, affinity, mode), (first, rest), numbers)| {
        let (port, interval_ms, timeout_ms, rise, explicit) = numbers;
        let weights = [vec![first], rest].concat();
        Draft { port, protocol, mode, affinity, weights, interval_ms, timeout_ms, rise, explicit }
    })
}

fn vip(number: usize) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, u8::try_from(number + 1).unwrap()).into()
}

fn backend_address(number: usize) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, u8::try_from(number + 1).unwrap()).into()
}

impl Draft {
    fn text(&self, number: usize) -> String {
        let Self { port, protocol, mode, affinity, interval_ms, timeout_ms, rise, .. } = self;
        let backends: Vec<_> = self
            .weights
            .iter()
            .enumerate()
            .map(|(i, weight)| {
                let address = backend_address(i);
                let port = if self.explicit { format!(":{port}") } else { String::new() };
                format!("{{ address = \"{address}{port}\", weight = {weight} }}")
            })
            .collect();
        let protocol = match (protocol, self.explicit) {
            (Protocol::Tcp, false) => String::new(),
            _ => format!("protocol = \"{protocol}\""),
        };
        format!(
            "[[vip]]\naddress = \"{}\"\ninterface = \"eth0\"\n[[service]]\nname = \"s{number}\"\n\
             listen = \"{}:{port}\"\n{protocol}\nmode = \"{mode}\"\naffinity = \"{affinity}\"\nbackends = [{}]\n\
             check = {{ interval = \"{interval_ms}ms\", timeout = \"{timeout_ms}ms\", rise = {rise} }}\n",
            vip(number),
            vip(number),
            backends.join(", "),
        )
    }

    fn service(&self, number: usize) -> Service {
        let backend = |(i, weight): (usize, &u32)| {
            let address = backend_address(i);
            let name = match self.explicit {
                true => format!("{address}:{}", self.port),
                false => address.to_string(),
            };
            let limits = Limits::default();
            Backend { name, address, port: self.port, socket: None, weight: *weight, limits }
        };
        let kind = match (self.protocol, self.port) {
            (Protocol::Udp, _) | (_, 0) => CheckKind::None,
            (Protocol::Tcp, _) => CheckKind::Tcp,
        };
        Service {
            name: format!("s{number}"),
            listen: Listen { address: vip(number), ports: Ports::one(self.port) },
            protocol: self.protocol,
            mode: self.mode,
            source: None,
            affinity: self.affinity,
            memory: Memory::of(self.protocol),
            backends: self.weights.iter().enumerate().map(backend).collect(),
            emergency: None,
            names: Vec::new(),
            stubborn: false,
            judgement: Judgement::usual(),
            proxy: None,
            check: Check {
                kind,
                tunnel: matches!(self.mode, Mode::Ipip | Mode::Gue),
                port: None,
                interval: Duration::from_millis(self.interval_ms),
                fast_interval: Duration::from_millis(self.interval_ms),
                down_interval: Duration::from_millis(self.interval_ms),
                timeout: Duration::from_millis(self.timeout_ms),
                rise: self.rise,
                fall: 3,
                init: crate::config::Init::First,
                jitter: 0,
                agent: None,
                address: None,
            },
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..200)) {
        survive(String::from_utf8_lossy(&bytes).into_owned());
    }

    #[test]
    fn random_text_does_no_harm(text in "\\PC{0,200}") {
        survive(text);
    }

    #[test]
    fn random_pieces_of_configurations_do_no_harm(
        pieces in vec(prop::sample::select(PIECES.to_vec()), 0..60),
    ) {
        survive(pieces.concat());
    }

    #[test]
    fn random_values_of_known_keys_do_no_harm(
        values in vec((prop::sample::select(PIECES.to_vec()), prop::sample::select(PIECES.to_vec())), 0..12),
        table in prop::sample::select(vec!["[node]", "[[vip]]", "[[service]]", "[[pool]]", "[[acl]]", "[[carp]]", "[sync]"]),
    ) {
        let lines = values.iter().map(|(key, value)| format!("{key} = {value}\n"));
        survive(format!("{table}\n{}", lines.collect::<String>()));
    }

    #[test]
    fn a_valid_configuration_means_what_was_written(
        drafts in vec(draft(), 0..8),
        // A VIP on an interface without XDP is an error of its own.
        xdp in prop::sample::select(XdpMode::ALL.to_vec())
            .prop_filter("not off", |(_, mode)| *mode != XdpMode::Off),
    ) {
        let (xdp_word, xdp) = xdp;
        let services: String =
            drafts.iter().enumerate().map(|(number, draft)| draft.text(number)).collect();
        let text = format!("[[interface]]\nname = \"eth0\"\nxdp = \"{xdp_word}\"\n{services}");
        let interface = "eth0".to_owned();
        let expected = Config {
            notify: vec![],
            access_log: None,
            responder: None,
            node: Node {
                name: "edge1".to_owned(),
                secret: None,
                masquerade_ports: Ports { first: 10240, last: 32767 },
                sizes: Sizes::default(),
                drain_at_exit: None,
                resolvers: Vec::new(),
            },
            interfaces: vec![Interface { name: interface.clone(), xdp }],
            control: Control { socket: "/run/pen/pend.sock".into() },
            acls: vec![],
            carp: vec![],
            sync: None,
            vips: (0..drafts.len())
                .map(|number| Vip {
                    address: vip(number),
                    interface: interface.clone(),
                    carp: None,
                    echo: false,
                    acl: None,
                    syn_rate: None,
                })
                .collect(),
            services: drafts.iter().enumerate().map(|(n, draft)| draft.service(n)).collect(),
        };
        prop_assert_eq!(parse_all(&[&text]), Ok(expected));
    }
}
