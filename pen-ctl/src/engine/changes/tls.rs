//! TLS of a service in words.

use crate::config::{BackendTls, Cipher, Route, Tls};

/// As the configuration calls it.
pub(super) fn words(tls: &Tls) -> String {
    let chains = tls.certificates.iter().map(|files| files.chain.display().to_string());
    let list = |words: Vec<String>| match words.is_empty() {
        true => "usual".to_owned(),
        false => words.join(" "),
    };
    let file = |path: &Option<std::path::PathBuf>| {
        path.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string())
    };
    format!(
        "certificates {}, unknown_name {}, versions {} to {}, ciphers {}, alpn {}, client_auth {}, \
         client_ca {}, client_crl {}, resumption {}",
        chains.collect::<Vec<_>>().join(" "),
        tls.unknown_name,
        tls.min_version,
        tls.max_version,
        list(tls.ciphers.iter().map(ToString::to_string).collect()),
        list(tls.alpn.clone()),
        tls.client_auth,
        file(&tls.client_ca),
        file(&tls.client_crl),
        tls.resumption,
    )
}

/// The same towards servers.
pub(super) fn backend_words(tls: &BackendTls) -> String {
    let BackendTls { verify, ca, name, certificate, min_version, max_version, ciphers, alpn } = tls;
    let list = |words: Vec<String>, none: &str| match words.is_empty() {
        true => none.to_owned(),
        false => words.join(" "),
    };
    let file = |path: Option<&std::path::PathBuf>, none: &str| {
        path.map_or_else(|| none.to_owned(), |path| path.display().to_string())
    };
    format!(
        "verify {verify}, ca {}, name {}, certificate {}, versions {min_version} to {max_version}, \
         ciphers {}, alpn {}",
        file(ca.as_ref(), "usual"),
        name.as_deref().unwrap_or("none"),
        file(certificate.as_ref().map(|files| &files.chain), "none"),
        list(ciphers.iter().map(Cipher::to_string).collect(), "usual"),
        list(alpn.clone(), "the client's"),
    )
}

/// Routes as the configuration calls them.
pub(super) fn routes_words(routes: &[Route]) -> String {
    let one = |route: &Route| format!("{} to {}", route.names.join(" "), route.backends.join(" "));
    match routes {
        [] => "none".to_owned(),
        routes => routes.iter().map(one).collect::<Vec<_>>().join("; "),
    }
}
