//! What a check wants of TLS.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use humantime::format_duration;

use crate::config::CertificateFiles;

/// TLS as a check speaks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeTls {
    /// The name that is asked for, and that the certificate has to be for if that is looked at; `None`
    /// is the address that is asked, or what HTTP calls the host.
    pub server_name: Option<String>,
    /// What has to be right about the certificate.
    pub verify: Verify,
    /// For so long it has to be valid yet.
    pub expires_in: Duration,
    /// Whose signature it has to have; only if all of it is looked at.
    pub ca: Option<PathBuf>,
    /// What a server is shown that wants to see a certificate.
    pub certificate: Option<CertificateFiles>,
}

impl Default for ProbeTls {
    fn default() -> Self {
        Self {
            server_name: None,
            verify: Verify::Dates,
            expires_in: Duration::ZERO,
            ca: None,
            certificate: None,
        }
    }
}

impl fmt::Display for ProbeTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tls")?;
        if let Some(name) = &self.server_name {
            write!(f, " of {name}")?;
        }
        match (&self.ca, self.verify) {
            (Some(ca), _) => write!(f, " signed by {}", ca.display())?,
            (None, Verify::None) => f.write_str(" with any certificate")?,
            (None, _) => {}
        }
        if self.expires_in > Duration::ZERO {
            write!(f, " valid for {}", format_duration(self.expires_in))?;
        }
        match &self.certificate {
            Some(files) => write!(f, ", shown {}", files.chain.display()),
            None => Ok(()),
        }
    }
}

/// How much has to be right about a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Nothing.
    None,
    /// It is valid at this time.
    Dates,
    /// Its signatures and names as well.
    Full,
}
