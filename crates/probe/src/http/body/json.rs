//! Expectations on the values of a JSON body, found by `JSONPath` (RFC 9535).

use super::pattern::{self, Compiled};
use crate::http::judge::quoted;
use crate::http::spec::ExpectJson;
use serde_json::{Number, Value};
use sitemon_model::{Cause, Code};
use std::sync::Arc;

/// An expectation with its pattern compiled.
#[derive(Debug)]
pub struct Expected {
    expect: ExpectJson,
    matches: Option<Arc<Compiled>>,
    cost: Cost,
}

impl Expected {
    /// Compiles its pattern; the message says what is wrong with it.
    pub fn compile(expect: &ExpectJson) -> Result<Self, String> {
        let matches = match &expect.test.matches {
            Some(pattern) => Some(
                pattern::compile(&pattern.0).map_err(|error| format!("json {}: matches: {error}", expect.path_text))?,
            ),
            None => None,
        };
        Ok(Self { expect: expect.clone(), matches, cost: Cost::of(&expect.path_text) })
    }

    /// Whether its path can be followed through a text at once, without keeping others waiting.
    pub fn is_affordable(&self, size: Size) -> bool {
        self.cost.visits(size) <= VISITS_MAX
    }
}

/// Values that a path may visit: some hundred milliseconds, and some ten megabytes of what it found on the way.
const VISITS_MAX: u64 = 4 << 20;
/// Visits that compiling a pattern of `match()` or `search()` counts as; that is done anew for each value.
const PATTERN_VISITS: u64 = 100;
/// The same for a pattern that stands in the body itself, and so may be a large one.
const FOREIGN_PATTERN_VISITS: u64 = 1 << 20;

/// What makes a path dear, by its text.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Cost {
    /// `..`: each after the first, or within a filter, visits what is below a value again for each value above it.
    descents: u32,
    /// Whether there is a filter.
    filters: bool,
    /// `$` within a filter, followed by what finds many: the whole text for each value.
    roots: u32,
    /// Calls of `match()` and `search()`.
    patterns: u64,
}

impl Cost {
    fn of(path: &str) -> Self {
        let mut cost = Self::default();
        let mut quote = None;
        let mut characters = path.char_indices().peekable();
        while let Some((at, character)) = characters.next() {
            match (quote, character) {
                (Some(_), '\\') => drop(characters.next()),
                (Some(end), _) => {
                    if character == end {
                        quote = None;
                    }
                }
                (None, '\'' | '"') => quote = Some(character),
                (None, '.') if path[at..].starts_with("..") => {
                    characters.next();
                    cost.descents += 1;
                }
                (None, '?') => cost.filters = true,
                (None, '$') if at > 0 => {
                    let query = path[at..].split([' ', ')', ',', '=', '<', '>', '&', '|']).next().unwrap_or_default();
                    cost.roots += u32::from(query.contains("..") || query.contains('*') || query.contains('?'));
                }
                (None, 'm' | 's') if ["match(", "search("].iter().any(|call| path[at..].starts_with(call)) => {
                    let arguments = path[at..].split_once(',').map_or("", |(_, rest)| rest.trim_start());
                    let literal = arguments.starts_with(['\'', '"']);
                    cost.patterns += if literal { PATTERN_VISITS } else { FOREIGN_PATTERN_VISITS };
                }
                (None, _) => {}
            }
        }
        cost
    }

    fn visits(self, size: Size) -> u64 {
        let again = u64::from(size.depth).saturating_pow(self.descents.saturating_sub(u32::from(!self.filters)));
        let whole = size.values.saturating_pow(self.roots);
        size.values.saturating_mul(again).saturating_mul(whole).saturating_mul(1 + self.patterns)
    }
}

/// How much a JSON text holds, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Values of all kinds.
    pub values: u64,
    /// The most brackets that are open at one place.
    pub depth: u32,
    /// Bytes that the text and its values take.
    pub bytes: usize,
}

/// Bytes that the values of a JSON text may take, of the 64 MiB that all checks share by default. A megabyte of
/// text stays below it, unless its values are of one or two bytes each.
pub const PARSED_BYTES_MAX: usize = 48 << 20;

/// Bytes that a JSON text and its values take at most: each comma and opening bracket may stand for a value,
/// each colon says that one is in an object, and what holds them grows by doubling.
pub fn size_of_json(text: &str) -> Size {
    const VALUE: usize = 2 * size_of::<Value>();
    const ENTRY: usize = 2 * (size_of::<Value>() + size_of::<String>() + 2 * size_of::<usize>());
    let (mut values, mut entries) = (1usize, 0);
    let (mut open, mut depth) = (0u32, 0);
    for byte in text.bytes() {
        match byte {
            b',' => values += 1,
            b'[' | b'{' => {
                values += 1;
                open += 1;
                depth = depth.max(open);
            }
            b']' | b'}' => open = open.saturating_sub(1),
            b':' => entries += 1,
            _ => {}
        }
    }
    let bytes = 2 * text.len() + values.saturating_sub(entries) * VALUE + entries * ENTRY;
    // Deeper ones are not read.
    Size { values: values as u64, depth: depth.clamp(1, 128), bytes }
}

/// The causes of all expectations that do not hold on a text that was received whole.
pub fn judge(text: &str, expected: &[Expected], failed: &mut Vec<Cause>) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let root: Value = match serde_json::from_str(text) {
        Ok(root) => root,
        Err(error) => {
            failed.push(Cause::new(Code::BodyJson, format!("not JSON: {error}")));
            return;
        }
    };
    for expectation in expected {
        expectation.judge(&root, failed);
    }
}

impl Expected {
    fn judge(&self, root: &Value, failed: &mut Vec<Cause>) {
        let path = &self.expect.path_text;
        let found = self.expect.path.query(root);
        let mut fail = |what: String| failed.push(Cause::new(Code::BodyJson, format!("{path} {what}")));
        match (found.is_empty(), self.expect.test.exists) {
            (true, Some(false)) => return,
            (true, _) => return fail("finds nothing".to_owned()),
            (false, Some(false)) => return fail("exists, expected that it does not".to_owned()),
            (false, _) => {}
        }
        // One value that does not fit tells enough.
        for value in found.iter() {
            if let Some(expected) = self.unfit(value) {
                return fail(format!("is {}, expected {expected}", shown(value)));
            }
        }
    }

    /// What was expected of a value that does not fit.
    fn unfit(&self, value: &Value) -> Option<String> {
        let test = &self.expect.test;
        if let Some(expected) = &test.equals
            && !equal(value, expected)
        {
            return Some(shown(expected));
        }
        if let Some(expected) = &test.not_equals
            && equal(value, expected)
        {
            return Some(format!("anything but {}", shown(expected)));
        }
        if let Some(pattern) = &self.matches {
            let fits = match value {
                Value::String(value) => pattern.regex().is_match(value),
                other => pattern.regex().is_match(&other.to_string()),
            };
            if !fits {
                return Some(format!("a match of {}", quoted(pattern.text())));
            }
        }
        let number = value.as_f64();
        if let Some(bound) = test.less
            && number.is_none_or(|number| number >= bound)
        {
            return Some(format!("less than {bound}"));
        }
        if let Some(bound) = test.greater
            && number.is_none_or(|number| number <= bound)
        {
            return Some(format!("greater than {bound}"));
        }
        None
    }
}

/// A value as it stands in a message.
fn shown(value: &Value) -> String {
    quoted(&value.to_string())
}

/// Equal as JSON: numbers by value (3 equals 3.0), objects in any order.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => equal_numbers(a, b),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        _ => a == b,
    }
}

fn equal_numbers(a: &Number, b: &Number) -> bool {
    let whole = |number: &Number| number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a.as_f64() == b.as_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_cost_too_much_are_told_by_their_text() {
        let values = |count: usize, depth: usize| {
            size_of_json(&format!("{}{}1{}", "[".repeat(depth), "1,".repeat(count), "]".repeat(depth)))
        };
        let affordable = |path: &str, size: Size| Cost::of(path).visits(size) <= VISITS_MAX;
        let (small, large, deep) = (values(1000, 3), values(500_000, 3), values(500_000, 100));
        for path in ["$.a.b[0]", "$..a", "$..*", "$[?@.a == 1]", "$.list[?@.id == $.current].name", "$['..']..b"] {
            assert!(affordable(path, deep), "{path}");
        }
        for path in ["$..a..b", "$[?@..a]", "$[?match(@.a, 'x')]", "$[?@ == $..b]", "$.a[?search(@, @)]"] {
            assert!(affordable(path, values(1, 1)), "{path}");
            assert!(!affordable(path, deep), "{path}");
        }
        assert!(affordable("$..a..b", large) && affordable("$[?match(@.a, 'x')]", small));
        assert!(!affordable("$[?match(@.a, @.b)]", small));
    }
}
