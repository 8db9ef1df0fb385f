//! Configurations: what is wrong is told with its place, and what is right means the same however it is written.

use crate::{Kind, Target};
use sitemon::config::{self, Environment, Source};
use sitemon_model::tree::Fault;
use std::path::PathBuf;
use tempfile::TempDir;

pub(crate) const NATIVE: Kind = Kind {
    name: "config",
    about: "A native configuration, in YAML or JSON.",
    tokens: TOKENS,
    open: || Ok(Box::new(Configuration::new()?)),
};

pub(crate) const EARLIER: Kind = Kind {
    name: "earlier",
    about: "A configuration of an earlier system, in YAML or JSON.",
    tokens: TOKENS,
    open: || Ok(Box::new(Configuration::new()?)),
};

const TOKENS: &[&[u8]] = &[
    b"sites:\n  - ",
    b"url: https://a.example/",
    b"url: http://[::1]:80/",
    b"name: a\n",
    b"interval: 5s",
    b"timeout: 1m30s",
    b"jitter: 250ms",
    b"defaults:\n  ",
    b"include: ['*.yaml']",
    b"request:\n      ",
    b"expect:\n      ",
    b"headers: {a: b}",
    b"auth: {basic: {username: a, password: b}}",
    b"auth: {bearer: ${TOKEN}}",
    b"{file: secret}",
    b"${TOKEN}",
    b"${GONE:-x}",
    b"$${",
    b"body: {matches: ['a+']}",
    b"extract: {a: '(b)'}",
    b"json: [{path: $.a, equals: 1}]",
    b"status: [200-299, 2xx, 404]",
    b"certificate: {degraded: 14d, down: 1d}",
    b"connect_to: 127.0.0.1:80",
    b"proxy: socks5h://u:p@h:1",
    b"resolver: [127.0.0.1:53]",
    b"ip: 6",
    b"plugins: all",
    b"plugins: [{html-stats: {window: 14d}}]",
    b"labels: {a: b}",
    b"limits: {memory: 64MiB}",
    b"network: {refuse: [private, 10.0.0.0/8]}",
    b"store: {kind: sqlite}",
    b"monitors:\n  - ",
    b"targets:\n  - ",
    b"monitor: ",
    b"kafka: {}",
    b"pattern: ",
    b"regexp: ",
    b"check_interval_seconds: 5",
    b"pollfreq: 5",
    b"&a ",
    b"*a",
    b"<<: *a",
    b"x-a: &b {}",
    b"!!str ",
    b"|\n  ",
    b">-\n  ",
    b"? ",
    b"---\n",
    b"...\n",
    b"# ",
    b"- ",
    b": ",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"\\u0000\"",
    b"\"\\ud800\"",
    b"\xef\xbb\xbf",
    b"\xc2\x85",
    b"\xe2\x80\xa8",
    b"\xf0\x9f\x92\xa9",
    b"(?i)",
    b"(?=a)",
    b"\\d{1,1000}",
    b"null",
    b"~",
    b"'",
    b"\t",
];

/// Paths that are no files, and would be read for ever.
const LEFT_ASIDE: &[&[u8]] = &[b"/dev", b"/proc", b"/sys"];

struct Configuration {
    folder: TempDir,
    file: PathBuf,
    again: PathBuf,
    environment: Environment,
}

impl Configuration {
    fn new() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("secret"), "s3cret\n")?;
        let variables = [("TOKEN", "t0ken"), ("EMPTY", "")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        Ok(Self {
            file: folder.path().join("a.conf"),
            again: folder.path().join("b.conf"),
            environment: Environment::new(variables, folder.path().to_owned()),
            folder,
        })
    }

    /// What is in force, and the native sites in words that a reader cannot take for others.
    fn shown(&self, file: &std::path::Path) -> Result<String, Vec<String>> {
        let source = Source { file: Some(file.to_owned()), local: false };
        config::show_in(&source, &self.environment).map(|shown| shown.yaml).map_err(|error| error.lines())
    }
}

impl Target for Configuration {
    fn run(&mut self, input: &[u8]) -> Result<String, String> {
        if LEFT_ASIDE.iter().any(|path| input.windows(path.len()).any(|window| window == *path)) {
            return Ok("left aside".to_owned());
        }
        std::fs::write(&self.file, input).map_err(|error| format!("no input could be written: {error}"))?;
        let text = std::str::from_utf8(input).ok();
        let (sources, faults) = config::check_in(&self.file, &self.environment);
        for fault in &faults {
            let told = config::render(&sources, fault);
            if told.contains('\n') || fault.message.is_empty() {
                return Err(format!("a fault that is not one line: {told:?}"));
            }
            if let Some(text) = text.filter(|_| fault.place.source == 0) {
                place(fault, text)?;
            }
        }
        let bad = faults.iter().any(|fault| !fault.warning);
        let shown = self.shown(&self.file);
        if let (false, Err(lines)) = (bad, &shown) {
            return Err(format!("right when it is checked, wrong when it is loaded: {lines:?}"));
        }
        if let Some(text) = text {
            same_as_json(text)?;
        }
        let converted = config::convert_in(&self.file, &self.environment);
        if let (Ok(shown), Ok(converted)) = (&shown, &converted) {
            std::fs::write(&self.again, &converted.yaml)
                .map_err(|error| format!("nothing could be written: {error}"))?;
            match self.shown(&self.again) {
                Ok(again) if again == *shown => {}
                Ok(again) => {
                    return Err(format!(
                        "converted it means something else:\n{shown}\n--\n{again}\n--\n{}",
                        converted.yaml
                    ));
                }
                Err(lines) => return Err(format!("converted it is wrong: {lines:?}\n{}", converted.yaml)),
            }
        }
        let mut told: Vec<&str> = faults.iter().map(|fault| &*fault.message).collect();
        told.truncate(3);
        let keys = shown.as_ref().map(|shown| {
            shown.lines().filter_map(|line| line.split(':').next()).map(str::trim).collect::<Vec<_>>().join(" ")
        });
        Ok(format!("{} {} {}", told.join("; "), converted.is_ok(), keys.unwrap_or_default())
            .replace(&*self.folder.path().to_string_lossy(), ""))
    }
}

/// A fault stands in the text, or right behind it.
fn place(fault: &Fault, text: &str) -> Result<(), String> {
    let (line, column) = (fault.place.line as usize, fault.place.column as usize);
    // Lines of YAML end by a carriage return too.
    let lines = text.replace("\r\n", "\n").replace('\r', "\n");
    let width = lines.split('\n').nth(line.saturating_sub(1)).map_or(0, |line| line.chars().count());
    if line > lines.split('\n').count() + 1 || column > width + 1 {
        return Err(format!("a fault beyond the text: {fault:?}, the line has {width} characters"));
    }
    Ok(())
}

/// A text in JSON is read as any other reader of JSON does.
fn same_as_json(text: &str) -> Result<(), String> {
    let Ok(json) = serde_json::from_str::<serde_json::Value>(text) else { return Ok(()) };
    let Some(map) = json.as_object() else { return Ok(()) };
    if map.keys().any(|key| key.starts_with("x-") || key == "<<") {
        return Ok(());
    }
    match config::tree(text) {
        // Two of one key are refused here, and the last is taken there.
        None => Ok(()),
        Some(tree) if tree.to_json() == json => Ok(()),
        Some(tree) => Err(format!("JSON that is read otherwise: {} instead of {json}", tree.to_json())),
    }
}
