//! Random conversations, in which every answer has to find its way back.

extern crate std;

use std::collections::BTreeMap;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

/// Something that happens in a random conversation.
#[derive(Clone, Debug)]
enum Step {
    Send { flow: Tuple, flags: u8, to: u8 },
    Answer { number: usize, flags: u8 },
    Evict(usize),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let flow = (1..4_u8, 5000..5003_u16, 1..3_u8, any::<bool>()).prop_map(|(c, port, v, tcp)| {
        if tcp { tuple(c, port, v, 80, 6) } else { tuple(c, port, v, 53, 17) }
    });
    let flags = || prop_oneof![Just(SYN), Just(ACK), Just(FIN), Just(RST)];
    let step = prop_oneof![
        6 => (flow, flags(), 1..3_u8).prop_map(|(flow, flags, to)| {
            let flags = if flow.protocol == protocol::TCP { flags } else { 0 };
            Step::Send { flow, flags, to }
        }),
        4 => (any::<usize>(), flags()).prop_map(|(number, flags)| Step::Answer { number, flags }),
        1 => any::<usize>().prop_map(Step::Evict),
        2 => (0..100_u64).prop_map(|s| Step::Pass(s * SECOND_NS / 2)),
        1 => Just(Step::Pass(HOUR_NS)),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    /// Whatever happens: the answer to what just went on comes back to its sender and from where it
    /// was sent to, and nobody is given what somebody else has used within half a minute.
    #[test]
    fn answers_find_their_way_back(steps in steps(), masquerade: bool, few: bool) {
        let mode = if masquerade { Service::MASQUERADE } else { Service::NAT };
        let mut maps = maps();
        if few {
            maps.cfg.last_port = Be16::new(10_004);
        }
        // What went on, by whom, and when last.
        let mut flows: BTreeMap<Tuple, (Tuple, Moment)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Pass(time) => maps.pass(time),
                Step::Evict(number) => {
                    let keys: Vec<_> = maps.entries.borrow().keys().copied().collect();
                    if let Some(key) = keys.get(number % keys.len().max(1)) {
                        maps.evict(key);
                        // A flow whose return entry went makes a new one within a second.
                        flows.remove(&key.reversed());
                        maps.pass(SECOND_NS);
                    }
                }
                Step::Answer { number, flags } => {
                    let sent: Vec<_> = flows.keys().copied().collect();
                    if let Some(sent) = sent.get(number % sent.len().max(1))
                        && let Some(answer) = maps.answer(sent, flags)
                    {
                        let (owner, used) = flows.get_mut(sent).expect("from its keys");
                        prop_assert_eq!(answer, owner.reversed());
                        *used = maps.now();
                    }
                }
                Step::Send { flow, flags, to } => match maps.send(mode, flow, flags, to) {
                    Ok(sent) => {
                        prop_assert_eq!(sent.destination, backend(to).addr);
                        if flags == RST {
                            continue;
                        }
                        let now = maps.now();
                        if let Some((owner, used)) = flows.get(&sent) {
                            let idle = now.0 - used.0;
                            prop_assert!(*owner == flow || idle >= LINGER_NS, "{:?}", sent);
                        }
                        flows.insert(sent, (flow, now));
                        prop_assert_eq!(maps.quoted_request(&sent), Some(flow));
                        prop_assert_eq!(maps.answer(&sent, ACK), Some(flow.reversed()));
                    }
                    Err(DropReason::DropNatConflict) => prop_assert!(!masquerade),
                    Err(DropReason::DropNoPort) => prop_assert!(masquerade && few),
                    Err(reason) => {
                        prop_assert_eq!(reason, DropReason::DropNoEntry);
                        prop_assert!(masquerade && flags == RST);
                    }
                },
            }
        }
    }
}
