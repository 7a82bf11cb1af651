//! From files to a [`Config`], or to all that is wrong with them. Order: read, parse, then tables
//! from those that others refer to (interfaces, VIPs, pools) to those that refer to them (services).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::DeTable;

use crate::config::error::{ConfigError, ErrorKind};
use crate::config::position::Position;
use crate::config::raw::{Place, Read, Report, Spec, Table};
use crate::config::system::System;
use crate::config::{Config, access_log, acl, carp, node, notify, responder, service, sync, vip};

/// A configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What errors call it; a relative `secret_file` is beside it.
    pub name: PathBuf,
    /// What it holds.
    pub text: String,
}

/// Reads a configuration: the main file, then `conf.d/*.toml` beside it in lexical order.
///
/// Blocks while it reads files. Names of hosts are not asked for.
pub fn load(main: &Path, system: &dyn System) -> Result<Config, Vec<ConfigError>> {
    parse(&read(main)?, system)
}

/// Makes a configuration of the main file's text and those that add to it.
///
/// If anything is wrong, returns everything that is, in the order of the files.
pub fn parse(sources: &[Source], system: &dyn System) -> Result<Config, Vec<ConfigError>> {
    let mut report = Report::new(sources);
    let documents: Vec<_> = sources
        .iter()
        .enumerate()
        .map(|(number, source)| document(number, &source.text, &mut report))
        .collect();
    // The parser drops what it cannot read. To go on would complain of its absence.
    if !report.is_empty() {
        return Err(report.into_errors());
    }
    let roots = documents
        .iter()
        .enumerate()
        .map(|(number, document)| {
            Table::open(&ROOT, Place::new(number, 0), document.get_ref(), &mut report)
        })
        .collect();
    let config = build(&Roots(roots), system, &mut report);
    match config {
        Ok(config) if report.is_empty() => Ok(config),
        _ => Err(report.into_errors()),
    }
}

/// Reads the files, or says which cannot be read.
fn read(main: &Path) -> Result<Vec<Source>, Vec<ConfigError>> {
    let unreadable = |file: &Path, error: io::Error| ConfigError {
        at: Position::find(file, "", 0),
        kind: ErrorKind::Unreadable { reason: error.to_string() },
    };
    let mut errors = Vec::new();
    let mut files = vec![main.to_owned()];
    let folder = main.with_file_name("conf.d");
    match additions(&folder) {
        Ok(additions) => files.extend(additions),
        // Most machines have none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => errors.push(unreadable(&folder, error)),
    }
    let mut sources = Vec::new();
    for name in files {
        match fs::read(&name).map(String::from_utf8) {
            Ok(Ok(text)) => sources.push(Source { name, text }),
            Ok(Err(error)) => {
                let valid = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(error.as_bytes());
                let at = Position::find(&name, &text, valid);
                errors.push(ConfigError { at, kind: ErrorKind::NotUtf8 });
            }
            Err(error) => errors.push(unreadable(&name, error)),
        }
    }
    if errors.is_empty() { Ok(sources) } else { Err(errors) }
}

/// The files `*.toml` of a folder. As in a shell, `*` is no hidden file: editors leave those.
fn additions(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = PathBuf::from(entry?.file_name());
        let hidden = name.as_os_str().as_encoded_bytes().starts_with(b".");
        if !hidden && name.extension().is_some_and(|extension| extension == "toml") {
            names.push(folder.join(name));
        }
    }
    names.sort();
    Ok(names)
}

/// Parses TOML; what is wrong with it is reported, one error a line: the parser is easily confused
/// by what follows an error.
fn document<'s>(number: usize, text: &'s str, report: &mut Report<'_>) -> Spanned<DeTable<'s>> {
    let (table, mut errors) = DeTable::parse_recoverable(text);
    errors.sort_by_key(|error| error.span().unwrap_or_default().start);
    let mut last_line = 0;
    for error in errors {
        let span = error.span().unwrap_or_default();
        let place = Place::new(number, span.start);
        let line = report.position(place).line;
        if line == last_line {
            continue;
        }
        last_line = line;
        let kind = match (error.message(), text.get(span)) {
            ("duplicate key", Some(key)) => ErrorKind::DuplicateKey { key: key.to_owned() },
            (message, _) => ErrorKind::Syntax { message: message.to_owned() },
        };
        report.add(place, kind);
    }
    table
}

const ROOT: Spec = Spec {
    name: "",
    title: "the file",
    keys: &[
        "node",
        "interface",
        "control",
        "access_log",
        "responder",
        "acl",
        "carp",
        "vip",
        "service",
        "pool",
        "sync",
        "notify",
    ],
};

/// The top level of all files.
pub(super) struct Roots<'d>(Vec<Table<'d>>);

impl<'d> Roots<'d> {
    /// The one table of this name in all files.
    pub(super) fn one(
        &self,
        spec: &'static Spec,
        report: &mut Report<'_>,
    ) -> Read<Option<Table<'d>>> {
        let mut found: Option<Read<Table<'d>>> = None;
        for root in &self.0 {
            let table = root.table(spec.name, spec, report).transpose();
            found = match (found, table) {
                (Some(Ok(first)), Some(Ok(second))) => {
                    let first = report.position(first.place);
                    let kind = ErrorKind::GivenTwice { table: spec.title, first };
                    Some(Err(report.add(second.place, kind)))
                }
                (found, table) => found.or(table),
            };
        }
        found.transpose()
    }

    /// All tables of this name in all files, in order.
    pub(super) fn all(&self, spec: &'static Spec, report: &mut Report<'_>) -> Vec<Read<Table<'d>>> {
        self.0.iter().flat_map(|root| root.tables(spec, report)).collect()
    }
}

/// Reads every table before it gives up, so that each reports its errors.
fn build(roots: &Roots<'_>, system: &dyn System, report: &mut Report<'_>) -> Read<Config> {
    let node = node::node(roots, system, report);
    let control = node::control(roots, report);
    let access_log = access_log::access_log(roots, report);
    let responder = responder::responder(roots, report);
    let (interfaces, interface_names) = node::interfaces(roots, system, report);
    let (acls, acl_names) = acl::acls(roots, report);
    let groups = carp::groups(roots, &interface_names, system, report);
    let known = vip::Known {
        interfaces: &interface_names,
        valid: interfaces.as_deref().unwrap_or_default(),
        acls: &acl_names,
        groups: &groups,
    };
    let (vips, addresses, members) = vip::vips(roots, &known, report);
    carp::check(&groups, &members, &addresses, vips.is_ok(), report);
    let sync = sync::sync(roots, &addresses, system, report);
    let ports = node.as_ref().map(|node| node.masquerade_ports).ok();
    let notify = notify::notify(roots, system, report);
    let services = service::services(roots, &addresses, &acl_names, ports, system, report);
    if let Ok(services) = &services {
        carp::check_services(&groups, services, report);
    }
    Ok(Config {
        node: node?,
        interfaces: interfaces?,
        control: control?,
        access_log: access_log?,
        responder: responder?,
        acls: acls?,
        carp: groups.into_list()?,
        sync: sync?,
        vips: vips?,
        services: services?,
        notify: notify?,
    })
}
