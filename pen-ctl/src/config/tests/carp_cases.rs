//! What can be wrong with groups, with the way to peers, and with what services have of groups. In a
//! snippet of `carp!` the text begins at line 5.

use super::errors::Case;

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
    // references
    Case(r#"[[vip]]
address = "192.0.2.20"
interface = "eth0"
carp = "man"
[[vip]]
address = "192.0.2.21"
interface = "eth0"
carp = "other"
[[vip]]
address = "192.0.2.22"
interface = "eth0"
carp = "main"
[[carp]]
name = "main"
interface = "eth0"
vhid = 1
password_file = "/etc/pen/love""#, &[
        "4:8: no `[[carp]]` is called `man`; did you mean `main`?",
        r#"8:8: no `[[carp]]` is called `other`; add `[[carp]]` with `name = "other"` and `vhid`"#,
    ]),
    Case("[[carp]]", &[
        r#"1:1: [[carp]] lacks `name`; add `name = "main"`"#,
        r#"1:1: [[carp]] lacks `interface`; add `interface = "eth0"`"#,
        "1:1: [[carp]] lacks `vhid`; add `vhid = 7`",
        r#"1:1: [[carp]] lacks `password_file`; add `password_file = "/etc/pen/carp.password"`"#,
    ]),
    Case(r#"[[carp]]
name = "a"
interface = "eth0"
vhid = 7
password_file = "/etc/pen/love"
[[carp]]
name = "a"
interface = "eth0"
vhid = 0x07
password_file = "/etc/pen/love"
[[carp]]
name = "b"
interface = "eth9"
vhid = 256
password_file = "/etc/pen/love"
[[vip]]
address = "192.0.2.20"
interface = "eth0"
carp = "a"
[[vip]]
address = "192.0.2.21"
interface = "eth0"
carp = "b""#, &[
        "7:8: carp `a` is given twice, also at /etc/pen/0.toml:2:8; remove or change one",
        "9:8: vhid `7 on eth0` is given twice, also at /etc/pen/0.toml:4:8; remove or change one",
        "13:13: no `[[interface]]` is called `eth9`; did you mean `eth0`?",
        "14:8: `vhid` is 256; use 1 to 255",
    ]),
    Case(r#"[[carp]]
name = "a"
interface = "eth0"
vhid = 7
password_file = "/etc/pen/love""#, &[
        r#"1:1: no VIP belongs to the group `a`; add `carp = "a"` to a `[[vip]]`"#,
    ]),
    // keys
    Case(carp!(r#"password_file = "/etc/pen/love"
advskw = 3
preemt = true
transport = "anycast"
auth = "md5"
mac = "real"
tie_break = "random""#), &[
        "6:1: unknown key `advskw`; did you mean `advskew`?",
        "7:1: unknown key `preemt`; did you mean `preempt`?",
        "8:13: unknown transport `anycast`; did you mean `unicast`?",
        "9:8: unknown auth `md5`; use one of: ucarp, bsd, sha256",
        "10:7: unknown mac `real`; use one of: virtual, interface, ucarp",
        "11:13: unknown tie_break `random`; use one of: ucarp-le, numeric",
    ]),
    // times
    Case(carp!(r#"password_file = "/etc/pen/love"
advbase = "300s"
advskew = 256"#), &[
        "6:11: `advbase` is 5m, but an advertisement has 8 bits for it: ucarp would truncate it to 44; use at most 255",
        "7:11: `advskew` is 256, but an advertisement has 8 bits for it: ucarp would truncate it to 0; use at most 255",
    ]),
    Case(carp!(r#"password_file = "/etc/pen/love"
advbase = "500ms"
advskew = -1
deadratio = 0"#), &[
        r#"6:11: `advbase` is 500ms, but advertisements with auth `ucarp` count whole seconds; use "1s", or `auth = "sha256"`"#,
        "7:11: `advskew` is -1; use 0 to 255",
        "8:13: `deadratio` is 0; use 1 to 255",
    ]),
    Case(carp!(r#"password_file = "/etc/pen/love"
advbase = "0s""#), &[
        "6:11: `advbase` and `advskew` are both 0, so that there is no time between two advertisements; raise one",
    ]),
    Case(carp!(r#"password_file = "/etc/pen/love"
advbase = "255s"
advskew = 255"#), &[
        "6:11: `advbase` and `advskew` are both 255, by which a node says farewell; lower one",
    ]),
    Case(carp!(r#"password_file = "/etc/pen/love"
advbase = 1
preempt_delay = "5s"
announce_refresh = "500ms""#), &[
        r#"6:11: `advbase` lacks a unit; write "1ms" or "1s", with the quotes"#,
        "7:17: `preempt_delay` has no effect without `preempt = true`; remove it, or add that",
        "8:20: `announce_refresh` is 500ms; use 1s to 1day, or 0s for never",
    ]),
    Case(carp!(r#"auth = "sha256"
keys = [{ id = 1, file = "/etc/pen/32-bytes" }]
advbase = "9ms""#), &[
        "7:11: `advbase` is 9ms; use 10ms to 255s",
    ]),
    Case(r#"[[carp]]
name = "inside"
interface = "eth0"
vhid = 7
auth = "sha256"
keys = [{ id = 1, file = "/etc/pen/32-bytes" }]
[[vip]]
address = "192.0.2.20"
interface = "eth0"
carp = "inside"
[[carp]]
name = "outside"
interface = "eth1"
vhid = 7
auth = "sha256"
keys = [{ id = 1, file = "/etc/pen/32-bytes" }, { id = 2, file = "/etc/pen/64-bytes" }]
[[vip]]
address = "192.0.2.21"
interface = "eth1"
carp = "outside"
[[carp]]
name = "third"
interface = "eth1"
vhid = 8
auth = "sha256"
keys = [{ id = 1, file = "/etc/pen/32-bytes" }]
[[vip]]
address = "192.0.2.22"
interface = "eth1"
carp = "third"
[[interface]]
name = "eth1""#, &[
        "11:1: `inside` has vhid 7 and a key of this group too, on another interface: what is signed for one would be genuine for the other; give one another `vhid`, or keys of its own",
    ]),
    // passwords
    Case(carp!(r#"auth = "ucarp""#), &[
        r#"1:1: [[carp]] lacks `password_file`; add `password_file = "/etc/pen/carp.password"`"#,
    ]),
    Case(carp!(r#"auth = "bsd""#), &[
        r#"1:1: [[carp]] lacks `password_file`; add `password_file = "/etc/pen/carp.password"`"#,
    ]),
    Case(carp!(r#"password_file = "/etc/pen/none""#), &[
        "5:17: the secret /etc/pen/none cannot be read (entity not found); correct the path, or make it with `openssl rand -hex 32 > /etc/pen/none` and `chmod 600 /etc/pen/none`; passwords of ucarp and the BSDs are one line",
    ]),
    Case(carp!(r#"password_file = "/etc/pen/folder""#), &[
        "5:17: the secret /etc/pen/folder is not a regular file; name a file",
    ]),
    Case(carp!(r#"password_file = "/etc/pen/open.key""#), &[
        "5:17: the secret /etc/pen/open.key has mode 0640 and so is open to others; `chmod 600 /etc/pen/open.key`",
    ]),
    Case(carp!(r#"password_file = "/etc/pen/nothing""#), &[
        "5:17: the first line of /etc/pen/nothing is empty; write the password there, the same on all nodes",
    ]),
    Case(carp!(r#"password_file = "/etc/pen/20-bytes""#), &[
        "5:17: the password in /etc/pen/20-bytes has 20 bytes, and auth `ucarp` takes at most 19; shorten it on all nodes",
    ]),
    Case(carp!(r#"auth = "bsd"
password_file = "/etc/pen/21-bytes""#), &[
        "6:17: the password in /etc/pen/21-bytes has 21 bytes, and auth `bsd` takes at most 20; shorten it on all nodes",
    ]),
    // keys of sha256
    Case(carp!(r#"auth = "sha256""#), &[
        r#"1:1: [[carp]] lacks `keys`; add `keys = [{ id = 1, file = "/etc/pen/carp-1.key" }]`"#,
    ]),
    Case(carp!(r#"auth = "sha256"
keys = []"#), &[
        r#"6:8: `keys` is empty; add one, such as { id = 1, file = "..." }"#,
    ]),
    Case(carp!(r#"auth = "sha256"
keys = ["/etc/pen/32-bytes", {}, { id = 1, file = "/etc/pen/31-bytes" }, { id = 1, file = "/etc/pen/64-bytes" }, { id = 256, file = "/etc/pen/none" }]"#), &[
        r#"6:9: expected a key, written `{ id = 1, file = "..." }`, found a string"#,
        "6:30: a key lacks `id`; add `id = 1`",
        r#"6:30: a key lacks `file`; add `file = "/etc/pen/carp-1.key"`"#,
        "6:51: the key /etc/pen/31-bytes has 31 bytes, and needs 32 to 64; make it with `openssl rand -hex 32 > /etc/pen/31-bytes`",
        "6:74: key id `1` is given twice, also at /etc/pen/0.toml:6:34; remove or change one",
        "6:121: `id` is 256; use 1 to 255",
        "6:133: the secret /etc/pen/none cannot be read (entity not found); correct the path, or make it with `openssl rand -hex 32 > /etc/pen/none` and `chmod 600 /etc/pen/none`; passwords of ucarp and the BSDs are one line",
    ]),
    Case(carp!(r#"auth = "sha256"
keys = [{ id = 1, file = "/etc/pen/32-bytes" }]
active_key = 2"#), &[
        "7:14: `active_key` is 2, which `keys` do not have; use one of 1",
    ]),
    Case(carp!(r#"password_file = "/etc/pen/love"
keys = [{ id = 1, file = "/etc/pen/32-bytes" }]
active_key = 1
accept = "enforce"
legacy_peers = ["192.0.2.3"]"#), &[
        r#"6:8: `keys` has no effect without `auth = "sha256"`; remove it, or add that"#,
        r#"7:14: `active_key` has no effect without `auth = "sha256"`; remove it, or add that"#,
        r#"8:10: `accept` has no effect without `auth = "sha256"`; remove it, or add that"#,
        r#"9:16: `legacy_peers` has no effect without `auth = "sha256"`; remove it, or add that"#,
    ]),
    Case(carp!(r#"auth = "sha256"
keys = [{ id = 1, file = "/etc/pen/32-bytes" }]
legacy_peers = ["192.0.2.3"]"#), &[
        r#"7:16: `legacy_peers` has no effect without `accept = "permissive"`; remove it, or add that"#,
    ]),
    Case(carp!(r#"auth = "sha256"
keys = [{ id = 1, file = "/etc/pen/32-bytes" }]
accept = "permissive"
legacy_peers = ["192.0.2.3", "192.0.2.3", "host"]"#), &[
        "8:30: peer `192.0.2.3` is given twice, also at /etc/pen/0.toml:8:17; remove or change one",
        r#"8:43: `host` is no IP address; write one like "192.0.2.10" or "2001:db8::10""#,
    ]),
    Case(carp!(r#"auth = "sha256"
keys = [{ id = 1, file = "/etc/pen/32-bytes" }]
accept = "permissive"
legacy_peers = ["192.0.2.3"]"#), &[
        r#"1:1: [[carp]] lacks `password_file`; add `password_file = "/etc/pen/carp.password"`"#,
    ]),
    // where advertisements go
    Case(carp!(r#"password_file = "/etc/pen/love"
transport = "unicast"
peers = ["192.0.2.3"]"#), &[
        r#"6:13: ucarp ignores advertisements to its own address; use `transport = "broadcast"`, or another `auth` on all nodes"#,
    ]),
    Case(carp!(r#"auth = "sha256"
keys = [{ id = 1, file = "/etc/pen/32-bytes" }]
transport = "unicast""#), &[
        r#"1:1: [[carp]] lacks `peers`; add `peers = ["192.0.2.3"]`"#,
    ]),
    Case(carp!(r#"auth = "sha256"
keys = [{ id = 1, file = "/etc/pen/32-bytes" }]
transport = "unicast"
peers = ["192.0.2.3", 4]
group = "224.0.0.18""#), &[
        r#"8:23: expected an address such as "192.0.2.3", found an integer"#,
        r#"9:9: `group` has no effect without `transport = "multicast"` or `"broadcast"`; remove it, or add that"#,
    ]),
    Case(carp!(r#"password_file = "/etc/pen/love"
min_ttl = 254
group = "192.0.2.4""#), &[
        r#"6:11: `min_ttl` has no effect without `transport = "unicast"`; remove it, or add that"#,
        "7:9: `192.0.2.4` is no IPv4 multicast address; leave `group` out for 224.0.0.18",
    ]),
    Case(carp!(r#"password_file = "/etc/pen/love"
source = ["192.0.2.3", "2001:db8::1", "192.0.2.4"]"#), &[
        "6:10: `source` has several addresses of one family; write one of each at most",
    ]),
    Case(carp!(r#"auth = "sha256"
keys = [{ id = 1, file = "/etc/pen/32-bytes" }]
transport = "unicast"
peers = ["192.0.2.3"]
source = "192.0.2.3""#), &[
        "8:9: the peer 192.0.2.3 is this node itself; remove it",
    ]),
    Case(carp!(r#"auth = "sha256"
keys = [{ id = 1, file = "/etc/pen/32-bytes" }]
transport = "unicast"
peers = ["192.0.2.20", "192.0.2.10"]
source = "2001:db8::10""#), &[
        "1:1: `source` has 2001:db8::10, which is a VIP, at /etc/pen/0.toml:21:11, and moves between nodes; write an address that stays with its node",
        "1:1: `peers` has 192.0.2.20, which is a VIP, at /etc/pen/0.toml:11:11, and moves between nodes; write an address that stays with its node",
        "1:1: `peers` has 192.0.2.10, which is a VIP, at /etc/pen/0.toml:18:11, and moves between nodes; write an address that stays with its node",
    ]),
    // addresses
    Case(r#"[[interface]]
name = "eth1"
xdp = "off"
[[carp]]
name = "a"
interface = "eth1"
vhid = 7
password_file = "/etc/pen/love"
[[vip]]
address = "192.0.2.20"
interface = "eth1"
carp = "a""#, &[
        r#"11:13: `eth1` has `xdp = "off"`, so nobody would answer at the virtual MAC of the group `a`; set `mac = "interface"` there, or `xdp = "auto"`"#,
    ]),
    Case(carp!(r#"password_file = "/etc/pen/love"
[[interface]]
name = "eth1"
[[vip]]
address = "192.0.2.21"
interface = "eth1"
carp = "main"
[[vip]]
address = "2001:db8::20"
interface = "eth0"
carp = "main""#), &[
        "11:8: the VIP is on `eth1`, but its group `main` on `eth0`; use one interface, and for several a group each, with the same `sync_group`",
        r#"15:8: 2001:db8::20 is IPv6, which ucarp does not know; set `auth` of `main` to "bsd" or "sha256""#,
        r#"19:8: a second address for `main`, but ucarp signs exactly one; set its `auth` to "bsd" or "sha256", or make a group with another vhid"#,
    ]),
    Case(carp!(r#"password_file = "/etc/pen/love"
addresses = "hooks"
mac = "virtual""#), &[
        r#"1:1: [[carp]] lacks `up`; add `up = "/etc/pen/vip-up.sh"`"#,
        r#"7:7: `mac` has no effect without `addresses = "pen"`; remove it, or add that"#,
    ]),
    // hooks and health
    Case(carp!(r#"password_file = "/etc/pen/love"
up = "up.sh"
down = "/etc/pen/text"
sync_group = "a b""#), &[
        "6:6: the hook `up.sh` is not an absolute path; begin it with `/`",
        "7:8: the hook /etc/pen/text cannot be run (not executable); correct the path, or `chmod +x` it",
        "8:14: `a b` is no valid name; use 1 to 64 letters, digits and characters of `._:-`",
    ]),
    Case(carp!(r#"password_file = "/etc/pen/love"
xparam = "x"
down_at_exit = true"#), &[
        "6:10: `xparam` has no effect without `up` or `down`; remove it, or add that",
        "7:16: `down_at_exit` has no effect without `down`; remove it, or add that",
    ]),
    Case(carp!(r#"password_file = "/etc/pen/love"
demote_on = { no_backend = 241, interface = ["eth2", "eth1", { name = "eth1" }, { weight = 1 }, 5], colour = 1 }"#), &[
        "6:28: `no_backend` is 241; use 0 to 240",
        "6:46: this machine has no interface `eth2`; did you mean `eth0`?",
        "6:71: interface `eth1` is given twice, also at /etc/pen/0.toml:6:54; remove or change one",
        r#"6:81: an interface of `demote_on` lacks `name`; add `name = "eth1"`"#,
        r#"6:97: expected an interface, written "eth1" or `{ name = "eth1", weight = 100 }`, found an integer"#,
        "6:101: unknown key `colour`; valid keys of `demote_on`: no_backend, xdp_detached, sync_incomplete, interface, service",
    ]),
    Case(carp!(r#"password_file = "/etc/pen/love"
demote_on = { service = ["web"] }"#), &[
        "1:1: no `[[service]]` is called `web`; name one of this configuration",
    ]),
    // telling peers of connections
    Case("[sync]", &[
        r#"1:1: [sync] lacks `listen`; add `listen = "192.0.2.2:7077"`"#,
        r#"1:1: [sync] lacks `key_file`; add `key_file = "/etc/pen/sync.key"`"#,
        r#"1:1: [sync] lacks `peers`; add `peers = ["192.0.2.3:7077"]`"#,
    ]),
    Case(r#"[sync]
listen = "192.0.2.2"
peers = "192.0.2.3:7077"
key_file = "/etc/pen/31-bytes""#, &[
        r#"2:10: `192.0.2.2` is no address of a node with a port; write one like "192.0.2.2:7077" or "[2001:db8::2]:7077""#,
        "3:9: expected an array, written `[...]`, found a string",
        "4:12: the key /etc/pen/31-bytes has 31 bytes, and needs 32 to 64; make it with `openssl rand -hex 32 > /etc/pen/31-bytes`",
    ]),
    Case(r#"[sync]
listen = "192.0.2.2:7077"
peers = ["192.0.2.3:7077", "192.0.2.3:7077", "192.0.2.2:7077", "[2001:db8::3]:7077", "192.0.2.10:7077", "192.0.2.4:0"]
key_file = "/etc/pen/64-bytes""#, &[
        "3:28: peer `192.0.2.3:7077` is given twice, also at /etc/pen/0.toml:3:10; remove or change one",
        "3:46: the peer 192.0.2.2 is this node itself; remove it",
        "3:64: the peer 2001:db8::3 is IPv6, but `listen` 192.0.2.2 is IPv4; use one family",
        "3:86: `peers` has 192.0.2.10, which is a VIP, at /etc/pen/0.toml:9:11, and moves between nodes; write an address that stays with its node",
        r#"3:105: `192.0.2.4:0` is no address of a node with a port; write one like "192.0.2.2:7077" or "[2001:db8::2]:7077""#,
    ]),
    // the source of masqueraded packets
    Case(r#"[[service]]
name = "web"
listen = "192.0.2.10:80"
backends = ["10.0.0.11"]
source = "192.0.2.10""#, &[
        r#"5:10: `source` has no effect without `mode = "masquerade"`; remove it, or add that"#,
    ]),
    Case(r#"[[service]]
name = "web"
listen = "192.0.2.10:80"
backends = ["10.0.0.11"]
mode = "masquerade"
source = "192.0.2.99""#, &[
        "6:10: `source` is 192.0.2.99, which no `[[vip]]` declares (declared: 192.0.2.10, 2001:db8::10); use one of them, or leave it out for this node's own address",
    ]),
    Case(r#"[[service]]
name = "web"
listen = "192.0.2.10:80"
backends = ["10.0.0.11"]
mode = "masquerade"
source = "192.0.2.10"
[[service]]
name = "high"
listen = "192.0.2.10:32767-32770"
backends = ["10.0.0.11"]
[[service]]
name = "any"
listen = "192.0.2.10:0"
backends = ["10.0.0.11"]
[[service]]
name = "udp"
listen = "192.0.2.10:20000"
protocol = "udp"
backends = ["10.0.0.11"]
[[service]]
name = "six"
listen = "[2001:db8::10]:20000"
backends = ["2001:db8::11"]"#, &[
        "9:10: ports 32767-32770 of 192.0.2.10: answers for `web` come to its ports 10240-32767; use another port, other `masquerade_ports` in `[node]`, or another `source`",
        "13:10: any port of 192.0.2.10: answers for `web` come to its ports 10240-32767; use another port, other `masquerade_ports` in `[node]`, or another `source`",
    ]),
    Case(r#"[[service]]
name = "web"
listen = "192.0.2.10:80"
backends = ["10.0.0.11"]
mode = "masquerade"
source = "2001:db8::10""#, &[
        "6:10: `source` 2001:db8::10 is IPv6, but the service's address 192.0.2.10 is IPv4; use one family",
    ]),
];
