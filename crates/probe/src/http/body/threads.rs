//! Follows a pattern over a text that streams by, with the same answer as on the whole text.
//!
//! This is a Pike machine: a list of threads, each a state of the pattern's automaton with the positions of
//! its groups, in the order of their priority. It is exact for every pattern, look-around included, in memory
//! that depends on the pattern alone, because what lies behind it is never looked at again but for one
//! character. Steps are by character, so that look-around always stands between two.

use super::pattern::Compiled;
use regex_automata::nfa::thompson::{NFA, State};
use regex_automata::util::look::Look;
use regex_automata::util::primitives::StateID;
use std::sync::Arc;

/// No position.
const NONE: u64 = u64::MAX;

/// The positions of the match's start and end and of the first group's.
type Slots = [u64; 4];

/// A match as positions in the text, in bytes from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The whole match.
    pub whole: (u64, u64),
    /// The first group, where the pattern has one and it took part.
    pub group: Option<(u64, u64)>,
}

/// The state between two parts of a text.
#[derive(Debug)]
pub struct Threads {
    pattern: Arc<Compiled>,
    /// Whether any match decides; else the one that `captures` finds is looked for.
    earliest: bool,
    /// Bytes before the next character.
    at: u64,
    previous: Option<char>,
    /// Threads after the last character, before their empty steps.
    raw: Vec<(StateID, Slots)>,
    /// Threads before the next character, after their empty steps.
    current: Set,
    stack: Vec<Follow>,
    first: Option<Box<[bool; 256]>>,
    found: Option<Found>,
    done: bool,
}

/// Threads by state, in the order of their priority.
#[derive(Debug)]
struct Set {
    dense: Vec<(StateID, Slots)>,
    seen: Vec<bool>,
    visited: Vec<StateID>,
}

#[derive(Debug)]
enum Follow {
    Explore(StateID),
    Restore { slot: usize, position: u64 },
}

/// What stands on both sides of a position.
#[derive(Clone, Copy)]
struct Between {
    previous: Option<char>,
    next: Option<char>,
    /// Whether the position lies between two characters.
    border: bool,
}

impl Threads {
    /// Before the first character. `earliest`: stop at the first sign of any match.
    pub fn new(pattern: Arc<Compiled>, earliest: bool) -> Self {
        let nfa = &pattern.streamed().nfa;
        let states = nfa.states().len();
        let first = first_bytes(nfa);
        Self {
            earliest,
            at: 0,
            previous: None,
            raw: Vec::new(),
            current: Set { dense: Vec::new(), seen: vec![false; states], visited: Vec::new() },
            stack: Vec::new(),
            first,
            found: None,
            done: false,
            pattern,
        }
    }

    /// Bytes that it takes at most.
    pub fn held_bytes(pattern: &Compiled) -> usize {
        const EACH: usize = 2 * size_of::<(StateID, Slots)>() + 1 + size_of::<StateID>() + size_of::<Follow>();
        512 + 2 * EACH * pattern.streamed().nfa.states().len()
    }

    /// The match as far as it is known. It may still change until [`Threads::is_done`].
    pub const fn found(&self) -> Option<Found> {
        self.found
    }

    /// Whether nothing that may still come changes the answer.
    pub const fn is_done(&self) -> bool {
        self.done
    }

    /// Takes in the next part of the text.
    pub fn feed(&mut self, text: &str) {
        let mut rest = text;
        while !self.done {
            if self.raw.is_empty() && self.at > 0 {
                rest = self.skip(rest);
            }
            let Some(next) = rest.chars().next() else { return };
            rest = &rest[next.len_utf8()..];
            self.step(next);
        }
    }

    /// Ends the text.
    pub fn finish(&mut self) {
        if !self.done {
            self.close(Between { previous: self.previous, next: None, border: true }, true);
            self.take_match();
            self.done = true;
        }
    }

    /// Skips what cannot begin a match, while there is no thread.
    fn skip<'t>(&mut self, text: &'t str) -> &'t str {
        let streamed = self.pattern.streamed();
        let bytes = text.as_bytes();
        let to = if let Some(prefilter) = &streamed.prefilter {
            let found = prefilter.find(bytes, (0..bytes.len()).into());
            // A literal may have begun at the very end.
            found.map_or(bytes.len().saturating_sub(prefilter.max_needle_len()), |span| span.start)
        } else if let Some(first) = &self.first {
            bytes.iter().position(|byte| first[usize::from(*byte)]).unwrap_or(bytes.len())
        } else {
            return text;
        };
        let (skipped, rest) = text.split_at(text.floor_char_boundary(to));
        if let Some(previous) = skipped.chars().next_back() {
            self.previous = Some(previous);
            self.at += skipped.len() as u64;
        }
        rest
    }

    fn step(&mut self, next: char) {
        self.close(Between { previous: self.previous, next: Some(next), border: true }, true);
        self.take_match();
        if self.done {
            return;
        }
        let mut encoded = [0; 4];
        let bytes = next.encode_utf8(&mut encoded).as_bytes();
        for (index, byte) in bytes.iter().enumerate() {
            if index > 0 {
                self.close(Between { previous: None, next: None, border: false }, false);
            }
            self.advance(*byte);
        }
        self.at += bytes.len() as u64;
        self.previous = Some(next);
        // Once there is a match no new thread begins, so when the last one died the answer stands.
        self.done =
            self.raw.is_empty() && (self.found.is_some() || self.pattern.streamed().nfa.is_always_start_anchored());
    }

    /// Makes the empty steps of all threads, and (`begin`) begins a new one, the last in priority.
    fn close(&mut self, between: Between, begin: bool) {
        let Self { pattern, raw, current, stack, .. } = self;
        let nfa = &pattern.streamed().nfa;
        current.clear();
        for (state, slots) in raw.drain(..) {
            explore(nfa, stack, current, state, slots, self.at, between);
        }
        let may_begin = |first: &[bool; 256]| {
            let mut encoded = [0; 4];
            between.next.is_some_and(|next| first[usize::from(next.encode_utf8(&mut encoded).as_bytes()[0])])
        };
        let begin = begin
            && self.found.is_none()
            && (self.at == 0 || !nfa.is_always_start_anchored())
            && self.first.as_deref().is_none_or(may_begin);
        if begin {
            explore(nfa, stack, current, nfa.start_anchored(), [NONE; 4], self.at, between);
        }
    }

    /// Notes a match, and drops the threads of lower priority.
    fn take_match(&mut self) {
        let nfa = &self.pattern.streamed().nfa;
        let at = self.current.dense.iter().position(|(state, _)| matches!(nfa.state(*state), State::Match { .. }));
        let Some(at) = at else { return };
        let slots = self.current.dense[at].1;
        let group = (slots[2] != NONE && slots[3] != NONE).then_some((slots[2], slots[3]));
        self.found = Some(Found { whole: (slots[0], self.at), group });
        self.current.dense.truncate(at);
        self.done = self.earliest || at == 0;
    }

    fn advance(&mut self, byte: u8) {
        let nfa = &self.pattern.streamed().nfa;
        for (state, slots) in &self.current.dense {
            let next = match nfa.state(*state) {
                State::ByteRange { trans } => trans.matches_byte(byte).then_some(trans.next),
                State::Sparse(transitions) => transitions.matches_byte(byte),
                State::Dense(transitions) => transitions.matches_byte(byte),
                _ => None,
            };
            if let Some(next) = next {
                self.raw.push((next, *slots));
            }
        }
    }
}

impl Set {
    fn clear(&mut self) {
        self.dense.clear();
        for state in self.visited.drain(..) {
            self.seen[state.as_usize()] = false;
        }
    }
}

/// Follows the empty steps from a state, in the order of their priority.
fn explore(
    nfa: &NFA,
    stack: &mut Vec<Follow>,
    set: &mut Set,
    state: StateID,
    mut slots: Slots,
    at: u64,
    between: Between,
) {
    let mut state = state;
    loop {
        loop {
            if std::mem::replace(&mut set.seen[state.as_usize()], true) {
                break;
            }
            set.visited.push(state);
            match nfa.state(state) {
                State::ByteRange { .. } | State::Sparse(_) | State::Dense(_) | State::Match { .. } => {
                    set.dense.push((state, slots));
                    break;
                }
                State::Fail => break,
                State::Look { look, next } => {
                    if !between.fits(*look) {
                        break;
                    }
                    state = *next;
                }
                State::Union { alternates } => {
                    let Some((first, others)) = alternates.split_first() else { break };
                    stack.extend(others.iter().rev().map(|other| Follow::Explore(*other)));
                    state = *first;
                }
                State::BinaryUnion { alt1, alt2 } => {
                    stack.push(Follow::Explore(*alt2));
                    state = *alt1;
                }
                State::Capture { next, slot, .. } => {
                    if let Some(position) = slots.get_mut(slot.as_usize()) {
                        stack.push(Follow::Restore { slot: slot.as_usize(), position: *position });
                        *position = at;
                    }
                    state = *next;
                }
            }
        }
        // Back to the nearest branch that is not followed yet, with the positions as they were there.
        loop {
            match stack.pop() {
                None => return,
                Some(Follow::Restore { slot, position }) => slots[slot] = position,
                Some(Follow::Explore(next)) => {
                    state = next;
                    break;
                }
            }
        }
    }
}

impl Between {
    fn fits(self, look: Look) -> bool {
        if !self.border {
            return false;
        }
        let ascii = |side: Option<char>| side.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
        let unicode = |side: Option<char>| {
            side.is_some_and(|c| regex_syntax::try_is_word_character(c).unwrap_or_else(|_| ascii(side)))
        };
        let (previous, next) = (self.previous, self.next);
        match look {
            Look::Start => previous.is_none(),
            Look::End => next.is_none(),
            Look::StartLF => matches!(previous, None | Some('\n')),
            Look::EndLF => matches!(next, None | Some('\n')),
            Look::StartCRLF => {
                matches!((previous, next), (None | Some('\n'), _)) || (previous == Some('\r') && next != Some('\n'))
            }
            Look::EndCRLF => matches!(next, None | Some('\r')) || (next == Some('\n') && previous != Some('\r')),
            Look::WordAscii => ascii(previous) != ascii(next),
            Look::WordAsciiNegate => ascii(previous) == ascii(next),
            Look::WordUnicode => unicode(previous) != unicode(next),
            Look::WordUnicodeNegate => unicode(previous) == unicode(next),
            Look::WordStartAscii => !ascii(previous) && ascii(next),
            Look::WordEndAscii => ascii(previous) && !ascii(next),
            Look::WordStartUnicode => !unicode(previous) && unicode(next),
            Look::WordEndUnicode => unicode(previous) && !unicode(next),
            Look::WordStartHalfAscii => !ascii(previous),
            Look::WordEndHalfAscii => !ascii(next),
            Look::WordStartHalfUnicode => !unicode(previous),
            Look::WordEndHalfUnicode => !unicode(next),
        }
    }
}

/// The bytes that a match may begin with, look-around aside; `None` where it may be empty.
fn first_bytes(nfa: &NFA) -> Option<Box<[bool; 256]>> {
    let mut bytes = Box::new([false; 256]);
    let mut seen = vec![false; nfa.states().len()];
    let mut stack = vec![nfa.start_anchored()];
    while let Some(state) = stack.pop() {
        if std::mem::replace(&mut seen[state.as_usize()], true) {
            continue;
        }
        match nfa.state(state) {
            State::Match { .. } => return None,
            State::Fail => {}
            State::Look { next, .. } | State::Capture { next, .. } => stack.push(*next),
            State::Union { alternates } => stack.extend(alternates.iter()),
            State::BinaryUnion { alt1, alt2 } => stack.extend([*alt1, *alt2]),
            State::ByteRange { trans } => bytes[usize::from(trans.start)..=usize::from(trans.end)].fill(true),
            State::Sparse(transitions) => {
                for trans in &transitions.transitions {
                    bytes[usize::from(trans.start)..=usize::from(trans.end)].fill(true);
                }
            }
            State::Dense(transitions) => {
                for (byte, may) in bytes.iter_mut().enumerate() {
                    *may |= transitions.matches_byte(byte as u8).is_some();
                }
            }
        }
    }
    Some(bytes)
}
