//! Commands: which fault, with what parameters, written as a path with a query (`slow-headers?ms=100`).

use std::time::Duration;

/// A fault's name with its parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// The first segment of the path; empty is a plain page.
    pub name: String,
    /// The query's parameters, decoded, in order; a name may come several times.
    pub parameters: Vec<(String, String)>,
}

impl Command {
    /// Reads `NAME`, `/NAME`, `/NAME/ANYTHING?KEY=VALUE&...`, or the same as a whole URL.
    ///
    /// What follows the name in the path is left to tell sites apart.
    pub fn parse(target: &str) -> Self {
        let target = match target.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("", |at| &rest[at..]),
            None => target,
        };
        let target = target.split('#').next().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let name = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        let parameters = query
            .split('&')
            .filter(|part| !part.is_empty())
            .map(|part| {
                let (key, value) = part.split_once('=').unwrap_or((part, ""));
                (decode(key), decode(value))
            })
            .collect();
        Self { name: decode(name), parameters }
    }

    /// The first value of a parameter.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.parameters.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// All values of a parameter, in order.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.parameters.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// A number; the default where it is absent or none.
    pub fn number(&self, key: &str, default: u64) -> u64 {
        self.get(key).and_then(|value| value.parse().ok()).unwrap_or(default)
    }

    /// A time in milliseconds, fractions allowed.
    pub fn ms(&self, key: &str, default: f64) -> Duration {
        let value = self.get(key).and_then(|value| value.parse().ok()).unwrap_or(default);
        Duration::try_from_secs_f64(value / 1000.0).unwrap_or_default()
    }

    /// Whether a parameter is there and not `0` or `false`.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| value != "0" && value != "false")
    }

    /// A text, or its default.
    pub fn text<'a>(&'a self, key: &str, default: &'a str) -> &'a str {
        self.get(key).unwrap_or(default)
    }
}

/// Percent-encodes a text so that it can stand as one value in a query.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for digit in [byte >> 4, byte & 15] {
                out.push(char::from(b"0123456789ABCDEF"[usize::from(digit)]));
            }
        }
    }
    out
}

/// Undoes percent-encoding and `+`; what is not well formed stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match (first, digits.and_then(|two| u8::from_str_radix(two, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = after;
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
