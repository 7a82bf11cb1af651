//! Which path is which request; both ways, so that the two halves cannot drift.

use std::time::Duration;

use hyper::Method;

use super::query;
use crate::api::{Refusal, Reload, Request};

/// The HTTP status and the explanation.
pub(super) type Refused = (u16, Refusal);

/// What is asked, by method, path, query and body.
///
/// # Errors
///
/// The HTTP status and the explanation.
pub(super) fn parse(
    method: &Method,
    path: &str,
    query: &str,
    body: &[u8],
) -> Result<Request, Refused> {
    let request = match (path, method) {
        ("/v1/status", &Method::GET) => Request::Status,
        ("/v1/services", &Method::GET) => Request::Services,
        ("/v1/backends", &Method::GET) => Request::Backends,
        ("/v1/probes", &Method::GET) => Request::Probes(query::one_backend(query)?),
        ("/v1/vips", &Method::GET) => Request::Vips,
        ("/v1/counters", &Method::GET) => Request::Counters,
        ("/v1/events", &Method::GET) => Request::Events { since: since(query)? },
        ("/v1/flows", &Method::GET) => Request::Flows(query::records(query)?),
        ("/v1/clients", &Method::GET) => Request::Clients(query::records(query)?),
        ("/v1/connections", &Method::GET) => Request::Connections(query::records(query)?),
        ("/v1/close", &Method::POST) => Request::Close(json(body)?),
        ("/v1/explain", &Method::POST) => Request::Explain(json(body)?),
        ("/v1/simulate", &Method::POST) => Request::Simulate(json(body)?),
        ("/v1/admin", &Method::POST) => Request::SetAdmin(json(body)?),
        ("/v1/weight", &Method::POST) => Request::SetWeight(json(body)?),
        ("/v1/carp", &Method::GET) => Request::Carp,
        ("/v1/certificates", &Method::GET) => Request::Certificates,
        ("/v1/sync", &Method::GET) => Request::Sync,
        ("/v1/carp", &Method::POST) => Request::CarpOrder(json(body)?),
        ("/v1/notify-test", &Method::POST) => Request::NotifyTest(json(body)?),
        ("/v1/leave", &Method::POST) => Request::Leave,
        ("/v1/reload", &Method::POST) => Request::Reload(reload(body)?),
        (path, _) if PATHS.contains(&path) => {
            return Err(refuse(
                405,
                format!("{path} does not take {method}"),
                "GET asks, POST explains or changes",
            ));
        }
        (path, _) => {
            return Err(refuse(
                404,
                format!("there is no {path}"),
                &format!("there are: {}", PATHS.join(", ")),
            ));
        }
    };
    Ok(request)
}

/// How to ask: method, path with query, and body.
pub(super) fn format(request: &Request) -> (Method, String, Vec<u8>) {
    let get = |path: &str| (Method::GET, path.to_owned(), Vec::new());
    let body = |value: Result<Vec<u8>, serde_json::Error>| value.expect("plain data is JSON");
    match request {
        Request::Status => get("/v1/status"),
        Request::Services => get("/v1/services"),
        Request::Backends => get("/v1/backends"),
        Request::Probes(wanted) => get(&format!("/v1/probes{}", query::of_backend(wanted))),
        Request::Vips => get("/v1/vips"),
        Request::Counters => get("/v1/counters"),
        Request::Events { since } => get(&format!("/v1/events?since={since}")),
        Request::Flows(wanted) => get(&format!("/v1/flows{}", query::of_records(wanted))),
        Request::Clients(wanted) => get(&format!("/v1/clients{}", query::of_records(wanted))),
        Request::Connections(wanted) => {
            get(&format!("/v1/connections{}", query::of_records(wanted)))
        }
        Request::Close(wish) => {
            (Method::POST, "/v1/close".to_owned(), body(serde_json::to_vec(wish)))
        }
        Request::Explain(explain) => {
            (Method::POST, "/v1/explain".to_owned(), body(serde_json::to_vec(explain)))
        }
        Request::Simulate(wish) => {
            (Method::POST, "/v1/simulate".to_owned(), body(serde_json::to_vec(wish)))
        }
        Request::SetAdmin(wish) => {
            (Method::POST, "/v1/admin".to_owned(), body(serde_json::to_vec(wish)))
        }
        Request::SetWeight(wish) => {
            (Method::POST, "/v1/weight".to_owned(), body(serde_json::to_vec(wish)))
        }
        Request::Carp => get("/v1/carp"),
        Request::Certificates => get("/v1/certificates"),
        Request::Sync => get("/v1/sync"),
        Request::CarpOrder(wish) => {
            (Method::POST, "/v1/carp".to_owned(), body(serde_json::to_vec(wish)))
        }
        Request::NotifyTest(wish) => {
            (Method::POST, "/v1/notify-test".to_owned(), body(serde_json::to_vec(wish)))
        }
        Request::Leave => (Method::POST, "/v1/leave".to_owned(), Vec::new()),
        Request::Reload(wish) => {
            (Method::POST, "/v1/reload".to_owned(), body(serde_json::to_vec(wish)))
        }
    }
}

const PATHS: [&str; 21] = [
    "/v1/status",
    "/v1/services",
    "/v1/backends",
    "/v1/probes",
    "/v1/vips",
    "/v1/counters",
    "/v1/events",
    "/v1/flows",
    "/v1/clients",
    "/v1/connections",
    "/v1/close",
    "/v1/explain",
    "/v1/simulate",
    "/v1/admin",
    "/v1/weight",
    "/v1/carp",
    "/v1/certificates",
    "/v1/sync",
    "/v1/notify-test",
    "/v1/leave",
    "/v1/reload",
];

fn since(query: &str) -> Result<u64, Refused> {
    if query.is_empty() {
        return Ok(0);
    }
    let number = query.strip_prefix("since=").and_then(|number| number.parse().ok());
    number.ok_or_else(|| query::not_understood(query, "ask with ?since=NUMBER"))
}

/// How long the daemon may take for its answer.
pub(super) const fn patience(request: &Request) -> Duration {
    match request {
        // The daemon gives up after 40 seconds.
        Request::NotifyTest(_) | Request::Reload(_) => Duration::from_secs(45),
        // What is done beside its loop waits for two seconds and works for six.
        _ => Duration::from_secs(9),
    }
}

/// `curl -X POST` without a body is enough.
fn reload(body: &[u8]) -> Result<Reload, Refused> {
    if body.is_empty() { Ok(Reload::default()) } else { json(body) }
}

fn json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|error| {
        refuse(400, format!("the body is not understood: {error}"), "send JSON as `penctl` does")
    })
}

pub(super) fn refuse(status: u16, error: String, cure: &str) -> Refused {
    (status, Refusal { error, cure: cure.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::carp::CarpOrder;
    use crate::api::{
        Admin, CarpWish, Close, Explain, NotifyTest, OneBackend, RecordQuery, SetAdmin, SetWeight,
        Simulate,
    };
    use crate::config::Protocol;

    #[test]
    fn what_the_client_formats_the_server_parses() {
        let requests = [
            Request::Status,
            Request::Services,
            Request::Backends,
            Request::Probes(OneBackend { service: "web".into(), backend: "a:1".into() }),
            Request::Vips,
            Request::Counters,
            Request::Events { since: 17 },
            Request::Flows(RecordQuery {
                service: Some("web".into()),
                client: Some("198.51.100.0/24".parse().expect("literal")),
                ..RecordQuery::default()
            }),
            Request::Clients(RecordQuery { backend: Some("b1".into()), ..RecordQuery::default() }),
            Request::Connections(RecordQuery {
                service: Some("web".into()),
                ..RecordQuery::default()
            }),
            Request::Close(Close { id: Some(3), dry_run: true, ..Close::default() }),
            Request::Explain(Explain {
                source: "198.51.100.7:5000".parse().expect("literal"),
                destination: "192.0.2.10:80".parse().expect("literal"),
                protocol: Protocol::Udp,
                established: true,
            }),
            Request::Simulate(Simulate {
                service: "web".into(),
                flows: 9,
                seed: 3,
                established: false,
            }),
            Request::SetAdmin(SetAdmin {
                service: "web".into(),
                backend: "b1".into(),
                admin: Admin::Maint,
                deadline_ms: Some(600_000),
                dry_run: true,
            }),
            Request::SetWeight(SetWeight {
                service: "web".into(),
                backend: "b1".into(),
                weight: 7,
                dry_run: false,
            }),
            Request::Carp,
            Request::Certificates,
            Request::Sync,
            Request::CarpOrder(CarpWish {
                group: "main".into(),
                order: CarpOrder::Promote,
                dry_run: true,
            }),
            Request::NotifyTest(NotifyTest { receiver: "pager".into() }),
            Request::Leave,
            Request::Reload(Reload { dry_run: true }),
        ];
        // One path both asks and orders.
        assert_eq!(requests.len(), PATHS.len() + 1);
        for request in requests {
            let (method, uri, body) = format(&request);
            let (path, query) = uri.split_once('?').unwrap_or((&uri, ""));
            assert_eq!(parse(&method, path, query, &body), Ok(request));
        }
    }

    #[test]
    fn nonsense_is_refused_with_a_status_and_a_cure() {
        for (method, path, query, body, status, error) in [
            (Method::GET, "/", "", "", 404, "there is no /"),
            (Method::GET, "/v1/admin", "", "", 405, "/v1/admin does not take GET"),
            (Method::DELETE, "/v1/status", "", "", 405, "/v1/status does not take DELETE"),
            (
                Method::GET,
                "/v1/events",
                "since=x",
                "",
                400,
                "the query `since=x` is not understood",
            ),
            (Method::GET, "/v1/flows", "limit=x", "", 400, "the query `limit=x` is not understood"),
            (Method::POST, "/v1/admin", "", "{", 400, "the body is not understood"),
            (Method::POST, "/v1/admin", "", r#"{"service":"a"}"#, 400, "missing field `backend`"),
            (
                Method::POST,
                "/v1/weight",
                "",
                r#"{"service":"a","backend":"b","weight":1,"wait":2}"#,
                400,
                "unknown field `wait`",
            ),
        ] {
            let (found, refusal) =
                parse(&method, path, query, body.as_bytes()).expect_err("nonsense");
            assert_eq!(found, status, "{path} {body}");
            assert!(refusal.error.contains(error), "{} misses {error}", refusal.error);
            assert!(!refusal.cure.is_empty());
        }
    }
}
