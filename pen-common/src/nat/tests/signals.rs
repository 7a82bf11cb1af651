//! What is told of backends, and what is not.

use super::*;

impl Maps {
    /// What an answer to `sent` tells.
    fn told(&self, sent: &Tuple, flags: u8) -> Option<Signal> {
        let mut job = Job { came: sent.reversed(), tcp_flags: flags, ..Job::default() };
        assert!(inbound(self, &mut job), "an answer");
        told(&job)
    }

    fn counted(&self) -> Vec<(u32, Signal)> {
        self.signals.take()
    }
}

#[test]
fn a_reset_is_a_refusal_only_as_the_first_answer_and_to_a_syn() {
    for mode in MODES {
        let maps = maps();
        let sent = maps.sent(mode, usual(), SYN);
        assert_eq!(maps.told(&sent, RST | ACK), Some(Signal::Refused));
        assert_eq!(maps.told(&sent, RST | ACK), None, "told once");
        // The client tries again from the same port.
        let sent = maps.sent(mode, usual(), SYN);
        assert_eq!(maps.told(&sent, RST | ACK), Some(Signal::Refused));
        let sent = maps.sent(mode, usual(), SYN);
        assert_eq!(maps.told(&sent, SYN | ACK), Some(Signal::Answered));
        for flags in [ACK, FIN, RST, RST | ACK] {
            assert_eq!(maps.told(&sent, flags), None, "{flags}");
        }
        // About a flow that was there before its entry: the RST is about a segment of it.
        maps.entries.borrow_mut().clear();
        let sent = maps.sent(mode, usual(), ACK);
        assert_eq!(maps.told(&sent, RST), None);
        assert_eq!(maps.counted(), []);
    }
}

#[test]
fn the_first_datagram_of_a_server_is_an_answer() {
    let maps = maps();
    let sent = maps.sent(Service::NAT, tuple(7, 5000, 1, 53, protocol::UDP), 0);
    assert_eq!(maps.told(&sent, 0), Some(Signal::Answered));
    assert_eq!(maps.told(&sent, 0), None);
}

#[test]
fn a_syn_that_is_repeated_before_any_answer_was_not_answered() {
    for mode in MODES {
        let maps = maps();
        maps.sent(mode, usual(), SYN);
        // A network may duplicate a frame.
        maps.sent(mode, usual(), SYN);
        assert_eq!(maps.counted(), []);
        for seconds in [1, 2, 4] {
            maps.pass(seconds * SECOND_NS);
            maps.sent(mode, usual(), SYN);
            assert_eq!(maps.counted(), [(1, Signal::Unanswered)], "after {seconds} s");
        }
        maps.pass(SECOND_NS);
        // Another backend has not been asked before.
        maps.send(mode, usual(), SYN, 2).expect("goes on");
        assert_eq!(maps.counted(), []);
    }
}

#[test]
fn a_new_connection_after_an_answer_a_refusal_or_a_long_time_is_no_repetition() {
    for mode in MODES {
        for flags in [SYN | ACK, RST | ACK] {
            let maps = maps();
            let sent = maps.sent(mode, usual(), SYN);
            maps.answer(&sent, flags);
            maps.pass(2 * SECOND_NS);
            maps.sent(mode, usual(), SYN);
            assert_eq!(maps.counted(), []);
        }
        let maps = maps();
        maps.sent(mode, usual(), SYN);
        maps.pass(25 * SECOND_NS);
        maps.sent(mode, usual(), SYN);
        assert_eq!(maps.counted(), []);
    }
}

#[test]
fn packets_of_an_open_connection_tell_nothing() {
    for mode in MODES {
        let maps = maps();
        let sent = maps.sent(mode, usual(), SYN);
        maps.answer(&sent, SYN | ACK);
        for _ in 0..5 {
            maps.pass(2 * SECOND_NS);
            maps.sent(mode, usual(), ACK);
            assert_eq!(maps.told(&sent, ACK), None);
        }
        assert_eq!(maps.counted(), []);
    }
}
