//! Serves HTTP/1.1 by hand: a library would not let us break it.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};

use crate::connection::{Conversation, reply_to};
use crate::log::Seen;
use crate::reply::{Answer, Body, Framing, Reply, Step};
use crate::request::Request;
use crate::state::State;
use crate::wire::Wire;

/// Bytes of a request's head before the connection is given up.
const HEAD_BYTES: usize = 1 << 20;
/// Bytes of a request's body before the connection is given up.
pub(crate) const BODY_BYTES: usize = 64 << 20;
/// Headers of a request.
const HEADERS: usize = 256;

/// Answers requests until one ends the connection.
pub(crate) async fn serve(mut wire: Wire, conversation: Conversation, state: Arc<State>) -> io::Result<()> {
    let mut number = 0;
    loop {
        let Some(mut request) = read_head(&mut wire, &conversation).await? else {
            wire.close(true).await;
            return Ok(());
        };
        let arrived = Instant::now();
        number += 1;
        request.number = number;
        let entry = state.log.request(Seen {
            connection: conversation.number,
            port: conversation.port,
            version: request.version,
            method: request.method.clone(),
            target: request.target.clone(),
            path: request.path().to_owned(),
            host: request.host.clone(),
            sni: conversation.sni.clone(),
            ..Seen::default()
        });
        let last = request.version == "http/1.0" || says_close(&request);
        let had_body = read_body(&mut wire, &mut request).await?;
        let arrived = if had_body { Instant::now() } else { arrived };
        let (status, mut steps, close) = match reply_to(&request, &conversation, &state).await {
            Reply::Wire(status, steps) => (status, steps, false),
            Reply::Answer(answer) => {
                let close = answer.close || last;
                (answer.status, steps(*answer, &request, last), close)
            }
        };
        state.log.status(entry, status);
        // The delay is counted from the request's last byte, whatever was done since.
        while let Some(Step::Wait(time)) = steps.first() {
            state.clock.until(arrived + *time).await;
            steps.remove(0);
        }
        if matches!(steps.first(), Some(Step::Send(_) | Step::Drip { .. } | Step::Endless { .. })) {
            state.log.answered(entry);
        }
        match wire.play(steps, &state.clock).await? {
            None => return Ok(()),
            Some(back) if close => {
                back.close(true).await;
                return Ok(());
            }
            Some(back) => wire = back,
        }
    }
}

fn says_close(request: &Request) -> bool {
    request.header("connection").is_some_and(|value| {
        String::from_utf8_lossy(value).to_ascii_lowercase().split(',').any(|v| v.trim() == "close")
    })
}

/// Reads a head; nothing at a clean end.
async fn read_head(wire: &mut Wire, conversation: &Conversation) -> io::Result<Option<Request>> {
    loop {
        if let Some((request, length)) = parse(&wire.buffer, conversation)? {
            wire.buffer.advance(length);
            return Ok(Some(request));
        }
        if wire.buffer.len() > HEAD_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the request's head is too long"));
        }
        if wire.fill().await? == 0 {
            return Ok(None);
        }
    }
}

fn parse(buffer: &BytesMut, conversation: &Conversation) -> io::Result<Option<(Request, usize)>> {
    let invalid = |error: httparse::Error| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut headers = vec![httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = parsed.parse(buffer).map_err(invalid)? else {
        return Ok(None);
    };
    let headers: Vec<(String, Bytes)> =
        parsed.headers.iter().map(|header| (header.name.to_owned(), Bytes::copy_from_slice(header.value))).collect();
    let mut request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        target: parsed.path.unwrap_or_default().to_owned(),
        version: if parsed.version == Some(0) { "http/1.0" } else { "http/1.1" },
        headers,
        body: Bytes::new(),
        host: String::new(),
        stream: None,
        secure: conversation.secure,
        sni: conversation.sni.clone(),
        peer: conversation.peer.clone(),
        connection: conversation.number,
        number: 0,
    };
    request.host = String::from_utf8_lossy(request.header("host").unwrap_or_default()).into_owned();
    Ok(Some((request, length)))
}

/// Reads the body, if there is one.
async fn read_body(wire: &mut Wire, request: &mut Request) -> io::Result<bool> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim().to_ascii_lowercase();
    let chunked = request.header("transfer-encoding").map(text).is_some_and(|value| value.ends_with("chunked"));
    let length = request.header("content-length").map(text).and_then(|value| value.parse::<usize>().ok());
    if !chunked && length.unwrap_or_default() == 0 {
        return Ok(false);
    }
    if request.header("expect").map(text).is_some_and(|value| value == "100-continue") {
        wire.send(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    if !chunked {
        let length = length.unwrap_or_default();
        need(wire, length).await?;
        request.body = wire.buffer.split_to(length).freeze();
        return Ok(true);
    }
    let mut body = BytesMut::new();
    loop {
        let line = read_line(wire).await?;
        let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if size == 0 {
            while !read_line(wire).await?.is_empty() {}
            request.body = body.freeze();
            return Ok(true);
        }
        if body.len() + size > BODY_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the request's body is too long"));
        }
        need(wire, size + 2).await?;
        body.extend_from_slice(&wire.buffer.split_to(size));
        wire.buffer.advance(2);
    }
}

async fn need(wire: &mut Wire, length: usize) -> io::Result<()> {
    if length > BODY_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the request's body is too long"));
    }
    while wire.buffer.len() < length {
        if wire.fill().await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

async fn read_line(wire: &mut Wire) -> io::Result<String> {
    loop {
        if let Some(end) = wire.buffer.windows(2).position(|two| two == b"\r\n") {
            let line = wire.buffer.split_to(end);
            wire.buffer.advance(2);
            return Ok(String::from_utf8_lossy(&line).into_owned());
        }
        if wire.buffer.len() > HEAD_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line of the request is too long"));
        }
        if wire.fill().await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// What goes out for an answer. `last`: the client wants the connection to end.
fn steps(answer: Answer, request: &Request, last: bool) -> Vec<Step> {
    let bodiless = request.method == "HEAD" || matches!(answer.status, 100..=199 | 204 | 304);
    let mut head = Vec::new();
    let mut steps = vec![Step::Wait(answer.delay)];
    for status in &answer.interim {
        head.extend(format!("HTTP/1.1 {status} {}\r\n\r\n", reason(*status)).bytes());
    }
    let words = if answer.reason.is_empty() { reason(answer.status) } else { &answer.reason };
    head.extend(format!("HTTP/1.1 {} {words}\r\n", answer.status).bytes());
    for (name, value) in &answer.headers {
        head.extend(name.bytes());
        head.extend(b": ");
        head.extend(value);
        head.extend(b"\r\n");
    }
    if last && !answer.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("connection")) {
        head.extend(b"connection: close\r\n");
    }
    let (body, length) = match &answer.body {
        Body::Bytes(body) => (body.clone(), body.len() as u64),
        Body::Endless { .. } => (Bytes::new(), 0),
    };
    let no_length = matches!(answer.status, 100..=199 | 204 | 304);
    match answer.framing {
        Framing::Length if no_length => {}
        Framing::Length => {
            head.extend(format!("content-length: {}\r\n", answer.declared.unwrap_or(length)).bytes());
        }
        Framing::Chunked(_) => head.extend(b"transfer-encoding: chunked\r\n"),
        Framing::Close => {}
    }
    head.extend(b"\r\n");
    if bodiless {
        steps.push(Step::send(head));
        return steps;
    }
    if let Body::Endless { chunk, every } = answer.body {
        steps.push(Step::send(head));
        steps.push(Step::Wait(answer.body_delay));
        let bytes = chunked(&chunk, chunk.len().max(1));
        steps.push(Step::Endless { bytes: bytes.into(), every });
        return steps;
    }
    let (part, then) = match answer.cut {
        Some((at, step)) => (body.slice(..at.min(body.len())), Some(step)),
        None => (body, None),
    };
    let payload = match answer.framing {
        Framing::Chunked(size) => {
            let mut bytes = chunked(&part, size);
            if then.is_none() {
                bytes.extend(b"0\r\n");
                for (name, value) in &answer.trailers {
                    bytes.extend(format!("{name}: {value}\r\n").bytes());
                }
                bytes.extend(b"\r\n");
            }
            Bytes::from(bytes)
        }
        Framing::Length | Framing::Close => part,
    };
    if let Some((size, every)) = answer.drip {
        steps.extend([Step::send(head), Step::Wait(answer.body_delay), Step::Drip { bytes: payload, size, every }]);
    } else if answer.body_delay.is_zero() {
        head.extend(&payload);
        steps.push(Step::send(head));
    } else {
        steps.extend([Step::send(head), Step::Wait(answer.body_delay), Step::Send(payload)]);
    }
    if let Some(step) = then {
        // A RST takes away what the client has not read; it shall see the bytes before it.
        steps.push(Step::Wait(std::time::Duration::from_millis(if matches!(step, Step::Reset) { 20 } else { 0 })));
        steps.push(step);
    }
    steps
}

fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 64);
    for part in body.chunks(size.max(1)) {
        out.extend(format!("{:x}\r\n", part.len()).bytes());
        out.extend(part);
        out.extend(b"\r\n");
    }
    out
}

fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Unknown")
}
