//! Writes YAML.

use sitemon_model::tree::{Node, Value};
use std::fmt::Write as _;

/// The text of a tree in block style; texts that could be taken for something else are quoted.
pub fn yaml(node: &Node) -> String {
    let mut text = String::new();
    match &node.value {
        Value::Map(entries) if !entries.is_empty() => map(node, 0, &mut text),
        Value::List(items) if !items.is_empty() => list(node, 0, &mut text),
        _ => {
            inline(node, &mut text);
            text.push('\n');
        }
    }
    text
}

fn map(node: &Node, indent: usize, text: &mut String) {
    let Value::Map(entries) = &node.value else { return };
    for (index, (key, node)) in entries.iter().enumerate() {
        // The first line of a list's item stands behind its dash.
        if index > 0 || !text.ends_with("- ") {
            spaces(indent, text);
        }
        scalar(&key.name, looks_like_text(&key.name), text);
        text.push(':');
        value(node, indent, text);
    }
}

fn list(node: &Node, indent: usize, text: &mut String) {
    let Value::List(items) = &node.value else { return };
    for node in items {
        spaces(indent, text);
        text.push_str("- ");
        match &node.value {
            Value::Map(entries) if !entries.is_empty() => map(node, indent + 2, text),
            _ => {
                inline(node, text);
                text.push('\n');
            }
        }
    }
}

fn spaces(count: usize, text: &mut String) {
    text.extend(std::iter::repeat_n(' ', count));
}

/// What stands behind a key's colon, to the end of its last line.
fn value(node: &Node, indent: usize, text: &mut String) {
    match &node.value {
        Value::Map(entries) if !entries.is_empty() => {
            text.push('\n');
            map(node, indent + 2, text);
        }
        Value::List(items) if items.iter().any(|item| !matches!(item.value, Value::Scalar { .. })) || long(items) => {
            text.push('\n');
            list(node, indent + 2, text);
        }
        _ => {
            text.push(' ');
            inline(node, text);
            text.push('\n');
        }
    }
}

/// Whether a list of scalars is too long for a line.
fn long(items: &[Node]) -> bool {
    items
        .iter()
        .map(|item| if let Value::Scalar { text, .. } = &item.value { text.len() + 4 } else { 0 })
        .sum::<usize>()
        > 80
}

/// A value on one line, in flow style where it is no scalar.
fn inline(node: &Node, text: &mut String) {
    match &node.value {
        Value::Scalar { .. } if node.is_null() => text.push_str("null"),
        Value::Scalar { text: value, quoted } => scalar(value, !quoted || looks_like_text(value), text),
        Value::List(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                text.push_str(if index > 0 { ", " } else { "" });
                inline(item, text);
            }
            text.push(']');
        }
        Value::Map(entries) => {
            text.push('{');
            for (index, (key, node)) in entries.iter().enumerate() {
                text.push_str(if index > 0 { ", " } else { "" });
                scalar(&key.name, looks_like_text(&key.name), text);
                text.push_str(": ");
                inline(node, text);
            }
            text.push('}');
        }
    }
}

/// A scalar, plainly where that is wanted and every reader understands it.
fn scalar(value: &str, plain: bool, text: &mut String) {
    if plain && can_be_plain(value) {
        text.push_str(value);
    } else if value.chars().any(|c| c.is_control() || matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}')) {
        text.push('"');
        for letter in value.chars() {
            match letter {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\r' => text.push_str("\\r"),
                '\u{2028}' | '\u{2029}' | '\u{feff}' => drop(write!(text, "\\u{:04x}", letter as u32)),
                letter if letter.is_control() => drop(write!(text, "\\x{:02x}", letter as u32)),
                letter => text.push(letter),
            }
        }
        text.push('"');
    } else {
        text.push('\'');
        text.push_str(&value.replace('\'', "''"));
        text.push('\'');
    }
}

/// Whether a plain scalar of these letters means itself, in lists and maps of either style.
fn can_be_plain(value: &str) -> bool {
    let first = value.chars().next();
    first.is_some_and(|c| {
        c.is_alphanumeric()
            || matches!(c, '/' | '_' | '.' | '$' | '^' | '(' | '+' | '\\')
            || (c == '-' && value.len() > 1 && !value.starts_with("- ") && !value.starts_with("---"))
    }) && !value.contains(": ")
        && !value.contains(" #")
        && !value.ends_with([':', ' '])
        && !value.contains(['[', ']', '{', '}', ','])
        && !value.chars().any(|c| c.is_control() || matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}'))
        && !value.starts_with("...")
}

/// Whether a plain scalar of these letters is a text to every reader of YAML 1.1 and 1.2, and no number, date,
/// truth or nothing.
fn looks_like_text(value: &str) -> bool {
    let lower = value.to_ascii_lowercase();
    let word =
        matches!(&*lower, "" | "~" | "null" | "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n" | "<<" | "=");
    let first_counts = value.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'));
    // `5s` and `200-299` are texts to everyone; digits with letters that numbers and dates have are not.
    let unit = value.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let numeric =
        first_counts && !matches!(unit, "us" | "ms" | "s" | "m" | "h" | "d" | "KiB" | "MiB" | "GiB" | "TiB" | "y");
    !word && !numeric
}
