//! Clients that come again.

use std::io::Write;

use super::{Pki, SITE, serve, site};
use crate::proxy::{Server, lab};

fn resumes(pki: &Pki, netns: &pen_tests::Netns, words: &str) -> bool {
    let output = pki.s_client(netns, SITE, words);
    let reused = output.stdout.lines().any(|line| line.starts_with("Reused, "));
    assert!(reused || output.stdout.lines().any(|line| line.starts_with("New, ")), "{output:?}");
    reused
}

#[test]
fn a_client_that_comes_again_resumes_also_after_a_reload_and_not_where_more_is_asked_of_it() {
    let (lab, pki) = (lab(1), Pki::new());
    pki.issue("site", &["site.example"]);
    pki.issue("own", &["client.example"]);
    let host = &lab.backends[0];
    // It ends first: until then the client has read its tickets.
    let _server = Server::start(&host.netns, (host.v4.into(), 80), |mut stream| {
        let _ = stream.write_all(b"that is all");
    });
    let list = pki.list(&["site"]);
    let pend = serve(&lab, &list, "");
    let client = &lab.client().netns;
    let reload = |tls: &str| {
        let text = site(&lab, tls, "").render(Some(pend.socket()));
        pend.write_config(&text).unwrap();
        let output = pend.penctl(["reload"]).unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    for version in ["-tls1_2", "-tls1_3"] {
        let name = "-servername site.example -ign_eof";
        let get = format!("{name} {version} -sess_out session{version}");
        assert!(!resumes(&pki, client, &get), "the first time");
        let again = format!("{name} {version} -sess_in session{version}");
        assert!(resumes(&pki, client, &again), "{version}");
        pki.issue("site", &["site.example"]);
        reload(&list);
        assert!(resumes(&pki, client, &again), "{version} after a reload with another certificate");
        let other = format!("-servername other.example {version} -sess_in session{version}");
        assert!(!resumes(&pki, client, &other), "another name");
    }
    let mutual =
        format!("{list}, client_auth = \"optional\", client_ca = \"{}\"", pki.file("root.pem"));
    reload(&mutual);
    for version in ["-tls1_2", "-tls1_3"] {
        let again = format!("-servername site.example {version} -sess_in session{version}");
        assert!(!resumes(&pki, client, &again), "{version}: it was never asked for a certificate");
    }
    reload(&format!("{list}, resumption = false"));
    for version in ["-tls1_2", "-tls1_3"] {
        let name = "-servername site.example -ign_eof";
        let get = format!("{name} {version} -sess_out none{version}");
        assert!(!resumes(&pki, client, &get));
        if std::fs::exists(pki.scratch.file(&format!("none{version}"))).unwrap() {
            let again = format!("{name} {version} -sess_in none{version}");
            assert!(!resumes(&pki, client, &again), "{version}: without tickets");
        }
    }
}
