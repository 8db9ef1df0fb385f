//! Where a configuration comes from: files and variables by number, the folders that relative paths are
//! relative to, and the contents of the files that are named in it.

use super::origins::Origins;
use sitemon_model::tree::{Fault, Place};
use sitemon_probe::{Files, Unread};
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Bytes of a file that is named in a configuration (a body, certificates, a secret).
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The sources of one configuration, by the number that [`Place::source`] has. Shared, because the checks'
/// parsers read files through it.
#[derive(Debug, Clone, Default)]
pub struct Sources(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    list: Vec<Origin>,
    contents: HashMap<PathBuf, Content>,
    /// What counts for whoever watches it, as it was when it was read.
    origins: Origins,
    /// What was read since this was last emptied.
    read: Vec<ReadFile>,
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadFile {
    path: PathBuf,
    /// Of what it held.
    pub hash: u128,
}

/// What a file holds and the hash of it, or why it cannot be read.
type Content = Result<(Arc<[u8]>, u128), Unread>;

#[derive(Debug)]
struct Origin {
    /// As it is shown: the path, or `$NAME`.
    name: String,
    /// What a relative path in it is relative to.
    folder: PathBuf,
    /// A hash of it.
    folder_hash: u64,
}

impl Sources {
    /// Adds a file; what it names is relative to its folder.
    pub fn add_file(&self, path: &Path) -> u32 {
        self.add(path.display().to_string(), path.parent().unwrap_or(Path::new("")).to_owned())
    }

    /// Adds something that is no file.
    pub fn add(&self, name: String, folder: PathBuf) -> u32 {
        let mut inner = self.lock();
        let folder_hash = xxh3_64(folder.as_os_str().as_encoded_bytes());
        inner.list.push(Origin { name, folder, folder_hash });
        inner.list.len() as u32 - 1
    }

    /// The names, as places count them.
    pub fn names(&self) -> Vec<String> {
        self.lock().list.iter().map(|origin| origin.name.clone()).collect()
    }

    /// `FILE:LINE:COLUMN`
    pub fn show(&self, place: Place) -> String {
        let inner = self.lock();
        show_place(inner.list.get(place.source as usize).map_or("", |origin| &origin.name), place)
    }

    /// The folder that a relative path at this place is relative to.
    pub fn folder(&self, source: u32) -> PathBuf {
        self.lock().list.get(source as usize).map(|origin| origin.folder.clone()).unwrap_or_default()
    }

    /// A hash of the folder of a source.
    pub fn folder_hash(&self, source: u32) -> u64 {
        self.lock().list.get(source as usize).map_or(0, |origin| origin.folder_hash)
    }

    /// Notes that a file's content counts, before it is read.
    pub fn watch(&self, path: &Path) {
        self.lock().origins.file(path);
    }

    /// Notes what a pattern of paths matches.
    pub fn watch_pattern(&self, pattern: &str, matches: Vec<PathBuf>) {
        self.lock().origins.pattern(pattern, matches);
    }

    /// All that was noted.
    pub fn origins(&self) -> Origins {
        self.lock().origins.clone()
    }

    /// Reads the files that a configuration names, each once.
    pub fn files(&self) -> Files {
        let sources = self.clone();
        Files::new(move |place, path| sources.read(place, path))
    }

    /// The files that were read since this was last asked.
    pub fn take_read(&self) -> Arc<[ReadFile]> {
        std::mem::take(&mut self.lock().read).into()
    }

    /// Whether files hold what they held when they were read.
    pub fn hold_the_same(&self, files: &[ReadFile]) -> bool {
        files.iter().all(|file| matches!(self.content(file.path.clone()), Ok((_, hash)) if hash == file.hash))
    }

    fn read(&self, place: Place, path: &str) -> Result<Arc<[u8]>, Unread> {
        let path = self.folder(place.source).join(path);
        let (content, hash) = self.content(path.clone())?;
        self.lock().read.push(ReadFile { path, hash });
        Ok(content)
    }

    /// Reads a file, once.
    fn content(&self, path: PathBuf) -> Content {
        let mut inner = self.lock();
        inner.origins.file(&path);
        let read = |path: &PathBuf| {
            let content = read_bounded(path)?;
            let hash = xxh3_128(&content);
            Ok((content.into(), hash))
        };
        inner.contents.entry(path).or_insert_with_key(read).clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, Unread> {
    let told = |reason: String| Unread { path: path.display().to_string(), reason };
    let file = std::fs::File::open(path).map_err(|error| told(reason(&error)))?;
    let mut content = Vec::new();
    // What is no file, as a pipe is, does not say how much it holds.
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content).map_err(|error| told(reason(&error)))?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(told("it is larger than 64MiB, the bound".to_owned()));
    }
    Ok(content)
}

/// Why a file cannot be read, without the number that only programmers know.
pub fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "no permission".to_owned(),
        std::io::ErrorKind::IsADirectory => "it is a folder".to_owned(),
        std::io::ErrorKind::InvalidFilename => "its name is too long".to_owned(),
        _ => error.to_string(),
    }
}

/// `FILE:LINE:COLUMN`, or `FILE` where there is no line.
fn show_place(name: &str, place: Place) -> String {
    if place.line == 0 { name.to_owned() } else { format!("{name}:{}:{}", place.line, place.column) }
}

/// `FILE:LINE:COLUMN: path.to[3].key: what is wrong, what was expected`; of a warning, too, without saying so.
pub fn line(sources: &[String], fault: &Fault) -> String {
    let place = show_place(sources.get(fault.place.source as usize).map_or("", String::as_str), fault.place);
    let path = if fault.path.is_empty() { String::new() } else { format!("{}: ", fault.path) };
    format!("{place}: {path}{}", fault.message)
}

/// The same, with `warning: ` before what deserves a word and is no error.
pub fn render(sources: &[String], fault: &Fault) -> String {
    if !fault.warning {
        return line(sources, fault);
    }
    line(sources, &Fault { message: format!("warning: {}", fault.message), ..fault.clone() })
}
