//! Reads under one snapshot, and what is remembered from one to the next.

use super::{Damaged, Tables};
use crate::record::{self, Shape};
use std::collections::HashMap;
use std::sync::Arc;

/// Rows, with what was read of them before.
#[derive(Debug)]
pub(crate) struct Reader<T> {
    pub(crate) tables: T,
    pub(crate) series: SeriesTable,
    pub(super) records: record::Reader,
    /// The shapes that blocks share, as far as they were met.
    pub(super) shapes: HashMap<i64, Arc<Shape>>,
}

impl<T: Tables> Reader<T> {
    /// Reads these rows.
    pub(crate) fn new(tables: T) -> Self {
        Self { tables, series: SeriesTable::default(), records: record::Reader::default(), shapes: HashMap::new() }
    }

    /// Learns what series came since.
    pub(crate) fn refresh(&mut self) -> Result<(), T::Error> {
        self.series.refresh(&self.tables)
    }
}

/// Site and location of each series, by its id.
#[derive(Debug, Default)]
pub(crate) struct SeriesTable {
    by_id: Vec<Option<Series>>,
    by_site: HashMap<Arc<str>, Vec<i64>>,
}

/// A site at a location.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    /// The name of the site.
    pub(crate) site: Arc<str>,
    /// Where the checker runs.
    pub(crate) location: Arc<str>,
}

impl SeriesTable {
    /// Learns what came since.
    fn refresh<T: Tables>(&mut self, tables: &T) -> Result<(), T::Error> {
        let known = self.by_id.len() as i64 - 1;
        let mut sound = true;
        tables.each_series(known, |id, site, location| {
            let Some(index) = usize::try_from(id).ok().filter(|index| *index >= self.by_id.len()) else {
                sound = false;
                return;
            };
            self.by_id.resize(index, None);
            self.by_site.entry(site.clone()).or_default().push(id);
            self.by_id.push(Some(Series { site, location }));
        })?;
        if sound { Ok(()) } else { Err(Damaged("a series").into()) }
    }

    /// Whose id this is.
    pub(crate) fn get(&self, id: i64) -> Result<&Series, Damaged> {
        usize::try_from(id).ok().and_then(|index| self.by_id.get(index)?.as_ref()).ok_or(Damaged("the id of a series"))
    }

    /// How large the largest id is, and one more.
    pub(crate) const fn len(&self) -> usize {
        self.by_id.len()
    }

    /// The series of these sites.
    pub(crate) fn select(&self, sites: Option<&[Arc<str>]>) -> Selection {
        let Some(sites) = sites else { return Selection(None) };
        Selection::of(sites.iter().filter_map(|site| self.by_site.get(site)).flatten().copied())
    }
}

/// Which series are looked for, sorted; `None`: all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selection(pub(crate) Option<Vec<i64>>);

impl Selection {
    /// These series.
    pub(crate) fn of(ids: impl IntoIterator<Item = i64>) -> Self {
        let mut ids: Vec<i64> = ids.into_iter().collect();
        ids.sort_unstable();
        ids.dedup();
        Self(Some(ids))
    }

    /// Whether a series is looked for.
    pub(crate) fn contains(&self, id: i64) -> bool {
        self.0.as_ref().is_none_or(|ids| ids.binary_search(&id).is_ok())
    }

    /// How many of them lie between two ids, both included.
    pub(crate) fn between(&self, first: i64, last: i64) -> u64 {
        match &self.0 {
            None => (last - first).unsigned_abs() + 1,
            Some(ids) => (ids.partition_point(|id| *id <= last) - ids.partition_point(|id| *id < first)) as u64,
        }
    }
}
