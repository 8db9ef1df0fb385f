//! What a fault answers: either a message that both HTTP/1.1 and HTTP/2 can carry, or bytes for the wire.

use std::time::Duration;

use bytes::Bytes;

use crate::command::Command;

/// One thing that a server does on a connection; a list of them is played in order.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Sends these bytes.
    Send(Bytes),
    /// Does nothing for exactly this long.
    Wait(Duration),
    /// Sends these bytes, `size` at a time, with this pause between.
    Drip { bytes: Bytes, size: usize, every: Duration },
    /// Sends these bytes again and again until the client goes.
    Endless { bytes: Bytes, every: Duration },
    /// Does nothing until the client goes.
    Hang,
    /// Says goodbye: `close_notify` where there is TLS, then FIN.
    Close,
    /// FIN without `close_notify`; without TLS the same as `Close`.
    Cut,
    /// RST.
    Reset,
}

impl Step {
    pub(crate) fn send(bytes: impl Into<Bytes>) -> Self {
        Self::Send(bytes.into())
    }

    /// How a fault ends a connection, by a parameter: `reset`, `close`, `cut` or `hang`.
    pub(crate) fn ending(name: &str) -> Self {
        match name {
            "reset" => Self::Reset,
            "cut" => Self::Cut,
            "hang" => Self::Hang,
            _ => Self::Close,
        }
    }
}

/// How the end of a body is told in HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// By its length.
    Length,
    /// In chunks of at most this size.
    Chunked(usize),
    /// By closing.
    Close,
}

/// A body.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Bytes(Bytes),
    Endless { chunk: Bytes, every: Duration },
}

/// A message.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) reason: String,
    pub(crate) headers: Vec<(String, Bytes)>,
    pub(crate) body: Body,
    pub(crate) framing: Framing,
    /// Length declared instead of the true one.
    pub(crate) declared: Option<u64>,
    /// From the request's last byte to the answer's first.
    pub(crate) delay: Duration,
    /// From the head's last byte to the body's first.
    pub(crate) body_delay: Duration,
    /// The body by so many bytes at a time, with a pause between.
    pub(crate) drip: Option<(usize, Duration)>,
    /// Interim answers sent before.
    pub(crate) interim: Vec<u16>,
    pub(crate) trailers: Vec<(String, String)>,
    /// After how many bytes of the body what happens instead of its end.
    pub(crate) cut: Option<(usize, Step)>,
    /// Whether the connection ends with this answer.
    pub(crate) close: bool,
}

/// What goes out.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Answer(Box<Answer>),
    /// Bytes on the wire as they are, and the status that they amount to (0: none).
    Wire(u16, Vec<Step>),
}

impl Answer {
    pub(crate) fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let headers = if content_type.is_empty() {
            Vec::new()
        } else {
            vec![("content-type".to_owned(), Bytes::copy_from_slice(content_type.as_bytes()))]
        };
        Self {
            status,
            reason: String::new(),
            headers,
            body: Body::Bytes(body.into()),
            framing: Framing::Length,
            declared: None,
            delay: Duration::ZERO,
            body_delay: Duration::ZERO,
            drip: None,
            interim: Vec::new(),
            trailers: Vec::new(),
            cut: None,
            close: false,
        }
    }

    pub(crate) fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), Bytes::copy_from_slice(value.as_ref())));
        self
    }

    /// Applies the parameters that every fault with a message understands; lib.rs lists them.
    pub(crate) fn adjust(mut self, command: &Command) -> Self {
        self.status = command.number("status", u64::from(self.status)) as u16;
        if let Some(reason) = command.get("reason") {
            reason.clone_into(&mut self.reason);
        }
        if let Some(value) = command.get("type") {
            self.headers.retain(|(name, _)| name != "content-type");
            self = self.header("content-type", value);
        }
        for header in command.all("header") {
            if let Some((name, value)) = header.split_once(':') {
                self = self.header(name.trim(), value.trim());
            }
        }
        for cookie in command.all("cookie") {
            self = self.header("set-cookie", cookie);
        }
        if command.get("delay_ms").is_some() {
            self.delay = command.ms("delay_ms", 0.0);
        }
        if command.get("body_delay_ms").is_some() {
            self.body_delay = command.ms("body_delay_ms", 0.0);
        }
        match command.text("framing", "") {
            "chunked" => self.framing = Framing::Chunked(command.number("chunk", 4096).max(1) as usize),
            "close" => self.framing = Framing::Close,
            "length" => self.framing = Framing::Length,
            _ => {}
        }
        if command.get("drip").is_some() {
            self.drip = Some((command.number("drip", 1).max(1) as usize, command.ms("every_ms", 1.0)));
        }
        for interim in command.all("interim") {
            self.interim.extend(interim.parse::<u16>().ok().filter(|status| (100..200).contains(status)));
        }
        for trailer in command.all("trailer") {
            if let Some((name, value)) = trailer.split_once(':') {
                self.trailers.push((name.trim().to_owned(), value.trim().to_owned()));
            }
        }
        if !self.trailers.is_empty() && self.framing == Framing::Length {
            self.framing = Framing::Chunked(4096);
        }
        self.close |= command.flag("close");
        self
    }
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self::Answer(Box::new(answer))
    }
}
