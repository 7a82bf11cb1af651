//! People are told of events: by a program and by a server of HTTP.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use pen_tests::{Demo, Pend, paths::Scratch, wait::wait_until};
use serde_json::Value;

use crate::{
    proxy::{LONG, lab, proxied},
    stage::{WEB, vips},
};

/// A script that appends its input to a file.
fn script(scratch: &Scratch, name: &str, tail: &str) -> String {
    let (file, heard) = (scratch.file(name), scratch.file("heard"));
    let text = format!(
        "#!/bin/sh\necho \"$PEN_EVENT $PEN_SUBJECT $(cat)\" >>{}\n{tail}\n",
        heard.display()
    );
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    file.display().to_string()
}

/// A file that programs without rights may write to.
fn open_to_all(scratch: &Scratch) -> std::path::PathBuf {
    let heard = scratch.file("heard");
    fs::write(&heard, "").unwrap();
    fs::set_permissions(&heard, fs::Permissions::from_mode(0o666)).unwrap();
    for folder in heard.ancestors().skip(1).take_while(|folder| *folder != Path::new("/tmp")) {
        let mode = fs::metadata(folder).unwrap().permissions().mode();
        let _ = fs::set_permissions(folder, fs::Permissions::from_mode(mode | 0o011));
    }
    heard
}

/// Answers each request with 200 and hands its body over.
fn serve(listener: TcpListener) -> mpsc::Receiver<Value> {
    let (bodies, received) = mpsc::channel();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let mut reader = BufReader::new(stream);
            let (mut length, mut line) = (0, String::new());
            while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).is_err() {
                continue;
            }
            let _ = reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            if bodies.send(serde_json::from_slice(&body).unwrap()).is_err() {
                return;
            }
        }
    });
    received
}

#[test]
fn a_program_and_a_server_are_told_though_the_server_is_down_at_first() {
    let scratch = Scratch::new().unwrap();
    let heard = open_to_all(&scratch);
    let lab = lab(1);
    let at: SocketAddr = "127.0.0.1:8099".parse().unwrap();
    let service = proxied(&lab, "web", WEB, "");
    let extra = format!(
        "[[notify]]\nname = \"script\"\nprogram = [\"{}\"]\nevents = [\"backend-up\", \"backend-down\"]\n\
         [[notify]]\nname = \"hook\"\nwebhook = \"http://{at}/pen\"\n",
        script(&scratch, "tell", "")
    );
    let mut demo = Demo::on(&lab.backends[0]).unwrap();
    let config = vips().service(service).extra(&extra);
    let mut pend = Pend::start(&lab.balancer().netns, &config).unwrap();
    pend.wait_ready(1).unwrap();
    let lines = || fs::read_to_string(&heard).unwrap();
    wait_until(LONG, "the script hears of the backend", || {
        lines().contains("backend-up web/b1 {").then_some(())
    })
    .unwrap();

    // Nobody listens yet.
    demo.process().kill9().unwrap();
    pend.wait_health("web", "b1", "down").unwrap();
    wait_until(LONG, "the status tells that the server cannot be told", || {
        let status = pend.penctl_json(["status"]).ok()?;
        let warnings = status["warnings"].to_string();
        warnings
            .contains("hook cannot be told of events: 127.0.0.1:8099: Connection refused")
            .then_some(())
    })
    .unwrap();
    assert!(pend.counter("notify-failed").unwrap() > 0);
    let output = pend.penctl(["notify", "test", "hook"]).unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", output.stderr);
    assert!(output.stderr.contains("hook was not told"), "{}", output.stderr);

    let listener = lab.balancer().netns.run(|| TcpListener::bind(at)).unwrap();
    let received = serve(listener);
    let mut told = Vec::new();
    wait_until(LONG, "the server is told after all", || {
        told.extend(received.try_iter());
        told.iter().any(|event: &Value| event["event"] == "backend-down").then_some(())
    })
    .unwrap();
    let down = told.iter().find(|event| event["event"] == "backend-down").unwrap();
    assert_eq!((&down["subject"], &down["severity"]), (&"web/b1".into(), &"warning".into()));
    assert!(!told.iter().any(|event| event["event"] == "backend-up"), "only what needs attention");
    wait_until(LONG, "all is well with the server", || {
        let status = pend.penctl_json(["status"]).ok()?;
        (!status["warnings"].to_string().contains("hook")).then_some(())
    })
    .unwrap();
    assert!(!pend.events("notify-works").unwrap().is_empty());
    let output = pend.penctl(["notify", "test", "hook"]).unwrap();
    assert!(output.status.success(), "{}", output.stderr);
    assert!(output.stdout.starts_with("hook was told in "), "{}", output.stdout);
    wait_until(LONG, "the test arrives", || {
        received.try_iter().any(|event| event["event"] == "test").then_some(())
    })
    .unwrap();
    let output = pend.penctl(["notify", "test", "nobody"]).unwrap();
    assert!(output.stderr.contains("there are: script, hook"), "{}", output.stderr);
}

#[test]
fn a_reload_says_who_is_told_from_now_on_and_a_program_that_fails_is_counted() {
    let scratch = Scratch::new().unwrap();
    let heard = open_to_all(&scratch);
    let lab = lab(1);
    let config = || vips().service(proxied(&lab, "web", WEB, ""));
    let mut pend = Pend::start(&lab.balancer().netns, &config()).unwrap();
    pend.wait_ready(0).unwrap();
    let output = pend.penctl(["notify", "test", "a"]).unwrap();
    assert!(output.stderr.contains("the configuration has none"), "{}", output.stderr);
    let reload = |extra: &str| {
        let text = config().extra(extra).render(Some(pend.socket()));
        pend.write_config(&text).unwrap();
        let output = pend.penctl(["reload"]).unwrap();
        assert!(output.status.success(), "{}", output.stderr);
        output.stdout
    };
    let notify = |tail: &str| {
        let program = script(&scratch, "tell", tail);
        format!("[[notify]]\nname = \"a\"\nprogram = [\"{program}\"]\nevents = [\"reloaded\"]\n")
    };
    let told = reload(&notify("echo no modem; exit 7"));
    assert!(told.contains("notify a"), "{told}");
    wait_until(LONG, "it was started, and failed", || {
        let dropped = pend.counter("notify-dropped").ok()?;
        (dropped > 0 && fs::read_to_string(&heard).ok()?.contains("reloaded configuration"))
            .then_some(())
    })
    .unwrap();
    let failed = pend.events("notify-failed").unwrap();
    assert!(failed[0].contains("ended with 7: \"no modem\""), "{failed:?}");
    let told = reload("");
    assert!(told.contains("notify a"), "{told}");
    let warnings = pend.penctl_json(["status"]).unwrap()["warnings"].to_string();
    assert!(!warnings.contains("cannot be told"), "{warnings}");
}
