//! When backends die: a backend for emergencies steps in, a stubborn service waits; and tables of a
//! size of their own.

use std::fs;

use pen_tests::{Demo, Lab, Pend, client::http, process::SHORT, server::HTTP_PORT, wait_until};

use crate::stage::{Stage, WEB, over_all, tally, usual, vips};

/// `web` over b1 and b2, with b3 for emergencies.
fn stage() -> Stage {
    Stage::in_lab(Lab::builder().build().unwrap(), |lab| {
        let mut web = over_all(lab, "web", WEB, pen_tests::Protocol::Tcp, HTTP_PORT);
        let (name, address) = web.backends.pop().unwrap();
        vips().service(web).extra(&format!(
            "emergency = {{ address = \"{address}\", name = \"{}\" }}\n",
            name.unwrap()
        ))
    })
}

#[test]
fn an_emergency_is_over_when_another_backend_is_back() {
    let mut stage = stage();
    wait_until(SHORT, "b3 is checked", || {
        (stage.pend.backend("web", "b3").unwrap()["health"] == "up").then_some(())
    })
    .unwrap();
    let row = stage.pend.backend("web", "b3").unwrap();
    assert_eq!((&row["emergency"], &row["usable"]), (&true.into(), &false.into()));
    let by = stage.web_tally(60);
    assert_eq!(by.keys().collect::<Vec<_>>(), ["b1", "b2"], "{by:?}");

    stage.demos.drain(..2).for_each(drop);
    wait_until(SHORT, "b3 steps in", || {
        (stage.pend.backend("web", "b3").unwrap()["usable"] == true).then_some(())
    })
    .unwrap();
    let by = stage.web_tally(60);
    assert_eq!(by.keys().collect::<Vec<_>>(), ["b3"], "{by:?}");
    let events = stage.pend.events("emergency").unwrap();
    assert_eq!(events, ["web/b3 takes over: no other backend is usable"]);

    let _demo = Demo::on(&stage.lab.backends[0]).unwrap();
    wait_until(SHORT, "b1 is back", || {
        (stage.pend.backend("web", "b1").unwrap()["usable"] == true).then_some(())
    })
    .unwrap();
    let by = tally(60, || http(stage.client(), WEB).unwrap());
    assert_eq!(by.keys().collect::<Vec<_>>(), ["b1"], "{by:?}");
}

#[test]
fn connections_of_a_stubborn_service_fail_rather_than_move() {
    let mut stage = Stage::in_lab(Lab::builder().build().unwrap(), |lab| {
        let web = over_all(lab, "web", WEB, pen_tests::Protocol::Tcp, HTTP_PORT);
        vips().service(web).extra("stubborn = true\n")
    });
    assert_eq!(stage.web_tally(60).len(), 3);
    drop(stage.demos.remove(1));
    wait_until(SHORT, "b2 is down", || {
        (stage.pend.backend("web", "b2").unwrap()["usable"] == false).then_some(())
    })
    .unwrap();
    let (mut served, mut failed) = (0, 0);
    for _ in 0..30 {
        match http(stage.client(), WEB) {
            Ok(_) => served += 1,
            Err(_) => failed += 1,
        }
    }
    // A third of them is expected to fail.
    assert!(served > 10 && failed > 2, "{served} served, {failed} failed");
    assert!(stage.pend.counter("drop-stubborn").unwrap() >= failed);
}

#[test]
fn tables_keep_their_size_until_pend_has_ended_in_order() {
    let lab = Lab::builder().backends(1).build().unwrap();
    let sized = |flows: u32| usual(&lab).extra(&format!("[node]\nflows = {flows}\n"));
    let mut pend = Pend::start(&lab.balancer().netns, &sized(4096)).unwrap();
    pend.wait_ready(0).unwrap();
    let warnings = |pend: &Pend| pend.penctl_json(["status"]).unwrap()["warnings"].clone();
    assert_eq!(warnings(&pend), serde_json::json!([]));
    pend.kill9().unwrap();
    fs::write(pend.config(), sized(8192).render(Some(pend.socket()))).unwrap();
    pend.launch().unwrap();
    pend.wait_ready(0).unwrap();
    let told = warnings(&pend).to_string();
    assert!(told.contains("room for 4096 flows, the configuration asks for 8192"), "{told}");
    pend.restart().unwrap();
    pend.wait_ready(0).unwrap();
    assert_eq!(warnings(&pend), serde_json::json!([]));
}
