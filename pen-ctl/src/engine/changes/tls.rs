//! TLS of a service in words.

use crate::config::{Route, Tls};

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

/// Routes as the configuration calls them.
pub(super) fn routes_words(routes: &[Route]) -> String {
    let one = |route: &Route| format!("{} to {}", route.names.join(" "), route.backends.join(" "));
    match routes {
        [] => "none".to_owned(),
        routes => routes.iter().map(one).collect::<Vec<_>>().join("; "),
    }
}
