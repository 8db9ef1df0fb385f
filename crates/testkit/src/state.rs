//! What a site remembers between requests, and what its connections share.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::clock::Clock;
use crate::coding::Bombs;
use crate::log::Log;
use crate::tls::Tls;

/// Owned by the site; every connection has a share.
pub(crate) struct State {
    pub(crate) log: Log,
    pub(crate) clock: Clock,
    pub(crate) bombs: Bombs,
    pub(crate) tls: Tls,
    pub(crate) started: Instant,
    /// Requests so far, by what they asked for: for faults that come and go.
    turns: Mutex<HashMap<String, u64>>,
}

impl State {
    pub(crate) fn new(clock: Clock, tls: Tls) -> Self {
        Self {
            log: Log::default(),
            clock,
            bombs: Bombs::default(),
            tls,
            started: Instant::now(),
            turns: Mutex::default(),
        }
    }

    /// Counts, from 0, how often this was asked for.
    pub(crate) fn turn(&self, key: &str) -> u64 {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = turns.entry(key.to_owned()).or_default();
        *turn += 1;
        *turn - 1
    }
}
