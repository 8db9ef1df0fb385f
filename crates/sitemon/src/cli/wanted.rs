//! What the commands that read have in common: the configuration, the store if there is one, and whether the
//! sites that were named are known.

use super::Failure;
use crate::config::{self, Config, Source};
use sitemon_model::{Timestamp, tree};
use sitemon_store::{Access, SiteRecord, Store, Window};
use std::collections::HashSet;
use std::sync::Arc;

/// What a command reads from.
#[derive(Debug)]
pub struct Wanted {
    /// The configuration.
    pub config: Config,
    /// The store; `None`: it is not there yet.
    pub store: Option<Arc<dyn Store>>,
    /// The sites that the store knows, sorted by name.
    pub records: Vec<SiteRecord>,
}

impl Wanted {
    /// Reads the configuration, and opens the store for reading if it is there.
    pub async fn open(source: &Source) -> Result<Self, Failure> {
        let config = config::load(source)?;
        let mut wanted = Self { config, store: None, records: Vec::new() };
        wanted.reopen().await?;
        Ok(wanted)
    }

    /// Opens the store if it was not there before and is now.
    pub async fn reopen(&mut self) -> Result<(), Failure> {
        if self.store.is_none() && self.config.store.exists().await? {
            let store = self.config.store.open(Access::Read).await?;
            self.records = store.sites().await?;
            self.store = Some(store);
        }
        Ok(())
    }

    /// Fails with wrong use where neither file nor store knows one of these names; else gives them as a window
    /// wants them: `None` for all.
    pub fn known(&self, names: &[String]) -> Result<Option<Vec<Arc<str>>>, Failure> {
        if names.is_empty() {
            return Ok(None);
        }
        let known: HashSet<&str> = self.names().collect();
        let mut lines = Vec::new();
        let mut seen = HashSet::new();
        let mut wanted = Vec::new();
        for name in names {
            if !known.contains(name.as_str()) {
                lines.push(unknown(name, known.iter().copied()));
            } else if seen.insert(name) {
                wanted.push(Arc::from(name.as_str()));
            }
        }
        if lines.is_empty() { Ok(Some(wanted)) } else { Err(Failure::Usage(lines.join("\n"))) }
    }

    /// All names, of the file and of the store.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let file = self.config.sites.iter().map(|watched| &*watched.site.name);
        file.chain(self.records.iter().map(|record| &*record.name))
    }

    /// Ends the reading.
    pub async fn close(self) {
        if let Some(store) = self.store {
            store.close().await;
        }
    }
}

/// What is said of a name that nobody knows.
pub fn unknown<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> String {
    let shown = super::show::plain(name).into_owned();
    // The distance to each of a million names would take seconds, for a hint.
    let known: Vec<&str> = known.into_iter().take(10_000).collect();
    match tree::nearest(name, &known) {
        Some(nearest) => format!("sitemon: unknown site `{shown}`, did you mean `{nearest}`?"),
        None => format!("sitemon: unknown site `{shown}`, `sitemon sites` lists those that are known"),
    }
}

/// A window that ends at `to` (now where none is given) and begins at `from`, else `default_us` before its end.
pub fn window(
    sites: Option<Vec<Arc<str>>>,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    default_us: i64,
) -> Result<Window, Failure> {
    let to = to.unwrap_or_else(crate::clock::wall);
    let from = from.unwrap_or_else(|| to.plus(-default_us));
    ordered(from, to)?;
    Ok(Window { sites, from, to })
}

/// Fails with wrong use where a span ends before it begins.
pub fn ordered(from: Timestamp, to: Timestamp) -> Result<(), Failure> {
    if from > to {
        return Err(Failure::Usage(format!("sitemon: --from {from} is later than --to {to}")));
    }
    Ok(())
}
