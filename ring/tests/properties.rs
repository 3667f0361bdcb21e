//! Balance, movement and order, for members of any names.

use std::collections::BTreeSet;

use clarion_ring::{Member, Ring, SLOTS, Slot};
use proptest::{prelude::*, sample::Index, test_runner::RngSeed};

fn equal<'a>(names: impl IntoIterator<Item = &'a String>) -> Ring {
    Ring::new(names.into_iter().map(|name| Member::new(name.as_str(), 1))).expect("the members are valid")
}

fn moved(before: &Ring, after: &Ring) -> usize {
    Slot::all().filter(|slot| before.owner(*slot) != after.owner(*slot)).count()
}

/// This many different names: a stateful set's, or any that a node can have.
fn names(count: usize) -> impl Strategy<Value = Vec<String>> {
    let numbered = "[a-z]{1,12}".prop_map(move |stem| (0..count).map(|n| format!("{stem}-{n}")).collect());
    let any = proptest::collection::btree_set("[A-Za-z0-9._-]{1,24}", count)
        .prop_map(|set: BTreeSet<String>| set.into_iter().collect());
    prop_oneof![numbered, any]
}

fn sized_names() -> impl Strategy<Value = Vec<String>> {
    prop_oneof![names(3), names(10), names(100)]
}

fn weighted() -> impl Strategy<Value = Vec<Member>> {
    (1_usize..12).prop_flat_map(|count| {
        let weights = proptest::collection::vec(prop_oneof![1_u16..5, 1_u16..=100], count);
        (names(count), weights).prop_map(|(names, weights)| {
            names.into_iter().zip(weights).map(|(name, weight)| Member::new(name, weight)).collect()
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn the_fullest_has_at_most_106_hundredths_of_the_mean(names in sized_names()) {
        let ring = equal(&names);
        let fullest = names.iter().map(|name| ring.slots_of(name)).max().unwrap();
        prop_assert!(fullest * names.len() * 100 <= SLOTS * 106, "{fullest} of {SLOTS} at {}", names.len());
    }

    #[test]
    fn nobody_is_over_his_bound_and_every_slot_is_somebodys(members in weighted()) {
        let total: f64 = members.iter().map(|member| f64::from(member.weight)).sum();
        let ring = Ring::new(members.clone()).unwrap();
        for member in &members {
            let bound = (1.05 * SLOTS as f64 * f64::from(member.weight) / total - 1e-6).ceil();
            let owned = ring.slots_of(&member.name);
            prop_assert!(owned as f64 <= bound, "{member:?} has {owned} over {bound}");
        }
        prop_assert_eq!(members.iter().map(|member| ring.slots_of(&member.name)).sum::<usize>(), SLOTS);
    }

    #[test]
    fn the_order_of_members_never_matters(
        (members, shuffled) in weighted().prop_flat_map(|members| (Just(members.clone()), Just(members).prop_shuffle())),
    ) {
        let (one, other) = (Ring::new(members).unwrap(), Ring::new(shuffled).unwrap());
        prop_assert_eq!(one.identity(), other.identity());
        prop_assert_eq!(one.members(), other.members());
        prop_assert_eq!(moved(&one, &other), 0);
    }
}

/// Movement has no bound that holds for all names, only a distribution: of 3,000 changes the worst moved 1.24 × at 50
/// nodes and 1.46 × at 100. So the names tried here are always the same ones.
fn fixed() -> ProptestConfig {
    ProptestConfig { rng_seed: RngSeed::Fixed(1), ..ProptestConfig::with_cases(32) }
}

proptest! {
    #![proptest_config(fixed())]

    #[test]
    fn up_to_50_nodes_a_change_moves_at_most_13_tenths(
        names in (1_usize..=50).prop_flat_map(names), who: Index,
    ) {
        check_movement(names, who, 13)?;
    }

    #[test]
    fn at_100_nodes_a_change_moves_at_most_15_tenths(names in prop_oneof![names(100), names(101)], who: Index) {
        check_movement(names, who, 15)?;
    }
}

/// One of these joins the others. The same table change backwards is its leaving, so this holds for both.
fn check_movement(mut names: Vec<String>, who: Index, tenths: usize) -> Result<(), TestCaseError> {
    let with = equal(&names);
    let newcomer = names.swap_remove(who.index(names.len()));
    let without = equal(&names);
    let (moved, owned) = (moved(&without, &with), with.slots_of(&newcomer));
    prop_assert!(moved >= owned, "all that it owns moved");
    prop_assert!(moved * 10 <= owned * tenths, "{moved} moved for {owned} owned at {}", names.len());
    Ok(())
}
