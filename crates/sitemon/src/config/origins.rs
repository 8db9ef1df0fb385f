//! What a configuration was read from: its files, those that it names, and what its patterns of `include` matched, all
//! as they were then. So whoever watches them can tell a change from a touch, whenever it came.

use std::collections::{BTreeSet, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

/// Folders that are watched for one configuration; what is new beyond them is seen at the next SIGHUP.
pub const FOLDERS_MAX: usize = 4096;

/// Files and patterns, as they were when the configuration was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    files: Vec<(PathBuf, Mark)>,
    known: HashSet<PathBuf>,
    patterns: Vec<(String, Vec<PathBuf>)>,
}

/// What tells a file from its next version; `None` where it is not there.
type Mark = Option<(u64, u64, u64, i64, i64, i64, i64)>;

impl Origins {
    /// Notes a file that is about to be read, or would be if it were there.
    pub fn file(&mut self, path: &Path) {
        if !self.known.contains(path) {
            self.known.insert(path.to_owned());
            self.files.push((path.to_owned(), mark(path)));
        }
    }

    /// Notes a pattern, which is one of absolute paths or of such as begin in the working folder, and what it matched.
    pub fn pattern(&mut self, pattern: &str, matches: Vec<PathBuf>) {
        self.patterns.push((pattern.to_owned(), matches));
    }

    /// The files, the main one first.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// Whether anything is otherwise than it was.
    pub fn have_changed(&self) -> bool {
        self.files.iter().any(|(path, before)| mark(path) != *before)
            || self.patterns.iter().any(|(pattern, before)| matched(pattern).is_ok_and(|now| now != *before))
    }

    /// The same files and patterns, as they are now.
    #[must_use]
    pub fn as_they_are(&self) -> Self {
        let mut now = Self::default();
        for (path, _) in &self.files {
            now.file(path);
        }
        for (pattern, _) in &self.patterns {
            now.pattern(pattern, matched(pattern).unwrap_or_default());
        }
        now
    }

    /// The folders in which a change can be one of these, at most [`FOLDERS_MAX`]: those of the files and of what links
    /// point to, and those that a part of a pattern matches. Where one is missing, the nearest above it.
    pub fn folders(&self) -> BTreeSet<PathBuf> {
        let mut folders = BTreeSet::new();
        let mut add = |folder: &Path| {
            let folder = absolute(folder);
            // A link on the way may come to point elsewhere.
            let links = folder.ancestors().filter(|folder| folder.is_symlink());
            folders.extend(links.filter_map(|link| Some(link.parent()?.to_owned())));
            if let Some(there) = folder.ancestors().find(|folder| folder.is_dir()) {
                folders.insert(there.to_owned());
            }
            folders.len() < FOLDERS_MAX
        };
        for name in self.names() {
            if name.parent().is_some_and(|parent| !add(parent)) {
                return folders;
            }
        }
        for (pattern, _) in &self.patterns {
            let mut part = PathBuf::new();
            let mut components = Path::new(pattern).components().peekable();
            while let Some(component) = components.next() {
                let fixed = !matches!(component, Component::Normal(name) if has_wildcard(&name.to_string_lossy()));
                // From the first wildcard on, whatever fits the pattern so far may get what fits the rest.
                if !fixed && !add(&part) {
                    return folders;
                }
                part.push(component);
                if components.peek().is_none() || fixed && !has_wildcard(&part.to_string_lossy()) {
                    continue;
                }
                let Ok(found) = glob::glob(&part.to_string_lossy()) else { break };
                for folder in found.flatten().filter(|path| path.is_dir()) {
                    if !add(&folder) {
                        return folders;
                    }
                }
            }
            if !has_wildcard(pattern) && part.parent().is_some_and(|parent| !add(parent)) {
                return folders;
            }
        }
        folders
    }

    /// The files by their absolute names, and by those of what they are links to.
    pub fn names(&self) -> BTreeSet<PathBuf> {
        let mut names = BTreeSet::new();
        for path in self.paths() {
            if let Ok(target) = path.canonicalize() {
                names.insert(target);
            }
            names.insert(absolute(path));
        }
        names
    }
}

/// What a pattern matches now, without folders; sorted.
pub fn matched(pattern: &str) -> Result<Vec<PathBuf>, glob::GlobError> {
    let Ok(paths) = glob::glob(pattern) else { return Ok(Vec::new()) };
    paths.filter(|path| !path.as_ref().is_ok_and(|path| path.is_dir())).collect()
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

pub fn has_wildcard(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

fn mark(path: &Path) -> Mark {
    let data = std::fs::metadata(path).ok()?;
    Some((data.dev(), data.ino(), data.size(), data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn check(pattern: &str, there: &[&str], expected: &[&str]) {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("a path");
        for path in there {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(path, "sites: []\n").expect("a file");
        }
        let mut origins = Origins::default();
        origins.pattern(&root.join(pattern).to_string_lossy(), Vec::new());
        let folders = origins.folders();
        let found: Vec<String> = folders
            .iter()
            .map(|path| path.strip_prefix(&root).map_or("outside".to_owned(), |path| path.display().to_string()))
            .collect();
        assert_eq!(found, expected, "{pattern}");
    }

    #[test]
    fn the_folders_of_a_pattern_are_those_that_may_get_a_match() {
        check("sites.d/*.yaml", &["sites.d/a.yaml", "sites.d/deep/b.yaml", "other/c"], &["sites.d"]);
        // What is not there yet is seen coming from the folder above it.
        check("sites.d/*.yaml", &["other/c"], &[""]);
        check("sites.d/deep/*.yaml", &["sites.d/a"], &["sites.d"]);
        check("teams/*/sites.yaml", &["teams/x/y/z", "teams/b/sites.yaml"], &["teams", "teams/b", "teams/x"]);
        check(
            "teams/*/prod/*.yaml",
            &["teams/x/prod/a.yaml", "teams/b/test/a.yaml"],
            &["teams", "teams/b", "teams/x", "teams/x/prod"],
        );
        check("all/**/*.yaml", &["all/x/y/z.yaml", "all/w", "elsewhere/x"], &["all", "all/x", "all/x/y"]);
        check("plain.yaml", &["other"], &[""]);
    }

    #[test]
    fn a_change_is_told_from_a_touch_that_was_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let (a, missing) = (folder.path().join("a.yaml"), folder.path().join("missing.pem"));
        fs::write(&a, "one").expect("a file");
        let pattern = folder.path().join("*/*.yaml").to_string_lossy().into_owned();
        let mut origins = Origins::default();
        origins.file(&a);
        origins.file(&missing);
        origins.pattern(&pattern, matched(&pattern).expect("a list"));
        assert!(!origins.have_changed());
        assert_eq!(
            origins.names().len(),
            2 + usize::from(folder.path().canonicalize().expect("a path") != folder.path())
        );

        let step = |origins: &mut Origins, what: &str| {
            assert!(origins.have_changed(), "{what}");
            *origins = origins.as_they_are();
            assert!(!origins.have_changed(), "{what}: once");
        };
        fs::write(&missing, "now").expect("a file");
        step(&mut origins, "a file that was missing");
        fs::write(&a, "two").expect("a file");
        step(&mut origins, "another content of the same length");
        fs::create_dir(folder.path().join("new")).expect("a folder");
        assert!(!origins.have_changed(), "an empty folder matches nothing");
        fs::write(folder.path().join("new/b.yaml"), "").expect("a file");
        step(&mut origins, "a new match");
        fs::remove_dir_all(folder.path().join("new")).expect("gone");
        step(&mut origins, "a match less");
    }
}
