//! Ranges of ports, as in `8000-8010`.

use std::fmt;

/// Ports from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    /// First.
    pub first: u16,
    /// Last, not below the first.
    pub last: u16,
}

impl Ports {
    /// Every port that nobody else has: the ports of a service that listens on port 0.
    pub const ANY: Self = Self::one(0);

    /// One port.
    #[must_use]
    pub const fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// The port, if it is one and no more.
    #[must_use]
    pub fn single(self) -> Option<u16> {
        (self.first == self.last && self != Self::ANY).then_some(self.first)
    }

    /// How many.
    #[must_use]
    pub const fn count(self) -> usize {
        self.last as usize - self.first as usize + 1
    }

    /// All of them.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }

    /// Reads `FIRST-LAST`, or one port alone.
    pub(super) fn parse(text: &str) -> Option<Self> {
        // `parse` alone would take a sign.
        let port = |text: &str| {
            text.bytes().all(|digit| digit.is_ascii_digit()).then(|| text.parse().ok()).flatten()
        };
        let ports = match text.split_once('-') {
            Some((first, last)) => Self { first: port(first)?, last: port(last)? },
            None => Self { first: port(text)?, last: port(text)? },
        };
        (ports.first <= ports.last).then_some(ports)
    }

    /// Whether a port belongs to both.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_reads_back_as_it_is_written() {
        for text in ["80", "80-81", "1-65535", "0"] {
            assert_eq!(Ports::parse(text).map(|ports| ports.to_string()).as_deref(), Some(text));
        }
        assert_eq!(Ports::parse("80-80").map(|ports| ports.to_string()).as_deref(), Some("80"));
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in ["", "-", "80-", "-80", "81-80", "80-65536", "+80", "80 - 81", "80-81-82", "a"]
        {
            assert_eq!(Ports::parse(text), None, "{text}");
        }
    }

    #[test]
    fn ranges_overlap_if_they_share_a_port() {
        let ports = |text| Ports::parse(text).expect("literal");
        for (one, two, expected) in [
            ("1-9", "9-12", true),
            ("1-9", "10-12", false),
            ("5", "1-9", true),
            ("1-9", "3-4", true),
        ] {
            assert_eq!(ports(one).overlaps(ports(two)), expected, "{one} {two}");
            assert_eq!(ports(two).overlaps(ports(one)), expected, "{two} {one}");
        }
    }
}
