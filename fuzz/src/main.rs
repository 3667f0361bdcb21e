//! libFuzzer on the target that `CLARION_FUZZ_TARGET` names. `fuzz/run` builds and calls it.
#![no_main]

use std::{env, fs, path::Path, sync::OnceLock};

use clarion_fuzz::{Target, target};
use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<&'static Target> = OnceLock::new();

fuzz_target!(
    init: {
        let name = env::var("CLARION_FUZZ_TARGET").expect("CLARION_FUZZ_TARGET names a target");
        let target = TARGET.get_or_init(|| target(&name).expect("there is a target of this name"));
        let folder = env::var("CLARION_FUZZ_SEEDS").expect("CLARION_FUZZ_SEEDS is a folder");
        for (number, seed) in target.seeds.iter().enumerate() {
            fs::write(Path::new(&folder).join(format!("seed-{number}")), seed).expect("the folder can be written");
        }
    },
    |input: &[u8]| (TARGET.get().expect("it was chosen at the start").run)(input)
);
