//! Whether a pattern matches a text that streams by: the same answer as on the whole text, over any length.

use super::pattern::{Compiled, Streamed};
use super::threads::Threads;
use regex_automata::hybrid::LazyStateID;
use regex_automata::hybrid::dfa::Cache;
use regex_automata::{Anchored, Input};
use std::sync::Arc;

/// One pattern over one text.
pub struct Matching {
    outcome: Option<bool>,
    machine: Machine,
}

enum Machine {
    /// A byte at a time through states that are made when they are first needed.
    Lazy { pattern: Arc<Compiled>, cache: Box<Cache>, state: LazyStateID },
    /// Where a lazy automaton cannot: slower, and exact for every pattern.
    Threads(Box<Threads>),
}

impl Matching {
    /// Before the first character.
    pub fn new(pattern: &Arc<Compiled>) -> Self {
        let machine = begin(pattern).unwrap_or_else(|| Machine::Threads(Box::new(Threads::new(pattern.clone(), true))));
        Self { outcome: None, machine }
    }

    /// Bytes that it takes at most.
    pub fn held_bytes(pattern: &Compiled) -> usize {
        match &pattern.streamed().dfa {
            // The automaton may go over its cache by the state that it is making.
            Some(dfa) => dfa.get_config().get_cache_capacity() * 5 / 4 + 1024,
            None => Threads::held_bytes(pattern),
        }
    }

    /// Whether it matches, once that is decided.
    pub const fn outcome(&self) -> Option<bool> {
        self.outcome
    }

    /// Whether it follows the text by the slower machine, and still does.
    pub const fn is_slow(&self) -> bool {
        self.outcome.is_none() && matches!(self.machine, Machine::Threads(_))
    }

    /// Takes in the next part of the text.
    pub fn feed(&mut self, text: &str) {
        if self.outcome.is_some() {
            return;
        }
        match &mut self.machine {
            Machine::Lazy { pattern, cache, state } => {
                self.outcome = run(pattern.streamed(), cache, state, text.as_bytes());
            }
            Machine::Threads(threads) => {
                threads.feed(text);
                if threads.is_done() {
                    self.outcome = Some(threads.found().is_some());
                }
            }
        }
    }

    /// Ends the text: whether it matches.
    pub fn finish(&mut self) -> bool {
        let outcome = self.outcome.unwrap_or_else(|| match &mut self.machine {
            Machine::Lazy { pattern, cache, state } => pattern
                .streamed()
                .dfa
                .as_ref()
                .and_then(|dfa| dfa.next_eoi_state(cache, *state).ok())
                .is_some_and(|state| state.is_match()),
            Machine::Threads(threads) => {
                threads.finish();
                threads.found().is_some()
            }
        });
        self.outcome = Some(outcome);
        outcome
    }
}

fn begin(pattern: &Arc<Compiled>) -> Option<Machine> {
    let dfa = pattern.streamed().dfa.as_ref()?;
    let mut cache = Box::new(dfa.create_cache());
    let state = dfa.start_state_forward(&mut cache, &Input::new("").anchored(Anchored::No)).ok()?;
    Some(Machine::Lazy { pattern: pattern.clone(), cache, state })
}

/// Follows the bytes; `Some` once it is decided. A match is seen one byte after its end, which is what lets the
/// automaton look ahead.
fn run(streamed: &Streamed, cache: &mut Cache, state: &mut LazyStateID, bytes: &[u8]) -> Option<bool> {
    let dfa = streamed.dfa.as_deref()?;
    let prefilter = streamed.prefilter.as_ref().filter(|_| streamed.may_skip);
    let mut now = *state;
    let mut at = 0;
    while at < bytes.len() {
        if now.is_tagged() {
            if now.is_match() {
                return Some(true);
            }
            if now.is_dead() {
                return Some(false);
            }
            if now.is_start()
                && let Some(prefilter) = prefilter
            {
                let found = prefilter.find(bytes, (at..bytes.len()).into());
                // A literal may have begun at the very end.
                at = found.map_or(at.max(bytes.len().saturating_sub(prefilter.max_needle_len())), |span| span.start);
                if at == bytes.len() {
                    break;
                }
            }
        }
        // It has no bytes at which it quits and may empty its cache as often as it likes, so it never fails.
        now = dfa.next_state(cache, now, bytes[at]).ok()?;
        at += 1;
    }
    *state = now;
    if now.is_match() { Some(true) } else { now.is_dead().then_some(false) }
}
