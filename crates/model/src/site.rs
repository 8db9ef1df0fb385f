//! A site: what is watched.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What is watched. Small, because there may be a million: all but name and URL is shared among the sites
/// that are configured alike.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// Unique; 1 to 128 printable ASCII characters.
    pub name: Arc<str>,
    /// What is asked for.
    pub url: Arc<str>,
    /// Everything else.
    pub spec: Arc<Spec>,
}

/// How a site is watched: what every kind of check has in common, and the kind's own keys.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// The kind of check, one of the probe's `KINDS`.
    pub kind: Arc<str>,
    /// Whether it is checked at all.
    pub enabled: bool,
    /// From slot to slot; 100 ms at least.
    pub interval: Duration,
    /// The window within which a check starts after its slot.
    pub jitter: Duration,
    /// Of the whole check.
    pub timeout: Duration,
    /// For grouping.
    pub labels: BTreeMap<String, String>,
    /// The plugins that look at its content, in the order in which they are named.
    pub plugins: Vec<PluginChoice>,
    /// The kind's own keys (for `http`: `request`, `expect`) in native form, as they were configured, with
    /// what `defaults` gave. The kind's `parse` makes the check from them.
    pub options: serde_json::Map<String, serde_json::Value>,
    /// A hash of everything that makes the check, secrets and the contents of the files it names included:
    /// where two are equal, sites are watched alike. A reload compares by it.
    pub digest: u128,
}

/// A plugin that is asked for, with its options in native form.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginChoice {
    /// The name, one of the plugins' `KINDS`.
    pub name: Arc<str>,
    /// Its options; empty: all defaults.
    pub options: serde_json::Map<String, serde_json::Value>,
}

/// Against what a plugin's metrics are held: the same metric of the same site over a window before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Baseline {
    /// How far back it reaches.
    pub window: Duration,
    /// How many standard deviations from the mean a value must lie to be a finding.
    pub deviations: f64,
    /// With fewer samples than these there is no finding.
    pub samples: u64,
}

impl Site {
    /// The number by which the site's slots are shifted and its checks spread: xxh3-64 of the name, seed 0.
    /// Part of the interface; never changes.
    pub fn hash(&self) -> u64 {
        name_hash(&self.name)
    }
}

/// See [`Site::hash`].
pub fn name_hash(name: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(name.as_bytes())
}

/// Whether a text may be the name of a site: 1 to 128 printable ASCII characters.
pub fn valid_name(name: &str) -> bool {
    (1..=128).contains(&name.len()) && name.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_the_interface() {
        assert_eq!(name_hash("shop"), 0xf3fb_bc38_4d51_8cd9);
        assert_eq!(name_hash("a"), 0xe6c6_32b6_1e96_4e1f);
        assert_eq!(name_hash("https://shop.example/"), 0x37b3_af1d_e69a_51f9);
    }
}
