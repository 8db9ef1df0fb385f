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
        for (index, line) in content.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let line = line.strip_prefix("export ").unwrap_or(line);
            let told = match line.split_once('=') {
                Some((name, value)) if is_name(name.trim()) => match unquote(value.trim()) {
                    Some(value) => {
                        self.variables.entry(name.trim().to_owned()).or_insert(value);
                        continue;
                    }
                    None => "is left out: its quote is not closed on the same line",
                },
                _ => "is left out, expected NAME=VALUE",
            };
            self.warnings.push((index as u32 + 1, told.to_owned()));
        }
    }
}

/// The value of a line of `.env`: in single quotes as it is, in double quotes with `\n`, `\"` and `\\`, without
/// quotes up to a comment. `None` where a quote is not closed.
fn unquote(value: &str) -> Option<String> {
    if let Some(rest) = value.strip_prefix('\'') {
        return rest.split_once('\'').map(|(inner, _)| inner.to_owned());
    }
    if let Some(rest) = value.strip_prefix('"') {
        let mut text = String::new();
        let mut letters = rest.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '"' => return Some(text),
                '\\' => match letters.next() {
                    Some('n') => text.push('\n'),
                    Some(escaped @ ('"' | '\\' | '$')) => text.push(escaped),
                    Some(other) => text.extend(['\\', other]),
                    None => text.push('\\'),
                },
                letter => text.push(letter),
            }
        }
        return None;
    }
    Some(value.split(" #").next().unwrap_or_default().trim_end().to_owned())
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
        environment.add(b"# c\nA=2\nexport B=\"x\\n\\\"y\\\"\" # c\nC='a b' \nD=a#b # c\nE=\n1=2\n = \nF=k=v\nG=\"a\nH='b\nI=it's\n");
        let values: Vec<_> = ["A", "B", "C", "D", "E", "F", "I"].map(|name| environment.get(name).unwrap()).into();
        assert_eq!(values, ["1", "x\n\"y\"", "a b", "a#b", "", "k=v", "it's"]);
        let lines: Vec<u32> = environment.warnings.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [7, 8, 10, 11]);
    }
}
