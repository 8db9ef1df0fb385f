//! The pages of docs/reference say what the program says. `UPDATE_REFERENCE=1` writes them anew.

use std::fs;
use std::path::Path;

fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference").join(name);
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        fs::create_dir_all(path.parent().expect("a folder")).expect("the folder");
        fs::write(&path, text).expect("the page");
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    let differs = there.lines().zip(text.lines()).position(|(old, new)| old != new);
    assert!(
        there == text,
        "docs/reference/{name} is not fresh (line {:?}): UPDATE_REFERENCE=1 cargo test -p sitemon reference",
        differs.map(|line| line + 1)
    );
}

#[test]
fn the_commands_are_fresh() {
    check("commands.md", &sitemon::cli::reference::commands_markdown());
}

#[test]
fn the_causes_are_fresh() {
    check("causes.md", &sitemon::cli::reference::causes_markdown());
}
