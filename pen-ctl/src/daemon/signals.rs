//! The signals that the daemon obeys.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// All of them.
pub(super) struct Signals {
    pub(super) end: EndSignals,
    pub(super) hangup: Signal,
    pub(super) user1: Signal,
}

/// SIGTERM and SIGINT.
pub(super) struct EndSignals(Signal, Signal);

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let hangup = signal(SignalKind::hangup())?;
        let user1 = signal(SignalKind::user_defined1())?;
        Ok(Self { end: EndSignals(terminate, interrupt), hangup, user1 })
    }
}

impl EndSignals {
    pub(super) async fn recv(&mut self) {
        let Self(terminate, interrupt) = self;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}
