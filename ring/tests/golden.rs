//! What must never change while the ring's version stays: nodes of two releases agree only while these hold.

use clarion_ring::{Member, Ring, Slot, slot_of};

fn ring() -> Ring {
    Ring::new([("a-0", 1), ("b-1", 2), ("c-2", 1)].map(|(name, weight)| Member::new(name, weight)))
        .expect("the members are valid")
}

#[test]
fn keys_fall_into_these_slots() {
    let slots = ["", "42", "alice", "größe", "0191b8e2-7a3c-7000-8000-000000000001"].map(|key| slot_of(key).number());
    assert_eq!(slots, [7621, 1411, 5095, 13_466, 9715]);
}

#[test]
fn slots_belong_to_these_members() {
    let ring = ring();
    let owners = [0, 1, 2, 3, 4, 5, 1000, 4095, 8191, 12000, 16_000, 16_380, 16_381, 16_382, 16_383]
        .map(|number| ring.owner(Slot::new(number).unwrap()).unwrap());
    assert_eq!(
        owners,
        ["b-1", "c-2", "c-2", "a-0", "c-2", "c-2", "a-0", "c-2", "b-1", "b-1", "b-1", "b-1", "c-2", "b-1", "b-1"]
    );
    assert_eq!(["a-0", "b-1", "c-2"].map(|name| ring.slots_of(name)), [4155, 8172, 4057]);
}

/// The whole table in one number, so that no single slot moves unseen.
#[test]
fn the_whole_table_is_this_one() {
    let ring = ring();
    let table: String = Slot::all().map(|slot| ring.owner(slot).unwrap().as_bytes()[0] as char).collect();
    let hash = table
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    assert_eq!(format!("{hash:016x}"), "57326c240960f7b1");
}

#[test]
fn users_live_at_these_members() {
    let ring = ring();
    assert_eq!(["1", "42", "alice", "größe"].map(|uid| ring.home(uid).unwrap()), ["b-1", "b-1", "a-0", "b-1"]);
}

#[test]
fn the_identity_is_this_one() {
    assert_eq!(ring().identity().to_string(), "d8c5cf32f2c6836e");
    assert_eq!(Ring::empty().identity().to_string(), "063bcd1c0ec7ccd9");
}
