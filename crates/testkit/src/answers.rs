//! Answers that HTTP/1.1 and HTTP/2 alike can carry: good pages, and faults of content.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use crate::coding;
use crate::command::Command;
use crate::fault::{Fault, Make};
use crate::frames;
use crate::malformed;
use crate::reply::{Answer, Body, Framing, Reply, Step};
use crate::request::Asked;

const HTML: &str = "text/html; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// A page with this many elements in its body, and this text at its end; padded with a comment to `size` bytes.
pub fn html(title: &str, text: &str, tags: u64, size: Option<u64>) -> String {
    let mut page = format!("<!DOCTYPE html>\n<html><head><title>{title}</title></head><body>\n");
    let tail = format!("<p>{text}</p></body></html>\n");
    for tag in 0..tags {
        match tag % 4 {
            0 => page.push_str("<p>Lorem ipsum dolor sit amet.</p>\n"),
            1 => page.push_str("<a href=\"/page\">a link</a>\n"),
            2 => page.push_str("<img src=\"/bytes?size=10\" alt=\"\">\n"),
            _ => page.push_str("<div class=\"box\"></div>\n"),
        }
    }
    let comment = "<!---->\n".len();
    if let Some(missing) =
        size.and_then(|size| usize::try_from(size).ok()?.checked_sub(page.len() + tail.len() + comment))
    {
        page.push_str("<!--");
        page.extend(std::iter::repeat_n('x', missing));
        page.push_str("-->\n");
    }
    page + &tail
}

fn document(command: &Command, tags: u64) -> String {
    let size = command.get("size").and_then(|size| size.parse().ok());
    html(command.text("title", "A page"), command.text("text", "All is well."), command.number("tags", tags), size)
}

pub(crate) fn page(asked: &Asked<'_>) -> Reply {
    let body = document(asked.command, 20);
    encoded(asked.command, Answer::new(200, HTML, body)).into()
}

/// Encodes by the parameter `encoding`, and claims what `claim` says instead where it is given.
fn encoded(command: &Command, mut answer: Answer) -> Answer {
    let codings: Vec<&str> =
        command.text("encoding", "").split(',').map(str::trim).filter(|coding| !coding.is_empty()).collect();
    if let Body::Bytes(body) = &answer.body
        && let Ok(body) = coding::encode(&codings, body)
    {
        answer.body = Body::Bytes(body.into());
    }
    let names: Vec<&str> = codings.iter().map(|coding| coding::header_name(coding)).collect();
    let claim = command.get("claim").map_or_else(|| names.join(", "), str::to_owned);
    if claim.is_empty() { answer } else { answer.header("content-encoding", claim) }
}

pub(crate) fn bytes(asked: &Asked<'_>) -> Reply {
    let size = asked.command.number("size", 10_000) as usize;
    let fill = asked.command.text("fill", "x").as_bytes();
    let body: Vec<u8> = fill.iter().copied().cycle().take(size).collect();
    encoded(asked.command, Answer::new(200, "application/octet-stream", body)).into()
}

pub(crate) fn json(asked: &Asked<'_>) -> Reply {
    let body = asked.command.text("body", r#"{"status":"ok","items":[1,2,3],"load":0.5}"#);
    encoded(asked.command, Answer::new(200, "application/json", body.to_owned())).into()
}

pub(crate) fn echo(asked: &Asked<'_>) -> Reply {
    let request = asked.request;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers: Vec<[String; 2]> = request.headers.iter().map(|(name, value)| [name.clone(), text(value)]).collect();
    let body = json!({
        "method": request.method, "target": request.target, "version": request.version, "host": request.host,
        "headers": headers, "body": text(&request.body), "body_bytes": request.body.len(), "sni": request.sni,
        "peer": request.peer, "connection": request.connection, "number": request.number, "secure": request.secure,
    });
    Answer::new(200, "application/json", body.to_string()).into()
}

pub(crate) fn delay(asked: &Asked<'_>) -> Reply {
    let mut answer = encoded(asked.command, Answer::new(200, HTML, document(asked.command, 20)));
    answer.delay = asked.command.ms("ms", 100.0);
    answer.into()
}

pub(crate) fn interim(asked: &Asked<'_>) -> Reply {
    let mut answer = Answer::new(200, HTML, document(asked.command, 20));
    answer.interim = vec![103; asked.command.number("count", 3) as usize];
    answer.into()
}

pub(crate) fn trailers(asked: &Asked<'_>) -> Reply {
    let mut answer = Answer::new(200, HTML, document(asked.command, 20));
    answer.framing = Framing::Chunked(1000);
    answer.trailers = vec![("x-checksum".into(), "1234".into()), ("x-took".into(), "5".into())];
    answer.into()
}

pub(crate) fn empty(asked: &Asked<'_>) -> Reply {
    encoded(asked.command, Answer::new(204, "", Bytes::new())).into()
}

/// How often this site was asked for this before; sites are told apart by host and path.
fn turn(asked: &Asked<'_>) -> u64 {
    asked.state.turn(&format!("{} {}", asked.request.host, asked.request.target))
}

pub(crate) fn changing(asked: &Asked<'_>) -> Reply {
    let command = asked.command;
    let turn = turn(asked) + 1;
    let usual = command.number("tags", 20);
    let changed = turn.is_multiple_of(command.number("every", 10).max(1));
    let tags = if changed { usual + command.number("more", 200) } else { usual };
    let text = format!("Version {turn}.");
    Answer::new(200, HTML, html("A page that changes", &text, tags, None)).into()
}

pub(crate) fn redirect(asked: &Asked<'_>) -> Reply {
    let command = asked.command;
    Answer::new(302, PLAIN, "elsewhere").header("location", command.text("location", "/page")).into()
}

pub(crate) fn redirect_chain(asked: &Asked<'_>) -> Reply {
    let command = asked.command;
    let left = command.number("n", 3);
    if left == 0 {
        return Answer::new(200, HTML, document(&Command::default(), 20)).into();
    }
    // Not `status`, which would hold for the page at the end, too.
    let code = command.number("code", 302) as u16;
    let next = format!("/redirect-chain?n={}&code={code}", left - 1);
    Answer::new(code, PLAIN, "elsewhere")
        .header("location", next)
        .header("set-cookie", format!("hop-{left}=yes; Path=/"))
        .into()
}

pub(crate) fn redirect_utf8(_: &Asked<'_>) -> Reply {
    Answer::new(302, PLAIN, "elsewhere").header("location", "/page/größe-日本").into()
}

pub(crate) fn redirect_cookie(asked: &Asked<'_>) -> Reply {
    let step = asked.command.get("step");
    let has = asked
        .request
        .headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("cookie"))
        .any(|(_, value)| String::from_utf8_lossy(value).split(';').any(|pair| pair.trim() == "session=open"));
    match (step, has) {
        (None, _) => Answer::new(302, PLAIN, "elsewhere")
            .header("set-cookie", "session=open; Path=/")
            .header("location", "/redirect-cookie?step=2")
            .into(),
        (Some(_), true) => Answer::new(200, HTML, document(asked.command, 20)).into(),
        (Some(_), false) => Answer::new(403, PLAIN, "the cookie is missing").into(),
    }
}

pub(crate) fn redirect_loop(asked: &Asked<'_>) -> Reply {
    Answer::new(302, PLAIN, "elsewhere").header("location", &asked.request.target).into()
}

pub(crate) fn redirect_invalid(asked: &Asked<'_>) -> Reply {
    let answer = Answer::new(302, PLAIN, "elsewhere");
    if asked.command.flag("none") {
        return answer.into();
    }
    answer.header("location", asked.command.text("location", "http://[bad")).into()
}

pub(crate) fn redirect_scheme(asked: &Asked<'_>) -> Reply {
    Answer::new(302, PLAIN, "elsewhere").header("location", asked.command.text("location", "ftp://localhost/")).into()
}

pub(crate) fn members(asked: &Asked<'_>) -> Reply {
    let page = document(asked.command, 20);
    let count = asked.command.number("count", 3).max(1) as usize;
    let mut body = Vec::new();
    for part in page.as_bytes().chunks(page.len().div_ceil(count)) {
        body.extend(coding::encode(&["gzip"], part).unwrap_or_default());
    }
    Answer::new(200, HTML, body).header("content-encoding", "gzip").into()
}

pub(crate) fn keep(asked: &Asked<'_>) -> Reply {
    let mut answer = Answer::new(200, HTML, document(asked.command, 20));
    if asked.request.number >= asked.command.number("requests", 2) {
        if asked.command.flag("announce") {
            answer = answer.header("connection", "close");
        }
        answer.close = true;
    }
    answer.into()
}

/// As a server whose patience with an idle connection ends just when the next request is on its way.
pub(crate) fn stale(asked: &Asked<'_>) -> Reply {
    if asked.request.number > asked.command.number("requests", 1) {
        return ending(asked, Step::ending(asked.command.text("end", "close")));
    }
    Answer::new(200, HTML, document(asked.command, 20)).into()
}

pub(crate) fn short_length(asked: &Asked<'_>) -> Reply {
    let page = document(asked.command, 20);
    let declared = (page.len() as u64).saturating_sub(asked.command.number("bytes", 10));
    Answer { declared: Some(declared), close: true, ..Answer::new(200, HTML, page) }.into()
}

pub(crate) fn long_length(asked: &Asked<'_>) -> Reply {
    let page = document(asked.command, 20);
    let declared = page.len() as u64 + asked.command.number("bytes", 1000);
    let cut = Some((page.len(), Step::Close));
    Answer { declared: Some(declared), cut, ..Answer::new(200, HTML, page) }.into()
}

pub(crate) fn status(asked: &Asked<'_>) -> Reply {
    let status = asked.command.number("status", 503) as u16;
    Answer::new(status, PLAIN, asked.command.text("text", "a status as asked for").to_owned()).into()
}

pub(crate) fn status_999(_: &Asked<'_>) -> Reply {
    Answer::new(999, PLAIN, "a status beyond the classes").into()
}

pub(crate) fn flap(asked: &Asked<'_>) -> Reply {
    let command = asked.command;
    let good = if command.get("up_ms").is_some() || command.get("down_ms").is_some() {
        let up = command.ms("up_ms", 1000.0);
        let round = (up + command.ms("down_ms", 1000.0)).max(Duration::from_micros(1));
        let at = asked.state.started.elapsed().as_nanos() % round.as_nanos();
        at < up.as_nanos()
    } else {
        let (up, down) = (command.number("up", 3), command.number("down", 2));
        turn(asked) % (up + down).max(1) < up
    };
    if good {
        return Answer::new(200, HTML, document(command, 20)).into();
    }
    let bad = Command::parse(command.text("bad", "status?status=503"));
    // A command may not call itself: that would have no end.
    match Fault::find(&bad.name) {
        Some(Fault { make: Make::Answer(make), name, .. }) if *name != "flap" => {
            make(&Asked { command: &bad, ..*asked })
        }
        _ => Answer::new(503, PLAIN, "down").into(),
    }
}

/// The connection ends, or hangs, where an answer should be.
pub(crate) fn ending(asked: &Asked<'_>, step: Step) -> Reply {
    Reply::Wire(0, vec![Step::Wait(asked.command.ms("after_ms", 0.0)), step])
}

/// Half of a head, then a step. A pause between lets the client see the first byte for itself.
pub(crate) fn in_headers(asked: &Asked<'_>, step: Step) -> Reply {
    let part = match asked.request.stream {
        None => Bytes::from_static(b"HTTP/1.1 200 OK\r\ncontent-type: text/ht"),
        Some(stream) => frames::half_headers(stream),
    };
    Reply::Wire(200, vec![Step::Send(part), Step::Wait(asked.command.ms("after_ms", 20.0)), step])
}

/// Part of a body, then a step.
pub(crate) fn in_body(asked: &Asked<'_>, step: Step) -> Reply {
    let after = asked.command.number("after", 1000) as usize;
    let mut answer = Answer::new(200, PLAIN, vec![b'x'; after * 2 + 1000]);
    answer.cut = Some((after, step));
    answer.into()
}

pub(crate) fn slow_body(asked: &Asked<'_>) -> Reply {
    let command = asked.command;
    let mut answer = Answer::new(200, PLAIN, vec![b'x'; command.number("size", 10_000) as usize]);
    answer.drip = Some((command.number("bytes", 1).max(1) as usize, command.ms("ms", 1000.0)));
    answer.into()
}

pub(crate) fn until_close(asked: &Asked<'_>) -> Reply {
    let page = document(asked.command, 20);
    let end = Step::ending(asked.command.text("end", "close"));
    let cut = Some((page.len(), end));
    Answer { framing: Framing::Close, close: true, cut, ..Answer::new(200, HTML, page) }.into()
}

pub(crate) fn until_cut(asked: &Asked<'_>) -> Reply {
    let page = document(asked.command, 20);
    let cut = Some((page.len(), Step::Cut));
    Answer { framing: Framing::Close, close: true, cut, ..Answer::new(200, HTML, page) }.into()
}

pub(crate) fn head_latin1(asked: &Asked<'_>) -> Reply {
    Answer::new(200, HTML, document(asked.command, 20)).header("x-name", b"caf\xe9 \xff").into()
}

pub(crate) fn endless_body(asked: &Asked<'_>) -> Reply {
    let mut answer = Answer::new(200, PLAIN, Bytes::new());
    answer.body = Body::Endless { chunk: vec![b'x'; 16 * 1024].into(), every: asked.command.ms("every_ms", 0.0) };
    answer.framing = Framing::Chunked(16 * 1024);
    answer.into()
}

pub(crate) fn endless_drip(asked: &Asked<'_>) -> Reply {
    let mut answer = Answer::new(200, PLAIN, Bytes::new());
    answer.body = Body::Endless { chunk: Bytes::from_static(b"x"), every: asked.command.ms("every_ms", 100.0) };
    answer.framing = Framing::Chunked(1);
    answer.into()
}

pub(crate) fn endless_headers(asked: &Asked<'_>) -> Reply {
    match asked.request.stream {
        None => malformed::endless_headers(),
        Some(stream) => frames::endless_headers(stream),
    }
}

pub(crate) fn endless_interim(asked: &Asked<'_>) -> Reply {
    match asked.request.stream {
        None => malformed::endless_interim(),
        Some(stream) => frames::endless_interim(stream),
    }
}

pub(crate) fn many_headers(asked: &Asked<'_>) -> Reply {
    let mut answer = Answer::new(200, HTML, document(asked.command, 20));
    for number in 0..asked.command.number("count", 10_000) {
        answer = answer.header(&format!("x-header-{number}"), "value");
    }
    answer.into()
}

pub(crate) fn bomb(asked: &Asked<'_>) -> Reply {
    let codings = asked.command.text("encoding", "gzip");
    let body = asked.state.bombs.get(codings, asked.command.number("size", 128 << 20)).unwrap_or_default();
    let names: Vec<&str> = codings.split(',').map(|coding| coding::header_name(coding.trim())).collect();
    Answer::new(200, PLAIN, body).header("content-encoding", names.join(", ")).into()
}

pub(crate) fn zstd_window(asked: &Asked<'_>) -> Reply {
    let log = asked.command.number("log", 27).clamp(10, 41) as u8;
    let body = coding::zstd_with_window(log, document(asked.command, 20).as_bytes());
    Answer::new(200, HTML, body).header("content-encoding", "zstd").into()
}

pub(crate) fn br_window(asked: &Asked<'_>) -> Reply {
    let body = coding::brotli_with_large_window(document(asked.command, 20).as_bytes()).unwrap_or_default();
    Answer::new(200, HTML, body).header("content-encoding", "br").into()
}

/// An encoded page, with its coding's name.
fn coded<'a>(asked: &Asked<'a>) -> (Vec<u8>, &'a str) {
    let coding = asked.command.text("encoding", "gzip");
    let body = coding::encode(&[coding], document(asked.command, 200).as_bytes()).unwrap_or_default();
    (body, coding::header_name(coding))
}

pub(crate) fn encoding_broken(asked: &Asked<'_>) -> Reply {
    let (mut body, name) = coded(asked);
    // All bits of a stretch in the middle: a single bit may by chance be decoded, and found only by a checksum.
    let middle = body.len() / 2;
    for byte in body.iter_mut().skip(middle).take(16) {
        *byte = !*byte;
    }
    Answer::new(200, HTML, body).header("content-encoding", name).into()
}

pub(crate) fn encoding_cut(asked: &Asked<'_>) -> Reply {
    let (mut body, name) = coded(asked);
    body.truncate(body.len() / 2);
    Answer::new(200, HTML, body).header("content-encoding", name).into()
}

pub(crate) fn encoding_unknown(asked: &Asked<'_>) -> Reply {
    let name = asked.command.text("name", "rot13");
    Answer::new(200, HTML, document(asked.command, 20)).header("content-encoding", name).into()
}

pub(crate) fn encoding_wrong(asked: &Asked<'_>) -> Reply {
    let name = asked.command.text("name", "gzip");
    Answer::new(200, HTML, document(asked.command, 20)).header("content-encoding", name).into()
}

pub(crate) fn encoding_junk(asked: &Asked<'_>) -> Reply {
    let (mut body, name) = coded(asked);
    body.extend(b"this is no further member");
    Answer::new(200, HTML, body).header("content-encoding", name).into()
}

pub(crate) fn charset(asked: &Asked<'_>) -> Reply {
    let command = asked.command;
    let charset = command.text("charset", "utf-16le");
    let by = command.text("by", "header");
    let text = command.text("text", "Größe: naïve café");
    let meta = if by == "meta" { format!("<meta charset=\"{charset}\">") } else { String::new() };
    let page =
        format!("<!DOCTYPE html>\n<html><head>{meta}<title>{text}</title></head><body><p>{text}</p></body></html>\n");
    let mut body = Vec::new();
    if by == "bom" {
        body.extend(in_charset(charset, "\u{feff}"));
    }
    body.extend(in_charset(charset, &page));
    let content_type = if by == "header" { format!("text/html; charset={charset}") } else { "text/html".to_owned() };
    encoded(command, Answer::new(200, &content_type, body)).into()
}

/// Text in a charset by its label on the web; one that is unknown is taken as UTF-8.
pub fn in_charset(charset: &str, text: &str) -> Vec<u8> {
    match charset.to_ascii_lowercase().as_str() {
        "utf-16le" | "utf-16" => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        "utf-16be" => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
        // What people write, though the web's list of labels knows it without the hyphen alone.
        "latin-1" => in_charset("latin1", text),
        label => match encoding_rs::Encoding::for_label(label.as_bytes()) {
            Some(encoding) => encoding.encode(text).0.into_owned(),
            None => text.as_bytes().to_vec(),
        },
    }
}
