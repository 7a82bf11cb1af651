//! CARP in the lab: real ucarp nodes, `pend carp` in their place, and a second opinion of what is on
//! the wire, which shares no code with pen (`wire.py`).

mod node;
mod wire;

pub use node::{Node, Program};
pub use wire::{Asker, Injector, Seen, Watch};
