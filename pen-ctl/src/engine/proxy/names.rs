//! A table of host names: exact ones, and those whose first label is `*`, which stands for exactly one
//! label as in certificates (RFC 9525 6.3). Looked up once for each connection, without allocation, in
//! letters of any size.

use std::collections::HashMap;

use crate::config::LONGEST_NAME;

/// What belongs to which name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names<T> {
    exact: HashMap<Box<str>, T>,
    /// By what follows `*.`.
    wild: HashMap<Box<str>, T>,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wild: HashMap::new() }
    }
}

impl<T> Names<T> {
    /// Enters a name, unless it is there.
    pub fn enter(&mut self, name: &str, value: T) {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let (table, name) = match name.strip_prefix("*.") {
            Some(rest) => (&mut self.wild, rest),
            None => (&mut self.exact, &*name),
        };
        table.entry(name.into()).or_insert(value);
    }

    /// What belongs to a name: an exact one comes before one with `*`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&T> {
        let name = name.strip_suffix('.').unwrap_or(name);
        let mut space = [0; LONGEST_NAME];
        let space = space.get_mut(..name.len())?;
        space.copy_from_slice(name.as_bytes());
        space.make_ascii_lowercase();
        let name = str::from_utf8(space).ok()?;
        self.exact.get(name).or_else(|| {
            let (first, rest) = name.split_once('.')?;
            self.wild.get(rest).filter(|_| !first.is_empty())
        })
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wild.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table() -> Names<u32> {
        let mut names = Names::default();
        for (number, name) in
            (1..).zip(["a.example", "*.a.example", "B.Example.", "*.example", "a.example"])
        {
            names.enter(name, number);
        }
        names
    }

    #[test]
    fn an_exact_name_comes_before_a_star_and_a_star_is_one_label() {
        let names = table();
        for (name, expected) in [
            ("a.example", Some(1)),
            ("A.EXAMPLE", Some(1)),
            ("a.example.", Some(1)),
            ("x.a.example", Some(2)),
            ("X.A.Example", Some(2)),
            ("y.x.a.example", None),
            ("b.example", Some(3)),
            ("c.example", Some(4)),
            ("example", None),
            (".example", None),
            ("*.a.example", Some(2)),
            ("", None),
            (".", None),
            ("../a.example", None),
        ] {
            assert_eq!(names.find(name).copied(), expected, "{name}");
        }
        assert!(!names.is_empty() && Names::<()>::default().is_empty());
    }

    proptest! {
        #[test]
        fn any_name_does_no_harm(name in ".{0,300}") {
            let _ = table().find(&name);
        }
    }
}
