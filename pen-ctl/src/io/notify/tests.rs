//! Messages to programs and servers of the test's own.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use pen_common::moment::Moment;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::config::{Exec, Notify, Webhook};

const PATIENCE: Duration = Duration::from_secs(30);

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(test)
}

fn delivery(to: To, timeout: Duration) -> Delivery {
    let name = "pager".to_owned();
    let message = Message {
        at: clock::now(),
        sequence: 7,
        warning: true,
        kind: "backend-down",
        subject: "web/b1".to_owned(),
        text: "web/b1 is down: \"connection refused\"".to_owned(),
        left_out: 0,
    };
    let to = Arc::new(Notify { name, to, events: None, rate_limit: 10, timeout });
    Delivery { to, serial: 3, message }
}

fn shell(script: &str) -> To {
    let words = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    To::Program(Exec { words, user: "nobody".to_owned() })
}

fn tell(to: To, limit: Duration) -> Result<(), String> {
    run(async { deliver("edge1", &delivery(to, limit)).await })
}

#[test]
fn a_program_knows_the_event_from_its_environment_and_its_input() {
    let script = r#"test "$PEN_NODE $PEN_EVENT $PEN_SUBJECT $PEN_SEVERITY $PEN_SEQUENCE $HOME" = \
                    "edge1 backend-down web/b1 warning 7 " || exit 3
                    test "$PEN_TEXT" = 'web/b1 is down: "connection refused"' || exit 4
                    grep -q '"event":"backend-down","subject":"web/b1"' || exit 5"#;
    assert_eq!(tell(shell(script), PATIENCE), Ok(()));
}

#[test]
fn a_program_that_fails_or_takes_too_long_is_told_in_words() {
    let told = |to, limit| tell(to, limit).expect_err("it fails");
    assert_eq!(
        told(shell("echo no modem; exit 2"), PATIENCE),
        "/bin/sh ended with 2: \"no modem\""
    );
    let late = told(shell("sleep 64 & wait"), Duration::from_millis(200));
    assert_eq!(late, "/bin/sh did not end within 200ms, and was killed");
    let absent = Exec { words: vec!["/nonexistent".to_owned()], user: "nobody".to_owned() };
    let absent = told(To::Program(absent), PATIENCE);
    assert!(absent.starts_with("/nonexistent: No such file"), "{absent}");
}

#[test]
fn one_that_reads_nothing_is_content_all_the_same() {
    assert_eq!(tell(shell("exec <&-; exit 0"), PATIENCE), Ok(()));
}

fn webhook(port: u16, tls: bool, ca: Option<PathBuf>) -> To {
    let (host, path) = ("127.0.0.1".to_owned(), "/pen?to=me".to_owned());
    let authority = format!("127.0.0.1:{port}");
    To::Webhook(Webhook { tls, host, port, authority, path, ca })
}

/// What a server that answers so gets to read, and how that went.
fn talk(answer: &'static str, limit: Duration) -> (String, Result<(), String>) {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("bound").port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                request.push(stream.read_u8().await.expect("a whole request"));
            }
            stream.write_all(answer.as_bytes()).await.expect("a client that reads");
            if answer.is_empty() {
                // Until the client has lost its patience.
                let _ = stream.read_u8().await;
            }
            String::from_utf8(request).expect("text")
        });
        let result = deliver("edge1", &delivery(webhook(port, false, None), limit)).await;
        (server.await.expect("no panic"), result)
    })
}

#[test]
fn a_server_gets_the_event_as_json() {
    let (request, result) = talk("HTTP/1.1 204 No Content\r\n\r\n", PATIENCE);
    assert_eq!(result, Ok(()));
    let (head, body) = request.split_once("\r\n\r\n").expect("head and body");
    assert!(head.starts_with("POST /pen?to=me HTTP/1.1\r\nhost: 127.0.0.1:"), "{head}");
    assert!(head.contains("\r\ncontent-type: application/json"), "{head}");
    let mut body: Value = serde_json::from_str(body).expect("JSON");
    let time = body["time"].take().as_u64().expect("a time");
    assert!(time.abs_diff(clock::wall_seconds()) < 100, "{time}");
    let expected = serde_json::json!({
        "node": "edge1", "event": "backend-down", "subject": "web/b1",
        "text": "web/b1 is down: \"connection refused\"", "severity": "warning", "time": null,
        "sequence": 7, "left_out": 0,
    });
    assert_eq!(body, expected);
}

#[test]
fn each_way_in_which_a_server_fails_is_told_in_words() {
    let told = |answer, limit| talk(answer, limit).1.expect_err("it fails");
    let refused = told("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", PATIENCE);
    assert!(refused.ends_with(" answered 503"), "{refused}");
    let moved = told("HTTP/1.1 302 Found\r\nlocation: /x\r\n\r\n", PATIENCE);
    assert!(moved.ends_with(" answered 302"), "{moved}");
    assert_eq!(told("", Duration::from_millis(300)), "no answer within 300ms");
    let nonsense = told("220 mail ready\r\n\r\n", PATIENCE);
    assert!(nonsense.contains("invalid HTTP"), "{nonsense}");
    let closed = run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("bound").port();
        drop(listener);
        deliver("edge1", &delivery(webhook(port, false, None), PATIENCE)).await
    });
    let closed = closed.expect_err("nobody listens");
    assert!(closed.ends_with("Connection refused (os error 111)"), "{closed}");
}

#[test]
fn a_server_with_tls_has_to_have_the_right_certificate() {
    let key = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a key");
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a key");
    let folder = std::env::temp_dir().join(format!("pen-notify-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let (right, wrong) = (folder.join("right.pem"), folder.join("wrong.pem"));
    fs::write(&right, key.cert.pem()).expect("written");
    fs::write(&wrong, other.cert.pem()).expect("written");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        crate::config::tls::material::provider(),
    ));
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der());
    let config = config
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private.expect("a key"))
        .expect("they belong together");
    let results = run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("bound").port();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a client");
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = Vec::new();
                while !request.ends_with(b"}") {
                    request.push(stream.read_u8().await.expect("a whole request"));
                }
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(answer).await.expect("a client that reads");
            }
        });
        let mut results = Vec::new();
        for ca in [right, wrong, folder.join("absent.pem")] {
            let to = webhook(port, true, Some(ca));
            results.push(deliver("edge1", &delivery(to, PATIENCE)).await);
        }
        results
    });
    fs::remove_dir_all(folder).expect("clean up");
    assert_eq!(results[0], Ok(()));
    let told = |result: &Result<(), String>| result.clone().expect_err("it fails");
    assert!(told(&results[1]).contains("invalid peer certificate"), "{:?}", results[1]);
    assert!(told(&results[2]).contains("absent.pem"), "{:?}", results[2]);
}

#[test]
fn a_test_is_answered_with_how_it_went_and_results_go_to_the_engine() {
    run(async {
        let (events, mut heard) = mpsc::channel(4);
        let notifier = Notifier::new(events);
        let ask = async |script: &str| {
            let (answer, answered) = oneshot::channel();
            notifier.test("edge1", delivery(shell(script), PATIENCE), answer);
            answered.await.expect("an answer")
        };
        let Ok(Reply::NotifyTested(tested)) = ask("exit 0").await else { panic!("it works") };
        assert_eq!(tested.receiver, "pager");
        let refusal = ask("exit 1").await.expect_err("it fails");
        assert_eq!(refusal.error, "pager was not told: /bin/sh ended with 1");
        assert!(heard.try_recv().is_err(), "the engine hears nothing of tests");
        notifier.start("edge1", delivery(shell("exit 1"), PATIENCE));
        let (receiver, result) = ("pager".to_owned(), Err("/bin/sh ended with 1".to_owned()));
        assert_eq!(heard.recv().await, Some(Event::Notified { receiver, serial: 3, result }));
    });
}

#[test]
fn a_message_that_is_tried_again_keeps_its_time() {
    let mut message = delivery(shell(""), PATIENCE).message;
    message.at = Moment(clock::now().0 - 10_000_000_000);
    let ago = clock::wall_seconds() - Told::new("edge1", &message).time;
    assert!((10..60).contains(&ago), "{ago}");
}
