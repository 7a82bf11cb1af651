//! What became of the frames of an advertisement: one goes to each peer and of each family, and it was
//! made if one of them went out. Whoever cannot be reached must not end the role that the others
//! have been told of.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// Number of CARP among the protocols above IP.
const CARP: u8 = 112;

/// Where a frame goes: of which group, with which ethertype, to which peer.
type Way = (u32, [u8; 2], Option<IpAddr>);

/// The advertisement whose frames are being sent, and what failed before.
#[derive(Debug, Default)]
pub(super) struct Saying {
    /// Its group, and until one frame went out the first error.
    open: Option<(u32, Result<(), String>)>,
    failing: BTreeSet<Way>,
}

impl Saying {
    /// A frame was sent, or not. A failure that is news is to be told in these words.
    pub(super) fn note(
        &mut self,
        group: u32,
        frame: &[u8],
        next_hop: Option<IpAddr>,
        result: Result<(), String>,
    ) -> Option<String> {
        if is_advert(frame) {
            match &mut self.open {
                Some((_, so_far)) if result.is_ok() => *so_far = Ok(()),
                Some(_) => {}
                None => self.open = Some((group, result.clone())),
            }
        }
        let ethertype = frame.get(12..14).and_then(|two| two.try_into().ok()).unwrap_or_default();
        let way = (group, ethertype, next_hop);
        match result {
            Ok(()) => {
                self.failing.remove(&way);
                None
            }
            Err(error) => self.failing.insert(way).then(|| match next_hop {
                Some(peer) => format!("nothing can be sent to {peer}: {error}"),
                None => format!("some frames cannot be sent: {error}"),
            }),
        }
    }

    /// The group and the error of an advertisement of which nothing went out, if it is over:
    /// something else follows than another frame of this group.
    pub(super) fn end(&mut self, next: Option<(u32, &[u8])>) -> Option<(u32, String)> {
        let goes_on = |group| next.is_some_and(|(next, frame)| next == group && is_advert(frame));
        let (group, result) = self.open.take_if(|(group, _)| !goes_on(*group))?;
        result.err().map(|error| (group, error))
    }
}

fn is_advert(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.get(23) == Some(&CARP),
        Some([0x86, 0xdd]) => frame.get(20) == Some(&CARP),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(ethertype: [u8; 2], at: usize, protocol: u8) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[12..14].copy_from_slice(&ethertype);
        frame[at] = protocol;
        frame
    }

    fn v4() -> Vec<u8> {
        frame([0x08, 0x00], 23, CARP)
    }

    fn v6() -> Vec<u8> {
        frame([0x86, 0xdd], 20, CARP)
    }

    fn failed() -> Result<(), String> {
        Err("no route".to_owned())
    }

    #[test]
    fn an_advertisement_was_made_if_one_of_its_frames_went_out() {
        for results in [[failed(), Ok(())], [Ok(()), failed()]] {
            let mut saying = Saying::default();
            for (frame, result) in [v4(), v6()].into_iter().zip(results) {
                assert_eq!(saying.end(Some((1, &frame))), None);
                saying.note(1, &frame, None, result);
            }
            assert_eq!(saying.end(None), None);
        }
    }

    #[test]
    fn one_of_which_nothing_went_out_failed_when_something_else_follows() {
        let mut saying = Saying::default();
        for frame in [v4(), v6()] {
            saying.note(1, &frame, None, failed());
        }
        assert_eq!(saying.end(Some((1, &v4()))), None, "another of its frames");
        assert_eq!(saying.end(Some((2, &v4()))), Some((1, "no route".to_owned())));
        assert_eq!(saying.end(None), None, "it is said once");
    }

    #[test]
    fn who_cannot_be_reached_is_told_once_until_it_works() {
        let (mut saying, frame) = (Saying::default(), v4());
        let peer = Some(IpAddr::from([10, 0, 0, 9]));
        let told = Some("nothing can be sent to 10.0.0.9: no route".to_owned());
        for expected in [told.clone(), None] {
            assert_eq!(saying.note(1, &frame, peer, failed()), expected);
        }
        assert_eq!(saying.note(1, &frame, peer, Ok(())), None);
        assert_eq!(saying.note(1, &frame, peer, failed()), told);
    }

    #[test]
    fn announcements_are_no_advertisements() {
        let mut saying = Saying::default();
        for frame in [frame([0x08, 0x06], 20, 1), frame([0x86, 0xdd], 20, 58)] {
            let told = saying.note(1, &frame, None, failed());
            assert_eq!(told.as_deref(), Some("some frames cannot be sent: no route"));
        }
        assert_eq!(saying.end(None), None);
    }
}
