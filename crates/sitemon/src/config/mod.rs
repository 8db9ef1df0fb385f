//! The configuration: found, read, checked, and shown again. The only place that reads its files and the
//! environment.
//!
//! `yaml` reads texts into trees with places, `load` files and environment into one tree, `sites` its sites,
//! `earlier` the files of earlier systems; `show`, `emit` and `schema` go the other way.

mod earlier;
mod emit;
mod environment;
mod json;
mod load;
mod origins;
mod schema;
mod show;
mod sites;
mod sources;
mod yaml;

pub use environment::Environment;
pub use origins::{FOLDERS_MAX, Origins};
pub use schema::{reference, schema};
pub use sites::Known;
pub use sources::render;

use load::Purpose;
use sitemon_model::Site;
use sitemon_model::tree::{Fault, Faults, Node, Value};
use sitemon_model::unit::show_count;
use sitemon_probe::Check;
use sitemon_store::{Retention, SiteRecord};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Where the configuration is looked for, and what the command line says about it.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// `-c FILE`; `None`: the first that is found.
    pub file: Option<PathBuf>,
    /// `--local`: the embedded bus and store, whatever the file says.
    pub local: bool,
}

/// A configuration that may be run.
#[derive(Debug)]
pub struct Config {
    /// Where this checker runs.
    pub location: Arc<str>,
    /// What all running checks may use.
    pub limits: Limits,
    /// Addresses that are not dialled.
    pub network: sitemon_probe::policy::Policy,
    /// What is watched, in the order of the files. Includes disabled sites.
    pub sites: Vec<Watched>,
    /// How the store is opened.
    pub store: Box<dyn sitemon_store::Config>,
    /// The longest time that an observation waits for its transaction.
    pub flush: Duration,
    /// How long each is kept.
    pub retention: Retention,
    /// How the bus is opened.
    pub bus: Box<dyn sitemon_bus::Config>,
    /// Where metrics are served, if at all.
    pub metrics: Option<Metrics>,
    /// How long a stop waits for running checks.
    pub grace: Duration,
    /// The files that it came from, the main one first, as they were; what `--watch` looks at.
    pub origins: Origins,
    /// What deserves a word: warnings, each as `FILE:LINE:COLUMN: path: message`.
    pub warnings: Vec<String>,
    /// With a file of an earlier system: its native form, for the note at start.
    pub converted: Option<String>,
    /// Where what the bus does not take is kept meanwhile; used only where the bus is not local.
    pub spool: Spool,
    /// What is in force besides the sites, in native form, secrets hidden.
    pub shown: serde_json::Map<String, serde_json::Value>,
    /// What was read of its sites, for [`load_again`].
    pub known: Arc<Known>,
}

/// `metrics`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metrics {
    /// Where they are served.
    pub listen: SocketAddr,
    /// Series of single sites are shown while there are no more sites than these.
    pub sites: usize,
}

/// `spool`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spool {
    /// The folder.
    pub path: PathBuf,
    /// Bytes that it may hold; at the bound the oldest is given up.
    pub size: u64,
}

/// A site and its check.
#[derive(Debug, Clone)]
pub struct Watched {
    /// What is watched.
    pub site: Site,
    /// How; shared by all sites that are configured alike.
    pub check: Arc<Compiled>,
}

/// A check that was compiled. A reference to it is one word, where one to a trait's object is two, and each of a million
/// sites has one.
#[derive(Debug)]
pub struct Compiled(Arc<dyn Check>);

impl Compiled {
    /// This check.
    pub fn new(check: Arc<dyn Check>) -> Arc<Self> {
        Arc::new(Self(check))
    }
}

impl std::ops::Deref for Compiled {
    type Target = dyn Check;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl Watched {
    /// What a store keeps of it.
    pub fn record(&self) -> SiteRecord {
        let site = &self.site;
        SiteRecord {
            name: site.name.clone(),
            url: site.url.clone(),
            kind: site.spec.kind.clone(),
            enabled: site.spec.enabled,
            interval: site.spec.interval,
            labels: site.spec.labels.clone(),
            present: true,
        }
    }
}

/// `limits`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Checks that run at one time.
    pub checks_in_flight: usize,
    /// Checks that run at one time against one host and port.
    pub checks_in_flight_per_host: usize,
    /// Bytes that all running checks hold above idle.
    pub memory: u64,
}

/// Why there is no configuration to run.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration has faults (and perhaps warnings): all of them, with the names of the sources that
    /// `Place::source` counts.
    #[error("{}", number_of(faults))]
    Faults {
        /// The files, or for example `environment`.
        sources: Vec<String>,
        /// What is wrong.
        faults: Vec<Fault>,
        /// What it was read from.
        origins: Box<Origins>,
    },
    /// There is none, or it cannot be read: the message says which was looked for.
    #[error("{0}")]
    Missing(String),
}

/// How many errors there are.
fn number_of(faults: &[Fault]) -> String {
    let errors = faults.iter().filter(|fault| !fault.warning).count();
    format!("{} in the configuration", show_count(errors as u64, "fault"))
}

impl ConfigError {
    /// What to tell, a line for each fault.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Faults { sources, faults, .. } => faults.iter().map(|fault| render(sources, fault)).collect(),
            Self::Missing(message) => vec![message.clone()],
        }
    }
}

/// Reads the configuration: the first file that is found, or the environment alone.
pub fn load(source: &Source) -> Result<Config, ConfigError> {
    load_in(source, &Environment::of_process())
}

/// See [`load`]; what is known from the time before is not read anew.
pub fn load_again(source: &Source, before: Arc<Known>) -> Result<Config, ConfigError> {
    load_from(source, &Environment::of_process(), before)
}

/// See [`load`]; in a given environment.
pub fn load_in(source: &Source, environment: &Environment) -> Result<Config, ConfigError> {
    load_from(source, environment, Arc::default())
}

fn load_from(source: &Source, environment: &Environment, before: Arc<Known>) -> Result<Config, ConfigError> {
    let file = locate(source, environment).ok_or_else(|| nothing_found(environment))?;
    let purpose = Purpose { local: source.local, sites: true, strict: false };
    finish(load::read_with(Some(&file), environment, purpose, &[], before))
}

/// A configuration whose sites are these URLs, with what the file says otherwise, its `defaults` included;
/// without a file that is found, with what a file says that says nothing. Each is named by its URL; one that
/// is given twice is a fault.
pub fn sites_of_urls(source: &Source, urls: &[String]) -> Result<Config, ConfigError> {
    sites_of_urls_in(source, urls, &Environment::of_process())
}

/// See [`sites_of_urls`]; in a given environment.
pub fn sites_of_urls_in(source: &Source, urls: &[String], environment: &Environment) -> Result<Config, ConfigError> {
    let file = locate(source, environment);
    let purpose = Purpose { local: source.local, sites: false, strict: false };
    finish(load::read_with(file.as_deref(), environment, purpose, urls, Arc::default()))
}

/// All that is wrong with a file, and all that deserves a word: what [`render`] makes lines of. The list of
/// sources comes first. Opens the files that are named in it, and nothing on the network.
pub fn check(path: &Path) -> (Vec<String>, Vec<Fault>) {
    check_in(path, &Environment::of_process())
}

/// See [`check`]; in a given environment.
pub fn check_in(path: &Path, environment: &Environment) -> (Vec<String>, Vec<Fault>) {
    let outcome = load::read(Some(path), environment, Purpose { local: false, sites: true, strict: true });
    (outcome.sources, outcome.faults)
}

/// What is in force, in native YAML: defaults filled in, secrets hidden.
pub fn show(source: &Source) -> Result<Native, ConfigError> {
    show_in(source, &Environment::of_process())
}

/// See [`show`]; in a given environment.
pub fn show_in(source: &Source, environment: &Environment) -> Result<Native, ConfigError> {
    let file = locate(source, environment).ok_or_else(|| nothing_found(environment))?;
    let purpose = Purpose { local: source.local, sites: true, strict: false };
    let outcome = load::read(Some(&file), environment, purpose);
    let (sources, faults) = (outcome.sources.clone(), outcome.faults.clone());
    let mut config = finish(outcome)?;
    let mut shown = std::mem::take(&mut config.shown);
    show::absolute_paths(&mut shown);
    shown.insert("sites".to_owned(), serde_json::Value::Array(config.sites.iter().map(show::site).collect()));
    let mut shown = Node::from_json(&serde_json::Value::Object(shown));
    // What is shown can be read again: the values stand there as they are.
    environment::literal(&mut shown);
    Ok(Native { yaml: emit::yaml(&shown), warnings: faults.iter().map(|fault| render(&sources, fault)).collect() })
}

/// A configuration in native form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Native {
    /// The text.
    pub yaml: String,
    /// What deserves a word, a bad entry that was left out for example; each as [`render`] makes it.
    pub warnings: Vec<String>,
}

/// The native YAML of any file that is understood. Secrets and variables stay as they stand there.
pub fn convert(path: &Path) -> Result<Native, ConfigError> {
    convert_in(path, &Environment::of_process())
}

/// See [`convert`]; in a given environment.
pub fn convert_in(path: &Path, environment: &Environment) -> Result<Native, ConfigError> {
    let mut faults = Faults::default();
    let sources = vec![path.display().to_string()];
    let converted = load::read_text(path, 0, &mut faults).and_then(|text| {
        let root = load::read_tree(&text, 0, &mut faults)?;
        let Value::Map(entries) = &root.value else { return None };
        match earlier::recognise(entries) {
            Some(system) => Some(earlier::convert(system, &root, path, environment, false, &mut faults).yaml()),
            None => Some(emit::yaml(&root)),
        }
    });
    match converted.filter(|_| !faults.any_errors()) {
        Some(yaml) => Ok(Native { yaml, warnings: faults.0.iter().map(|fault| render(&sources, fault)).collect() }),
        None => Err(ConfigError::Faults { sources, faults: faults.0, origins: Box::default() }),
    }
}

/// The tree of a text in YAML or JSON, as it stands there; `None` where it is neither.
pub fn tree(text: &str) -> Option<Node> {
    load::read_tree(text, 0, &mut Faults::default())
}

/// The file that is read: the first that is given or found.
pub fn find(source: &Source) -> Result<PathBuf, ConfigError> {
    let environment = Environment::of_process();
    locate(source, &environment).ok_or_else(|| nothing_found(&environment))
}

/// See [`find`]; `None` where there is none.
fn locate(source: &Source, environment: &Environment) -> Option<PathBuf> {
    if let Some(file) = &source.file {
        return Some(file.clone());
    }
    let at = |path: &str| environment.folder.join(path);
    if let Some(path) = environment.given("SITEMON_CONFIG") {
        return Some(at(path));
    }
    if let Some(path) = environment.given("WEBSITE_MONITOR_CONFIG_PATH") {
        let path = at(path);
        return Some(if path.is_dir() { path.join("config.yml") } else { path });
    }
    for path in ["sitemon.yaml", "config/config.yml"] {
        if at(path).exists() {
            return Some(at(path));
        }
    }
    if let Some(path) = environment.given("MONITERFILE") {
        return Some(at(path));
    }
    Some(at("monitor.yml")).filter(|path| path.exists())
}

fn nothing_found(environment: &Environment) -> ConfigError {
    let both = ["KAFKA_BROKER", "POSTGRES_DSN"].iter().all(|name| environment.given(name).is_some());
    ConfigError::Missing(if both {
        "$KAFKA_BROKER and $POSTGRES_DSN are set, but Kafka and PostgreSQL come with a later version, and there is \
         no configuration file: give one with -c FILE, or write sitemon.yaml"
            .to_owned()
    } else {
        "no configuration found: give one with -c FILE or $SITEMON_CONFIG, or write sitemon.yaml (looked for \
         sitemon.yaml, config/config.yml and monitor.yml)"
            .to_owned()
    })
}

fn finish(outcome: load::Outcome) -> Result<Config, ConfigError> {
    let load::Outcome { sources, faults, config, origins, .. } = outcome;
    config.ok_or_else(|| ConfigError::Faults { sources, faults, origins: Box::new(origins) })
}
