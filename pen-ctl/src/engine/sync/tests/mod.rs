//! Nodes on a virtual network and clock: what the holder of an address knows, its peers know after a
//! quiet time, whatever the network did before.

mod codec;
mod random;
mod stories;
mod world;
