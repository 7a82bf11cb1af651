//! Two nodes that share an address: what one knows of its flows the other one knows, in time for when
//! the address moves.

use pen_common::abi::{self, Slot};

use super::*;
use crate::config::{
    AddressesBy, Carp, CarpAuth, CarpMac, CarpTransport, Demotion, Hooks, Secret, StateSync,
    TieBreak,
};
use crate::engine::carp::Role;
use crate::engine::sync::view::Entry;
use crate::engine::sync::{Key, Node, Output, Settings};

/// The group that has the address, and a peer.
fn shared(mut config: Config) -> Config {
    config.carp = vec![Carp {
        name: "main".into(),
        interface: "eth0".into(),
        vhid: 7,
        advbase: secs(1),
        advskew: 0,
        deadratio: 3,
        preempt: false,
        preempt_delay: Duration::ZERO,
        neutral: false,
        auth: CarpAuth::Ucarp { password: Secret(b"love".to_vec()) },
        transport: CarpTransport::Multicast { group: Ipv4Addr::new(224, 0, 0, 18) },
        peers: vec![],
        sources: vec![],
        mac: CarpMac::Virtual,
        tie_break: TieBreak::UcarpLe,
        ignore_link: false,
        sync_group: None,
        announce_refresh: None,
        hooks: Hooks::default(),
        addresses: AddressesBy::Pen,
        demotion: Demotion { sync_incomplete: 9, ..Demotion::default() },
    }];
    for vip in &mut config.vips {
        vip.carp = Some("main".into());
    }
    config.sync = Some(StateSync {
        listen: "10.0.0.254:7077".parse().expect("literal"),
        peers: vec!["10.0.0.253:7077".parse().expect("literal")],
        key: Secret(b"shared".to_vec()),
    });
    config
}

/// Two nodes. Their numbers are not the same: each learned of its backends in an order of its own.
struct Pair {
    sims: [Sim; 2],
    nodes: [Node; 2],
}

impl Pair {
    fn start(config: &Config) -> Self {
        let sims = [1, 2].map(|number| {
            let mut config = shared(config.clone());
            config.node.name = format!("edge{number}");
            if number == 2 {
                config.services.iter_mut().for_each(|service| service.backends.reverse());
            }
            Sim::start(config)
        });
        let node = |at: u16| {
            let peer = format!("10.0.0.{}:7077", 1 - at).parse().expect("an address");
            let (name, key) = (format!("edge{}", at + 1), Key::new(b"shared"));
            let seed = [u8::try_from(at).expect("small"); 32];
            Node::new(Settings { name, key, peers: vec![peer], seed }, sims[0].now)
        };
        let nodes = [node(0), node(1)];
        let mut pair = Self { sims, nodes };
        pair.set_roles([Role::Master, Role::Backup]);
        pair.run_for(secs(5));
        pair
    }

    fn set_roles(&mut self, roles: [Role; 2]) {
        for (sim, role) in self.sims.iter_mut().zip(roles) {
            sim.event(Event::CarpRole { group: 1, role });
            // It is the thread of CARP that writes roles into the map.
            let role = if role == Role::Master { abi::Group::MASTER } else { abi::Group::BACKUP };
            let group = abi::Group { role, _pad: 0, lease_ns: u64::MAX };
            sim.maps.groups.insert(1, group);
        }
        self.exchange();
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.sims[0].now + time;
        while self.sims[0].now < end {
            for sim in &mut self.sims {
                sim.run_for(Duration::from_millis(100));
            }
            self.exchange();
        }
    }

    /// Lets both tell each other whatever they have to tell.
    fn exchange(&mut self) {
        let now = self.sims[0].now;
        let mut quiet = 0;
        while quiet < 3 {
            quiet += 1;
            for at in 0..2 {
                if let Some(view) = self.sims[at].shared.take() {
                    self.nodes[at].share(now, view, [1, 2]);
                }
                while let Some((_, datagram)) = self.nodes[at].poll_datagram(now) {
                    let from = format!("10.0.0.{at}:7077").parse().expect("an address");
                    self.nodes[1 - at].receive(now, from, &datagram);
                    quiet = 0;
                }
                while let Some(output) = self.nodes[at].poll_output(now) {
                    self.carry_out(at, output);
                    quiet = 0;
                }
            }
        }
    }

    fn carry_out(&mut self, at: usize, output: Output) {
        let sim = &mut self.sims[at];
        match output {
            Output::Write { entry: Entry::Flow(key, record), .. } => {
                sim.records.record_flow(&key, &record);
            }
            Output::Write { entry: Entry::Client(key, record), .. } => {
                sim.records.record_client(&key, &record);
            }
            Output::Write { entry: Entry::Translation(..), .. } => {}
            Output::Adopt(adopted) => sim.event(Event::PeerState(Box::new(adopted))),
            Output::Complete(complete) => sim.event(Event::SyncComplete(complete)),
            Output::Scan => {
                let flows = sim.records.flows.borrow();
                let entries: Vec<Entry> =
                    flows.iter().map(|(key, record)| Entry::Flow(*key, *record)).collect();
                self.nodes[at].scanned(sim.now, &entries);
                self.nodes[at].scan_ended(sim.now, true);
            }
        }
    }

    /// A packet of a flow meets this node's kernel, which may make a record.
    fn packet(&mut self, at: usize, source_port: u16, stage: Stage) -> Option<IpAddr> {
        let sim = &self.sims[at];
        let flow = Flow {
            source: Addr::v4([198, 51, 100, 7]),
            source_port: Be16::new(source_port),
            port: Be16::new(80),
            protocol: protocol::TCP,
            stage,
        };
        // The group's own station.
        let arrival = Arrival { ifindex: 3, station: MacAddr([0, 0, 0x5e, 0, 1, 7]) };
        let before = sim.records.flows.borrow().clone();
        let lookup = sim.maps.at(sim.now, &sim.records);
        let to = match forward::decide(&lookup, &arrival, &Addr::from(VIP), || Ok(flow)) {
            Verdict::Forward(forward) => Some(IpAddr::from(forward.backend.addr)),
            Verdict::Drop(_) | Verdict::Pass(_) => None,
        };
        let new: Vec<Entry> = sim
            .records
            .flows
            .borrow()
            .iter()
            .filter(|(key, _)| !before.contains_key(key))
            .map(|(key, record)| Entry::Flow(*key, *record))
            .collect();
        self.nodes[at].observed(sim.now, &new);
        to
    }

    /// How much worse a node is for what it lacks of what the others know or can use.
    fn weight(&self, at: usize) -> u16 {
        let reason = (1, "peers have not told everything".to_owned());
        self.sims[at].demoted.get(&reason).copied().unwrap_or(0)
    }

    /// The slots of a node's table by the addresses of backends.
    fn slots(&self, at: usize) -> Vec<(Option<Addr>, Option<Addr>, bool)> {
        let maps = &self.sims[at].maps;
        let addr = |id: u16| maps.backends.get(&u32::from(id)).map(|backend| backend.addr);
        let slots = maps.slots.values().next().expect("a table").iter();
        slots
            .map(|slot: &Slot| (addr(slot.base()), addr(slot.current()), slot.is_unsettled()))
            .collect()
    }
}

#[test]
fn without_changes_both_have_the_same_table_and_nothing_to_tell() {
    let pair = Pair::start(&config(3));
    assert_eq!(pair.slots(0), pair.slots(1));
    assert!(pair.slots(0).iter().all(|(_, _, unsettled)| !unsettled));
    assert_ne!(pair.sims[0].maps.slots, pair.sims[1].maps.slots, "numbers are each node's own");
}

#[test]
fn flows_go_on_where_they_are_when_the_address_moves_soon_after_a_backend_was_added() {
    let mut pair = Pair::start(&config(3));
    let before: Vec<_> =
        (0..400).map(|port| pair.packet(0, port, Stage::Open).expect("forwarded")).collect();
    for sim in &mut pair.sims {
        let name = sim.engine.config.node.name.clone();
        let mut config = shared(config(4));
        config.node.name = name;
        sim.engine.reconfigure(sim.now, config, false).expect("a fair change");
        sim.carry_out();
    }
    pair.run_for(secs(5));
    let slots = pair.slots(0);
    assert!(slots.iter().filter(|(_, _, unsettled)| *unsettled).count() > 1000);
    assert_eq!(pair.slots(1), slots);
    // Some go on, and new ones come.
    for port in 0..100 {
        assert_eq!(pair.packet(0, port, Stage::Established), Some(before[usize::from(port)]));
    }
    let new: Vec<_> =
        (1000..1400).map(|port| pair.packet(0, port, Stage::Open).expect("forwarded")).collect();
    assert!(new.contains(&address(4)));
    pair.exchange();
    pair.set_roles([Role::Backup, Role::Master]);
    for (port, backend) in (0..).zip(&before) {
        assert_eq!(pair.packet(1, port, Stage::Established), Some(*backend), "flow {port}");
    }
    for (port, backend) in (1000..).zip(&new) {
        assert_eq!(pair.packet(1, port, Stage::Established), Some(*backend), "flow {port}");
    }
    assert_eq!(pair.packet(0, 1, Stage::Established), None, "it is not ours now");
    // And back again.
    pair.exchange();
    pair.set_roles([Role::Master, Role::Backup]);
    for (port, backend) in (0..).zip(&before) {
        assert_eq!(pair.packet(0, port, Stage::Established), Some(*backend), "flow {port}");
    }
    // The holder lets its table come to rest, and the other one follows.
    pair.run_for(secs(3700));
    pair.run_for(secs(3700));
    assert_eq!(pair.slots(0), pair.slots(1));
    assert!(pair.slots(1).iter().all(|(_, _, unsettled)| !unsettled));
}

#[test]
fn the_other_node_settles_nothing_by_itself() {
    let mut pair = Pair::start(&config(2));
    pair.sims[0].set_weight("b1", 3).expect("it is there");
    pair.exchange();
    // It hears nothing any more.
    let node = &mut pair.nodes[0];
    *node = Node::new(
        Settings { name: String::new(), key: Key::new(b"other"), peers: vec![], seed: [0; 32] },
        pair.sims[0].now,
    );
    let unsettled = pair.slots(1);
    assert!(unsettled.iter().any(|(_, _, unsettled)| *unsettled));
    for sim in &mut pair.sims {
        sim.run_for(secs(8000));
    }
    assert_eq!(pair.slots(1), unsettled);
    pair.sims[1].event(Event::CarpRole { group: 1, role: Role::Master });
    pair.sims[1].run_for(secs(8000));
    assert!(pair.slots(1).iter().all(|(_, _, unsettled)| !unsettled), "now it is its own");
}

#[test]
fn a_node_that_was_cut_off_from_everything_asks_the_other_one_first() {
    let mut pair = Pair::start(&config(3));
    let before: Vec<_> =
        (0..400).map(|port| pair.packet(0, port, Stage::Open).expect("forwarded")).collect();
    pair.sims[0].set_weight("b1", 3).expect("it is there");
    pair.run_for(secs(1));
    // The first one hears nobody, and still is master; the other one becomes it as well.
    for number in 1..=3 {
        pair.sims[0].dead.insert(address(number));
    }
    pair.sims[1].event(Event::CarpRole { group: 1, role: Role::Master });
    pair.sims[1].maps.groups.insert(1, abi::Group::ALWAYS);
    for sim in &mut pair.sims {
        sim.run_for(secs(10));
    }
    assert_eq!(pair.packet(0, 1, Stage::Established), None, "it has no backend");
    for (port, backend) in (0..).zip(&before) {
        assert_eq!(pair.packet(1, port, Stage::Established), Some(*backend), "flow {port}");
    }
    // They hear each other again, and the first one is preferred before anything was said.
    pair.sims[1].event(Event::CarpRole { group: 1, role: Role::Backup });
    pair.sims[0].dead.clear();
    // The backends are back at once, and yet nothing goes to the wrong one.
    for _ in 0..40 {
        pair.sims[0].run_for(Duration::from_millis(50));
        pair.sims[1].run_for(Duration::from_millis(50));
        for (port, backend) in (0..).zip(&before).take(50) {
            let found = pair.packet(0, port, Stage::Established);
            assert!(found.is_none() || found == Some(*backend), "flow {port}");
        }
        pair.exchange();
    }
    pair.run_for(secs(5));
    pair.set_roles([Role::Master, Role::Backup]);
    pair.run_for(secs(1));
    for (port, backend) in (0..).zip(&before) {
        assert_eq!(pair.packet(0, port, Stage::Established), Some(*backend), "flow {port}");
    }
}

#[test]
fn what_the_operator_wishes_is_wished_of_both() {
    let mut pair = Pair::start(&config(3));
    pair.sims[0].set_admin("b2", Admin::Drain).expect("it is there");
    pair.sims[0].set_weight("b3", 7).expect("it is there");
    pair.exchange();
    let there = |pair: &Pair| {
        let rows = pair.sims[1].engine.backends(pair.sims[1].now, &Counts::default());
        let row = |name: &str| rows.iter().find(|row| row.name == name).expect("listed").clone();
        (row("b2").admin, row("b3").weight)
    };
    assert_eq!(there(&pair), (Admin::Drain, 7));
    let told: Vec<String> =
        pair.sims[1].engine.events(0).into_iter().map(|event| event.text).collect();
    assert!(told.contains(&"web/b2: ready -> drain, as edge1 has it".to_owned()), "{told:?}");
    assert!(told.contains(&"web/b3: weight 7, as edge1 has it".to_owned()), "{told:?}");
    pair.sims[0].set_admin("b2", Admin::Maint).expect("it is there");
    pair.run_for(secs(1));
    assert_eq!(there(&pair).0, Admin::Maint);
    pair.sims[0].set_admin("b2", Admin::Ready).expect("it is there");
    pair.run_for(secs(3));
    assert_eq!(there(&pair).0, Admin::Ready);
    assert_eq!(pair.slots(0), pair.slots(1));
}

#[test]
fn records_of_a_backend_that_died_at_the_holder_are_void_at_both() {
    let mut pair = Pair::start(&config(2));
    let generation = |pair: &Pair, at: usize| {
        let backends = pair.sims[at].maps.backends.values();
        let mut found = backends.filter(|backend| IpAddr::from(backend.addr) == address(1));
        found.next().expect("b1").generation
    };
    let before = generation(&pair, 1);
    // Only the holder notices.
    pair.sims[0].set_admin("b1", Admin::Maint).expect("it is there");
    pair.sims[0].set_admin("b1", Admin::Ready).expect("it is there");
    pair.exchange();
    assert_ne!(generation(&pair, 1), before);
    let now = generation(&pair, 1);
    pair.sims[0].set_weight("b2", 2).expect("it is there");
    pair.exchange();
    assert_eq!(generation(&pair, 1), now, "once");
}

#[test]
fn who_was_not_told_everything_is_a_worse_node() {
    let mut pair = Pair::start(&config(2));
    assert_eq!(pair.weight(1), 0, "that is over");
    pair.sims[1].event(Event::SyncComplete(false));
    assert_eq!(pair.weight(1), 9);
    pair.sims[1].event(Event::SyncComplete(true));
    assert_eq!(pair.weight(1), 0);
}

#[test]
fn who_can_use_fewer_backends_than_the_holder_is_a_worse_node_until_it_can_use_them_as_well() {
    let mut pair = Pair::start(&config(3));
    // Flows of a drained backend stay with it, so that it counts as well.
    pair.sims[0].set_admin("b1", Admin::Drain).expect("it is there");
    pair.run_for(secs(1));
    for number in [1, 2] {
        pair.sims[1].dead.insert(address(number));
        pair.run_for(secs(10));
        assert_eq!([pair.weight(0), pair.weight(1)], [0, 9], "b{number} is down there only");
        pair.sims[1].dead.clear();
        pair.run_for(secs(10));
        assert_eq!([pair.weight(0), pair.weight(1)], [0, 0]);
    }
    // What the holder cannot use is asked of nobody, and who can use more is no worse.
    pair.sims[0].dead.insert(address(3));
    pair.run_for(secs(10));
    assert_eq!([pair.weight(0), pair.weight(1)], [0, 0]);
    pair.sims[1].dead.insert(address(3));
    pair.run_for(secs(10));
    assert_eq!([pair.weight(0), pair.weight(1)], [0, 0]);
    pair.sims[0].dead.clear();
    pair.run_for(secs(10));
    assert_eq!([pair.weight(0), pair.weight(1)], [0, 9]);
    // Who has the address itself is not measured by what was said by the one before.
    pair.set_roles([Role::Backup, Role::Master]);
    pair.run_for(secs(1));
    assert_eq!([pair.weight(0), pair.weight(1)], [0, 0]);
}

#[test]
fn a_node_that_was_cut_off_does_not_come_back_before_its_last_backend_does() {
    let mut pair = Pair::start(&config(3));
    let before: Vec<_> =
        (0..400).map(|port| pair.packet(0, port, Stage::Open).expect("forwarded")).collect();
    for number in 1..=3 {
        pair.sims[0].dead.insert(address(number));
    }
    pair.sims[1].event(Event::CarpRole { group: 1, role: Role::Master });
    pair.sims[1].maps.groups.insert(1, abi::Group::ALWAYS);
    for sim in &mut pair.sims {
        sim.run_for(secs(10));
    }
    pair.set_roles([Role::Backup, Role::Master]);
    // One of them is later than a node that lost everything waits for it.
    pair.sims[0].dead = [address(3)].into();
    for _ in 0..10 {
        pair.run_for(secs(1));
        assert_eq!([pair.weight(0), pair.weight(1)], [9, 0], "b3 is down there only");
    }
    pair.sims[0].dead.clear();
    while pair.weight(0) > 0 {
        pair.run_for(Duration::from_millis(100));
        assert!(pair.sims[0].now < Moment(3600 * 1_000_000_000), "it may come back some time");
    }
    // At once it knows where all flows are.
    pair.set_roles([Role::Master, Role::Backup]);
    for (port, backend) in (0..).zip(&before) {
        assert_eq!(pair.packet(0, port, Stage::Established), Some(*backend), "flow {port}");
    }
}

#[test]
fn a_difference_of_the_nodes_is_a_warning() {
    let mut pair = Pair::start(&config(2));
    let report = pair.nodes[1].report(pair.sims[1].now);
    assert_eq!(report.peers[0].differs, [""; 0]);
    let mut other = shared(config(3));
    other.node.name = "edge1".into();
    pair.sims[0].engine.reconfigure(pair.sims[0].now, other, false).expect("a fair change");
    pair.sims[0].carry_out();
    pair.run_for(secs(1));
    let report = pair.nodes[1].report(pair.sims[1].now);
    pair.sims[1].event(Event::SyncReport(report));
    let warnings = pair.sims[1].engine.warnings();
    let expected = "edge1 (10.0.0.0:7077) has something else than this node: service web: backends \
                    or their weights";
    assert!(warnings.contains(expected), "{warnings:?}");
    let mut slower = shared(config(3));
    slower.node.name = "edge1".into();
    slower.carp[0].deadratio += 1;
    pair.sims[0].engine.reconfigure(pair.sims[0].now, slower, false).expect("a fair change");
    pair.sims[0].carry_out();
    pair.run_for(secs(1));
    let differs = pair.nodes[1].report(pair.sims[1].now).peers[0].differs.clone();
    assert!(differs.contains(&"service web: advbase or deadratio of its [[carp]]".to_owned()));
    // A backend that only the holder has is no reason not to follow for all others.
    assert_eq!(pair.slots(0).len(), pair.slots(1).len());
}

#[test]
fn answers_of_the_dns_that_only_one_node_has_yet_are_no_warning() {
    let mut pair = Pair::start(&named(false));
    for (sim, number) in pair.sims.iter_mut().zip([1, 2]) {
        let target = names::Target { address: address(number), srv: None };
        sim.dns = Ok(names::Answer { targets: vec![target], ttl: secs(600) });
    }
    pair.run_for(secs(10));
    assert_eq!(pair.sims[0].engine.config.services[0].backends.len(), 1);
    assert_eq!(pair.nodes[1].report(pair.sims[1].now).peers[0].differs, [""; 0]);
}

#[test]
fn a_running_pend_keeps_its_peers() {
    let mut pair = Pair::start(&config(2));
    let mut other = shared(config(2));
    other.node.name = "edge1".into();
    other.sync = None;
    let refusal = pair.sims[0].engine.reconfigure(pair.sims[0].now, other, false);
    let refusal = refusal.expect_err("refused").to_string();
    assert!(refusal.starts_with("[sync] changed"), "{refusal}");
}
