//! Keeps sites, observations, statistics, evidence and the journal of runs.
//!
//! To add a store: write `src/<name>.rs` (or a folder) exporting `KIND`, then add its two lines below; it must
//! pass `conformance`. What is computed is computed in `stats`; a store is asked for as little as possible.

mod block;
mod postgres;
mod record;
mod sqlite;
mod tables;
mod wire;

pub mod conformance;
pub mod faulty;
pub mod raw;
pub mod sample;

use async_trait::async_trait;
use sitemon_model::observation::Key;
use sitemon_model::tree::{Faults, Fields};
use sitemon_model::{Observation, Timestamp};
use sitemon_stats::{Overview, Rollup};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// All stores; the first is the default.
pub const KINDS: &[Kind] = &[sqlite::KIND, postgres::KIND];

/// A store as it stands in the table.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// As in the configuration.
    pub name: &'static str,
    /// One sentence for the reference.
    pub about: &'static str,
    /// Reads the store's own keys (those beside `kind` and `flush`), noting each fault; does not finish the
    /// map. Relative paths are relative to `base`.
    pub parse: fn(&mut Fields<'_>, &std::path::Path, &mut Faults) -> Option<Box<dyn Config>>,
    /// The JSON Schema of the store's own keys: a map of property name to schema.
    pub schema: fn() -> serde_json::Map<String, serde_json::Value>,
}

/// The configuration of a store. Parsing opens nothing.
#[async_trait]
pub trait Config: Send + Sync + Debug {
    /// The name of its kind.
    fn kind(&self) -> &'static str;

    /// Its own keys in native form, defaults filled in, secrets hidden.
    fn show(&self) -> serde_json::Map<String, serde_json::Value>;

    /// Opens the store.
    async fn open(&self, access: Access) -> Result<Arc<dyn Store>, StoreError>;

    /// Whether there is anything to open yet.
    async fn exists(&self) -> Result<bool, StoreError>;
}

/// What a store is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading, beside a writer or without one.
    Read,
    /// Writing, by the command that is named; of an embedded store there is one writer at a time.
    Write(&'static str),
}

/// A store that is open.
#[async_trait]
pub trait Store: Send + Sync + Debug {
    /// Appends observations in one transaction, durable when this returns; with `advance` the position of
    /// their source moves in the same transaction, which is refused where it stands elsewhere than expected.
    async fn append(&self, batch: Vec<Arc<Observation>>, advance: Option<Advance>) -> Result<(), StoreError>;

    /// Where the reading of a source (`topic/partition`) goes on; 0 where nothing of it was appended yet.
    async fn position(&self, source: &str) -> Result<u64, StoreError>;

    /// Observations in the order of their keys (slot, site, location), one for each key by
    /// `Observation::precedence`, at most `scan.limit` of them; the page says where the next one begins.
    async fn scan(&self, scan: &Scan) -> Result<Page, StoreError>;

    /// The latest observation by the schedule of each site and location that was ever seen, sorted by site
    /// and location.
    async fn latest(&self) -> Result<Vec<Arc<Observation>>, StoreError>;

    /// Statistics of whole hours or days that overlap the window, the running one included, by site and
    /// location, sorted by site, location and time. Spans with neither observations nor a verdict carried
    /// into them are left out.
    async fn rollups(&self, query: &RollupQuery) -> Result<Vec<SiteRollup>, StoreError>;

    /// Statistics of exactly `[from, to)`: from rollups for the whole days and hours in it, from the
    /// observations at its ends; for each site and location, sorted.
    async fn summary(&self, query: &Window) -> Result<Vec<SiteRollup>, StoreError>;

    /// Of [`Store::summary`] what a table of many sites shows, for much less.
    async fn overview(&self, query: &Window) -> Result<Vec<SiteOverview>, StoreError> {
        Ok(self.summary(query).await?.into_iter().map(SiteOverview::of).collect())
    }

    /// For each of these sites and locations the slot since which every observation by the schedule has had the
    /// verdict of the latest; `None` where there is none.
    async fn since(&self, of: &[(Arc<str>, Arc<str>)]) -> Result<Vec<Option<Timestamp>>, StoreError>;

    /// The sites that are known, sorted by name.
    async fn sites(&self) -> Result<Vec<SiteRecord>, StoreError>;

    /// Brings the known sites of one origin in line: these are added or changed, others of that origin are
    /// marked as gone (their observations stay).
    async fn save_sites(&self, origin: &str, sites: Vec<SiteRecord>) -> Result<(), StoreError>;

    /// Does one piece of upkeep; may be repeated, may die anywhere.
    async fn maintain(&self, upkeep: Upkeep) -> Result<Upkept, StoreError>;

    /// Notes that a process took responsibility; what it returns names the run.
    async fn begin_run(&self, run: &RunStart) -> Result<i64, StoreError>;

    /// Notes that a run is alive at this instant, and with `ended` how it ended.
    async fn touch_run(&self, run: i64, at: Timestamp, ended: Option<&str>) -> Result<(), StoreError>;

    /// The runs that overlap `[from, to)`, the oldest first.
    async fn runs(&self, from: Timestamp, to: Timestamp) -> Result<Vec<Run>, StoreError>;

    /// What there is to say in numbers.
    async fn measure(&self) -> Result<Measures, StoreError>;

    /// Ends: what was accepted is safe, files are closed.
    async fn close(&self);
}

/// The position of a source moves from `expected` to `next`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// `topic/partition`.
    pub source: String,
    /// Where it must stand.
    pub expected: u64,
    /// Where it stands afterwards.
    pub next: u64,
}

/// Sites and a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Names of sites; `None`: all.
    pub sites: Option<Vec<Arc<str>>>,
    /// Inclusive.
    pub from: Timestamp,
    /// Exclusive.
    pub to: Timestamp,
}

/// What [`Store::scan`] looks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Sites and slots.
    pub window: Window,
    /// Only keys after this one: where the page before ended.
    pub after: Option<Key>,
    /// Observations at most.
    pub limit: usize,
    /// The latest first, for looking back; `after` then is the key before which to go on.
    pub newest_first: bool,
}

/// A part of what [`Store::scan`] found.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// In the order of their keys.
    pub observations: Vec<Arc<Observation>>,
    /// Where to go on; `None`: this was the end.
    pub next: Option<Key>,
}

/// What [`Store::rollups`] looks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollupQuery {
    /// Sites and time.
    pub window: Window,
    /// `HOUR` or `DAY`.
    pub width: i64,
}

/// A rollup and whose it is.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteRollup {
    /// The name of the site.
    pub site: Arc<str>,
    /// Where the checker runs.
    pub location: Arc<str>,
    /// The statistics.
    pub rollup: Rollup,
}

/// An overview and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteOverview {
    /// The name of the site.
    pub site: Arc<str>,
    /// Where the checker runs.
    pub location: Arc<str>,
    /// What is shown.
    pub overview: Overview,
}

impl SiteOverview {
    /// Of whole statistics the part that is shown.
    pub fn of(site: SiteRollup) -> Self {
        Self { overview: Overview::of_rollup(&site.rollup), site: site.site, location: site.location }
    }
}

/// A site as the store knows it. Its request and expectations stay in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteRecord {
    /// Unique.
    pub name: Arc<str>,
    /// What is asked for.
    pub url: Arc<str>,
    /// The kind of check.
    pub kind: Arc<str>,
    /// Whether it is checked.
    pub enabled: bool,
    /// From slot to slot.
    pub interval: Duration,
    /// For grouping.
    pub labels: BTreeMap<String, String>,
    /// Whether it is still configured.
    pub present: bool,
}

/// A piece of upkeep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upkeep {
    /// Packs arrivals into blocks: the pieces that are closed at `now`, or everything, the running hour
    /// included.
    Pack {
        /// The time.
        now: Timestamp,
        /// Also what is still being written to.
        everything: bool,
    },
    /// Removes what is past its retention.
    Prune {
        /// The time.
        now: Timestamp,
        /// How long each is kept.
        retention: Retention,
    },
    /// Gives freed space back to the file system.
    Reclaim,
}

/// What upkeep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Upkept {
    /// Arrivals packed.
    pub arrivals: u64,
    /// Blocks written.
    pub blocks: u64,
    /// Rows of any table removed by retention.
    pub removed: u64,
    /// Bytes given back.
    pub freed_bytes: u64,
}

/// How long each is kept: `retention`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Observations.
    pub observations: Duration,
    /// Evidence of observations.
    pub evidence: Duration,
    /// Statistics by the hour.
    pub hour: Duration,
    /// Statistics by the day.
    pub day: Duration,
}

/// A process that takes responsibility for sites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunStart {
    /// When.
    pub at: Timestamp,
    /// Where the checker runs.
    pub location: Arc<str>,
    /// Its process id.
    pub pid: u32,
    /// The version of the program.
    pub version: String,
}

/// A line of the journal of runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// How it began.
    pub start: RunStart,
    /// When it was last known to be alive.
    pub alive_until: Timestamp,
    /// How it ended (`stopped`, or the error); `None`: it runs, or was killed.
    pub ended: Option<String>,
}

/// A store in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Measures {
    /// Bytes of all its files.
    pub bytes: u64,
    /// Arrivals not packed yet.
    pub arrivals: u64,
    /// Blocks.
    pub blocks: u64,
}

/// What can go wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It may go well later: the store is locked, away, or its disk is full.
    #[error("{0}")]
    Unavailable(String),
    /// The position of a source is not where it was expected: somebody else appends it.
    #[error("position of {source_name} is {found}, expected {expected}: another writer has taken over")]
    Fenced {
        /// `topic/partition`.
        source_name: String,
        /// Where it was expected.
        expected: u64,
        /// Where it is.
        found: u64,
    },
    /// Another process writes to this embedded store.
    #[error("{path} is in use by `sitemon {command}`, process {pid}")]
    Held {
        /// The store's file.
        path: PathBuf,
        /// What holds it.
        command: String,
        /// Its process id.
        pid: u32,
    },
    /// It was made by a newer version.
    #[error("{path} has schema version {found}, this program knows up to {known}")]
    Newer {
        /// The store's file or name.
        path: String,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// It is damaged, or no store at all.
    #[error("{0}")]
    Damaged(String),
    /// It cannot be used, and waiting does not help: no permission, no folder.
    #[error("{0}")]
    Unusable(String),
}
