//! Turns a body into text: the charset of the header, else a byte order mark, else what the page's first 1,024
//! bytes say (`meta` as the HTML standard scans for it, or the XML declaration), else UTF-8.
//!
//! A broken byte becomes U+FFFD and never fails a check. Parts may be cut anywhere.

use encoding_rs::{Decoder, Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252, X_USER_DEFINED};

/// How far into a page its own word on its charset is looked for, as the HTML standard says.
pub const SCAN_BYTES: usize = 1024;

/// The state between two parts.
#[derive(Debug)]
pub enum Charset {
    /// The first bytes, until it is known how to read them.
    Scanning(Vec<u8>),
    /// UTF-8, which is handed on without being copied.
    Utf8 {
        /// The first bytes of a character whose others have not come yet.
        partial: [u8; 4],
        /// How many they are.
        partial_len: usize,
        /// Whether a byte order mark may still come.
        at_start: bool,
    },
    /// Any other.
    Other(Box<Decoder>),
}

impl Charset {
    /// By the header `content-type`.
    pub fn new(content_type: Option<&str>) -> Self {
        let label = content_type.and_then(parameter);
        match label.as_deref().and_then(|label| Encoding::for_label(label.as_bytes())) {
            // RFC 2781 section 3.3: under the plain name the byte order mark tells which of the two it is.
            Some(encoding) if encoding == UTF_16LE && label.is_some_and(|label| !label.contains("16le")) => {
                Self::Other(Box::new(UTF_16LE.new_decoder()))
            }
            Some(encoding) => Self::of(encoding),
            // RFC 8259 section 8.1: JSON is UTF-8, whatever its texts hold.
            None if content_type.is_some_and(is_json) => Self::of(UTF_8),
            None => Self::Scanning(Vec::new()),
        }
    }

    fn of(encoding: &'static Encoding) -> Self {
        if encoding == UTF_8 {
            Self::Utf8 { partial: [0; 4], partial_len: 0, at_start: true }
        } else {
            Self::Other(Box::new(encoding.new_decoder_with_bom_removal()))
        }
    }

    /// Hands on what was kept back to learn the charset, although the body may not have ended.
    pub fn settle(&mut self, sink: &mut impl FnMut(&str)) {
        if let Self::Scanning(seen) = self {
            let seen = std::mem::take(seen);
            *self = Self::of(scan(&seen));
            self.decode(&seen, false, sink);
        }
    }

    /// Hands on the text of the next bytes; `last`: no more will come.
    pub fn decode(&mut self, bytes: &[u8], last: bool, sink: &mut impl FnMut(&str)) {
        match self {
            Self::Scanning(seen) => {
                if seen.is_empty() && bytes.len() >= SCAN_BYTES {
                    *self = Self::of(scan(bytes));
                    return self.decode(bytes, last, sink);
                }
                seen.extend_from_slice(bytes);
                if seen.len() >= SCAN_BYTES || last {
                    let seen = std::mem::take(seen);
                    *self = Self::of(scan(&seen));
                    self.decode(&seen, last, sink);
                }
            }
            Self::Utf8 { partial, partial_len, at_start } => utf8(partial, partial_len, at_start, bytes, last, sink),
            Self::Other(decoder) => {
                let mut text = String::with_capacity(4 << 10);
                let mut rest = bytes;
                loop {
                    let (result, read, _) = decoder.decode_to_string(rest, &mut text, last);
                    rest = &rest[read..];
                    if !text.is_empty() {
                        sink(&text);
                        text.clear();
                    }
                    if result == encoding_rs::CoderResult::InputEmpty {
                        break;
                    }
                }
            }
        }
    }
}

/// Like `String::from_utf8_lossy`, over any borders.
fn utf8(
    partial: &mut [u8; 4],
    partial_len: &mut usize,
    at_start: &mut bool,
    mut bytes: &[u8],
    last: bool,
    sink: &mut impl FnMut(&str),
) {
    const BOM: char = '\u{feff}';
    let mut emit = |text: &str| {
        let text = if std::mem::take(at_start) { text.strip_prefix(BOM).unwrap_or(text) } else { text };
        if !text.is_empty() {
            sink(text);
        }
    };
    while *partial_len > 0 {
        let Some((&byte, rest)) = bytes.split_first() else {
            if last {
                *partial_len = 0;
                emit("\u{fffd}");
            }
            return;
        };
        partial[*partial_len] = byte;
        match std::str::from_utf8(&partial[..=*partial_len]) {
            Ok(text) => {
                emit(text);
                *partial_len = 0;
                bytes = rest;
            }
            Err(error) if error.error_len().is_none() => {
                *partial_len += 1;
                bytes = rest;
            }
            // The new byte is not part of the broken character: it is read again by itself.
            Err(_) => {
                emit("\u{fffd}");
                *partial_len = 0;
            }
        }
    }
    loop {
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                if !text.is_empty() {
                    emit(text);
                }
                return;
            }
            Err(error) => {
                let (valid, rest) = bytes.split_at(error.valid_up_to());
                if let Ok(text) = std::str::from_utf8(valid)
                    && !text.is_empty()
                {
                    emit(text);
                }
                match error.error_len() {
                    Some(length) => {
                        emit("\u{fffd}");
                        bytes = &rest[length..];
                    }
                    None if last => return emit("\u{fffd}"),
                    None => {
                        partial[..rest.len()].copy_from_slice(rest);
                        *partial_len = rest.len();
                        return;
                    }
                }
            }
        }
    }
}

/// Whether a `content-type` is JSON: `application/json`, `text/json`, `…+json`.
pub fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.ends_with("/json") || essence.ends_with("+json")
}

/// The parameter `charset` of a `content-type`, in lower case.
fn parameter(content_type: &str) -> Option<String> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("charset")
            .then(|| value.trim().trim_matches(|c| c == '"' || c == '\'').trim().to_ascii_lowercase())
    })
}

/// What the first bytes of a page say of its charset.
fn scan(bytes: &[u8]) -> &'static Encoding {
    if let Some((encoding, _)) = Encoding::for_bom(bytes) {
        return encoding;
    }
    let bytes = &bytes[..bytes.len().min(SCAN_BYTES)];
    let found = declaration(bytes).or_else(|| Scanner { bytes, at: 0 }.meta()).unwrap_or(UTF_8);
    // The page can be read as ASCII so far, so it is not UTF-16, whatever it says.
    if found == UTF_16LE || found == UTF_16BE {
        UTF_8
    } else if found == X_USER_DEFINED {
        WINDOWS_1252
    } else {
        found
    }
}

/// The encoding of an XML declaration.
fn declaration(bytes: &[u8]) -> Option<&'static Encoding> {
    let rest = bytes.strip_prefix(b"<?xml")?;
    let end = rest.iter().position(|byte| *byte == b'>')?;
    let rest = &rest[..end];
    let at = rest.windows(8).position(|window| window == b"encoding")? + 8;
    let rest = rest[at..].trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start();
    let (quote, rest) = rest.split_first()?;
    if !matches!(quote, b'"' | b'\'') {
        return None;
    }
    let end = rest.iter().position(|byte| byte == quote)?;
    Encoding::for_label(&rest[..end])
}

/// The HTML standard's "prescan a byte stream to determine its encoding" (section 13.2.3.2).
struct Scanner<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl Scanner<'_> {
    fn meta(mut self) -> Option<&'static Encoding> {
        while self.at < self.bytes.len() {
            let rest = &self.bytes[self.at..];
            if rest.starts_with(b"<!--") {
                // The dashes of the opening may be those of the end: `<!-->`.
                let end = rest[2..].windows(3).position(|window| window == b"-->")?;
                self.at += 2 + end + 3;
            } else if rest.len() > 5
                && rest[..5].eq_ignore_ascii_case(b"<meta")
                && (rest[5].is_ascii_whitespace() || rest[5] == b'/')
            {
                self.at += 5;
                if let Some(encoding) = self.attributes_of_meta() {
                    return Some(encoding);
                }
            } else if rest[0] == b'<'
                && (rest.get(1).is_some_and(u8::is_ascii_alphabetic)
                    || (rest.get(1) == Some(&b'/') && rest.get(2).is_some_and(u8::is_ascii_alphabetic)))
            {
                let end = rest.iter().position(|byte| byte.is_ascii_whitespace() || *byte == b'>')?;
                self.at += end;
                while self.attribute().is_some() {}
                self.at += 1;
            } else if rest.starts_with(b"<!") || rest.starts_with(b"</") || rest.starts_with(b"<?") {
                self.at += rest.iter().position(|byte| *byte == b'>')? + 1;
            } else {
                self.at += 1;
            }
        }
        None
    }

    fn attributes_of_meta(&mut self) -> Option<&'static Encoding> {
        let mut seen: Vec<Vec<u8>> = Vec::new();
        let mut got_pragma = false;
        let mut need_pragma = None;
        let mut charset = None;
        while let Some((name, value)) = self.attribute() {
            if seen.contains(&name) {
                continue;
            }
            match &*name {
                b"http-equiv" => got_pragma |= value == b"content-type",
                b"content" if charset.is_none() => {
                    if let Some(encoding) = from_content(&value) {
                        charset = Some(encoding);
                        need_pragma = Some(true);
                    }
                }
                b"charset" => {
                    charset = Encoding::for_label(&value);
                    need_pragma = Some(false);
                }
                _ => {}
            }
            seen.push(name);
        }
        if need_pragma? && !got_pragma { None } else { charset }
    }

    /// The next attribute of a tag, name and value in lower case; `None` at the tag's end.
    fn attribute(&mut self) -> Option<(Vec<u8>, Vec<u8>)> {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace() || byte == b'/') {
            self.at += 1;
        }
        if self.peek()? == b'>' {
            return None;
        }
        let mut name = Vec::new();
        loop {
            match self.peek()? {
                b'=' if !name.is_empty() => break,
                byte if byte.is_ascii_whitespace() => {
                    while self.peek()?.is_ascii_whitespace() {
                        self.at += 1;
                    }
                    break;
                }
                b'/' | b'>' => return Some((name, Vec::new())),
                byte => name.push(byte.to_ascii_lowercase()),
            }
            self.at += 1;
        }
        if self.peek()? != b'=' {
            return Some((name, Vec::new()));
        }
        self.at += 1;
        while self.peek()?.is_ascii_whitespace() {
            self.at += 1;
        }
        let mut value = Vec::new();
        let first = self.peek()?;
        if matches!(first, b'"' | b'\'') {
            self.at += 1;
            loop {
                let byte = self.peek()?;
                self.at += 1;
                if byte == first {
                    return Some((name, value));
                }
                value.push(byte.to_ascii_lowercase());
            }
        }
        loop {
            let byte = self.peek()?;
            if byte.is_ascii_whitespace() || byte == b'>' {
                return Some((name, value));
            }
            value.push(byte.to_ascii_lowercase());
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }
}

/// The charset in the `content` of a `meta`: the standard's "extracting a character encoding from a meta element".
fn from_content(content: &[u8]) -> Option<&'static Encoding> {
    let mut rest = content;
    loop {
        let at = rest.windows(7).position(|window| window == b"charset")? + 7;
        rest = &rest[at..];
        let Some(value) = rest.trim_ascii_start().strip_prefix(b"=") else { continue };
        let value = value.trim_ascii_start();
        let value = if let (quote @ (b'"' | b'\''), inner) = value.split_first()? {
            &inner[..inner.iter().position(|byte| byte == quote)?]
        } else {
            let end = value.iter().position(|byte| byte.is_ascii_whitespace() || *byte == b';');
            &value[..end.unwrap_or(value.len())]
        };
        return Encoding::for_label(value);
    }
}
