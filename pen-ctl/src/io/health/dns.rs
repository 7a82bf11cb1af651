//! Asks a name server, over UDP or TCP.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Limit, Way, converse, failure, random, udp};
use crate::config::{Dns, Protocol};
use crate::engine::event::{Outcome, ProbeError};
use crate::engine::probe;

pub(super) async fn ask(dns: &Dns, way: &Way, limit: &Limit) -> Outcome {
    let number = u16::from_be_bytes(random()?);
    let question = probe::dns::question(dns, number);
    let question = question.map_err(|error| ProbeError::Local(error.to_string()))?;
    let judge = |message: &[u8]| probe::dns::judge(dns, number, message);
    if dns.transport == Protocol::Udp {
        return udp::converse(&question, way, limit, judge).await;
    }
    let mut stream = converse(way, limit).await?;
    let talking = async {
        // Over TCP a message comes after its length (RFC 1035 section 4.2.2).
        let length = u16::try_from(question.len()).unwrap_or(u16::MAX);
        let message = [&length.to_be_bytes()[..], &question].concat();
        stream.write_all(&message).await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    };
    let talking = async { talking.await.map_err(|error| failure(&error)) };
    let answer = limit.wait(talking, ProbeError::Silent).await?;
    judge(&answer).unwrap_or_else(|| {
        let (found, expected) = ("another question".to_owned(), "this one".to_owned());
        Err(ProbeError::Answered { found, expected })
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;
    use crate::config::{Rcode, Record};

    /// What becomes of a question over TCP that is answered so, after its own number.
    fn talk(answer: impl Fn(Vec<u8>) -> Vec<u8> + Send + 'static) -> Outcome {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
            let target = listener.local_addr().expect("bound");
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.expect("a client");
                let length = stream.read_u16().await.expect("a length");
                let mut question = vec![0; usize::from(length)];
                stream.read_exact(&mut question).await.expect("a question");
                stream.write_all(&answer(question)).await.expect("a client that reads");
            });
            let dns = Dns {
                name: "pen.test".to_owned(),
                record: Record::A,
                rcode: Rcode::NxDomain,
                answer: None,
                transport: Protocol::Tcp,
            };
            let way = Way { target: target.into(), through: None };
            ask(&dns, &way, &Limit::of(Duration::from_secs(30))).await
        })
    }

    /// With its length, an answer (QR) of this code.
    fn reply(mut question: Vec<u8>, rcode: u8) -> Vec<u8> {
        (question[2], question[3]) = (0x80, rcode);
        let length = u16::try_from(question.len()).expect("short");
        [&length.to_be_bytes()[..], &question].concat()
    }

    #[test]
    fn over_tcp_messages_have_their_length_before_them() {
        assert_eq!(talk(|question| reply(question, 3)), Ok(()));
        let refused = talk(|question| reply(question, 5)).expect_err("another code");
        assert_eq!(refused.to_string(), "answered REFUSED, expected NXDOMAIN");
        assert_eq!(talk(|_| vec![0]), Err(ProbeError::Closed));
        let other = talk(|mut question| {
            question[0] = !question[0];
            reply(question, 3)
        });
        let error = other.expect_err("another number").to_string();
        assert_eq!(error, "answered another question, expected this one");
    }
}
