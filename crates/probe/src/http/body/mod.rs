//! The one pass over a body: codings, character set, patterns, extractions, JSON, plugins and counters.
//!
//! An [`Inspector`] is compiled once for each check and shared; an [`Inspection`] is one pass. It is fed the
//! body's bytes as they come and works in bounded memory: it says what it holds, and asks before it holds more.
//!
//! A text of up to [`HELD_BYTES`] is held, and looked at whole when it has ended; that is the cheapest for
//! nearly all pages. A longer one streams through an automaton for each pattern from then on, over any length.
//! Only JSON is held beyond that, up to `limits.body_held`: there is no pattern that cannot be streamed.

pub mod charset;
pub mod coding;
mod extraction;
mod json;
mod matching;
mod pattern;
mod threads;

use crate::http::evidence::cut;
use crate::http::judge::quoted;
use crate::http::spec::{Expect, Limits, Pattern};
use charset::Charset;
use coding::{Chain, Progress, STEP_BYTES};
use extraction::{Extracted, Extraction, Window};
use matching::Matching;
use pattern::Compiled;
use sitemon_model::{Body, Cause, Code, Finding, Metrics};
use sitemon_plugin::{Page, Pass, Plugin};
use std::sync::Arc;
use threads::Threads;

/// Bytes of decoded text that are kept for evidence.
pub const START_BYTES: usize = 8 << 10;
/// Bytes of a text that is held to be looked at whole.
pub const HELD_BYTES: usize = 64 << 10;
/// Bytes of text that are reserved from the beginning, so that a usual page asks for nothing.
const AHEAD_BYTES: usize = 16 << 10;
/// Bytes of output after which others are let run: about a millisecond.
const PAUSE_BYTES: usize = 256 << 10;

/// How much slower than the others the slow automata are.
const SLOW_WEIGHT: usize = 16;

/// What is known of an answer before the first byte of its body.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// The address that answered, after redirects.
    pub url: &'a str,
    /// The header `content-type`.
    pub content_type: Option<&'a str>,
    /// All values of the header `content-encoding`, in order.
    pub content_encoding: &'a [&'a str],
    /// Whether there can be no body (HEAD, 204, 304): then codings are not looked at.
    pub bodyless: bool,
}

/// What an inspection asks of its caller after it was given something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// All that was fed is taken in; go on reading.
    More,
    /// Not all is taken in: reserve so many bytes more than before, then call [`Inspection::resume`].
    NeedsMemory(usize),
    /// Not all is taken in, and a good deal of work was done: let others run, then call [`Inspection::resume`].
    Pause,
    /// The body cannot be read further; stop reading. The fault is also among [`Seen::faults`].
    Fault(Cause),
}

/// How the body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It was received whole.
    Complete,
    /// The connection failed, or reading was stopped, before its end.
    Broken,
}

/// What an inspection saw.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Seen {
    /// The sizes.
    pub body: Body,
    /// The named values that were extracted, in the order of the configuration; none of a broken body.
    pub extracted: Vec<(Arc<str>, Box<str>)>,
    /// What the plugins counted, in the order of the configuration; nothing of a broken body.
    pub metrics: Vec<Metrics>,
    /// What stands out.
    pub findings: Vec<Finding>,
    /// The expectations on the body that failed, as far as enough was seen to tell.
    pub failed: Vec<Cause>,
    /// What kept the body from being read: `body.limit`, `body.decode`.
    pub faults: Vec<Cause>,
    /// The first kilobytes of the decoded text, for evidence; [`START_BYTES`] at most.
    pub start: String,
    /// Whether the body was received and decoded whole.
    pub complete: bool,
}

/// What is looked for in a body, compiled. Shared by all checks that are configured alike.
#[derive(Debug)]
pub struct Inspector {
    shared: Arc<Compilation>,
}

#[derive(Debug)]
struct Compilation {
    limits: Limits,
    /// Those of `matches`, `matches_any` and `absent`, each once.
    patterns: Vec<Arc<Compiled>>,
    /// Which of the patterns must match.
    matches: Vec<usize>,
    /// Of which at least one must match.
    matches_any: Vec<usize>,
    /// Of which none may match.
    absent: Vec<usize>,
    extract: Vec<(Arc<str>, Arc<Compiled>)>,
    json: Vec<json::Expected>,
    size_min: Option<u64>,
    size_max: Option<u64>,
    plugins: Vec<Arc<dyn Plugin>>,
}

/// One pass over one body.
pub struct Inspection {
    wire_bytes: u64,
    decoded_bytes: u64,
    chain: Chain,
    /// Where the codings' output is put; empty where there is none to undo.
    output: Vec<u8>,
    charset: Charset,
    readers: Readers,
    /// What was fed and not taken in yet.
    pending: Vec<u8>,
    pending_at: usize,
    /// Bytes that it takes.
    pending_bytes: usize,
    /// Bytes that the caller has reserved.
    granted: usize,
    ended: bool,
    /// Whether codings and character set were brought to their end.
    flushed: bool,
    fault: Option<Cause>,
}

/// Whoever reads the text.
struct Readers {
    shared: Arc<Compilation>,
    passes: Vec<Option<Box<dyn Pass>>>,
    text: Text,
    /// The first kilobytes, where the text is not held.
    start: Start,
    /// For JSON, where the text is longer than what is held anyway; `None` where it is not asked for.
    json: Option<Json>,
    text_bytes: u64,
}

/// The first kilobytes of a text that comes in pieces: [`START_BYTES`] at most.
#[derive(Default)]
struct Start {
    text: String,
    /// A piece did not fit whole: what comes after it is not next to what is here.
    full: bool,
}

impl Start {
    fn push(&mut self, piece: &str) {
        if !self.full {
            let fitting = cut(piece, START_BYTES - self.text.len());
            self.text.push_str(fitting);
            self.full = fitting.len() < piece.len();
        }
    }
}

/// How the patterns see the text.
enum Text {
    /// Nobody asks.
    Unread,
    /// From its beginning.
    Held(String),
    /// As it streams by.
    Streaming(Box<Streaming>),
}

/// What is held for JSON.
enum Json {
    Held(String),
    /// More than `limits.body_held`.
    TooLong,
    /// More values than may be held at once, or than a path may visit.
    TooMany,
}

struct Streaming {
    matching: Vec<Matching>,
    extraction: Vec<Extraction>,
    window: Window,
    /// Bytes that the automata take at most.
    machines_bytes: usize,
}

impl Inspector {
    /// Compiles what is expected of a body; the message says which pattern is too large.
    pub fn compile(expect: &Expect, limits: &Limits, plugins: &[Arc<dyn Plugin>]) -> Result<Self, String> {
        let body = &expect.body;
        let mut patterns: Vec<Arc<Compiled>> = Vec::new();
        let mut compile = |list: &[Pattern], key: &str| -> Result<Vec<usize>, String> {
            let mut indexes = Vec::new();
            for (position, pattern) in list.iter().enumerate() {
                let compiled =
                    pattern::compile(&pattern.0).map_err(|error| format!("body.{key}[{position}]: {error}"))?;
                let known = patterns.iter().position(|known| Arc::ptr_eq(known, &compiled));
                indexes.push(known.unwrap_or_else(|| {
                    patterns.push(compiled);
                    patterns.len() - 1
                }));
            }
            Ok(indexes)
        };
        let matches = compile(&body.matches, "matches")?;
        let matches_any = compile(&body.matches_any, "matches_any")?;
        let absent = compile(&body.absent, "absent")?;
        let mut extract = Vec::new();
        for (name, pattern) in &body.extract {
            let compiled = pattern::compile(&pattern.0).map_err(|error| format!("body.extract.{name}: {error}"))?;
            extract.push((name.clone(), compiled));
        }
        Ok(Self {
            shared: Arc::new(Compilation {
                limits: *limits,
                patterns,
                matches,
                matches_any,
                absent,
                extract,
                json: body.json.iter().map(json::Expected::compile).collect::<Result<_, _>>()?,
                size_min: body.size_min,
                size_max: body.size_max,
                plugins: plugins.to_vec(),
            }),
        })
    }

    /// Begins a pass.
    pub fn begin(&self, head: &Head<'_>) -> Inspection {
        let shared = &self.shared;
        let page = Page { url: head.url, content_type: head.content_type };
        let chain = if head.bodyless { Chain::default() } else { Chain::new(head.content_encoding) };
        let read = !shared.patterns.is_empty() || !shared.extract.is_empty();
        let mut inspection = Inspection {
            pending_bytes: 0,
            wire_bytes: 0,
            decoded_bytes: 0,
            chain,
            output: Vec::new(),
            charset: Charset::new(head.content_type),
            readers: Readers {
                passes: shared.plugins.iter().map(|plugin| plugin.begin(&page)).collect(),
                text: if read { Text::Held(String::new()) } else { Text::Unread },
                start: Start::default(),
                json: (!shared.json.is_empty()).then(|| Json::Held(String::new())),
                text_bytes: 0,
                shared: shared.clone(),
            },
            pending: Vec::new(),
            pending_at: 0,
            granted: 0,
            ended: false,
            flushed: false,
            fault: None,
        };
        inspection.granted = inspection.would_hold(AHEAD_BYTES);
        inspection
    }
}

impl Inspection {
    /// Bytes of memory that it holds now or is about to hold. The caller's reservation is at least as large:
    /// it is made when the inspection begins and grows by what [`Step::NeedsMemory`] asks.
    pub fn held_bytes(&self) -> usize {
        self.granted.max(self.would_hold(0))
    }

    /// Bytes that it would hold after so many more bytes of text.
    fn would_hold(&self, more: usize) -> usize {
        let output = if self.chain.is_identity() { 0 } else { STEP_BYTES };
        size_of::<Self>()
            + charset::SCAN_BYTES
            + self.pending_bytes
            + self.chain.held_bytes()
            + output
            + self.readers.would_hold(more)
    }

    /// Takes in the next bytes of the body as they came, without the framing of chunks.
    pub fn feed(&mut self, wire: &[u8]) -> Step {
        if let Some(fault) = &self.fault {
            return Step::Fault(fault.clone());
        }
        let limit = self.readers.shared.limits.body_wire;
        self.wire_bytes += wire.len() as u64;
        if self.wire_bytes > limit {
            return self.fail(Code::BodyLimit, format!("more than {limit} bytes on the wire (limits.body_wire)"));
        }
        if !self.pending.is_empty() {
            self.pending.extend_from_slice(wire);
            self.pending_bytes = self.pending.capacity();
            return self.resume();
        }
        let mut input = wire;
        let step = self.work(&mut input);
        if matches!(step, Step::NeedsMemory(_) | Step::Pause) && !input.is_empty() {
            self.pending = input.to_vec();
            self.pending_at = 0;
            self.pending_bytes = self.pending.capacity();
            // What is kept back is not asked for before it is kept, so that a usual page asks for nothing.
            return match (self.reserve(self.would_hold(0)), step) {
                (Some(Step::NeedsMemory(more)), Step::NeedsMemory(bytes)) => Step::NeedsMemory(bytes + more),
                (Some(more), _) => more,
                (None, step) => step,
            };
        }
        step
    }

    /// Goes on with what was fed, after [`Step::NeedsMemory`] or [`Step::Pause`].
    pub fn resume(&mut self) -> Step {
        if let Some(fault) = &self.fault {
            return Step::Fault(fault.clone());
        }
        let pending = std::mem::take(&mut self.pending);
        let mut input = &pending[self.pending_at..];
        let step = self.work(&mut input);
        if matches!(step, Step::NeedsMemory(_) | Step::Pause) && !input.is_empty() {
            self.pending_at = pending.len() - input.len();
            self.pending = pending;
        } else {
            self.pending_at = 0;
            self.pending_bytes = 0;
        }
        step
    }

    /// Says that the body was received whole, before [`Inspection::finish`]: what still has to be done may
    /// need memory or take a while, as a feed may. After [`Step::More`] nothing is left to do. A caller that
    /// goes straight to `finish` gets the same answer, but the memory is then taken without being asked for.
    pub fn end(&mut self) -> Step {
        self.ended = true;
        self.resume()
    }

    /// Ends the pass.
    pub fn finish(mut self, ending: Ending) -> Seen {
        if ending == Ending::Complete && !self.flushed {
            self.granted = usize::MAX;
            self.ended = true;
            while matches!(self.resume(), Step::Pause | Step::NeedsMemory(_)) {}
        }
        if !self.flushed {
            let Self { charset, readers, .. } = &mut self;
            charset.settle(&mut |text| readers.read(text));
        }
        let complete = ending == Ending::Complete && self.fault.is_none();
        let mut seen = Seen {
            body: Body { wire_bytes: self.wire_bytes, decoded_bytes: self.decoded_bytes },
            faults: self.fault.into_iter().collect(),
            complete,
            ..Seen::default()
        };
        self.readers.finish(complete, self.decoded_bytes, &mut seen);
        seen
    }

    /// Reserves what the next step may take; `Some`: the caller is to be asked first.
    fn reserve(&mut self, need: usize) -> Option<Step> {
        if need <= self.granted {
            return None;
        }
        // In pieces, so that a growing text does not ask for each step.
        let more = (need - self.granted).next_multiple_of(8 << 10);
        self.granted += more;
        Some(Step::NeedsMemory(more))
    }

    fn work(&mut self, input: &mut &[u8]) -> Step {
        let mut worked = 0;
        loop {
            if worked >= PAUSE_BYTES {
                return Step::Pause;
            }
            let expected = if self.chain.is_identity() { input.len().min(STEP_BYTES) } else { STEP_BYTES };
            // A byte in another charset may be three in UTF-8.
            let growth = match &self.charset {
                Charset::Utf8 { .. } => expected,
                Charset::Scanning(seen) => 3 * (expected + seen.len()),
                Charset::Other(_) => 3 * expected + 16,
            };
            if (expected > 0 || self.ended)
                && let Some(step) = self.reserve(self.would_hold(growth))
            {
                return step;
            }
            let Self { chain, output, charset, readers, .. } = self;
            if chain.is_identity() {
                if input.is_empty() {
                    break;
                }
                let (part, rest) = input.split_at(expected);
                *input = rest;
                self.decoded_bytes += part.len() as u64;
                charset.decode(part, false, &mut |text| readers.read(text));
                worked += part.len() * readers.weight();
            } else {
                output.resize(STEP_BYTES, 0);
                let before = input.len();
                match chain.step(input, output) {
                    Ok(Progress::Wrote(0)) => break,
                    Ok(Progress::Wrote(count)) => {
                        self.decoded_bytes += count as u64;
                        charset.decode(&output[..count], false, &mut |text| readers.read(text));
                        worked += count.max(before - input.len()) * readers.weight();
                    }
                    Ok(Progress::Grew) => continue,
                    Err(message) => return self.fail(Code::BodyDecode, message),
                }
            }
            let limit = self.readers.shared.limits.body_decoded;
            if self.decoded_bytes.max(self.chain.written()) > limit {
                let message = format!("more than {limit} bytes decoded (limits.body_decoded)");
                return self.fail(Code::BodyLimit, message);
            }
        }
        if self.ended && !self.flushed {
            return self.flush();
        }
        Step::More
    }

    /// Brings codings and character set to their end.
    fn flush(&mut self) -> Step {
        if let Err(message) = self.chain.finish() {
            return self.fail(Code::BodyDecode, message);
        }
        if let Some(json) = self.readers.json_size() {
            let affordable = self.readers.shared.json.iter().all(|expected| expected.is_affordable(json));
            if json.bytes > json::PARSED_BYTES_MAX || !affordable {
                self.readers.json = Some(Json::TooMany);
            } else if let Some(step) = self.reserve(self.would_hold(0) + json.bytes) {
                return step;
            }
        }
        self.flushed = true;
        let Self { charset, readers, .. } = self;
        charset.decode(&[], true, &mut |text| readers.read(text));
        Step::More
    }

    fn fail(&mut self, code: Code, message: String) -> Step {
        let cause = Cause::new(code, message);
        self.fault = Some(cause.clone());
        self.pending = Vec::new();
        self.pending_at = 0;
        Step::Fault(cause)
    }
}

impl Readers {
    /// Bytes that would be held after so many more bytes of text.
    fn would_hold(&self, more: usize) -> usize {
        let mut bytes = self.start.text.capacity().max((self.start.text.len() + more).min(START_BYTES));
        bytes += match &self.text {
            Text::Unread => 0,
            Text::Held(text) => {
                let length = text.len() + more;
                let held = grown(text.capacity(), length.min(HELD_BYTES + more));
                if length > HELD_BYTES { held + self.shared.streaming_bytes(length) } else { held }
            }
            Text::Streaming(streaming) => {
                let open = streaming.extraction.iter().filter(|extraction| !extraction.is_done()).count();
                let value = (self.shared.limits.match_window).min(self.text_bytes + more as u64) as usize;
                let values: usize = streaming.extraction.iter().map(Extraction::value_bytes).sum();
                streaming.machines_bytes + streaming.window.held_bytes(more) + values + open * value
            }
        };
        if let Some(Json::Held(text)) = &self.json {
            let limit = usize::try_from(self.shared.limits.body_held).unwrap_or(usize::MAX);
            bytes += grown(text.capacity(), (text.len() + more).min(limit));
        }
        bytes += self.passes.iter().flatten().map(|pass| pass.held_bytes()).sum::<usize>();
        bytes
    }

    /// How much work a byte is, compared with one that is only decoded and followed by fast automata.
    fn weight(&self) -> usize {
        match &self.text {
            Text::Streaming(streaming) => 1 + SLOW_WEIGHT * streaming.slow(),
            _ => 1,
        }
    }

    /// What reading the JSON takes beside its text.
    fn json_size(&self) -> Option<json::Size> {
        match &self.json {
            Some(Json::Held(text)) => Some(json::size_of_json(text)),
            _ => None,
        }
    }

    fn read(&mut self, text: &str) {
        self.text_bytes += text.len() as u64;
        for pass in self.passes.iter_mut().flatten() {
            pass.feed(text);
        }
        if let Some(Json::Held(held)) = &mut self.json {
            if (held.len() + text.len()) as u64 > self.shared.limits.body_held {
                self.json = Some(Json::TooLong);
            } else {
                held.push_str(text);
            }
        }
        if !matches!(self.text, Text::Held(_)) {
            self.start.push(text);
        }
        match &mut self.text {
            Text::Unread => {}
            Text::Held(held) if held.len() + text.len() <= HELD_BYTES => {
                if held.is_empty() {
                    held.reserve(AHEAD_BYTES.max(text.len()));
                }
                held.push_str(text);
            }
            Text::Held(held) => {
                let held = std::mem::take(held);
                self.start.push(&held);
                let mut streaming = Box::new(Streaming::new(&self.shared));
                streaming.feed(&held);
                drop(held);
                self.start.push(text);
                streaming.feed(text);
                self.text = Text::Streaming(streaming);
            }
            Text::Streaming(streaming) => streaming.feed(text),
        }
    }

    fn finish(self, complete: bool, decoded_bytes: u64, seen: &mut Seen) {
        let shared = &self.shared;
        let mut outcomes: Vec<Option<bool>> = Vec::with_capacity(shared.patterns.len());
        let mut extracted: Vec<Extracted> = Vec::new();
        let mut start = self.start.text;
        match self.text {
            Text::Unread => {}
            Text::Held(text) if complete => {
                outcomes.extend(shared.patterns.iter().map(|pattern| Some(pattern.regex().is_match(&text))));
                let window = shared.limits.match_window;
                extracted.extend(shared.extract.iter().map(|(_, pattern)| extraction::extract(pattern, &text, window)));
                start = text;
            }
            Text::Held(text) => {
                // The end of what came is not the end of the text: `$` does not hold there.
                for pattern in &shared.patterns {
                    let mut matching = Matching::new(pattern);
                    matching.feed(&text);
                    outcomes.push(matching.outcome());
                }
                start = text;
            }
            Text::Streaming(streaming) => {
                let Streaming { matching, extraction, window, .. } = *streaming;
                for mut matching in matching {
                    outcomes.push(if complete { Some(matching.finish()) } else { matching.outcome() });
                }
                if complete {
                    extracted.extend(extraction.into_iter().map(|extraction| extraction.finish(&window)));
                }
            }
        }
        shared.judge_patterns(&outcomes, &mut seen.failed);
        shared.judge_size(decoded_bytes, complete, &mut seen.failed);
        match &self.json {
            Some(Json::Held(text)) if complete => json::judge(text, &shared.json, &mut seen.failed),
            Some(Json::TooMany) => {
                seen.faults.push(Cause::new(Code::BodyLimit, "too many values to be read as JSON"));
            }
            Some(Json::TooLong) => {
                let message = format!(
                    "more than {} bytes, too many to be read as JSON (limits.body_held)",
                    shared.limits.body_held
                );
                seen.faults.push(Cause::new(Code::BodyLimit, message));
            }
            _ => {}
        }
        for ((name, _), value) in shared.extract.iter().zip(extracted) {
            match value {
                Extracted::Nothing => {}
                Extracted::Value(value) => seen.extracted.push((name.clone(), value)),
                Extracted::TooLong(bytes) => seen.findings.push(too_long(name, bytes, shared.limits.match_window)),
            }
        }
        if complete {
            for (plugin, pass) in shared.plugins.iter().zip(self.passes) {
                let Some(pass) = pass else { continue };
                let report = pass.finish(decoded_bytes);
                seen.metrics.push(Metrics { plugin: plugin.name().into(), values: report.values });
                seen.findings.extend(report.findings);
            }
        }
        start.truncate(start.floor_char_boundary(START_BYTES));
        seen.start = start;
    }
}

impl Compilation {
    /// Bytes that the automata and the window take once a text of this length streams.
    fn streaming_bytes(&self, length: usize) -> usize {
        let window = usize::try_from(self.limits.match_window).unwrap_or(usize::MAX).min(length);
        let windows = if self.extract.is_empty() { 0 } else { (self.extract.len() + 1) * window + length };
        self.machines_bytes() + windows
    }

    fn machines_bytes(&self) -> usize {
        self.patterns.iter().map(|pattern| Matching::held_bytes(pattern)).sum::<usize>()
            + self.extract.iter().map(|(_, pattern)| Threads::held_bytes(pattern)).sum::<usize>()
    }

    /// An outcome is `None` where it is not decided.
    fn judge_patterns(&self, outcomes: &[Option<bool>], failed: &mut Vec<Cause>) {
        let outcome = |index: usize| outcomes.get(index).copied().flatten();
        let name = |index: usize| quoted(self.patterns[index].text());
        for &index in &self.matches {
            if outcome(index) == Some(false) {
                failed.push(Cause::new(Code::BodyPatternMissing, format!("{} does not match", name(index))));
            }
        }
        if !self.matches_any.is_empty() && self.matches_any.iter().all(|index| outcome(*index) == Some(false)) {
            let mut names: Vec<String> = self.matches_any.iter().take(5).map(|index| name(*index)).collect();
            if self.matches_any.len() > names.len() {
                names.push(format!("{} more", self.matches_any.len() - names.len()));
            }
            failed.push(Cause::new(Code::BodyPatternMissing, format!("none matches of {}", names.join(", "))));
        }
        for &index in &self.absent {
            if outcome(index) == Some(true) {
                failed.push(Cause::new(Code::BodyPatternPresent, format!("{} matches", name(index))));
            }
        }
    }

    fn judge_size(&self, decoded_bytes: u64, complete: bool, failed: &mut Vec<Cause>) {
        if let Some(min) = self.size_min
            && complete
            && decoded_bytes < min
        {
            failed.push(Cause::new(Code::BodySize, format!("{decoded_bytes} bytes, expected at least {min}")));
        }
        if let Some(max) = self.size_max
            && decoded_bytes > max
        {
            let so_far = if complete { "" } else { " so far" };
            failed.push(Cause::new(Code::BodySize, format!("{decoded_bytes} bytes{so_far}, expected at most {max}")));
        }
    }
}

impl Streaming {
    fn new(shared: &Compilation) -> Self {
        Self {
            matching: shared.patterns.iter().map(Matching::new).collect(),
            extraction: shared
                .extract
                .iter()
                .map(|(_, pattern)| Extraction::new(pattern, shared.limits.match_window))
                .collect(),
            window: Window::new(if shared.extract.is_empty() { 0 } else { shared.limits.match_window }),
            machines_bytes: shared.machines_bytes(),
        }
    }

    /// How many of the automata are slow.
    fn slow(&self) -> usize {
        self.matching.iter().filter(|matching| matching.is_slow()).count()
            + self.extraction.iter().filter(|extraction| !extraction.is_done()).count()
    }

    fn feed(&mut self, text: &str) {
        for matching in &mut self.matching {
            matching.feed(text);
        }
        if self.extraction.iter().any(|extraction| !extraction.is_done()) {
            self.window.push(text);
            for extraction in &mut self.extraction {
                extraction.feed(text, &self.window);
            }
        }
    }
}

/// The capacity of a text that grows by doubling.
fn grown(capacity: usize, length: usize) -> usize {
    if length <= capacity { capacity } else { capacity + length.max(2 * capacity) }
}

fn too_long(name: &Arc<str>, bytes: u64, window: u64) -> Finding {
    Finding {
        plugin: "extract".into(),
        metric: name.clone(),
        value: Some(bytes as f64),
        mean: None,
        deviation: None,
        message: format!("the match is {bytes} bytes long, more than {window} (limits.match)").into(),
    }
}

#[cfg(test)]
mod tests;
