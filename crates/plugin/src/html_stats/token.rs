//! Cuts a page into tags and text, as the tokenizer of the HTML standard (section 13.2.5) does, in one pass
//! over its bytes and a few bytes of memory: nothing of the page is kept but a name and the beginning of an
//! address.
//!
//! What the standard leaves to its tree builder is done where it changes what is a tag: the elements whose
//! content is text are known by name, and inside `svg` and `math` they are elements like any other. Scripts
//! are not run, so the content of `noscript` is read.

/// Bytes of an address that are kept: enough for its scheme and host.
pub const ADDRESS_BYTES: usize = 300;

/// The name of a tag: up to 16 bytes in lower case, as a number, the first byte the highest; longer ones are
/// [`LONG`].
pub type Name = u128;

/// A name of more than 16 bytes.
pub const LONG: Name = 0;

/// The number of a name.
pub const fn name(text: &str) -> Name {
    let bytes = text.as_bytes();
    assert!(bytes.len() <= 16, "a name of at most 16 bytes");
    let mut name = 0;
    let mut at = 0;
    while at < bytes.len() {
        name = name << 8 | bytes[at] as u128;
        at += 1;
    }
    name
}

/// The attribute of a tag that is an address, where it has one.
pub const fn address_of(tag: Name) -> Option<Name> {
    const HREF: Name = name("href");
    const SRC: Name = name("src");
    const A: Name = name("a");
    const AREA: Name = name("area");
    const LINK: Name = name("link");
    const BASE: Name = name("base");
    const IMG: Name = name("img");
    const SCRIPT: Name = name("script");
    match tag {
        A | AREA | LINK | BASE => Some(HREF),
        IMG | SCRIPT => Some(SRC),
        _ => None,
    }
}

/// Who is told of tags and text.
pub trait Sink {
    /// A start tag, with its address where it has one (as it is written, its beginning at most).
    fn start(&mut self, tag: Name, address: Option<&[u8]>);
    /// An end tag.
    fn end(&mut self, tag: Name);
    /// Text between tags, in parts cut anywhere. `within`: the element whose content it is, where that is
    /// text only; 0 elsewhere.
    fn text(&mut self, text: &[u8], within: Name);
}

/// Where in a page the tokenizer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Text,
    /// After `<`.
    Open,
    /// After `</`.
    EndOpen,
    TagName,
    BeforeAttribute,
    AttributeName,
    AfterAttributeName,
    BeforeValue,
    /// In a value, up to this quote.
    Quoted(u8),
    Unquoted,
    /// After a `/` in a tag.
    Slash,
    /// After `<!`.
    Declaration,
    /// After `<!-`.
    DeclarationDash,
    /// In `<!DOCTYPE`, `<?` and what else is no tag, up to `>`.
    Bogus,
    /// In a comment: the dashes before, and whether it has only just begun.
    Comment {
        dashes: u8,
        fresh: bool,
    },
    /// After `--!` in a comment.
    CommentBang,
    /// In `<![CDATA[` of svg and math: the closing brackets before.
    CData {
        brackets: u8,
    },
    /// In text that ends with its element's end tag only.
    Raw,
    /// There, after `<`.
    RawOpen,
    /// There, after `</`, in the name.
    RawEnd,
    /// There, in a script, after `<!`.
    RawBang,
    /// In a script's comment, after `<`, in the name.
    RawStart,
    /// After `<plaintext>`: all that follows is text.
    Plain,
}

/// Where in a tag its address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AddressPlace {
    Before,
    Within,
    After,
}

/// How a script's content ends, which its comments change (the standard's "script data escaped" states).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Script {
    Plain,
    /// In `<!--`.
    Escaped,
    /// In `<!-- <script`, where the next `</script` ends nothing.
    Doubly,
}

/// The state between two parts of a page.
#[derive(Debug)]
pub struct Tokenizer {
    state: State,
    /// The name that is being read, of a tag or an attribute.
    name: Name,
    length: u8,
    tag: Name,
    is_end: bool,
    self_closing: bool,
    address: Vec<u8>,
    address_place: AddressPlace,
    /// The element whose content is text, in [`State::Raw`] and its kin.
    raw: Name,
    script: Script,
    dashes: u8,
    /// How many `svg` and `math` are open.
    foreign: u16,
    /// How many bytes of `[CDATA[` came after `<!`.
    declaration: u8,
}

const SCRIPT: Name = name("script");
const CDATA: &[u8; 7] = b"[CDATA[";

impl Tokenizer {
    /// Before the first byte.
    pub fn new() -> Self {
        Self {
            state: State::Text,
            name: 0,
            length: 0,
            tag: 0,
            is_end: false,
            self_closing: false,
            address: Vec::new(),
            address_place: AddressPlace::Before,
            raw: 0,
            script: Script::Plain,
            dashes: 0,
            foreign: 0,
            declaration: 0,
        }
    }

    /// Takes in the next part.
    pub fn feed(&mut self, part: &[u8], sink: &mut impl Sink) {
        let mut at = 0;
        while at < part.len() {
            let byte = part[at];
            match self.state {
                State::Text => {
                    let rest = &part[at..];
                    let end = memchr::memchr(b'<', rest).unwrap_or(rest.len());
                    if end > 0 {
                        sink.text(&rest[..end], 0);
                    }
                    at += end;
                    if end < rest.len() {
                        self.state = State::Open;
                        at += 1;
                    }
                    continue;
                }
                State::Open => match byte {
                    b'/' => self.state = State::EndOpen,
                    b'!' => {
                        self.state = State::Declaration;
                        self.declaration = 0;
                    }
                    b'?' => self.state = State::Bogus,
                    byte if byte.is_ascii_alphabetic() => {
                        self.begin_tag(false);
                        continue;
                    }
                    _ => {
                        sink.text(b"<", 0);
                        self.state = State::Text;
                        continue;
                    }
                },
                State::EndOpen => match byte {
                    b'>' => self.state = State::Text,
                    byte if byte.is_ascii_alphabetic() => {
                        self.begin_tag(true);
                        continue;
                    }
                    _ => {
                        self.state = State::Bogus;
                        continue;
                    }
                },
                State::TagName => {
                    at += self.push_name_until(&part[at..], is_after_name);
                    let Some(byte) = part.get(at) else { return };
                    self.tag = if self.length > 16 { LONG } else { self.name };
                    match byte {
                        b'>' => self.emit(sink),
                        b'/' => self.state = State::Slash,
                        _ => self.state = State::BeforeAttribute,
                    }
                }
                State::BeforeAttribute => match byte {
                    b'\t' | b'\n' | b'\x0c' | b'\r' | b' ' => {}
                    b'/' => self.state = State::Slash,
                    b'>' => self.emit(sink),
                    byte => {
                        self.name = 0;
                        self.length = 0;
                        // A name may begin with an equals sign.
                        self.push_name(byte);
                        self.state = State::AttributeName;
                    }
                },
                State::Slash => {
                    if byte == b'>' {
                        self.self_closing = true;
                        self.emit(sink);
                    } else {
                        self.state = State::BeforeAttribute;
                        continue;
                    }
                }
                State::AttributeName => {
                    at += self.push_name_until(&part[at..], |byte| byte == b'=' || is_after_name(byte));
                    let Some(byte) = part.get(at) else { return };
                    match byte {
                        b'=' => self.state = State::BeforeValue,
                        b'/' => {
                            self.begin_value();
                            self.state = State::Slash;
                        }
                        b'>' => {
                            self.begin_value();
                            self.emit(sink);
                        }
                        _ => self.state = State::AfterAttributeName,
                    }
                }
                State::AfterAttributeName => match byte {
                    b'\t' | b'\n' | b'\x0c' | b'\r' | b' ' => {}
                    b'=' => self.state = State::BeforeValue,
                    _ => {
                        self.begin_value();
                        self.state = State::BeforeAttribute;
                        continue;
                    }
                },
                State::BeforeValue => match byte {
                    b'\t' | b'\n' | b'\x0c' | b'\r' | b' ' => {}
                    b'>' => {
                        self.begin_value();
                        self.emit(sink);
                    }
                    b'"' | b'\'' => {
                        self.begin_value();
                        self.state = State::Quoted(byte);
                    }
                    _ => {
                        self.begin_value();
                        self.state = State::Unquoted;
                        continue;
                    }
                },
                State::Quoted(quote) => {
                    let rest = &part[at..];
                    let end = memchr::memchr(quote, rest);
                    let value = &rest[..end.unwrap_or(rest.len())];
                    self.push_value(value);
                    at += value.len();
                    if end.is_some() {
                        self.state = State::BeforeAttribute;
                        at += 1;
                    }
                    continue;
                }
                State::Unquoted => match byte {
                    b'\t' | b'\n' | b'\x0c' | b'\r' | b' ' => self.state = State::BeforeAttribute,
                    b'>' => self.emit(sink),
                    byte => self.push_value(&[byte]),
                },
                State::Declaration => {
                    let expected = usize::from(self.declaration);
                    if self.declaration == 0 && byte == b'-' {
                        self.state = State::DeclarationDash;
                    } else if self.foreign > 0 && CDATA.get(expected) == Some(&byte) {
                        self.declaration += 1;
                        if expected + 1 == CDATA.len() {
                            self.state = State::CData { brackets: 0 };
                        }
                    } else {
                        self.state = State::Bogus;
                        continue;
                    }
                }
                State::DeclarationDash => {
                    if byte == b'-' {
                        self.state = State::Comment { dashes: 0, fresh: true };
                    } else {
                        self.state = State::Bogus;
                        continue;
                    }
                }
                State::Bogus => {
                    let Some(end) = memchr::memchr(b'>', &part[at..]) else { return };
                    at += end;
                    self.state = State::Text;
                }
                State::Comment { dashes, fresh } => {
                    self.state = match byte {
                        b'-' => State::Comment { dashes: (dashes + 1).min(2), fresh },
                        b'>' if dashes == 2 || fresh => State::Text,
                        b'!' if dashes == 2 => State::CommentBang,
                        _ => {
                            let rest = &part[at..];
                            at += memchr::memchr(b'-', rest).unwrap_or(rest.len());
                            self.state = State::Comment { dashes: 0, fresh: false };
                            continue;
                        }
                    }
                }
                State::CommentBang => {
                    self.state = match byte {
                        b'-' => State::Comment { dashes: 1, fresh: false },
                        b'>' => State::Text,
                        _ => State::Comment { dashes: 0, fresh: false },
                    }
                }
                State::CData { brackets } => {
                    self.state = match byte {
                        b']' => State::CData { brackets: (brackets + 1).min(2) },
                        b'>' if brackets == 2 => State::Text,
                        _ => State::CData { brackets: 0 },
                    }
                }
                State::Raw => {
                    at += self.raw_text(&part[at..], sink);
                    continue;
                }
                State::RawOpen => match byte {
                    b'/' => {
                        self.name = 0;
                        self.length = 0;
                        self.state = State::RawEnd;
                    }
                    b'!' if self.raw == SCRIPT && self.script == Script::Plain => {
                        self.dashes = 0;
                        self.state = State::RawBang;
                    }
                    byte if byte.is_ascii_alphabetic() && self.script == Script::Escaped => {
                        self.name = 0;
                        self.length = 0;
                        self.state = State::RawStart;
                        continue;
                    }
                    _ => {
                        self.not_an_end(b"<", sink);
                        continue;
                    }
                },
                State::RawEnd => {
                    if byte.is_ascii_alphabetic() {
                        self.push_name(byte);
                    } else if self.length <= 16 && self.name == self.raw && is_after_name(byte) {
                        if self.script == Script::Doubly {
                            self.script = Script::Escaped;
                            self.not_an_end(b"</script", sink);
                        } else {
                            self.begin_tag(true);
                            self.name = self.raw;
                            self.length = 1;
                        }
                        continue;
                    } else {
                        self.not_an_end(b"</", sink);
                        continue;
                    }
                }
                State::RawBang => {
                    if byte == b'-' {
                        self.dashes += 1;
                        if self.dashes == 2 {
                            // The dashes of `<!--` may already be those of `-->`.
                            self.script = Script::Escaped;
                            self.state = State::Raw;
                        }
                    } else {
                        self.not_an_end(b"<!", sink);
                        continue;
                    }
                }
                State::RawStart => {
                    if byte.is_ascii_alphabetic() {
                        self.push_name(byte);
                    } else {
                        if self.length <= 16 && self.name == SCRIPT && is_after_name(byte) {
                            self.script = Script::Doubly;
                        }
                        self.not_an_end(b"<", sink);
                        continue;
                    }
                }
                State::Plain => {
                    sink.text(&part[at..], 0);
                    return;
                }
            }
            at += 1;
        }
    }

    /// Text of a raw element up to a `<` or to the end of a script's comment; how many bytes were taken.
    fn raw_text(&mut self, rest: &[u8], sink: &mut impl Sink) -> usize {
        let mut end = rest.len();
        let mut open = false;
        if self.script == Script::Plain {
            if let Some(at) = memchr::memchr(b'<', rest) {
                (end, open) = (at, true);
            }
        } else {
            for (at, byte) in rest.iter().enumerate() {
                match byte {
                    b'-' => self.dashes = (self.dashes + 1).min(2),
                    b'>' if self.dashes == 2 => {
                        self.script = Script::Plain;
                        end = at + 1;
                        break;
                    }
                    b'<' => {
                        (end, open) = (at, true);
                        break;
                    }
                    _ => self.dashes = 0,
                }
            }
        }
        if end > 0 {
            sink.text(&rest[..end], self.raw);
        }
        if open {
            self.dashes = 0;
            self.state = State::RawOpen;
        }
        end + usize::from(open)
    }

    fn not_an_end(&mut self, text: &[u8], sink: &mut impl Sink) {
        sink.text(text, self.raw);
        self.dashes = 0;
        self.state = State::Raw;
    }

    fn begin_tag(&mut self, is_end: bool) {
        self.name = 0;
        self.length = 0;
        self.is_end = is_end;
        self.self_closing = false;
        self.address_place = AddressPlace::Before;
        self.address.clear();
        self.state = State::TagName;
    }

    fn push_name(&mut self, byte: u8) {
        self.name = self.name << 8 | u128::from(byte.to_ascii_lowercase());
        self.length = self.length.saturating_add(1);
    }

    /// Adds to the name up to a byte that ends it; how many bytes were taken.
    fn push_name_until(&mut self, rest: &[u8], ends: impl Fn(u8) -> bool) -> usize {
        let length = rest.iter().position(|byte| ends(*byte)).unwrap_or(rest.len());
        for byte in &rest[..length] {
            self.push_name(*byte);
        }
        length
    }

    /// The first of several attributes of one name counts.
    fn begin_value(&mut self) {
        let is_address = self.length <= 16 && address_of(self.tag) == Some(self.name) && !self.is_end;
        self.address_place = match self.address_place {
            AddressPlace::Before if is_address => AddressPlace::Within,
            AddressPlace::Before => AddressPlace::Before,
            AddressPlace::Within | AddressPlace::After => AddressPlace::After,
        };
    }

    fn push_value(&mut self, value: &[u8]) {
        if self.address_place == AddressPlace::Within {
            let room = ADDRESS_BYTES - self.address.len();
            self.address.extend_from_slice(&value[..value.len().min(room)]);
        }
    }

    fn emit(&mut self, sink: &mut impl Sink) {
        const SVG: Name = name("svg");
        const MATH: Name = name("math");
        self.state = State::Text;
        let tag = self.tag;
        if self.is_end {
            if matches!(tag, SVG | MATH) {
                self.foreign = self.foreign.saturating_sub(1);
            }
            sink.end(tag);
            return;
        }
        let has_address = self.address_place != AddressPlace::Before;
        sink.start(tag, has_address.then_some(&*self.address));
        if matches!(tag, SVG | MATH) {
            self.foreign = self.foreign.saturating_add(u16::from(!self.self_closing));
        } else if self.foreign == 0 {
            if is_raw(tag) {
                self.raw = tag;
                self.script = Script::Plain;
                self.dashes = 0;
                self.state = State::Raw;
            } else if tag == name("plaintext") {
                self.state = State::Plain;
            }
        }
    }
}

/// Whether an element's content is text only.
const fn is_raw(tag: Name) -> bool {
    const STYLE: Name = name("style");
    const TITLE: Name = name("title");
    const TEXTAREA: Name = name("textarea");
    const XMP: Name = name("xmp");
    const IFRAME: Name = name("iframe");
    const NOEMBED: Name = name("noembed");
    const NOFRAMES: Name = name("noframes");
    matches!(tag, SCRIPT | STYLE | TITLE | TEXTAREA | XMP | IFRAME | NOEMBED | NOFRAMES)
}

const fn is_after_name(byte: u8) -> bool {
    matches!(byte, b'\t' | b'\n' | b'\x0c' | b'\r' | b' ' | b'/' | b'>')
}
