//! Whatever bytes arrive, also on the way back: never ABORTED, every frame in one counter, and what
//! passes is as it came unless it is a translated answer.

use super::{MODES, with_site};
use crate::bench::Action;
use crate::frame::{IP, tagged, usual_packets};
use crate::rng::Rng;

const FRAMES: u64 = 30_000;

#[test]
fn requests_and_answers_with_random_faults_never_abort() {
    for (mode, seed) in MODES.into_iter().zip([0x4a7, 0x4a8]) {
        with_site(mode, |site| {
            let mut templates = Vec::new();
            for (_, packet) in usual_packets() {
                let request = packet.clone().data(&[7; 40]).frame();
                let sent = site.request(&request);
                let answer = site.answer_to(&sent).data(&[9; 40]);
                let long = if packet.destination.is_ipv4() {
                    answer.clone().options(&[1; 8])
                } else {
                    answer.clone().extended(&[(60, &[0; 6]), (44, &[0, 0, 0, 0, 0, 7])])
                };
                let answer = answer.frame();
                templates.extend([request, tagged(&answer, 0x8100), long.frame(), answer]);
            }
            let mut rng = Rng::new(seed);
            let before = site.bench.total();
            let (mut returned, stack) = (0, pen_common::verdict::Counter::ReturnStack);
            for number in 0..FRAMES {
                let mut frame = templates[rng.below(templates.len())].clone();
                for _ in 0..rng.below(4) {
                    let at = rng.below(frame.len());
                    match rng.below(4) {
                        0 => frame[at] = rng.byte(),
                        1 => frame[at] ^= 1 << rng.below(8),
                        2 => frame.truncate(at.max(IP)),
                        _ => frame.extend((0..at).map(|_| 0)),
                    }
                }
                let ingress = [site.front, site.back][rng.below(2)];
                let passed = site.bench.verdicts()[stack as usize].packets;
                let (action, out) = site.bench.send(Some(ingress), &frame);
                let context = || format!("seed {seed:#x}, frame {number}: {action:?} {frame:02x?}");
                match action {
                    Action::Aborted => panic!("{}", context()),
                    Action::Pass if out != frame => {
                        let now = site.bench.verdicts()[stack as usize].packets;
                        assert_eq!(now, passed + 1, "{}", context());
                    }
                    Action::Pass | Action::Drop => {}
                    Action::Tx | Action::Redirect => returned += 1,
                }
            }
            assert_eq!(site.bench.total() - before, FRAMES, "every frame in one counter");
            assert!(returned > FRAMES / 4, "only {returned} frames went on");
        });
    }
}
