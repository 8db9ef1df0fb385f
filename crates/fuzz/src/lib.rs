//! Feeds broken input to every reader of input from outside, and holds what comes of it against what must
//! always be true.
//!
//! Inputs are changed at random from a seed, starting from the files in `corpus`; an input that comes to
//! something that no other came to (another cause, another message, another path through the phases) joins them,
//! so that the next changes build on it. That needs no instrumented compiler, because our readers say what they
//! found in words.
//!
//! To add a target: write `src/<name>.rs` exporting `KIND`, add its two lines below, and put some inputs into
//! `corpus/<name>`. An input that broke something is kept there for ever, as a regression.

mod config;
mod dns;
mod engine;
mod http;
mod loopback;
mod mutate;
pub mod seeds;
mod stored;
mod tls;

pub use engine::{Broken, Fuzzer, corpus, replay};

use sitemon_store::sample::Sample;

/// All targets.
pub const KINDS: &[Kind] =
    &[config::NATIVE, config::EARLIER, http::HTTP1, http::HTTP2, dns::KIND, tls::KIND, stored::RECORD, stored::BLOCK];

/// A target as it stands in the table.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// As in `corpus`, and on the command line.
    pub name: &'static str,
    /// One sentence: what an input is.
    pub about: &'static str,
    /// What stands in inputs and means something.
    pub tokens: &'static [&'static [u8]],
    /// Opens what it needs.
    pub open: fn() -> anyhow::Result<Box<dyn Target>>,
}

/// A reader under test.
pub trait Target {
    /// Reads an input. What it came to in words, by which inputs are told apart; or the invariant that it broke.
    fn run(&mut self, input: &[u8]) -> Result<String, String>;

    /// A well-formed input of its own making; `None` where there is nothing to add to the corpus.
    fn make(&mut self, _random: &mut Sample) -> Option<Vec<u8>> {
        None
    }
}
