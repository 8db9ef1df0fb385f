//! Patterns, compiled when they are first needed and shared by all checks that have the same.

use regex_automata::hybrid::dfa::DFA;
use regex_automata::nfa::thompson::{self, NFA, WhichCaptures};
use regex_automata::util::look::Look;
use regex_automata::util::prefilter::Prefilter;
use regex_automata::{MatchKind, hybrid};
use regex_syntax::hir::Hir;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, Weak};

/// Bytes of a lazy automaton's cache; it is emptied when it is full.
const CACHE_BYTES: usize = 48 << 10;

/// A pattern and what is made of it.
#[derive(Debug)]
pub struct Compiled {
    text: Arc<str>,
    /// For texts that are held whole.
    regex: OnceLock<regex::Regex>,
    /// For texts that stream by.
    streamed: OnceLock<Streamed>,
}

/// What a pattern is followed with over any length.
#[derive(Debug)]
pub struct Streamed {
    /// Its states with captures, for extraction and for what no lazy automaton can do.
    pub nfa: NFA,
    /// Where a match may begin, by its first literals.
    pub prefilter: Option<Prefilter>,
    /// Decides whether it matches, a byte at a time; `None` where look-around over characters outside ASCII,
    /// or of an empty match, needs to know characters and not bytes.
    pub dfa: Option<Box<DFA>>,
    /// Whether the automaton may be moved to where a match may begin: it must not have looked behind.
    pub may_skip: bool,
}

/// The patterns that are in use anywhere in the process, by their text. This is a memo of a pure function: it
/// holds nothing alive, and nobody can tell whether it is there but by time and memory.
static INTERNED: LazyLock<Mutex<HashMap<Arc<str>, Weak<Compiled>>>> = LazyLock::new(Mutex::default);

/// The pattern of a text; the message says what is wrong with one that cannot be compiled.
pub fn compile(text: &Arc<str>) -> Result<Arc<Compiled>, String> {
    let mut interned = INTERNED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = interned.get(text).and_then(Weak::upgrade) {
        return Ok(known);
    }
    let compiled = Arc::new(Compiled { text: text.clone(), regex: OnceLock::new(), streamed: OnceLock::new() });
    // Compiling waits for the first page, because there may be a hundred thousand patterns. Only one whose
    // repetitions or length may take it over the bound on its size is compiled at once, to be refused.
    if text.contains('{') || text.len() > 256 {
        let regex = regex::Regex::new(text).map_err(|error| error.to_string())?;
        let _ = compiled.regex.set(regex);
    } else {
        regex_syntax::parse(text).map_err(|error| error.to_string())?;
    }
    if interned.len() == interned.capacity() {
        interned.retain(|_, compiled| compiled.strong_count() > 0);
    }
    interned.insert(text.clone(), Arc::downgrade(&compiled));
    Ok(compiled)
}

impl Compiled {
    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// For a text that is held whole.
    pub fn regex(&self) -> &regex::Regex {
        self.regex.get_or_init(|| {
            // It was parsed before, and is small (see `compile`); should it be refused all the same, it is one
            // that matches nothing.
            regex::Regex::new(&self.text).unwrap_or_else(|_| never())
        })
    }

    /// For a text that streams by.
    pub fn streamed(&self) -> &Streamed {
        self.streamed.get_or_init(|| Streamed::new(&self.text).unwrap_or_else(Streamed::never))
    }
}

/// A pattern that matches nothing.
#[expect(clippy::expect_used, reason = "a constant")]
fn never() -> regex::Regex {
    regex::Regex::new(r"[a&&b]").expect("an empty class is a pattern")
}

impl Streamed {
    fn new(text: &str) -> Option<Self> {
        let hir = regex_syntax::parse(text).ok()?;
        let nfa = build(&hir, WhichCaptures::All)?;
        let prefilter = Prefilter::from_hir_prefix(MatchKind::LeftmostFirst, &hir);
        let properties = hir.properties();
        let looks = nfa.look_set_any();
        let characters = looks.contains_word_unicode()
            || (properties.minimum_len() == Some(0) && !looks.is_empty() && !only_haystack(&nfa));
        let dfa = if characters {
            None
        } else {
            let config = hybrid::dfa::Config::new()
                .cache_capacity(CACHE_BYTES)
                .skip_cache_capacity_check(true)
                .specialize_start_states(true)
                .match_kind(MatchKind::LeftmostFirst);
            let plain = build(&hir, WhichCaptures::None)?;
            DFA::builder().configure(config).build_from_nfa(plain).ok().map(Box::new)
        };
        Some(Self { may_skip: looks.is_empty(), nfa, prefilter, dfa })
    }

    fn never() -> Self {
        Self { nfa: NFA::never_match(), prefilter: None, dfa: None, may_skip: false }
    }
}

fn build(hir: &Hir, captures: WhichCaptures) -> Option<NFA> {
    // As large as the regex crate allows by default.
    let config = thompson::Config::new().nfa_size_limit(Some(10 << 20)).which_captures(captures);
    thompson::Compiler::new().configure(config).build_from_hir(hir).ok()
}

/// Whether its only look-around is the text's start and end, which lie between characters for sure.
fn only_haystack(nfa: &NFA) -> bool {
    nfa.look_set_any().iter().all(|look| matches!(look, Look::Start | Look::End))
}
