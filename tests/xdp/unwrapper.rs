//! The program for backends in the kernel, with lists of its own, run on frames one by one. As for
//! pen's own program, what must hold for every frame is asserted for all of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::maps::{HashMap, PerCpuArray};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use pen_common::abi::Count;
use pen_common::decap::{End, map};
use pen_common::net::Addr;
use pen_tests::paths;

use crate::bench::Action;
use crate::world::{VIP4, VIP6};

/// Addresses of the host.
pub(crate) const HOST4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(crate) const HOST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xbe, 0, 0, 0, 0, 0, 1);

/// Longest frame that comes out.
const BUFFER: usize = 8192;

pub(crate) struct Unwrapper {
    ebpf: Ebpf,
    counted: Vec<Count>,
}

impl Unwrapper {
    /// A host of [`HOST4`] and [`HOST6`], for the usual virtual addresses.
    pub(crate) fn new() -> Self {
        Self::with(&[HOST4.into(), HOST6.into()], &[VIP4.into(), VIP6.into()])
    }

    /// With these lists.
    pub(crate) fn with(addresses: &[IpAddr], vips: &[IpAddr]) -> Self {
        let object = paths::program("decap.bpf.o").expect("the object is built");
        let mut ebpf = EbpfLoader::new().load_file(object).expect("the kernel takes the maps");
        program(&mut ebpf).load().expect("the kernel takes the program");
        for (name, list) in [(map::ADDRS, addresses), (map::VIPS, vips)] {
            let map = ebpf.map_mut(name).expect("the object has it");
            let mut map: HashMap<_, Addr, u32> = map.try_into().expect("a hash");
            for address in list {
                map.insert(Addr::from(*address), 1, 0).expect("there is room");
            }
        }
        let counted = vec![Count::default(); End::ALL.len()];
        Self { ebpf, counted }
    }

    /// Runs a frame: its end, and the frame that comes out.
    #[track_caller]
    pub(crate) fn run(&mut self, frame: &[u8]) -> (End, Vec<u8>) {
        let (action, out) = self.send(frame);
        let now = self.counts();
        let risen: Vec<(End, u64, u64)> = End::ALL
            .iter()
            .zip(now.iter().zip(&self.counted))
            .map(|(end, (now, old))| (*end, now.packets - old.packets, now.bytes - old.bytes))
            .filter(|(_, packets, _)| *packets != 0)
            .collect();
        self.counted = now;
        let length = u64::try_from(frame.len()).expect("64 bits");
        let [(end, 1, bytes)] = risen[..] else { panic!("{frame:02x?} ends in {risen:?}") };
        assert_eq!(bytes, length, "counted as it came");
        assert_eq!(action, action_of(end), "{end:?}: {frame:02x?}");
        if end.name().starts_with("pass-") {
            assert_eq!(out, frame, "a frame that passes is untouched");
        }
        (end, out)
    }

    /// Runs a frame without a look at the counters.
    pub(crate) fn send(&mut self, frame: &[u8]) -> (Action, Vec<u8>) {
        let mut out = vec![0; BUFFER];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        let result = program(&mut self.ebpf).test_run(options).expect("the kernel runs the frame");
        out.truncate(usize::try_from(result.data_size_out).expect("fits the buffer"));
        (Action::of(result.return_value), out)
    }

    /// Frames that had any end.
    pub(crate) fn total(&self) -> u64 {
        self.counts().iter().map(|count| count.packets).sum()
    }

    fn counts(&self) -> Vec<Count> {
        let map = self.ebpf.map(map::COUNTERS).expect("the object has it");
        let map: PerCpuArray<_, Count> = map.try_into().expect("an array");
        let sum = |end: &End| {
            let values = map.get(&(*end as u32), 0).expect("counters can be read");
            values.iter().fold(Count::default(), |sum, count| Count {
                packets: sum.packets + count.packets,
                bytes: sum.bytes + count.bytes,
            })
        };
        End::ALL.iter().map(sum).collect()
    }
}

fn action_of(end: End) -> Action {
    match end {
        End::Ipip | End::Gue | End::PassOther | End::PassAddress | End::PassVariant => Action::Pass,
        End::RefusedVip | End::Malformed | End::Congestion => Action::Drop,
    }
}

fn program(ebpf: &mut Ebpf) -> &mut Xdp {
    ebpf.program_mut("decap").expect("the object has it").try_into().expect("for XDP")
}
