//! Each target for a second, or for as long as `CLARION_FUZZ_SECONDS` says.

use std::time::Duration;

use clarion_fuzz::{TARGETS, Target, target};
use proptest::{
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, TestRunner},
};
use tokio::time::Instant;

/// A change to an input: some bytes go, and others take their place.
type Change = (Index, usize, Vec<u8>);

/// Good input with a few changes, or none that anybody meant.
fn inputs(target: &Target) -> impl Strategy<Value = Vec<u8>> + use<> {
    let seeds: Vec<Vec<u8>> = target.seeds.iter().map(|seed| seed.to_vec()).collect();
    let cut = any::<[u8; 2]>();
    let change = (any::<Index>(), 0_usize..8, prop_oneof![any::<Vec<u8>>(), select(seeds.clone())]);
    let changed = (select(seeds), cut, prop::collection::vec(change, 0..4)).prop_map(apply);
    prop_oneof![4 => changed, 1 => any::<Vec<u8>>()]
}

fn apply((mut input, cut, changes): (Vec<u8>, [u8; 2], Vec<Change>)) -> Vec<u8> {
    input[..2].copy_from_slice(&cut);
    for (place, gone, new) in changes {
        let begin = 2 + place.index(input.len() - 1);
        let end = (begin + gone).min(input.len());
        input.splice(begin..end, new);
    }
    input
}

fn try_out(name: &str) {
    let target = target(name).expect("there is a target of this name");
    target.seeds.iter().for_each(|seed| (target.run)(seed));
    let seconds = std::env::var("CLARION_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1.0);
    let (begun, inputs) = (Instant::now(), inputs(target));
    // What was found is printed, smaller, and becomes a seed by hand.
    let config = Config { cases: 64, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    while begun.elapsed() < Duration::from_secs_f64(seconds) {
        let ran = runner.run(&inputs, |input| {
            (target.run)(&input);
            Ok(())
        });
        ran.unwrap_or_else(|found| panic!("{name}: {found}"));
    }
}

macro_rules! tests {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                try_out(stringify!($name));
            }
        )*

        #[test]
        fn every_target_is_tried_out() {
            assert_eq!(TARGETS.map(|target| target.name), [$(stringify!($name)),*]);
        }
    };
}

tests!(frames heads tokens forms relay configuration redis nats envelope names bodies wordings);
