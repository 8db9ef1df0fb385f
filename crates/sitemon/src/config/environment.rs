//! The environment, with what a file `.env` in the working folder adds to it, and what stands for it in texts:
//! `${NAME}` and `${NAME:-default}`.

use super::sources::reason;
use super::yaml::{Step, path};
use sitemon_model::tree::{Faults, Node, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Variables and the working folder, handed in so that tests need not change those of their process.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    /// The folder in which files are looked for; empty: the process's own.
    pub folder: PathBuf,
    /// What is wrong with `.env`: the line (0: the whole file), and what was expected.
    pub warnings: Vec<(u32, String)>,
}

impl Environment {
    /// Of this process.
    pub fn of_process() -> Self {
        let variables =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self::new(variables, PathBuf::new())
    }

    /// These variables in this folder; those of a file `.env` in it are added where the name is not taken.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>, folder: PathBuf) -> Self {
        let mut environment = Self { variables: variables.into_iter().collect(), folder, warnings: Vec::new() };
        let file = environment.folder.join(".env");
        match std::fs::read(&file) {
            Ok(content) => environment.add(&content),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => environment.warnings.push((0, format!("cannot be read: {}", reason(&error)))),
        }
        environment
    }

    /// The value of a variable; one that is set to nothing is `Some("")`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// The value of a variable that is set to something.
    pub fn given(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// All variables whose names begin with `prefix`, with the rest of their names.
    pub fn with_prefix<'e>(&'e self, prefix: &'e str) -> impl Iterator<Item = (&'e str, &'e str)> {
        self.variables.iter().filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value.as_str())))
    }

    /// Adds the lines `NAME=VALUE` of a file.
    fn add(&mut self, content: &[u8]) {
        let Ok(content) = std::str::from_utf8(content) else {
            self.warnings.push((0, "is not UTF-8, so none of it is used".to_owned()));
            return;
        };
        let mut rest = content.trim_start_matches('\u{feff}');
        let mut number = 0;
        while !rest.is_empty() {
            number += 1;
            let line = rest.split('\n').next().unwrap_or_default();
            let mut end = line.len();
            let text = line.trim_start();
            if !text.trim_end().is_empty() && !text.starts_with('#') {
                let text = text.strip_prefix("export ").unwrap_or(text);
                match text.split_once('=').map(|(name, value)| (name.trim(), line.len() - value.len())) {
                    Some((name, at)) if is_name(name) => match value(&rest[at..]) {
                        Some((value, length)) if is_end(&rest[at + length..]) => {
                            end = at + length;
                            self.variables.entry(name.to_owned()).or_insert(value);
                        }
                        _ => self.warnings.push((number, "is left out: its quote is not closed".to_owned())),
                    },
                    _ => self.warnings.push((number, "is left out, expected NAME=VALUE".to_owned())),
                }
            }
            let (read, after) = rest.split_at(end);
            number += read.matches('\n').count() as u32;
            rest = after.split_once('\n').map_or("", |(_, after)| after);
        }
    }
}

/// Whether nothing but a comment stands on the line from here on.
fn is_end(text: &str) -> bool {
    let line = text.split('\n').next().unwrap_or_default().trim();
    line.is_empty() || line.starts_with('#')
}

/// The value with which a text of `.env` begins, and how long it stands there: in single quotes as it is, in double
/// quotes with `\n`, `\"` and `\\`, both over several lines if need be; without quotes up to a comment. `None` where a
/// quote is not closed.
fn value(text: &str) -> Option<(String, usize)> {
    let unspaced = text.trim_start_matches([' ', '\t']);
    let begin = text.len() - unspaced.len();
    if let Some(inner) = unspaced.strip_prefix('\'') {
        return inner.split_once('\'').map(|(inner, _)| (inner.to_owned(), begin + inner.len() + 2));
    }
    let Some(inner) = unspaced.strip_prefix('"') else {
        let line = text.split('\n').next().unwrap_or_default();
        return Some((line.split(" #").next().unwrap_or_default().trim().to_owned(), line.len()));
    };
    let mut value = String::new();
    let mut letters = inner.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, begin + at + 2)),
            '\\' => match letters.next()?.1 {
                'n' => value.push('\n'),
                escaped @ ('"' | '\\' | '$') => value.push(escaped),
                other => value.extend(['\\', other]),
            },
            letter => value.push(letter),
        }
    }
    None
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Puts variables into all texts of a tree; what came from them is secret from then on. A variable that is
/// neither set nor has a default is noted.
pub fn interpolate<'n>(node: &'n mut Node, steps: &mut Vec<Step<'n>>, environment: &Environment, faults: &mut Faults) {
    match &mut node.value {
        Value::Scalar { text, .. } => {
            if let Some(replaced) = text.contains("${").then(|| replace(text, environment)) {
                match replaced {
                    Ok(Cow::Borrowed(_)) => {}
                    Ok(Cow::Owned(new)) => {
                        // `$${` alone is a text like any other.
                        node.secret |= text.replace("$${", "").contains("${");
                        *text = new.into();
                    }
                    Err(message) => faults.error(node.place, path(steps), message),
                }
            }
        }
        Value::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                steps.push(Step::Index(index));
                interpolate(item, steps, environment, faults);
                steps.pop();
            }
        }
        Value::Map(entries) => {
            for (key, node) in entries {
                steps.push(Step::Key(Cow::Borrowed(&key.name)));
                interpolate(node, steps, environment, faults);
                steps.pop();
            }
        }
    }
}

fn replace<'t>(text: &'t str, environment: &Environment) -> Result<Cow<'t, str>, String> {
    let mut replaced = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if rest[..start].ends_with('$') {
            replaced.push_str(&rest[..start - 1]);
            replaced.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        replaced.push_str(&rest[..start]);
        let Some(end) = rest[start..].find('}') else {
            return Err("`${` is not closed by `}`; a literal `${` is written `$${`".to_owned());
        };
        let inner = &rest[start + 2..start + end];
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        if !is_name(name) {
            return Err(format!("`${{{inner}}}` names no variable; a literal `${{` is written `$${{`"));
        }
        match (environment.get(name), default) {
            // As in a shell: with `:-` one that is set to nothing counts as unset.
            (Some("") | None, Some(default)) => replaced.push_str(default),
            (Some(value), _) => replaced.push_str(value),
            (None, None) => {
                return Err(format!(
                    "the variable `{name}` is not set, expected it in the environment, or a default: `${{{name}:-default}}`"
                ));
            }
        }
        rest = &rest[start + end + 1..];
    }
    replaced.push_str(rest);
    Ok(Cow::Owned(replaced))
}

/// Writes texts so that no variables are put into them.
pub fn literal(node: &mut Node) {
    match &mut node.value {
        Value::Scalar { text, .. } => *text = escape(text).into(),
        Value::List(items) => items.iter_mut().for_each(literal),
        Value::Map(entries) => entries.iter_mut().for_each(|(_, node)| literal(node)),
    }
}

/// The text that stands for itself where variables are put in: `${` becomes `$${`.
fn escape(text: &str) -> String {
    text.replace("${", "$${")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        let variables = [("A", "1"), ("EMPTY", "")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        Environment { variables: variables.into(), ..Environment::default() }
    }

    #[test]
    fn variables_in_texts() {
        let environment = environment();
        for (text, expected) in [
            ("x${A}y${A}", "x1y1"),
            ("${EMPTY}", ""),
            ("${EMPTY:-d}", "d"),
            ("${NONE:-}", ""),
            ("${NONE:-a:-b}", "a:-b"),
            ("$${A}", "${A}"),
            ("a$${A} ${A}$", "a${A} 1$"),
            ("$A {}", "$A {}"),
        ] {
            assert_eq!(replace(text, &environment).as_deref(), Ok(expected), "{text}");
            assert_eq!(replace(&escape(text), &environment).as_deref(), Ok(text), "{text} escaped");
        }
        for text in ["${NONE}", "${A", "${a b}", "${}"] {
            assert!(replace(text, &environment).is_err(), "{text}");
        }
    }

    #[test]
    fn lines_of_the_file() {
        let mut environment = environment();
        environment.add(b"# c\nA=2\nexport B=\"x\\n\\\"y\\\"\" # c\nC='a b' \nD=a#b # c\nE=\n1=2\n = \nF=k=v\nG=\"a\nI=it's\n K = 'l\n m'#c\nL=\"n\r\no\" \nM=o'\nN=''");
        let values: Vec<_> =
            ["A", "B", "C", "D", "E", "F", "I", "K", "L", "M", "N"].map(|name| environment.get(name).unwrap()).into();
        assert_eq!(values, ["1", "x\n\"y\"", "a b", "a#b", "", "k=v", "it's", "l\n m", "n\r\no", "o'", ""]);
        let lines: Vec<u32> = environment.warnings.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [7, 8, 10]);
    }
}
