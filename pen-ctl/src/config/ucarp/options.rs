//! Reads a command line as getopt_long(3) does it for ucarp: short options may be joined, long ones
//! shortened, values follow directly, after `=` or as the next word, and options may come after
//! other words.

use super::Problem;

/// An option of ucarp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opt {
    Addr,
    Advbase,
    Advskew,
    Daemonize,
    Deadratio,
    Debug,
    Downscript,
    Facility,
    Help,
    Ignoreifstate,
    Interface,
    Mcast,
    Neutral,
    Nomcast,
    Pass,
    Passfile,
    Preempt,
    Shutdown,
    Srcip,
    Upscript,
    Vhid,
    Xparam,
}

struct Row {
    opt: Opt,
    short: char,
    long: &'static str,
    /// How the help calls its value; empty if it has none.
    value: &'static str,
    what: &'static str,
}

const fn row(
    opt: Opt,
    short: char,
    long: &'static str,
    value: &'static str,
    what: &'static str,
) -> Row {
    Row { opt, short, long, value, what }
}

#[rustfmt::skip]
const OPTIONS: &[Row] = &[
    row(Opt::Interface,     'i', "interface",     "IF",      "interface on which nodes hear each other"),
    row(Opt::Srcip,         's', "srcip",         "IP",      "address of this node there, which stays"),
    // ucarp's help has -m, its binary refuses it; --mcast is a prefix of what it knows.
    row(Opt::Mcast,         '\0', "mcastip",      "IP",      "multicast group (default: 224.0.0.18)"),
    row(Opt::Vhid,          'v', "vhid",          "ID",      "number of the group, 1 to 255"),
    row(Opt::Pass,          'p', "pass",          "PASS",    "password, 1 to 19 bytes; everybody can see it, better: -o"),
    row(Opt::Passfile,      'o', "passfile",      "FILE",    "read the password from a file's first line"),
    row(Opt::Preempt,       'P', "preempt",       "",        "take over from a worse node as soon as possible"),
    row(Opt::Neutral,       'n', "neutral",       "",        "do not run the down script at the start"),
    row(Opt::Addr,          'a', "addr",          "IP",      "virtual address that moves between the nodes"),
    row(Opt::Help,          'h', "help",          "",        "show this help"),
    row(Opt::Advbase,       'b', "advbase",       "SECONDS", "between advertisements, 0 to 255 (default: 1)"),
    row(Opt::Advskew,       'k', "advskew",       "SKEW",    "1/256 s more, 0 to 255 (default: 0); the lower, the better"),
    row(Opt::Upscript,      'u', "upscript",      "FILE",    "run when this node becomes master: FILE IF VIP [XPARAM]"),
    row(Opt::Downscript,    'd', "downscript",    "FILE",    "run when it no longer is"),
    row(Opt::Deadratio,     'r', "deadratio",     "RATIO",   "missed advertisements after which a master is dead (default: 3)"),
    row(Opt::Debug,         'D', "debug",         "",        "say more"),
    row(Opt::Shutdown,      'z', "shutdown",      "",        "run the down script at the end"),
    row(Opt::Daemonize,     'B', "daemonize",     "",        "run in the background"),
    row(Opt::Ignoreifstate, 'S', "ignoreifstate", "",        "go on without a carrier"),
    row(Opt::Nomcast,       'M', "nomcast",       "",        "advertise in broadcast frames"),
    row(Opt::Facility,      'f', "facility",      "NAME",    "syslog facility, or none (default: daemon)"),
    row(Opt::Xparam,        'x', "xparam",        "VALUE",   "last argument of the scripts"),
];

impl Opt {
    /// How messages call it.
    pub(super) fn name(self) -> &'static str {
        OPTIONS.iter().find(|row| row.opt == self).map_or("", |row| row.long)
    }
}

/// All options, a line each.
pub(super) fn help() -> String {
    let line = |row: &Row| {
        let short = if row.short == '\0' { "    ".to_owned() } else { format!("-{}, ", row.short) };
        let value = if row.value.is_empty() { String::new() } else { format!(" {}", row.value) };
        format!("  {short}{:<24} {}\n", format!("--{}{value}", row.long), row.what)
    };
    OPTIONS.iter().map(line).collect()
}

/// What a command line says: options with their values (empty if they have none), in order.
pub(super) fn read(
    args: &[String],
    problems: &mut Vec<Problem>,
) -> (Vec<(Opt, String)>, Vec<String>) {
    let (mut found, mut others) = (Vec::new(), Vec::new());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            others.extend(args.by_ref().cloned());
        } else if let Some(long) = arg.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            let Some(row) = find_long(name, problems) else { continue };
            match (row.value.is_empty(), value) {
                (true, Some(_)) => problems.push(Problem::UselessValue { option: row.long }),
                (true, None) => found.push((row.opt, String::new())),
                (false, value) => match value.or_else(|| args.next().cloned()) {
                    Some(value) => found.push((row.opt, value)),
                    None => problems.push(Problem::MissingValue { option: row.long }),
                },
            }
        } else if let Some(letters) = arg.strip_prefix('-').filter(|rest| !rest.is_empty()) {
            short(letters, &mut args, &mut found, problems);
        } else {
            others.push(arg.clone());
        }
    }
    (found, others)
}

fn short(
    letters: &str,
    args: &mut std::slice::Iter<'_, String>,
    found: &mut Vec<(Opt, String)>,
    problems: &mut Vec<Problem>,
) {
    let mut letters = letters.chars();
    while let Some(letter) = letters.next() {
        let Some(row) = OPTIONS.iter().find(|row| row.short == letter) else {
            problems.push(match letter {
                'm' => Problem::NoShortMcast,
                letter => Problem::UnknownOption { option: format!("-{letter}"), near: None },
            });
            // What follows an unknown letter may be its value.
            return;
        };
        if row.value.is_empty() {
            found.push((row.opt, String::new()));
            continue;
        }
        let rest = letters.as_str();
        let value = if rest.is_empty() { args.next().cloned() } else { Some(rest.to_owned()) };
        match value {
            Some(value) => found.push((row.opt, value)),
            None => problems.push(Problem::MissingValue { option: row.long }),
        }
        return;
    }
}

fn find_long(name: &str, problems: &mut Vec<Problem>) -> Option<&'static Row> {
    if let Some(exact) = OPTIONS.iter().find(|row| row.long == name) {
        return Some(exact);
    }
    let matching: Vec<_> = OPTIONS.iter().filter(|row| row.long.starts_with(name)).collect();
    match matching[..] {
        [row] => return Some(row),
        [] => {
            let names: Vec<_> = OPTIONS.iter().map(|row| row.long).collect();
            let near = match name {
                // What ucarp's README calls it.
                "syslog" => Some("facility".to_owned()),
                name => crate::config::raw::nearest(name, &names),
            };
            problems.push(Problem::UnknownOption { option: format!("--{name}"), near });
        }
        _ => problems.push(Problem::AmbiguousOption {
            option: name.to_owned(),
            candidates: matching.iter().map(|row| row.long).collect(),
        }),
    }
    None
}
