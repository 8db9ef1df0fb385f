//! Tells the program its version: that of the package, and the commit where there is one to read.
//!
//! `SITEMON_COMMIT` names it where the sources come without their history, as in a container image.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SITEMON_COMMIT");
    // A debug build keeps the commit that it saw first: to follow each one would build everything again for it.
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        for name in ["HEAD", "logs/HEAD"] {
            if let Some(path) = git(&["rev-parse", "--git-path", name]) {
                println!("cargo::rerun-if-changed={path}");
            }
        }
    }
    let commit = env::var("SITEMON_COMMIT")
        .ok()
        .filter(|commit| !commit.is_empty())
        .or_else(|| git(&["log", "-1", "--format=%h %cs", "--abbrev=12"]));
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    match commit {
        Some(commit) => println!("cargo::rustc-env=SITEMON_VERSION={version} ({commit})"),
        None => println!("cargo::rustc-env=SITEMON_VERSION={version}"),
    }
}

/// The first line that git says, if it is there and this is one of its folders.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let line = String::from_utf8(output.stdout).ok()?.lines().next()?.trim().to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}
