//! Answers that are not HTTP/1.1, byte by byte.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;

use crate::answers::html;
use crate::reply::{Reply, Step};
use crate::request::Asked;

/// Bytes that are no protocol's, the same each time.
pub(crate) fn garbage(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..length)
        .map(|at| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // The first byte is neither a letter, nor a TLS record, nor a frame of a length that anybody accepts.
            if at == 0 { 0xfe } else { (state >> 32) as u8 }
        })
        .collect()
}

fn page() -> String {
    html("A page", "All is well.", 20, None)
}

/// A head with these lines before a page, and its length unless `bare`.
fn with_lines(lines: &[u8], bare: bool) -> Reply {
    let page = page();
    let mut out = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n".to_vec();
    out.extend(lines);
    if !bare {
        out.extend(format!("content-length: {}\r\n", page.len()).as_bytes());
    }
    out.extend(b"\r\n");
    out.extend(page.as_bytes());
    Reply::Wire(200, vec![Step::send(out), Step::Close])
}

/// A chunked answer whose chunks are these bytes, and what comes then.
fn chunks(bytes: &[u8], then: Step) -> Reply {
    let mut out = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    out.extend(bytes);
    Reply::Wire(200, vec![Step::send(out), then])
}

fn endless(start: &'static str, again: &[u8]) -> Reply {
    // In larger pieces it reaches any bound soon.
    let bytes = Bytes::from(again.repeat((16 * 1024 / again.len()).max(1)));
    Reply::Wire(200, vec![Step::send(start), Step::Endless { bytes, every: Duration::ZERO }])
}

pub(crate) fn slow_headers(asked: &Asked<'_>) -> Reply {
    let page = page();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n", page.len());
    let every = asked.command.ms("ms", 1000.0);
    Reply::Wire(200, vec![Step::Drip { bytes: head.into(), size: 1, every }, Step::send(page)])
}

pub(crate) fn length_twice(_: &Asked<'_>) -> Reply {
    with_lines(b"content-length: 10\r\n", false)
}

pub(crate) fn length_bad(asked: &Asked<'_>) -> Reply {
    with_lines(format!("content-length: {}\r\n", asked.command.text("value", "-1")).as_bytes(), true)
}

pub(crate) fn length_huge(_: &Asked<'_>) -> Reply {
    with_lines(b"content-length: 99999999999999999999999\r\n", true)
}

pub(crate) fn length_and_chunked(_: &Asked<'_>) -> Reply {
    let page = page();
    let out = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n\
         {:x}\r\n{page}\r\n0\r\n\r\n",
        page.len()
    );
    Reply::Wire(200, vec![Step::send(out), Step::Close])
}

pub(crate) fn te_unknown(_: &Asked<'_>) -> Reply {
    with_lines(b"transfer-encoding: rot13\r\n", true)
}

pub(crate) fn chunk_size(_: &Asked<'_>) -> Reply {
    chunks(b"5\r\nhello\r\nxyz\r\nworld\r\n0\r\n\r\n", Step::Close)
}

pub(crate) fn chunk_huge(_: &Asked<'_>) -> Reply {
    chunks(b"5\r\nhello\r\nfffffffffffffffffffff\r\nworld", Step::Close)
}

pub(crate) fn chunk_large(_: &Asked<'_>) -> Reply {
    chunks(b"1000000000000000\r\nhello, and no more", Step::Close)
}

pub(crate) fn chunk_crlf(_: &Asked<'_>) -> Reply {
    chunks(b"5\r\nhello5\r\nworld\r\n0\r\n\r\n", Step::Close)
}

pub(crate) fn chunk_end(_: &Asked<'_>) -> Reply {
    chunks(b"5\r\nhello\r\n5\r\nworld\r\n", Step::Close)
}

pub(crate) fn chunk_extension(_: &Asked<'_>) -> Reply {
    endless("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;name=", b"x")
}

pub(crate) fn chunk_trailers(_: &Asked<'_>) -> Reply {
    endless("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", b"x-trailer: value\r\n")
}

pub(crate) fn head_fold(_: &Asked<'_>) -> Reply {
    with_lines(b"x-folded: one\r\n two\r\n", false)
}

pub(crate) fn head_name(asked: &Asked<'_>) -> Reply {
    with_lines(format!("{}: value\r\n", asked.command.text("name", "bad name")).as_bytes(), false)
}

pub(crate) fn head_colon(_: &Asked<'_>) -> Reply {
    with_lines(b"no colon here\r\n", false)
}

pub(crate) fn head_space(_: &Asked<'_>) -> Reply {
    with_lines(b"x-space : value\r\n", false)
}

pub(crate) fn head_nul(_: &Asked<'_>) -> Reply {
    with_lines(b"x-nul: one\0two\r\n", false)
}

pub(crate) fn head_lf(_: &Asked<'_>) -> Reply {
    let page = page();
    let out = format!("HTTP/1.1 200 OK\ncontent-type: text/html\ncontent-length: {}\n\n{page}", page.len());
    Reply::Wire(200, vec![Step::send(out), Step::Close])
}

/// A page under a status line of the fault's own.
fn under(line: &str, status: u16) -> Reply {
    let page = page();
    let out = format!("{line}\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n{page}", page.len());
    Reply::Wire(status, vec![Step::send(out), Step::Close])
}

pub(crate) fn status_line(asked: &Asked<'_>) -> Reply {
    under(asked.command.text("line", "HTTP/1.1 abc Bad"), 0)
}

pub(crate) fn http_09(_: &Asked<'_>) -> Reply {
    Reply::Wire(0, vec![Step::send(page()), Step::Close])
}

pub(crate) fn http_10(_: &Asked<'_>) -> Reply {
    under("HTTP/1.0 200 OK", 200)
}

pub(crate) fn http_3(_: &Asked<'_>) -> Reply {
    under("HTTP/3.0 200 OK", 200)
}

pub(crate) fn status_99(_: &Asked<'_>) -> Reply {
    under("HTTP/1.1 99 Short", 0)
}

pub(crate) fn switch(_: &Asked<'_>) -> Reply {
    let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    Reply::Wire(101, vec![Step::send(head), Step::Hang])
}

pub(crate) fn endless_headers() -> Reply {
    let mut lines = String::new();
    for number in 0..1000 {
        let _ = write!(lines, "x-header-{number}: value\r\n");
    }
    endless("HTTP/1.1 200 OK\r\n", lines.as_bytes())
}

pub(crate) fn endless_header(_: &Asked<'_>) -> Reply {
    endless("HTTP/1.1 200 OK\r\nx-endless: ", b"x")
}

pub(crate) fn endless_status(_: &Asked<'_>) -> Reply {
    endless("HTTP/1.1 200 ", b"x")
}

pub(crate) fn endless_interim() -> Reply {
    endless("", b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n")
}
