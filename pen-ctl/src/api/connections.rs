//! What `penctl connections` and `penctl close` ask for and get: the connections that the proxies have.

use serde::{Deserialize, Serialize};

use super::records::{Cidr, RecordQuery};
use crate::config::Endpoint;

/// The connections that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Youngest first.
    pub connections: Vec<Connection>,
    /// So many others fit the question.
    pub more: u64,
}

/// A connection that is proxied now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Its number.
    pub id: u64,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Name of its service.
    pub service: String,
    /// Its client; one without an address is called by the Unix socket that it came to.
    pub client: Endpoint,
    /// Name of its backend, once it has one.
    pub backend: Option<String>,
    /// Address of its backend.
    pub address: Option<Endpoint>,
    /// `connecting` (or waiting for a place), `open`, or `half-closed`.
    pub state: String,
    /// Milliseconds since it was accepted.
    pub age_ms: u64,
    /// Milliseconds since something came or went, to about a tenth of a second.
    pub idle_ms: u64,
    /// Bytes from the client.
    pub bytes_up: u64,
    /// Bytes to the client.
    pub bytes_down: u64,
}

/// Which connections are to be closed: those that fit all that is named. Something has to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Close {
    /// The one of this number.
    #[serde(default)]
    pub id: Option<u64>,
    /// Those of this service.
    #[serde(default)]
    pub service: Option<String>,
    /// Those to backends of this name.
    #[serde(default)]
    pub backend: Option<String>,
    /// Those of clients in this network.
    #[serde(default)]
    pub client: Option<Cidr>,
    /// Only say how many.
    #[serde(default)]
    pub dry_run: bool,
}

impl Close {
    /// Whether anything is named.
    #[must_use]
    pub const fn names_something(&self) -> bool {
        self.id.is_some()
            || self.service.is_some()
            || self.backend.is_some()
            || self.client.is_some()
    }

    /// The same as a question for a list.
    #[must_use]
    pub fn query(&self) -> RecordQuery {
        RecordQuery {
            service: self.service.clone(),
            backend: self.backend.clone(),
            client: self.client,
            ..RecordQuery::default()
        }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// So many connections.
    pub closed: u64,
    /// Nothing was done.
    pub dry_run: bool,
}
