//! Named behaviours of one group on a few nodes.
