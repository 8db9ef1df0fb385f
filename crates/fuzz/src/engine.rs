//! The loop: change an input, read it, keep it where it came to something new; and what is done where it broke.

use crate::mutate::{below, mutate};
use crate::{Kind, Target};
use rustix::time::{ClockId, clock_gettime};
use sitemon_store::sample::Sample;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64;

/// Processor time of one input at most. What a hostile site may cost is far below; this is for builds without
/// optimisation.
const TIME_MAX: Duration = Duration::from_secs(2);

/// Inputs that are tried to make a broken one smaller.
const SHRINKS_MAX: usize = 400;

/// An input that broke an invariant.
#[derive(Debug, Clone)]
pub struct Broken {
    /// The target's name.
    pub target: &'static str,
    /// The input, made smaller.
    pub input: Vec<u8>,
    /// What it broke.
    pub what: String,
}

impl Broken {
    /// Keeps the input in a folder, and says where it is and how it is read again.
    pub fn save(&self, folder: &Path) -> std::io::Result<String> {
        let name = format!("{}/broken-{:016x}", self.target, xxh3_64(&self.input));
        let path = folder.join(&name);
        std::fs::create_dir_all(path.parent().unwrap_or(folder))?;
        std::fs::write(&path, &self.input)?;
        Ok(format!(
            "{}: {}\n  the input ({} bytes): {}\n  again: cargo run -p sitemon-fuzz -- {} {}\n  once mended, keep it in \
             crates/fuzz/corpus/{}",
            self.target,
            self.what,
            self.input.len(),
            path.display(),
            self.target,
            path.display(),
            self.target
        ))
    }
}

/// The folder of the corpus.
pub fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// Reads one input: what it came to, or what it broke.
pub fn replay(target: &mut dyn Target, input: &[u8]) -> Result<String, String> {
    let before = processor_time();
    let result = catch_unwind(AssertUnwindSafe(|| target.run(input)));
    let took = processor_time().saturating_sub(before);
    match result {
        Err(panic) => {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            Err(format!("a panic: {}", words.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without words")))
        }
        Ok(Ok(_)) if took > TIME_MAX => Err(format!("{took:.1?} of processor time")),
        Ok(told) => told,
    }
}

/// Processor time of this thread; other processes do not count.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// One target with its inputs.
pub struct Fuzzer {
    kind: &'static Kind,
    target: Box<dyn Target>,
    random: Sample,
    inputs: Vec<Vec<u8>>,
    /// What inputs came to, hashed.
    seen: HashSet<u64>,
    /// Where the input is kept while it is read, for those that end the process.
    current: Option<PathBuf>,
    /// Inputs that were read.
    pub count: u64,
}

impl Fuzzer {
    /// Reads the corpus of a target; an input of it that breaks something is the error.
    pub fn new(kind: &'static Kind, seed: u64, current: Option<PathBuf>) -> Result<Self, Broken> {
        let broken = |what: String| Broken { target: kind.name, input: Vec::new(), what };
        let target = (kind.open)().map_err(|error| broken(format!("cannot be opened: {error:#}")))?;
        let mut fuzzer = Self {
            kind,
            target,
            random: Sample::new(seed ^ xxh3_64(kind.name.as_bytes())),
            inputs: Vec::new(),
            seen: HashSet::new(),
            current,
            count: 0,
        };
        let mut paths: Vec<PathBuf> = std::fs::read_dir(corpus().join(kind.name))
            .map_err(|error| broken(format!("its corpus cannot be read: {error}")))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        paths.sort();
        for path in paths {
            let input = std::fs::read(&path).map_err(|error| broken(format!("{}: {error}", path.display())))?;
            fuzzer
                .read(&input)
                .map_err(|broken| Broken { what: format!("{}: {}", path.display(), broken.what), ..broken })?;
            fuzzer.inputs.push(input);
        }
        Ok(fuzzer)
    }

    /// Inputs that came to something of their own, those of the corpus among them.
    pub fn kept(&self) -> usize {
        self.inputs.len()
    }

    /// What kinds of outcome were seen.
    pub fn outcomes(&self) -> usize {
        self.seen.len()
    }

    /// Goes on for so long.
    pub fn run_for(&mut self, time: Duration) -> Result<(), Broken> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.step()?;
        }
        Ok(())
    }

    /// Changes an input and reads it.
    pub fn step(&mut self) -> Result<(), Broken> {
        let made = if self.random.once_in(8) { self.target.make(&mut self.random) } else { None };
        let input = match made {
            // Every other one as it is: what is well formed must be understood.
            Some(made) if self.random.once_in(2) => made,
            Some(made) => mutate(&made, &made, self.kind.tokens, &mut self.random),
            None if self.inputs.is_empty() => Vec::new(),
            None => {
                // Those that were found last lead further more often.
                let count = self.inputs.len();
                let recent = below(&mut self.random, count.min(32));
                let chosen = if self.random.once_in(2) { count - 1 - recent } else { below(&mut self.random, count) };
                let other = below(&mut self.random, count);
                mutate(&self.inputs[chosen], &self.inputs[other], self.kind.tokens, &mut self.random)
            }
        };
        if self.read(&input)? {
            self.inputs.push(input);
        }
        Ok(())
    }

    /// Whether an input came to something new.
    fn read(&mut self, input: &[u8]) -> Result<bool, Broken> {
        self.count += 1;
        if let Some(path) = &self.current {
            // Where it cannot be kept it is only not there afterwards.
            let _ = std::fs::write(path, input);
        }
        match replay(&mut *self.target, input) {
            Ok(told) => Ok(self.seen.insert(xxh3_64(plain(&told).as_bytes()))),
            Err(what) => Err(self.shrink(input, what)),
        }
    }

    /// Takes away of a broken input what it does not need to break the same.
    fn shrink(&mut self, input: &[u8], what: String) -> Broken {
        let mut best = Broken { target: self.kind.name, input: input.to_vec(), what };
        let mut tries = 0;
        let mut size = best.input.len() / 2;
        while size > 0 && tries < SHRINKS_MAX {
            let mut at = 0;
            while at < best.input.len() && tries < SHRINKS_MAX {
                tries += 1;
                let mut smaller = best.input.clone();
                smaller.drain(at..(at + size).min(smaller.len()));
                match replay(&mut *self.target, &smaller) {
                    Err(what) if kind_of(&what) == kind_of(&best.what) => {
                        best = Broken { input: smaller, what, ..best }
                    }
                    _ => at += size,
                }
            }
            size /= 2;
        }
        best
    }
}

/// The first words of what was broken: by them it is the same.
fn kind_of(what: &str) -> &str {
    let end = what.char_indices().filter(|(_, c)| *c == ' ').nth(3).map_or(what.len(), |(at, _)| at);
    &what[..end]
}

/// Words without what differs from input to input: digits, and what stands in backticks or quotes.
fn plain(told: &str) -> String {
    let mut shown = String::new();
    let mut inside = None;
    for character in told.chars().take(1000) {
        match inside {
            Some(end) if character == end => inside = None,
            Some(_) => continue,
            None if matches!(character, '`' | '"') => inside = Some(character),
            None => {}
        }
        match character {
            '0'..='9' if shown.ends_with('0') => {}
            '0'..='9' => shown.push('0'),
            other => shown.push(other),
        }
    }
    shown
}
