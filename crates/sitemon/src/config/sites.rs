//! Reads sites, one by one, each as it comes from its file.
//!
//! There may be a million, most of them alike but for name and URL. So what is equal is parsed once: sites
//! whose own keys are equal share one [`Spec`] and one check, found by a hash of those keys before anything is
//! merged; sites that differ only in what the check does not see (labels, interval) share the check.

use super::sources::{ReadFile, Sources};
use super::{Compiled, Watched};
use sitemon_model::site::{PluginChoice, valid_name};
use sitemon_model::tree::{At, Faults, Fields, Key, Node, Place, Value, nearest, quoted};
use sitemon_model::unit::show_duration;
use sitemon_model::{Site, Spec};
use sitemon_plugin::Plugin;
use sitemon_probe::{Common, Files};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128};

/// What an interval is without one in the file.
pub const INTERVAL: Duration = Duration::from_mins(1);
/// What a timeout is at most without one in the file.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// The shortest interval.
pub const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Warnings about sites that are looked for again in sites that are like one before. Beyond, a site like one
/// that has a warning has none of its own.
const REPEATED_WARNINGS_MAX: usize = 1000;

/// The keys of a site that its check does not see; `plugins`, `kind` and `timeout` it sees in their own way.
const OUTSIDE_CHECK: &[&str] =
    &["name", "url", "kind", "enabled", "interval", "jitter", "timeout", "labels", "plugins"];

/// Sites as far as they were read.
pub struct Sites {
    /// The sites without a fault, in their order.
    pub list: Vec<Watched>,
    /// All that was found wrong, each once.
    pub faults: Faults,
    /// How many sites there were, with those at fault.
    pub count: usize,
    sources: Sources,
    files: Files,
    defaults: Option<Node>,
    names: HashMap<Arc<str>, Place, BuildHasherDefault<NameHasher>>,
    specs: HashMap<u128, Shared>,
    checks: HashMap<u128, SharedCheck>,
    /// What was read before of sites like these.
    before: Arc<Known>,
    /// A hash of the defaults: sites with equal keys are alike only under the same.
    under: u128,
    told: HashSet<(Place, u64)>,
    repeated: usize,
    buffer: Vec<u8>,
}

/// What was read of the sites of a configuration, so that the next one reads only what is new.
#[derive(Debug, Default)]
pub struct Known(HashMap<u128, Shared>);

/// What sites with equal keys have in common.
#[derive(Debug, Clone)]
struct Shared {
    spec: Arc<Spec>,
    check: Arc<Compiled>,
    /// The files that it names.
    files: Arc<[ReadFile]>,
    /// Whether reading it gave a warning, which is to be repeated for the next site like it.
    warned: bool,
}

/// A check, and which keys it took.
#[derive(Clone)]
struct SharedCheck {
    check: Arc<Compiled>,
    known: Vec<&'static str>,
    /// The files that it names.
    files: Arc<[ReadFile]>,
}

/// A quick hash for the names of a million sites; who chose them would only slow down the reading of their own file.
#[derive(Default)]
struct NameHasher(u64);

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Sites {
    /// No sites yet. `files` reads the files that they name; `before` is what was known of those before them.
    pub fn new(sources: Sources, files: Files, before: Arc<Known>) -> Self {
        Self {
            list: Vec::new(),
            faults: Faults::default(),
            count: 0,
            sources,
            files,
            defaults: None,
            names: HashMap::default(),
            specs: HashMap::new(),
            checks: HashMap::new(),
            before,
            under: 0,
            told: HashSet::new(),
            repeated: 0,
            buffer: Vec::new(),
        }
    }

    /// What each site that comes from now on has where it says nothing of its own: `defaults`.
    pub fn set_defaults(&mut self, defaults: Node) {
        let mut faults = Faults::default();
        let at = At::new(&defaults, "defaults");
        for (key, at) in at.map(&mut faults).all() {
            if matches!(&*key.name, "name" | "url") {
                let message = format!("`{}` is each site's own and has no default", key.name);
                faults.error(key.place, &at.path, message);
            }
        }
        if matches!(defaults.value, Value::Map(_)) {
            self.read(&defaults, "defaults", Target::default(), &mut faults);
        }
        // With faults in them they are left out, so that they are told once and not for each site.
        let usable = !faults.any_errors();
        self.tell(faults);
        if usable && matches!(defaults.value, Value::Map(_)) {
            self.buffer.clear();
            self.encode(&defaults);
            self.under = xxh3_128(&self.buffer);
            self.defaults = Some(defaults);
        }
    }

    /// Whether a node was told of, and tells of it otherwise: each fault once, although aliases and defaults
    /// bring it to many sites.
    pub fn tell(&mut self, faults: Faults) {
        for fault in faults.0 {
            let mut hasher = DefaultHasher::new();
            fault.message.hash(&mut hasher);
            if self.told.insert((fault.place, hasher.finish())) {
                self.faults.0.push(fault);
            }
        }
    }

    /// Reads a site. Its path is asked for only where it is needed.
    pub fn add(&mut self, node: &Node, path: &dyn Fn() -> String) {
        self.count += 1;
        let mut faults = Faults::default();
        if let Some(watched) = self.site(node, path, &mut faults) {
            self.list.push(watched);
        }
        if !faults.0.is_empty() {
            self.tell(faults);
        }
    }

    fn site(&mut self, node: &Node, path: &dyn Fn() -> String, faults: &mut Faults) -> Option<Watched> {
        let Value::Map(entries) = &node.value else {
            At::new(node, path()).expected(faults, "a site: a map with a `url`");
            return None;
        };
        let url = own(entries, "url").and_then(|node| Self::url(node, path, faults));
        if own(entries, "url").is_none() {
            At::new(node, path()).map(faults).missing(faults, "url", "a URL such as https://shop.example/");
        }
        let name = self.name(entries, url.as_ref(), node.place, path, faults);
        let target = url.as_deref().map(Target::of).unwrap_or_default();

        let key = self.hash(node, target);
        let known = self.specs.get(&key).cloned().or_else(|| self.known(key));
        let shared = match known {
            Some(shared) if !shared.warned || self.repeated > REPEATED_WARNINGS_MAX => Some(shared),
            _ => {
                let merged = self.defaults.as_ref().map(|defaults| merge(defaults, node, false));
                let before = faults.0.len();
                let shared = self.read(merged.as_ref().unwrap_or(node), &path(), target, faults);
                let warned = faults.0.len() > before;
                self.repeated += usize::from(warned);
                shared.inspect(|shared| {
                    self.specs.insert(key, Shared { warned, ..shared.clone() });
                })
            }
        }?;
        let Shared { spec, check, .. } = shared;
        Some(Watched { site: Site { name: name?, url: url?, spec }, check })
    }

    /// What was read before under the same key, if it is still true.
    fn known(&mut self, key: u128) -> Option<Shared> {
        let shared = self.before.0.get(&key)?;
        let same = !shared.warned && self.sources.hold_the_same(&shared.files);
        let shared = same.then(|| shared.clone())?;
        self.specs.insert(key, shared.clone());
        Some(shared)
    }

    /// What is known of the sites that were read.
    pub fn take_known(&mut self) -> Known {
        Known(std::mem::take(&mut self.specs))
    }

    fn url(node: &Node, path: &dyn Fn() -> String, faults: &mut Faults) -> Option<Arc<str>> {
        // Which kind it is matters little here: there is one, and each that comes has URLs.
        let at = || At::new(node, sitemon_model::tree::join(&path(), "url"));
        let Value::Scalar { text, .. } = &node.value else {
            at().expected(faults, "a URL such as https://shop.example/");
            return None;
        };
        match (sitemon_probe::KINDS[0].validate_url)(text) {
            Ok(()) => Some(text.as_ref().into()),
            Err(_) if node.secret => {
                at().expected(faults, "a URL such as https://shop.example/");
                None
            }
            Err(message) => {
                at().error(faults, message);
                None
            }
        }
    }

    /// The name: given, else the URL.
    fn name(
        &mut self,
        entries: &[(Key, Node)],
        url: Option<&Arc<str>>,
        place: Place,
        path: &dyn Fn() -> String,
        faults: &mut Faults,
    ) -> Option<Arc<str>> {
        let at = || sitemon_model::tree::join(&path(), "name");
        let (name, place): (Arc<str>, Place) = match own(entries, "name") {
            Some(node) => match &node.value {
                Value::Scalar { text, .. } if valid_name(text) => (text.as_ref().into(), node.place),
                _ => {
                    At::new(node, at()).expected(faults, "1 to 128 printable ASCII characters");
                    return None;
                }
            },
            None => match url? {
                url if valid_name(url) => (Arc::clone(url), own(entries, "url").map_or(place, |node| node.place)),
                _ => {
                    let message =
                        "is missing, and the URL cannot be the name, expected 1 to 128 printable ASCII characters";
                    faults.error(place, at(), message);
                    return None;
                }
            },
        };
        if let Some(first) = self.names.get(&name) {
            let message = format!("duplicate name {}, first at {}", quoted(&name), self.sources.show(*first));
            faults.error(place, at(), message);
            return None;
        }
        self.names.insert(Arc::clone(&name), place);
        Some(name)
    }

    /// The hash of all keys of a site but name and URL, and of what else decides how they are read.
    fn hash(&mut self, node: &Node, target: Target) -> u128 {
        self.buffer.clear();
        target.encode(&mut self.buffer);
        self.buffer.extend(self.under.to_le_bytes());
        if let Value::Map(entries) = &node.value {
            for (key, node) in entries {
                if !matches!(&*key.name, "name" | "url") {
                    encode_text(&key.name, &mut self.buffer);
                    self.encode(node);
                }
            }
        }
        xxh3_128(&self.buffer)
    }

    /// Appends a tree to the buffer, so that different trees give different bytes.
    fn encode(&mut self, node: &Node) {
        let mut buffer = std::mem::take(&mut self.buffer);
        encode(node, &self.sources, &mut buffer);
        self.buffer = buffer;
    }

    /// Reads all keys of a site but name and URL.
    fn read(&mut self, node: &Node, path: &str, target: Target, faults: &mut Faults) -> Option<Shared> {
        let errors = |faults: &Faults| faults.0.iter().filter(|fault| !fault.warning).count();
        let before = errors(faults);
        let mut fields = At::new(node, path).map(faults);
        fields.know(&["name", "url"]);

        let kind = match fields.take("kind") {
            None => Some(&sitemon_probe::KINDS[0]),
            Some(at) => at.str(faults).and_then(|name| {
                let kind = sitemon_probe::KINDS.iter().find(|kind| kind.name == name);
                if kind.is_none() {
                    at.error(faults, unknown_kind(name, &kind_names(), &[]));
                }
                kind
            }),
        };
        let enabled = fields.take("enabled").map_or(Some(true), |at| at.bool(faults));
        let interval = fields.take("interval").map_or(Some(INTERVAL), |at| read_interval(&at, faults));
        let jitter = fields.take("jitter").map_or(Some(Duration::ZERO), |at| {
            let jitter = at.duration(faults)?;
            if interval.is_some_and(|interval| jitter > interval) {
                at.error(faults, format!("`{}` is longer than the interval", show_duration(jitter)));
            }
            Some(jitter)
        });
        let timeout = fields.take("timeout");
        let timeout = match timeout {
            Some(at) => read_timeout(&at, interval, faults),
            None => interval.map(|interval| interval.min(TIMEOUT)),
        };
        let labels = fields.take("labels").map(|at| read_labels(&at, faults)).unwrap_or_default();
        let plugins = fields.take("plugins").map(|at| read_plugins(&at, faults)).unwrap_or_default();

        let mut check = None;
        if let Some(kind) = kind {
            check = self.check(kind, &mut fields, node, timeout, &plugins, target, faults);
            fields.finish(faults);
        }
        if errors(faults) > before {
            return None;
        }
        let (kind, SharedCheck { check, files, .. }) = (kind?, check?);
        let options = kind_keys(node).map(|(key, node)| (key.name.to_string(), node.to_json())).collect();
        let mut spec = Spec {
            kind: kind.name.into(),
            enabled: enabled?,
            interval: interval?,
            jitter: jitter?,
            timeout: timeout?,
            labels,
            plugins: plugins.into_iter().map(|(choice, _)| choice).collect(),
            options,
            digest: 0,
        };
        spec.digest = digest(&spec, &files);
        Some(Shared { spec: Arc::new(spec), check, files, warned: false })
    }

    /// The check that the kind makes of its own keys, or the one that it made of equal ones before.
    #[expect(clippy::too_many_arguments, reason = "it is a step of `read`, cut out because it is long")]
    fn check(
        &mut self,
        kind: &sitemon_probe::Kind,
        fields: &mut Fields<'_>,
        node: &Node,
        timeout: Option<Duration>,
        plugins: &[(PluginChoice, Arc<dyn Plugin>)],
        target: Target,
        faults: &mut Faults,
    ) -> Option<SharedCheck> {
        self.buffer.clear();
        encode_text(kind.name, &mut self.buffer);
        target.encode(&mut self.buffer);
        self.buffer.extend(timeout.unwrap_or_default().as_nanos().to_le_bytes());
        for (choice, _) in plugins {
            encode_text(&choice.name, &mut self.buffer);
            encode_text(&canonical(&serde_json::Value::Object(choice.options.clone())), &mut self.buffer);
        }
        for (key, node) in kind_keys(node) {
            encode_text(&key.name, &mut self.buffer);
            self.encode(node);
        }
        let key = xxh3_128(&self.buffer);
        if let Some(shared) = self.checks.get(&key) {
            fields.know(&shared.known);
            return Some(shared.clone());
        }
        let common = Common {
            timeout: timeout.unwrap_or(TIMEOUT),
            plugins: plugins.iter().map(|(_, plugin)| Arc::clone(plugin)).collect(),
            secure: target.secure,
            address: target.address,
            files: self.files.clone(),
        };
        let (told, known) = (faults.0.len(), fields.known().len());
        self.sources.take_read();
        let check = (kind.parse)(fields, &common, faults);
        if check.is_none() && faults.0[told..].iter().all(|fault| fault.warning) {
            faults.error(fields.place(), fields.path(), format!("the kind `{}` made no check of it", kind.name));
        }
        let shared = SharedCheck {
            check: Compiled::new(check?),
            known: fields.known()[known..].to_vec(),
            files: self.sources.take_read(),
        };
        if faults.0.len() == told {
            self.checks.insert(key, shared.clone());
        }
        Some(shared)
    }
}

/// The names of all kinds of check.
fn kind_names() -> Vec<&'static str> {
    sitemon_probe::KINDS.iter().map(|kind| kind.name).collect()
}

/// What is said of a kind that is not in its table: `later` are those that are promised.
pub fn unknown_kind(name: &str, known: &[&str], later: &[&str]) -> String {
    let expected = known.join(", ");
    if later.contains(&name) {
        return format!("`{name}` comes with a later version, expected one of: {expected}");
    }
    match nearest(name, known) {
        Some(nearest) => format!("unknown kind {}, did you mean `{nearest}`?", quoted(name)),
        None => format!("unknown kind {}, expected one of: {expected}", quoted(name)),
    }
}

fn own<'n>(entries: &'n [(Key, Node)], name: &str) -> Option<&'n Node> {
    entries.iter().find(|(key, _)| &*key.name == name).map(|(_, node)| node).filter(|node| !node.is_null())
}

/// The entries of a site that its kind reads.
fn kind_keys(node: &Node) -> impl Iterator<Item = &(Key, Node)> {
    let entries = if let Value::Map(entries) = &node.value { entries.as_slice() } else { &[] };
    entries.iter().filter(|(key, node)| !OUTSIDE_CHECK.contains(&&*key.name) && !node.is_null())
}

/// What of a site's URL decides how its keys are read.
#[derive(Debug, Clone, Copy, Default)]
struct Target {
    /// Whether the scheme is a secure one.
    secure: Option<bool>,
    /// The host, where it is an address.
    address: Option<IpAddr>,
}

impl Target {
    fn of(url: &str) -> Self {
        let secure = url.trim_start().get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"));
        // A hundred thousand names are not parsed for the few addresses among them: the last label of those begins
        // with a digit, or they stand in brackets.
        let host =
            url.split(['/', '?', '#', '\\']).find(|part| !part.is_empty() && !part.ends_with(':')).unwrap_or_default();
        let label = host.split(':').next().unwrap_or_default().trim_end_matches('.').rsplit('.').next();
        let may_be =
            host.starts_with('[') || label.is_none_or(|label| !label.starts_with(|c: char| c.is_ascii_alphabetic()));
        let address = if may_be { sitemon_probe::http::spec::address_in(url) } else { None };
        Self { secure: Some(secure), address }
    }

    /// Appends it to what a check is known by.
    fn encode(self, buffer: &mut Vec<u8>) {
        buffer.push(self.secure.map_or(2, u8::from));
        buffer.push(self.address.map_or(0, |address| if address.is_ipv4() { 4 } else { 6 }));
    }
}

fn read_interval(at: &At<'_>, faults: &mut Faults) -> Option<Duration> {
    let interval = at.duration(faults)?;
    if interval < INTERVAL_MIN {
        let shown = at.node.describe();
        at.error(faults, format!("{shown} is too short, expected {} or longer", show_duration(INTERVAL_MIN)));
        return None;
    }
    Some(interval)
}

fn read_timeout(at: &At<'_>, interval: Option<Duration>, faults: &mut Faults) -> Option<Duration> {
    let timeout = at.duration(faults)?;
    if timeout.is_zero() {
        at.expected(faults, "a duration longer than nothing");
        return None;
    }
    if let Some(interval) = interval.filter(|interval| timeout > *interval) {
        at.warning(
            faults,
            format!(
                "{} is longer than the interval of {}, so a slow check makes the site's next slots `skipped.overlap`",
                show_duration(timeout),
                show_duration(interval)
            ),
        );
    }
    Some(timeout)
}

fn read_labels(at: &At<'_>, faults: &mut Faults) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (key, at) in at.map(faults).all() {
        if !at.node.is_null()
            && let Some(text) = at.str(faults)
        {
            labels.insert(key.name.to_string(), text.to_owned());
        }
    }
    labels
}

fn read_plugins(at: &At<'_>, faults: &mut Faults) -> Vec<(PluginChoice, Arc<dyn Plugin>)> {
    let empty = Node { place: at.node.place, ..Node::empty_map() };
    if matches!(&at.node.value, Value::Scalar { text, .. } if &**text == "all") {
        return sitemon_plugin::KINDS
            .iter()
            .filter_map(|kind| plugin(kind, &At::new(&empty, at.path.clone()), faults))
            .collect();
    }
    // One alone, by its name or with its options, stands for a list of it.
    let alone = matches!(&at.node.value, Value::Map(entries) if !entries.is_empty());
    let chosen = if alone { vec![at.clone()] } else { at.one_or_list(faults) };
    let names: Vec<&str> = sitemon_plugin::KINDS.iter().map(|kind| kind.name).collect();
    let mut plugins: Vec<(PluginChoice, Arc<dyn Plugin>)> = Vec::new();
    for at in chosen {
        let empty = Node { place: at.node.place, ..Node::empty_map() };
        let (name, place, options) = match &at.node.value {
            Value::Scalar { text, .. } if !at.node.is_null() => {
                (&**text, at.node.place, At::new(&empty, at.path.clone()))
            }
            Value::Map(entries) if entries.len() == 1 => {
                let (key, node) = &entries[0];
                let path = sitemon_model::tree::join(&at.path, &key.name);
                let node = if node.is_null() { &empty } else { node };
                (&*key.name, key.place, At::new(node, path))
            }
            _ => {
                at.expected(faults, "the name of a plugin, or a map of one name to its options");
                continue;
            }
        };
        let Some(kind) = sitemon_plugin::KINDS.iter().find(|kind| kind.name == name) else {
            let message = match nearest(name, &names) {
                Some(nearest) => format!("unknown plugin {}, did you mean `{nearest}`?", quoted(name)),
                None => format!("unknown plugin {}, expected one of: {}", quoted(name), names.join(", ")),
            };
            faults.error(place, &at.path, message);
            continue;
        };
        if plugins.iter().any(|(choice, _)| &*choice.name == name) {
            faults.error(place, &at.path, format!("`{name}` is given twice"));
            continue;
        }
        plugins.extend(plugin(kind, &options, faults));
    }
    plugins
}

fn plugin(kind: &sitemon_plugin::Kind, at: &At<'_>, faults: &mut Faults) -> Option<(PluginChoice, Arc<dyn Plugin>)> {
    let before = faults.0.len();
    let plugin = (kind.parse)(at, faults);
    if plugin.is_none() && faults.0[before..].iter().all(|fault| fault.warning) {
        at.error(faults, format!("the plugin `{}` cannot be used with these options", kind.name));
    }
    let options = match at.node.to_json() {
        serde_json::Value::Object(options) => options,
        _ => serde_json::Map::new(),
    };
    Some((PluginChoice { name: kind.name.into(), options }, plugin?))
}

/// The second map put over the first, key by key at every depth; anything else replaces what was there. With
/// `fold` the names of keys are those of headers, in which case does not count.
pub fn merge(base: &Node, over: &Node, fold: bool) -> Node {
    let (Value::Map(base_entries), Value::Map(over_entries)) = (&base.value, &over.value) else {
        return over.clone();
    };
    let same = |a: &str, b: &str| if fold { a.eq_ignore_ascii_case(b) } else { a == b };
    let mut entries: Vec<(Key, Node)> = Vec::with_capacity(base_entries.len() + over_entries.len());
    for (key, node) in base_entries {
        if !over_entries.iter().any(|(other, _)| same(&other.name, &key.name)) {
            entries.push((key.clone(), node.clone()));
        }
    }
    for (key, node) in over_entries {
        let node = match base_entries.iter().find(|(other, _)| same(&other.name, &key.name)) {
            Some((_, below)) => merge(below, node, &*key.name == "headers"),
            None => node.clone(),
        };
        entries.push((key.clone(), node));
    }
    Node { value: Value::Map(entries), place: over.place, secret: over.secret }
}

fn encode_text(text: &str, buffer: &mut Vec<u8>) {
    buffer.extend((text.len() as u32).to_le_bytes());
    buffer.extend(text.as_bytes());
}

fn encode(node: &Node, sources: &Sources, buffer: &mut Vec<u8>) {
    match &node.value {
        Value::Scalar { text, quoted } => {
            // The folder counts because a text may be a relative path.
            buffer.push(u8::from(*quoted) | u8::from(node.secret) << 1);
            buffer.extend(sources.folder_hash(node.place.source).to_le_bytes());
            encode_text(text, buffer);
        }
        Value::List(items) => {
            buffer.push(8);
            buffer.extend((items.len() as u32).to_le_bytes());
            for item in items {
                encode(item, sources, buffer);
            }
        }
        Value::Map(entries) => {
            buffer.push(9);
            buffer.extend((entries.len() as u32).to_le_bytes());
            for (key, node) in entries {
                encode_text(&key.name, buffer);
                encode(node, sources, buffer);
            }
        }
    }
}

/// A number that is equal for two sites only where they are watched alike, from one load to the next.
fn digest(spec: &Spec, files: &[ReadFile]) -> u128 {
    let Spec { kind, enabled, interval, jitter, timeout, labels, plugins, options, digest: _ } = spec;
    let plugins: Vec<serde_json::Value> =
        plugins.iter().map(|choice| serde_json::json!([&*choice.name, choice.options])).collect();
    let value = serde_json::json!([
        &**kind,
        enabled,
        interval.as_nanos().to_string(),
        jitter.as_nanos().to_string(),
        timeout.as_nanos().to_string(),
        labels,
        plugins,
        options,
        files.iter().map(|file| file.hash.to_string()).collect::<Vec<_>>(),
    ]);
    xxh3_128(canonical(&value).as_bytes())
}

/// Compact JSON with sorted keys.
pub fn canonical(value: &serde_json::Value) -> String {
    fn sorted(value: &serde_json::Value) -> serde_json::Value {
        match value {
            serde_json::Value::Object(map) => {
                let sorted: BTreeMap<&String, serde_json::Value> =
                    map.iter().map(|(name, value)| (name, sorted(value))).collect();
                serde_json::Value::Object(sorted.into_iter().map(|(name, value)| (name.clone(), value)).collect())
            }
            serde_json::Value::Array(items) => serde_json::Value::Array(items.iter().map(sorted).collect()),
            other => other.clone(),
        }
    }
    sorted(value).to_string()
}
