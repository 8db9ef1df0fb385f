//! HTTP/1.1 as RFC 9112 defines it: heads, framing, chunks. Pure; strict where the RFC lets a client refuse.
//!
//! Where the RFC leaves a choice: a bare line feed ends a line of the head, but not one of chunked framing;
//! folded lines are joined by a space; a bare carriage return, a NUL, a space before the colon and a line
//! without a colon are refused; `Transfer-Encoding` goes before `Content-Length`, and is refused in HTTP/1.0;
//! equal repetitions of `Content-Length` are one.

use sitemon_model::HttpVersion;

/// Bytes of one line of chunked framing, its extensions included.
const CHUNK_LINE_BYTES_MAX: usize = 4096;

/// A breach of the protocol: what was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Names in lower case, values as they came, without the white space around them.
pub(crate) type Headers = Vec<(Box<str>, Box<[u8]>)>;

/// The head of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) version: HttpVersion,
    pub(crate) status: u16,
    pub(crate) reason: Box<str>,
    pub(crate) headers: Headers,
}

impl Head {
    /// All values of a header.
    pub(crate) fn values<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h [u8]> + 'h {
        self.headers.iter().filter(move |(known, _)| &**known == name).map(|(_, value)| &**value)
    }

    /// Whether one of the comma-separated words of a header is this one, in any case.
    pub(crate) fn has_word(&self, name: &str, word: &str) -> bool {
        self.values(name).flat_map(words).any(|known| known.eq_ignore_ascii_case(word.as_bytes()))
    }
}

/// The comma-separated words of a value, without those that are empty.
fn words(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|word| !word.is_empty())
}

/// Where the head ends: after its empty line. Looks from `from` on, which may be where an earlier look ended.
pub(crate) fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from.saturating_sub(3);
    while let Some(found) = bytes.get(at..)?.iter().position(|byte| *byte == b'\n') {
        at += found + 1;
        match bytes.get(at..)? {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
    None
}

/// Whether bytes can be the beginning of an answer, so that one who speaks something else is known at once.
pub(crate) fn may_begin(bytes: &[u8]) -> bool {
    const BEGIN: &[u8] = b"HTTP/1.";
    let length = bytes.len().min(BEGIN.len());
    bytes[..length] == BEGIN[..length]
}

/// Reads a whole head, its empty line included.
pub(crate) fn parse_head(block: &[u8]) -> Result<Head, Malformed> {
    let mut lines = block.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let (version, status, reason) = status_line(lines.next().unwrap_or_default())?;
    let mut headers: Headers = Vec::with_capacity(16);
    // The value of the last header while lines are folded onto it.
    let mut folded: Vec<u8> = Vec::new();
    let unfold = |headers: &mut Headers, folded: &mut Vec<u8>| {
        if let Some((_, value)) = headers.last_mut().filter(|_| !folded.is_empty()) {
            *value = std::mem::take(folded).into_boxed_slice();
        }
    };
    for line in lines {
        if line.is_empty() {
            break;
        }
        if line.iter().any(|byte| matches!(byte, b'\r' | 0)) {
            return Err(Malformed("a bare carriage return or NUL in the header"));
        }
        if matches!(line[0], b' ' | b'\t') {
            // RFC 9112, 5.2: a folded line is joined by a space; before the first field it is refused (2.2).
            let Some((_, value)) = headers.last() else {
                return Err(Malformed("white space before the first header"));
            };
            if folded.is_empty() {
                folded.extend_from_slice(value);
            }
            folded.push(b' ');
            folded.extend_from_slice(line.trim_ascii());
            continue;
        }
        unfold(&mut headers, &mut folded);
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return Err(Malformed("a header line without a colon"));
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return Err(Malformed("a header name that is no token"));
        }
        let name: Box<str> = name.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect::<String>().into();
        headers.push((name, value.trim_ascii().into()));
    }
    unfold(&mut headers, &mut folded);
    Ok(Head { version, status, reason, headers })
}

fn status_line(line: &[u8]) -> Result<(HttpVersion, u16, Box<str>), Malformed> {
    let Some(rest) = line.strip_prefix(b"HTTP/1.") else { return Err(Malformed("no HTTP/1.x status line")) };
    let [minor @ b'0'..=b'9', b' ', a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', reason @ ..] = rest else {
        return Err(Malformed("a status line without a status of three digits"));
    };
    let reason = match reason {
        [] => reason,
        [b' ', reason @ ..] => reason,
        _ => return Err(Malformed("a status line without a status of three digits")),
    };
    if reason.iter().any(|byte| matches!(byte, b'\r' | 0)) {
        return Err(Malformed("a bare carriage return or NUL in the status line"));
    }
    let version = if *minor == b'0' { HttpVersion::Http10 } else { HttpVersion::Http11 };
    let status = u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0');
    Ok((version, status, String::from_utf8_lossy(reason).into_owned().into()))
}

const fn is_token(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
        || byte.is_ascii_alphanumeric()
}

/// How a body ends (RFC 9112, 6.3).
#[derive(Debug)]
pub(crate) enum Framing {
    /// There is none.
    Empty,
    /// After so many bytes.
    Length(u64),
    /// After its last chunk.
    Chunked,
    /// With the connection.
    Close,
}

/// The framing of an answer's body, and the transfer codings under the chunks, in the order in which they were
/// applied.
pub(crate) fn framing(head: &Head, to_head: bool) -> Result<(Framing, Vec<Box<str>>), Malformed> {
    if to_head || head.status < 200 || matches!(head.status, 204 | 304) {
        return Ok((Framing::Empty, Vec::new()));
    }
    let mut codings: Vec<Box<str>> = Vec::new();
    let mut transfer = false;
    for word in head.values("transfer-encoding").flat_map(words) {
        transfer = true;
        let word = word.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        codings.push(String::from_utf8_lossy(word).to_ascii_lowercase().into());
    }
    if transfer {
        if head.version == HttpVersion::Http10 {
            return Err(Malformed("transfer-encoding in HTTP/1.0"));
        }
        codings.retain(|coding| &**coding != "identity");
        let chunked = codings.iter().filter(|coding| &***coding == "chunked").count();
        return match (chunked, codings.last().map(|last| &**last)) {
            (0, _) => Ok((Framing::Close, codings)),
            (1, Some("chunked")) => {
                codings.pop();
                Ok((Framing::Chunked, codings))
            }
            _ => Err(Malformed("transfer-encoding with chunked before its end")),
        };
    }
    let mut length = None;
    for value in head.values("content-length") {
        let mut any = false;
        for word in words(value) {
            any = true;
            let parsed = parse_length(word).ok_or(Malformed("a content-length that is no number"))?;
            if length.is_some_and(|known| known != parsed) {
                return Err(Malformed("several values of content-length that differ"));
            }
            length = Some(parsed);
        }
        if !any {
            return Err(Malformed("a content-length that is no number"));
        }
    }
    Ok((length.map_or(Framing::Close, Framing::Length), codings))
}

fn parse_length(word: &[u8]) -> Option<u64> {
    if !word.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// Takes chunks apart, in whatever pieces they come.
#[derive(Debug)]
pub(crate) struct Chunks {
    state: ChunkState,
    /// Bytes that trailers may still take.
    trailer_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChunkState {
    Size { value: u64, digits: u32 },
    Extension { value: u64, length: usize },
    SizeLf { value: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    TrailerStart,
    Trailer { colon: bool },
    TrailerLf,
    EndLf,
    End,
}

/// What the next bytes of a chunked body are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// So many bytes of content stand next.
    Data(usize),
    /// All was framing; more is needed.
    More,
    /// The body is over.
    End,
    /// The trailers are longer than the header may be.
    TrailersTooLong,
}

impl Chunks {
    pub(crate) fn new(trailer_bytes: u64) -> Self {
        Self { state: ChunkState::Size { value: 0, digits: 0 }, trailer_bytes }
    }

    /// Looks at bytes: how many of them were framing, and what follows. Content is to be consumed by the caller
    /// as it is told, before the next call.
    pub(crate) fn next(&mut self, bytes: &[u8]) -> Result<(usize, Piece), Malformed> {
        use ChunkState as S;
        let mut at = 0;
        while at < bytes.len() || matches!(self.state, S::End) {
            if let S::Data { left } = self.state {
                let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                let left = left - count as u64;
                self.state = if left == 0 { S::DataCr } else { S::Data { left } };
                return Ok((at, Piece::Data(count)));
            }
            if self.state == S::End {
                return Ok((at, Piece::End));
            }
            let byte = bytes[at];
            at += 1;
            self.state = match (self.state, byte) {
                (S::Size { value, digits }, _) if byte.is_ascii_hexdigit() => {
                    let digit = u64::from(char::from(byte).to_digit(16).unwrap_or(0));
                    let value = value
                        .checked_mul(16)
                        .and_then(|value| value.checked_add(digit))
                        .ok_or(Malformed("a chunk size beyond all bounds"))?;
                    S::Size { value, digits: digits + 1 }
                }
                (S::Size { digits: 0, .. }, _) => return Err(Malformed("a chunk without a size")),
                (S::Size { value, .. }, b';' | b' ' | b'\t') => S::Extension { value, length: 0 },
                (S::Size { value, .. } | S::Extension { value, .. }, b'\r') => S::SizeLf { value },
                (S::Size { .. }, _) => return Err(Malformed("a chunk size that is no hexadecimal number")),
                (S::Extension { value, length }, byte) => {
                    if byte == b'\n' || byte == 0 || length >= CHUNK_LINE_BYTES_MAX {
                        return Err(Malformed("a chunk extension that does not end in order"));
                    }
                    S::Extension { value, length: length + 1 }
                }
                (S::SizeLf { value: 0 } | S::TrailerLf, b'\n') => S::TrailerStart,
                (S::SizeLf { value }, b'\n') => S::Data { left: value },
                (S::DataCr, b'\r') => S::DataLf,
                (S::DataLf, b'\n') => S::Size { value: 0, digits: 0 },
                (S::DataCr | S::DataLf, _) => return Err(Malformed("a chunk longer than its size")),
                (S::TrailerStart, b'\r') => S::EndLf,
                (S::TrailerStart | S::Trailer { .. }, b'\n' | 0) => {
                    return Err(Malformed("a trailer that does not end in order"));
                }
                (S::TrailerStart, byte) => {
                    if !is_token(byte) {
                        return Err(Malformed("a trailer whose name is no token"));
                    }
                    S::Trailer { colon: false }
                }
                (S::Trailer { colon }, b'\r') => {
                    if !colon {
                        return Err(Malformed("a trailer without a colon"));
                    }
                    S::TrailerLf
                }
                (S::Trailer { colon }, byte) => S::Trailer { colon: colon || byte == b':' },
                (S::EndLf, b'\n') => S::End,
                (S::SizeLf { .. } | S::TrailerLf | S::EndLf, _) => {
                    return Err(Malformed("a bare carriage return in chunked framing"));
                }
                (S::Data { .. } | S::End, _) => return Err(Malformed("chunked framing out of order")),
            };
            if matches!(self.state, S::Trailer { .. } | S::TrailerLf) {
                match self.trailer_bytes.checked_sub(1) {
                    Some(left) => self.trailer_bytes = left,
                    None => return Ok((at, Piece::TrailersTooLong)),
                }
            }
        }
        Ok((at, Piece::More))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn head(text: &str) -> Result<Head, Malformed> {
        let bytes = text.as_bytes();
        let end = head_end(bytes, 0).expect("a whole head");
        // The end is found however the bytes come.
        for cut in 0..end {
            assert_eq!(head_end(&bytes[..cut], 0), None, "{cut}");
            assert_eq!(head_end(bytes, cut), Some(end), "{cut}");
        }
        parse_head(&bytes[..end])
    }

    #[test]
    fn heads() {
        let good = head("HTTP/1.1 200 OK\r\nServer: a\r\nX: b\r\n c\r\n\r\nbody").unwrap();
        assert_eq!((good.version, good.status, &*good.reason), (HttpVersion::Http11, 200, "OK"));
        assert_eq!(good.headers[0], ("server".into(), (*b"a").into()));
        assert_eq!(good.headers[1], ("x".into(), (*b"b c").into()));
        // Thousands of folds cost no more than their bytes.
        let many = head(&format!("HTTP/1.1 200 OK\r\na:\r\n{}b: c\r\n\r\n", " x\r\n".repeat(100))).unwrap();
        assert_eq!((&*many.headers[0].1, many.headers.len()), (" x".repeat(100).as_bytes(), 2));
        assert_eq!(head("HTTP/1.0 404\n\n").unwrap().version, HttpVersion::Http10);
        assert_eq!(head("HTTP/1.1 200 \r\n\r\n").unwrap().status, 200);
        for bad in [
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1  200 OK\r\n\r\n",
            "http/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\nname : x\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: x\ry\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: x\0y\r\n\r\n",
        ] {
            assert!(head(bad).is_err(), "{bad:?}");
        }
        assert!(may_begin(b"") && may_begin(b"HTT") && may_begin(b"HTTP/1.1 "));
        assert!(!may_begin(b"SSH-2.0") && !may_begin(b"HTTP/2"));
    }

    #[track_caller]
    fn framed(headers: &str, expected: &str) {
        let head = head(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n")).unwrap();
        assert_eq!(format!("{:?}", framing(&head, false)), expected, "{headers}");
    }

    #[test]
    fn framings() {
        framed("", "Ok((Close, []))");
        framed("content-length: 5\r\n", "Ok((Length(5), []))");
        framed("content-length: 5\r\ncontent-length: 5, 5\r\n", "Ok((Length(5), []))");
        framed("transfer-encoding: chunked\r\ncontent-length: 5\r\n", "Ok((Chunked, []))");
        framed("transfer-encoding: gzip\r\ntransfer-encoding: Chunked\r\n", "Ok((Chunked, [\"gzip\"]))");
        framed("transfer-encoding: gzip\r\n", "Ok((Close, [\"gzip\"]))");
        for bad in [
            "content-length: 5\r\ncontent-length: 6\r\n",
            "content-length: 5, 6\r\n",
            "content-length: -5\r\n",
            "content-length: \r\n",
            "content-length: 99999999999999999999\r\n",
            "transfer-encoding: chunked, gzip\r\n",
            "transfer-encoding: chunked, chunked\r\n",
        ] {
            let head = head(&format!("HTTP/1.1 200 OK\r\n{bad}\r\n")).unwrap();
            assert!(framing(&head, false).is_err(), "{bad}");
        }
        let no_content = head("HTTP/1.1 204 x\r\ncontent-length: 5\r\n\r\n").unwrap();
        assert!(matches!(framing(&no_content, false), Ok((Framing::Empty, _))));
        let old = head("HTTP/1.0 200 x\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        assert!(framing(&old, false).is_err());
        assert!(matches!(framing(&old, true), Ok((Framing::Empty, _))));
    }

    /// Unframes bytes that come in pieces of `size`; `None` where the end did not come.
    fn unframe(bytes: &[u8], size: usize) -> Result<Option<Vec<u8>>, Malformed> {
        let mut chunks = Chunks::new(64);
        let mut content = Vec::new();
        for piece in bytes.chunks(size) {
            let mut rest = piece;
            while !rest.is_empty() {
                let (framing, what) = chunks.next(rest)?;
                rest = &rest[framing..];
                match what {
                    Piece::Data(count) => {
                        content.extend_from_slice(&rest[..count]);
                        rest = &rest[count..];
                    }
                    Piece::More => {}
                    Piece::End => return Ok(Some(content)),
                    Piece::TrailersTooLong => return Err(Malformed("trailers too long")),
                }
            }
        }
        // The end may stand just behind the last byte.
        Ok(matches!(chunks.next(&[])?, (_, Piece::End)).then_some(content))
    }

    #[test]
    fn chunks_in_all_pieces() {
        let body = b"5\r\nhello\r\n6;a=b\r\n world\r\n0b ; x\r\n, and again\r\n0\r\nx-a: b\r\nx-c: d\r\n\r\n";
        for size in 1..=body.len() {
            assert_eq!(unframe(body, size), Ok(Some(b"hello world, and again".to_vec())), "{size}");
            for end in 0..body.len() {
                assert_eq!(unframe(&body[..end], size), Ok(None), "{size} {end}");
            }
        }
        for bad in [
            &b"x\r\n"[..],
            b"\r\n",
            b"5\nhello",
            b"5\r\nhelloo\r\n",
            b"ffffffffffffffff1\r\n",
            b"-1\r\n",
            b"0x5\r\n",
            b"0\r\n\n",
            b"0\r\nnocolon\r\n\r\n",
            b"5\r\rhello",
        ] {
            for size in 1..=bad.len() {
                assert!(unframe(bad, size).is_err(), "{bad:?} {size}");
            }
        }
        let long = format!("0\r\nx: {}\r\n\r\n", "y".repeat(100));
        assert_eq!(unframe(long.as_bytes(), 7), Err(Malformed("trailers too long")));
        let extension = format!("5;{}", "x".repeat(10_000));
        assert!(unframe(extension.as_bytes(), 100).is_err());
    }
}
