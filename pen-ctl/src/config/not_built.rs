//! What the configuration language has but this version of pen has not. An operator who writes one
//! of these made no typing error: they are told so, and what to use instead. Whoever builds a
//! feature deletes its rows.

/// A key, or one value of a key, that is not built.
struct NotBuilt {
    /// Table, as in `Spec::name`.
    table: &'static str,
    key: &'static str,
    /// The value; empty if the key as a whole is not built.
    value: &'static str,
    /// What to do instead.
    instead: &'static str,
}

const fn row(
    table: &'static str,
    key: &'static str,
    value: &'static str,
    instead: &'static str,
) -> NotBuilt {
    NotBuilt { table, key, value, instead }
}

#[rustfmt::skip]
const NOT_BUILT: &[NotBuilt] = &[
    row("",        "web",             "",            "remove it; `penctl` shows state and counters"),
    row("check",   "type",            "https",       "use `type = \"http\", tls = true`"),
];

/// If this key is not built: what to do instead.
pub(super) fn key(table: &str, key: &str) -> Option<&'static str> {
    value(table, key, "")
}

/// If this value of this key is not built: what to do instead.
pub(super) fn value(table: &str, key: &str, value: &str) -> Option<&'static str> {
    NOT_BUILT
        .iter()
        .find(|row| row.table == table && row.key == key && row.value == value)
        .map(|row| row.instead)
}
