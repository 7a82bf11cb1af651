//! What can be wrong with services, their backends and their checks. In a snippet of `web!` the
//! text behind the address is line 4.

use super::errors::Case;

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
    // listen
    Case(web!("192.0.2.10", r#"backends = ["10.0.0.11"]"#), &[
        r#"3:10: `192.0.2.10` is no address and port; write "192.0.2.10:80" or "[2001:db8::10]:80", for several ports "192.0.2.10:8000-8010", with port 0 for any port; a proxy also takes "unix:/run/app.sock""#,
    ]),
    Case(web!("192.0.2.10:65536", r#"backends = ["10.0.0.11"]"#), &[
        r#"3:10: `192.0.2.10:65536` is no address and port; write "192.0.2.10:80" or "[2001:db8::10]:80", for several ports "192.0.2.10:8000-8010", with port 0 for any port; a proxy also takes "unix:/run/app.sock""#,
    ]),
    Case(web!("2001:db8::10:80", r#"backends = ["10.0.0.11"]"#), &[
        r#"3:10: `2001:db8::10:80` is no address and port; write "192.0.2.10:80" or "[2001:db8::10]:80", for several ports "192.0.2.10:8000-8010", with port 0 for any port; a proxy also takes "unix:/run/app.sock""#,
    ]),
    Case(web!("[fe80::1%2]:80", r#"backends = ["10.0.0.11"]"#), &[
        r#"3:10: `[fe80::1%2]:80` is no address and port; write "192.0.2.10:80" or "[2001:db8::10]:80", for several ports "192.0.2.10:8000-8010", with port 0 for any port; a proxy also takes "unix:/run/app.sock""#,
    ]),
    Case(web!("web:80", r#"backends = ["10.0.0.11"]"#), &[
        r#"3:10: `web:80` is no address and port; write "192.0.2.10:80" or "[2001:db8::10]:80", for several ports "192.0.2.10:8000-8010", with port 0 for any port; a proxy also takes "unix:/run/app.sock""#,
    ]),
    Case(web!("192.0.2.11:80", r#"backends = ["10.0.0.11"]"#), &[
        r#"3:10: no `[[vip]]` declares 192.0.2.11 (declared: 192.0.2.10, 2001:db8::10); add `[[vip]]` with `address = "192.0.2.11"` and `interface = ...`"#,
    ]),
    Case(web!("127.0.0.1:80", r#"backends = ["10.0.0.11"]"#), &[
        "3:10: 127.0.0.1 is a loopback address; use an address of one host on a network",
    ]),
    Case(r#"[[service]]
name = "web"
listen = "192.0.2.10:80"
backends = ["10.0.0.11"]
[[service]]
name = "b"
listen = "[::ffff:192.0.2.10]:80"
protocol = "tcp"
backends = ["10.0.0.11"]"#, &[
        "7:10: listen `192.0.2.10:80 tcp` is given twice, also at /etc/pen/0.toml:3:10; remove or change one",
    ]),
    // checks through the tunnel
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { tunnel = true }"#), &[
        "5:9: mode dsr has no tunnel that a check could go through; remove `tunnel`, or use mode ipip or gue",
    ]),
    // memory
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
slots = 1000"#), &[
        "5:9: a table cannot have 1000 slots; use one of 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
settle = "1ms"
affinity_ttl = 5
affinity_prefix_v4 = 33
affinity_prefix_v6 = 0"#), &[
        "5:10: `settle` is 1ms; use 1s to 1day",
        r#"6:16: `affinity_ttl` lacks a unit; write "5ms" or "5s", with the quotes"#,
        "7:22: `affinity_prefix_v4` is 33; use 1 to 32",
        "8:22: `affinity_prefix_v6` is 0; use 1 to 128",
    ]),
    Case(web!("192.0.2.10:8010-8000", r#"backends = ["10.0.0.11"]"#), &[
        r#"3:10: `192.0.2.10:8010-8000` is no address and port; write "192.0.2.10:80" or "[2001:db8::10]:80", for several ports "192.0.2.10:8000-8010", with port 0 for any port; a proxy also takes "unix:/run/app.sock""#,
    ]),
    Case(web!("192.0.2.10:0-80", r#"backends = ["10.0.0.11"]"#), &[
        r#"3:10: `192.0.2.10:0-80` is no address and port; write "192.0.2.10:80" or "[2001:db8::10]:80", for several ports "192.0.2.10:8000-8010", with port 0 for any port; a proxy also takes "unix:/run/app.sock""#,
    ]),
    Case(r#"[[service]]
name = "a"
listen = "192.0.2.10:8000-8010"
backends = ["10.0.0.11"]
[[service]]
name = "b"
listen = "192.0.2.10:8010-8020"
backends = ["10.0.0.11"]
[[service]]
name = "c"
listen = "192.0.2.10:8005"
backends = ["10.0.0.11"]
[[service]]
name = "d"
listen = "192.0.2.10:7000-9000"
backends = ["10.0.0.11"]
[[service]]
name = "e"
listen = "192.0.2.10:8000-8010"
backends = ["10.0.0.11"]"#, &[
        "7:10: `192.0.2.10:8010-8020 tcp` shares a port with `192.0.2.10:8000-8010 tcp`, at /etc/pen/0.toml:3:10; remove it from one of the two",
        "11:10: `192.0.2.10:8005 tcp` shares a port with `192.0.2.10:8000-8010 tcp`, at /etc/pen/0.toml:3:10; remove it from one of the two",
        "15:10: `192.0.2.10:7000-9000 tcp` shares a port with `192.0.2.10:8000-8010 tcp`, at /etc/pen/0.toml:3:10; remove it from one of the two",
        "19:10: listen `192.0.2.10:8000-8010 tcp` is given twice, also at /etc/pen/0.toml:3:10; remove or change one",
    ]),
    Case(web!("[2001:db8::10]:8000-8010", r#"mode = "nat"
backends = ["[2001:db8::11]:8000"]
check = { type = "tcp" }"#), &[
        "5:13: the service on [2001:db8::10]:8000-8010 has many ports, of which a packet keeps its own, so that port 8000 of a backend says nothing; leave it out",
        "6:9: the service has many ports, so that the check does not know which to try; add `port = ...`",
    ]),
    // where backends come from
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
pool = "p""#), &[
        "1:1: a service has either `backends` or `pool`; remove one of the two",
    ]),
    Case(web!("192.0.2.10:80", ""), &[
        "1:1: the service has no backends; add `backends = [...]` or `pool = ...`",
    ]),
    Case(web!("192.0.2.10:80", "backends = []"), &[
        r#"4:12: `backends` is empty; add at least one, such as "10.0.0.11:80""#,
    ]),
    Case(r#"[[service]]
name = "web"
listen = "192.0.2.10:80"
pool = "web"
[[pool]]
name = "wbe"
backends = ["10.0.0.11"]"#, &[
        "4:8: no `[[pool]]` is called `web`; did you mean `wbe`?",
    ]),
    Case(web!("192.0.2.10:80", r#"pool = "p""#), &[
        r#"4:8: no `[[pool]]` is called `p`; add `[[pool]]` with `name = "p"` and `backends`"#,
    ]),
    Case(r#"[[pool]]
name = "p""#, &[
        r#"1:1: [[pool]] lacks `backends`; add `backends = ["10.0.0.11:80"]`"#,
    ]),
    // backends
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.300:80"]"#), &[
        r#"4:13: `10.0.0.300:80` is no address of a backend; write "10.0.0.11:80", "[2001:db8::11]:80" or "host.example:80", the port may be left out"#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11:http"]"#), &[
        r#"4:13: `10.0.0.11:http` is no address of a backend; write "10.0.0.11:80", "[2001:db8::11]:80" or "host.example:80", the port may be left out"#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["-web.example"]"#), &[
        r#"4:13: `-web.example` is no address of a backend; write "10.0.0.11:80", "[2001:db8::11]:80" or "host.example:80", the port may be left out"#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11:80:80"]"#), &[
        r#"4:13: `10.0.0.11:80:80` is no address of a backend; write "10.0.0.11:80", "[2001:db8::11]:80" or "host.example:80", the port may be left out"#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = [""]"#), &[
        r#"4:13: `` is no address of a backend; write "10.0.0.11:80", "[2001:db8::11]:80" or "host.example:80", the port may be left out"#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["127.0.0.1", "a b", "10.0.0.12:81"]"#), &[
        "4:13: 127.0.0.1 is a loopback address; use an address of one host on a network",
        r#"4:26: `a b` is no address of a backend; write "10.0.0.11:80", "[2001:db8::11]:80" or "host.example:80", the port may be left out"#,
        "4:33: port 81 differs from that of the service on 192.0.2.10:80, and in mode `dsr` a backend gets packets unchanged; write 80 or leave it out, or use mode `nat` or `masquerade`",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = [{ host = "a b" }, { srv = "a/b" }, { host = "a.example", srv = "b.example" }, { address = "10.0.0.1", port = 80 }, { srv = "b.example", weight = 2 }, { srv = "c.example" }]"#), &[
        r#"4:22: `a b` is no name of a host; write one like "app.example""#,
        r#"4:39: `a/b` is no name of a host; write one like "_http._tcp.app.example""#,
        "4:76: a backend has one of `address`, `host` and `srv`; remove the others, or make them backends of their own",
        "4:122: `port` has no effect without `host = \"app.example\"`; remove it, or add that",
        "4:158: `weight` has no effect without `address` or `host` instead of `srv`; remove it, or add that",
        "4:171: a record SRV says the port, and the service on 192.0.2.10:80 in mode `dsr` leaves ports as they are; use `host`, or one port and mode `nat`, `masquerade` or `proxy`",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
emergency = "app.example""#), &[
        "5:13: `app.example` is a name, which may be several servers, and here is room for one; write its address",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["app.example"]
track = "web""#), &[
        "5:9: which servers a name stands for changes, so that the service that it tracks might not have them; remove `track`, or write addresses",
    ]),
    Case(r#"[node]
resolvers = ["ns.example", "10.0.0.53"]"#, &[
        r#"2:14: `ns.example` is no address of a name server; write one like "10.0.0.53" or "[2001:db8::53]:53""#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["2001:db8::11"]"#), &[
        "4:13: the backend 2001:db8::11 is IPv6, but the VIP 192.0.2.10 is IPv4, and mode `dsr` does not translate between them; use backends and a VIP of one family, or mode `ipip` or `gue`",
    ]),
    Case(web!("[2001:db8::10]:80", r#"backends = ["10.0.0.11"]"#), &[
        "4:13: the backend 10.0.0.11 is IPv4, but the VIP 2001:db8::10 is IPv6, and mode `dsr` does not translate between them; use backends and a VIP of one family, or mode `ipip` or `gue`",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11:8080"]"#), &[
        "4:13: port 8080 differs from that of the service on 192.0.2.10:80, and in mode `dsr` a backend gets packets unchanged; write 80 or leave it out, or use mode `nat` or `masquerade`",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["192.0.2.10"]"#), &[
        "4:13: the backend 192.0.2.10 is a VIP, at /etc/pen/0.toml:9:11, which would be a loop; write the backend's own address",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11", "10.0.0.11:80"]"#), &[
        "4:26: backend `10.0.0.11` is given twice, also at /etc/pen/0.toml:4:13; remove or change one",
    ]),
    Case(web!("192.0.2.10:0", r#"mode = "nat"
backends = ["10.0.0.11:81"]"#), &[
        "5:13: the service on 192.0.2.10:0 has many ports, of which a packet keeps its own, so that port 81 of a backend says nothing; leave it out",
    ]),
    Case(web!("192.0.2.10:80", r#"mode = "masquerade"
backends = ["10.0.0.11:81", "10.0.0.11:82", "10.0.0.11:81"]"#), &[
        "5:45: backend `10.0.0.11:81` is given twice, also at /etc/pen/0.toml:5:13; remove or change one",
    ]),
    Case(web!("192.0.2.10:80", r#"mode = "gue"
backends = ["10.0.0.11", "2001:db8::11", "10.0.0.11"]"#), &[
        "5:42: backend `10.0.0.11` is given twice, also at /etc/pen/0.toml:5:13; remove or change one",
    ]),
    Case(web!("192.0.2.10:80", r#"mode = "nat"
backends = ["2001:db8::11"]"#), &[
        "5:13: the backend 2001:db8::11 is IPv6, but the VIP 192.0.2.10 is IPv4, and mode `nat` does not translate between them; use backends and a VIP of one family, or mode `ipip` or `gue`",
    ]),
    Case(web!("192.0.2.10:80", r#"mode = "ipip"
backends = ["10.0.0.11:8080"]"#), &[
        "5:13: port 8080 differs from that of the service on 192.0.2.10:80, and in mode `ipip` a backend gets packets unchanged; write 80 or leave it out, or use mode `nat` or `masquerade`",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = [{ address = "10.0.0.11", name = "a" }, { address = "10.0.0.12", name = "a" }]"#), &[
        "4:84: backend name `a` is given twice, also at /etc/pen/0.toml:4:45; remove or change one",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = [{ address = "10.0.0.11", weight = 257 }, { address = "10.0.0.12", weight = -1 }, { address = "10.0.0.13", weight = 99999999999999999999 }]"#), &[
        "4:47: `weight` is 257; use 0 to 256",
        "4:88: `weight` is -1; use 0 to 256",
        "4:128: `weight` is 99999999999999999999; use 0 to 256",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = [{ address = "10.0.0.11", weight = 0 }]"#), &[
        "4:12: all backends have weight 0 and take nothing; raise one weight",
    ]),
    Case(r#"[[pool]]
name = "p"
backends = ["10.0.0.11:80", "10.0.0.12:81"]
[[service]]
name = "web"
listen = "192.0.2.10:80"
pool = "p"
[[service]]
name = "b"
listen = "192.0.2.10:80"
protocol = "udp"
pool = "p""#, &[
        "3:29: port 81 differs from that of the service on 192.0.2.10:80, and in mode `dsr` a backend gets packets unchanged; write 80 or leave it out, or use mode `nat` or `masquerade`",
    ]),
    // emergency
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
emergency = "10.0.0.11:80"
stubborn = 1"#), &[
        "5:13: backend `10.0.0.11` is given twice, also at /etc/pen/0.toml:4:13; remove or change one",
        "6:12: expected true or false, found an integer",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
emergency = { address = "10.0.0.12", weight = 2 }"#), &[
        "5:38: unknown key `weight`; valid keys of `emergency`: address, name",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
emergency = "10.0.0.12:81""#), &[
        "5:13: port 81 differs from that of the service on 192.0.2.10:80, and in mode `dsr` a backend gets packets unchanged; write 80 or leave it out, or use mode `nat` or `masquerade`",
    ]),
    // checks
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { interval = 1, timeout = 0.5 }"#), &[
        r#"5:22: `interval` lacks a unit; write "1ms" or "1s", with the quotes"#,
        r#"5:35: `timeout` lacks a unit; write "0.5ms" or "0.5s", with the quotes"#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { interval = "500", timeout = "soon" }"#), &[
        r#"5:22: `interval` is no duration: `500`; write one like "500ms" or "1s""#,
        r#"5:39: `timeout` is no duration: `soon`; write one like "500ms" or "1s""#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { interval = "1ms", timeout = "2h" }"#), &[
        "5:22: `interval` is 1ms; use 10ms to 1h",
        "5:39: `timeout` is 2h; use 1ms to 1h",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { interval = true }"#), &[
        r#"5:22: expected a duration such as "1s", found a boolean"#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { timeout = "2s" }"#), &[
        "5:21: the timeout 2s is above the interval 1s; lower the timeout or raise the interval",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { rise = 0, fall = 101, port = 0 }"#), &[
        "5:18: `rise` is 0; use 1 to 100",
        "5:28: `fall` is 101; use 1 to 100",
        "5:40: `port` is 0; use 1 to 65535",
    ]),
    Case(web!("192.0.2.10:0", r#"backends = ["10.0.0.11"]
check = { type = "tcp" }"#), &[
        "5:9: the service has many ports, so that the check does not know which to try; add `port = ...`",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { kind = "tcp" }"#), &[
        "5:11: unknown key `kind`; valid keys of `check`: type, agent, init, interval, fast_interval, down_interval, jitter, timeout, rise, fall, address, port, tunnel, expect, ca, certificate, expires_in, server_name, verify, tls, host, method, path, headers, body, body_regex, version, service, send, send_hex, expect_regex, expect_hex, name, record, rcode, answer, transport, hello, command, user",
    ]),
    // one error is reported once
    Case(r#"[[interface]]
name = 5
[[vip]]
address = "192.0.2.11"
interface = "lan""#, &[
        "2:8: expected a string in quotes, found an integer",
    ]),
    Case(r#"[[vip]]
address = "192.0.2.256"
interface = "eth0"
[[service]]
name = "web"
listen = "192.0.2.25:80"
backends = ["10.0.0.11"]"#, &[
        r#"2:11: `192.0.2.256` is no IP address; write one like "192.0.2.10" or "2001:db8::10""#,
    ]),
    Case(r#"[[pool]]
name = 5
backends = ["10.0.0.11"]
[[service]]
name = "web"
listen = "192.0.2.10:80"
pool = "p""#, &[
        "2:8: expected a string in quotes, found an integer",
    ]),
    Case(r#"[[pool]]
name = "p"
backends = [5]
[[service]]
name = "web"
listen = "192.0.2.10:80"
pool = "p""#, &[
        r#"3:13: expected a backend, written "10.0.0.11:80" or `{ address = "10.0.0.11:80" }`, found an integer"#,
    ]),
    Case(r#"[[service]]
name = "web"
listen = "192.0.2.10:80"
backends = ["10.0.0.11"]
protocol = "upd"
[[service]]
name = "b"
listen = "192.0.2.10:80"
backends = ["10.0.0.11"]"#, &[
        "5:12: unknown protocol `upd`; did you mean `udp`?",
    ]),
    // judgement
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
panic_threshold = 101
quorum = 2
max_ejected = 101
slow_start = "2h""#), &[
        "5:19: `panic_threshold` is 101; use 1 to 100",
        "7:15: `max_ejected` is 101; use 0 to 100",
        "8:14: `slow_start` is 2h; use 0s to 1h",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
quorum = 2"#), &[
        "5:10: `quorum` is 2; use 1 to 1",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
panic = "fail_closed""#), &[
        "5:9: `panic` has no effect without `panic_threshold = 50`; remove it, or add that",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
panic_threshold = 50
panic = "emergency""#), &[
        r#"6:9: `panic` has no effect without `emergency = "10.0.0.99:80"`; remove it, or add that"#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
eject = "10s""#), &[
        "5:9: `eject` has no effect without `mode = \"nat\"`, `\"masquerade\"` or `\"proxy\"`, in which answers are seen; remove it, or add that",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
mode = "nat"
eject_max = "10s""#), &[
        "6:13: `eject_max` has no effect without `eject = \"10s\"`; remove it, or add that",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
mode = "masquerade"
eject = "25h"
eject_resets = 3"#), &[
        "6:9: `eject` is 25h; use 0s to 1day",
        "7:16: `eject_resets` needs a proxy, and mode `masquerade` leaves connections alone; remove it, or use `mode = \"proxy\"`",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
quorum_hysteresis = 1"#), &[
        "5:21: `quorum_hysteresis` has no effect without `quorum = 2`; remove it, or add that",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { type = "tcp" }
track = "web""#), &[
        "5:9: `check` beside `track`: the checks are the other service's; keep one of the two",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
track = "wep""#), &[
        "5:9: no `[[service]]` is called `wep`; did you mean `web`?",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
track = "web""#), &[
        "5:9: service `web` tracks another one itself; name the one that has the check",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
[[service]]
name = "https"
listen = "192.0.2.10:443"
backends = ["10.0.0.12"]
track = "web""#), &[
        "9:9: service `web` has no backend at the address of `10.0.0.12`; add it there, or give this service a check of its own",
    ]),
];
