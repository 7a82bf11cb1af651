//! Numbered datagrams through pen, ten thousand a second: whatever happens to it meanwhile, none may
//! be lost or doubled.

use std::net::SocketAddr;

use pen_tests::{
    ConfigText, Lab, Netns, VIP4, VIP6,
    numbers::{Report, while_counting},
};

use crate::stage::{ECHO, Stage, usual};

/// Where they are sent. Instead of the demo's own UDP port, whose sockets would answer.
const PORT: u16 = 9;
const PER_SECOND: u32 = 10_000;

/// The lab, in which the UDP services only listen.
pub(crate) struct Numbered {
    pub(crate) stage: Stage,
}

impl Numbered {
    pub(crate) fn new() -> Self {
        Self { stage: Stage::in_lab(Lab::builder().build().unwrap(), numbered) }
    }

    /// Sends them while something happens, and until there are so many; how many there were.
    #[track_caller]
    pub(crate) fn send_while(&mut self, least: u32, during: impl FnOnce(&mut Stage)) -> u32 {
        let Self { stage } = self;
        let client = stage.lab.client().netns.clone();
        let backends: Vec<Netns> =
            stage.lab.backends.iter().map(|host| host.netns.clone()).collect();
        let servers = [VIP4, VIP6].map(|vip| SocketAddr::new(vip, PORT));
        let sending = while_counting(&client, &backends, &servers, PER_SECOND, least, || {
            during(stage);
        });
        let ((), Report { sent, lost, doubled, per_second }) = sending.unwrap();
        assert!(lost.is_empty(), "{} of {sent} were lost: {lost:?}", lost.len());
        assert!(doubled.is_empty(), "{} of {sent} were doubled: {doubled:?}", doubled.len());
        // A loaded machine may be slower; but a few a second would prove nothing.
        assert!(per_second > 1000.0, "only {per_second:.0} were sent in a second");
        sent
    }
}

/// All four services, the UDP ones on the port for numbers.
pub(crate) fn numbered(lab: &Lab) -> ConfigText {
    let mut config = usual(lab);
    for service in &mut config.services {
        if service.listen.port() == ECHO.port() {
            service.listen.set_port(PORT);
            for (_, at) in &mut service.backends {
                at.set_port(PORT);
            }
        }
    }
    config
}
