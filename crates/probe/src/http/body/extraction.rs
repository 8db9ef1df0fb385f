//! Takes out of a text what a pattern matches: the same answer as on the whole text, where the match is no
//! longer than the window.

use super::pattern::Compiled;
use super::threads::{Found, Threads};
use std::sync::Arc;

/// What came of an extraction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extracted {
    /// No match.
    Nothing,
    /// The first group, or the whole match where the pattern has none or it took no part.
    Value(Box<str>),
    /// The match was so many bytes long, more than the window.
    TooLong(u64),
}

/// On a text that is held whole.
pub fn extract(pattern: &Compiled, text: &str, window: u64) -> Extracted {
    let Some(captures) = pattern.regex().captures(text) else { return Extracted::Nothing };
    let Some(whole) = captures.get(0) else { return Extracted::Nothing };
    if whole.len() as u64 > window {
        return Extracted::TooLong(whole.len() as u64);
    }
    Extracted::Value(captures.get(1).unwrap_or(whole).as_str().into())
}

/// The end of a text that streams by: what the extractions may still need.
#[derive(Debug)]
pub struct Window {
    text: String,
    /// Where in the whole text it begins.
    base: u64,
    /// Bytes that are kept behind.
    keep: usize,
}

impl Window {
    /// Keeps `keep` bytes.
    pub fn new(keep: u64) -> Self {
        Self { text: String::new(), base: 0, keep: usize::try_from(keep).unwrap_or(usize::MAX) }
    }

    /// Adds a part; what lies more than the window behind it is dropped.
    pub fn push(&mut self, part: &str) {
        let drop = self.text.floor_char_boundary(self.text.len().saturating_sub(self.keep));
        self.text.drain(..drop);
        self.base += drop as u64;
        // Exactly what is accounted for, not twice that.
        self.text.reserve_exact(part.len());
        self.text.push_str(part);
    }

    /// Bytes that it takes once a part of `part` bytes is added.
    pub fn held_bytes(&self, part: usize) -> usize {
        (self.text.len().min(self.keep.saturating_add(4)) + part).max(self.text.capacity())
    }

    fn get(&self, (from, to): (u64, u64)) -> Option<&str> {
        self.text.get(usize::try_from(from.checked_sub(self.base)?).ok()?..usize::try_from(to - self.base).ok()?)
    }
}

/// One pattern over one text that streams by.
pub struct Extraction {
    threads: Threads,
    window: u64,
    /// The match whose value was taken last.
    taken: Option<Found>,
    value: Extracted,
}

impl Extraction {
    /// Before the first character.
    pub fn new(pattern: &Arc<Compiled>, window: u64) -> Self {
        Self { threads: Threads::new(pattern.clone(), false), window, taken: None, value: Extracted::Nothing }
    }

    /// Whether nothing that may still come changes the answer.
    pub const fn is_done(&self) -> bool {
        self.threads.is_done()
    }

    /// Bytes of the value that it holds.
    pub fn value_bytes(&self) -> usize {
        match &self.value {
            Extracted::Value(value) => value.len(),
            _ => 0,
        }
    }

    /// Takes in the next part of the text, which was added to the window before.
    pub fn feed(&mut self, part: &str, window: &Window) {
        if !self.threads.is_done() {
            self.threads.feed(part);
            self.take(window);
        }
    }

    /// Ends the text.
    pub fn finish(mut self, window: &Window) -> Extracted {
        if !self.threads.is_done() {
            self.threads.finish();
            self.take(window);
        }
        self.value
    }

    /// Copies the value of a match before its text is gone. A thread of higher priority may still replace it.
    fn take(&mut self, window: &Window) {
        let found = self.threads.found();
        if found == self.taken {
            return;
        }
        self.taken = found;
        let Some(found) = found else { return };
        let length = found.whole.1 - found.whole.0;
        self.value = match window.get(found.group.unwrap_or(found.whole)) {
            Some(text) if length <= self.window => Extracted::Value(text.into()),
            _ => Extracted::TooLong(length),
        };
    }
}
