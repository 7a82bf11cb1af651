//! What checks of other types than HTTP ask, and which answers are right.

use std::fmt;

use super::Pattern;
use crate::config::{Protocol, Rcode, Record};

/// A datagram, and the answer that is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// What is sent.
    pub send: Vec<u8>,
    /// What the answer has to hold; without it any answer is right.
    pub expect: Option<Pattern>,
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "udp with {} bytes", self.send.len())?;
        match &self.expect {
            Some(pattern) => write!(f, " expecting {pattern}"),
            None => f.write_str(" expecting any answer"),
        }
    }
}

/// A question to a name server, and the answer that is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// The name that is asked for.
    pub name: String,
    /// The type of record that is asked for.
    pub record: Record,
    /// The code that is right.
    pub rcode: Rcode,
    /// What one of the records has to be, as `dig +short` shows it; without it any is right.
    pub answer: Option<String>,
    /// How it is asked.
    pub transport: Protocol,
}

impl fmt::Display for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, record, rcode, answer, transport } = self;
        write!(f, "dns for {record} of {name} over {transport} expecting {rcode}")?;
        answer.as_ref().map_or(Ok(()), |answer| write!(f, " with {answer:?}"))
    }
}

/// A program that says whether a backend is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// The program and its arguments; not empty.
    pub words: Vec<String>,
    /// Whose rights it has.
    pub user: String,
}

impl Exec {
    /// The program.
    #[must_use]
    pub fn program(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// Its arguments.
    #[must_use]
    pub fn arguments(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }
}

impl fmt::Display for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exec {} as {}", self.words.join(" "), self.user)
    }
}
