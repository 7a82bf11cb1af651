//! What can be wrong outside of services: TOML, keys and types, names, the node, interfaces, VIPs.
//! Line 1 is the first line of the snippet.

use super::errors::Case;

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
    // TOML
    Case(r#"x =
y = "abc
[[service"#, &[
        "1:4: not valid TOML; string values must be quoted, expected literal string",
        r#"2:9: not valid TOML; invalid basic string, expected `"`"#,
        "3:10: not valid TOML; unclosed array table, expected `]]`",
    ]),
    Case("node = web", &[
        "1:8: not valid TOML; string values must be quoted, expected literal string",
    ]),
    Case(r#"[node]
name = "a"
name = "b"
[node]"#, &[
        "3:1: `name` is given twice in this file; keep one of the two",
        "4:2: `node` is given twice in this file; keep one of the two",
    ]),
    Case(r#"[node]
name = "a"
[node]"#, &[
        "3:2: `node` is given twice in this file; keep one of the two",
    ]),
    // keys and types
    Case(r#"[[vip]]
adress = "192.0.2.11"
interface = "eth0""#, &[
        "2:1: unknown key `adress`; did you mean `address`?",
    ]),
    Case(r#"[node]
colour = "red""#, &[
        "2:1: unknown key `colour`; valid keys of [node]: name, secret_file, masquerade_ports, flows, clients, translations, drain_at_exit, resolvers",
    ]),
    Case(web!("192.0.2.10:80", r#"bakends = ["10.0.0.11"]"#), &[
        "4:1: unknown key `bakends`; did you mean `backends`?",
    ]),
    Case(web!("192.0.2.10:80", r#"pol = "web""#), &[
        "4:1: unknown key `pol`; did you mean `pool`?",
    ]),
    Case("[[servce]]", &[
        "1:3: unknown key `servce`; did you mean `service`?",
    ]),
    Case("[node]
name = 5
[control]
socket = true", &[
        "2:8: expected a string in quotes, found an integer",
        "4:10: expected a string in quotes, found a boolean",
    ]),
    Case(r#"[[node]]
name = "a""#, &[
        "1:1: expected a table, written `[node]`, found an array",
    ]),
    Case(r#"[pool]
name = "a""#, &[
        "1:1: expected an array of tables, written `[[pool]]`, found a table",
    ]),
    Case(r#"node = "edge1"
pool = ["a", {}]"#, &[
        "1:8: expected a table, written `[node]`, found a string",
        "2:9: expected an array of tables, written `[[pool]]`, found a string",
        r#"2:14: [[pool]] lacks `backends`; add `backends = ["10.0.0.11:80"]`"#,
        r#"2:14: [[pool]] lacks `name`; add `name = "web"`"#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = "10.0.0.11"
check = "tcp""#), &[
        "4:12: expected an array, written `[...]`, found a string",
        "5:9: expected a table, written `{ key = value, ... }`, found a string",
    ]),
    Case(web!("192.0.2.10:80", "backends = [1.5, 1979-05-27, []]"), &[
        r#"4:13: expected a backend, written "10.0.0.11:80" or `{ address = "10.0.0.11:80" }`, found a float"#,
        r#"4:18: expected a backend, written "10.0.0.11:80" or `{ address = "10.0.0.11:80" }`, found a date or time"#,
        r#"4:30: expected a backend, written "10.0.0.11:80" or `{ address = "10.0.0.11:80" }`, found an array"#,
    ]),
    Case(r#"[[service]]
backends = ["10.0.0.11"]"#, &[
        r#"1:1: [[service]] lacks `name`; add `name = "web"`"#,
        r#"1:1: [[service]] lacks `listen`; add `listen = "192.0.2.10:80"`"#,
    ]),
    Case("[[vip]]
[[interface]]
[[pool]]", &[
        r#"1:1: [[vip]] lacks `address`; add `address = "192.0.2.10"`"#,
        r#"1:1: [[vip]] lacks `interface`; add `interface = "eth0"`"#,
        r#"2:1: [[interface]] lacks `name`; add `name = "eth0"`"#,
        r#"3:1: [[pool]] lacks `backends`; add `backends = ["10.0.0.11:80"]`"#,
        r#"3:1: [[pool]] lacks `name`; add `name = "web"`"#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = [{ name = "a" }]"#), &[
        r#"4:13: a backend lacks `address`; add `address = "10.0.0.11:80"`"#,
    ]),
    // not built
    Case(r#"[web]
listen = "127.0.0.1:9118""#, &[
        "1:2: `web` is not built into this version of pen; remove it; `penctl` shows state and counters",
    ]),
    Case(r#"[access_log]
file = "access.log"
format = "xml"
[access_log]"#, &[
        "4:2: `access_log` is given twice in this file; keep one of the two",
    ]),
    Case(r#"[access_log]
file = "access.log"
format = "xml""#, &[
        "2:8: `access.log` does not begin with `/`; write the whole path",
        "3:10: unknown format `xml`; use one of: text, json",
    ]),
    Case(r#"[responder]
listen = ["0.0.0.0:80", "[::]:80", "0.0.0.0:80"]
webroot = "acme"
https_port = 0
port = 80"#, &[
        "2:36: address `0.0.0.0:80` is given twice, also at /etc/pen/0.toml:2:11; remove or change one",
        "3:11: `acme` does not begin with `/`; write the whole path",
        "4:14: `https_port` is 0; use 1 to 65535",
        "5:1: unknown key `port`; valid keys of [responder]: listen, https_port, webroot",
    ]),
    Case(r#"[responder]
listen = ["site.example:80", "192.0.2.1:0"]"#, &[
        "2:11: `site.example:80` is no address of a node with a port; write one like \"192.0.2.2:7077\" or \"[2001:db8::2]:7077\"",
        "2:30: `192.0.2.1:0` is no address of a node with a port; write one like \"192.0.2.2:7077\" or \"[2001:db8::2]:7077\"",
    ]),
    Case("[responder]\nlisten = []", &[
        "1:1: [responder] lacks `listen`; add `listen = [\"0.0.0.0:80\", \"[::]:80\"]`",
    ]),
    // what only proxies have
    Case(web!("192.0.2.10:80", r#"backends = [{ address = "10.0.0.11", max_connections = 500 }]
scheduler = "leastconn"
timeouts = { connect = "1s" }
queue = 5"#), &[
        r#"4:56: `max_connections` needs a proxy, and mode `dsr` leaves connections alone; remove it, or use `mode = "proxy"`"#,
        r#"5:13: `scheduler` needs a proxy, and mode `dsr` leaves connections alone; remove it, or use `mode = "proxy"`"#,
        r#"6:12: `timeouts` needs a proxy, and mode `dsr` leaves connections alone; remove it, or use `mode = "proxy"`"#,
        r#"7:9: `queue` needs a proxy, and mode `dsr` leaves connections alone; remove it, or use `mode = "proxy"`"#,
    ]),
    Case(web!("192.0.2.10:53", r#"backends = ["10.0.0.11"]
protocol = "udp"
mode = "proxy"
queue = 5
send_proxy = "v2"
fast_close = true
forwarded_for = "append"
timeouts = { udp = "5s", half_closed = "1s" }"#), &[
        r#"7:9: `queue` has no effect without `protocol = "tcp"`; remove it, or add that"#,
        r#"8:14: `send_proxy` has no effect without `protocol = "tcp"`; remove it, or add that"#,
        r#"9:14: `fast_close` has no effect without `protocol = "tcp"`; remove it, or add that"#,
        r#"10:17: `forwarded_for` has no effect without `protocol = "tcp"`; remove it, or add that"#,
        r#"11:40: `half_closed` has no effect without `protocol = "tcp"`; remove it, or add that"#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11", "2001:db8::11"]
mode = "proxy"
transparent = true"#), &[
        r#"6:15: the backend 2001:db8::11 is IPv6, and cannot see the address of a client of 192.0.2.10, which is IPv4; remove `transparent`, or use servers of that family"#,
    ]),
    Case(web!("[2001:db8::10]:53", r#"backends = ["2001:db8::11"]
mode = "proxy"
protocol = "udp"
abuse = "10.0.0.13:9"
transparent = true"#), &[
        r#"8:15: the backend 10.0.0.13 is IPv4, and cannot see the address of a client of 2001:db8::10, which is IPv6; remove `transparent`, or use servers of that family"#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
transparent = true"#), &[
        r#"5:15: `transparent` needs a proxy, and mode `dsr` leaves connections alone; remove it, or use `mode = "proxy"`"#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
mode = "proxy"
transparent = "yes""#), &[
        r#"6:15: expected true or false, found a string"#,
    ]),
    Case(web!("192.0.2.10:53", r#"backends = ["10.0.0.11"]
mode = "proxy"
timeouts = { udp = "5s" }"#), &[
        r#"6:20: `udp` has no effect without `protocol = "udp"`; remove it, or add that"#,
    ]),
    Case(web!("192.0.2.10:80-81", r#"mode = "proxy"
backends = [{ address = "10.0.0.11", max_known = 5 }, { address = "10.0.0.12", max_connections = 6, max_known = 5 }]
timeouts = { connect = "1ms", clinet = "1s" }
acl = "office"
accept_proxy = "edge"
send_proxy = "v3"
abuse = { address = "10.0.0.13", weight = 1 }
scheduler = "fastest"
fast_close = 1
forwarded_for = "add""#), &[
        r#"3:10: a proxy listens on one port, not on 192.0.2.10:80-81; write a service for each port"#,
        r#"5:50: `max_known` 5 says nothing without a limit for all; add `max_connections`"#,
        r#"5:113: `max_known` 5 is below `max_connections` 6, which holds for all; raise it"#,
        r#"6:24: `connect` is 1ms; use 10ms to 1day"#,
        r#"6:31: unknown key `clinet`; did you mean `client`?"#,
        r#"7:7: no `[[acl]]` is called `office`; add `[[acl]]` with `name = "office"` and `deny` or `allow`"#,
        r#"8:16: no `[[acl]]` is called `edge`; add `[[acl]]` with `name = "edge"` and `deny` or `allow`"#,
        r#"9:14: unknown send_proxy `v3`; did you mean `v1`?"#,
        r#"10:34: unknown key `weight`; valid keys of `abuse`: address, name"#,
        r#"11:13: unknown scheduler `fastest`; use one of: maglev, roundrobin, leastconn, random, weight, prio, hash"#,
        r#"12:14: expected true or false, found an integer"#,
        r#"13:17: unknown forwarded_for `add`; use one of: replace, append"#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { type = "https" }"#), &[
        r#"5:18: `type = "https"` is not built into this version of pen; use `type = "http", tls = true`"#,
    ]),
    // words
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
protocol = "tpc"
affinity = "source"
mode = "Dsr""#), &[
        "5:12: unknown protocol `tpc`; did you mean `tcp`?",
        "6:12: unknown affinity `source`; use one of: client, flow",
        "7:8: unknown mode `Dsr`; did you mean `dsr`?",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
scheduler = "wrr""#), &[
        "5:13: unknown scheduler `wrr`; use one of: maglev, roundrobin, leastconn, random, weight, prio, hash",
    ]),
    Case(r#"[[interface]]
name = "eth1"
xdp = "fast""#, &[
        "3:7: unknown xdp `fast`; use one of: auto, native, generic, off",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11"]
check = { type = "ping" }"#), &[
        "5:18: unknown type `ping`; use one of: tcp, tls, http, grpc, udp, dns, smtp, icmp, exec, none",
    ]),
    // names
    Case(r#"[node]
name = "edge 1""#, &[
        "2:8: `edge 1` is no valid name; use 1 to 64 letters, digits and characters of `._:-`",
    ]),
    Case(r#"[[service]]
name = "a/b"
listen = "192.0.2.10:80"
backends = ["10.0.0.11"]"#, &[
        "2:8: `a/b` is no valid name; use 1 to 64 letters, digits and characters of `._:-`",
    ]),
    Case(r#"[[pool]]
name = ""
backends = ["10.0.0.11"]"#, &[
        "2:8: `` is no valid name; use 1 to 64 letters, digits and characters of `._:-`",
    ]),
    Case(web!("192.0.2.10:80", r#"backends = [{ address = "10.0.0.11", name = "ä" }]"#), &[
        "4:45: `ä` is no valid name; use 1 to 64 letters, digits and characters of `._:-`",
    ]),
    Case(r#"[[pool]]
name = "p"
backends = ["10.0.0.11"]
[[pool]]
name = "p"
backends = ["10.0.0.11"]"#, &[
        "5:8: pool `p` is given twice, also at /etc/pen/0.toml:2:8; remove or change one",
    ]),
    Case(r#"[[service]]
name = "web"
listen = "192.0.2.10:80"
backends = ["10.0.0.11"]
[[service]]
name = "web"
listen = "192.0.2.10:81"
backends = ["10.0.0.11"]"#, &[
        "6:8: service `web` is given twice, also at /etc/pen/0.toml:2:8; remove or change one",
    ]),
    // secret
    Case(r#"[node]
secret_file = "/etc/pen/none.key""#, &[
        "2:15: the secret /etc/pen/none.key cannot be read (entity not found); correct the path, or make it with `openssl rand -hex 16 > /etc/pen/none.key` and `chmod 600 /etc/pen/none.key`",
    ]),
    Case(r#"[node]
secret_file = "/etc/pen/folder""#, &[
        "2:15: the secret /etc/pen/folder is not a regular file; name a file",
    ]),
    Case(r#"[node]
secret_file = "/etc/pen/open.key""#, &[
        "2:15: the secret /etc/pen/open.key has mode 0640 and so is open to others; `chmod 600 /etc/pen/open.key`",
    ]),
    Case(r#"[node]
secret_file = "/etc/pen/short.key""#, &[
        "2:15: the secret /etc/pen/short.key is not 32 hexadecimal digits; make it with `openssl rand -hex 16 > /etc/pen/short.key`",
    ]),
    Case(r#"[node]
secret_file = "/etc/pen/sign.key""#, &[
        "2:15: the secret /etc/pen/sign.key is not 32 hexadecimal digits; make it with `openssl rand -hex 16 > /etc/pen/sign.key`",
    ]),
    // ports
    Case(r#"[node]
masquerade_ports = "1000-2000""#, &[
        r#"2:20: `masquerade_ports` is no range of ports: `1000-2000`; write one like "10240-32767", of ports from 1024 on"#,
    ]),
    Case(r#"[node]
masquerade_ports = "2000-1500""#, &[
        r#"2:20: `masquerade_ports` is no range of ports: `2000-1500`; write one like "10240-32767", of ports from 1024 on"#,
    ]),
    Case(r#"[node]
masquerade_ports = "30000-40000"
[[service]]
name = "web"
listen = "192.0.2.10:80"
mode = "masquerade"
backends = ["10.0.0.11"]"#, &[
        "2:20: the ports 30000-40000 for masquerading overlap with 32768-60999, which this machine gives its own connections; set `masquerade_ports` in `[node]` to others, or set net.ipv4.ip_local_port_range with `sysctl`",
    ]),
    // sizes
    Case("[node]
flows = 1023
clients = 16_777_217
translations = 0", &[
        "2:9: `flows` is 1023; use 1024 to 16777216",
        "3:11: `clients` is 16777217; use 1024 to 16777216",
        "4:16: `translations` is 0; use 1024 to 16777216",
    ]),
    // access lists
    Case(r#"[[acl]]
allow = ["10.0.0.0/33", "ten", 10]
default = "reject""#, &[
        r#"1:1: [[acl]] lacks `name`; add `name = "office"`"#,
        r#"2:10: `10.0.0.0/33` is no network; write one like "192.0.2.0/24" or "2001:db8::/32", or one address"#,
        r#"2:25: `ten` is no network; write one like "192.0.2.0/24" or "2001:db8::/32", or one address"#,
        r#"2:32: expected a network such as "192.0.2.0/24", found an integer"#,
        "3:11: unknown default `reject`; use one of: allow, deny",
    ]),
    Case(r#"[[acl]]
name = "a"
allow = ["10.0.0.1/24", "2001:db8::1/64"]"#, &[
        "3:10: `10.0.0.1/24` does not begin at its network's first address; write 10.0.0.0/24",
        "3:25: `2001:db8::1/64` does not begin at its network's first address; write 2001:db8::/64",
    ]),
    Case(r#"[[acl]]
name = "a"
allow = ["10.0.0.0/8", "::ffff:10.0.0.0/104"]
deny = ["10.0.0.0/8", "10.0.0.0/9"]
[[acl]]
name = "a"
allow = ["10.0.0.0/8"]"#, &[
        "3:24: network `10.0.0.0/8` is given twice, also at /etc/pen/0.toml:3:10; remove or change one",
        "4:9: network `10.0.0.0/8` is given twice, also at /etc/pen/0.toml:3:10; remove or change one",
        "6:8: access list `a` is given twice, also at /etc/pen/0.toml:2:8; remove or change one",
    ]),
    Case(r#"[[acl]]
name = "office"
[[vip]]
address = "192.0.2.11"
interface = "eth0"
acl = "ofice"
[[vip]]
address = "192.0.2.12"
interface = "eth0"
acl = "home""#, &[
        "6:7: no `[[acl]]` is called `ofice`; did you mean `office`?",
        "10:7: no `[[acl]]` is called `home`; add `[[acl]]` with `name = \"home\"` and `deny` or `allow`",
    ]),
    // socket
    Case(r#"[control]
socket = "pend.sock""#, &[
        "2:10: the socket `pend.sock` is not an absolute path; begin it with `/`",
    ]),
    Case(r#"[control]
socket = "/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa""#, &[
        "2:10: the socket's path has 108 bytes, a Unix socket allows 107; shorten it",
    ]),
    // interfaces
    Case(r#"[[interface]]
name = "eht1""#, &[
        "2:8: this machine has no interface `eht1`; did you mean `eth1`?",
    ]),
    Case(r#"[[interface]]
name = "wlan0""#, &[
        "2:8: this machine has no interface `wlan0`; it has lo, eth0, eth1",
    ]),
    Case(r#"[[interface]]
name = "a/b"
[[interface]]
name = "sixteen_letters_""#, &[
        "2:8: `a/b` cannot be an interface; write its name as `ip link` shows it: 1 to 15 bytes without space, `/` and `:`",
        "4:8: `sixteen_letters_` cannot be an interface; write its name as `ip link` shows it: 1 to 15 bytes without space, `/` and `:`",
    ]),
    Case(r#"[[interface]]
name = "eth1"
[[interface]]
name = "eth1""#, &[
        "4:8: interface `eth1` is given twice, also at /etc/pen/0.toml:2:8; remove or change one",
    ]),
    // VIPs
    Case(r#"[[vip]]
address = "192.0.2.11"
interface = "eth0"
echo = "yes"
syn_rate = 0"#, &[
        "4:8: expected true or false, found a string",
        "5:12: `syn_rate` is 0; use 1 to 1000000",
    ]),
    Case(r#"[[vip]]
address = "192.0.2.300"
interface = "eth0""#, &[
        r#"2:11: `192.0.2.300` is no IP address; write one like "192.0.2.10" or "2001:db8::10""#,
    ]),
    Case(r#"[[vip]]
address = "192.0.2.11"
interface = "eth00""#, &[
        "3:13: no `[[interface]]` is called `eth00`; did you mean `eth0`?",
    ]),
    Case(r#"[[interface]]
name = "eth1"
xdp = "off"
[[vip]]
address = "192.0.2.11"
interface = "eth1""#, &[
        r#"6:13: `eth1` has `xdp = "off"`, so nobody would answer for the address; use another interface, or set `xdp = "auto"`"#,
    ]),
    Case(r#"[[vip]]
address = "192.0.2.11"
interface = "wan""#, &[
        r#"3:13: no `[[interface]]` is called `wan`; add `[[interface]]` with `name = "wan"`"#,
    ]),
    Case(r#"[[vip]]
address = "0.0.0.0"
interface = "eth0""#, &[
        "2:11: 0.0.0.0 is no address of a host; use an address of one host on a network",
    ]),
    Case(r#"[[vip]]
address = "127.0.0.1"
interface = "eth0""#, &[
        "2:11: 127.0.0.1 is a loopback address; use an address of one host on a network",
    ]),
    Case(r#"[[vip]]
address = "224.0.0.1"
interface = "eth0""#, &[
        "2:11: 224.0.0.1 is a multicast address; use an address of one host on a network",
    ]),
    Case(r#"[[vip]]
address = "255.255.255.255"
interface = "eth0""#, &[
        "2:11: 255.255.255.255 is the broadcast address; use an address of one host on a network",
    ]),
    Case(r#"[[vip]]
address = "ff02::1"
interface = "eth0""#, &[
        "2:11: ff02::1 is a multicast address; use an address of one host on a network",
    ]),
    Case(r#"[[vip]]
address = "::ffff:192.0.2.11"
interface = "eth0"
[[vip]]
address = "192.0.2.11"
interface = "eth0""#, &[
        "5:11: VIP `192.0.2.11` is given twice, also at /etc/pen/0.toml:2:11; remove or change one",
    ]),
];
