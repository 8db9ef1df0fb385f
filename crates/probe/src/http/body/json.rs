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
        Ok(Self { expect: expect.clone(), matches })
    }
}

/// Bytes that the values of a JSON text may take, of the 64 MiB that all checks share by default. A megabyte of
/// text stays below it, unless its values are of one or two bytes each.
pub const PARSED_BYTES_MAX: usize = 48 << 20;

/// Bytes that a JSON text and its values take at most: each comma and opening bracket may stand for a value,
/// each colon says that one is in an object, and what holds them grows by doubling.
pub fn parsed_bytes(text: &str) -> usize {
    const VALUE: usize = 2 * size_of::<Value>();
    const ENTRY: usize = 2 * (size_of::<Value>() + size_of::<String>() + 2 * size_of::<usize>());
    let (mut values, mut entries) = (1usize, 0);
    for byte in text.bytes() {
        match byte {
            b',' | b'[' | b'{' => values += 1,
            b':' => entries += 1,
            _ => {}
        }
    }
    2 * text.len() + values.saturating_sub(entries) * VALUE + entries * ENTRY
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
