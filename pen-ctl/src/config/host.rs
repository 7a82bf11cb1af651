//! Names of hosts, as clients ask for them.

/// Longest name (RFC 1035 2.3.4, without the dot at the end).
pub const LONGEST_NAME: usize = 253;

/// Whether this is the name of a host, perhaps with `*` as its first label.
#[must_use]
pub fn is_valid(name: &str) -> bool {
    let rest = name.strip_prefix("*.").unwrap_or(name);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    name.len() <= LONGEST_NAME && rest.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_labels_and_perhaps_a_star_in_front() {
        for name in ["a", "a.example", "*.example", "a_b.c-d.example", "192.0.2.1"] {
            assert!(is_valid(name), "{name}");
        }
        let long = format!("{}.example", "a".repeat(64));
        let longer = "a.".repeat(127) + "aa";
        let wrong = ["", "*", "*.", "a..b", "a.*.example", "a*.example", ".a", "ä.example", "a/b"];
        for name in wrong.into_iter().chain([&*long, &*longer]) {
            assert!(!is_valid(name), "{name}");
        }
    }
}
