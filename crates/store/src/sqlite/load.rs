//! Observations from both forms in which they lie, merged by one rule.

use super::Error;
use super::chunk::{self, Entry};
use super::read::{Reader, Selection, SeriesTable, blob};
use super::span::{self, Span};
use crate::block::Block;
use crate::record::{Shape, take_evidence};
use rusqlite::{Connection, OptionalExtension as _, Statement};
use sitemon_model::{Evidence, Observation, Timestamp};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

/// Shapes kept before all are forgotten; one takes about a kilobyte.
const SHAPES_MAX: usize = 100_000;
/// Series up to which each block is looked up by its key; for more, all of a span are passed over.
const LOOK_UP_MAX: usize = 64;

/// A row of arrivals, without what is in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowOfArrivals {
    /// Its key.
    pub(super) id: i64,
    /// Observations in it.
    pub(super) count: u64,
    /// The earliest slot.
    pub(super) first_slot: i64,
    /// The latest slot.
    pub(super) last_slot: i64,
    /// The smallest id of a series.
    pub(super) first_series: i64,
    /// The largest id of a series.
    pub(super) last_series: i64,
}

impl RowOfArrivals {
    /// How many of its observations may lie in `[from, to)` and belong to the selection.
    fn estimate(&self, selection: &Selection, from: i64, to: i64) -> u64 {
        if self.last_slot < from || self.first_slot >= to {
            return 0;
        }
        let series = (self.last_series - self.first_series).unsigned_abs() + 1;
        let wanted = selection.between(self.first_series, self.last_series).min(series);
        (self.count * wanted).div_ceil(series)
    }
}

/// An observation and the id of its series.
pub(super) type Found = (i64, Arc<Observation>);

impl Reader {
    /// The rows of arrivals in this snapshot, in the order in which they came.
    pub(super) fn rows(&mut self) -> Result<Arc<[RowOfArrivals]>, Error> {
        if let Some(rows) = &self.rows {
            return Ok(rows.clone());
        }
        let mut statement = self.connection.prepare_cached(
            "SELECT id, count, first_slot, last_slot, first_series, last_series FROM arrivals ORDER BY id",
        )?;
        let rows = statement.query_map([], |row| {
            Ok(RowOfArrivals {
                id: row.get(0)?,
                count: row.get::<_, i64>(1)? as u64,
                first_slot: row.get(2)?,
                last_slot: row.get(3)?,
                first_series: row.get(4)?,
                last_series: row.get(5)?,
            })
        })?;
        let rows: Arc<[RowOfArrivals]> = rows.collect::<Result<Vec<_>, _>>()?.into();
        self.rows = Some(rows.clone());
        Ok(rows)
    }

    /// The observations of `[from, to)`, one for each key, in the order of their keys.
    pub(super) fn load(&mut self, selection: &Selection, from: i64, to: i64) -> Result<Vec<Found>, Error> {
        let mut found = self.packed(selection, from, to)?;
        self.arrivals(selection, from, to, |series, observation| found.push((series, Arc::new(observation))))?;
        found.sort_unstable_by(|(_, a), (_, b)| by_key(a, b).then_with(|| goes_before(a, b)));
        found.dedup_by(|later, kept| by_key(&later.1, &kept.1).is_eq());
        Ok(found)
    }

    /// The packed observations of `[from, to)` with their evidence; unsorted, and where an interval changed
    /// there may be two of one key.
    pub(super) fn packed(&mut self, selection: &Selection, from: i64, to: i64) -> Result<Vec<Found>, Error> {
        let mut found: Vec<Found> = Vec::new();
        if from < to {
            for span in Span::ALL {
                let Self { connection, shapes, series, .. } = self;
                each_block(connection, selection, span, from, to, |key, data| {
                    let (index, id) = span::parts(key);
                    let whose = series.get(id)?;
                    let block = read_block(connection, shapes, Timestamp(span.start(index)), data)?;
                    block
                        .observations(&whose.site, &whose.location, from, to, |observation| {
                            found.push((id, Arc::new(observation)));
                        })
                        .ok_or(Error::Damaged("a block"))
                })?;
            }
        }
        if !found.is_empty() {
            let mut evidence = self.evidence(selection, from, to)?;
            if !evidence.is_empty() {
                for (series, observation) in &mut found {
                    if let Some(shown) = evidence.remove(&(observation.scheduled_at.0, *series)) {
                        Arc::make_mut(observation).evidence = Some(shown);
                    }
                }
            }
        }
        Ok(found)
    }

    /// The arrivals of `[from, to)`, in the order in which they came.
    pub(super) fn arrivals(
        &mut self,
        selection: &Selection,
        from: i64,
        to: i64,
        mut each: impl FnMut(i64, Observation),
    ) -> Result<(), Error> {
        let rows = self.rows()?;
        let from = from.max(self.pruned()?);
        let Self { connection, chunks, records, series, .. } = self;
        let mut statement = statement_of_row(connection)?;
        for row in rows.iter().filter(|row| row.estimate(selection, from, to) > 0) {
            let wanted = |entry: &Entry| entry.slot >= from && entry.slot < to && selection.contains(entry.series);
            each_record(&mut statement, chunks, row, wanted, |entry, record| {
                each(entry.series, observation(series, records, entry.series, record)?);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The arrivals whose slot `slots` has for their series; of several of one slot the one that is kept.
    pub(super) fn arrivals_at(&mut self, slots: &HashMap<i64, i64>) -> Result<HashMap<i64, Arc<Observation>>, Error> {
        let mut found: HashMap<i64, Arc<Observation>> = HashMap::new();
        let (Some(first), Some(last)) = (slots.values().min(), slots.values().max()) else { return Ok(found) };
        let rows = self.rows()?;
        let Self { connection, chunks, records, series, .. } = self;
        let mut statement = statement_of_row(connection)?;
        for row in rows.iter().filter(|row| row.last_slot >= *first && row.first_slot <= *last) {
            let wanted = |entry: &Entry| entry.scheduled && slots.get(&entry.series) == Some(&entry.slot);
            each_record(&mut statement, chunks, row, wanted, |entry, record| {
                let observation = Arc::new(observation(series, records, entry.series, record)?);
                let kept = found.entry(entry.series).or_insert_with(|| observation.clone());
                if goes_before(&observation, kept).is_lt() {
                    *kept = observation;
                }
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// Of the arrivals that `wanted` says yes to, what their directories say.
    pub(super) fn each_entry(
        &mut self,
        wanted: impl Fn(&RowOfArrivals) -> bool,
        mut each: impl FnMut(Entry),
    ) -> Result<(), Error> {
        let rows = self.rows()?;
        let pruned = self.pruned()?;
        each_directory(&self.connection, &rows, wanted, |row, directory| {
            for entry in chunk::entries(row.first_slot, directory) {
                let entry = entry.ok_or(Error::Damaged("an arrival"))?;
                if entry.slot >= pruned {
                    each(entry);
                }
            }
            Ok(())
        })
    }

    /// What is kept of the answers of `[from, to)`, by slot and series.
    fn evidence(&self, selection: &Selection, from: i64, to: i64) -> Result<HashMap<(i64, i64), Box<Evidence>>, Error> {
        let mut statement =
            self.connection.prepare_cached("SELECT slot, series, data FROM evidence WHERE slot >= ? AND slot < ?")?;
        let mut rows = statement.query([from, to])?;
        let mut found = HashMap::new();
        while let Some(row) = rows.next()? {
            let (slot, series): (i64, i64) = (row.get(0)?, row.get(1)?);
            if selection.contains(series) {
                found.insert((slot, series), read_evidence(blob(row, 2)?)?);
            }
        }
        Ok(found)
    }

    /// What is kept of one answer.
    pub(super) fn evidence_of(&self, slot: i64, series: i64) -> Result<Option<Box<Evidence>>, Error> {
        let data: Option<Vec<u8>> = self
            .connection
            .prepare_cached("SELECT data FROM evidence WHERE slot = ? AND series = ?")?
            .query_row([slot, series], |row| row.get(0))
            .optional()?;
        data.map(|data| read_evidence(&data)).transpose()
    }

    /// What is older than this is past its retention, and counts as gone where it still arrives.
    pub(super) fn pruned(&self) -> Result<i64, Error> {
        let sql = "SELECT value FROM meta WHERE name = 'pruned'";
        let pruned = self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?;
        Ok(pruned.unwrap_or(i64::MIN))
    }

    /// About how many observations lie in `[from, to)`.
    pub(super) fn estimate(&mut self, selection: &Selection, from: i64, to: i64) -> Result<u64, Error> {
        let mut count: u64 = self.rows()?.iter().map(|row| row.estimate(selection, from, to)).sum();
        for span in Span::ALL {
            let mut packed = 0;
            each_count(&self.connection, selection, span, from, to, |block| packed += block)?;
            // A part of a span has that part of its observations, about.
            let (first, last) = (span.start(span.index(from)), span.start(span.index(to.saturating_sub(1)) + 1));
            let share = to.saturating_sub(from) as f64 / last.saturating_sub(first).max(1) as f64;
            count += (packed as f64 * share) as u64;
        }
        Ok(count)
    }

    /// The part of `[from, to)` in which anything can lie.
    pub(super) fn extent(&mut self, from: i64, to: i64) -> Result<Option<(i64, i64)>, Error> {
        let mut extent: Option<(i64, i64)> = None;
        let mut add = |first: i64, end: i64| {
            let (first, end) = (first.max(from), end.min(to));
            if first < end {
                extent = Some(extent.map_or((first, end), |(f, e)| (f.min(first), e.max(end))));
            }
        };
        for row in self.rows()?.iter().filter(|row| row.last_slot >= from && row.first_slot < to) {
            add(row.first_slot, row.last_slot.saturating_add(1));
        }
        if from < to {
            for span in Span::ALL {
                let (first, end) = keys(span, from, to);
                let edge = |order: &str| -> Result<Option<i64>, Error> {
                    let sql = format!(
                        "SELECT key FROM {} WHERE key >= ? AND key < ? ORDER BY key {order} LIMIT 1",
                        span.blocks()
                    );
                    let mut statement = self.connection.prepare_cached(&sql)?;
                    Ok(statement.query_row([first, end], |row| row.get(0)).optional()?)
                };
                if let (Some(first), Some(last)) = (edge("ASC")?, edge("DESC")?) {
                    add(span.start(span::parts(first).0), span.start(span::parts(last).0 + 1));
                }
            }
        }
        Ok(extent)
    }
}

/// Calls `each` with the directories of those rows that `wanted` says yes to, in the order in which they came.
pub(super) fn each_directory(
    connection: &Connection,
    rows: &[RowOfArrivals],
    wanted: impl Fn(&RowOfArrivals) -> bool,
    mut each: impl FnMut(&RowOfArrivals, &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let chosen: Vec<&RowOfArrivals> = rows.iter().filter(|row| wanted(row)).collect();
    if chosen.len() < rows.len() / 4 {
        let mut statement = connection.prepare_cached("SELECT directory FROM arrivals WHERE id = ?")?;
        for row in chosen {
            let mut found = statement.query([row.id])?;
            if let Some(columns) = found.next()? {
                each(row, blob(columns, 0)?)?;
            }
        }
        return Ok(());
    }
    // Many are passed faster one after the other than looked up.
    let mut statement = connection.prepare_cached("SELECT id, directory FROM arrivals ORDER BY id")?;
    let mut found = statement.query([])?;
    let mut chosen = chosen.into_iter().peekable();
    while let Some(columns) = found.next()? {
        let id: i64 = columns.get(0)?;
        if let Some(row) = chosen.next_if(|row| row.id == id) {
            each(row, blob(columns, 1)?)?;
        }
    }
    Ok(())
}

/// The statement that reads a row of arrivals by its id.
pub(super) fn statement_of_row(connection: &Connection) -> Result<rusqlite::CachedStatement<'_>, Error> {
    Ok(connection.prepare_cached("SELECT directory, body FROM arrivals WHERE id = ?")?)
}

/// Reads those records of a row that `wanted` says yes to.
pub(super) fn each_record(
    statement: &mut Statement<'_>,
    chunks: &mut chunk::Decoder,
    row: &RowOfArrivals,
    wanted: impl Fn(&Entry) -> bool,
    mut each: impl FnMut(Entry, &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut found = statement.query([row.id])?;
    let Some(columns) = found.next()? else { return Ok(()) };
    let directory = blob(columns, 0)?;
    if !chunk::entries(row.first_slot, directory).any(|entry| entry.as_ref().is_none_or(&wanted)) {
        return Ok(());
    }
    let mut records = chunks.records(blob(columns, 1)?).ok_or(Error::Damaged("an arrival"))?;
    for entry in chunk::entries(row.first_slot, directory) {
        let (entry, record) = entry.zip(records.take()).ok_or(Error::Damaged("an arrival"))?;
        if wanted(&entry) {
            each(entry, record)?;
        }
    }
    Ok(())
}

/// The observation of a record.
pub(super) fn observation(
    table: &SeriesTable,
    records: &mut crate::record::Reader,
    series: i64,
    record: &[u8],
) -> Result<Observation, Error> {
    let series = table.get(series)?;
    records.observation(&series.site, &series.location, record).ok_or(Error::Damaged("an arrival"))
}

/// Reads a block, with the shapes that it shares.
pub(super) fn read_block<'a>(
    connection: &Connection,
    shapes: &mut HashMap<i64, Arc<Shape>>,
    start: Timestamp,
    data: &'a [u8],
) -> Result<Block<'a>, Error> {
    let mut failed = None;
    let mut shared = |id: i64| -> Option<Arc<Shape>> {
        if let Some(shape) = shapes.get(&id) {
            return Some(shape.clone());
        }
        let read = || -> Result<Shape, Error> {
            let mut statement = connection.prepare_cached("SELECT data FROM shapes WHERE id = ?")?;
            let data: Option<Vec<u8>> = statement.query_row([id], |row| row.get(0)).optional()?;
            data.as_deref().and_then(Shape::read).ok_or(Error::Damaged("a shape"))
        };
        match read() {
            Ok(shape) => {
                if shapes.len() >= SHAPES_MAX {
                    shapes.clear();
                }
                let shape = Arc::new(shape);
                shapes.insert(id, shape.clone());
                Some(shape)
            }
            Err(error) => {
                failed = Some(error);
                None
            }
        }
    };
    let block = Block::read(start, data, &mut shared);
    block.ok_or_else(|| failed.unwrap_or(Error::Damaged("a block")))
}

/// The keys of the spans that overlap `[from, to)`: the first, and the one after the last.
fn keys(span: Span, from: i64, to: i64) -> (i64, i64) {
    (span::key(span.index(from), 0), span::key(span.index(to.saturating_sub(1)) + 1, 0))
}

/// Calls `each` with key and bytes of the blocks that overlap `[from, to)`.
fn each_block(
    connection: &Connection,
    selection: &Selection,
    span: Span,
    from: i64,
    to: i64,
    mut each: impl FnMut(i64, &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    each_row(connection, selection, (span.blocks(), "data"), span, from, to, |key, row| each(key, blob(row, 1)?))
}

/// Calls `each` with the number of observations of the blocks that overlap `[from, to)`.
fn each_count(
    connection: &Connection,
    selection: &Selection,
    span: Span,
    from: i64,
    to: i64,
    mut each: impl FnMut(u64),
) -> Result<(), Error> {
    each_row(connection, selection, (span.blocks(), "count"), span, from, to, |_, row| {
        each(row.get::<_, i64>(1)? as u64);
        Ok(())
    })
}

/// Calls `each` with key and a column of the rows that overlap `[from, to)`.
pub(super) fn each_row(
    connection: &Connection,
    selection: &Selection,
    (table, column): (&str, &str),
    span: Span,
    from: i64,
    to: i64,
    mut each: impl FnMut(i64, &rusqlite::Row<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    if from >= to {
        return Ok(());
    }
    let (first, end) = keys(span, from, to);
    match &selection.0 {
        Some(ids) if ids.len() <= LOOK_UP_MAX => {
            let (mut begin, mut last) = (span.index(from), span.index(to - 1));
            if begin < last {
                // Only from the first to the last span that anybody has.
                let edge = |order: &str| -> Result<Option<i64>, Error> {
                    let sql =
                        format!("SELECT key FROM {table} WHERE key >= ? AND key < ? ORDER BY key {order} LIMIT 1");
                    Ok(connection.prepare_cached(&sql)?.query_row([first, end], |row| row.get(0)).optional()?)
                };
                let (Some(first), Some(end)) = (edge("ASC")?, edge("DESC")?) else { return Ok(()) };
                (begin, last) = (span::parts(first).0, span::parts(end).0);
            }
            let mut one = connection.prepare_cached(&format!("SELECT key, {column} FROM {table} WHERE key = ?"))?;
            for index in begin..=last {
                for id in ids {
                    let mut rows = one.query([span::key(index, *id)])?;
                    if let Some(row) = rows.next()? {
                        each(row.get(0)?, row)?;
                    }
                }
            }
        }
        _ => {
            let mut range = connection.prepare_cached(&format!(
                "SELECT key, {column} FROM {table} WHERE key >= ? AND key < ? ORDER BY key"
            ))?;
            let mut rows = range.query([first, end])?;
            while let Some(row) = rows.next()? {
                let key: i64 = row.get(0)?;
                if selection.contains(span::parts(key).1) {
                    each(key, row)?;
                }
            }
        }
    }
    Ok(())
}

/// Reads what is kept of an answer.
pub(super) fn read_evidence(data: &[u8]) -> Result<Box<Evidence>, Error> {
    let read = || take_evidence(&zstd::bulk::decompress(data, EVIDENCE_MAX).ok()?);
    read().map(Box::new).ok_or(Error::Damaged("evidence"))
}

/// Bytes of the evidence of one observation that are read at most; the checker bounds it far below.
pub(super) const EVIDENCE_MAX: usize = 4 << 20;

/// Which of two observations of one slot is kept; where only their findings differ, by those, so that it is
/// the same in whatever order they came.
pub(super) fn goes_before(a: &Observation, b: &Observation) -> Ordering {
    if std::ptr::eq(a, b) {
        // The first of its slot is held against itself; to write its line twice for that would cost more than the rest.
        return Ordering::Equal;
    }
    a.precedence(b).then_with(|| {
        let (mut left, mut right) = (Vec::new(), Vec::new());
        sitemon_model::line::write(a, &mut left);
        sitemon_model::line::write(b, &mut right);
        left.cmp(&right)
    })
}

/// The order of an export.
fn by_key(a: &Observation, b: &Observation) -> Ordering {
    (a.scheduled_at, &a.site, &a.location).cmp(&(b.scheduled_at, &b.site, &b.location))
}
