//! `make fuzz`: all targets side by side for some minutes, or one input again.

use sitemon_fuzz::{Broken, Fuzzer, KINDS, Kind, replay, seeds};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

const USAGE: &str = "usage: fuzz [--minutes N] [--seed N] [TARGET]   change inputs and read them
       fuzz TARGET FILE...                      read these inputs again
       fuzz --seeds                             make the corpus anew";

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

/// Whether nothing broke.
fn run(arguments: Vec<String>) -> Result<bool, String> {
    let mut minutes = 1.0;
    // Another one each time, told so that it can be given again.
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let mut seed = since.map_or(0, |since| since.as_secs());
    let mut words = Vec::new();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().and_then(|text| text.parse::<f64>().ok()).ok_or(USAGE);
        match &*argument {
            "--minutes" => minutes = value()?,
            "--seed" => seed = value()? as u64,
            "--seeds" => return seeds::write().map(|()| true).map_err(|error| format!("{error:#}")),
            word if word.starts_with('-') => return Err(USAGE.to_owned()),
            _ => words.push(argument),
        }
    }
    let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    let kinds: Vec<&'static Kind> =
        KINDS.iter().filter(|kind| words.first().is_none_or(|word| word == kind.name || word == "all")).collect();
    if kinds.is_empty() {
        return Err(format!("unknown target, expected one of: {}\n{USAGE}", names.join(", ")));
    }
    if words.len() > 1 {
        return again(kinds[0], &words[1..]);
    }
    println!(
        "seed {seed}, {minutes} minutes, targets: {}",
        kinds.iter().map(|kind| kind.name).collect::<Vec<_>>().join(" ")
    );
    let time = Duration::from_secs_f64(minutes * 60.0);
    let broken: Vec<Broken> = std::thread::scope(|scope| {
        let running: Vec<_> = kinds.iter().map(|kind| scope.spawn(move || fuzz(kind, seed, time))).collect();
        running.into_iter().filter_map(|thread| thread.join().ok().flatten()).collect()
    });
    for broken in &broken {
        let told = broken.save(&found()).unwrap_or_else(|error| format!("{broken:?} cannot be kept: {error}"));
        println!("\nBROKEN {told}");
    }
    Ok(broken.is_empty())
}

/// One target for so long.
fn fuzz(kind: &'static Kind, seed: u64, time: Duration) -> Option<Broken> {
    let folder = found().join(kind.name);
    if let Err(error) = std::fs::create_dir_all(&folder) {
        eprintln!("{}: {error}", folder.display());
    }
    // What ends the process is found here afterwards.
    let current = folder.join("current");
    let mut fuzzer = match Fuzzer::new(kind, seed, Some(current.clone())) {
        Ok(fuzzer) => fuzzer,
        Err(broken) => return Some(broken),
    };
    let start = Instant::now();
    let result = fuzzer.run_for(time);
    let _ = std::fs::remove_file(current);
    println!(
        "{:8} {:9} inputs, {:6.0} a second, {:5} of their own",
        kind.name,
        fuzzer.count,
        fuzzer.count as f64 / start.elapsed().as_secs_f64(),
        fuzzer.kept()
    );
    result.err()
}

/// Reads inputs again, and tells what each comes to.
fn again(kind: &Kind, paths: &[String]) -> Result<bool, String> {
    let mut target = (kind.open)().map_err(|error| format!("{error:#}"))?;
    let mut good = true;
    for path in paths {
        let input = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
        match replay(&mut *target, &input) {
            Ok(told) => println!("{path}: {told}"),
            Err(what) => {
                println!("{path}: BROKEN {what}");
                good = false;
            }
        }
    }
    Ok(good)
}

/// Where inputs are kept that broke something.
fn found() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fuzz")
}
