//! Reads: connections of their own, each read under one snapshot of the database.

use super::chunk::{self, Entry};
use super::{Error, schema};
use crate::{Measures, Page, RollupQuery, Run, RunStart, Scan, SiteRecord, SiteRollup, StoreError, Window, record};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row};
use sitemon_model::observation::Key;
use sitemon_model::{Observation, Timestamp};
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a read waits where it must (only while the file is being made or recovered).
const BUSY: Duration = Duration::from_secs(5);
/// Connections kept for the next read.
const IDLE: usize = 4;

/// The connections for reading.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Reader>>,
}

impl Readers {
    /// Opens the first, so that what is wrong with the file is told now.
    pub(super) fn open(path: &Path) -> Result<Arc<Self>, StoreError> {
        let first = Reader::open(path).map_err(|error| error.of(path))?;
        Ok(Arc::new(Self { path: path.to_owned(), idle: Mutex::new(vec![first]) }))
    }

    /// Reads under one snapshot.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Reader) -> Result<T, Error>) -> Result<T, StoreError> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle().pop();
        let mut reader = match kept {
            Some(reader) => reader,
            None => Reader::open(&self.path).map_err(|error| error.of(&self.path))?,
        };
        let done = reader.snapshot(work);
        let mut idle = idle();
        if idle.len() < IDLE {
            idle.push(reader);
        }
        done.map_err(|error| error.of(&self.path))
    }

    /// Closes the connections that nobody uses.
    pub(super) fn close(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// One connection that reads.
#[derive(Debug)]
pub(super) struct Reader {
    connection: Connection,
    series: SeriesTable,
    chunks: chunk::Decoder,
    records: record::Reader,
}

/// Site and location of each series, by its id.
#[derive(Debug, Default)]
pub(super) struct SeriesTable {
    by_id: Vec<Option<Series>>,
    by_site: HashMap<Arc<str>, Vec<i64>>,
}

/// A site at a location.
#[derive(Debug, Clone)]
pub(super) struct Series {
    /// The name of the site.
    pub(super) site: Arc<str>,
    /// Where the checker runs.
    pub(super) location: Arc<str>,
}

impl SeriesTable {
    /// Learns what came since.
    fn refresh(&mut self, connection: &Connection) -> Result<(), Error> {
        let known = self.by_id.len() as i64 - 1;
        let mut statement =
            connection.prepare_cached("SELECT id, site, location FROM series WHERE id > ? ORDER BY id")?;
        let mut rows = statement.query([known])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let index = usize::try_from(id).map_err(|_| Error::Damaged("a series"))?;
            let series = Series { site: row.get(1)?, location: row.get(2)? };
            self.by_id.resize(index, None);
            self.by_site.entry(series.site.clone()).or_default().push(id);
            self.by_id.push(Some(series));
        }
        Ok(())
    }

    /// Whose id this is.
    pub(super) fn get(&self, id: i64) -> Result<&Series, Error> {
        usize::try_from(id)
            .ok()
            .and_then(|index| self.by_id.get(index)?.as_ref())
            .ok_or(Error::Damaged("the id of a series"))
    }

    /// The series of these sites.
    pub(super) fn select(&self, sites: Option<&[Arc<str>]>) -> Selection {
        let Some(sites) = sites else { return Selection(None) };
        let mut ids: Vec<i64> = sites.iter().filter_map(|site| self.by_site.get(site)).flatten().copied().collect();
        ids.sort_unstable();
        ids.dedup();
        Selection(Some(ids))
    }
}

/// Which series are looked for, sorted; `None`: all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selection(pub(super) Option<Vec<i64>>);

impl Selection {
    fn contains(&self, id: i64) -> bool {
        self.0.as_ref().is_none_or(|ids| ids.binary_search(&id).is_ok())
    }

    /// How many of them lie between two ids, both included.
    fn between(&self, first: i64, last: i64) -> u64 {
        match &self.0 {
            None => (last - first).unsigned_abs() + 1,
            Some(ids) => (ids.partition_point(|id| *id <= last) - ids.partition_point(|id| *id < first)) as u64,
        }
    }
}

impl Reader {
    fn open(path: &Path) -> Result<Self, Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)
            .map_err(|error| StoreError::Unusable(format!("cannot open {}: {error}", path.display())))?;
        connection.busy_timeout(BUSY)?;
        match schema::stand(&connection)? {
            schema::Stand::Ours(found) if found > schema::VERSION => {
                let path = path.display().to_string();
                return Err(StoreError::Newer { path, found, known: schema::VERSION }.into());
            }
            schema::Stand::Ours(schema::VERSION) => {}
            schema::Stand::Ours(_) => {
                let told =
                    format!("{} was made by an older version; `sitemon migrate` brings it up to date", path.display());
                return Err(StoreError::Unusable(told).into());
            }
            schema::Stand::Empty => {
                let told = format!("{} is empty: nothing was stored in it yet", path.display());
                return Err(StoreError::Unavailable(told).into());
            }
            schema::Stand::Foreign => {
                let told = format!("{} is another program's database", path.display());
                return Err(StoreError::Damaged(told).into());
            }
        }
        connection.pragma_update(None, "cache_size", -16_384)?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(Self {
            connection,
            series: SeriesTable::default(),
            chunks: chunk::Decoder::new()?,
            records: record::Reader::default(),
        })
    }

    /// Does `work` within one read transaction.
    fn snapshot<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        self.connection.execute_batch("BEGIN")?;
        let done = self.series.refresh(&self.connection).and_then(|()| work(self));
        let ended = self.connection.execute_batch("ROLLBACK");
        let done = done?;
        ended?;
        Ok(done)
    }

    /// See [`crate::Store::position`].
    pub(super) fn position(&mut self, source: &str) -> Result<u64, Error> {
        let next: Option<i64> = self
            .connection
            .prepare_cached("SELECT next FROM positions WHERE source = ?")?
            .query_row([source], |row| row.get(0))
            .optional()?;
        Ok(next.unwrap_or_default() as u64)
    }

    /// See [`crate::Store::sites`].
    pub(super) fn sites(&self) -> Result<Vec<SiteRecord>, Error> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT name, url, kind, enabled, interval_us, labels, present FROM sites ORDER BY name")?;
        let mut rows = statement.query([])?;
        let mut sites = Vec::new();
        while let Some(row) = rows.next()? {
            let labels: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(row.get_ref(5)?.as_str().unwrap_or_default())
                    .map_err(|_| Error::Damaged("a site's labels"))?;
            sites.push(SiteRecord {
                name: row.get(0)?,
                url: row.get(1)?,
                kind: row.get(2)?,
                enabled: row.get(3)?,
                interval: Duration::from_micros(row.get::<_, i64>(4)? as u64),
                labels: labels
                    .into_iter()
                    .map(|(name, value)| (name, value.as_str().unwrap_or_default().to_owned()))
                    .collect(),
                present: row.get(6)?,
            });
        }
        Ok(sites)
    }

    /// See [`crate::Store::runs`].
    pub(super) fn runs(&self, from: Timestamp, to: Timestamp) -> Result<Vec<Run>, Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT started, location, pid, version, alive_until, ended FROM runs
             WHERE alive_until >= ? AND started < ? ORDER BY started, id",
        )?;
        let runs = statement.query_map([from.0, to.0], |row| {
            Ok(Run {
                start: RunStart {
                    at: Timestamp(row.get(0)?),
                    location: row.get(1)?,
                    pid: row.get(2)?,
                    version: row.get(3)?,
                },
                alive_until: Timestamp(row.get(4)?),
                ended: row.get(5)?,
            })
        })?;
        Ok(runs.collect::<Result<_, _>>()?)
    }

    /// See [`crate::Store::measure`].
    pub(super) fn measure(&self) -> Result<Measures, Error> {
        let number = |sql: &str| -> Result<u64, Error> {
            let number: Option<i64> =
                self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?;
            Ok(number.unwrap_or_default() as u64)
        };
        let path = self.connection.path().unwrap_or_default();
        let bytes = ["", "-wal", "-shm"]
            .iter()
            .filter_map(|end| Some(std::fs::metadata(format!("{path}{end}")).ok()?.len()))
            .sum();
        Ok(Measures {
            bytes,
            arrivals: number("SELECT coalesce(sum(count), 0) FROM arrivals")?,
            blocks: number("SELECT value FROM meta WHERE name = 'blocks'")?,
        })
    }

    /// See [`crate::Store::latest`].
    pub(super) fn latest(&mut self) -> Result<Vec<Arc<Observation>>, Error> {
        // The latest slot of each series, and the rows that hold it: found from the directories alone.
        let mut best: Vec<(i64, Vec<i64>)> = vec![(i64::MIN, Vec::new()); self.series.by_id.len()];
        let mut found: HashMap<i64, Arc<Observation>> = HashMap::new();
        {
            let mut statement = self.connection.prepare_cached("SELECT series, slot, record FROM latest")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let id: i64 = row.get(0)?;
                let series = self.series.get(id)?;
                best[id as usize].0 = row.get(1)?;
                let record = blob(row, 2)?;
                let observation = self
                    .records
                    .observation(&series.site, &series.location, record)
                    .ok_or(Error::Damaged("the latest observation of a site"))?;
                found.insert(id, Arc::new(observation));
            }
        }
        let mut statement = self.connection.prepare_cached("SELECT id, first_slot, directory FROM arrivals")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            for entry in chunk::entries(row.get(1)?, blob(row, 2)?) {
                let entry = entry.ok_or(Error::Damaged("an arrival"))?;
                let Some((slot, places)) = best.get_mut(entry.series as usize).filter(|_| entry.scheduled) else {
                    continue;
                };
                if entry.slot > *slot {
                    *slot = entry.slot;
                    places.clear();
                }
                if entry.slot == *slot && places.last() != Some(&id) {
                    places.push(id);
                }
            }
        }
        let mut wanted: Vec<i64> = best.iter().flat_map(|(_, places)| places).copied().collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut statement =
            self.connection.prepare_cached("SELECT first_slot, directory, body FROM arrivals WHERE id = ?")?;
        for id in wanted {
            let mut rows = statement.query([id])?;
            let Some(row) = rows.next()? else { continue };
            let mut records = self.chunks.records(blob(row, 2)?).ok_or(Error::Damaged("an arrival"))?;
            for entry in chunk::entries(row.get(0)?, blob(row, 1)?) {
                let (entry, record) = entry.zip(records.take()).ok_or(Error::Damaged("an arrival"))?;
                if !entry.scheduled || best.get(entry.series as usize).is_none_or(|(slot, _)| *slot != entry.slot) {
                    continue;
                }
                let series = self.series.get(entry.series)?;
                let observation = self
                    .records
                    .observation(&series.site, &series.location, record)
                    .ok_or(Error::Damaged("an arrival"))?;
                found
                    .entry(entry.series)
                    .and_modify(|kept| {
                        let later = observation.scheduled_at > kept.scheduled_at;
                        if later
                            || observation.scheduled_at == kept.scheduled_at && goes_before(&observation, kept).is_lt()
                        {
                            *kept = Arc::new(observation.clone());
                        }
                    })
                    .or_insert_with(|| Arc::new(observation));
            }
        }
        let mut found: Vec<Arc<Observation>> = found.into_values().collect();
        found.sort_by(|a, b| (&a.site, &a.location).cmp(&(&b.site, &b.location)));
        Ok(found)
    }

    /// The observations of `[from, to)`, one for each key, in the order of their keys.
    fn load(&mut self, selection: &Selection, from: i64, to: i64) -> Result<Vec<Arc<Observation>>, Error> {
        let mut loaded = Vec::new();
        self.arrivals(selection, from, to, |_, observation| loaded.push(Arc::new(observation)))?;
        Ok(merge(loaded))
    }

    /// The arrivals of `[from, to)`.
    fn arrivals(
        &mut self,
        selection: &Selection,
        from: i64,
        to: i64,
        mut each: impl FnMut(i64, Observation),
    ) -> Result<(), Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT first_slot, last_slot, first_series, last_series, directory, body FROM arrivals
             WHERE last_slot >= ? AND first_slot < ?",
        )?;
        let mut rows = statement.query([from, to])?;
        while let Some(row) = rows.next()? {
            if selection.between(row.get(2)?, row.get(3)?) == 0 {
                continue;
            }
            let wanted = |entry: &Entry| entry.slot >= from && entry.slot < to && selection.contains(entry.series);
            let first_slot = row.get(0)?;
            let directory = blob(row, 4)?;
            if !chunk::entries(first_slot, directory).any(|entry| entry.as_ref().is_none_or(wanted)) {
                continue;
            }
            let mut records = self.chunks.records(blob(row, 5)?).ok_or(Error::Damaged("an arrival"))?;
            for entry in chunk::entries(first_slot, directory) {
                let (entry, record) = entry.zip(records.take()).ok_or(Error::Damaged("an arrival"))?;
                if wanted(&entry) {
                    let series = self.series.get(entry.series)?;
                    let observation = self
                        .records
                        .observation(&series.site, &series.location, record)
                        .ok_or(Error::Damaged("an arrival"))?;
                    each(entry.series, observation);
                }
            }
        }
        Ok(())
    }

    /// See [`crate::Store::scan`].
    pub(super) fn scan(&mut self, scan: &Scan) -> Result<Page, Error> {
        let selection = self.series.select(scan.window.sites.as_deref());
        let (mut from, mut to) = (scan.window.from.0, scan.window.to.0);
        match &scan.after {
            Some(key) if scan.newest_first => to = to.min(key.scheduled_at.0.saturating_add(1)),
            Some(key) => from = from.max(key.scheduled_at.0),
            None => {}
        }
        let mut found = self.load(&selection, from, to)?;
        if scan.newest_first {
            found.reverse();
        }
        if let Some(after) = &scan.after {
            let direction = if scan.newest_first { Ordering::Less } else { Ordering::Greater };
            found.retain(|observation| compare(observation, after) == direction);
        }
        let limit = scan.limit.max(1);
        let more = found.len() > limit;
        found.truncate(limit);
        let next = if more { found.last().map(|last| last.key()) } else { None };
        Ok(Page { observations: found, next })
    }

    /// See [`crate::Store::rollups`].
    pub(super) fn rollups(&mut self, query: &RollupQuery) -> Result<Vec<SiteRollup>, Error> {
        let width = query.width.max(1);
        let to = query.window.to.plus(width - 1).floor(width);
        let mut rollups = Vec::new();
        let mut from = query.window.from.floor(width);
        while from < to {
            let window = Window { sites: query.window.sites.clone(), from, to: from.plus(width) };
            rollups.append(&mut self.summary(&window)?);
            from = from.plus(width);
        }
        rollups.sort_by(|a, b| (&a.site, &a.location, a.rollup.from).cmp(&(&b.site, &b.location, b.rollup.from)));
        Ok(rollups)
    }

    /// See [`crate::Store::summary`].
    pub(super) fn summary(&mut self, query: &Window) -> Result<Vec<SiteRollup>, Error> {
        let selection = self.series.select(query.sites.as_deref());
        let look_back = query.from.plus(-sitemon_model::time::DAY).0;
        let mut by_series: BTreeMap<(Arc<str>, Arc<str>), Vec<Arc<Observation>>> = BTreeMap::new();
        for observation in self.load(&selection, look_back, query.to.0)? {
            let key = (observation.site.clone(), observation.location.clone());
            by_series.entry(key).or_default().push(observation);
        }
        let mut rollups = Vec::new();
        for ((site, location), observations) in by_series {
            let scheduled = |o: &&Arc<Observation>| o.reason == sitemon_model::Reason::Schedule;
            let carried = observations
                .iter()
                .filter(scheduled)
                .rfind(|o| o.scheduled_at < query.from)
                .map(|o| sitemon_stats::Held::of(o))
                .filter(|held| held.until > query.from);
            let inside = observations.iter().filter(scheduled).filter(|o| o.scheduled_at >= query.from);
            if carried.is_some() || inside.clone().next().is_some() {
                let rollup = sitemon_stats::Rollup::of(query.from, query.to, carried, inside.map(|o| &**o));
                rollups.push(SiteRollup { site, location, rollup });
            }
        }
        Ok(rollups)
    }
}

/// The bytes of a column.
pub(super) fn blob<'r>(row: &'r Row<'_>, index: usize) -> Result<&'r [u8], Error> {
    row.get_ref(index)?.as_blob().map_err(|_| Error::Damaged("a row"))
}

/// Which of two observations of one slot is kept; where only their findings differ, by those, so that it is
/// the same in whatever order they came.
pub(super) fn goes_before(a: &Observation, b: &Observation) -> Ordering {
    a.precedence(b).then_with(|| {
        let (mut left, mut right) = (Vec::new(), Vec::new());
        sitemon_model::line::write(a, &mut left);
        sitemon_model::line::write(b, &mut right);
        left.cmp(&right)
    })
}

/// Sorts by key and keeps one for each.
pub(super) fn merge(mut observations: Vec<Arc<Observation>>) -> Vec<Arc<Observation>> {
    observations.sort_unstable_by(|a, b| by_key(a, b).then_with(|| goes_before(a, b)));
    observations.dedup_by(|later, kept| by_key(later, kept).is_eq());
    observations
}

/// The order of an export.
fn by_key(a: &Observation, b: &Observation) -> Ordering {
    (a.scheduled_at, &a.site, &a.location).cmp(&(b.scheduled_at, &b.site, &b.location))
}

/// Where an observation stands against a key.
fn compare(observation: &Observation, key: &Key) -> Ordering {
    (observation.scheduled_at, &observation.site, &observation.location).cmp(&(
        key.scheduled_at,
        &key.site,
        &key.location,
    ))
}
