//! Reading the configuration again: what asks for it, and what it changes.

use crate::config::{FOLDERS_MAX, Origins, Watched};
use notify::event::{EventKind, ModifyKind};
use notify::{RecursiveMode, Watcher as _};
use serde_json::{Map, Value};
use sitemon_model::Spec;
use sitemon_model::unit::show_count;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// Changes of files within this time are one: an editor writes, renames and touches.
const SETTLE: Duration = Duration::from_millis(150);
/// However many there are, they are looked at after this.
const SETTLE_MAX: Duration = Duration::from_millis(500);

/// So often folders are looked for again because new ones were found.
const DEPTH_AT_ONCE: usize = 8;

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
        let added = show_count(self.added as u64, "site");
        format!("{added} added, {changed} changed, {} removed, {same} as before", self.forget.len())
    }
}

/// The keys, as `limits.memory`, whose values two configurations differ in; of those that are shown beside the sites.
pub fn keys_between(before: &Map<String, Value>, after: &Map<String, Value>) -> Vec<String> {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let mut keys = Vec::new();
    let nothing = Map::new();
    for name in names {
        match (before.get(name), after.get(name)) {
            (Some(Value::Object(before)), Some(Value::Object(after))) => nested(name, before, after, &mut keys),
            (None, Some(Value::Object(map))) => nested(name, &nothing, map, &mut keys),
            (Some(Value::Object(map)), None) => nested(name, map, &nothing, &mut keys),
            (before, after) if before != after => keys.push(name.clone()),
            _ => {}
        }
    }
    keys
}

fn nested(name: &str, before: &Map<String, Value>, after: &Map<String, Value>, keys: &mut Vec<String>) {
    keys.extend(keys_between(before, after).into_iter().map(|key| format!("{name}.{key}")));
}

/// Compares how sites are watched; sites that are configured alike share it, so few comparisons are made.
#[derive(Debug, Default)]
struct SameSpec(HashMap<(usize, usize), bool>);

impl SameSpec {
    fn holds(&mut self, before: &Arc<Spec>, after: &Arc<Spec>) -> bool {
        if Arc::ptr_eq(before, after) {
            return true;
        }
        let pair = (Arc::as_ptr(before) as usize, Arc::as_ptr(after) as usize);
        *self.0.entry(pair).or_insert_with(|| before == after)
    }
}

/// Looks at what the configuration was read from, and tells when it is otherwise than it was then.
#[derive(Debug)]
pub struct FileWatch {
    watcher: notify::RecommendedWatcher,
    events: mpsc::Receiver<()>,
    known: Arc<Mutex<Known>>,
    origins: Arc<Origins>,
    /// Something was seen that was not looked at yet.
    pending: bool,
    /// Whether it was told that not everything can be watched.
    told: bool,
}

/// What the thread that gets the events must know of them.
#[derive(Debug, Default)]
struct Known {
    /// The files whose writing counts; of all others in their folders only that they come and go does.
    names: BTreeSet<PathBuf>,
    /// The folders that are watched. One that went away, and perhaps came back, is not any more.
    folders: BTreeSet<PathBuf>,
}

impl FileWatch {
    /// Looks at these files and patterns. Folders are watched, because editors replace files rather than write them.
    pub fn of(origins: &Origins) -> notify::Result<Self> {
        let (sender, events) = mpsc::channel(1);
        let known = Arc::<Mutex<Known>>::default();
        let ours = known.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| may_count(&event, &mut ours.lock().unwrap_or_else(PoisonError::into_inner))) {
                // One that waits already says the same.
                let _ = sender.try_send(());
            }
        })?;
        Ok(Self { watcher, events, known, origins: Arc::new(origins.clone()), pending: true, told: false })
    }

    /// Looks at these from now on. What changed since they were read is told at once.
    pub fn follow(&mut self, origins: Origins) {
        self.origins = Arc::new(origins);
        self.pending = true;
    }

    /// Takes what is looked at as it is now.
    pub fn accept(&mut self) {
        self.follow(self.origins.as_they_are());
    }

    /// Watches these folders and no others; whether there are new ones among them.
    fn look_at(&mut self, names: BTreeSet<PathBuf>, folders: &BTreeSet<PathBuf>) -> bool {
        let mut new = false;
        let mut problem = (folders.len() >= FOLDERS_MAX).then(|| format!("there are more than {FOLDERS_MAX}"));
        let before = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.names = names;
            std::mem::replace(&mut known.folders, folders.clone())
        };
        for gone in before.difference(folders) {
            // One that was removed is not watched any more either.
            let _ = self.watcher.unwatch(gone);
        }
        for folder in folders.difference(&before) {
            let _ = self.watcher.unwatch(folder);
            match self.watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => new = true,
                Err(error) => {
                    problem = Some(error.to_string());
                    self.known.lock().unwrap_or_else(PoisonError::into_inner).folders.remove(folder);
                }
            }
        }
        if let Some(problem) = problem
            && !std::mem::replace(&mut self.told, true)
        {
            tracing::error!("not all folders of the configuration can be watched, use SIGHUP: {problem}");
        }
        new
    }

    /// Ends when something is otherwise than it was, and quiet again. Dropping the future loses nothing.
    pub async fn changed(&mut self) {
        loop {
            if !self.pending && self.events.recv().await.is_none() {
                return std::future::pending().await;
            }
            self.pending = true;
            let until = tokio::time::Instant::now() + SETTLE_MAX;
            while tokio::time::Instant::now() < until
                && let Ok(Some(())) = tokio::time::timeout(SETTLE, self.events.recv()).await
            {}
            // Folders first: what comes into a new one after that is an event. What came into it before it was watched
            // may be a folder, too.
            for _ in 0..DEPTH_AT_ONCE {
                let origins = self.origins.clone();
                let looked = tokio::task::spawn_blocking(move || (origins.names(), origins.folders())).await;
                let Ok((names, folders)) = looked else { return };
                if !self.look_at(names, &folders) {
                    break;
                }
            }
            let origins = self.origins.clone();
            let changed = tokio::task::spawn_blocking(move || origins.have_changed()).await.unwrap_or(true);
            self.pending = false;
            if changed {
                return;
            }
        }
    }
}

/// Whether what was seen can have changed one of the files, what a link of them points to, or what a pattern matches.
fn may_count(event: &notify::Event, known: &mut Known) -> bool {
    match event.kind {
        EventKind::Access(_) => false,
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Create(_) | EventKind::Remove(_) => {
            for path in &event.paths {
                known.folders.remove(path);
            }
            true
        }
        _ => event.need_rescan() || event.paths.iter().any(|path| known.names.contains(path)),
    }
}
