//! Packets that were captured from the real ucarp, and every reason to refuse one.

mod codec;
mod refusals;
mod vectors;
