//! Reading the configuration again: what asks for it, and what it changes.

use crate::config::Watched;
use notify::{RecursiveMode, Watcher as _};
use sitemon_model::Spec;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Changes of files within this time are one: an editor writes, renames and touches.
const SETTLE: Duration = Duration::from_millis(150);

/// What a new configuration changes about the sites.
#[derive(Debug, Default)]
pub struct Changes {
    /// New, or configured otherwise than before.
    pub watch: Vec<Arc<Watched>>,
    /// No longer there.
    pub forget: Vec<Arc<str>>,
    /// How many of `watch` are new.
    pub added: usize,
    /// The sites as they are from now on, sorted by name; those that did not change are the same as before.
    pub sites: Vec<Arc<Watched>>,
}

impl Changes {
    /// From the sites as they are, sorted by name, to those of a new configuration.
    pub fn between(current: &[Arc<Watched>], new: Vec<Watched>) -> Self {
        let mut new = new;
        new.sort_by(|a, b| a.site.name.cmp(&b.site.name));
        let mut changes = Self::default();
        let mut same = SameSpec::default();
        let mut old = current.iter().peekable();
        for watched in new {
            while let Some(gone) = old.next_if(|old| old.site.name < watched.site.name) {
                changes.forget.push(gone.site.name.clone());
            }
            let before = old.next_if(|old| old.site.name == watched.site.name);
            let watched = match before {
                Some(before)
                    if before.site.url == watched.site.url && same.holds(&before.site.spec, &watched.site.spec) =>
                {
                    changes.sites.push(before.clone());
                    continue;
                }
                before => {
                    changes.added += usize::from(before.is_none());
                    Arc::new(watched)
                }
            };
            changes.sites.push(watched.clone());
            changes.watch.push(watched);
        }
        changes.forget.extend(old.map(|gone| gone.site.name.clone()));
        changes
    }

    /// For the log: `3 sites added, 1 changed, 0 removed, 996 as before`.
    pub fn describe(&self) -> String {
        let changed = self.watch.len() - self.added;
        let same = self.sites.len() - self.watch.len();
        format!("{} sites added, {changed} changed, {} removed, {same} as before", self.added, self.forget.len())
    }
}

/// Compares how sites are watched; sites that are configured alike share it, so few comparisons are made.
#[derive(Debug, Default)]
struct SameSpec(HashMap<(usize, usize), bool>);

impl SameSpec {
    fn holds(&mut self, before: &Arc<Spec>, after: &Arc<Spec>) -> bool {
        let pair = (Arc::as_ptr(before) as usize, Arc::as_ptr(after) as usize);
        *self.0.entry(pair).or_insert_with(|| before == after)
    }
}

/// Looks at the files of the configuration; each change is one message.
#[derive(Debug)]
pub struct FileWatch {
    // Held so that it goes on.
    _watcher: notify::RecommendedWatcher,
    changed: mpsc::Receiver<()>,
    /// A change was seen that nobody was told of yet.
    pending: bool,
}

impl FileWatch {
    /// Looks at these files. Their folders are watched, because editors replace files rather than write them.
    pub fn of(files: &[PathBuf]) -> notify::Result<Self> {
        let names: Vec<PathBuf> =
            files.iter().map(|file| std::path::absolute(file).unwrap_or_else(|_| file.clone())).collect();
        let mut folders: Vec<PathBuf> = names.iter().filter_map(|file| file.parent().map(Path::to_path_buf)).collect();
        folders.sort();
        folders.dedup();
        let (sender, changed) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // A file that is new in a folder may be one that an `include` matches.
            let ours = event.is_ok_and(|event| {
                !event.kind.is_access() && event.paths.iter().any(|path| names.contains(path) || is_configuration(path))
            });
            if ours {
                // One that waits already says the same.
                let _ = sender.try_send(());
            }
        })?;
        for folder in &folders {
            watcher.watch(folder, RecursiveMode::NonRecursive)?;
        }
        Ok(Self { _watcher: watcher, changed, pending: false })
    }

    /// Ends when files have changed and are quiet again. Dropping the future loses nothing.
    pub async fn changed(&mut self) {
        if !self.pending && self.changed.recv().await.is_none() {
            return std::future::pending().await;
        }
        self.pending = true;
        while let Ok(Some(())) = tokio::time::timeout(SETTLE, self.changed.recv()).await {}
        self.pending = false;
    }
}

fn is_configuration(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}
