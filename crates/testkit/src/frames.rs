//! HTTP/2 by hand, for what a well-behaved server never sends (RFC 9113).

use std::time::Duration;

use bytes::Bytes;

use crate::command::Command;
use crate::malformed;
use crate::reply::{Reply, Step};
use crate::request::Asked;

/// Frame types of RFC 9113, section 6.
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(9 + payload.len());
    out.extend(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// A field as a literal that is not indexed (RFC 7541, 6.2.2), its strings shorter than 127 bytes.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0x00, name.len() as u8];
    out.extend(name.as_bytes());
    out.push(value.len() as u8);
    out.extend(value.as_bytes());
    out
}

/// `:status: 200` by its place in the static table, and a content type.
fn head() -> Vec<u8> {
    [vec![0x88], field("content-type", "text/plain")].concat()
}

fn goaway_frame(last: u32, code: u64) -> Vec<u8> {
    let payload = [last.to_be_bytes(), (code as u32).to_be_bytes()].concat();
    frame(kind::GOAWAY, 0, 0, &payload)
}

/// Sends frames, then waits: what follows is for the client to decide.
fn wire(status: u16, frames: impl IntoIterator<Item = Vec<u8>>) -> Reply {
    let bytes: Vec<u8> = frames.into_iter().flatten().collect();
    Reply::Wire(status, vec![Step::send(bytes), Step::Hang])
}

fn stream(asked: &Asked<'_>) -> u32 {
    asked.request.stream.unwrap_or(1)
}

pub(crate) fn garbage(_: &Command) -> Vec<Step> {
    vec![Step::send(malformed::garbage(4096)), Step::Close]
}

pub(crate) fn goaway_first(command: &Command) -> Vec<Step> {
    let bytes = [frame(kind::SETTINGS, 0, 0, &[]), goaway_frame(0, command.number("code", 0))].concat();
    vec![Step::send(bytes), Step::Close]
}

pub(crate) fn settings(command: &Command) -> Vec<Step> {
    let setting = |id: u16, value: u32| [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat();
    let bytes = match command.text("kind", "window") {
        "frame-size" => frame(kind::SETTINGS, 0, 0, &setting(5, 100)),
        "length" => frame(kind::SETTINGS, 0, 0, &[0; 5]),
        "stream" => frame(kind::SETTINGS, 0, 1, &setting(3, 100)),
        "push" => frame(kind::SETTINGS, 0, 0, &setting(2, 7)),
        _ => frame(kind::SETTINGS, 0, 0, &setting(4, 0x8000_0000)),
    };
    vec![Step::send(bytes), Step::Hang]
}

pub(crate) fn half_headers(stream: u32) -> Bytes {
    let mut bytes = frame(kind::HEADERS, END_HEADERS, stream, &head());
    bytes.truncate(bytes.len() - 5);
    bytes.into()
}

pub(crate) fn reset(asked: &Asked<'_>) -> Reply {
    let code = asked.command.number("code", 2) as u32;
    wire(0, [frame(kind::RST_STREAM, 0, stream(asked), &code.to_be_bytes())])
}

pub(crate) fn reset_body(asked: &Asked<'_>) -> Reply {
    let (code, id) = (asked.command.number("code", 2) as u32, stream(asked));
    let begun = [frame(kind::HEADERS, END_HEADERS, id, &head()), frame(kind::DATA, 0, id, &[b'x'; 1000])].concat();
    let reset = frame(kind::RST_STREAM, 0, id, &code.to_be_bytes());
    Reply::Wire(200, vec![Step::send(begun), Step::Wait(Duration::from_millis(20)), Step::send(reset), Step::Hang])
}

pub(crate) fn goaway(asked: &Asked<'_>) -> Reply {
    let bytes = goaway_frame(0, asked.command.number("code", 0));
    Reply::Wire(0, vec![Step::send(bytes), Step::Close])
}

pub(crate) fn goaway_body(asked: &Asked<'_>) -> Reply {
    let id = stream(asked);
    let begun = [frame(kind::HEADERS, END_HEADERS, id, &head()), frame(kind::DATA, 0, id, &[b'x'; 1000])].concat();
    let goaway = goaway_frame(0, asked.command.number("code", 2));
    Reply::Wire(200, vec![Step::send(begun), Step::Wait(Duration::from_millis(20)), Step::send(goaway), Step::Close])
}

pub(crate) fn broken(asked: &Asked<'_>) -> Reply {
    let id = stream(asked);
    let begun = frame(kind::HEADERS, END_HEADERS, id, &head());
    match asked.command.text("kind", "data-on-zero") {
        "headers-on-zero" => wire(0, [frame(kind::HEADERS, END_HEADERS, 0, &head())]),
        // Clients that announce no larger size accept 16,384 bytes; some announce up to 16 MiB less one.
        "oversize" => {
            let mut frame = frame(kind::DATA, 0, id, &vec![b'x'; 0xff_ffff]);
            // Its head alone tells; the rest would only take time.
            frame.truncate(64 * 1024);
            wire(200, [begun, frame])
        }
        "padding" => wire(200, [begun, frame(kind::DATA, PADDED, id, &[200, 1, 2, 3])]),
        "continuation" => {
            wire(0, [frame(kind::HEADERS, 0, id, &head()), frame(kind::DATA, END_STREAM, id, b"not a continuation")])
        }
        "short" => wire(0, [frame(kind::RST_STREAM, 0, id, &[1, 2])]),
        "push" => wire(0, [frame(kind::PUSH_PROMISE, END_HEADERS, id, &[&2_u32.to_be_bytes()[..], &head()].concat())]),
        "unknown-stream" => wire(0, [frame(kind::DATA, END_STREAM, id + 100, b"of nobody")]),
        _ => wire(0, [frame(kind::DATA, END_STREAM, 0, b"on stream 0")]),
    }
}

pub(crate) fn flow(asked: &Asked<'_>) -> Reply {
    let id = stream(asked);
    let begun = frame(kind::HEADERS, END_HEADERS, id, &head());
    match asked.command.text("kind", "overflow") {
        "zero" => wire(0, [frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4])]),
        // Whatever the client's window is, this does not heed it. One that reads as fast as this writes may not notice.
        "data" => {
            let bytes = Bytes::from(frame(kind::DATA, 0, id, &[b'x'; 16_384]).repeat(16));
            Reply::Wire(200, vec![Step::send(begun), Step::Endless { bytes, every: Duration::ZERO }])
        }
        _ => wire(0, [frame(kind::WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes())]),
    }
}

pub(crate) fn headers(asked: &Asked<'_>) -> Reply {
    let block = match asked.command.text("kind", "no-status") {
        "upper" => [vec![0x88], field("X-Upper", "value")].concat(),
        "connection" => [vec![0x88], field("connection", "close")].concat(),
        "pseudo-late" => [field("x-first", "value"), vec![0x88]].concat(),
        // An index into the table that nothing stands at.
        "hpack" => vec![0xff, 0xff, 0xff, 0x7f],
        _ => field("content-type", "text/plain"),
    };
    wire(0, [frame(kind::HEADERS, END_HEADERS | END_STREAM, stream(asked), &block)])
}

pub(crate) fn flood(asked: &Asked<'_>) -> Reply {
    let id = stream(asked);
    let (first, again) = match asked.command.text("kind", "ping") {
        "settings" => (Vec::new(), frame(kind::SETTINGS, 0, 0, &[])),
        "empty" => (frame(kind::HEADERS, END_HEADERS, id, &head()), frame(kind::DATA, 0, id, &[])),
        _ => (Vec::new(), frame(kind::PING, 0, 0, &[7; 8])),
    };
    let bytes = Bytes::from(again.repeat(200));
    Reply::Wire(200, vec![Step::send(first), Step::Endless { bytes, every: Duration::from_millis(1) }])
}

pub(crate) fn endless_headers(stream: u32) -> Reply {
    let more: Vec<u8> = (0..100).flat_map(|number| field(&format!("x-header-{number}"), "value")).collect();
    let first = frame(kind::HEADERS, 0, stream, &head());
    let bytes = Bytes::from(frame(kind::CONTINUATION, 0, stream, &more));
    Reply::Wire(200, vec![Step::send(first), Step::Endless { bytes, every: Duration::ZERO }])
}

pub(crate) fn endless_interim(stream: u32) -> Reply {
    let block = [field(":status", "103"), field("link", "</style.css>; rel=preload")].concat();
    let bytes = Bytes::from(frame(kind::HEADERS, END_HEADERS, stream, &block).repeat(50));
    Reply::Wire(103, vec![Step::Endless { bytes, every: Duration::ZERO }])
}
