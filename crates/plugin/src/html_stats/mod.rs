//! `html-stats`: how many of each tag, links, scripts, images, forms and words a page has.
//!
//! It looks at answers whose `content-type` is HTML or XHTML, or that have none. Its metrics are held against
//! a baseline of the same site: a value far from the mean of the window, or one that moves although it never
//! did before, is a finding. All are counts but for the three that end with a unit or `_hash`:
//!
//! | metric | what it is |
//! | --- | --- |
//! | `bytes` | size of the page after its content codings were undone |
//! | `forms` | `form` elements |
//! | `images` | `img` elements |
//! | `links` | `a` and `area` elements with an address |
//! | `links_own`, `links_third_party` | those to the page's own host, and to others; other schemes such as `mailto:` are neither |
//! | `scripts` | `script` elements |
//! | `scripts_inline` | those without an address |
//! | `scripts_own`, `scripts_third_party` | those with an address, by host as with links |
//! | `tags` | start tags of all names |
//! | `tag.NAME` | start tags of one name, where there is one: each name of the HTML standard, and the first 32 others of up to 16 bytes on a page |
//! | `tags_other` | start tags of all further names |
//! | `title_bytes` | length of the title's text |
//! | `title_hash` | a number that is the same where the title is, 0 for none; it only tells that a title changed |
//! | `words` | runs of characters without white space in the text, outside of scripts, styles and titles; a tag ends a word |
//!
//! *Own* is the page's host without a leading `www.`, and every host below it. Metrics without `tag.` are
//! always there, 0 where the page has none; of a tag that is left out the baseline knows that there was none.

mod token;

use crate::{Kind, Page, Pass, Plugin, Report};
use sitemon_model::site::Baseline;
use sitemon_model::tree::{At, Faults};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use token::{LONG, Name, Sink, Tokenizer, name};

/// `html-stats`
pub const KIND: Kind = Kind {
    name: "html-stats",
    about: "Counts tags, links, scripts, images, forms and words of a page.",
    parse,
    schema,
};

/// Names outside the standard that are counted by themselves on a page.
const OTHER_NAMES_MAX: usize = 32;

/// The options' defaults.
const DEFAULTS: Baseline = Baseline { window: Duration::from_hours(14 * 24), deviations: 4.0, samples: 20 };

fn parse(options: &At<'_>, faults: &mut Faults) -> Option<Arc<dyn Plugin>> {
    let before = faults.0.len();
    let mut baseline = DEFAULTS;
    let mut fields = options.map(faults);
    if let Some(at) = fields.take("window")
        && let Some(window) = at.duration(faults)
    {
        if window.is_zero() {
            at.expected(faults, "more than 0s");
        }
        baseline.window = window;
    }
    if let Some(at) = fields.take("deviations")
        && let Some(deviations) = at.parse::<f64>(faults, "a number above 0")
    {
        if !(deviations.is_finite() && deviations > 0.0) {
            at.expected(faults, "a number above 0");
        }
        baseline.deviations = deviations;
    }
    if let Some(at) = fields.take("samples")
        && let Some(samples) = at.parse::<u64>(faults, "a whole number from 2")
    {
        if samples < 2 {
            at.expected(faults, "a whole number from 2");
        }
        baseline.samples = samples;
    }
    fields.finish(faults);
    let sound = faults.0[before..].iter().all(|fault| fault.warning);
    sound.then(|| Arc::new(HtmlStats { baseline }) as Arc<dyn Plugin>)
}

fn schema() -> serde_json::Value {
    serde_json::json!({
        "type": ["object", "null"],
        "additionalProperties": false,
        "description": KIND.about,
        "properties": {
            "window": {"$ref": "#/$defs/duration", "default": "14d", "description": "How far back the baseline reaches."},
            "deviations": {
                "type": ["number", "null"], "exclusiveMinimum": 0, "default": DEFAULTS.deviations,
                "description": "How many standard deviations from the mean a value must lie to be a finding.",
            },
            "samples": {
                "type": ["integer", "null"], "minimum": 2, "default": DEFAULTS.samples,
                "description": "With fewer samples than these there is no finding.",
            },
        },
    })
}

/// The plugin with its options.
#[derive(Debug)]
struct HtmlStats {
    baseline: Baseline,
}

impl Plugin for HtmlStats {
    fn name(&self) -> &'static str {
        KIND.name
    }

    fn begin(&self, page: &Page<'_>) -> Option<Box<dyn Pass>> {
        if !page.content_type.is_none_or(is_html) {
            return None;
        }
        let host = host(page.url.as_bytes()).unwrap_or_default();
        Some(Box::new(Counting { tokenizer: Tokenizer::new(), counts: Counts::new(host) }))
    }

    fn baseline(&self) -> Option<Baseline> {
        Some(self.baseline)
    }
}

/// Whether a `content-type` is HTML.
fn is_html(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("text/html") || essence.eq_ignore_ascii_case("application/xhtml+xml")
}

/// One pass over one page.
struct Counting {
    tokenizer: Tokenizer,
    counts: Counts,
}

impl Pass for Counting {
    fn feed(&mut self, text: &str) {
        self.tokenizer.feed(text.as_bytes(), &mut self.counts);
    }

    fn held_bytes(&self) -> usize {
        size_of::<Self>() + KNOWN.len() * size_of::<u32>() + OTHER_NAMES_MAX * size_of::<(Name, u32)>() + 512
    }

    fn finish(self: Box<Self>, decoded_bytes: u64) -> Report {
        Report { values: self.counts.values(decoded_bytes), findings: Vec::new() }
    }
}

/// Whose host an address is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Own,
    ThirdParty,
    /// An address without a host, such as `mailto:`.
    Neither,
}

struct Counts {
    /// The page's host in lower case, without `www.`.
    host: Vec<u8>,
    /// Where addresses without a host lead, which `base` may change.
    base: Whose,
    has_base: bool,
    tags: u64,
    /// By the place of the name in [`KNOWN`].
    known: Box<[u32]>,
    other: Vec<(Name, u32)>,
    tags_other: u64,
    links: u64,
    links_own: u64,
    links_third_party: u64,
    scripts_own: u64,
    scripts_third_party: u64,
    scripts_inline: u64,
    words: u64,
    in_word: bool,
    title: Title,
}

/// The page's first title.
struct Title {
    place: TitlePlace,
    bytes: u64,
    hash: u32,
}

#[derive(PartialEq, Eq)]
enum TitlePlace {
    Before,
    Within,
    After,
}

impl Counts {
    fn new(host: Vec<u8>) -> Self {
        Self {
            host,
            base: Whose::Own,
            has_base: false,
            tags: 0,
            known: vec![0; KNOWN.len()].into_boxed_slice(),
            other: Vec::new(),
            tags_other: 0,
            links: 0,
            links_own: 0,
            links_third_party: 0,
            scripts_own: 0,
            scripts_third_party: 0,
            scripts_inline: 0,
            words: 0,
            in_word: false,
            title: Title { place: TitlePlace::Before, bytes: 0, hash: FNV_BASIS },
        }
    }

    fn count(&mut self, tag: Name) {
        self.tags += 1;
        if let Some(place) = TABLE.place(tag) {
            self.known[place] = self.known[place].saturating_add(1);
        } else if let Some((_, count)) = self.other.iter_mut().find(|(name, _)| *name == tag && tag != LONG) {
            *count = count.saturating_add(1);
        } else if tag != LONG && self.other.len() < OTHER_NAMES_MAX && is_printable(tag) {
            self.other.push((tag, 1));
        } else {
            self.tags_other += 1;
        }
    }

    fn whose(&self, address: &[u8]) -> Whose {
        let address = address.trim_ascii();
        if let Some(host) = host(address) {
            if is_own(&self.host, &host) { Whose::Own } else { Whose::ThirdParty }
        } else if has_scheme(address) {
            Whose::Neither
        } else {
            self.base
        }
    }

    fn of(&self, tag: &str) -> u64 {
        TABLE.place(name(tag)).map_or(0, |place| u64::from(self.known[place]))
    }

    fn values(self, decoded_bytes: u64) -> Vec<(Arc<str>, f64)> {
        let title_hash = if self.title.bytes == 0 { 0 } else { self.title.hash };
        let fixed = [
            decoded_bytes,
            self.of("form"),
            self.of("img"),
            self.links,
            self.links_own,
            self.links_third_party,
            self.of("script"),
            self.scripts_inline,
            self.scripts_own,
            self.scripts_third_party,
            self.tags,
            self.tags_other,
            self.title.bytes,
            u64::from(title_hash),
            self.words,
        ];
        let mut values: Vec<(Arc<str>, f64)> = Vec::with_capacity(fixed.len() + 48);
        let mut fixed = TABLE.fixed.iter().zip(fixed).map(|(metric, value)| (metric.clone(), value as f64));
        values.extend(fixed.by_ref().take(FIXED_BEFORE_TAGS));
        let known = TABLE.metrics.iter().zip(&self.known).filter(|(_, count)| **count > 0);
        values.extend(known.map(|(metric, count)| (metric.clone(), f64::from(*count))));
        values.extend(fixed);
        if !self.other.is_empty() {
            let other = self.other.iter();
            values.extend(other.map(|(name, count)| (format!("tag.{}", shown(*name)).into(), f64::from(*count))));
            values.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        }
        values
    }
}

impl Sink for Counts {
    fn start(&mut self, tag: Name, address: Option<&[u8]>) {
        const A: Name = name("a");
        const AREA: Name = name("area");
        const BASE: Name = name("base");
        const SCRIPT: Name = name("script");
        const TITLE: Name = name("title");
        self.in_word = false;
        self.count(tag);
        match tag {
            A | AREA => {
                if let Some(address) = address {
                    self.links += 1;
                    match self.whose(address) {
                        Whose::Own => self.links_own += 1,
                        Whose::ThirdParty => self.links_third_party += 1,
                        Whose::Neither => {}
                    }
                }
            }
            SCRIPT => match address.map(|address| self.whose(address)) {
                None => self.scripts_inline += 1,
                Some(Whose::Own) => self.scripts_own += 1,
                Some(Whose::ThirdParty) => self.scripts_third_party += 1,
                Some(Whose::Neither) => {}
            },
            // The first one counts.
            BASE if !self.has_base => {
                if let Some(address) = address {
                    self.base = self.whose(address);
                    self.has_base = true;
                }
            }
            TITLE if self.title.place == TitlePlace::Before => self.title.place = TitlePlace::Within,
            _ => {}
        }
    }

    fn end(&mut self, tag: Name) {
        self.in_word = false;
        if tag == name("title") && self.title.place == TitlePlace::Within {
            self.title.place = TitlePlace::After;
        }
    }

    fn text(&mut self, text: &[u8], within: Name) {
        if self.title.place == TitlePlace::Within {
            self.title.bytes += text.len() as u64;
            self.title.hash =
                text.iter().fold(self.title.hash, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(FNV_PRIME));
        }
        if within == 0 {
            let mut in_word = self.in_word;
            let mut words = 0;
            for byte in text {
                let white = matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b'\x0c');
                words += u64::from(!white && !in_word);
                in_word = !white;
            }
            self.words += words;
            self.in_word = in_word;
        }
    }
}

/// FNV-1a with 32 bits: a number that a 64-bit float holds exactly.
const FNV_BASIS: u32 = 0x811c_9dc5;
const FNV_PRIME: u32 = 0x0100_0193;

/// The host of an address that names one (`http://HOST`, `//HOST`), in lower case, without user, port and
/// `www.`. Backslashes count as slashes, as browsers have it.
fn host(address: &[u8]) -> Option<Vec<u8>> {
    let after_scheme = match address.iter().position(|byte| matches!(byte, b':' | b'/' | b'\\' | b'?' | b'#')) {
        Some(at) if address[at] == b':' => {
            let scheme = &address[..at];
            if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
                return None;
            }
            &address[at + 1..]
        }
        _ => address,
    };
    let [b'/' | b'\\', b'/' | b'\\', rest @ ..] = after_scheme else { return None };
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'\\' | b'?' | b'#')).unwrap_or(rest.len());
    let authority = &rest[..end];
    let host = authority.rsplit(|byte| *byte == b'@').next().unwrap_or_default();
    let port = host.iter().rposition(|byte| *byte == b':').filter(|at| !host[*at..].contains(&b']'));
    let host = host[..port.unwrap_or(host.len())].to_ascii_lowercase();
    Some(host.strip_prefix(b"www.").map(<[u8]>::to_vec).unwrap_or(host))
}

/// Whether a host is the page's own or below it.
fn is_own(own: &[u8], host: &[u8]) -> bool {
    host.strip_suffix(own).is_some_and(|below| below.is_empty() || (!own.is_empty() && below.ends_with(b".")))
}

/// Whether an address has a scheme, `mailto:` for example.
fn has_scheme(address: &[u8]) -> bool {
    let end = address.iter().position(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')));
    address.first().is_some_and(u8::is_ascii_alphabetic) && end.is_some_and(|at| address[at] == b':')
}

/// The bytes of a name as text.
fn shown(name: Name) -> String {
    let bytes = name.to_be_bytes();
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[start..]).into_owned()
}

/// Whether a name may be part of a metric's.
fn is_printable(name: Name) -> bool {
    let bytes = name.to_be_bytes();
    bytes.iter().skip_while(|byte| **byte == 0).all(u8::is_ascii_graphic)
}

/// The metrics that are always there, sorted.
const FIXED: [&str; 15] = [
    "bytes",
    "forms",
    "images",
    "links",
    "links_own",
    "links_third_party",
    "scripts",
    "scripts_inline",
    "scripts_own",
    "scripts_third_party",
    "tags",
    "tags_other",
    "title_bytes",
    "title_hash",
    "words",
];

/// How many of those stand before `tag.`.
const FIXED_BEFORE_TAGS: usize = 10;

/// Sorted. The elements of the HTML standard, those of before that pages still have, and the commonest of SVG.
const KNOWN: &[&str] = &[
    "a",
    "abbr",
    "acronym",
    "address",
    "applet",
    "area",
    "article",
    "aside",
    "audio",
    "b",
    "base",
    "basefont",
    "bdi",
    "bdo",
    "big",
    "blink",
    "blockquote",
    "body",
    "br",
    "button",
    "canvas",
    "caption",
    "center",
    "cite",
    "code",
    "col",
    "colgroup",
    "data",
    "datalist",
    "dd",
    "del",
    "details",
    "dfn",
    "dialog",
    "dir",
    "div",
    "dl",
    "dt",
    "em",
    "embed",
    "fieldset",
    "figcaption",
    "figure",
    "font",
    "footer",
    "form",
    "frame",
    "frameset",
    "g",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "head",
    "header",
    "hgroup",
    "hr",
    "html",
    "i",
    "iframe",
    "img",
    "input",
    "ins",
    "kbd",
    "label",
    "legend",
    "li",
    "link",
    "main",
    "map",
    "mark",
    "marquee",
    "math",
    "menu",
    "meta",
    "meter",
    "nav",
    "nobr",
    "noembed",
    "noframes",
    "noscript",
    "object",
    "ol",
    "optgroup",
    "option",
    "output",
    "p",
    "param",
    "path",
    "picture",
    "plaintext",
    "pre",
    "progress",
    "q",
    "rb",
    "rp",
    "rt",
    "rtc",
    "ruby",
    "s",
    "samp",
    "script",
    "search",
    "section",
    "select",
    "slot",
    "small",
    "source",
    "span",
    "strike",
    "strong",
    "style",
    "sub",
    "summary",
    "sup",
    "svg",
    "table",
    "tbody",
    "td",
    "template",
    "textarea",
    "tfoot",
    "th",
    "thead",
    "time",
    "title",
    "tr",
    "track",
    "tt",
    "u",
    "ul",
    "use",
    "var",
    "video",
    "wbr",
    "xmp",
];

/// Names and metrics, made once: what every page has in common.
struct Table {
    /// In the order of [`KNOWN`], as all that follows.
    names: Vec<Name>,
    metrics: Vec<Arc<str>>,
    fixed: Vec<Arc<str>>,
    /// Places of names, by their hash; one that is taken leads to the next.
    slots: [u16; SLOTS],
}

/// A power of two, large enough that a name is mostly found in its own slot.
const SLOTS: usize = 1024;

/// An empty slot.
const EMPTY: u16 = u16::MAX;

const fn slot(name: Name) -> usize {
    // Fibonacci hashing of both halves.
    let folded = (name as u64) ^ ((name >> 64) as u64).rotate_left(29);
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SLOTS.ilog2())) as usize
}

impl Table {
    fn place(&self, name: Name) -> Option<usize> {
        let mut at = slot(name);
        loop {
            let place = usize::from(self.slots[at]);
            if place == usize::from(EMPTY) {
                return None;
            }
            if self.names[place] == name {
                return Some(place);
            }
            at = (at + 1) % SLOTS;
        }
    }
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let names: Vec<Name> = KNOWN.iter().map(|known| name(known)).collect();
    let mut slots = [EMPTY; SLOTS];
    for (place, name) in names.iter().enumerate() {
        let mut at = slot(*name);
        while slots[at] != EMPTY {
            at = (at + 1) % SLOTS;
        }
        slots[at] = place as u16;
    }
    Table {
        names,
        metrics: KNOWN.iter().map(|known| format!("tag.{known}").into()).collect(),
        fixed: FIXED.iter().map(|metric| (*metric).into()).collect(),
        slots,
    }
});

#[cfg(test)]
mod tests;
