//! The files of the earlier systems, recognised by their keys and turned into native form.
//!
//! In them unknown keys are warnings, no variables are put in, and a bad entry is told (with the path that it
//! has in its own file) and left out while the others run.

use super::emit;
use super::environment::{Environment, literal};
use super::sites::canonical;
use sitemon_model::site::valid_name;
use sitemon_model::tree::{At, Faults, Fields, Key, Node, Place, Value, quoted, unknown_key};
use sitemon_probe::http::spec::check_pattern;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64;

/// An earlier system whose files are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// YAML with `interval` and `monitors`.
    Monitors,
    /// YAML with `kafka`, `postgres` and `targets`.
    Targets,
    /// JSON with `monitor`.
    Collector,
}

/// Letters that are left of a name that gets a `~` and eight digits behind it.
const NAME_CUT: usize = 119;

/// The variables that name the files for TLS to Kafka.
const MONITORS_FILES: &[&str] = &["K_SSL_CAT_FILE", "K_SSL_CERT_FILE", "K_SSL_KEY_FILE"];

/// Which system's file it is that has these keys at its top; `None`: a native one.
pub fn recognise(root: &[(Key, Node)]) -> Option<System> {
    let has = |name: &str| root.iter().any(|(key, _)| &*key.name == name);
    if has("sites") || has("include") {
        return None;
    }
    if has("targets") || (has("kafka") && has("postgres")) {
        return Some(System::Targets);
    }
    if has("monitors") || (has("interval") && root.len() == 1) {
        return Some(System::Monitors);
    }
    has("monitor").then_some(System::Collector)
}

/// What came of a file.
#[derive(Debug, Default)]
pub struct Converted {
    /// Native `defaults`.
    defaults: Vec<(Key, Node)>,
    sites: SitesByPath,
}

/// Native sites, each with the path of the entry that it came from.
type SitesByPath = Vec<(String, Node)>;

impl Converted {
    /// The sites with their paths, and the other keys of the top.
    pub fn native(&self) -> (SitesByPath, Vec<(Key, Node)>) {
        let defaults = (!self.defaults.is_empty()).then(|| entry("defaults", map(self.defaults.clone())));
        (self.sites.clone(), defaults.into_iter().collect())
    }

    /// The native form, to be read by itself.
    pub fn yaml(&self) -> String {
        let (sites, mut root) = self.native();
        let sites = sites.into_iter().map(|(_, node)| node).collect();
        root.push(entry("sites", Node { value: Value::List(sites), ..Node::empty_map() }));
        let mut root = Node { value: Value::Map(root), ..Node::empty_map() };
        literal(&mut root);
        emit::yaml(&root)
    }
}

/// Turns the file at `path`, whose top is `root`, into native form. With `strict` bad entries are errors, and
/// files that it implies are looked for.
pub fn convert(
    system: System,
    root: &Node,
    path: &Path,
    environment: &Environment,
    strict: bool,
    faults: &mut Faults,
) -> Converted {
    let mut fields = At::new(root, "").map(faults);
    let mut converter =
        Converter { strict, names: HashSet::new(), entries: HashMap::new(), converted: Converted::default() };
    match system {
        System::Monitors => monitors(&mut fields, environment, strict, &mut converter, faults),
        System::Targets => targets(&mut fields, path, strict, &mut converter, faults),
        System::Collector => {
            if let Some(at) = fields.take("monitor") {
                collector(&mut at.map(faults), &mut converter, faults);
            }
        }
    }
    left_aside(&fields, faults);
    converter.converted
}

fn monitors(
    fields: &mut Fields<'_>,
    environment: &Environment,
    strict: bool,
    converter: &mut Converter,
    faults: &mut Faults,
) {
    let interval = interval(fields, "interval", faults);
    if let Some((node, seconds)) = &interval {
        // Its requests ended after five seconds.
        let timeout = if *seconds < 5.0 { node.clone() } else { Node { place: node.place, ..Node::plain("5s") } };
        converter.converted.defaults = vec![entry("interval", node.clone()), entry("timeout", timeout)];
    }
    let Some(list) = fields.take("monitors") else {
        return missing(fields, faults, "monitors", "a list of monitors");
    };
    if environment.given("K_HOST").or(environment.given("PS_HOST")).is_some() {
        list.warning(faults, LATER);
    }
    if strict {
        for name in MONITORS_FILES {
            if let Some(file) = environment.given(name).filter(|file| !environment.folder.join(file).exists()) {
                list.warning(faults, format!("the file {file}, which ${name} names for TLS to Kafka, is missing"));
            }
        }
    }
    let allowed = environment.given("URL_REGEX").and_then(|pattern| {
        let compiled = check_pattern(pattern)
            .and_then(|()| regex::Regex::new(&format!(r"\A(?:{pattern})")).map_err(|error| error.to_string()));
        compiled.map_err(|message| list.error(faults, format!("$URL_REGEX {message}"))).ok()
    });
    if interval.is_none() {
        return;
    }
    for at in list.list(faults) {
        converter.entry(&at, faults, |fields, faults| {
            let name = text(fields, "name", faults);
            let url = url(fields, "url", faults);
            if let (Some(allowed), Some((at, text))) = (&allowed, &url)
                && !allowed.is_match(text)
            {
                at.error(faults, format!("{} does not match $URL_REGEX", quoted(text)));
            }
            let pattern = pattern(fields, "pattern", faults);
            Entry { name, url: url.map(|(at, _)| at.node.clone()), keys: pattern.map(matches).into_iter().collect() }
        });
    }
}

fn targets(fields: &mut Fields<'_>, path: &Path, strict: bool, converter: &mut Converter, faults: &mut Faults) {
    for (name, known) in [("kafka", &["bootstrap_servers", "metrics_topic"][..]), ("postgres", &["uri"][..])] {
        let Some(at) = fields.take(if name == "kafka" { "kafka" } else { "postgres" }) else { continue };
        let mut inner = at.map(faults);
        inner.know(known);
        left_aside(&inner, faults);
        at.warning(faults, LATER);
        if name == "kafka" && strict {
            for file in ["ca.pem", "service.cert", "service.key"] {
                let file = path.parent().unwrap_or(Path::new("")).join("kafka").join(file);
                if !file.exists() {
                    let message = format!("the file {}, for TLS to Kafka, is missing", file.display());
                    at.warning(faults, message);
                }
            }
        }
    }
    let Some(list) = fields.take("targets") else {
        return missing(fields, faults, "targets", "a list of targets");
    };
    for at in list.list(faults) {
        converter.entry(&at, faults, |fields, faults| {
            let name = text(fields, "name", faults);
            let url = url(fields, "target", faults).map(|(at, _)| at.node.clone());
            let mut keys = Vec::new();
            if let Some((node, _)) = interval(fields, "check_interval_seconds", faults) {
                keys.push(entry("interval", node));
            }
            if let Some(node) = pattern(fields, "regexp", faults) {
                // It matched from the start of the body, and its dot matched newlines.
                let Value::Scalar { text, .. } = &node.value else { unreachable!("a pattern is a scalar") };
                let anchored = Node { place: node.place, ..Node::text(format!("(?s)\\A(?:{text})")) };
                keys.push(matches(anchored));
            }
            Entry { name, url, keys }
        });
    }
}

fn collector(fields: &mut Fields<'_>, converter: &mut Converter, faults: &mut Faults) {
    let interval = interval(fields, "pollfreq", faults);
    if let Some((node, _)) = &interval {
        converter.converted.defaults.push(entry("interval", node.clone()));
    }
    if let Some(at) = fields.take("custname")
        && at.str(faults).is_some()
    {
        let labels = Node { place: at.node.place, ..map(vec![entry("customer", at.node.clone())]) };
        converter.converted.defaults.push(entry("labels", labels));
    }
    if let Some(at) = fields.take("retrydelay") {
        at.warning(faults, "is left aside: what failed is checked again in the next slot");
    }
    let Some(list) = fields.take("sites") else {
        missing(fields, faults, "sites", "a list of sites");
        return left_aside(fields, faults);
    };
    if interval.is_some() {
        for at in list.list(faults) {
            converter.entry(&at, faults, |fields, faults| {
                let url = url(fields, "url", faults).map(|(at, _)| at.node.clone());
                let keys = pattern(fields, "regex", faults).map(|node| {
                    let body = map(vec![entry("extract", map(vec![entry("title", node)]))]);
                    entry("expect", map(vec![entry("body", body)]))
                });
                Entry { name: None, url, keys: keys.into_iter().collect() }
            });
        }
    }
    left_aside(fields, faults);
}

/// What is said where a file wants a bus and a store that come later.
const LATER: &str = "Kafka and PostgreSQL come with a later version: observations stay in the embedded store";

/// What was read of an entry.
struct Entry {
    name: Option<Node>,
    url: Option<Node>,
    /// The other keys of the native site.
    keys: Vec<(Key, Node)>,
}

/// Collects the sites of a file, and what keeps their names apart.
struct Converter {
    strict: bool,
    names: HashSet<String>,
    /// Entries as compact JSON, and the paths of those that had them first.
    entries: HashMap<String, String>,
    converted: Converted,
}

impl Converter {
    /// Reads one entry. What is wrong with it is an error where the file is checked, and else a warning.
    fn entry(&mut self, at: &At<'_>, faults: &mut Faults, read: impl FnOnce(&mut Fields<'_>, &mut Faults) -> Entry) {
        let mut found = Faults::default();
        let mut fields = at.map(&mut found);
        if found.any_errors() {
            return self.tell(found, faults);
        }
        let Entry { name, url, keys } = read(&mut fields, &mut found);
        left_aside(&fields, &mut found);
        let json = canonical(&at.node.to_json());
        if let Some(first) = self.entries.get(&json) {
            at.error(&mut found, format!("is the same as {first}"));
        } else {
            self.entries.insert(json.clone(), at.path.to_string());
        }
        if let Some(url) = url.filter(|_| !found.any_errors())
            && let Some(name) = self.name(at, name.as_ref().unwrap_or(&url), &json, &mut found)
        {
            let mut site = vec![entry("name", name), entry("url", url)];
            site.extend(keys);
            self.converted.sites.push((at.path.to_string(), Node { place: at.node.place, ..map(site) }));
        }
        self.tell(found, faults);
    }

    /// Notes what is wrong with an entry.
    fn tell(&self, found: Faults, faults: &mut Faults) {
        let bad = found.any_errors();
        for mut fault in found.0 {
            if bad && !fault.warning && !self.strict {
                fault.message.push_str("; the entry is left out");
                fault.warning = true;
            }
            faults.0.push(fault);
        }
    }

    /// The name as it fits: printable ASCII, at most 128 letters, not taken. Decided by the entry alone
    /// (beside those above it), so it is the same at each start.
    fn name(&mut self, at: &At<'_>, node: &Node, json: &str, faults: &mut Faults) -> Option<Node> {
        let Value::Scalar { text: given, .. } = &node.value else { return None };
        let mut name = given.to_string();
        if !valid_name(given) || self.names.contains(&**given) {
            let printable: String =
                given.chars().map(|c| if (' '..='~').contains(&c) { c } else { '?' }).take(NAME_CUT).collect();
            let hash = format!("{:016x}", xxh3_64(json.as_bytes()));
            name = format!("{printable}~{}", &hash[..8]);
            let why = if self.names.contains(&**given) { "taken" } else { "not 1 to 128 printable ASCII characters" };
            if self.names.contains(&name) {
                at.error(faults, format!("its name `{given}` is {why}, and `{name}` is taken too"));
                return None;
            }
            let place = node.place;
            faults.warning(place, &at.path, format!("its name `{given}` is {why}, so it is called `{name}`"));
        }
        self.names.insert(name.clone());
        Some(Node { place: node.place, ..Node::text(name) })
    }
}

/// Says of each key that was not asked for that it is left aside.
fn left_aside(fields: &Fields<'_>, faults: &mut Faults) {
    for (key, _) in fields.unknown() {
        let message = format!("{}; it is left aside", unknown_key(&key.name, fields.known()));
        faults.warning(key.place, fields.path_of(&key.name), message);
    }
}

/// Notes a missing key, also beside one that is misspelt, which is only a warning here.
fn missing(fields: &Fields<'_>, faults: &mut Faults, name: &str, what: &str) {
    if fields.is_map() {
        faults.error(fields.place(), fields.path_of(name), format!("is missing, expected {what}"));
    }
}

/// A number of seconds that is needed.
fn interval(fields: &mut Fields<'_>, name: &'static str, faults: &mut Faults) -> Option<(Node, f64)> {
    const EXPECTED: &str = "a number of seconds, 0.1 or more";
    let Some(at) = fields.take(name) else {
        missing(fields, faults, name, EXPECTED);
        return None;
    };
    let seconds = at.parse::<f64>(faults, EXPECTED)?;
    if !(0.1..1e9).contains(&seconds) || at.duration(&mut Faults::default()).is_none() {
        at.expected(faults, EXPECTED);
        return None;
    }
    Some((at.node.clone(), seconds))
}

/// A text that may be missing; nothing in it counts as missing.
fn text(fields: &mut Fields<'_>, name: &'static str, faults: &mut Faults) -> Option<Node> {
    let at = fields.take(name)?;
    at.str(faults).filter(|text| !text.is_empty()).map(|_| at.node.clone())
}

/// A URL that is needed.
fn url<'n>(fields: &mut Fields<'n>, name: &'static str, faults: &mut Faults) -> Option<(At<'n>, &'n str)> {
    let Some(at) = fields.take(name) else {
        missing(fields, faults, name, "a URL such as https://shop.example/");
        return None;
    };
    let text = at.str(faults)?;
    match sitemon_probe::http::spec::validate_url(text) {
        Ok(()) => Some((at, text)),
        Err(message) => {
            at.error(faults, message);
            None
        }
    }
}

/// A pattern that may be missing.
fn pattern(fields: &mut Fields<'_>, name: &'static str, faults: &mut Faults) -> Option<Node> {
    let at = fields.take(name)?;
    let text = at.str(faults)?;
    if let Err(message) = check_pattern(text) {
        at.error(faults, format!("{} {message}", at.node.describe()));
        return None;
    }
    Some(Node { place: at.node.place, ..Node::text(text) })
}

/// `expect: {body: {matches: [PATTERN]}}`
fn matches(pattern: Node) -> (Key, Node) {
    let list = Node { place: pattern.place, value: Value::List(vec![pattern]), secret: false };
    entry("expect", map(vec![entry("body", map(vec![entry("matches", list)]))]))
}

fn map(entries: Vec<(Key, Node)>) -> Node {
    Node { value: Value::Map(entries), ..Node::empty_map() }
}

fn entry(name: &str, node: Node) -> (Key, Node) {
    (Key { name: name.into(), place: Place::default() }, node)
}
