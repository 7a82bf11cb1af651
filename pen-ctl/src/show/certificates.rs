//! `penctl certs`.

use std::fmt::Write;

use super::table::{Paint, Style, Table, cell, painted, plain};
use crate::api::Certificate;
use crate::engine::proxy::expiry::Stage;

/// The certificates in service, and what is wrong with their files.
#[must_use]
pub fn certificates(certificates: &[Certificate], style: Style) -> String {
    let mut table = Table::new(&["SERVICE", "NAMES", "DAYS-LEFT", "SERIAL", "ISSUER", "FILE"]);
    for certificate in certificates {
        let names = match certificate.names.as_slice() {
            [] => "-".to_owned(),
            names => names.join(","),
        };
        let day = 24 * 3600;
        let paint = match Stage::of(certificate.days_left.saturating_mul(day), 0) {
            Stage::Fine => Paint::Good,
            Stage::Soon => Paint::Odd,
            Stage::VerySoon | Stage::Expired => Paint::Bad,
        };
        table.row([
            plain(&certificate.service),
            plain(names),
            cell(certificate.days_left, paint),
            plain(&certificate.serial),
            plain(&certificate.issuer),
            plain(&certificate.file),
        ]);
    }
    let mut text = table.render(style);
    let mut told: Vec<(&str, &str)> = Vec::new();
    for Certificate { service, problem, .. } in certificates {
        if let Some(problem) = problem
            && !told.contains(&(service.as_str(), problem.as_str()))
        {
            told.push((service, problem));
            let what = format!("{service}: not in service: {problem}");
            let _ = writeln!(text, "{}", painted(&cell(what, Paint::Bad), style));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_expires_and_what_is_broken_is_seen() {
        let of = |file: &str, days_left| Certificate {
            service: "site".to_owned(),
            file: file.to_owned(),
            names: vec!["a.example".to_owned(), "*.a.example".to_owned()],
            subject: "CN=a".to_owned(),
            issuer: "CN=root".to_owned(),
            serial: "7f".to_owned(),
            not_before: 0,
            not_after: 0,
            days_left,
            problem: Some("b.key: cannot be read".to_owned()),
        };
        let text = certificates(&[of("a.pem", 30), of("b.pem", -1)], Style::default());
        assert_eq!(
            text,
            "SERVICE\tNAMES\tDAYS-LEFT\tSERIAL\tISSUER\tFILE\n\
             site\ta.example,*.a.example\t30\t7f\tCN=root\ta.pem\n\
             site\ta.example,*.a.example\t-1\t7f\tCN=root\tb.pem\n\
             site: not in service: b.key: cannot be read\n"
        );
    }
}
