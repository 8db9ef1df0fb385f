//! Plugins look at the content of an answer and yield named metrics and findings.
//!
//! To add a plugin: write `src/<name>.rs` exporting `KIND`, then add its two lines below. A plugin keeps no
//! state between checks: findings against a baseline are made by `stats` where observations are written.

mod html_stats;

use sitemon_model::Finding;
use sitemon_model::site::Baseline;
use sitemon_model::tree::{At, Faults};
use std::fmt::Debug;
use std::sync::Arc;

/// All plugins.
pub const KINDS: &[Kind] = &[html_stats::KIND];

/// A plugin as it stands in the table.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// As in the configuration.
    pub name: &'static str,
    /// One sentence for the reference.
    pub about: &'static str,
    /// Reads the plugin's options (a map, empty where none are given), noting each fault.
    pub parse: fn(&At<'_>, &mut Faults) -> Option<Arc<dyn Plugin>>,
    /// The JSON Schema of its options.
    pub schema: fn() -> serde_json::Value,
}

/// A plugin with its options. Shared by all checks that use it.
pub trait Plugin: Send + Sync + Debug {
    /// The name of its kind.
    fn name(&self) -> &'static str;

    /// Begins to look at a page; `None` where the page is nothing for this plugin.
    fn begin(&self, page: &Page<'_>) -> Option<Box<dyn Pass>>;

    /// Against what its metrics are held; `None`: against nothing.
    fn baseline(&self) -> Option<Baseline>;
}

/// What is known of a page before its first byte.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// The address that answered, after redirects.
    pub url: &'a str,
    /// The header `content-type`.
    pub content_type: Option<&'a str>,
}

/// One pass over one page, in bounded memory.
pub trait Pass: Send {
    /// The next part of the page's text, decoded to UTF-8; parts end at any character.
    fn feed(&mut self, text: &str);

    /// Bytes of memory that it takes at most, for `limits.memory`.
    fn held_bytes(&self) -> usize {
        4 << 10
    }

    /// What was seen; `decoded_bytes` is the size of the body after the content codings were undone, before
    /// the character set was.
    fn finish(self: Box<Self>, decoded_bytes: u64) -> Report;
}

/// What a pass saw.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Metric and value, sorted by metric. One that is left out of those that are given counts as 0 in its baseline.
    pub values: Vec<(Arc<str>, f64)>,
    /// What stands out without a baseline.
    pub findings: Vec<Finding>,
}
