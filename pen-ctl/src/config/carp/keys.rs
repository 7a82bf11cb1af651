//! Reads what authenticates: the password of legacy peers, and the keys of `sha256`. Both are files
//! that only their owner may read; neither is ever part of a message.

use std::path::PathBuf;

use super::{
    Accept, AuthWord, BSD_PASSWORD, CarpAuth, CarpKey, KEY_BYTES, Secret, UCARP_PASSWORD, read,
};
use crate::config::error::ErrorKind;
use crate::config::raw::{self, At, Names, Place, Read, Report, Spec, Table};
use crate::config::system::System;

/// Keys of a group that belong here; the last ones only to `sha256`.
pub(super) const KEYS: [&str; 6] =
    ["auth", "password_file", "keys", "active_key", "accept", "legacy_peers"];

const KEY: Spec = Spec { name: "key", title: "a key", keys: &["id", "file"] };

/// What the keys of a group say of authentication.
pub(super) fn auth(
    table: &Table<'_>,
    word: Read<AuthWord>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<CarpAuth> {
    let password = password_file(table, word, system, report);
    let keys = keys(table, system, report);
    let active = table.integer("active_key", 1..=255, report);
    let accept = table.word::<Accept>("accept", report);
    let legacy_peers = read::addresses(table, "legacy_peers", report);
    let word = word?;
    if word != AuthWord::Sha256 {
        only_for_sha256(table, report)?;
    }
    match word {
        AuthWord::Ucarp => Ok(CarpAuth::Ucarp { password: required(table, password?, report)? }),
        AuthWord::Bsd => Ok(CarpAuth::Bsd { password: required(table, password?, report)? }),
        AuthWord::Sha256 => {
            let Some(keys) = keys? else { return Err(table.lacks("keys", EXAMPLE, report)) };
            let active = active_key(table, &keys, active?, report)?;
            let accept = accept?.unwrap_or(Accept::Enforce);
            let legacy_peers = legacy_peers?.unwrap_or_default();
            if accept == Accept::Enforce {
                let needs = "`accept = \"permissive\"`";
                without_effect(table, &["legacy_peers"], needs, report)?;
            }
            let password = match accept {
                Accept::Enforce => password?,
                Accept::Permissive | Accept::ReceiveOnly => {
                    Some(required(table, password?, report)?)
                }
            };
            Ok(CarpAuth::Sha256 { password, keys, active, accept, legacy_peers })
        }
    }
}

const EXAMPLE: &str = "[{ id = 1, file = \"/etc/pen/carp-1.key\" }]";
const PASSWORD_EXAMPLE: &str = "\"/etc/pen/carp.password\"";

fn required(table: &Table<'_>, password: Option<Secret>, report: &mut Report<'_>) -> Read<Secret> {
    password.ok_or_else(|| table.lacks("password_file", PASSWORD_EXAMPLE, report))
}

fn only_for_sha256(table: &Table<'_>, report: &mut Report<'_>) -> Read<()> {
    without_effect(table, &["keys", "active_key", "accept", "legacy_peers"], SHA256, report)
}

const SHA256: &str = "`auth = \"sha256\"`";

/// Reports the keys that are there and say nothing, because something else is not.
pub(super) fn without_effect(
    table: &Table<'_>,
    keys: &[&'static str],
    needs: &'static str,
    report: &mut Report<'_>,
) -> Read<()> {
    let mut result = Ok(());
    for key in keys {
        if let Some(At { place, .. }) = table.get(key) {
            result = Err(report.add(place, ErrorKind::NoEffect { key, needs }));
        }
    }
    result
}

// === Password ===

fn password_file(
    table: &Table<'_>,
    auth: Read<AuthWord>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<Option<Secret>> {
    let Some(At { place, value: path }) = table.text("password_file", report)? else {
        return Ok(None);
    };
    let file = report.beside(place, path);
    let content = content(file.clone(), place, system, report)?;
    match password(&content, auth?) {
        Ok(password) => Ok(Some(password)),
        Err(length) => {
            let auth = auth?.name();
            let kind = match length {
                0 => ErrorKind::PasswordEmpty { file },
                length => ErrorKind::PasswordTooLong { file, length, max: limit(auth), auth },
            };
            Err(report.add(place, kind))
        }
    }
}

fn limit(auth: &str) -> usize {
    if auth == AuthWord::Ucarp.name() { UCARP_PASSWORD } else { BSD_PASSWORD }
}

/// The first line of a file, as ucarp's `-o` takes it: a carriage return before its end belongs to
/// the password. The error is a length that cannot be.
pub(in crate::config) fn password(content: &[u8], auth: AuthWord) -> Result<Secret, usize> {
    let line = content.split(|byte| *byte == b'\n').next().unwrap_or_default();
    match line.len() {
        length if length == 0 || length > limit(auth.name()) => Err(length),
        _ => Ok(Secret(line.to_vec())),
    }
}

fn content(
    file: PathBuf,
    place: Place,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<Vec<u8>> {
    let secret = match system.secret(&file) {
        Ok(secret) => secret,
        Err(error) => {
            let reason = error.to_string();
            return Err(report.add(place, ErrorKind::KeyUnreadable { file, reason }));
        }
    };
    if !secret.regular {
        return Err(report.add(place, ErrorKind::SecretNotRegular { file }));
    }
    if secret.mode & 0o077 != 0 {
        let mode = secret.mode;
        return Err(report.add(place, ErrorKind::SecretPermissions { file, mode }));
    }
    Ok(secret.content)
}

// === Keys ===

/// Reads the file of a key: everything but the end of its line.
pub(in crate::config) fn key(
    At { place, value: path }: At<&str>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<Secret> {
    let file = report.beside(place, path);
    let mut content = content(file.clone(), place, system, report)?;
    for end in [b'\n', b'\r'] {
        if content.last() == Some(&end) {
            content.pop();
        }
    }
    let length = content.len();
    if KEY_BYTES.contains(&length) {
        Ok(Secret(content))
    } else {
        Err(report.add(place, ErrorKind::KeyLength { file, length }))
    }
}

fn keys(
    table: &Table<'_>,
    system: &dyn System,
    report: &mut Report<'_>,
) -> Read<Option<Vec<CarpKey>>> {
    let Some(At { place, value: elements }) = table.array("keys", report)? else {
        return Ok(None);
    };
    if elements.is_empty() {
        return Err(report.add(place, ErrorKind::NoKeys));
    }
    let mut ids = Names::new("key id");
    let keys: Vec<_> = elements
        .into_iter()
        .map(|element| {
            let expected = "a key, written `{ id = 1, file = \"...\" }`";
            let key = raw::element(element, &KEY, expected, report)?;
            let id = key.integer("id", 1..=255, report).and_then(|id| match id {
                Some(id) => Ok(u8::try_from(id).expect("at most 255")),
                None => Err(key.lacks("id", "1", report)),
            });
            let id = ids.claim(id.map(|value| At { place: key.place, value }), report);
            let file = key.required_text("file", "\"/etc/pen/carp-1.key\"", report);
            let secret = self::key(file?, system, report);
            Ok(CarpKey { id: id?.value, secret: secret? })
        })
        .collect();
    keys.into_iter().collect::<Read<_>>().map(Some)
}

fn active_key(
    table: &Table<'_>,
    keys: &[CarpKey],
    active: Option<u32>,
    report: &mut Report<'_>,
) -> Read<u8> {
    let found = match active {
        None => keys.first(),
        Some(id) => keys.iter().find(|key| u32::from(key.id) == id),
    };
    let place = table.get("active_key").map_or(table.place, |value| value.place);
    found.map(|key| key.id).ok_or_else(|| {
        let valid = keys.iter().map(|key| key.id).collect();
        report.add(place, ErrorKind::UndeclaredKey { id: active.unwrap_or(0), valid })
    })
}
