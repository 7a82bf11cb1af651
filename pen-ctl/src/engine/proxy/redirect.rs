//! Decides what a client gets that comes without TLS: the way to where there is TLS, the answer to a
//! challenge of an authority (RFC 8555 8.3), or a refusal. What it says of itself goes into no answer
//! before it was seen to be the name of a host.

use std::net::Ipv6Addr;

use crate::config::is_host_name;

/// Where authorities look, below the root of a site.
pub const CHALLENGES: &str = ".well-known/acme-challenge";
/// Longest token. They have 43 characters or so.
const LONGEST: usize = 128;

/// A request, of which the head was read.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Method.
    pub method: &'a str,
    /// Host, perhaps with a port, if the request names exactly one.
    pub authority: Option<&'a str>,
    /// What follows the host: path and query.
    pub path: &'a str,
}

/// What it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is elsewhere: status and URI.
    Redirect(u16, String),
    /// What is in the file of this name among the challenges.
    Challenge(String),
    /// There is nothing.
    NotFound,
    /// It cannot be answered.
    Bad,
}

/// What a request gets. `with_challenges`: there is a folder for them.
#[must_use]
pub fn answer(asked: &Asked<'_>, https_port: u16, with_challenges: bool) -> Answer {
    let host = asked.authority.and_then(host);
    let Some(host) = host.filter(|_| asked.path.starts_with('/')) else { return Answer::Bad };
    let reads = matches!(asked.method, "GET" | "HEAD");
    let below = asked.path[1..].strip_prefix(CHALLENGES).filter(|_| with_challenges);
    if let Some(token) = below.and_then(|rest| rest.strip_prefix('/')) {
        return match reads && is_token(token) {
            true => Answer::Challenge(token.to_owned()),
            false => Answer::NotFound,
        };
    }
    let port = if https_port == 443 { String::new() } else { format!(":{https_port}") };
    // Others than these two have a body, which is to be sent again as it was.
    let status = if reads { 301 } else { 308 };
    Answer::Redirect(status, format!("https://{host}{port}{}", asked.path))
}

/// The host of an authority, which may have a port; that is left out.
fn host(authority: &str) -> Option<&str> {
    let end = match authority.starts_with('[') {
        true => authority.find(']')? + 1,
        false => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(end);
    let digits = match port {
        "" => true,
        port => port[1..].bytes().all(|byte| byte.is_ascii_digit()) && port.starts_with(':'),
    };
    let known = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => is_host_name(host.strip_suffix('.').unwrap_or(host)) && !host.starts_with('*'),
    };
    (digits && known).then_some(host)
}

/// base64url (RFC 8555 8.1): nothing that leads to another folder.
fn is_token(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=LONGEST).contains(&text.len()) && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: &str, authority: Option<&str>, path: &str) -> Answer {
        answer(&Asked { method, authority, path }, 443, true)
    }

    #[test]
    fn who_names_a_host_is_sent_to_where_it_has_tls() {
        for (authority, path, to) in [
            ("a.example", "/", "https://a.example/"),
            ("a.example:80", "/x/../y?q=1&r=//", "https://a.example/x/../y?q=1&r=//"),
            ("a.example.", "//other.example", "https://a.example.//other.example"),
            ("192.0.2.1:8080", "/", "https://192.0.2.1/"),
            ("[2001:db8::1]:80", "/", "https://[2001:db8::1]/"),
        ] {
            assert_eq!(ask("GET", Some(authority), path), Answer::Redirect(301, to.to_owned()));
        }
        let posted = ask("POST", Some("a.example"), "/");
        assert_eq!(posted, Answer::Redirect(308, "https://a.example/".to_owned()));
        let asked = Asked { method: "GET", authority: Some("a.example:80"), path: "/x" };
        let elsewhere = Answer::Redirect(301, "https://a.example:8443/x".to_owned());
        assert_eq!(answer(&asked, 8443, false), elsewhere);
    }

    #[test]
    fn what_is_no_host_is_not_repeated() {
        for authority in [
            "",
            ":80",
            "a b",
            "a.example/x",
            "a.example@b.example",
            "user@a.example",
            "*.example",
            "a.example:8o",
            "a.example:80:80",
            "[::1",
            "[a.example]",
            "[::1]x",
            "[::1]80",
            "a..b",
            "a.example\r\nx: y",
            "a.example#",
            "ä.example",
            "<script>",
            "a\\b",
        ] {
            assert_eq!(ask("GET", Some(authority), "/"), Answer::Bad, "{authority}");
        }
        assert_eq!(ask("GET", None, "/"), Answer::Bad);
        assert_eq!(ask("OPTIONS", Some("a.example"), "*"), Answer::Bad);
        assert_eq!(ask("CONNECT", Some("a.example"), ""), Answer::Bad);
    }

    #[test]
    fn a_token_is_a_name_in_its_folder() {
        let at = |token: &str| format!("/{CHALLENGES}/{token}");
        let known = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr_oA";
        let found = Answer::Challenge(known.to_owned());
        assert_eq!(ask("GET", Some("a.example"), &at(known)), found);
        assert_eq!(ask("HEAD", Some("a.example"), &at(known)), found);
        let long = "a".repeat(LONGEST + 1);
        for token in ["", "..", ".", "../x", "a/b", "a%2fb", "a?b", ".hidden", "a\0", "ä", &long] {
            assert_eq!(ask("GET", Some("a.example"), &at(token)), Answer::NotFound, "{token}");
        }
        assert_eq!(ask("POST", Some("a.example"), &at(known)), Answer::NotFound);
        // Without a folder it is a path like others.
        let path = at(known);
        let asked = Asked { method: "GET", authority: Some("a.example"), path: &path };
        let to = format!("https://a.example{path}");
        assert_eq!(answer(&asked, 443, false), Answer::Redirect(301, to));
    }
}
