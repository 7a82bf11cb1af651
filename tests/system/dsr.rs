//! Mode `dsr` with what people put behind a balancer: nginx over TCP and dnsmasq over UDP, asked by
//! curl and dig. Answers go straight to the client.

use std::{fs, net::SocketAddr};

use pen_tests::{
    Capture, Dnsmasq, Lab, Nginx, Protocol, VIP4, VIP6,
    client::{curl, curl_times, dig},
    process::SHORT,
    wait_until,
};

use crate::stage::{WEB, WEB6, balance, count, over_all, vips};

fn nginx_answers_all(at: SocketAddr, ip: &str) {
    let lab = Lab::builder().build().unwrap();
    let _servers: Vec<_> =
        lab.backends.iter().map(|b| Nginx::start(&b.netns, &b.name, 80).unwrap()).collect();
    let pend = balance(&lab, &vips().service(over_all(&lab, "web", at, Protocol::Tcp, 80)));

    // At the balancer's port of the switch also what native XDP sends is seen.
    let filter = format!("{ip} and host {} and tcp", at.ip());
    let capture = Capture::start(lab.switch.netns(), "balancer", &filter).unwrap();
    let answers = curl_times(&lab.client().netns, at, 200).unwrap();
    assert_eq!(answers.len(), 200);
    let by = count(answers);
    assert_eq!(by.keys().collect::<Vec<_>>(), ["b1", "b2", "b3"], "{by:?}");

    let balancer = format!("{} >", lab.balancer().mac);
    let from_balancer = |line: &&String| line.contains(&balancer);
    // curl is done before the end of its last connection, and tcpdump later.
    let transmitted = || usize::try_from(pend.counter("transmit").unwrap()).unwrap();
    wait_until(SHORT, "each frame has gone on and was seen", || {
        let lines = capture.lines();
        let sent = lines.iter().filter(from_balancer).count();
        (sent * 2 == lines.len() && sent == transmitted()).then_some(())
    })
    .unwrap();
    let lines = capture.stop().unwrap();
    let (sent, received): (Vec<_>, Vec<_>) = lines.iter().partition(from_balancer);
    let answer = format!(" {}.80 > ", at.ip());
    assert_eq!(lines.iter().find(|line| line.contains(&answer)), None, "an answer came by");
    // SYN, ACK, request and FIN at least; the last ACK may be part of the FIN.
    assert!(received.len() >= 200 * 4, "{}", received.len());
    assert_eq!([sent.len(), transmitted()], [received.len(); 2]);
    assert_eq!(pend.counter("redirect").unwrap(), 0);
}

#[test]
fn two_hundred_curls_over_ipv4_are_answered_by_three_nginx_past_the_balancer() {
    nginx_answers_all(WEB, "ip");
}

#[test]
fn two_hundred_curls_over_ipv6_are_answered_by_three_nginx_past_the_balancer() {
    nginx_answers_all(WEB6, "ip6");
}

#[test]
fn a_megabyte_arrives_intact_over_both_families() {
    let lab = Lab::builder().backends(2).build().unwrap();
    // No two of its pages are alike.
    let bulk: String = (0..131_072u32)
        .map(|i| char::from(b'a' + u8::try_from(i.wrapping_mul(2_654_435_761) >> 24 & 15).unwrap()))
        .flat_map(|letter| [letter; 8])
        .collect();
    let servers: Vec<_> =
        lab.backends.iter().map(|b| Nginx::start(&b.netns, &b.name, 80).unwrap()).collect();
    for server in &servers {
        fs::write(server.files().join("bulk"), &bulk).unwrap();
    }
    let web = over_all(&lab, "web", WEB, Protocol::Tcp, 80);
    let web6 = over_all(&lab, "web6", WEB6, Protocol::Tcp, 80);
    let _pend = balance(&lab, &vips().service(web).service(web6));
    for at in [WEB, WEB6] {
        let body = curl(&lab.client().netns, &format!("http://{at}/files/bulk")).unwrap();
        assert!(body == bulk, "{at}: {} of {} bytes, or others", body.len(), bulk.len());
    }
}

#[test]
fn forty_digs_per_family_are_answered_by_three_dnsmasq() {
    let lab = Lab::builder().build().unwrap();
    let _servers: Vec<_> =
        lab.backends.iter().map(|b| Dnsmasq::start(&b.netns, &b.name).unwrap()).collect();
    let [dns, dns6] = [VIP4, VIP6].map(|vip| SocketAddr::new(vip, 53));
    let config = vips().service(over_all(&lab, "dns", dns, Protocol::Udp, 53)).service(over_all(
        &lab,
        "dns6",
        dns6,
        Protocol::Udp,
        53,
    ));
    let _pend = balance(&lab, &config);
    for at in [dns, dns6] {
        let ask = |_| dig(&lab.client().netns, at, Dnsmasq::WHO, "TXT").unwrap();
        let by = count((0..40).map(ask));
        assert_eq!(by.keys().collect::<Vec<_>>(), ["\"b1\"", "\"b2\"", "\"b3\""], "{by:?}");
    }
}
