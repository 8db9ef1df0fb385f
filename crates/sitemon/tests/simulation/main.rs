//! Simulation: scheduler, checker, bus, writer and store in one process, on one thread for each seed, with time that
//! passes only when everything waits for it. A seed decides the sites, their answers, and what befalls the process:
//! steps of the clock, pauses, sleep, reloads, a store and a bus that are slow or fail and come back, stops and
//! kills. Afterwards what is stored is held against what happened.
//!
//! `SIMULATION_SEEDS=100000` for more seeds than by default, `SIMULATION_FIRST=5000` for others than from 0 on,
//! `SIMULATION_SEED=7` for one of them, told in full.

mod rival;
mod scenario;
mod site;
mod truth;
mod world;

use scenario::{BusFault, Scenario, StoreFault, When};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use world::World;

/// Seeds that are tried where nobody says otherwise.
const SEEDS: u64 = 1_000;
/// Failures that are told; more would say the same.
const TOLD: usize = 3;

/// What became of one seed.
struct Outcome {
    wrong: Vec<String>,
    stored: Vec<String>,
    /// Of the last life's store and bus.
    calls: (u64, u64),
}

fn simulate(scenario: &Scenario) -> Outcome {
    let folder = tempfile::tempdir_in(memory()).expect("a folder");
    let world = World::new(scenario.seed);
    let run = std::panic::AssertUnwindSafe(|| world::run(scenario, &world, folder.path()));
    let failed = |why: String| Outcome { wrong: vec![why], stored: Vec::new(), calls: (0, 0) };
    let stored = match std::panic::catch_unwind(run) {
        Ok(Ok(stored)) => stored,
        Ok(Err(error)) => return failed(format!("{error:#}")),
        Err(_) => return failed("it panicked".to_owned()),
    };
    let notes = world.notes();
    let wrong = truth::judge(scenario, &notes, &stored);
    let stored = stored.before.iter().map(|observation| sitemon_model::line::to_string(observation)).collect();
    Outcome { wrong, stored, calls: notes.lives.last().map_or((0, 0), |life| life.calls) }
}

/// Where files cost least: syncing them to a disk tells nothing here.
fn memory() -> std::path::PathBuf {
    let shared = std::path::PathBuf::from("/dev/shm");
    if shared.is_dir() { shared } else { std::env::temp_dir() }
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}: expected a number, not {value}")))
}

/// One seed, told in full.
fn replay(seed: u64) {
    let subscriber =
        tracing_subscriber::fmt().with_writer(std::io::stderr).without_time().with_max_level(tracing::Level::DEBUG);
    let _ = subscriber.with_target(false).try_init();
    let outcome = simulate(&Scenario::of(seed));
    eprintln!("{:#?}", Scenario::of(seed));
    for line in &outcome.stored {
        eprintln!("{line}");
    }
    assert!(outcome.wrong.is_empty(), "seed {seed}:\n{}", outcome.wrong.join("\n"));
}

#[test]
fn every_slot_ends_in_one_observation() {
    if let Some(seed) = number("SIMULATION_SEED") {
        return replay(seed);
    }
    let seeds = number("SIMULATION_SEEDS").unwrap_or(SEEDS);
    let first = number("SIMULATION_FIRST").unwrap_or(0);
    let (next, stored) = (AtomicU64::new(first), AtomicU64::new(0));
    let failures = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first.saturating_add(seeds) || failures.lock().expect("failures").len() >= TOLD {
                        return;
                    }
                    let outcome = simulate(&Scenario::of(seed));
                    stored.fetch_add(outcome.stored.len() as u64, Ordering::Relaxed);
                    if !outcome.wrong.is_empty() {
                        failures.lock().expect("failures").push((seed, outcome.wrong));
                    }
                }
            });
        }
    });
    let mut told = String::new();
    for (seed, wrong) in failures.into_inner().expect("failures") {
        let more = wrong.len().saturating_sub(5);
        let _ = writeln!(told, "seed {seed} (SIMULATION_SEED={seed} make simulate):");
        for line in wrong.iter().take(5) {
            let _ = writeln!(told, "  {line}");
        }
        if more > 0 {
            let _ = writeln!(told, "  and {more} more");
        }
    }
    assert!(told.is_empty(), "after {} seeds:\n{told}", next.load(Ordering::Relaxed) - first);
    println!("{seeds} seeds, {} observations", stored.load(Ordering::Relaxed));
}

#[test]
fn a_seed_is_the_same_each_time() {
    for seed in 0..8 {
        let scenario = Scenario::of(seed);
        assert_eq!(simulate(&scenario).stored, simulate(&scenario).stored, "seed {seed}");
    }
}

/// Lets each call fail in turn, before and after its work, and holds what is stored against the truth each time.
fn every_call(calls: u64, scenario: impl Fn(u64, When) -> Scenario) {
    assert!(calls > 20, "hardly anything was called: {calls}");
    for call in 0..calls {
        for when in [When::Before, When::After, When::Later] {
            let wrong = simulate(&scenario(call, when)).wrong;
            assert!(wrong.is_empty(), "call {call} fails, {when:?}:\n{}", wrong.join("\n"));
        }
    }
}

#[test]
fn the_store_fails_at_each_call() {
    let calls = simulate(&Scenario::calm(None, None)).calls.0;
    every_call(calls, |call, when| Scenario::calm(Some(StoreFault::FailsCall(call, when)), None));
}

#[test]
fn the_bus_fails_at_each_call() {
    let calls = simulate(&Scenario::calm(None, None)).calls.1;
    every_call(calls, |call, when| Scenario::calm(None, Some(BusFault::FailsCall(call, when))));
}
