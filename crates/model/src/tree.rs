//! A configuration as a tree of values that know where they stand, and the reader that takes typed values
//! out of it and collects every fault on the way.
//!
//! Files, environment, API and store all come as this tree, and each driver reads its own keys from it (the
//! configuration lives beside what it configures). Nothing here reads a file.

use crate::unit::{parse_duration, parse_size};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Where a value stands. Lines and columns count from 1, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Place {
    /// Index into the list of sources that whoever built the tree keeps.
    pub source: u32,
    /// 0 where there is no line, for example in the environment.
    pub line: u32,
    /// 0 where there is no column.
    pub column: u32,
}

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it stands.
    pub place: Place,
    /// Whether it came, in part or whole, from the environment or from a secret's file (`${NAME}`,
    /// `{file: PATH}`), and so is never printed.
    pub secret: bool,
}

/// What a node holds. Scalars keep their text: what they mean is decided by who reads them.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A number, a word, a text; `quoted` where it was written in quotes and so is a text for sure.
    Scalar {
        /// The text without quotes.
        text: Box<str>,
        /// Whether it was quoted, or a block scalar.
        quoted: bool,
    },
    /// A list.
    List(Vec<Node>),
    /// A map in the order in which it was written; keys are unique.
    Map(Vec<(Key, Node)>),
}

/// The key of an entry of a map.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// The key.
    pub name: Box<str>,
    /// Where it stands.
    pub place: Place,
}

impl Node {
    /// A plain scalar without a place.
    pub fn plain(text: impl Into<Box<str>>) -> Self {
        Self { value: Value::Scalar { text: text.into(), quoted: false }, place: Place::default(), secret: false }
    }

    /// A text without a place.
    pub fn text(text: impl Into<Box<str>>) -> Self {
        Self { value: Value::Scalar { text: text.into(), quoted: true }, place: Place::default(), secret: false }
    }

    /// A map without entries and without a place.
    pub const fn empty_map() -> Self {
        Self { value: Value::Map(Vec::new()), place: Place { source: 0, line: 0, column: 0 }, secret: false }
    }

    /// The value at a key of a map; the last where it is no map or has no such key: `None`.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(k, _)| &*k.name == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// Whether it is the YAML or JSON null.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, quoted: false } if matches!(&**text, "" | "~" | "null" | "Null" | "NULL"))
    }

    /// What it is, for messages: `a list`, `` `5x` ``.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
            Value::Scalar { .. } if self.is_null() => "nothing".to_owned(),
            Value::Scalar { .. } if self.secret => "a secret value".to_owned(),
            Value::Scalar { text, .. } => quoted(text),
        }
    }

    /// The tree of a JSON value, without places. Numbers keep their digits.
    pub fn from_json(value: &serde_json::Value) -> Self {
        use serde_json::Value as Json;
        let value = match value {
            Json::Null => Value::Scalar { text: "null".into(), quoted: false },
            Json::Bool(value) => Value::Scalar { text: value.to_string().into(), quoted: false },
            Json::Number(value) => Value::Scalar { text: value.to_string().into(), quoted: false },
            Json::String(value) => Value::Scalar { text: value.as_str().into(), quoted: true },
            Json::Array(items) => Value::List(items.iter().map(Self::from_json).collect()),
            Json::Object(entries) => Value::Map(
                entries
                    .iter()
                    .map(|(name, node)| {
                        (Key { name: name.as_str().into(), place: Place::default() }, Self::from_json(node))
                    })
                    .collect(),
            ),
        };
        Self { value, place: Place::default(), secret: false }
    }

    /// The tree as a JSON value: plain scalars become null, booleans and numbers where they read as such.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Scalar { text, quoted: true } => Json::String(text.to_string()),
            Value::Scalar { .. } if self.is_null() => Json::Null,
            Value::Scalar { text, .. } => match &**text {
                "true" | "True" | "TRUE" => Json::Bool(true),
                "false" | "False" | "FALSE" => Json::Bool(false),
                other => {
                    serde_json::Number::from_str(other).map_or_else(|_| Json::String(other.to_owned()), Json::Number)
                }
            },
            Value::List(items) => Json::Array(items.iter().map(Self::to_json).collect()),
            Value::Map(entries) => {
                Json::Object(entries.iter().map(|(key, node)| (key.name.to_string(), node.to_json())).collect())
            }
        }
    }
}

/// Something wrong in a configuration, or (`warning`) something that deserves a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub place: Place,
    /// Which value: `sites[3].expect.status`.
    pub path: String,
    /// What is wrong, and what was expected. Lower case, no full stop.
    pub message: String,
    /// Whether the configuration may be used all the same.
    pub warning: bool,
}

/// All faults of a configuration, in the order in which they were found.
#[derive(Debug, Default)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    /// Whether one of them is no mere warning.
    pub fn any_errors(&self) -> bool {
        self.0.iter().any(|fault| !fault.warning)
    }

    /// Notes an error.
    pub fn error(&mut self, place: Place, path: impl fmt::Display, message: impl Into<String>) {
        self.0.push(Fault { place, path: path.to_string(), message: one_line(message.into()), warning: false });
    }

    /// Notes a warning.
    pub fn warning(&mut self, place: Place, path: impl fmt::Display, message: impl Into<String>) {
        self.0.push(Fault { place, path: path.to_string(), message: one_line(message.into()), warning: true });
    }
}

/// A message that may repeat a text of the configuration, without what would break its line or move the cursor.
fn one_line(message: String) -> String {
    let moves = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    if !message.contains(moves) {
        return message;
    }
    message.chars().map(|c| if moves(c) { c.escape_debug().to_string() } else { c.to_string() }).collect()
}

/// A node together with its path. What is read from it is `None` where it is missing or at fault; the fault
/// is noted, so that a caller goes on and finds the others.
#[derive(Debug, Clone)]
pub struct At<'n> {
    /// The node.
    pub node: &'n Node,
    /// Its path from the root.
    pub path: Arc<str>,
}

impl<'n> At<'n> {
    /// The root of a tree, or a subtree whose path is known.
    pub fn new(node: &'n Node, path: impl Into<Arc<str>>) -> Self {
        Self { node, path: path.into() }
    }

    /// Notes an error at this value: `PATH: message`.
    pub fn error(&self, faults: &mut Faults, message: impl Into<String>) {
        faults.error(self.node.place, &self.path, message);
    }

    /// Notes a warning at this value.
    pub fn warning(&self, faults: &mut Faults, message: impl Into<String>) {
        faults.warning(self.node.place, &self.path, message);
    }

    /// Notes that this value is not of the kind that was expected: `` `x`, expected a duration such as 15s ``.
    pub fn expected(&self, faults: &mut Faults, what: &str) {
        // What stands below these keys may be a secret, also where it stands there by mistake.
        let secret = self.path.split(['.', '[']).any(|key| matches!(key, "auth" | "headers" | "proxy" | "dsn"));
        let hidden = secret && matches!(self.node.value, Value::Scalar { .. }) && !self.node.is_null();
        let found = if hidden { "a secret value".to_owned() } else { self.node.describe() };
        self.error(faults, format!("{found}, expected {what}"));
    }

    /// Its entries, to be taken one by one; where it is no map that is noted, and the map is empty.
    pub fn map(&self, faults: &mut Faults) -> Fields<'n> {
        let entries = match &self.node.value {
            Value::Map(entries) => entries.as_slice(),
            _ if self.node.is_null() => &[],
            _ => {
                self.expected(faults, "a map");
                &[]
            }
        };
        let is_map = matches!(self.node.value, Value::Map(_)) || self.node.is_null();
        Fields { entries, path: self.path.clone(), place: self.node.place, is_map, known: Vec::new() }
    }

    /// Its items with their paths; where it is no list that is noted, and there are none.
    pub fn list(&self, faults: &mut Faults) -> Vec<At<'n>> {
        match &self.node.value {
            Value::List(items) => items
                .iter()
                .enumerate()
                .map(|(index, node)| At { node, path: format!("{}[{index}]", self.path).into() })
                .collect(),
            _ if self.node.is_null() => Vec::new(),
            _ => {
                self.expected(faults, "a list");
                Vec::new()
            }
        }
    }

    /// As [`Self::list`]; a single value counts as a list of it.
    pub fn one_or_list(&self, faults: &mut Faults) -> Vec<At<'n>> {
        match &self.node.value {
            Value::Scalar { .. } if !self.node.is_null() => vec![self.clone()],
            _ => self.list(faults),
        }
    }

    /// A text; numbers and words written without quotes are texts too.
    pub fn str(&self, faults: &mut Faults) -> Option<&'n str> {
        match &self.node.value {
            Value::Scalar { text, .. } if !self.node.is_null() => Some(text),
            _ => {
                self.expected(faults, "a text");
                None
            }
        }
    }

    /// `true` or `false`.
    pub fn bool(&self, faults: &mut Faults) -> Option<bool> {
        let value = match &self.node.value {
            Value::Scalar { text, .. } => match &**text {
                "true" | "True" | "TRUE" => Some(true),
                "false" | "False" | "FALSE" => Some(false),
                _ => None,
            },
            _ => None,
        };
        if value.is_none() {
            self.expected(faults, "true or false");
        }
        value
    }

    /// A number or another type with `FromStr`; `what` says what was expected.
    pub fn parse<T: FromStr>(&self, faults: &mut Faults, what: &str) -> Option<T> {
        let value = match &self.node.value {
            Value::Scalar { text, .. } => text.trim().parse().ok(),
            _ => None,
        };
        if value.is_none() {
            self.expected(faults, what);
        }
        value
    }

    /// A duration: `15s`, `250ms`, or a number of seconds.
    pub fn duration(&self, faults: &mut Faults) -> Option<Duration> {
        let value = match &self.node.value {
            Value::Scalar { text, .. } => parse_duration(text),
            _ => None,
        };
        if value.is_none() {
            self.expected(faults, "a duration such as 250ms, 15s, 1m30s, or a number of seconds");
        }
        value
    }

    /// A size: `64KiB`, `10MB`, or a number of bytes.
    pub fn size(&self, faults: &mut Faults) -> Option<u64> {
        let value = match &self.node.value {
            Value::Scalar { text, .. } => parse_size(text),
            _ => None,
        };
        if value.is_none() {
            self.expected(faults, "a size such as 64KiB, 10MB, or a number of bytes");
        }
        value
    }

    /// One of a closed set of words.
    pub fn one_of<T: Copy>(&self, faults: &mut Faults, choices: &[(&str, T)]) -> Option<T> {
        let text = self.str(faults)?;
        let found = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.expected(faults, &format!("one of: {}", names.join(", ")));
        }
        found
    }
}

/// The entries of a map, taken one by one by name; [`Fields::finish`] then notes those that nobody knows.
#[derive(Debug)]
pub struct Fields<'n> {
    entries: &'n [(Key, Node)],
    path: Arc<str>,
    place: Place,
    is_map: bool,
    known: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// The value of a key, which thereby is a known one; `None` where it is absent. A key that is written
    /// without a value (null) counts as absent.
    pub fn take(&mut self, name: &'static str) -> Option<At<'n>> {
        self.know(&[name]);
        let (key, node) = self.entries.iter().find(|(key, _)| &*key.name == name)?;
        (!node.is_null()).then(|| At { node, path: self.path_of(&key.name) })
    }

    /// All entries with their names, for maps whose keys are the user's; nothing is unknown then.
    pub fn all(&self) -> impl Iterator<Item = (&'n Key, At<'n>)> + use<'n> {
        let path = self.path.clone();
        self.entries.iter().map(move |(key, node)| (key, At { node, path: join(&path, &key.name) }))
    }

    /// The path of an entry.
    pub fn path_of(&self, name: &str) -> Arc<str> {
        join(&self.path, name)
    }

    /// The path of the map itself.
    pub fn path(&self) -> &Arc<str> {
        &self.path
    }

    /// Where the map stands.
    pub const fn place(&self) -> Place {
        self.place
    }

    /// Counts names as known that somebody else took from the same map.
    pub fn know(&mut self, names: &[&'static str]) {
        for name in names {
            if !self.known.contains(name) {
                self.known.push(name);
            }
        }
    }

    /// The keys that were asked for, known or not.
    pub fn known(&self) -> &[&'static str] {
        &self.known
    }

    /// Whether it is a map at all, or nothing, which stands for one without entries; what else it is was noted.
    pub const fn is_map(&self) -> bool {
        self.is_map
    }

    /// Notes a missing key, unless that is told already: of what is no map, and of a key that is misspelt.
    pub fn missing(&self, faults: &mut Faults, name: &str, what: &str) {
        let misspelt = |key: &Key| &*key.name != name && nearest(&key.name, &[name]).is_some();
        if self.is_map && !self.unknown().any(|(key, _)| misspelt(key)) {
            faults.error(self.place, self.path_of(name), format!("is missing, expected {what}"));
        }
    }

    /// The entries whose keys were not asked for.
    pub fn unknown(&self) -> impl Iterator<Item = (&'n Key, &'n Node)> + '_ {
        self.entries.iter().filter(|(key, _)| !self.known.contains(&&*key.name)).map(|(key, node)| (key, node))
    }

    /// Notes each key that was not asked for, as an error with the nearest known one.
    pub fn finish(self, faults: &mut Faults) {
        for (key, _) in self.unknown() {
            faults.error(key.place, self.path_of(&key.name), unknown_key(&key.name, &self.known));
        }
    }
}

/// What is said of a key that nobody knows.
pub fn unknown_key(name: &str, known: &[&str]) -> String {
    match nearest(name, known) {
        Some(nearest) => format!("unknown key {}, did you mean `{nearest}`?", quoted(name)),
        None => format!("unknown key {}, expected one of: {}", quoted(name), known.join(", ")),
    }
}

/// Characters of a value that messages repeat, and of a path.
const REPEATED_MAX: usize = 60;
/// See [`REPEATED_MAX`].
const REPEATED_PATH_MAX: usize = 200;

/// A value for a message: in backquotes, or how long it is. What has several lines or many characters says nothing
/// there, and may be a key or another secret that stands in the wrong place.
pub fn quoted(text: &str) -> String {
    let lines = text.lines().count();
    match text.chars().count() {
        _ if lines > 1 => format!("a text of {lines} lines"),
        characters if characters > REPEATED_MAX || is_pem(text) => format!("a text of {characters} characters"),
        _ => format!("`{text}`"),
    }
}

/// Whether a message may repeat a text that should be a path: not where it looks like something else.
pub fn is_path(text: &str) -> bool {
    text.chars().count() <= REPEATED_PATH_MAX && !text.contains(char::is_control) && !is_pem(text)
}

/// Whether a text has the frame of a certificate or a key.
pub fn is_pem(text: &str) -> bool {
    text.contains("-----BEGIN ") || text.contains("-----END ")
}

/// The known word that is meant most likely; `None` where none is near (a third of the letters may differ).
pub fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .map(|known| (distance(name, known), *known))
        .filter(|(distance, known)| *distance <= known.len().max(name.len()).div_ceil(3))
        .min()
        .map(|(_, known)| known)
}

/// Letters to insert, delete, replace or swap with their neighbour (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    strsim::osa_distance(a, b)
}

/// `path.name`, with names that are no plain words in brackets: `headers["x y"]`.
pub fn join(path: &str, name: &str) -> Arc<str> {
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    match (path.is_empty(), plain) {
        (true, true) => name.into(),
        (false, true) => format!("{path}.{name}").into(),
        (_, false) => format!("{path}[{name:?}]").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_collected_and_unknown_keys_named() {
        let node = Node::from_json(&serde_json::json!({"intervall": 5, "timeout": "x", "sites": [1, {"a b": true}]}));
        let mut faults = Faults::default();
        let root = At::new(&node, "");
        let mut fields = root.map(&mut faults);
        assert!(fields.take("interval").is_none());
        assert_eq!(fields.take("timeout").and_then(|at| at.duration(&mut faults)), None);
        let sites = fields.take("sites").unwrap().list(&mut faults);
        assert_eq!(sites[0].parse::<u8>(&mut faults, "a number"), Some(1));
        assert_eq!(root.node.get("timeout").map(|node| At::new(node, "t").one_or_list(&mut faults).len()), Some(1));
        let inner = sites[1].map(&mut faults);
        assert_eq!(&*inner.all().next().unwrap().1.path, "sites[1][\"a b\"]");
        fields.finish(&mut faults);
        At::new(&Node::text("a\tb\u{1b}[0m"), "text").expected(&mut faults, "one line");
        let told: Vec<String> = faults.0.iter().map(|f| format!("{}: {}", f.path, f.message)).collect();
        assert_eq!(
            told,
            [
                "timeout: `x`, expected a duration such as 250ms, 15s, 1m30s, or a number of seconds",
                "intervall: unknown key `intervall`, did you mean `interval`?",
                r"text: `a\tb\u{1b}[0m`, expected one line",
            ]
        );
        assert_eq!(node.to_json()["sites"][1]["a b"], true);
    }
}
