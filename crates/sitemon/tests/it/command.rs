//! Runs the real binary in a folder of its own, and shows what it did in one text: exit code, stdout, stderr.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A folder for one test, with the commands that run in it.
pub struct Folder {
    folder: tempfile::TempDir,
}

impl Folder {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    /// With this configuration as `sitemon.yaml`.
    pub fn with(configuration: &str) -> Self {
        let folder = Self::new();
        folder.write("sitemon.yaml", configuration);
        folder
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, text).expect(name);
        path
    }

    /// The command, in this folder and in an environment of its own.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sitemon"));
        command
            .args(line.split(' ').filter(|argument| !argument.is_empty()))
            .current_dir(self.path())
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub fn run(&self, line: &str) -> Output {
        self.command(line).output().expect("the binary runs")
    }

    /// Exit code, stdout and stderr in one text.
    pub fn told(&self, line: &str) -> String {
        told(&self.run(line))
    }

    /// Exit code and stdout; whatever stands on stderr is part of the message of a failing test only.
    pub fn data(&self, line: &str) -> (i32, String) {
        let output = self.run(line);
        let stdout = String::from_utf8(output.stdout.clone()).expect("UTF-8");
        assert!(output.status.code().is_some(), "{line}: {}", told(&output));
        (output.status.code().unwrap_or(-1), stdout)
    }

    /// The JSON values of stdout, one a line.
    pub fn json(&self, line: &str) -> (i32, Vec<serde_json::Value>) {
        let (code, stdout) = self.data(line);
        let parse = |text: &str| serde_json::from_str(text).unwrap_or_else(|error| panic!("{line}: {error}: {text}"));
        (code, stdout.lines().map(parse).collect())
    }
}

/// Exit code, stdout and stderr in one text.
pub fn told(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().map_or_else(|| output.status.to_string(), |code| format!("exit {code}"));
    let mut told = code + "\n";
    for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        if !bytes.is_empty() {
            let _ = write!(told, "--- {name}\n{}", text(bytes));
            if !told.ends_with('\n') {
                told.push('\n');
            }
        }
    }
    told
}

/// Replaces what differs from run to run: measured times, bars of phases, ports.
pub fn steady(text: &str) -> String {
    let mut text = text.to_owned();
    for (pattern, instead) in [
        (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
        (r"\d+(\.\d+)? (µs|ms|s)\b", "TIME"),
        (r"(?m)^ +[░▒▞▓▪█▄✗]+$", "  BAR"),
    ] {
        text = regex::Regex::new(pattern).expect(pattern).replace_all(&text, instead).into_owned();
    }
    text
}
