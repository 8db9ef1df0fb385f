//! The house is in order: every driver stands in its table, every path that the documents name exists,
//! every cause has its advice.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The names of the files and folders right below `crates/<seam>/src` that export a `KIND`.
fn drivers(seam: &str) -> BTreeSet<String> {
    let exports = |file: &Path| fs::read_to_string(file).is_ok_and(|text| text.contains("const KIND: Kind"));
    fs::read_dir(root().join("crates").join(seam).join("src"))
        .expect("the crate's sources")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| exports(path) || exports(&path.join("mod.rs")))
        .map(|path| path.file_stem().expect("a name").to_string_lossy().replace('_', "-"))
        .collect()
}

#[test]
fn every_driver_stands_in_its_table() {
    fn names<K>(kinds: &[K], name: impl Fn(&K) -> &'static str) -> BTreeSet<String> {
        let names: BTreeSet<String> = kinds.iter().map(|kind| name(kind).to_owned()).collect();
        assert_eq!(names.len(), kinds.len(), "two kinds of one name: {names:?}");
        names
    }
    assert_eq!(drivers("probe"), names(sitemon_probe::KINDS, |kind| kind.name));
    assert_eq!(drivers("plugin"), names(sitemon_plugin::KINDS, |kind| kind.name));
    assert_eq!(drivers("bus"), names(sitemon_bus::KINDS, |kind| kind.name));
    assert_eq!(drivers("store"), names(sitemon_store::KINDS, |kind| kind.name));
}

/// Whether a path of the documents exists; a bare file name may stand anywhere below `crates`.
fn exists(path: &str) -> bool {
    fn below(folder: &Path, name: &str) -> bool {
        let Ok(entries) = fs::read_dir(folder) else { return false };
        entries.flatten().map(|entry| entry.path()).any(|path| path.ends_with(name) || below(&path, name))
    }
    root().join(path).exists() || (!path.contains('/') && below(&root().join("crates"), path))
}

/// What of a code span is a path of this repository: no blanks or placeholders, and its first part is something that
/// stands at the top.
fn path_in(span: &str) -> Option<&str> {
    let path = span.split("::").next()?;
    let placeholder = |c: char| c.is_whitespace() || "<>*{}$|".contains(c);
    let first = path.split('/').next()?;
    let known = ["crates", "docs", "scripts", "tests", ".ci", "Makefile", "Cargo.toml", "Cargo.lock"].contains(&first)
        || (!path.contains('/') && [".md", ".toml", ".yaml", ".rs"].iter().any(|end| path.ends_with(end)));
    (known && !path.contains(placeholder)).then_some(path)
}

#[test]
fn every_path_that_the_documents_name_exists() {
    for document in ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"] {
        let text = fs::read_to_string(root().join(document)).expect(document);
        // Every second piece between backticks is a code span; what follows `](` is the target of a link.
        let prose: String = text.split("```").step_by(2).collect();
        let spans = prose.split('`').skip(1).step_by(2).filter_map(path_in);
        let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        let paths: BTreeSet<&str> =
            spans.chain(links.filter(|link| !link.is_empty() && !link.contains("://"))).collect();
        assert!(paths.len() > 2, "{document}: hardly any path was understood: {paths:?}");
        let missing: Vec<_> = paths.iter().filter(|path| !exists(path)).collect();
        assert!(missing.is_empty(), "{document} names what is not there: {missing:?}");
    }
}

#[test]
fn every_cause_has_its_advice() {
    let text = fs::read_to_string(root().join("docs/causes.md")).expect("docs/causes.md");
    for code in sitemon_model::Code::ALL {
        let row = format!("| `{code}` | {} | ", code.number());
        assert!(text.contains(&row), "docs/causes.md has no row that begins with {row}");
    }
    let rows = text.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, sitemon_model::Code::ALL.len(), "docs/causes.md has rows of no cause");
}

/// The YAML blocks of a document.
fn examples(document: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(document)).expect(document);
    text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).map(str::to_owned).collect()
}

#[test]
fn every_example_is_a_valid_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut files = vec![("sitemon.yaml".to_owned(), root().join("sitemon.yaml"))];
    for document in ["README.md", "docs/configuration.md"] {
        for (number, example) in examples(document).into_iter().enumerate() {
            let path = folder.path().join(format!("{}-{number}.yaml", document.replace('/', "-")));
            fs::write(&path, example).expect("an example");
            files.push((format!("{document}, example {number}"), path));
        }
    }
    assert!(files.len() > 5);
    for (what, path) in files {
        let done = std::process::Command::new(env!("CARGO_BIN_EXE_sitemon"))
            .args(["config", "check"])
            .arg(&path)
            .current_dir(folder.path())
            .output()
            .expect("the binary");
        assert!(done.status.success(), "{what}: {}", String::from_utf8_lossy(&done.stderr));
    }
}
