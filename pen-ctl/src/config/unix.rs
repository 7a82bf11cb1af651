//! Reads paths of Unix sockets, and what belongs to the file of one that a service listens on.

use std::path::Path;

use crate::config::endpoint::PREFIX;
use crate::config::error::ErrorKind;
use crate::config::raw::{At, Read, Report, Table};
use crate::config::system::System;
use crate::config::{SocketFile, UnixPath};

/// `sun_path` of unix(7) has 108 bytes, the last one for the terminating zero.
pub(super) const MAX_PATH: usize = 107;
/// Keys of a service that speak of the file.
pub(super) const KEYS: [&str; 2] = ["listen_mode", "listen_owner"];
/// Its owner and its group may connect.
const USUAL_MODE: u32 = 0o660;

/// The path, if the text names a Unix socket.
pub(super) fn path(
    At { place, value: text }: At<&str>,
    report: &mut Report<'_>,
) -> Read<Option<UnixPath>> {
    let Some(path) = text.strip_prefix(PREFIX) else { return Ok(None) };
    let kind = if !path.starts_with('/') {
        ErrorKind::SocketNotAbsolute { path: path.to_owned() }
    } else if path.len() > MAX_PATH {
        ErrorKind::SocketTooLong { length: path.len(), max: MAX_PATH }
    } else if path.contains(|c: char| c.is_whitespace() || c.is_control()) {
        ErrorKind::SocketBlank { path: path.to_owned() }
    } else if path.ends_with('/') || Path::new(path).file_name().is_none() {
        ErrorKind::SocketNoFile { path: path.to_owned() }
    } else {
        return Ok(Some(UnixPath::new(path)));
    };
    Err(report.add(place, kind))
}

/// What the file of a service's socket is to be like; `None` if it listens on an address.
pub(super) fn file(
    table: &Table<'_>,
    path: Option<UnixPath>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<Option<SocketFile>> {
    let Some(path) = path else {
        let mut found = Ok(None);
        for key in KEYS {
            if let Some(At { place, .. }) = table.get(key) {
                let needs = "a Unix socket in `listen`";
                found = Err(report.add(place, ErrorKind::NoEffect { key, needs }));
            }
        }
        return found;
    };
    let mode = mode(table, report);
    let (owner, group) = owner(table, system, report)?;
    Ok(Some(SocketFile { path, mode: mode?, owner, group }))
}

/// In octal digits and as text: TOML's own octal numbers are rare, and `660` would be another mode.
fn mode(table: &Table<'_>, report: &mut Report<'_>) -> Read<u32> {
    let Some(At { place, value: text }) = table.text("listen_mode", report)? else {
        return Ok(USUAL_MODE);
    };
    let digits = (3..=4).contains(&text.len()) && text.bytes().all(|c| (b'0'..=b'7').contains(&c));
    match u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o777) {
        Some(mode) => Ok(mode),
        None => Err(report.add(place, ErrorKind::InvalidFileMode { text: text.to_owned() })),
    }
}

/// `USER`, `USER:GROUP` or `:GROUP`, as chown(1) has it.
fn owner(
    table: &Table<'_>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<(Option<String>, Option<String>)> {
    let Some(At { place, value: text }) = table.text("listen_owner", report)? else {
        return Ok((None, None));
    };
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    let some = |name: &str| Some(name.to_owned()).filter(|name| !name.is_empty());
    let (user, group) = (some(user), some(group));
    let known = user.iter().all(|user| system.user_exists(user))
        && group.iter().all(|group| system.group_exists(group))
        && (user.is_some() || group.is_some());
    if !known {
        return Err(report.add(place, ErrorKind::UnknownOwner { text: text.to_owned() }));
    }
    Ok((user, group))
}
