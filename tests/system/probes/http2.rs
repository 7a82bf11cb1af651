//! Checks by HTTP/2 and gRPC, with nginx: it knows nothing of gRPC, but says over HTTP/2 what a server of
//! it would.

use std::fs;

use pen_tests::Nginx;

use super::Checked;
use crate::tls::Pki;

/// `listen` of an nginx that answers with files, whatever the method, as gRPC does.
const GRPC: &str = "80 http2;
        location = /grpc.health.v1.Health/Check {
            alias files/health;
            default_type application/grpc;
            add_trailer grpc-status 0 always;
            error_page 405 =200 $uri;
        }
        default_type text/plain";

#[test]
fn http_2_is_asked_in_clear_text_and_over_tls() {
    let pki = Pki::new();
    pki.issue("site", &["site.test"]);
    let [chain, key] = ["pem", "key"].map(|end| pki.file(&format!("site.{end}")));
    let checked = Checked::by(r#"type = "http", version = "2", body = "b1""#);
    let host = &checked.lab.backends[0].netns;
    let both = ["80 http2".to_owned()];
    let clear = Nginx::start_on(host, "b1", &both, 80).unwrap();
    checked.wait_up();
    checked.now_by(r#"type = "http", version = "2", path = "/nowhere""#);
    checked.wait_down("answered 404, expected 200-399");
    drop(clear);
    let old = Nginx::start(host, "b1", 80).unwrap();
    checked.wait("told that it is no HTTP/2", |row| {
        let why = row["why"].as_str().unwrap_or_default();
        why.starts_with("check failed: answered something else (") && why.ends_with("HTTP/2")
    });
    drop(old);
    let over_tls = r#"type = "http", version = "2", tls = true, body = "b1""#;
    checked.now_by(over_tls);
    let secure = Nginx::secure(host, "b1", 80, (&chain, &key), "http2").unwrap();
    checked.wait_up();
    drop(secure);
    let _old = Nginx::secure(host, "b1", 80, (&chain, &key), "").unwrap();
    // nginx knows HTTP/1.1 only, and says so before any request.
    checked.wait("no HTTP/2", |row| {
        let why = row["why"].as_str().unwrap_or_default();
        row["health"] == "down"
            && (why.ends_with("refused TLS: no application protocol")
                || why.ends_with("expected HTTP/2"))
    });
}

#[test]
fn a_server_of_grpc_has_to_say_that_it_serves() {
    let checked = Checked::by(r#"type = "grpc", service = "shop.Cart""#);
    let host = &checked.lab.backends[0].netns;
    checked.wait_down("connection refused");
    let nginx = Nginx::start_on(host, "b1", &[GRPC.to_owned()], 80).unwrap();
    checked.wait_down("answered 404, expected 200 and a word of gRPC");
    let health = nginx.files().join("health");
    fs::write(&health, [0, 0, 0, 0, 2, 8, 1]).unwrap();
    checked.wait_up();
    for (bytes, why) in [
        (&[0, 0, 0, 0, 2, 8, 2][..], "answered NOT_SERVING, expected SERVING"),
        (&[0, 0, 0, 0, 2, 8, 3], "answered SERVICE_UNKNOWN, expected SERVING"),
        (&[0, 0, 0, 0, 0], "answered UNKNOWN, expected SERVING"),
        (b"all is well", r#"answered "all is well", expected a message of grpc.health.v1"#),
    ] {
        fs::write(&health, bytes).unwrap();
        checked.wait_down(why);
    }
    drop(nginx);
    for (status, why) in [
        ("add_trailer grpc-status 12 always;", "answered UNIMPLEMENTED, expected SERVING"),
        ("", "answered without a status, expected gRPC"),
    ] {
        let listen = GRPC.replace("add_trailer grpc-status 0 always;", status);
        let nginx = Nginx::start_on(host, "b1", &[listen], 80).unwrap();
        fs::write(nginx.files().join("health"), [0, 0, 0, 0, 2, 8, 1]).unwrap();
        checked.wait_down(why);
    }
}
