//! Reads `[access_log]`: where the proxies write a line for each connection that has ended.

use crate::config::AccessLog;
use crate::config::error::ErrorKind;
use crate::config::load::Roots;
use crate::config::raw::{At, Read, Report, Spec};
use crate::config::words::Word;

const ACCESS_LOG: Spec =
    Spec { name: "access_log", title: "[access_log]", keys: &["file", "format"] };

/// How a line is written.
#[derive(Clone, Copy, Debug)]
enum Format {
    Text,
    Json,
}

impl Word for Format {
    const ALL: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

/// `[access_log]`.
pub(super) fn access_log(roots: &Roots<'_>, report: &mut Report<'_>) -> Read<Option<AccessLog>> {
    let Some(table) = roots.one(&ACCESS_LOG, report)? else { return Ok(None) };
    let format = table.word("format", report);
    let At { place, value: file } =
        table.required_text("file", "\"/var/log/pen/access.log\"", report)?;
    if !file.starts_with('/') {
        return Err(report.add(place, ErrorKind::LogNotAbsolute { path: file.to_owned() }));
    }
    let json = matches!(format?, Some(Format::Json));
    Ok(Some(AccessLog { file: file.into(), json }))
}
