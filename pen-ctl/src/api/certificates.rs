//! What `penctl certs` gets: the certificates in service.

use serde::{Deserialize, Serialize};

/// A certificate in service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Name of its service.
    pub service: String,
    /// File that it was read from.
    pub file: String,
    /// Host names that it is for.
    pub names: Vec<String>,
    /// Who it was given to.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// Number, in hexadecimal.
    pub serial: String,
    /// Seconds since 1970 from which on it is valid.
    pub not_before: i64,
    /// Seconds since 1970 until which it is.
    pub not_after: i64,
    /// Whole days that it is still valid; below zero those since it expired.
    pub days_left: i64,
    /// Why what is in the files of its service now is not in service.
    pub problem: Option<String>,
}
