//! Answers as bytes on the wire, through the real client over the loopback: whatever comes, the check ends in an
//! observation that holds together, and in the same one however the bytes are cut.
//!
//! An input's first byte chooses how the site is asked and what is expected; the rest is what the server sends,
//! on one connection after the other where it is divided by [`NEXT`].

use crate::loopback::{Loopback, Ready, outline, told};
use crate::mutate::{below, pick};
use crate::{Kind, Target};
use serde_json::json;
use sitemon_store::sample::Sample;
use sitemon_testkit::coding;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use xxhash_rust::xxh3::xxh3_64;

pub(crate) const HTTP1: Kind = Kind {
    name: "http1",
    about: "Answers by HTTP/1.1: a letter that chooses the check, then the bytes of the server.",
    tokens: TOKENS,
    open: || Ok(Box::new(Answers::new(false)?)),
};

pub(crate) const HTTP2: Kind = Kind {
    name: "http2",
    about: "Answers by HTTP/2: a letter that chooses the check, then the frames of the server.",
    tokens: FRAMES,
    open: || Ok(Box::new(Answers::new(true)?)),
};

/// Between what is sent on one connection and on the next.
const NEXT: &[u8] = b"--next connection--";

const TOKENS: &[&[u8]] = &[
    NEXT,
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 404 Not Found\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nlocation: ",
    b"/again",
    b"//",
    b"http://[::ffff:127.0.0.1]/",
    b"https://a.example/",
    b"http://a\"b/",
    b"set-cookie: a=b; Path=/\r\n",
    b"; Domain=",
    b"; Max-Age=0",
    b"\r\ncontent-length: 5\r\n",
    b"\r\ntransfer-encoding: chunked\r\n",
    b"\r\ntransfer-encoding: gzip, chunked\r\n",
    b"\r\ncontent-encoding: gzip\r\n",
    b"\r\ncontent-encoding: br\r\n",
    b"\r\ncontent-encoding: zstd\r\n",
    b"\r\ncontent-encoding: deflate, gzip\r\n",
    b"\r\ncontent-type: text/html; charset=utf-16\r\n",
    b"\r\ncontent-type: text/html; charset=shift_jis\r\n",
    b"\r\ncontent-type: application/json\r\n",
    b"\r\nconnection: close\r\n",
    b"\r\n\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n ",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"ffffffffffffffff\r\n",
    b"7fffffffffffffff\r\n",
    b";a=b",
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03",
    b"\x28\xb5\x2f\xfd",
    b"\x78\x9c",
    b"<meta charset=\"euc-jp\">",
    b"<?xml version=\"1.0\" encoding=\"latin1\"?>",
    b"<script>",
    b"</script>",
    b"<!--",
    b"-->",
    b"<title>a</title>",
    b"<a href=\"//b/\">",
    b"<img srcset='",
    b"<![CDATA[",
    b"&amp;",
    b"{\"a\": [1, 2.0, null]}",
    b"[[[[[[[[[[",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xf0\x9f\x92\xa9",
    b"\xe2\x80",
    b"5 items",
];

/// Frames of HTTP/2, with their heads.
const FRAMES: &[&[u8]] = &[
    NEXT,
    b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    b"\x00\x00\x00\x04\x01\x00\x00\x00\x00",
    b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x7f\xff\xff\xff",
    b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x40\x00",
    b"\x00\x00\x01\x01\x04\x00\x00\x00\x01\x88",
    b"\x00\x00\x01\x01\x05\x00\x00\x00\x01\x88",
    b"\x00\x00\x01\x01\x00\x00\x00\x00\x01\x88",
    b"\x00\x00\x00\x09\x04\x00\x00\x00\x01",
    b"\x00\x00\x05\x00\x00\x00\x00\x00\x01hello",
    b"\x00\x00\x05\x00\x01\x00\x00\x00\x01hello",
    b"\x00\x00\x03\x00\x08\x00\x00\x00\x01\x02\x00\x00",
    b"\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x02",
    b"\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x07",
    b"\x00\x00\x08\x06\x00\x00\x00\x00\x00pingpong",
    b"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00",
    b"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0b",
    b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x7f\xff\xff\xff",
    b"\x00\x00\x04\x05\x04\x00\x00\x00\x01\x00\x00\x00\x02",
    b"\x00\x00\x05\x02\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00",
    b"\x5f\x1d\x03\x67zip",
    b"\x0f\x0d\x015",
    b"\x40\x08location\x06/again",
    b"\x88",
    b"\x8b",
    b"\x8d",
    b"\x3f\xe1\x1f",
    b"\x20",
];

struct Answers {
    http2: bool,
    loopback: Loopback,
    checks: Vec<Ready>,
}

impl Answers {
    fn new(http2: bool) -> anyhow::Result<Self> {
        let http = if http2 { "2" } else { "1.1" };
        let body = json!({
            "matches": ["(?i)hello|5 items|<title>"], "matches_any": [r"\bitems\b", "(?m)^a$", "é"],
            "absent": ["Fatal error", r"\p{Greek}{3}"], "extract": {"items": r"(\d+) items", "all": "(?s)<title>(.*)</title>"},
        });
        let values = json!([{"path": "$.a", "exists": true}, {"path": "$..b", "less": 5}, {"path": "$.a[?@ > 1]", "matches": "2"}]);
        let limits = json!({"body_wire": "16KiB", "body_decoded": "100KiB", "body_held": "8KiB", "match": "1KiB", "headers": "4KiB"});
        let checks = [
            json!({"request": {"http": http, "redirects": 3}, "expect": {"body": body, "headers": {"content-type": "html"}}}),
            json!({"request": {"http": http, "redirects": 1, "limits": limits}, "expect": {"status": ["100-999"], "body": {"json": values, "absent": ["never"], "size": {"max": 9000}}}}),
            json!({"request": {"http": http, "method": "HEAD"}, "expect": {"http_version": ["2"], "status": ["2xx"]}}),
            json!({"request": {"http": http, "method": "POST", "body": "hello", "redirects": 4,
                "headers": {"cookie": "own=1"}}, "expect": {"response_time": "1us"}}),
        ];
        let checks =
            checks.iter().map(|options| Ready::new("http://ADDRESS/page?a=b", options)).collect::<Result<_, _>>()?;
        Ok(Self { http2, loopback: Loopback::new()?, checks })
    }

    /// One check of these answers, sent in these pieces.
    fn check(&self, choice: u8, answers: &[Vec<&[u8]>]) -> Result<sitemon_model::Observation, String> {
        let ready = &self.checks[usize::from(choice) % self.checks.len()];
        let _entered = self.loopback.runtime.enter();
        let listener = self.loopback.listen()?;
        let port = listener.local_addr().map_err(|error| format!("no port: {error}"))?.port();
        let serve = async || {
            for number in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                let answer = answers.get(number).or(answers.last()).map_or(&[][..], |answer| answer);
                answer_on(stream, answer, self.http2).await;
            }
        };
        self.loopback.check(ready, port, None, serve)
    }
}

/// Reads a request, sends the pieces, each by itself, and waits until the client is done.
async fn answer_on(mut stream: TcpStream, pieces: &[&[u8]], http2: bool) {
    let _ = stream.set_nodelay(true);
    let mut asked = Vec::new();
    while !is_asked(&asked, http2) {
        match stream.read_buf(&mut asked).await {
            Ok(1..) => {}
            _ => return,
        }
    }
    for piece in pieces {
        if stream.write_all(piece).await.is_err() {
            return;
        }
        // The client reads what came before more comes.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }
    let _ = stream.shutdown().await;
    let mut rest = [0; 1024];
    while matches!(stream.read(&mut rest).await, Ok(1..)) {}
}

/// Whether the head of a request came.
fn is_asked(bytes: &[u8], http2: bool) -> bool {
    if !http2 {
        return bytes.windows(4).any(|window| window == b"\r\n\r\n");
    }
    let Some(mut frames) = bytes.get(24..) else { return false };
    while let Some((head, rest)) = frames.split_at_checked(9) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        if head[3] == 1 && rest.len() >= length {
            return true;
        }
        frames = rest.get(length..).unwrap_or_default();
    }
    false
}

impl Target for Answers {
    fn run(&mut self, input: &[u8]) -> Result<String, String> {
        let (choice, bytes) = input.split_first().unwrap_or((&0, &[]));
        let answers = divide(bytes);
        let whole: Vec<Vec<&[u8]>> = answers.iter().map(|answer| vec![*answer]).collect();
        let observation = self.check(*choice, &whole)?;
        // The cuts follow from the input, so that the same input is cut the same.
        let mut random = Sample::new(xxh3_64(input));
        let cut: Vec<Vec<&[u8]>> = answers.iter().map(|answer| pieces(answer, &mut random)).collect();
        let again = self.check(*choice, &cut)?;
        if told(&observation, self.http2) != told(&again, self.http2) {
            let sizes: Vec<Vec<usize>> = cut.iter().map(|cut| cut.iter().map(|piece| piece.len()).collect()).collect();
            return Err(format!(
                "differs by how it is cut:\nwhole: {}\ncut:   {}\n{sizes:?}",
                told(&observation, self.http2),
                told(&again, self.http2)
            ));
        }
        Ok(format!("{} {}", choice % 4, outline(&observation)))
    }

    fn make(&mut self, random: &mut Sample) -> Option<Vec<u8>> {
        let page = page(random);
        let names = ["gzip", "deflate", "deflate-raw", "br", "zstd"];
        let codings: Vec<&str> = (0..below(random, 3)).map(|_| pick(&names, random)).collect();
        let body = coding::encode(&codings, page.as_bytes()).ok()?;
        let choice = b'A' + below(random, 4) as u8;
        let codings: Vec<&str> = codings.iter().map(|name| name.trim_end_matches("-raw")).collect();
        let codings = codings.join(", ");
        Some(if self.http2 { made_http2(choice, &codings, &body) } else { made_http1(choice, &codings, &body, random) })
    }
}

/// The bytes of each connection.
fn divide(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some(at) = bytes.windows(NEXT.len()).position(|window| window == NEXT) {
        parts.push(&bytes[..at]);
        bytes = &bytes[at + NEXT.len()..];
    }
    parts.push(bytes);
    parts.truncate(8);
    parts
}

/// Cut into a few pieces; sometimes, where there is not much of it, into single bytes.
fn pieces<'b>(bytes: &'b [u8], random: &mut Sample) -> Vec<&'b [u8]> {
    if bytes.len() < 1500 && random.once_in(8) {
        return bytes.chunks(1).collect();
    }
    let mut cuts: Vec<usize> = (0..=random.below(6)).map(|_| below(random, bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.dedup();
    cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect()
}

fn made_http1(choice: u8, codings: &str, body: &[u8], random: &mut Sample) -> Vec<u8> {
    let mut input = vec![choice];
    if random.once_in(6) {
        let location = pick(&["/x", "x?y#z", "//ADDRESS/", "http://other.example/", "", "/\u{e4}"], random);
        let status = pick(&["301", "302", "303", "307", "308"], random);
        input.extend(format!("HTTP/1.1 {status} Elsewhere\r\nlocation: {location}\r\nset-cookie: a={status}; Path=/\r\ncontent-length: 0\r\n\r\n").bytes());
        input.extend(NEXT);
    }
    if random.once_in(8) {
        input.extend(b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n");
    }
    let types =
        ["text/html", "text/html; charset=utf-8", "application/json", "text/html;charset=windows-1252", "text/plain"];
    input.extend(format!("HTTP/1.1 200 OK\r\ncontent-type: {}\r\n", pick(&types, random)).bytes());
    if !codings.is_empty() {
        input.extend(format!("content-encoding: {codings}\r\n").bytes());
    }
    match random.below(3) {
        0 => {
            input.extend(format!("content-length: {}\r\n\r\n", body.len()).bytes());
            input.extend(body);
        }
        1 => {
            input.extend(b"transfer-encoding: chunked\r\n\r\n");
            for chunk in body.chunks(1 + below(random, body.len().max(1))) {
                input.extend(format!("{:x}\r\n", chunk.len()).bytes());
                input.extend(chunk);
                input.extend(b"\r\n");
            }
            input.extend(b"0\r\nx-trailer: a\r\n\r\n");
        }
        _ => {
            input.extend(b"\r\n");
            input.extend(body);
        }
    }
    input
}

fn made_http2(choice: u8, codings: &str, body: &[u8]) -> Vec<u8> {
    let frame = |kind: u8, flags: u8, stream: u8, content: &[u8]| {
        let mut bytes = (content.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags, 0, 0, 0, stream]);
        bytes.extend(content);
        bytes
    };
    // :status 200, and literal fields without indexing (RFC 7541, 6.2.2).
    let mut headers = vec![0x88];
    let mut field = |name: &str, value: &str| {
        headers.extend([0, name.len() as u8]);
        headers.extend(name.bytes());
        headers.push(value.len() as u8);
        headers.extend(value.bytes());
    };
    field("content-type", "text/html");
    if !codings.is_empty() {
        field("content-encoding", codings);
    }
    let mut input = vec![choice];
    input.extend(frame(4, 0, 0, &[]));
    input.extend(frame(1, 4, 1, &headers));
    let mut chunks = body.chunks(4000).peekable();
    while let Some(chunk) = chunks.next() {
        input.extend(frame(0, u8::from(chunks.peek().is_none()), 1, chunk));
    }
    if body.is_empty() {
        input.extend(frame(0, 1, 1, &[]));
    }
    input
}

/// A page of what pages are made of.
fn page(random: &mut Sample) -> String {
    const PARTS: &[&str] = &[
        "<!doctype html>",
        "<title>A shop</title>",
        "<p>5 items",
        "hello ",
        "<a href='/x'>",
        "<img src=//b/c>",
        "<script>if (a < b) {}</script>",
        "<form action=x>",
        "é ",
        "日本 ",
        "\u{1f4a9}",
        "<!-- a -- b -->",
        "<meta charset=utf-8>",
        "\n\n",
        "{\"a\": [2, 3], \"b\": 1}",
        "ααα",
        "<style>b{}</style>",
        "<textarea><p></textarea>",
        "<svg><![CDATA[x]]></svg>",
        "&nbsp;",
        "lorem ipsum dolor sit amet ",
    ];
    let count = if random.once_in(6) { 2000 } else { 40 };
    (0..below(random, count)).map(|_| pick(PARTS, random)).collect()
}
