//! Does jobs: the kinds of check. The only crate that opens sockets to sites.
//!
//! To add a check kind: write `src/<name>.rs` (or a folder) exporting `KIND`, then add its two lines below.

pub mod http;
pub mod memory;
pub mod policy;
mod shared;

pub use shared::{Shared, SharedOptions};

use async_trait::async_trait;
use sitemon_model::tree::{Faults, Fields, Place};
use sitemon_model::{Job, Observation, Site};
use sitemon_plugin::Plugin;
use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// All kinds of check; the first is the default.
pub const KINDS: &[Kind] = &[http::KIND];

/// A kind of check as it stands in the table.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// As in the configuration.
    pub name: &'static str,
    /// One sentence for the reference.
    pub about: &'static str,
    /// Reads the kind's own keys of a site (for `http`: `request` and `expect`), noting each fault; takes only
    /// those, and does not finish the map. Needs no network.
    pub parse: fn(&mut Fields<'_>, &Common, &mut Faults) -> Option<Arc<dyn Check>>,
    /// Checks that a site's URL is one that this kind can check; the message says what was expected.
    pub validate_url: fn(&str) -> Result<(), String>,
    /// The JSON Schema of the kind's own keys: a map of property name to schema.
    pub schema: fn() -> serde_json::Map<String, serde_json::Value>,
}

/// What a kind's `parse` may need of a site's other keys.
#[derive(Debug, Clone, Default)]
pub struct Common {
    /// Of the whole check.
    pub timeout: Duration,
    /// The plugins that look at the content.
    pub plugins: Vec<Arc<dyn Plugin>>,
    /// Whether the site's URL has a secure scheme, where it is known.
    pub secure: Option<bool>,
    /// The host of the site's URL where that is an address.
    pub address: Option<IpAddr>,
    /// Reads the files that the keys name.
    pub files: Files,
}

/// Reads a file that a configuration names, or says why it cannot. Only who reads configurations touches the
/// file system, and so hands in how; a relative path is relative to the file in which it stands, and that is
/// told by its place.
#[derive(Clone)]
pub struct Files(Arc<ReadFile>);

type ReadFile = dyn Fn(Place, &str) -> Result<Arc<[u8]>, Unread> + Send + Sync;

/// Why a file cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot read {path}: {reason}")]
pub struct Unread {
    /// Where it was looked for.
    pub path: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Unread {
    /// The message where the path may be a secret that stands there by mistake.
    pub fn without_path(&self) -> String {
        format!("cannot read the file that is named here: {}", self.reason)
    }
}

impl Files {
    /// Reads by this function.
    pub fn new(read: impl Fn(Place, &str) -> Result<Arc<[u8]>, Unread> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// The content of the file at a path that stands at a place.
    pub fn read(&self, place: Place, path: &str) -> Result<Arc<[u8]>, Unread> {
        (self.0)(place, path)
    }
}

impl Default for Files {
    /// Refuses every file.
    fn default() -> Self {
        Self::new(|_, path| Err(Unread { path: path.to_owned(), reason: "no files are read here".to_owned() }))
    }
}

impl Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Files")
    }
}

/// A check with its options, compiled. Shared by all sites that are configured alike.
#[async_trait]
pub trait Check: Send + Sync + Debug {
    /// Does a job. Always an observation, whatever went wrong; in bounded time (the timeout) and memory.
    async fn check(&self, task: Task<'_>) -> Observation;

    /// What `limits.checks_in_flight_per_host` counts by: the URL's host and port.
    fn host(&self, url: &str) -> Box<str>;

    /// The plugins that look at the content.
    fn plugins(&self) -> &[Arc<dyn Plugin>];

    /// The kind's own keys in native form, defaults filled in, secrets hidden.
    fn show(&self) -> serde_json::Map<String, serde_json::Value>;
}

/// What a check is given to do its job.
#[derive(Debug, Clone, Copy)]
pub struct Task<'a> {
    /// What is watched.
    pub site: &'a Site,
    /// Its slot, and why.
    pub job: &'a Job,
    /// Where this checker runs.
    pub location: &'a Arc<str>,
    /// What the checks of one runtime share: resolvers, roots, idle connections, the memory bound.
    pub shared: &'a Arc<Shared>,
    /// `Verdict::fingerprint` of the last observation that the checker knows; 0 after a start. Evidence is
    /// attached where the new one differs.
    pub last: u64,
}
