//! `sitemon migrate`: brings the store up to date.

use super::args::Global;
use super::terminal::say;
use super::{Exit, Outcome, on_this_thread};
use crate::config::{self, Source};
use sitemon_store::Access;

/// Opens the store for writing, which brings its tables up to date, and closes it.
pub fn run(source: &Source, global: &Global) -> Outcome {
    on_this_thread(async {
        let config = config::load(source)?;
        config.store.open(Access::Write("migrate")).await?.close().await;
        if global.quiet == 0 {
            say("the store is up to date");
        }
        Ok(Exit::Done)
    })
}
