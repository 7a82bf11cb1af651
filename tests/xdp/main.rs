//! Packets through the real XDP program: a frame in, a verdict, a frame and a counter out
//! (BPF_PROG_TEST_RUN). Nothing is attached to any interface, so that every case is exact, fast and
//! independent of the machine's network. They need root: `cargo xtask test` runs them.

mod adopt;
mod affinity;
mod arp;
mod backends;
mod bench;
mod carp;
mod counters;
mod decap;
mod dsr;
mod events;
mod frag;
mod frame;
mod fuzz;
mod generator;
mod icmp;
mod interfaces;
mod jumbo;
mod limits;
mod listens;
mod nat;
mod nd;
mod outer;
mod parse;
mod pass;
mod rng;
mod sequences;
mod shapes;
mod shares;
mod signals;
mod simulate;
mod swap;
mod tunnel;
mod unwrapper;
mod verdicts;
mod versions;
mod world;
