//! The configuration: found, read, checked, and shown again. The only place that reads its files and the
//! environment.

use sitemon_model::Site;
use sitemon_model::tree::Fault;
use sitemon_probe::Check;
use sitemon_store::Retention;
use std::net::SocketAddr;
use std::path::PathBuf;
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
    pub metrics: Option<SocketAddr>,
    /// How long a stop waits for running checks.
    pub grace: Duration,
    /// The files that it came from, the main one first; what `--watch` looks at.
    pub files: Vec<PathBuf>,
    /// What deserves a word: warnings, each as `FILE:LINE:COLUMN: path: message`.
    pub warnings: Vec<String>,
    /// With a file of an earlier system: its native form, for the note at start.
    pub converted: Option<String>,
}

/// A site and its check.
#[derive(Debug, Clone)]
pub struct Watched {
    /// What is watched.
    pub site: Site,
    /// How, compiled; shared by all sites that are configured alike.
    pub check: Arc<dyn Check>,
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
    #[error("{} faults in the configuration", faults.iter().filter(|fault| !fault.warning).count())]
    Faults {
        /// The files, or for example `environment`.
        sources: Vec<String>,
        /// What is wrong.
        faults: Vec<Fault>,
    },
    /// There is none, or it cannot be read: the message says which was looked for.
    #[error("{0}")]
    Missing(String),
}
