//! Servers of the DNS that the tests play, over UDP and TCP.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::net::TcpListener;

use super::*;
use crate::engine::names::Srv;

/// Flags of an answer (QR), and of one that is cut off (TC).
const ANSWER: u8 = 0x80;
const CUT: u8 = 0x82;

/// An answer with these flags, code and records, each of which is type and data.
fn reply(question: &[u8], flags: u8, rcode: u8, records: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut message = question.to_vec();
    (message[2], message[3]) = (flags, rcode);
    message[7] = u8::try_from(records.len()).expect("few");
    for (kind, data) in records {
        // The name of the question, class IN, for 9 seconds.
        message.extend_from_slice(&[0xc0, 12, 0, *kind, 0, 1, 0, 0, 0, 9, 0]);
        message.push(u8::try_from(data.len()).expect("short"));
        message.extend_from_slice(data);
    }
    message
}

/// Type of the records that are asked for: the last bytes are type and class.
fn kind(question: &[u8]) -> u8 {
    question[question.len() - 3]
}

/// A server that answers so over UDP.
async fn serve(answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    let at = socket.local_addr().expect("bound");
    tokio::spawn(async move {
        let mut message = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut message).await {
            let _ = socket.send_to(&answer(&message[..length]), peer).await;
        }
    });
    at
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(test)
}

fn query(srv: bool, both: bool) -> Query {
    Query { name: "app.example".to_owned(), srv, v6: false, both }
}

fn target(address: &str, srv: Option<Srv>) -> Target {
    Target { address: address.parse().expect("literal"), srv }
}

#[test]
fn the_other_family_is_asked_for_only_if_there_is_none_of_the_first() {
    run(async {
        let v6 = [&[0xfd][..], &[0; 14], &[1]].concat();
        let at = serve(move |question| match kind(question) {
            28 => reply(question, ANSWER, 0, &[(28, v6.clone())]),
            _ => reply(question, ANSWER, 0, &[]),
        });
        let at = vec![at.await];
        let none = Err("the DNS has no such records".to_owned());
        assert_eq!(resolve(&query(false, false), at.clone()).await, none);
        let answer = resolve(&query(false, true), at).await.expect("an answer");
        assert_eq!(answer.targets, [target("fd00::1", None)]);
        assert_eq!(answer.ttl, Duration::from_secs(9));
    });
}

#[test]
fn records_of_services_come_with_the_addresses_of_their_targets() {
    run(async {
        let srv = [&[0, 1, 0, 2, 0, 80][..], b"\x02b1\x07example\x00"].concat();
        let nowhere = vec![0, 0, 0, 0, 0, 80, 0];
        let at = serve(move |question| match kind(question) {
            33 => reply(question, ANSWER, 0, &[(33, srv.clone()), (33, nowhere.clone())]),
            _ => reply(question, ANSWER, 0, &[(1, vec![10, 0, 0, 1])]),
        });
        let answer = resolve(&query(true, false), vec![at.await]).await.expect("an answer");
        let srv = Srv { priority: 1, weight: 2, port: 80 };
        assert_eq!(answer.targets, [target("10.0.0.1", Some(srv))]);
    });
}

#[test]
fn another_server_is_asked_after_one_that_fails_and_the_last_error_is_told() {
    run(async {
        let fails = serve(|question| reply(question, ANSWER, 2, &[])).await;
        let fine = serve(|question| reply(question, ANSWER, 0, &[(1, vec![10, 0, 0, 1])])).await;
        let answer = resolve(&query(false, false), vec![fails, fine]).await.expect("an answer");
        assert_eq!(answer.targets, [target("10.0.0.1", None)]);
        let error = resolve(&query(false, false), vec![fails]).await;
        assert_eq!(error, Err(format!("{fails}: the server failed (SERVFAIL)")));
        // Nobody is there any more.
        let gone = UdpSocket::bind("127.0.0.1:0").await.expect("bind").local_addr().expect("bound");
        let error = resolve(&query(false, false), vec![gone]).await;
        assert_eq!(error, Err(format!("{gone}: it is not listening (connection refused)")));
    });
}

#[test]
fn a_server_that_fails_is_asked_once_however_many_targets_there_are() {
    run(async {
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        let fails = serve(move |question| {
            counter.fetch_add(1, Relaxed);
            reply(question, ANSWER, 2, &[])
        });
        let srv = |number| [&[0, 1, 0, 2, 0, 80, 2, b'b'][..], &[number, 0]].concat();
        let fine = serve(move |question| match kind(question) {
            33 => reply(question, ANSWER, 0, &[(33, srv(b'1')), (33, srv(b'2'))]),
            // The last letter of the first part of the name.
            _ => reply(question, ANSWER, 0, &[(1, vec![10, 0, 0, question[14] - b'0'])]),
        });
        let servers = vec![fails.await, fine.await];
        let answer = resolve(&query(true, false), servers).await.expect("an answer");
        let srv = Some(Srv { priority: 1, weight: 2, port: 80 });
        assert_eq!(answer.targets, [target("10.0.0.1", srv), target("10.0.0.2", srv)]);
        assert_eq!(asked.load(Relaxed), 1);
    });
}

#[test]
fn of_too_many_addresses_some_are_left_out() {
    run(async {
        let srv = |number| [&[0, 1, 0, 2, number, 80][..], b"\x02b1\x07example\x00"].concat();
        let at = serve(move |question| match kind(question) {
            33 => reply(question, ANSWER, 0, &(0..120).map(|n| (33, srv(n))).collect::<Vec<_>>()),
            _ => {
                let all = (0..60).map(|n| (1, vec![10, 0, 0, n])).collect::<Vec<_>>();
                reply(question, ANSWER, 0, &all)
            }
        });
        let answer = resolve(&query(true, false), vec![at.await]).await.expect("an answer");
        assert_eq!(answer.targets.len(), MOST_SERVERS);
    });
}

#[test]
fn what_is_cut_off_is_asked_for_over_tcp() {
    let asked = |answer: fn(&[u8]) -> Vec<u8>| {
        run(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
            let at = listener.local_addr().expect("bound");
            let datagrams = UdpSocket::bind(at).await.expect("the same port");
            tokio::spawn(async move {
                let mut message = [0; 512];
                while let Ok((length, peer)) = datagrams.recv_from(&mut message).await {
                    let cut = reply(&message[..length], CUT, 0, &[]);
                    let _ = datagrams.send_to(&cut, peer).await;
                }
            });
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let mut question =
                        vec![0; usize::from(stream.read_u16().await.expect("length"))];
                    stream.read_exact(&mut question).await.expect("a question");
                    let answer = answer(&question);
                    let length = u16::try_from(answer.len()).expect("short").to_be_bytes();
                    stream.write_all(&[&length[..], &answer].concat()).await.expect("a reader");
                }
            });
            let result = resolve(&query(false, false), vec![at]).await;
            result.map_err(|error| error.replace(&at.to_string(), "S"))
        })
    };
    let right = asked(|question| reply(question, ANSWER, 0, &[(1, vec![10, 0, 0, 1])]));
    assert_eq!(right.expect("an answer").targets, [target("10.0.0.1", None)]);
    let error = |answer| asked(answer).expect_err("nothing of use");
    assert_eq!(error(|question| reply(question, CUT, 0, &[])), "S: its answer is cut off");
    assert_eq!(error(|_| vec![0; 12]), "S: it answered another question");
    assert_eq!(error(|_| Vec::new()), "S: it answered another question");
}
