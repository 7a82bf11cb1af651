//! `penctl notify`: who is told of events.

use clap::Subcommand;
use pen_ctl::api::{NotifyTest, Request};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Send a test to one receiver, and say how it went
    Test {
        /// Name of the receiver
        receiver: String,
    },
}

impl Verb {
    pub(super) fn request(&self) -> Request {
        let Self::Test { receiver } = self;
        Request::NotifyTest(NotifyTest { receiver: receiver.clone() })
    }
}
