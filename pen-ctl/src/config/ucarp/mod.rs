//! ucarp's command line, as the configuration that means the same: `pend carp` is started where
//! ucarp was, with the arguments that it had. Where ucarp did something that nobody can have wanted
//! (it made 44 of 300), this refuses it; where it did something that some may rely on, this warns.

mod options;
mod problem;
#[cfg(test)]
mod tests;
mod toml;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::problem::{Problem, Warning};

use self::options::Opt;
use super::carp::password;
use crate::config::{
    AddressesBy, AuthWord, Carp, CarpAuth, CarpMac, CarpTransport, Config, Control, DEFAULT_GROUP,
    Demotion, Hooks, Interface, Node, Ports, Secret, Sizes, System, TieBreak, Vip, XdpMode,
};

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// An explanation of the options.
    Help(String),
    /// To run.
    Run(Box<Invocation>),
}

/// How to run in the place of a ucarp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// One group with one address, and nothing that is balanced.
    pub config: Config,
    /// Run in the background.
    pub daemonize: bool,
    /// Say more.
    pub debug: bool,
    /// Facility of syslog; `None` for no syslog.
    pub facility: Option<Facility>,
    /// Where the password came from.
    pub password_file: Option<PathBuf>,
    /// What the operator should know.
    pub warnings: Vec<Warning>,
}

/// A facility of syslog: its name, and its number as in RFC 5424, table 1.
pub type Facility = (&'static str, u8);

#[rustfmt::skip]
const FACILITIES: &[Facility] = &[
    ("kern", 0), ("user", 1), ("mail", 2), ("daemon", 3), ("auth", 4), ("security", 4), ("syslog", 5), ("lpr", 6),
    ("news", 7), ("uucp", 8), ("cron", 9), ("authpriv", 10), ("ftp", 11), ("local0", 16), ("local1", 17),
    ("local2", 18), ("local3", 19), ("local4", 20), ("local5", 21), ("local6", 22), ("local7", 23),
];
const DAEMON: Facility = ("daemon", 3);

/// Name of the one group.
const GROUP: &str = "ucarp";

/// Reads ucarp's arguments, without the name of the program.
///
/// # Errors
///
/// Everything that keeps it from running.
pub fn read(args: &[String], system: &dyn System) -> Result<Wish, Vec<Problem>> {
    let mut problems = Vec::new();
    let (found, others) = options::read(args, &mut problems);
    if found.iter().any(|(opt, _)| *opt == Opt::Help) {
        return Ok(Wish::Help(options::help()));
    }
    let mut reader = Reader { found, system, problems, warnings: Vec::new() };
    if !others.is_empty() {
        reader.warnings.push(Warning::IgnoredWords { words: others });
    }
    let invocation = reader.invocation();
    match invocation {
        Some(invocation) if reader.problems.is_empty() => {
            let warnings = reader.warnings;
            Ok(Wish::Run(Box::new(Invocation { warnings, ..invocation })))
        }
        _ => Err(reader.problems),
    }
}

struct Reader<'a> {
    found: Vec<(Opt, String)>,
    system: &'a dyn System,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
}

impl Reader<'_> {
    fn invocation(&mut self) -> Option<Invocation> {
        let interface = self.interface();
        let source = self.address(Opt::Srcip, "10.1.1.1");
        let address = self.address(Opt::Addr, "10.1.1.252");
        let vhid = self.vhid();
        let password = self.password();
        let timing = self.timing();
        let transport = self.transport();
        let hooks = self.hooks();
        let facility = self.facility();
        let name = self.system.host_name().unwrap_or_else(|_| GROUP.to_owned());
        let (interface, address, source) = (interface?, address?, source?);
        if source == address {
            self.problems.push(Problem::SourceIsVip { address: source });
        }
        let (advbase, advskew, deadratio) = timing?;
        let (addresses, hooks) = hooks;
        let carp = Carp {
            name: GROUP.to_owned(),
            interface: interface.clone(),
            vhid: vhid?,
            advbase: Duration::from_secs(advbase.into()),
            advskew,
            deadratio,
            preempt: self.has(Opt::Preempt),
            preempt_delay: Duration::ZERO,
            neutral: self.has(Opt::Neutral),
            auth: CarpAuth::Ucarp { password: password? },
            transport: transport?,
            peers: Vec::new(),
            sources: vec![source.into()],
            mac: CarpMac::Ucarp,
            tie_break: TieBreak::UcarpLe,
            ignore_link: self.has(Opt::Ignoreifstate),
            sync_group: None,
            announce_refresh: None,
            hooks,
            addresses,
            // ucarp knows no reason but its own trouble to send.
            demotion: Demotion { xdp_detached: 0, ..Demotion::default() },
        };
        let vip = Vip {
            address: address.into(),
            interface: interface.clone(),
            carp: Some(GROUP.to_owned()),
            echo: false,
            acl: None,
            syn_rate: None,
        };
        let socket = format!("/run/pen/carp-{interface}-{}.sock", carp.vhid);
        let config = Config {
            node: Node {
                name,
                secret: None,
                masquerade_ports: Ports { first: 10240, last: 32767 },
                sizes: Sizes::default(),
                drain_at_exit: None,
                resolvers: Vec::new(),
            },
            interfaces: vec![Interface { name: interface, xdp: XdpMode::Off }],
            control: Control { socket: socket.into() },
            access_log: None,
            responder: None,
            acls: Vec::new(),
            carp: vec![carp],
            sync: None,
            vips: vec![vip],
            services: Vec::new(),
            notify: Vec::new(),
        };
        Some(Invocation {
            config,
            daemonize: self.has(Opt::Daemonize),
            debug: self.has(Opt::Debug),
            facility: facility?,
            password_file: self.value(Opt::Passfile).map(PathBuf::from),
            warnings: Vec::new(),
        })
    }

    fn has(&self, wanted: Opt) -> bool {
        self.found.iter().any(|(opt, _)| *opt == wanted)
    }

    /// The value of an option; of several the last one counts, as with getopt.
    fn value(&self, wanted: Opt) -> Option<String> {
        self.found.iter().rev().find(|(opt, _)| *opt == wanted).map(|(_, value)| value.clone())
    }

    fn refuse<T>(&mut self, problem: Problem) -> Option<T> {
        self.problems.push(problem);
        None
    }

    fn interface(&mut self) -> Option<String> {
        let existing = self.system.interfaces();
        match self.value(Opt::Interface) {
            Some(name) if self.system.interface_exists(&name) => Some(name),
            Some(name) => self.refuse(Problem::AbsentInterface { name, existing }),
            None => match existing.iter().find(|name| *name != "lo") {
                Some(first) => {
                    self.warnings.push(Warning::FirstInterface { name: first.clone() });
                    Some(first.clone())
                }
                None => {
                    self.refuse(Problem::Lacks { option: Opt::Interface.name(), example: "eth0" })
                }
            },
        }
    }

    fn address(&mut self, opt: Opt, example: &'static str) -> Option<Ipv4Addr> {
        let option = opt.name();
        let Some(text) = self.value(opt) else {
            return self.refuse(Problem::Lacks { option, example });
        };
        match text.parse::<Ipv4Addr>() {
            Ok(address)
                if !(address.is_unspecified()
                    || address.is_loopback()
                    || address.is_multicast()
                    || address.is_broadcast()) =>
            {
                Some(address)
            }
            Ok(_) => self.refuse(Problem::UnusableAddress { option, text }),
            Err(_) if text.parse::<IpAddr>().is_ok() => self.refuse(Problem::Ipv6 { option, text }),
            Err(_) => self.refuse(Problem::UnusableAddress { option, text }),
        }
    }

    /// A number as strtoul(3) reads it with base 0, but nothing else behind it.
    fn number(&mut self, opt: Opt, min: u64, max: u64) -> Option<Option<u64>> {
        let Some(text) = self.value(opt) else { return Some(None) };
        let option = opt.name();
        let (digits, radix) = match text.as_str() {
            hex if hex.starts_with("0x") || hex.starts_with("0X") => (&hex[2..], 16),
            octal if octal.len() > 1 && octal.starts_with('0') => (&octal[1..], 8),
            decimal => (decimal, 10),
        };
        // `from_str_radix` takes a sign.
        let Ok(number) = u64::from_str_radix(digits.trim_start_matches('+'), radix) else {
            return self.refuse(Problem::NoNumber { option, text, max });
        };
        if (min..=max).contains(&number) {
            return Some(Some(number));
        }
        // The others are checked by ucarp as well, or kept as they are.
        let cut = matches!(opt, Opt::Advbase | Opt::Advskew).then_some(number % 256);
        self.refuse(Problem::OutOfRange { option, number, min, max, cut })
    }

    fn vhid(&mut self) -> Option<u8> {
        match self.number(Opt::Vhid, 1, 255)? {
            Some(vhid) => u8::try_from(vhid).ok(),
            None => self.refuse(Problem::Lacks { option: Opt::Vhid.name(), example: "1" }),
        }
    }

    fn timing(&mut self) -> Option<(u8, u8, u32)> {
        let base = self.number(Opt::Advbase, 0, 255);
        let skew = self.number(Opt::Advskew, 0, 255);
        let ratio = self.number(Opt::Deadratio, 1, 255);
        let byte = |number: Option<u64>, default| {
            number.map_or(Some(default), |number| u8::try_from(number).ok())
        };
        let (base, skew) = (byte(base?, 1)?, byte(skew?, 0)?);
        match (base, skew) {
            (0, 0) => return self.refuse(Problem::NoInterval),
            (255, 255) => return self.refuse(Problem::IntervalOfFarewell),
            (0, _) => self.warnings.push(Warning::SubSecond),
            _ => {}
        }
        let ratio = ratio?.map_or(Some(3), |ratio| u32::try_from(ratio).ok())?;
        if ratio == 1 {
            self.warnings.push(Warning::RatioOfOne);
        }
        Some((base, skew, ratio))
    }

    fn transport(&mut self) -> Option<CarpTransport> {
        let group = match self.value(Opt::Mcast) {
            None => DEFAULT_GROUP,
            Some(text) => match text.parse::<Ipv4Addr>() {
                Ok(group) if group.is_multicast() => group,
                _ => return self.refuse(Problem::NoMulticastGroup { text }),
            },
        };
        Some(match self.has(Opt::Nomcast) {
            true => CarpTransport::Broadcast { group },
            false => CarpTransport::Multicast { group },
        })
    }

    fn facility(&mut self) -> Option<Option<Facility>> {
        match self.value(Opt::Facility) {
            None => Some(Some(DAEMON)),
            Some(name) if name == "none" => Some(None),
            Some(name) => match FACILITIES.iter().find(|(known, _)| *known == name) {
                Some(facility) => Some(Some(*facility)),
                None => {
                    let valid = FACILITIES.iter().map(|(name, _)| *name).collect();
                    self.refuse(Problem::UnknownFacility { name, valid })
                }
            },
        }
    }

    // === Password ===

    fn password(&mut self) -> Option<Secret> {
        let given = match (self.value(Opt::Passfile), self.value(Opt::Pass)) {
            (Some(file), pass) => {
                if pass.is_some() {
                    self.warnings.push(Warning::TwoPasswords);
                }
                self.password_file(&PathBuf::from(file))?
            }
            (None, Some(pass)) => {
                self.warnings.push(Warning::VisiblePassword);
                pass.into_bytes()
            }
            (None, None) => {
                let option = Opt::Passfile.name();
                return self.refuse(Problem::Lacks { option, example: "/etc/ucarp.password" });
            }
        };
        match password(&given, AuthWord::Ucarp) {
            Ok(password) => {
                if password.0.contains(&b'\r') {
                    self.warnings.push(Warning::CarriageReturn);
                }
                Some(password)
            }
            Err(0) => self.refuse(Problem::EmptyPassword),
            Err(length) => self.refuse(Problem::PasswordTooLong { length }),
        }
    }

    fn password_file(&mut self, file: &Path) -> Option<Vec<u8>> {
        match self.system.secret(file) {
            Ok(secret) if !secret.regular => {
                let reason = "it is not a regular file".to_owned();
                self.refuse(Problem::PasswordUnreadable { file: file.to_owned(), reason })
            }
            Ok(secret) => {
                if secret.mode & 0o077 != 0 {
                    let (file, mode) = (file.to_owned(), secret.mode);
                    self.warnings.push(Warning::OpenPasswordFile { file, mode });
                }
                Some(secret.content)
            }
            Err(error) => {
                let reason = error.to_string();
                self.refuse(Problem::PasswordUnreadable { file: file.to_owned(), reason })
            }
        }
    }

    // === Scripts ===

    /// Who adds the address: the up script if there is one. What ucarp did without one, to
    /// advertise an address that nobody has, is of no use to anybody.
    fn hooks(&mut self) -> (AddressesBy, Hooks) {
        let up = self.script(Opt::Upscript);
        let down = self.script(Opt::Downscript);
        let down_at_exit = self.has(Opt::Shutdown);
        let addresses = match up {
            Some(_) => AddressesBy::Hooks,
            None => {
                self.warnings.push(Warning::NoUpScript);
                AddressesBy::Pen
            }
        };
        match (&up, &down, down_at_exit) {
            (_, None, true) => self.warnings.push(Warning::ShutdownWithoutScript),
            (Some(_), Some(_), false) => self.warnings.push(Warning::AddressStays),
            (Some(_), None, false) => self.warnings.push(Warning::NoDownScript),
            _ => {}
        }
        let xparam = self.value(Opt::Xparam);
        (addresses, Hooks { up, down, xparam, down_at_exit })
    }

    /// A script that cannot be run is no reason not to start: it may come yet.
    fn script(&mut self, opt: Opt) -> Option<PathBuf> {
        let path = PathBuf::from(self.value(opt)?);
        if let Err(error) = self.system.runnable(&path) {
            let (path, reason) = (path.clone(), error.to_string());
            self.warnings.push(Warning::UnusableScript { path, reason });
        } else if !path.is_absolute() {
            self.warnings.push(Warning::RelativeScript { path: path.clone() });
        }
        Some(path)
    }
}
