//! Items on the wire.

use pen_common::abi::{ServiceKey, Tuple};
use pen_common::moment::Moment;
use pen_common::net::{Addr, Be16};
use proptest::prelude::*;

use super::super::bytes::{Malformed, Reader, Writer};
use super::super::item::{
    BEYOND, BLOCK, FEW, Fact, Item, MOST, Of, Outline, Part, Place, Record, Standing, Topic,
};

const NOW: Moment = Moment(1_000_000_000_000);

fn addr() -> impl Strategy<Value = Addr> {
    prop_oneof![any::<[u8; 4]>().prop_map(Addr::v4), any::<[u8; 16]>().prop_map(Addr::v6)]
}

fn port() -> impl Strategy<Value = Be16> {
    any::<u16>().prop_map(Be16::new)
}

fn place() -> impl Strategy<Value = Place> {
    (addr(), port()).prop_map(|(addr, port)| Place { addr, port })
}

fn service() -> impl Strategy<Value = ServiceKey> {
    (addr(), port(), any::<u8>())
        .prop_map(|(vip, port, protocol)| ServiceKey::new(vip, port, protocol))
}

fn ends() -> impl Strategy<Value = Tuple> {
    (place(), place(), any::<u8>()).prop_map(|(from, to, protocol)| {
        Tuple::new(from.addr, from.port, to.addr, to.port, protocol)
    })
}

/// To the millisecond, as ages are told.
fn moment() -> impl Strategy<Value = Moment> {
    (0_u64..1_000_000).prop_map(|age| Moment(NOW.0 - age * 1_000_000))
}

fn fact() -> impl Strategy<Value = (Part, Option<Fact>)> {
    let digests = (any::<u64>(), any::<u64>(), any::<u64>());
    let outline = (any::<bool>(), any::<u8>(), any::<u32>(), digests).prop_map(
        |(mastered, mode, slots, (backends, rest, patience))| {
            Fact::Service(Outline { mastered, mode, slots, backends, rest, patience })
        },
    );
    let life = (any::<u32>(), any::<u32>(), any::<u16>());
    let standing = (life, prop::option::of(any::<u32>()), prop::option::of(moment())).prop_map(
        |((weight, life, admin), set_weight, draining_since)| {
            Fact::Backend(Standing { weight, life, admin, set_weight, draining_since })
        },
    );
    let offset = 0..u8::try_from(BLOCK).expect("small");
    let bases = prop::collection::btree_map(offset, place(), 0..=BLOCK as usize)
        .prop_map(|bases| Fact::Bases(bases.into_iter().collect()));
    let usable = prop::collection::vec(place(), 0..=FEW).prop_map(Fact::Usable);
    prop_oneof![
        prop::option::of(outline).prop_map(|fact| (Part::Service, fact)),
        (place(), prop::option::of(standing))
            .prop_map(|(place, fact)| (Part::Backend(place), fact)),
        (0..BEYOND, prop::option::of(bases)).prop_map(|(block, fact)| (Part::Slots(block), fact)),
        (0..1024_u32, prop::option::of(usable))
            .prop_map(|(number, fact)| (Part::Usable(number), fact)),
    ]
}

fn of() -> impl Strategy<Value = Of> {
    prop_oneof![
        (addr(), port(), port(), any::<u32>()).prop_map(|(client, source_port, port, life)| {
            Of::Flow { client, source_port, port, life }
        }),
        (addr(), any::<u32>()).prop_map(|(client, life)| Of::Client { client, life }),
        (ends(), ends(), any::<u32>()).prop_map(|(ends, to, flags)| Of::Translation {
            ends,
            to,
            flags
        }),
    ]
}

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![
        any::<u32>().prop_map(Item::Begin),
        any::<u32>().prop_map(Item::Done),
        Just(Item::Commit),
        Just(Item::Gap),
        (service(), fact())
            .prop_map(|(service, (part, fact))| Item::Fact(Topic { service, part }, fact)),
        (service(), place(), moment(), of()).prop_map(|(service, backend, seen, of)| {
            Item::Record(Record { service, backend, seen, of })
        }),
    ]
}

fn written(item: &Item) -> Vec<u8> {
    let mut writer = Writer::default();
    item.write(NOW, &mut writer);
    writer.0
}

proptest! {
    #[test]
    fn what_is_written_is_read(items in prop::collection::vec(item(), 0..20)) {
        let bytes: Vec<u8> = items.iter().flat_map(written).collect();
        let mut reader = Reader::new(&bytes);
        for item in items {
            prop_assert!(written(&item).len() <= MOST);
            prop_assert_eq!(Item::read(NOW, &mut reader), Ok(item));
        }
        prop_assert!(reader.is_empty());
    }

    #[test]
    fn what_was_cut_off_is_short(item in item(), cut in any::<prop::sample::Index>()) {
        let bytes = written(&item);
        let bytes = &bytes[..cut.index(bytes.len())];
        prop_assert_eq!(Item::read(NOW, &mut Reader::new(bytes)), Err(Malformed::Short));
    }

    #[test]
    fn no_bytes_are_too_much(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut reader = Reader::new(&bytes);
        while Item::read(NOW, &mut reader).is_ok() {}
    }
}

#[test]
fn what_means_nothing_is_refused_with_its_reason() {
    let read = |bytes: &[u8]| Item::read(NOW, &mut Reader::new(bytes));
    assert_eq!(read(&[77]), Err(Malformed::Item(77)));
    assert_eq!(read(&[5, 9]), Err(Malformed::Family(9)));
    assert_eq!(read(&[5, 4, 1, 2, 3, 4, 0, 80, 6, 2]), Err(Malformed::Flag(2)));
    let slots = [7, 4, 1, 2, 3, 4, 0, 80, 6, 0, 0, 0, 0, 1, 1, 16];
    assert_eq!(read(&slots), Err(Malformed::Slot(16)));
}

#[test]
fn who_knows_nothing_of_usable_backends_takes_them_for_bases_of_slots_that_no_table_has() {
    let place = |last: u8| Place { addr: Addr::v4([10, 0, 0, last]), port: Be16::new(80) };
    let usable = Fact::Usable(vec![place(1), place(2)]);
    let topic = Topic { service: ServiceKey::default(), part: Part::Usable(3) };
    let bases = Fact::Bases(vec![(0, place(1)), (1, place(2))]);
    let as_bases = Topic { part: Part::Slots(BEYOND + 3), ..topic };
    assert_eq!(
        written(&Item::Fact(topic, Some(usable))),
        written(&Item::Fact(as_bases, Some(bases)))
    );
    assert!((BEYOND + 1024).checked_mul(BLOCK).is_some(), "they count slots in 32 bits");
}

#[test]
fn an_age_goes_on_while_it_is_under_way() {
    let seen = Moment(NOW.0 - 5_000_000_000);
    let of = Of::Client { client: Addr::v4([1, 2, 3, 4]), life: 1 };
    let record = Record { service: ServiceKey::default(), backend: Place::default(), seen, of };
    let bytes = written(&Item::Record(record));
    // The receiver's clock is another one.
    let there = Moment(77_000_000_000);
    let Ok(Item::Record(read)) = Item::read(there, &mut Reader::new(&bytes)) else {
        panic!("read")
    };
    assert_eq!(read.seen, Moment(72_000_000_000));
    let before_boot = Moment(1);
    let Ok(Item::Record(read)) = Item::read(before_boot, &mut Reader::new(&bytes)) else {
        panic!("read")
    };
    assert_eq!(read.seen, Moment(0));
}
