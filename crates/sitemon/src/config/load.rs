//! Reads a configuration: its file, the files that it includes, the environment; and checks all of it.

use super::environment::{Environment, interpolate};
use super::origins::{Origins, has_wildcard};
use super::sites::{Known, Sites, unknown_kind};
use super::sources::{Sources, reason};
use super::yaml::{List, Reader, Step, Top};
use super::{Config, Limits, Metrics, Spool, earlier};
use sitemon_model::tree::{At, Fault, Faults, Fields, Key, Node, Place, Value, is_path, quoted, unknown_key};
use sitemon_probe::policy::Policy;
use sitemon_store::Retention;
use std::borrow::Cow;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The keys at the top of a native file.
const TOP_KEYS: &[&str] = &[
    "location",
    "include",
    "defaults",
    "limits",
    "network",
    "store",
    "retention",
    "bus",
    "spool",
    "metrics",
    "grace",
    "sites",
];

/// Stores and buses of later versions, which are refused by name.
pub const STORES_LATER: &[&str] = &["redis"];
/// See [`STORES_LATER`].
pub const BUSES_LATER: &[&str] = &["zeromq"];

/// The default of `metrics.sites`: 15 series for each are some 10 MB of text.
pub const METRICS_SITES: usize = 10_000;

/// The day of the calendar, as a duration.
const DAY: Duration = Duration::from_hours(24);

/// Names of the environment that earlier systems read.
const EARLIER_NAMES: &[&str] = &[
    "KAFKA_BROKER",
    "POSTGRES_DSN",
    "SCAN_INTERVAL",
    "KAFKA_AUTH_CA",
    "KAFKA_ACCESS_KEY",
    "KAFKA_ACCESS_CRT",
    "PS_DATABASE_NAME",
    "PS_USERNAME",
    "PS_PASSWORD",
    "PS_HOST",
    "PS_PORT",
    "PS_WEBSITE_TABLE_NAME",
    "K_HOST",
    "K_PORT",
    "K_SECURITY_PROTOCOL",
    "K_SSL_CAT_FILE",
    "K_SSL_CERT_FILE",
    "K_SSL_KEY_FILE",
    "K_MONITOR_TOPIC",
    "K_REPLICA_FACTOR",
    "K_NO_PARTITIONS",
    "URL_REGEX",
];

/// What a configuration is read for.
#[derive(Debug, Clone, Copy)]
pub struct Purpose {
    /// The embedded bus and store, whatever the file says.
    pub local: bool,
    /// Whether the file's sites are wanted.
    pub sites: bool,
    /// Whether a bad entry in the file of an earlier system is an error; otherwise it is told, and the others
    /// are used.
    pub strict: bool,
}

/// What was read.
pub struct Outcome {
    /// The sources, as places count them.
    pub sources: Vec<String>,
    /// All that was found wrong, in the order of the files.
    pub faults: Vec<Fault>,
    /// The configuration, unless there are errors.
    pub config: Option<Config>,
    /// What it was read from, for whoever watches it.
    pub origins: Origins,
}

/// Reads the configuration in this file; without one, what the environment gives.
pub fn read(file: Option<&Path>, environment: &Environment, purpose: Purpose) -> Outcome {
    read_with(file, environment, purpose, &[], Arc::default())
}

/// See [`read`]; with sites for these URLs behind those of the file, and with what was known before of sites.
pub fn read_with(
    file: Option<&Path>,
    environment: &Environment,
    purpose: Purpose,
    urls: &[String],
    before: Arc<Known>,
) -> Outcome {
    let sources = Sources::default();
    let sites = Sites::new(sources.clone(), sources.files(), before);
    let loader = Loader {
        environment,
        purpose,
        sources,
        faults: Faults::default(),
        unset: Faults::default(),
        sites,
        begun: false,
        converted: None,
    };
    loader.run(file, urls)
}

/// A whole file as a tree: aliases expanded, keys for anchors (`x-`) left out, variables as they stand there.
pub fn read_tree(text: &str, source: u32, faults: &mut Faults) -> Option<Node> {
    let mut reader = Reader::new(text, source);
    let place = match reader.begin(faults).ok()? {
        Top::Empty => return Some(Node::empty_map()),
        Top::Other(node) => {
            At::new(&node, "").expected(faults, "a map with a list `sites`");
            return None;
        }
        Top::Map(place) => place,
    };
    let mut root = Vec::new();
    while let Some(key) = reader.key(faults).ok()? {
        if key.name.starts_with("x-") {
            reader.skip(faults).ok()?;
        } else {
            let node = reader.value(faults).ok()?;
            merge_top(&mut root, key, node);
        }
    }
    reader.end(faults).ok()?;
    Some(Node { value: Value::Map(root), place, secret: false })
}

/// The text of a file, or what is wrong with it.
pub fn read_text(path: &Path, source: u32, faults: &mut Faults) -> Option<String> {
    match std::fs::read(path) {
        Ok(content) => text_of(content, source, faults),
        Err(error) => {
            let start = Place { source, line: 0, column: 0 };
            faults.error(start, "", format!("cannot be read: {}", reason(&error)));
            None
        }
    }
}

/// What a file holds, as a text. A fault has the place of the first byte that is no UTF-8.
fn text_of(content: Vec<u8>, source: u32, faults: &mut Faults) -> Option<String> {
    match String::from_utf8(content) {
        Ok(text) => Some(text),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let bytes = error.as_bytes();
            let before = String::from_utf8_lossy(&bytes[..valid]);
            let line = before.matches('\n').count() as u32 + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() as u32 + 1;
            let message = format!("is not UTF-8: the byte 0x{:02x}, expected a text in UTF-8", bytes[valid]);
            faults.error(Place { source, line, column }, "", message);
            None
        }
    }
}

struct Loader<'e> {
    environment: &'e Environment,
    purpose: Purpose,
    sources: Sources,
    faults: Faults,
    /// Variables that are not set, and the like.
    unset: Faults,
    sites: Sites,
    /// Whether the defaults are known to `sites`.
    begun: bool,
    converted: Option<String>,
}

impl Loader<'_> {
    fn run(mut self, file: Option<&Path>, urls: &[String]) -> Outcome {
        let mut root = Vec::new();
        let mut native = true;
        if let Some(path) = file {
            let source = self.sources.add_file(path);
            self.sources.watch(path);
            if let Some(text) = read_text(path, source, &mut self.faults) {
                native = self.main(path, source, &text, &mut root);
            }
        } else {
            self.sources.add("environment".to_owned(), self.environment.folder.clone());
            self.put_environment(&mut root, &[]);
        }
        if native && file.is_some() {
            self.note_earlier_names();
        }
        if !self.environment.warnings.is_empty() {
            let source = self.sources.add_file(&self.environment.folder.join(".env"));
            for (line, message) in &self.environment.warnings {
                self.faults.warning(Place { source, line: *line, column: 1 }, "", message);
            }
        }
        self.begin(&[], &[]);
        if !urls.is_empty() {
            let source = self.sources.add("command line".to_owned(), self.environment.folder.clone());
            let place = Place { source, line: 0, column: 0 };
            for url in urls {
                let node = Node { place, ..Node::text(url.as_str()) };
                let entry = (Key { name: "url".into(), place }, node);
                let site = Node { value: Value::Map(vec![entry]), place, secret: false };
                self.sites.add(&site, &|| format!("{url:?}"));
            }
        }
        self.finish(&Node { value: Value::Map(root), ..Node::empty_map() })
    }

    /// Reads the main file: the entries of its top map but for `sites` into `root`, the sites into the list.
    /// Whether it is a native file.
    fn main(&mut self, path: &Path, source: u32, text: &str, root: &mut Vec<(Key, Node)>) -> bool {
        let start = Place { source, line: 1, column: 1 };
        let mut reader = Reader::new(text, source);
        let place = match reader.begin(&mut self.faults) {
            Err(_) => return true,
            Ok(Top::Empty) => {
                self.faults.warning(start, "", "the file is empty, expected a list `sites`");
                self.put_environment(root, &[]);
                return true;
            }
            Ok(Top::Other(node)) => {
                At::new(&node, "").expected(&mut self.faults, "a map with a list `sites`");
                return true;
            }
            Ok(Top::Map(place)) => place,
        };
        // Sites are merged with the defaults as they come, so these must be known: where they may stand
        // further below, the sites are left out in this pass and read in a second one.
        let overridden = self.environment.with_prefix("SITEMON__").any(|(name, _)| is_override_of(name, "sites"));
        let mut pending = false;
        let mut dollars = Vec::new();
        while let Ok(Some(key)) = reader.key(&mut self.faults) {
            let read = if &*key.name == "sites" {
                let known = !text.contains("defaults") || root.iter().any(|(key, _)| &*key.name == "defaults");
                if overridden || !self.purpose.sites {
                    root.push((key, Node::plain("")));
                    reader.skip(&mut self.faults)
                } else if known {
                    let place = key.place;
                    root.push((key, Node { place, ..Node::plain("") }));
                    self.begin(root, &dollars);
                    self.list(&mut reader)
                } else {
                    pending = true;
                    root.push((key, Node::plain("")));
                    reader.skip(&mut self.faults)
                }
            } else if key.name.starts_with("x-") {
                reader.skip(&mut self.faults)
            } else {
                reader.take_dollar();
                let value = reader.value(&mut self.faults);
                value.map(|node| {
                    if reader.take_dollar() {
                        dollars.push(key.name.clone());
                    }
                    merge_top(root, key, node);
                })
            };
            if read.is_err() {
                break;
            }
        }
        let _ = reader.end(&mut self.faults);

        if let Some(system) = earlier::recognise(root) {
            let strict = self.purpose.strict;
            let node = Node { value: Value::Map(std::mem::take(root)), place, secret: false };
            let converted = earlier::convert(system, &node, path, self.environment, strict, &mut self.faults);
            let (sites, rest) = converted.native();
            self.converted = Some(converted.yaml());
            *root = rest;
            self.put_environment(root, &[]);
            self.begin(root, &[]);
            if self.purpose.sites && !overridden {
                for (path, node) in &sites {
                    self.sites.add(node, &|| path.clone());
                }
            }
            return false;
        }
        self.put_environment(root, &dollars);
        self.begin(root, &dollars);
        if pending {
            let mut reader = Reader::new(text, source);
            // What this pass finds wrong outside the sites was told in the first one.
            let mut told = Faults::default();
            let _ = reader.begin(&mut told);
            while let Ok(Some(key)) = reader.key(&mut told) {
                let read = if &*key.name == "sites" { self.list(&mut reader) } else { reader.skip(&mut told) };
                if read.is_err() {
                    break;
                }
            }
        }
        true
    }

    /// Tells the sites their defaults, once.
    fn begin(&mut self, root: &[(Key, Node)], dollars: &[Box<str>]) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let mut with_overrides: Vec<(Key, Node)> =
            root.iter().filter(|(key, _)| &*key.name == "defaults").cloned().collect();
        self.apply_overrides_of("defaults", &mut with_overrides);
        self.put_variables_into(&mut with_overrides, dollars);
        if let Some((_, defaults)) = with_overrides.into_iter().next()
            && !defaults.is_null()
        {
            if matches!(defaults.value, Value::Map(_)) {
                self.sites.set_defaults(defaults);
            } else {
                At::new(&defaults, "defaults").expected(&mut self.faults, "a map");
            }
        }
    }

    /// Reads the list `sites` that comes next.
    fn list(&mut self, reader: &mut Reader<'_>) -> Result<(), super::yaml::Broken> {
        match reader.list(&mut self.faults)? {
            List::Items => {
                let mut index = 0;
                reader.take_dollar();
                while let Some(mut node) = reader.item(index, &mut self.faults)? {
                    if reader.take_dollar() {
                        self.put_variables(&mut node, index);
                    }
                    self.sites.add(&node, &|| format!("sites[{index}]"));
                    index += 1;
                }
            }
            List::Whole(mut node) => {
                if let Value::List(items) = &mut node.value {
                    for (index, node) in items.iter_mut().enumerate() {
                        self.put_variables(node, index);
                        self.sites.add(node, &|| format!("sites[{index}]"));
                    }
                } else if !node.is_null() {
                    At::new(&node, "sites").expected(&mut self.faults, "a list of sites");
                }
            }
        }
        Ok(())
    }

    fn put_variables(&mut self, node: &mut Node, index: usize) {
        let mut steps = vec![Step::Key(Cow::Borrowed("sites")), Step::Index(index)];
        interpolate(node, &mut steps, self.environment, &mut self.unset);
    }

    /// Puts variables into those entries of the top that have some: `dollars` of the file, or by the environment.
    fn put_variables_into<'n>(&mut self, entries: impl IntoIterator<Item = &'n mut (Key, Node)>, dollars: &[Box<str>]) {
        for (key, node) in entries {
            let overridden = |(name, value): (&str, &str)| value.contains('$') && is_override_of(name, &key.name);
            if dollars.contains(&key.name) || self.environment.with_prefix("SITEMON__").any(overridden) {
                let mut steps = vec![Step::Key(Cow::Borrowed(&*key.name))];
                interpolate(node, &mut steps, self.environment, &mut self.unset);
            }
        }
    }

    /// Reads the files that a pattern of `include` matches.
    fn include(&mut self, at: &At<'_>, seen: &mut HashSet<PathBuf>) {
        let Some(pattern) = at.str(&mut self.faults) else { return };
        let folder = self.sources.folder(at.node.place.source);
        let full = if Path::new(pattern).is_absolute() {
            pattern.to_owned()
        } else {
            Path::new(&glob::Pattern::escape(&folder.to_string_lossy())).join(pattern).to_string_lossy().into_owned()
        };
        let paths = match glob::glob(&full) {
            Ok(paths) => paths,
            Err(error) => {
                let message = format!("{} is no pattern of paths: {}", quoted(pattern), error.msg);
                return at.error(&mut self.faults, message);
            }
        };
        let mut found = Vec::new();
        for path in paths {
            match path {
                Ok(path) if path.is_dir() => {}
                Ok(path) => {
                    found.push(path.clone());
                    if seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())) {
                        self.included(at, &path);
                    }
                }
                Err(error) => {
                    let message = format!("cannot read {}: {}", error.path().display(), reason(error.error()));
                    at.error(&mut self.faults, message);
                }
            }
        }
        match found.is_empty() {
            false => {}
            true if has_wildcard(pattern) => {
                at.warning(&mut self.faults, format!("{} matches no file", quoted(pattern)));
            }
            true => {
                let path = folder.join(pattern);
                let reason = match path.metadata() {
                    Ok(_) => "it is a folder".to_owned(),
                    Err(error) => reason(&error),
                };
                let path = path.display().to_string();
                let shown = if is_path(pattern) && !at.node.secret { &path } else { "the file that is named here" };
                at.error(&mut self.faults, format!("cannot read {shown}: {reason}"));
            }
        }
        self.sources.watch_pattern(&full, found);
    }

    /// Reads an included file: a list `sites`. `at` is the pattern that it was found by.
    fn included(&mut self, at: &At<'_>, path: &Path) {
        let source = self.sources.add_file(path);
        self.sources.watch(path);
        let content = match std::fs::read(path) {
            Ok(content) => content,
            Err(error) => {
                let message = format!("cannot read {}: {}", path.display(), reason(&error));
                return at.error(&mut self.faults, message);
            }
        };
        let Some(text) = text_of(content, source, &mut self.faults) else { return };
        let start = Place { source, line: 1, column: 1 };
        let mut reader = Reader::new(&text, source);
        match reader.begin(&mut self.faults) {
            Err(_) => return,
            Ok(Top::Empty) => {
                return self.faults.warning(start, "", "the file is empty, expected a list `sites`");
            }
            Ok(Top::Other(node)) => {
                return At::new(&node, "").expected(&mut self.faults, "a map with a list `sites`");
            }
            Ok(Top::Map(_)) => {}
        }
        while let Ok(Some(key)) = reader.key(&mut self.faults) {
            let read = if &*key.name == "sites" {
                if self.purpose.sites { self.list(&mut reader) } else { reader.skip(&mut self.faults) }
            } else {
                if !key.name.starts_with("x-") {
                    let message = if TOP_KEYS.contains(&&*key.name) {
                        format!("`{}` belongs into the main file, expected `sites`", key.name)
                    } else {
                        unknown_key(&key.name, &["sites"])
                    };
                    self.faults.error(key.place, &key.name, message);
                }
                reader.skip(&mut self.faults)
            };
            if read.is_err() {
                return;
            }
        }
        let _ = reader.end(&mut self.faults);
    }

    /// Puts the variables `SITEMON__A__B` into the tree of all but the sites' defaults, and then what `${NAME}` stands
    /// for, in them as in the file.
    fn put_environment(&mut self, root: &mut Vec<(Key, Node)>, dollars: &[Box<str>]) {
        self.apply_overrides(root);
        self.put_variables_into(root.iter_mut().filter(|(key, _)| &*key.name != "defaults"), dollars);
    }

    /// Puts the variables `SITEMON__A__B` into the tree.
    fn apply_overrides(&mut self, root: &mut Vec<(Key, Node)>) {
        for name in TOP_KEYS {
            // Those of the defaults were put in when the sites were begun, or will be.
            if *name != "defaults" {
                self.apply_overrides_of(name, root);
            }
        }
        let known = |name: &str| TOP_KEYS.iter().any(|key| is_override_of(name, key));
        let unknown: Vec<String> = self
            .environment
            .with_prefix("SITEMON__")
            .filter(|(name, _)| !known(name))
            .map(|(name, _)| name.to_owned())
            .collect();
        for name in unknown {
            let key = name.split("__").next().unwrap_or_default().to_ascii_lowercase();
            let source = self.sources.add(format!("$SITEMON__{name}"), self.environment.folder.clone());
            self.faults.error(Place { source, line: 0, column: 0 }, &key, unknown_key(&key, TOP_KEYS));
        }
    }

    /// Puts those variables into the tree that are for one key of the top.
    fn apply_overrides_of(&mut self, key: &str, root: &mut Vec<(Key, Node)>) {
        let mut overrides: Vec<(Vec<String>, &str, &str)> = self
            .environment
            .with_prefix("SITEMON__")
            .filter(|(name, _)| is_override_of(name, key))
            .map(|(name, value)| (name.split("__").map(str::to_ascii_lowercase).collect(), name, value))
            .collect();
        overrides.sort_by_key(|(steps, _, _)| steps.len());
        for (steps, name, value) in overrides {
            let source = self.sources.add(format!("$SITEMON__{name}"), self.environment.folder.clone());
            let place = Place { source, line: 0, column: 0 };
            let hidden = ["auth", "headers", "proxy", "dsn", "url", "password"];
            let mut secret = steps.iter().any(|step| hidden.contains(&step.as_str()));
            let mut node = Node::plain(value);
            if value.trim_start().starts_with(['[', '{']) {
                let no_text = steps.len() == 1 && !matches!(key, "location" | "include" | "grace");
                match serde_json::from_str(value) {
                    Ok(json) => node = Node::from_json(&json),
                    // What may be a text may begin with `[`, as patterns do. What the JSON holds may be secret.
                    Err(error) if no_text || value.trim_start().starts_with('{') => {
                        self.faults.error(place, steps.join("."), format!("is no JSON: {error}"));
                        continue;
                    }
                    Err(_) => secret |= value.contains(['"', '{']),
                }
            }
            mark(&mut node, place, secret);
            put(root, &steps, node, place);
        }
    }

    /// Says that variables of the earlier systems do not count beside a native file.
    fn note_earlier_names(&mut self) {
        let names: Vec<&str> =
            EARLIER_NAMES.iter().copied().filter(|name| self.environment.given(name).is_some()).collect();
        if !names.is_empty() {
            let source = self.sources.add("environment".to_owned(), PathBuf::new());
            let message = format!("{}: of an earlier system, and not used beside a native file", names.join(", "));
            self.faults.warning(Place { source, line: 0, column: 0 }, "", message);
        }
    }

    /// Reads everything but the sites and the defaults, and puts the configuration together.
    fn finish(mut self, root: &Node) -> Outcome {
        let mut faults = std::mem::take(&mut self.faults);
        let at = At::new(root, "");
        let mut fields = at.map(&mut faults);
        fields.know(TOP_KEYS);
        let mut shown = serde_json::Map::new();
        let folder = self.sources.folder(0);

        let location = match fields.take("location") {
            None => Some("default".into()),
            Some(at) => at.str(&mut faults).and_then(|text| {
                let valid = sitemon_model::site::valid_name(text);
                if !valid {
                    at.expected(&mut faults, "1 to 128 printable ASCII characters");
                }
                valid.then(|| Arc::<str>::from(text))
            }),
        };
        let limits = read_limits(fields.take("limits"), &mut faults);
        let (network, refuse) = read_network(fields.take("network"), &mut faults);
        let at = fields.take("store").filter(|at| !self.purpose.local || kind_of(at, "sqlite") == "sqlite");
        let none = Node::empty_map();
        let at = at.unwrap_or_else(|| At::new(&none, "store"));
        let store_folder = if at.node == &none { folder } else { self.sources.folder(store_source(&at)) };
        let (store, flush) = read_store(&at, &store_folder, &mut faults);
        let retention = read_retention(fields.take("retention"), &mut faults);
        let at = fields.take("bus").filter(|at| !self.purpose.local || kind_of(at, "local") == "local");
        let at = at.unwrap_or_else(|| At::new(&none, "bus"));
        let bus = read_bus(&at, &self.sources.folder(at.node.place.source), &mut faults);
        let spool = read_spool(fields.take("spool"), &self.sources, &mut faults);
        let metrics_at = fields.take("metrics");
        let metrics = read_metrics(metrics_at.as_ref(), &mut faults);
        let grace = match fields.take("grace") {
            Some(at) => at.duration(&mut faults),
            None => Some(Duration::from_secs(10)),
        };

        // The environment's list replaces the file's.
        if self.purpose.sites
            && let Some(at) = fields.take("sites")
            && !matches!(&at.node.value, Value::Scalar { text, .. } if text.is_empty())
        {
            self.begin(&[], &[]);
            for at in at.list(&mut faults) {
                self.sites.add(at.node, &|| at.path.to_string());
            }
        }
        if let Some(at) = fields.take("include") {
            let main: HashSet<PathBuf> =
                self.sources.origins().paths().filter_map(|path| path.canonicalize().ok()).collect();
            let mut seen = main;
            self.begin(&[], &[]);
            for at in at.one_or_list(&mut faults) {
                self.include(&at, &mut seen);
            }
        }
        fields.finish(&mut faults);
        if self.purpose.sites
            && self.sites.count == 0
            && !faults.any_errors()
            && !self.faults.any_errors()
            && !self.unset.any_errors()
        {
            let empty = faults.0.iter().any(|fault| fault.message.starts_with("the file is empty"));
            if !empty {
                let place =
                    Place { source: 0, line: u32::from(self.sources.origins().paths().next().is_some()), column: 1 };
                faults.warning(place, "sites", "there are none, so nothing is watched");
            }
        }

        let count = self.sites.list.len();
        if let (Some(metrics), Some(at)) = (metrics, metrics_at)
            && (1..count).contains(&metrics.sites)
        {
            let message = format!(
                "there are {count} sites, so no series of single sites are shown; raise `metrics.sites` for them"
            );
            at.warning(&mut faults, message);
        }
        if let (Some(location), Some(store), Some(bus)) = (&location, &store, &bus) {
            shown = super::show::top(
                location, &limits, &refuse, &**store, flush, &retention, &**bus, &spool, metrics, grace,
            );
        }
        self.sources.watch(&self.environment.folder.join(".env"));
        self.sites.tell(faults);
        self.sites.tell(std::mem::take(&mut self.faults));
        // A text whose variable is not set is not what was meant, so what else is wrong with it says nothing.
        let unset: HashSet<(Place, &str)> = self.unset.0.iter().map(|fault| (fault.place, &*fault.path)).collect();
        let places: HashSet<Place> = unset.iter().map(|(place, _)| *place).filter(|place| place.line > 0).collect();
        let meant = |fault: &Fault| !places.contains(&fault.place) && !unset.contains(&(fault.place, &*fault.path));
        self.sites.faults.0.retain(meant);
        self.sites.tell(std::mem::take(&mut self.unset));
        let mut faults = std::mem::take(&mut self.sites.faults).0;
        faults.sort_by_key(|fault| fault.place);
        let errors = faults.iter().any(|fault| !fault.warning);
        let sources = self.sources.names();
        let config = (|| {
            Some(Config {
                location: location?,
                limits,
                network,
                sites: std::mem::take(&mut self.sites.list),
                store: store?,
                flush,
                retention,
                bus: bus?,
                metrics,
                grace: grace?,
                origins: self.sources.origins(),
                warnings: faults.iter().map(|fault| super::sources::line(&sources, fault)).collect(),
                converted: self.converted.take(),
                spool,
                shown,
                known: Arc::new(self.sites.take_known()),
            })
        })();
        Outcome { sources, faults, config: config.filter(|_| !errors), origins: self.sources.origins() }
    }
}

/// Whether a variable, without its prefix, is for this key of the top.
fn is_override_of(name: &str, key: &str) -> bool {
    name.split("__").next().is_some_and(|first| first.eq_ignore_ascii_case(key))
}

/// Adds an entry of the top map; those of a merge key stand behind its own.
fn merge_top(root: &mut Vec<(Key, Node)>, key: Key, node: Node) {
    if &*key.name != "<<" {
        root.retain(|(other, _)| other.name != key.name);
        root.push((key, node));
        return;
    }
    if let Value::Map(entries) = node.value {
        for (key, node) in entries {
            if !root.iter().any(|(other, _)| other.name == key.name) {
                root.push((key, node));
            }
        }
    }
}

/// Gives a whole tree a place.
fn mark(node: &mut Node, place: Place, secret: bool) {
    node.place = place;
    node.secret = secret;
    match &mut node.value {
        Value::Scalar { .. } => {}
        Value::List(items) => items.iter_mut().for_each(|item| mark(item, place, secret)),
        Value::Map(entries) => entries.iter_mut().for_each(|(key, node)| {
            key.place = place;
            mark(node, place, secret || matches!(&*key.name, "auth" | "headers" | "proxy"));
        }),
    }
}

/// Puts a value at a path of keys, making maps on the way.
fn put(entries: &mut Vec<(Key, Node)>, steps: &[String], node: Node, place: Place) {
    let Some((first, rest)) = steps.split_first() else { return };
    let index = entries.iter().position(|(key, _)| *key.name == **first).unwrap_or_else(|| {
        let empty = Node { place, ..Node::empty_map() };
        entries.push((Key { name: first.as_str().into(), place }, empty));
        entries.len() - 1
    });
    let entry = &mut entries[index].1;
    if rest.is_empty() {
        *entry = node;
        return;
    }
    if !matches!(entry.value, Value::Map(_)) {
        *entry = Node { place, ..Node::empty_map() };
    }
    if let Value::Map(entries) = &mut entry.value {
        put(entries, rest, node, place);
    }
}

fn kind_of<'n>(at: &At<'n>, default: &'n str) -> &'n str {
    match at.node.get("kind").map(|node| &node.value) {
        Some(Value::Scalar { text, .. }) => text,
        _ => default,
    }
}

/// The source that a store's own path stands in: it may be another than that of the map around it.
fn store_source(at: &At<'_>) -> u32 {
    at.node.get("path").map_or(at.node.place.source, |node| node.place.source)
}

fn read_limits(at: Option<At<'_>>, faults: &mut Faults) -> Limits {
    let mut limits = Limits { checks_in_flight: 10_000, checks_in_flight_per_host: 16, memory: 64 << 20 };
    let Some(at) = at else { return limits };
    let mut fields = at.map(faults);
    let mut count = |name: &'static str, value: &mut usize, faults: &mut Faults| {
        let Some(at) = fields.take(name) else { return };
        match at.parse::<usize>(faults, "a whole number") {
            Some(0) => at.expected(faults, "1 or more"),
            Some(number) => *value = number,
            None => {}
        }
    };
    count("checks_in_flight", &mut limits.checks_in_flight, faults);
    count("checks_in_flight_per_host", &mut limits.checks_in_flight_per_host, faults);
    if let Some(at) = fields.take("memory") {
        match at.size(faults) {
            Some(bytes) if bytes < 1 << 20 => at.expected(faults, "1MiB or more"),
            Some(bytes) => limits.memory = bytes,
            None => {}
        }
    }
    fields.finish(faults);
    limits
}

/// The policy, and its words.
fn read_network(at: Option<At<'_>>, faults: &mut Faults) -> (Policy, Vec<String>) {
    let default = || (Policy::default(), vec!["metadata".to_owned(), "link-local".to_owned()]);
    let Some(at) = at else { return default() };
    let mut fields = at.map(faults);
    let refuse = fields.take("refuse");
    fields.finish(faults);
    let Some(at) = refuse else { return default() };
    let policy = Policy::parse(&at, faults);
    let words = at.one_or_list(&mut Faults::default());
    (policy, words.iter().filter_map(|at| at.str(&mut Faults::default()).map(str::to_owned)).collect())
}

fn read_store(at: &At<'_>, folder: &Path, faults: &mut Faults) -> (Option<Box<dyn sitemon_store::Config>>, Duration) {
    let mut flush = Duration::from_millis(200);
    let mut fields = at.map(faults);
    let before = faults.0.len();
    let names: Vec<&str> = sitemon_store::KINDS.iter().map(|kind| kind.name).collect();
    let kind = read_kind(&mut fields, &names, STORES_LATER, faults);
    let flush_at = fields.take("flush");
    let Some(kind) = kind.and_then(|name| sitemon_store::KINDS.iter().find(|kind| kind.name == name)) else {
        return (None, flush);
    };
    let store = (kind.parse)(&mut fields, folder, faults);
    if let Some(value) = flush_at.and_then(|at| at.duration(faults)) {
        flush = value;
    }
    fields.finish(faults);
    if store.is_none() && faults.0.len() == before {
        at.error(faults, format!("the kind `{}` cannot be used with these keys", kind.name));
    }
    (store, flush)
}

fn read_bus(at: &At<'_>, folder: &Path, faults: &mut Faults) -> Option<Box<dyn sitemon_bus::Config>> {
    let mut fields = at.map(faults);
    let before = faults.0.len();
    let names: Vec<&str> = sitemon_bus::KINDS.iter().map(|kind| kind.name).collect();
    let name = read_kind(&mut fields, &names, BUSES_LATER, faults)?;
    let kind = sitemon_bus::KINDS.iter().find(|kind| kind.name == name)?;
    let bus = (kind.parse)(&mut fields, folder, faults);
    fields.finish(faults);
    if bus.is_none() && faults.0.len() == before {
        at.error(faults, format!("the kind `{}` cannot be used with these keys", kind.name));
    }
    bus
}

/// The key `kind`: one of a table, the first where it is absent.
fn read_kind<'k>(fields: &mut Fields<'_>, names: &[&'k str], later: &[&str], faults: &mut Faults) -> Option<&'k str> {
    let Some(at) = fields.take("kind") else { return names.first().copied() };
    let text = at.str(faults)?;
    let found = names.iter().copied().find(|name| *name == text);
    if found.is_none() {
        at.error(faults, unknown_kind(text, names, later));
    }
    found
}

fn read_retention(at: Option<At<'_>>, faults: &mut Faults) -> Retention {
    let mut retention =
        Retention { observations: DAY * 400, evidence: DAY * 90, hour: DAY * 365 * 5, day: DAY * 365 * 20 };
    let Some(at) = at else { return retention };
    let mut fields = at.map(faults);
    for (name, value) in [
        ("observations", &mut retention.observations),
        ("evidence", &mut retention.evidence),
        ("hour", &mut retention.hour),
        ("day", &mut retention.day),
    ] {
        let Some(at) = fields.take(name) else { continue };
        match at.duration(faults) {
            Some(duration) if duration.is_zero() => at.expected(faults, "a duration longer than nothing"),
            Some(duration) => *value = duration,
            None => {}
        }
    }
    fields.finish(faults);
    retention
}

fn read_spool(at: Option<At<'_>>, sources: &Sources, faults: &mut Faults) -> Spool {
    let mut spool = Spool { path: sources.folder(0).join("spool"), size: 1 << 30 };
    let Some(at) = at else { return spool };
    let mut fields = at.map(faults);
    if let Some(at) = fields.take("path")
        && let Some(path) = at.str(faults)
    {
        if path.is_empty() {
            at.expected(faults, "the path of a folder");
        }
        spool.path = sources.folder(at.node.place.source).join(path);
    }
    if let Some(size) = fields.take("size").and_then(|at| at.size(faults)) {
        spool.size = size;
    }
    fields.finish(faults);
    spool
}

fn read_metrics(at: Option<&At<'_>>, faults: &mut Faults) -> Option<Metrics> {
    let mut fields = at?.map(faults);
    let listen: Option<SocketAddr> =
        fields.take("listen").and_then(|at| at.parse(faults, "ADDRESS:PORT such as 127.0.0.1:9464"));
    let sites = fields.take("sites").map_or(Some(METRICS_SITES), |at| at.parse(faults, "a whole number"));
    fields.finish(faults);
    Some(Metrics { listen: listen?, sites: sites? })
}
