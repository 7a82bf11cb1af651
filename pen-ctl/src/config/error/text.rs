//! What the operator reads of an error: what is wrong, and how to cure it.

use std::fmt;
use std::net::IpAddr;

use super::ErrorKind;
use crate::config::{KEY_BYTES, Ports};

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { reason } => {
                write!(f, "cannot be read ({reason}); check the path and the permissions")
            }
            Self::NotUtf8 => write!(f, "not UTF-8 text; save the file as UTF-8"),
            Self::Syntax { message } => write!(f, "not valid TOML; {message}"),
            Self::DuplicateKey { key } => {
                write!(f, "`{key}` is given twice in this file; keep one of the two")
            }

            Self::GivenTwice { table, first } => {
                write!(f, "`{table}` is given twice, also at {first}; merge the two")
            }
            Self::UnknownKey { key, table, near, valid } => {
                write!(f, "unknown key `{key}`; ")?;
                match near {
                    Some(near) => write!(f, "did you mean `{near}`?"),
                    None => write!(f, "valid keys of {table}: {}", valid.join(", ")),
                }
            }
            Self::NotBuiltIn { what, instead } => {
                write!(f, "`{what}` is not built into this version of pen; {instead}")
            }
            Self::MissingKey { table, key, example } => {
                write!(f, "{table} lacks `{key}`; add `{key} = {example}`")
            }
            Self::WrongType { expected, found } => {
                write!(f, "expected {expected}, found {found}")
            }
            Self::UnknownWord { key, found, near, valid } => {
                write!(f, "unknown {key} `{found}`; ")?;
                match near {
                    Some(near) => write!(f, "did you mean `{near}`?"),
                    None => write!(f, "use one of: {}", valid.join(", ")),
                }
            }
            Self::OutOfRange { key, found, min, max } => {
                write!(f, "`{key}` is {found}; use {min} to {max}")
            }
            Self::UnusableSlots { slots, valid } => {
                let valid: Vec<_> = valid.iter().map(u32::to_string).collect();
                write!(f, "a table cannot have {slots} slots; use one of {}", valid.join(", "))
            }
            Self::TooMany { what, max } => write!(f, "more than {max} {what}; remove some"),

            Self::InvalidName { name } => write!(
                f,
                "`{name}` is no valid name; use 1 to 64 letters, digits and characters of `._:-`"
            ),
            Self::HostNameUnknown { reason } => {
                write!(f, "the host name is unknown ({reason}); add `name = ...` to `[node]`")
            }
            Self::Duplicate { what, name, first } => {
                write!(f, "{what} `{name}` is given twice, also at {first}; remove or change one")
            }
            Self::ListenOverlap { listen, other, first } => write!(
                f,
                "`{listen}` shares a port with `{other}`, at {first}; remove it from one of the two"
            ),
            Self::VipWithoutXdp { name } => write!(
                f,
                "`{name}` has `xdp = \"off\"`, so nobody would answer for the address; use another \
                 interface, or set `xdp = \"auto\"`"
            ),
            Self::UndeclaredInterface { name, near } => {
                write!(f, "no `[[interface]]` is called `{name}`; ")?;
                match near {
                    Some(near) => write!(f, "did you mean `{near}`?"),
                    None => write!(f, "add `[[interface]]` with `name = \"{name}\"`"),
                }
            }
            Self::UndeclaredVip { address, declared } => {
                write!(f, "no `[[vip]]` declares {address}")?;
                if !declared.is_empty() {
                    write!(f, " (declared: {})", some_of(declared))?;
                }
                write!(f, "; add `[[vip]]` with `address = \"{address}\"` and `interface = ...`")
            }
            Self::UndeclaredService { name, near } => {
                write!(f, "no `[[service]]` is called `{name}`; ")?;
                match near {
                    Some(near) => write!(f, "did you mean `{near}`?"),
                    None => write!(f, "name one of this configuration"),
                }
            }
            Self::CheckAndTrack => {
                write!(
                    f,
                    "`check` beside `track`: the checks are the other service's; keep one of the two"
                )
            }
            Self::TracksATracker { service } => write!(
                f,
                "service `{service}` tracks another one itself; name the one that has the check"
            ),
            Self::NoCounterpart { backend, service } => write!(
                f,
                "service `{service}` has no backend at the address of `{backend}`; add it there, or \
                 give this service a check of its own"
            ),
            Self::UndeclaredPool { name, near } => {
                write!(f, "no `[[pool]]` is called `{name}`; ")?;
                match near {
                    Some(near) => write!(f, "did you mean `{near}`?"),
                    None => write!(f, "add `[[pool]]` with `name = \"{name}\"` and `backends`"),
                }
            }

            Self::UndeclaredAcl { name, near } => {
                write!(f, "no `[[acl]]` is called `{name}`; ")?;
                match near {
                    Some(near) => write!(f, "did you mean `{near}`?"),
                    None => {
                        write!(f, "add `[[acl]]` with `name = \"{name}\"` and `deny` or `allow`")
                    }
                }
            }

            Self::SecretUnreadable { file, reason } => write!(
                f,
                "the secret {0} cannot be read ({reason}); correct the path, or make it with `openssl rand -hex 16 > \
                 {0}` and `chmod 600 {0}`",
                file.display()
            ),
            Self::SecretNotRegular { file } => {
                write!(f, "the secret {} is not a regular file; name a file", file.display())
            }
            Self::SecretPermissions { file, mode } => write!(
                f,
                "the secret {0} has mode {mode:04o} and so is open to others; `chmod 600 {0}`",
                file.display()
            ),
            Self::SecretMalformed { file } => write!(
                f,
                "the secret {0} is not 32 hexadecimal digits; make it with `openssl rand -hex 16 \
                 > {0}`",
                file.display()
            ),
            Self::SocketNotAbsolute { path } => {
                write!(f, "the socket `{path}` is not an absolute path; begin it with `/`")
            }
            Self::LogNotAbsolute { path } => {
                write!(f, "`{path}` does not begin with `/`; write the whole path")
            }
            Self::SocketTooLong { length, max } => write!(
                f,
                "the socket's path has {length} bytes, a Unix socket allows {max}; shorten it"
            ),
            Self::SocketBlank { path } => write!(
                f,
                "the socket {path:?} has blanks or control characters, which logs and lists could \
                 not show; use another path"
            ),
            Self::SocketNoFile { path } => {
                write!(f, "the socket `{path}` is a folder; add the name of a file")
            }
            Self::InvalidFileMode { text } => write!(
                f,
                "`{text}` is no file mode; write octal digits in quotes, such as \"0660\", up to \
                 \"0777\""
            ),
            Self::UnknownOwner { text } => write!(
                f,
                "`{text}` names no user and group of this machine; write \"USER\", \
                 \"USER:GROUP\" or \":GROUP\""
            ),
            Self::InvalidInterfaceName { name } => write!(
                f,
                "`{name}` cannot be an interface; write its name as `ip link` shows it: 1 to 15 \
                 bytes without space, `/` and `:`"
            ),
            Self::InvalidPorts { key, text } => write!(
                f,
                "`{key}` is no range of ports: `{text}`; write one like \"10240-32767\", of ports \
                 from 1024 on"
            ),
            Self::PortsOfAnswers { taken, ports, address, service } => {
                match taken.single() {
                    Some(port) => write!(f, "port {port}")?,
                    None if *taken == Ports::ANY => f.write_str("any port")?,
                    None => write!(f, "ports {taken}")?,
                }
                write!(
                    f,
                    " of {address}: answers for `{service}` come to its ports {ports}; use another \
                     port, other `masquerade_ports` in `[node]`, or another `source`"
                )
            }
            Self::PortsOfTheMachine { ports, local } => write!(
                f,
                "the ports {ports} for masquerading overlap with {local}, which this machine gives \
                 its own connections; set `masquerade_ports` in `[node]` to others, or set \
                 net.ipv4.ip_local_port_range with `sysctl`"
            ),
            Self::AbsentInterface { name, near, existing } => {
                write!(f, "this machine has no interface `{name}`; ")?;
                match near {
                    Some(near) => write!(f, "did you mean `{near}`?"),
                    None if existing.is_empty() => write!(f, "see `ip link`"),
                    None => write!(f, "it has {}", some_of(existing)),
                }
            }

            Self::InvalidAddress { text } => write!(
                f,
                "`{text}` is no IP address; write one like \"192.0.2.10\" or \"2001:db8::10\""
            ),
            Self::InvalidListen { text } => write!(
                f,
                "`{text}` is no address and port; write \"192.0.2.10:80\" or \
                 \"[2001:db8::10]:80\", for several ports \"192.0.2.10:8000-8010\", with port 0 for \
                 any port; a proxy also takes \"unix:/run/app.sock\""
            ),
            Self::InvalidBackend { text } => write!(
                f,
                "`{text}` is no address of a backend; write \"10.0.0.11:80\", \
                 \"[2001:db8::11]:80\" or \"host.example:80\", the port may be left out"
            ),
            Self::InvalidNetwork { text } => write!(
                f,
                "`{text}` is no network; write one like \"192.0.2.0/24\" or \"2001:db8::/32\", or \
                 one address"
            ),
            Self::NotFirstAddress { text, network } => {
                write!(f, "`{text}` does not begin at its network's first address; write {network}")
            }
            Self::UnusableAddress { address, why } => {
                write!(f, "{address} is {why}; use an address of one host on a network")
            }
            Self::InvalidHost { text, example } => {
                write!(f, "`{text}` is no name of a host; write one like \"{example}\"")
            }
            Self::InvalidResolver { text } => write!(
                f,
                "`{text}` is no address of a name server; write one like \"10.0.0.53\" or \
                 \"[2001:db8::53]:53\""
            ),
            Self::OneWayToServer => f.write_str(
                "a backend has one of `address`, `host` and `srv`; remove the others, or make them \
                 backends of their own",
            ),
            Self::NamedAlone { host } => write!(
                f,
                "`{host}` is a name, which may be several servers, and here is room for one; write \
                 its address"
            ),
            Self::NamesAndTrack => f.write_str(
                "which servers a name stands for changes, so that the service that it tracks might \
                 not have them; remove `track`, or write addresses",
            ),
            Self::SrvPorts { listen, mode } => write!(
                f,
                "a record SRV says the port, and the service on {listen} in mode `{mode}` leaves \
                 ports as they are; use `host`, or one port and mode `nat`, `masquerade` or `proxy`"
            ),

            Self::UndeclaredCarp { name, near } => {
                write!(f, "no `[[carp]]` is called `{name}`; ")?;
                match near {
                    Some(near) => write!(f, "did you mean `{near}`?"),
                    None => write!(f, "add `[[carp]]` with `name = \"{name}\"` and `vhid`"),
                }
            }
            Self::UndeclaredKey { id, valid } => {
                let valid: Vec<_> = valid.iter().map(u8::to_string).collect();
                let valid = valid.join(", ");
                write!(f, "`active_key` is {id}, which `keys` do not have; use one of {valid}")
            }
            Self::NoEffect { key, needs } => {
                write!(f, "`{key}` has no effect without {needs}; remove it, or add that")
            }
            Self::NoInterval => write!(
                f,
                "`advbase` and `advskew` are both 0, so that there is no time between two \
                 advertisements; raise one"
            ),
            Self::IntervalOfFarewell => write!(
                f,
                "`advbase` and `advskew` are both 255, by which a node says farewell; lower one"
            ),
            Self::WouldBeCut { key, found, kept } => write!(
                f,
                "`{key}` is {found}, but an advertisement has 8 bits for it: ucarp would truncate \
                 it to {kept}; use at most 255"
            ),
            Self::FractionOfSecond { found, auth } => write!(
                f,
                "`advbase` is {found}, but advertisements with auth `{auth}` count whole seconds; \
                 use \"1s\", or `auth = \"sha256\"`"
            ),
            Self::KeyUnreadable { file, reason } => write!(
                f,
                "the secret {0} cannot be read ({reason}); correct the path, or make it with \
                 `openssl rand -hex 32 > {0}` and `chmod 600 {0}`; passwords of ucarp and the BSDs \
                 are one line",
                file.display()
            ),
            Self::KeyLength { file, length } => write!(
                f,
                "the key {0} has {length} bytes, and needs {1} to {2}; make it with `openssl rand \
                 -hex 32 > {0}`",
                file.display(),
                KEY_BYTES.start(),
                KEY_BYTES.end()
            ),
            Self::NoKeys => {
                write!(f, "`keys` is empty; add one, such as {{ id = 1, file = \"...\" }}")
            }
            Self::PasswordEmpty { file } => write!(
                f,
                "the first line of {} is empty; write the password there, the same on all nodes",
                file.display()
            ),
            Self::PasswordTooLong { file, length, max, auth } => write!(
                f,
                "the password in {} has {length} bytes, and auth `{auth}` takes at most {max}; \
                 shorten it on all nodes",
                file.display()
            ),
            Self::UnicastToUcarp => write!(
                f,
                "ucarp ignores advertisements to its own address; use `transport = \
                 \"broadcast\"`, or another `auth` on all nodes"
            ),
            Self::NoMulticastGroup { text } => {
                write!(f, "`{text}` is no IPv4 multicast address; leave `group` out for 224.0.0.18")
            }
            Self::ManySources => {
                write!(f, "`source` has several addresses of one family; write one of each at most")
            }
            Self::PeerIsSelf { address } => {
                write!(f, "the peer {address} is this node itself; remove it")
            }
            Self::NodeIsVip { key, address, vip } => write!(
                f,
                "`{key}` has {address}, which is a VIP, at {vip}, and moves between nodes; write \
                 an address that stays with its node"
            ),
            Self::VirtualMacWithoutXdp { name, carp } => write!(
                f,
                "`{name}` has `xdp = \"off\"`, so nobody would answer at the virtual MAC of the \
                 group `{carp}`; set `mac = \"interface\"` there, or `xdp = \"auto\"`"
            ),
            Self::KeyOfTwoGroups { vhid, other } => write!(
                f,
                "`{other}` has vhid {vhid} and a key of this group too, on another interface: what \
                 is signed for one would be genuine for the other; give one another `vhid`, or keys \
                 of its own"
            ),
            Self::VipElsewhere { vip, carp, interface } => write!(
                f,
                "the VIP is on `{vip}`, but its group `{carp}` on `{interface}`; use one \
                 interface, and for several a group each, with the same `sync_group`"
            ),
            Self::CarpWithoutVip { name } => write!(
                f,
                "no VIP belongs to the group `{name}`; add `carp = \"{name}\"` to a `[[vip]]`"
            ),
            Self::UcarpIpv6 { name, address } => write!(
                f,
                "{address} is IPv6, which ucarp does not know; set `auth` of `{name}` to \"bsd\" \
                 or \"sha256\""
            ),
            Self::UcarpManyVips { name } => write!(
                f,
                "a second address for `{name}`, but ucarp signs exactly one; set its `auth` to \
                 \"bsd\" or \"sha256\", or make a group with another vhid"
            ),
            Self::HookNotAbsolute { path } => {
                write!(
                    f,
                    "the hook `{}` is not an absolute path; begin it with `/`",
                    path.display()
                )
            }
            Self::HookUnusable { path, reason } => write!(
                f,
                "the hook {} cannot be run ({reason}); correct the path, or `chmod +x` it",
                path.display()
            ),
            Self::InvalidEndpoint { text } => write!(
                f,
                "`{text}` is no address of a node with a port; write one like \"192.0.2.2:7077\" \
                 or \"[2001:db8::2]:7077\""
            ),
            Self::SyncFamily { peer, listen } => write!(
                f,
                "the peer {peer} is {}, but `listen` {listen} is {}; use one family",
                family(*peer),
                family(*listen)
            ),

            Self::SourceNoVip { address, declared } => {
                write!(f, "`source` is {address}, which no `[[vip]]` declares")?;
                if !declared.is_empty() {
                    write!(f, " (declared: {})", some_of(declared))?;
                }
                write!(f, "; use one of them, or leave it out for this node's own address")
            }
            Self::SourceFamily { source, vip } => write!(
                f,
                "`source` {source} is {}, but the service's address {vip} is {}; use one family",
                family(*source),
                family(*vip)
            ),
            Self::BackendsAndPool => {
                write!(f, "a service has either `backends` or `pool`; remove one of the two")
            }
            Self::NeitherBackendsNorPool => {
                write!(f, "the service has no backends; add `backends = [...]` or `pool = ...`")
            }
            Self::NoBackends => {
                write!(f, "`backends` is empty; add at least one, such as \"10.0.0.11:80\"")
            }
            Self::AllWeightsZero => {
                write!(f, "all backends have weight 0 and take nothing; raise one weight")
            }
            Self::FamilyMismatch { backend, vip, mode } => write!(
                f,
                "the backend {backend} is {}, but the VIP {vip} is {}, and mode `{mode}` does not \
                 translate between them; use backends and a VIP of one family, or mode `ipip` or \
                 `gue`",
                family(*backend),
                family(*vip)
            ),
            Self::PortMismatch { port, listen, mode } => write!(
                f,
                "port {port} differs from that of the service on {listen}, and in mode `{mode}` a \
                 backend gets packets unchanged; write {} or leave it out, or use mode `nat` or \
                 `masquerade`",
                listen.ports
            ),
            Self::PortOfMany { port, listen } => write!(
                f,
                "the service on {listen} has many ports, of which a packet keeps its own, so that \
                 port {port} of a backend says nothing; leave it out"
            ),
            Self::BackendIsVip { address, vip } => write!(
                f,
                "the backend {address} is a VIP, at {vip}, which would be a loop; write the \
                 backend's own address"
            ),

            Self::OnlyProxied { key, mode } => write!(
                f,
                "`{key}` needs a proxy, and mode `{mode}` leaves connections alone; remove it, or \
                 use `mode = \"proxy\"`"
            ),
            Self::ProxiedPorts { listen } => write!(
                f,
                "a proxy listens on one port, not on {listen}; write a service for each port"
            ),
            Self::SocketOfUdp { socket } => write!(
                f,
                "{socket} is a Unix socket, which carries streams and no datagrams; use `protocol = \
                 \"tcp\"`, or an address"
            ),
            Self::BackendIsListener { socket } => write!(
                f,
                "the service listens on {socket} itself, which would be a loop; write the backend's \
                 own socket"
            ),
            Self::BackendWithoutPort { backend, example } => write!(
                f,
                "the service listens on a Unix socket, so that the backend {backend} has no port to \
                 take over; write \"{example}\""
            ),
            Self::TransparentFamily { backend, listen } => {
                let family = |address: &IpAddr| if address.is_ipv4() { "IPv4" } else { "IPv6" };
                write!(
                    f,
                    "the backend {backend} is {}, and cannot see the address of a client of {listen}, \
                     which is {}; remove `transparent`, or use servers of that family",
                    family(backend),
                    family(listen)
                )
            }
            Self::TransparentSocket { socket } => write!(
                f,
                "{socket} is a Unix socket, over which nobody sees a client's address; remove \
                 `transparent`, or use addresses"
            ),
            Self::KnownBelowAll { known, all: Some(all) } => write!(
                f,
                "`max_known` {known} is below `max_connections` {all}, which holds for all; raise it"
            ),
            Self::KnownBelowAll { known, all: None } => write!(
                f,
                "`max_known` {known} says nothing without a limit for all; add `max_connections`"
            ),

            Self::Tls(error) => error.fmt(f),

            Self::InvalidDuration { key, found } => {
                write!(f, "`{key}` is no duration: `{found}`; write one like \"500ms\" or \"1s\"")
            }
            Self::DurationWithoutUnit { key, found } => write!(
                f,
                "`{key}` lacks a unit; write \"{found}ms\" or \"{found}s\", with the quotes"
            ),
            Self::Check(error) => error.fmt(f),
            Self::Notify(error) => error.fmt(f),
        }
    }
}

/// The address family, as an operator calls it.
const fn family(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}

/// The first of a list: a message must fit a terminal even if there are thousands.
fn some_of<T: ToString>(all: &[T]) -> String {
    const SHOWN: usize = 8;
    let mut text = all.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if all.len() > SHOWN {
        text.push_str(", ...");
    }
    text
}
