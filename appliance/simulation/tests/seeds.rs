//! The checked seeds, and single ones on demand.
//!
//! - `FUTAGO_SIM_SEED=n`: `one_seed` runs that seed with its whole trace printed; `FUTAGO_SIM_FOCUS=name`: with that
//!   focus, as the tests of broken rules do.
//! - `FUTAGO_SIM_SEEDS=count`: that many seeds in all, instead of 2,400; `FUTAGO_SIM_FROM=n`: the first of them.
//! - `FUTAGO_SIM_HUGE=count`: that many seeds of a huge volume, instead of 6.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use futago_simulation::{Focus, Options, Trace, explain, run};

const PARTS: u64 = 8;
const SEEDS: u64 = 2400;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn part(n: u64) {
    let seeds = number("FUTAGO_SIM_SEEDS").unwrap_or(SEEDS);
    let first = number("FUTAGO_SIM_FROM").unwrap_or(0);
    let (mut requests, mut answered, mut faults, mut epochs, mut slowest, mut full) = (0, 0, 0, 0, 0, 0);
    let (mut grown, mut goodbyes) = (0, 0);
    let mut broken = Vec::new();
    for seed in (first..first + seeds).filter(|seed| seed % PARTS == n) {
        let outcome = run(Options { seed, ..Options::default() });
        if let Some(found) = outcome.violation {
            broken.push((seed, found));
        }
        requests += outcome.requests;
        answered += outcome.answered;
        faults += outcome.faults;
        epochs += outcome.epochs;
        slowest = slowest.max(outcome.recovered_ms);
        full += outcome.full_resyncs;
        grown += u64::from(outcome.grown);
        goodbyes += outcome.goodbyes;
    }
    println!(
        "{faults} faults, {epochs} epochs, {answered} of {requests} requests answered, in sync again within {slowest} ms, {full} full resyncs, {grown} seeds with a volume that grew, {goodbyes} goodbyes"
    );
    for (seed, found) in &broken {
        println!("seed {seed}: {} broken: {}", found.invariant, found.text);
    }
    if let Some((seed, _)) = broken.first() {
        panic!("{}", explain(Options { seed: *seed, ..Options::default() }).unwrap_err());
    }
    // I5: none of these faults makes a copy's past unknown (S7).
    assert_eq!(full, 0, "a returning copy got everything");
    assert!(answered * 2 > requests, "the volume was hardly served at all");
    assert!(goodbyes > 0 || seeds < SEEDS, "no secondary said goodbye");
}

macro_rules! parts {
    ($($name:ident: $n:expr,)+) => {$(
        #[test]
        fn $name() {
            part($n);
        }
    )+};
}

parts! {
    seeds_0: 0,
    seeds_1: 1,
    seeds_2: 2,
    seeds_3: 3,
    seeds_4: 4,
    seeds_5: 5,
    seeds_6: 6,
    seeds_7: 7,
}

/// S22: volumes whose bitmap moves while they grow.
#[test]
fn huge_volumes() {
    let first = number("FUTAGO_SIM_FROM").unwrap_or(0);
    let mut doubled = 0;
    for seed in first..first + number("FUTAGO_SIM_HUGE").unwrap_or(6) {
        let outcome = explain(Options { seed, huge: true, ..Options::default() });
        doubled += u64::from(outcome.unwrap_or_else(|text| panic!("{text}")).doubled);
    }
    println!("{doubled} seeds in which the dirty block doubled");
    assert!(doubled > 0, "no volume grew that far");
}

#[test]
fn one_seed() {
    let Some(seed) = number("FUTAGO_SIM_SEED") else { return };
    let focus = std::env::var("FUTAGO_SIM_FOCUS").ok();
    let focus = focus
        .map(|name| Focus::named(&name).unwrap_or_else(|| panic!("FUTAGO_SIM_FOCUS={name} is no focus")));
    let outcome = run(Options { seed, focus, trace: Trace::Print, ..Options::default() });
    println!("{outcome:?}");
    assert!(outcome.violation.is_none());
}

/// The same seed makes the same run: else a failure could not be looked into.
#[test]
fn runs_repeat() {
    for seed in 0..5 {
        let once = run(Options { seed, trace: Trace::Tail(50), ..Options::default() });
        let again = run(Options { seed, trace: Trace::Tail(50), ..Options::default() });
        assert_eq!(once.trace, again.trace, "seed {seed}");
    }
}
