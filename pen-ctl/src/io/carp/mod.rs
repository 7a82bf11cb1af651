//! Carries out what `engine::carp` decides: hears and sends the packets of CARP, writes the roles that
//! the XDP program obeys, gives interfaces their addresses, and runs the operator's programs.

mod addresses;
mod filter;
mod hooks;
mod hosts;
mod links;
mod priority;
mod socket;
mod sys;
