//! libFuzzer's entry: the target that `FUTAGO_FUZZ_TARGET` names. Built by `ci/fuzz`.
#![no_main]

use std::sync::OnceLock;

static TARGET: OnceLock<futago_fuzz::Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("FUTAGO_FUZZ_TARGET").unwrap_or_default();
        futago_fuzz::find(&name).unwrap_or_else(|| {
            eprintln!("FUTAGO_FUZZ_TARGET: no target is named {name:?}");
            std::process::exit(2)
        })
    });
    target(data);
});
