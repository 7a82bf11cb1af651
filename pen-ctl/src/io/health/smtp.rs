//! Greets a mail server.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Limit, Way, converse, failure};
use crate::engine::event::{Outcome, ProbeError};
use crate::engine::probe::smtp::{Dialogue, Step};

pub(super) async fn ask(hello: &str, way: &Way, limit: &Limit) -> Outcome {
    let mut stream = converse(way, limit).await?;
    let mut dialogue = Dialogue::new(hello);
    let talking = async {
        let mut heard = [0; 4096];
        loop {
            let length = stream.read(&mut heard).await.map_err(|error| failure(&error))?;
            if length == 0 {
                return Err(ProbeError::Closed);
            }
            let say = match dialogue.hear(&heard[..length])? {
                Step::Listen => continue,
                Step::Say(words) => words,
                Step::Done(words) => {
                    // A farewell keeps the server's log clean; nobody waits for its answer.
                    let _ = stream.write_all(words.as_bytes()).await;
                    let _ = stream.shutdown().await;
                    return Ok(());
                }
            };
            stream.write_all(say.as_bytes()).await.map_err(|error| failure(&error))?;
        }
    };
    limit.wait(talking, ProbeError::Silent).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;

    /// What the probe makes of a server that says these things, one after each line that it hears.
    fn talk(says: &'static [&str], limit: Duration) -> Outcome {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
            let target = listener.local_addr().expect("bound");
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.expect("a client");
                for words in says {
                    stream.write_all(words.as_bytes()).await.expect("a client that reads");
                    while !words.is_empty()
                        && stream.read_u8().await.is_ok_and(|byte| byte != b'\n')
                    {
                    }
                    if words.is_empty() {
                        let _ = stream.read_u8().await;
                    }
                }
            });
            ask("pen", &Way { target: target.into(), through: None }, &Limit::of(limit)).await
        })
    }

    #[test]
    fn a_mail_server_is_greeted_and_left() {
        let patience = Duration::from_secs(30);
        assert_eq!(talk(&["220 ready\r\n", "250 hello\r\n"], patience), Ok(()));
        let busy = talk(&["421 too busy\r\n"], patience).expect_err("it is");
        assert_eq!(busy.to_string(), r#"answered "421 too busy", expected 220"#);
        assert_eq!(talk(&["220 ready\r\n"], patience), Err(ProbeError::Closed));
        let short = Duration::from_secs(1);
        assert_eq!(talk(&[""], short), Err(ProbeError::Silent(short)));
    }
}
