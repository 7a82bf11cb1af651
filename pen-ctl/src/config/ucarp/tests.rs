//! ucarp's command lines, by table: what each option changes, and what is said of what is wrong.

use std::collections::BTreeSet;

use super::*;
use crate::config::tests::FakeSystem;

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn said(line: &str) -> Result<Wish, Vec<Problem>> {
    read(&words(line), &FakeSystem::new())
}

/// What a line means that is fine but for its `more`.
fn run(more: &str) -> Invocation {
    let line = format!("{LEAST} {more}");
    match said(&line) {
        Ok(Wish::Run(invocation)) => *invocation,
        other => panic!("{line}: {other:?}"),
    }
}

fn group(more: &str) -> Carp {
    run(more).config.carp.remove(0)
}

const LEAST: &str = "-i eth0 -s 10.1.1.1 -v 1 -o /etc/pen/love -a 10.1.1.252";
const SCRIPTS: &str = "-u /etc/pen/up.sh -d /etc/pen/down.sh";

#[test]
fn the_example_of_ucarps_help_means_what_ucarp_does() {
    let line = "--interface=eth0 --srcip=10.1.1.1 --vhid=1 --pass=mypassword --addr=10.1.1.252 \
                --upscript=/etc/pen/up.sh --downscript=/etc/pen/down.sh";
    let Ok(Wish::Run(invocation)) = said(line) else { panic!("{:?}", said(line)) };
    let expected = Carp {
        name: "ucarp".into(),
        interface: "eth0".into(),
        vhid: 1,
        advbase: Duration::from_secs(1),
        advskew: 0,
        deadratio: 3,
        preempt: false,
        preempt_delay: Duration::ZERO,
        neutral: false,
        auth: CarpAuth::Ucarp { password: Secret(b"mypassword".to_vec()) },
        transport: CarpTransport::Multicast { group: DEFAULT_GROUP },
        peers: vec![],
        sources: vec![[10, 1, 1, 1].into()],
        mac: CarpMac::Ucarp,
        tie_break: TieBreak::UcarpLe,
        ignore_link: false,
        sync_group: None,
        announce_refresh: None,
        hooks: Hooks {
            up: Some("/etc/pen/up.sh".into()),
            down: Some("/etc/pen/down.sh".into()),
            xparam: None,
            down_at_exit: false,
        },
        addresses: AddressesBy::Hooks,
        demotion: Demotion {
            no_backend: 0,
            xdp_detached: 0,
            sync_incomplete: 240,
            interfaces: vec![],
            services: vec![],
        },
    };
    assert_eq!(invocation.config.carp, [expected]);
    assert_eq!(invocation.warnings, [Warning::VisiblePassword, Warning::AddressStays]);
    let Config { vips, interfaces, services, .. } = &invocation.config;
    assert_eq!(vips[0].address, IpAddr::from([10, 1, 1, 252]));
    assert_eq!((vips[0].carp.as_deref(), vips[0].interface.as_str()), (Some("ucarp"), "eth0"));
    assert_eq!(interfaces[0].xdp, XdpMode::Off, "ucarp needs no XDP");
    assert!(services.is_empty());
    assert!(!invocation.daemonize && !invocation.debug);
    assert_eq!(invocation.facility, Some(("daemon", 3)));
}

#[test]
fn every_option_has_a_short_and_a_long_form_that_mean_the_same() {
    let pairs = [
        ("-P", "--preempt"),
        ("-n", "--neutral"),
        ("-S", "--ignoreifstate"),
        ("-M", "--nomcast"),
        ("-D", "--debug"),
        ("-B", "--daemonize"),
        ("-z", "--shutdown"),
        ("-b 2", "--advbase=2"),
        ("-b2", "--advbase 2"),
        ("-k 100", "--advskew 100"),
        ("-r 5", "--deadratio=5"),
        ("-x extra", "--xparam=extra"),
        ("-f local3", "--facility=local3"),
        ("-v 9", "--vhid=9"),
        ("-i eth1", "--interface=eth1"),
        ("-s 10.1.1.9", "--srcip=10.1.1.9"),
        ("-a 10.1.1.99", "--addr=10.1.1.99"),
        ("-o /etc/pen/cr", "--passfile=/etc/pen/cr"),
        ("-p word", "--pass=word"),
        (SCRIPTS, "--upscript=/etc/pen/up.sh --downscript=/etc/pen/down.sh"),
        ("-Pz -nM", "--pre --shut --neu --nom"),
        ("--mcast=239.0.0.1", "--mcastip=239.0.0.1"),
    ];
    let plain = run("");
    for (short, long) in pairs {
        assert_eq!(run(short), run(long), "{short}");
        assert_ne!(run(short), plain, "{short} changes something");
    }
}

#[test]
fn options_mean_what_they_say() {
    assert!(group("-P").preempt);
    assert!(group("-n").neutral);
    assert!(group("-S").ignore_link);
    assert!(run("-D").debug);
    assert!(run("-B").daemonize);
    assert!(group("-z").hooks.down_at_exit);
    assert_eq!(group("-b 255 -k 254").advbase, Duration::from_secs(255));
    assert_eq!((group("-k 255").advskew, group("-r 2").deadratio), (255, 2));
    assert_eq!(group("-x a-b").hooks.xparam.as_deref(), Some("a-b"));
    let broadcast = CarpTransport::Broadcast { group: Ipv4Addr::new(239, 0, 0, 1) };
    assert_eq!(group("-M --mcastip 239.0.0.1").transport, broadcast);
    assert_eq!(run("-f none").facility, None);
    assert_eq!(run("-f local7").facility, Some(("local7", 23)));
    assert_eq!(group("").auth, CarpAuth::Ucarp { password: Secret(b"love".to_vec()) });
    assert_eq!(group("").addresses, AddressesBy::Pen, "nobody else would add it");
    assert_eq!(group(SCRIPTS).addresses, AddressesBy::Hooks);
}

#[test]
fn numbers_are_decimal_hexadecimal_or_octal_and_the_last_one_counts() {
    for (text, vhid) in [("0x2a", 42), ("0X2A", 42), ("052", 42), ("42", 42), ("+42", 42)] {
        assert_eq!(group(&format!("-v {text}")).vhid, vhid, "{text}");
    }
    assert_eq!(group("-k 5 -k 010 --advskew=0xb").advskew, 11);
}

/// Lines behind [`LEAST`], and what is said of them.
#[rustfmt::skip]
const REFUSED: &[(&str, &[&str])] = &[
    ("-b 300", &["--advbase: 300 is not between 0 and 255, all that an advertisement has room for; ucarp would truncate it to 44"]),
    ("-k 256", &["--advskew: 256 is not between 0 and 255, all that an advertisement has room for; ucarp would truncate it to 0"]),
    ("-m 224.0.0.18", &["-m: ucarp's help has it, but ucarp never took it; write --mcastip=IP"]),
    ("-b 0", &["--advbase and --advskew are both 0, so that there is no time between two advertisements; raise one"]),
    ("-b 255 -k 255", &["--advbase and --advskew are both 255, by which a node says farewell; lower one"]),
    ("-r 0", &["--deadratio: 0 is not between 1 and 255"]),
    ("-v 0 -k -1", &[
        "--vhid: 0 is not between 1 and 255",
        "--advskew: `-1` is no number; use one up to 255",
    ]),
    ("-b 1s", &["--advbase: `1s` is no number; use one up to 255"]),
    ("-i eth9", &["this machine has no interface `eth9`; it has lo, eth0, eth1"]),
    ("-s localhost -a 224.0.0.1", &[
        "--srcip: `localhost` is no IPv4 address of a host; write one like 10.1.1.252",
        "--addr: `224.0.0.1` is no IPv4 address of a host; write one like 10.1.1.252",
    ]),
    ("-a 2001:db8::1", &["--addr: 2001:db8::1 is IPv6, which ucarp does not know; write a configuration with `auth = \"bsd\"` or \"sha256\", see docs/carp.md"]),
    ("-a 10.1.1.1", &["--srcip and --addr are both 10.1.1.1; --srcip is the address that stays on this node"]),
    ("--mcastip=10.0.0.1", &["--mcastip: `10.0.0.1` is no IPv4 multicast address; leave it out for 224.0.0.18"]),
    ("-o /etc/pen/none", &["--passfile: /etc/pen/none cannot be read: entity not found"]),
    ("-o /etc/pen/folder", &["--passfile: /etc/pen/folder cannot be read: it is not a regular file"]),
    ("-o /etc/pen/nothing", &["the password is empty; use 1 to 19 bytes"]),
    ("-o /etc/pen/20-bytes", &["the password has 20 bytes, and ucarp takes at most 19; shorten it on all nodes"]),
    ("-f locla3", &["--facility: unknown `locla3`; use none or one of kern, user, mail, daemon, auth, security, syslog, lpr, news, uucp, cron, authpriv, ftp, local0, local1, local2, local3, local4, local5, local6, local7"]),
    ("--syslog=daemon", &["unknown option --syslog; did you mean --facility?"]),
    ("--prempt -y", &["unknown option --prempt; did you mean --preempt?", "unknown option -y; see --help"]),
    ("--ne --n", &["--n may be --neutral or --nomcast; write it out"]),
    ("--preempt=yes", &["--preempt takes no value"]),
    ("-P -k", &["--advskew lacks its value"]),
    ("--advskew", &["--advskew lacks its value"]),
];

fn refused(line: &str) -> Vec<Problem> {
    said(line).err().unwrap_or_default()
}

#[test]
fn what_ucarp_would_truncate_or_ignore_is_refused_with_the_reason() {
    for (more, expected) in REFUSED {
        let problems = refused(&format!("{LEAST} {more}"));
        let texts: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(texts, *expected, "{more}");
    }
    let long = refused("-i eth0 -s 10.1.1.1 -v 1 -a 10.1.1.2 -p 01234567890123456789");
    assert_eq!(long, [Problem::PasswordTooLong { length: 20 }]);
}

#[test]
fn everything_that_is_missing_is_named_at_once() {
    let texts: Vec<_> = refused("").iter().map(ToString::to_string).collect();
    let expected = [
        "--srcip is missing; add --srcip=10.1.1.1",
        "--addr is missing; add --addr=10.1.1.252",
        "--vhid is missing; add --vhid=1",
        "--passfile is missing; add --passfile=/etc/ucarp.password",
    ];
    assert_eq!(texts, expected);
    let system = FakeSystem { interfaces: &["lo"], ..FakeSystem::new() };
    let line = "-s 10.1.1.1 -v 1 -o /etc/pen/love -a 10.1.1.252";
    assert_eq!(
        read(&words(line), &system).unwrap_err()[0].to_string(),
        "--interface is missing; add --interface=eth0"
    );
}

/// Lines, and the beginning of each warning.
#[rustfmt::skip]
const WARNED: &[(&str, &[&str])] = &[
    ("", &["without --upscript the address is added"]),
    (SCRIPTS, &["without --shutdown the address stays"]),
    ("-z -u /etc/pen/up.sh -d /etc/pen/down.sh", &[]),
    ("-u /etc/pen/up.sh", &["without --downscript nothing takes the address away"]),
    ("-z -u /etc/pen/up.sh", &["--shutdown has no effect without --downscript"]),
    ("-z -u /etc/pen/text -d down.sh", &["the script /etc/pen/text cannot be run now (not executable)", "the script down.sh cannot be run now"]),
    ("-z -u /etc/pen/up.sh -d /etc/pen/down.sh -p pass", &["--pass is ignored beside --passfile"]),
    ("-z -u /etc/pen/up.sh -d /etc/pen/down.sh -b 0 -k 20", &["with --advbase=0 a real ucarp peer"]),
    ("-z -u /etc/pen/up.sh -d /etc/pen/down.sh -r 1", &["with --deadratio=1 one advertisement"]),
    ("-z -u /etc/pen/up.sh -d /etc/pen/down.sh -o /etc/pen/cr", &["the password file /etc/pen/cr has mode 0644", "the password ends in a carriage return"]),
    ("-z -u /etc/pen/up.sh -d /etc/pen/down.sh start -- --now", &["ignored: start --now"]),
];

fn texts(warnings: &[Warning]) -> Vec<String> {
    warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn what_may_surprise_is_warned_of() {
    for (more, expected) in WARNED {
        let found = texts(&run(more).warnings);
        assert_eq!(found.len(), expected.len(), "{more}: {found:?}");
        for (found, expected) in found.iter().zip(*expected) {
            assert!(found.starts_with(expected), "{found}");
        }
    }
    let Ok(Wish::Run(first)) = said("-s 10.1.1.1 -v 1 -o /etc/pen/love -a 10.1.1.252") else {
        panic!("the first interface will do");
    };
    assert_eq!(first.config.carp[0].interface, "eth0");
    assert_eq!(texts(&first.warnings)[0], "no --interface is given; using the first one, eth0");
}

#[test]
fn every_problem_and_warning_is_there_for_a_line() {
    let variant = |text: String| text.chars().take_while(|c| c.is_alphanumeric()).collect();
    let least = |more: &str| format!("{LEAST} {more}");
    let lines = REFUSED.iter().map(|(more, _)| least(more)).chain([String::new()]);
    let lines =
        lines.chain(["-i eth0 -s 10.1.1.1 -v 1 -a 10.1.1.2 -p 01234567890123456789".into()]);
    let problems = lines.flat_map(|line| refused(&line)).map(|one| variant(format!("{one:?}")));
    let warned = WARNED.iter().map(|(more, _)| run(more));
    let more =
        ["-i eth0 -s 10.1.1.1 -v 1 -p x -a 10.1.1.252", "-s 10.1.1.1 -v 1 -p x -a 10.1.1.252"];
    let warned = warned.chain(more.into_iter().filter_map(|line| match said(line) {
        Ok(Wish::Run(invocation)) => Some(*invocation),
        _ => None,
    }));
    let relative = FakeSystem { any_script: true, ..FakeSystem::new() };
    let relative = match read(&words(&least("-u up.sh")), &relative) {
        Ok(Wish::Run(invocation)) => *invocation,
        other => panic!("{other:?}"),
    };
    let warnings = warned.chain([relative]).flat_map(|invocation| invocation.warnings);
    let warnings = warnings.map(|one| variant(format!("{one:?}")));
    let source = include_str!("problem.rs");
    let declared = |name: &str| -> BTreeSet<String> {
        let (_, body) = source.split_once(&format!("pub enum {name} {{")).unwrap();
        let (body, _) = body.split_once("\n}").unwrap();
        let lines = body.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.map(|line| line.chars().take_while(|c| c.is_alphanumeric()).collect()).collect()
    };
    assert_eq!(problems.collect::<BTreeSet<String>>(), declared("Problem"));
    assert_eq!(warnings.collect::<BTreeSet<String>>(), declared("Warning"));
}

#[test]
fn help_names_every_option_of_ucarp() {
    let Ok(Wish::Help(text)) = said("-P --help") else { panic!("help comes first") };
    for long in [
        "interface",
        "srcip",
        "mcastip",
        "vhid",
        "pass",
        "passfile",
        "preempt",
        "neutral",
        "addr",
        "help",
        "advbase",
        "advskew",
        "upscript",
        "downscript",
        "deadratio",
        "debug",
        "shutdown",
        "daemonize",
        "ignoreifstate",
        "nomcast",
        "facility",
        "xparam",
    ] {
        assert!(text.contains(&format!("--{long}")), "{long}\n{text}");
    }
}
