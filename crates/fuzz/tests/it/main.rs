//! The short run: every input of the corpus, then some thousands made from them, always the same ones.

use sitemon_fuzz::{Fuzzer, KINDS, corpus};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long each target goes on beyond its corpus; fewer inputs on a slow machine, no longer run.
const TIME: Duration = Duration::from_secs(6);
/// Inputs of each target at most.
const INPUTS: u64 = 3000;

fn run(name: &str) {
    let kind = KINDS.iter().find(|kind| kind.name == name).expect("a target of this name");
    let start = Instant::now();
    let result = Fuzzer::new(kind, 1, None).and_then(|mut fuzzer| {
        let of_the_corpus = fuzzer.count;
        assert!(of_the_corpus > 3, "{of_the_corpus} inputs in the corpus");
        while start.elapsed() < TIME && fuzzer.count < of_the_corpus + INPUTS {
            fuzzer.step()?;
        }
        println!("{name}: {} inputs, {} of their own", fuzzer.count, fuzzer.kept());
        // Outcomes differ: it does not read the same again and again.
        assert!(fuzzer.outcomes() > 3, "{} outcomes", fuzzer.outcomes());
        Ok(())
    });
    if let Err(broken) = result {
        let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fuzz");
        panic!("{}", broken.save(&found).unwrap_or_else(|error| format!("{broken:?} cannot be kept: {error}")));
    }
}

#[test]
fn configurations() {
    run("config");
}

#[test]
fn configurations_of_earlier_systems() {
    run("earlier");
}

#[test]
fn answers_by_http1() {
    run("http1");
}

#[test]
fn answers_by_http2() {
    run("http2");
}

#[test]
fn answers_of_name_servers() {
    run("dns");
}

#[test]
fn handshakes() {
    run("tls");
}

#[test]
fn records() {
    run("record");
}

#[test]
fn blocks() {
    run("block");
}

#[test]
fn every_target_has_its_test_and_a_small_corpus() {
    let text = include_str!("main.rs");
    let mut bytes = 0;
    for kind in KINDS {
        assert!(text.contains(&format!("run({:?});", kind.name)), "{} has no test", kind.name);
        for entry in std::fs::read_dir(corpus().join(kind.name)).expect("its corpus") {
            bytes += entry.expect("an input").metadata().expect("its size").len();
        }
    }
    assert!(bytes < 700_000, "{bytes} bytes of inputs");
    let folders: BTreeSet<String> = std::fs::read_dir(corpus())
        .expect("the corpus")
        .map(|entry| entry.expect("a folder").file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(folders, KINDS.iter().map(|kind| kind.name.to_owned()).collect());
}
