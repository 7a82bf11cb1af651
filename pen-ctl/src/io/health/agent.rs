//! Asks an agent on a backend for its words.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Limit, Way, connect, failure};
use crate::engine::event::ProbeError;
use crate::engine::probe::agent::{LONGEST, Said};

pub(super) async fn ask(send: &str, way: &Way, limit: &Limit) -> Result<Said, ProbeError> {
    let mut stream = connect(&way.target, limit).await?;
    let talking = async {
        if !send.is_empty() {
            stream.write_all(send.as_bytes()).await.map_err(|error| failure(&error))?;
        }
        let mut heard = Vec::new();
        loop {
            let mut part = [0; LONGEST];
            let length = stream.read(&mut part).await.map_err(|error| failure(&error))?;
            heard.extend_from_slice(&part[..length]);
            let ended = length == 0 || heard.iter().any(|byte| b"\r\n".contains(byte));
            if heard.is_empty() {
                return Err(ProbeError::Closed);
            }
            if ended || heard.len() >= LONGEST {
                return Said::parse(&heard);
            }
        }
    };
    limit.wait(talking, ProbeError::Silent).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;

    /// What is made of an agent that says these parts, and what it gets to hear first.
    fn talk(
        send: &str,
        says: &'static [&str],
        limit: Duration,
    ) -> (String, Result<Said, ProbeError>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
            let target = listener.local_addr().expect("bound");
            let length = send.len();
            let agent = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.expect("a client");
                let mut heard = vec![0; length];
                stream.read_exact(&mut heard).await.expect("the question");
                for words in says {
                    stream.write_all(words.as_bytes()).await.expect("a client that reads");
                    if words.is_empty() {
                        let _ = stream.read_u8().await;
                    }
                }
                String::from_utf8(heard).expect("text")
            });
            let way = Way { target: target.into(), through: None };
            let said = ask(send, &way, &Limit::of(limit)).await;
            (agent.await.expect("it ended"), said)
        })
    }

    #[test]
    fn an_agent_is_asked_and_heard_to_the_end_of_its_line_or_connection() {
        let patience = Duration::from_secs(30);
        for says in [&["up 50%\n"][..], &["up", " 50%"], &["up 50%\r\n", ""]] {
            let (heard, said) = talk("b1\n", says, patience);
            assert_eq!(
                (heard.as_str(), said.map(|said| said.to_string()).as_deref()),
                ("b1\n", Ok("up, 50%"))
            );
        }
        assert_eq!(talk("", &[], patience).1, Err(ProbeError::Closed));
        let short = Duration::from_secs(1);
        assert_eq!(talk("", &["up", ""], short).1, Err(ProbeError::Silent(short)));
        let error = talk("", &["HTTP/1.1 400 Bad Request\r\n"], patience).1.expect_err("no words");
        assert!(error.to_string().contains("expected words of an agent"), "{error}");
    }
}
