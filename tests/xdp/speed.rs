//! Throwaway: nanoseconds.
use aya::programs::{TestRun as _, TestRunOptions};
use crate::bench::Bench;
use crate::frame::{Packet, tagged};
use crate::world::{VIP4, VIP6, CLIENT4, usual};

#[test]
fn zz_speed() {
    let mut tables = usual();
    for entry in tables.addrs.values_mut() { entry.ifindex = 77; }
    let mut bench = Bench::new(tables);
    let cases = [
        ("pass ipv4", Packet::tcp(CLIENT4, 80).frame()),
        ("dsr tcp4", Packet::tcp(VIP4, 80).frame()),
        ("dsr udp4", Packet::udp(VIP4, 53).frame()),
        ("dsr tcp6", Packet::tcp(VIP6, 80).frame()),
        ("dsr tcp4 tagged", tagged(&Packet::tcp(VIP4, 80).frame(), 0x8100)),
        ("arp-like pass", { let mut f = Packet::tcp(VIP4, 80).frame(); f[12] = 0x99; f }),
    ];
    for (what, frame) in &cases {
        let mut best = f64::MAX;
        for _ in 0..20 {
            let mut options = TestRunOptions::new();
            options.data_in = Some(frame);
            options.repeat = 500_000;
            let r = bench.dataplane().program().unwrap().test_run(options).unwrap();
            best = best.min(r.duration.as_nanos() as f64);
        }
        println!("{what}: {best} ns");
    }
}
