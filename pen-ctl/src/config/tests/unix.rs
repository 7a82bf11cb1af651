//! Services and backends that are Unix sockets: what is accepted, and what is told of the rest.

use super::errors::Case;
use super::{FakeSystem, parse_with_base};
use crate::config::{
    Check, CheckKind, Endpoint, Ports, Protocol, Service, SocketFile, System, UnixPath,
};

/// A proxied service that is fine but for what the snippet says, from line 5 on.
macro_rules! unix {
    ($listen:literal, $rest:literal) => {
        concat!(
            "[[service]]\nname = \"web\"\nmode = \"proxy\"\nlisten = \"",
            $listen,
            "\"\n",
            $rest
        )
    };
}

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
    Case(unix!("unix:run/web.sock", r#"backends = ["unix:app.sock"]"#), &[
        "4:10: the socket `run/web.sock` is not an absolute path; begin it with `/`",
        "5:13: the socket `app.sock` is not an absolute path; begin it with `/`",
    ]),
    Case(unix!("unix:/run/web/", r#"backends = ["unix:/"]"#), &[
        "4:10: the socket `/run/web/` is a folder; add the name of a file",
        "5:13: the socket `/` is a folder; add the name of a file",
    ]),
    Case(unix!("unix:/run/..", r#"backends = ["unix:/run/a b"]"#), &[
        "4:10: the socket `/run/..` is a folder; add the name of a file",
        r#"5:13: the socket "/run/a b" has blanks or control characters, which logs and lists could not show; use another path"#,
    ]),
    Case(unix!("unix:/run/\\u0000", r#"backends = ["unix:/run/a\n"]"#), &[
        r#"4:10: the socket "/run/\0" has blanks or control characters, which logs and lists could not show; use another path"#,
        r#"5:13: the socket "/run/a\n" has blanks or control characters, which logs and lists could not show; use another path"#,
    ]),
    Case(unix!("unix:/34567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789", r#"backends = ["unix:/run/a"]"#), &[
        "4:10: the socket's path has 108 bytes, a Unix socket allows 107; shorten it",
    ]),
    // Only a proxy, and only streams.
    Case(web!("unix:/run/web.sock", r#"backends = ["10.0.0.11:80"]"#), &[
        r#"3:10: `unix:` needs a proxy, and mode `dsr` leaves connections alone; remove it, or use `mode = "proxy"`"#,
    ]),
    Case(web!("192.0.2.10:80", r#"backends = ["10.0.0.11", "unix:/run/a"]
emergency = "unix:/run/b"
mode = "nat""#), &[
        r#"4:26: `unix:` needs a proxy, and mode `nat` leaves connections alone; remove it, or use `mode = "proxy"`"#,
        r#"5:13: `unix:` needs a proxy, and mode `nat` leaves connections alone; remove it, or use `mode = "proxy"`"#,
    ]),
    Case(unix!("unix:/run/web.sock", "protocol = \"udp\"\nbackends = [\"10.0.0.11:53\"]"), &[
        r#"4:10: unix:/run/web.sock is a Unix socket, which carries streams and no datagrams; use `protocol = "tcp"`, or an address"#,
    ]),
    Case(unix!("192.0.2.10:53", "protocol = \"udp\"\nbackends = [\"unix:/run/dns\"]"), &[
        r#"6:13: unix:/run/dns is a Unix socket, which carries streams and no datagrams; use `protocol = "tcp"`, or an address"#,
    ]),
    Case(web!("192.0.2.10:80", "listen_mode = \"0600\"\nbackends = [\"10.0.0.11\"]"), &[
        r#"4:15: `listen_mode` needs a proxy, and mode `dsr` leaves connections alone; remove it, or use `mode = "proxy"`"#,
    ]),
    // The file.
    Case(unix!("192.0.2.10:80", "listen_mode = \"0600\"\nlisten_owner = \"app\"\nbackends = [\"10.0.0.11\"]"), &[
        "5:15: `listen_mode` has no effect without a Unix socket in `listen`; remove it, or add that",
        "6:16: `listen_owner` has no effect without a Unix socket in `listen`; remove it, or add that",
    ]),
    Case(unix!("unix:/run/web.sock", "listen_mode = 660\nbackends = [\"unix:/run/a\"]"), &[
        "5:15: expected a string in quotes, found an integer",
    ]),
    Case(unix!("unix:/run/web.sock", "listen_mode = \"rw\"\nbackends = [\"unix:/run/a\"]"), &[
        r#"5:15: `rw` is no file mode; write octal digits in quotes, such as "0660", up to "0777""#,
    ]),
    Case(unix!("unix:/run/web.sock", "listen_mode = \"1660\"\nlisten_owner = \"app:\"\nbackends = [\"unix:/run/a\"]"), &[
        r#"5:15: `1660` is no file mode; write octal digits in quotes, such as "0660", up to "0777""#,
    ]),
    Case(unix!("unix:/run/web.sock", "listen_owner = \"app:nobody\"\nbackends = [\"unix:/run/a\"]"), &[
        r#"5:16: `app:nobody` names no user and group of this machine; write "USER", "USER:GROUP" or ":GROUP""#,
    ]),
    Case(unix!("unix:/run/web.sock", "listen_owner = \":\"\nbackends = [\"unix:/run/a\"]"), &[
        r#"5:16: `:` names no user and group of this machine; write "USER", "USER:GROUP" or ":GROUP""#,
    ]),
    // What cannot be together.
    Case(unix!("unix:/run/web.sock", "backends = [\"10.0.0.11\", \"2001:db8::9\"]"), &[
        r#"5:13: the service listens on a Unix socket, so that the backend 10.0.0.11 has no port to take over; write "10.0.0.11:80""#,
        r#"5:26: the service listens on a Unix socket, so that the backend 2001:db8::9 has no port to take over; write "[2001:db8::9]:80""#,
    ]),
    Case(unix!("unix:/run/web.sock", r#"backends = ["unix:/run/web.sock"]"#), &[
        "5:13: the service listens on unix:/run/web.sock itself, which would be a loop; write the backend's own socket",
    ]),
    Case(unix!("192.0.2.10:80", "backends = [\"unix:/run/a\"]\ncheck = { type = \"icmp\" }"), &[
        "6:9: the check needs an address, but the backend unix:/run/a is a Unix socket; use type \"tcp\", \"http\", \"smtp\" or \"exec\"",
    ]),
    Case(unix!("192.0.2.10:80", "backends = [\"10.0.0.11\", \"unix:/run/a\"]\ncheck = { port = 81 }"), &[
        "6:9: the check has a port, but the backend unix:/run/a is a Unix socket, where it connects as clients do; leave `port` out",
    ]),
    Case(unix!("192.0.2.10:80", "transparent = true\nbackends = [\"10.0.0.11\", \"unix:/run/a\"]"), &[
        "5:15: unix:/run/a is a Unix socket, over which nobody sees a client's address; remove `transparent`, or use addresses",
    ]),
    Case(unix!("unix:/run/web.sock", "transparent = true\nbackends = [\"10.0.0.11:80\"]"), &[
        "5:15: unix:/run/web.sock is a Unix socket, over which nobody sees a client's address; remove `transparent`, or use addresses",
    ]),
    Case(unix!("192.0.2.10:80", "backends = [\"unix:/run/a\", { address = \"unix:/run/a\", name = \"b\" }]"), &[
        "5:40: backend `unix:/run/a` is given twice, also at /etc/pen/0.toml:5:13; remove or change one",
    ]),
    Case(concat!(unix!("unix:/run/web.sock", "backends = [\"unix:/run/a\"]\n"), r#"[[service]]
name = "b"
mode = "proxy"
listen = "unix:/run/web.sock"
backends = ["unix:/run/a"]"#), &[
        "9:10: listen `unix:/run/web.sock` is given twice, also at /etc/pen/0.toml:4:10; remove or change one",
    ]),
];

fn service(rest: &str) -> Service {
    let text = format!("[[service]]\nname = \"web\"\nmode = \"proxy\"\n{rest}\n");
    parse_with_base(&text).expect("valid").services.remove(0)
}

fn file(service: &Service) -> SocketFile {
    service.proxy.as_ref().and_then(|proxy| proxy.socket.clone()).expect("it has one")
}

#[test]
fn a_proxy_listens_on_a_socket_and_leads_to_sockets_and_addresses() {
    let web = service(
        r#"listen = "unix:/run/web.sock"
        backends = ["unix:/run/a", { address = "unix:/run/b", name = "b", weight = 2 }, "10.0.0.1:80"]
        emergency = { address = "unix:/run/e", name = "e" }
        abuse = "unix:/run/x""#,
    );
    let path = UnixPath::new("/run/web.sock");
    assert_eq!(web.listens(), Endpoint::Unix(path.clone()));
    assert_eq!((web.listen.address, web.listen.ports), (path.stand_in(), Ports::ANY));
    assert_eq!(file(&web), SocketFile { path, mode: 0o660, owner: None, group: None });
    let all: Vec<_> = web.all_backends().map(|found| (&*found.name, found.endpoint())).collect();
    let unix = |path| Endpoint::Unix(UnixPath::new(path));
    let inet = Endpoint::Inet("10.0.0.1:80".parse().unwrap());
    assert_eq!(
        all,
        [
            ("unix:/run/a", unix("/run/a")),
            ("b", unix("/run/b")),
            ("10.0.0.1:80", inet),
            ("e", unix("/run/e"))
        ]
    );
    let abuse = web.proxy.and_then(|proxy| proxy.abuse).unwrap();
    assert_eq!(abuse.endpoint(), unix("/run/x"));
    assert!(matches!(web.check, Check { kind: CheckKind::Tcp, port: None, .. }));
}

#[test]
fn backends_of_a_virtual_address_may_be_sockets() {
    let web = service("listen = \"192.0.2.10:80\"\nbackends = [\"unix:/run/a\", \"10.0.0.1\"]");
    assert_eq!(web.listens().to_string(), "192.0.2.10:80");
    assert_eq!(web.protocol, Protocol::Tcp);
    let all: Vec<_> = web.backends.iter().map(|found| found.endpoint().to_string()).collect();
    assert_eq!(all, ["unix:/run/a", "10.0.0.1:80"]);
}

#[test]
fn the_file_of_a_socket_has_a_mode_and_an_owner() {
    for (keys, mode, owner, group) in [
        ("", 0o660, None, None),
        ("listen_mode = \"0600\"", 0o600, None, None),
        ("listen_mode = \"777\"", 0o777, None, None),
        ("listen_owner = \"app\"", 0o660, Some("app"), None),
        ("listen_owner = \"app:www\"", 0o660, Some("app"), Some("www")),
        ("listen_owner = \":www\"", 0o660, None, Some("www")),
    ] {
        let text = format!("listen = \"unix:/run/web\"\nbackends = [\"unix:/run/a\"]\n{keys}");
        let found = file(&service(&text));
        let (owner, group) = (owner.map(str::to_owned), group.map(str::to_owned));
        assert_eq!((found.mode, found.owner, found.group), (mode, owner, group), "{keys}");
    }
    assert!(!FakeSystem::new().user_exists("nobody"));
}
