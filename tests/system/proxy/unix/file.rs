//! What becomes of the file of a Unix socket: before, while and after a service listens on it.

use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use pen_tests::{Pend, process::SHORT, wait_until};

use super::{Folder, config, connect_to, named, rest, service, start, who};
use crate::proxy::{LONG, lab};

fn reload(pend: &Pend, services: &str) -> String {
    fs::write(pend.config(), config(services).render(Some(pend.socket()))).unwrap();
    let output = pend.penctl(["reload"]).unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

#[test]
fn a_left_over_file_is_replaced_and_the_own_one_is_removed_at_the_end() {
    let (lab, folder) = (lab(1), Folder::new());
    let (path, server) = (folder.path("pen"), folder.path("app"));
    named(&server, "app");
    drop(UnixListener::bind(&path).unwrap());
    let mut pend = start(&lab, &service("web", &folder.at("pen"), &[&folder.at("app")], ""));
    assert_eq!(who(&path).unwrap(), "app");
    // A crash leaves it, and the next daemon replaces it.
    pend.kill9().unwrap();
    assert_eq!(who(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    pend.launch().unwrap();
    pend.wait_ready(0).unwrap();
    assert_eq!(who(&path).unwrap(), "app");
    assert!(pend.terminate().unwrap().success());
    assert!(!path.exists());
}

#[test]
fn a_daemon_that_takes_over_gets_the_socket_and_no_client_is_turned_away() {
    let (lab, folder) = (lab(1), Folder::new());
    let (path, gone) = (folder.path("pen"), folder.path("gone"));
    named(&folder.path("app"), "app");
    let web = service("web", &folder.at("pen"), &[&folder.at("app")], "");
    let other = service("gone", &folder.at("gone"), &[&folder.at("app")], "");
    let mut pend = start(&lab, &(web.clone() + &other));
    let mut held = connect_to(&path).unwrap();
    held.read_exact(&mut [0; 4]).unwrap();
    let file = fs::metadata(&path).unwrap().ino();
    // The next one does not need both of them.
    pend.write_config(&config(&web).render(Some(pend.socket()))).unwrap();
    let over = AtomicBool::new(false);
    let (asked, mut old) = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut asked = 0;
            while !over.load(Relaxed) {
                assert_eq!(who(&path).unwrap(), "app");
                asked += 1;
            }
            asked
        });
        let old = pend.overtake();
        let ready = pend.wait_ready(0);
        over.store(true, Relaxed);
        ready.unwrap();
        (asking.join().unwrap(), old.unwrap())
    });
    assert!(asked > 0);
    held.write_all(b"still here").unwrap();
    held.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&held).unwrap(), b"still here");
    assert_eq!(old.wait(LONG).unwrap().code(), Some(0));
    assert_eq!(fs::metadata(&path).unwrap().ino(), file);
    wait_until(LONG, "what is not needed is gone", || (!gone.exists()).then_some(())).unwrap();
    assert_eq!(who(&path).unwrap(), "app");
    assert!(pend.terminate().unwrap().success());
    assert!(!path.exists());
}

#[test]
fn a_path_that_somebody_has_is_an_error_at_the_start_and_left_alone() {
    let (lab, folder) = (lab(1), Folder::new());
    let path = folder.path("pen");
    let text = service("web", &folder.at("pen"), &["10.77.0.11:80"], "");
    let error = |text: &str| {
        let mut pend = Pend::start(&lab.balancer().netns, &config(text)).unwrap();
        format!("{:#}", pend.wait_ready(0).unwrap_err())
    };
    named(&path, "somebody");
    let told = error(&text);
    let expected = format!("service web: {}: somebody else listens there", folder.at("pen"));
    assert!(told.contains(&expected), "{told}");
    assert_eq!(who(&path).unwrap(), "somebody");
    fs::remove_file(&path).unwrap();
    fs::write(&path, "important").unwrap();
    let told = error(&text);
    assert!(told.contains("is there and is no socket"), "{told}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "important");
    let told = error(&service("web", "unix:/no/such/folder/s", &["10.77.0.11:80"], ""));
    assert!(told.contains("its folder is not there"), "{told}");
}

#[test]
fn the_file_has_its_mode_and_owner_and_follows_reloads() {
    let (lab, folder) = (lab(1), Folder::new());
    named(&folder.path("app"), "app");
    let web = |keys: &str| service("web", &folder.at("pen"), &[&folder.at("app")], keys);
    let second = service("second", &folder.at("second"), &[&folder.at("app")], "");
    let file = |name: &str| {
        let found = fs::symlink_metadata(folder.path(name)).unwrap();
        assert!(found.file_type().is_socket());
        (found.permissions().mode() & 0o7777, found.uid(), found.gid())
    };
    let pend = start(&lab, &(web("") + &second));
    assert_eq!((file("pen"), file("second")), ((0o660, 0, 0), (0o660, 0, 0)));
    let mut held = connect_to(&folder.path("pen")).unwrap();
    let told = reload(&pend, &web("listen_mode = \"0606\"\nlisten_owner = \"4711:4712\""));
    assert!(told.contains("listen_mode 0606, listen_owner 4711:4712"), "{told}");
    wait_until(SHORT, "it follows", || (file("pen") == (0o606, 4711, 4712)).then_some(())).unwrap();
    wait_until(SHORT, "it is gone", || (!folder.path("second").exists()).then_some(())).unwrap();
    // Who was connected is not concerned.
    held.write_all(b"still here").unwrap();
    held.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&held).unwrap(), b"app\nstill here");
    assert_eq!(who(&folder.path("pen")).unwrap(), "app");
}
