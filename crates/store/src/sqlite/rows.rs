//! The rows of one snapshot of the file.

use super::Error;
use super::chunk;
use crate::tables::span::{self, Span};
use crate::tables::{Damaged, Entry, Latest, Selection, Tables};
use rusqlite::{Connection, OptionalExtension as _, Row, Statement};
use sitemon_model::Timestamp;
use sitemon_stats::Held;
use std::cell::{OnceCell, RefCell};
use std::sync::Arc;

/// Series up to which each block is looked up by its key; for more, all of a span are passed over.
const LOOK_UP_MAX: usize = 64;

/// A connection that reads.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) connection: Connection,
    chunks: RefCell<chunk::Decoder>,
    /// The rows of arrivals in this snapshot; listed when first asked for.
    arrivals: OnceCell<Arc<[RowOfArrivals]>>,
}

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
    /// The row with these columns first, in the order of the fields.
    fn read(columns: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: columns.get(0)?,
            count: columns.get::<_, i64>(1)? as u64,
            first_slot: columns.get(2)?,
            last_slot: columns.get(3)?,
            first_series: columns.get(4)?,
            last_series: columns.get(5)?,
        })
    }

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

impl Rows {
    /// Reads by this connection.
    pub(super) fn new(connection: Connection) -> Result<Self, Error> {
        Ok(Self { connection, chunks: RefCell::new(chunk::Decoder::new()?), arrivals: OnceCell::new() })
    }

    /// Forgets what was read in the snapshot before.
    pub(super) fn renew(&mut self) {
        self.arrivals.take();
    }

    /// The rows of arrivals in this snapshot, in the order in which they came.
    pub(super) fn arrivals(&self) -> Result<Arc<[RowOfArrivals]>, Error> {
        if let Some(rows) = self.arrivals.get() {
            return Ok(rows.clone());
        }
        let mut statement = self.connection.prepare_cached(
            "SELECT id, count, first_slot, last_slot, first_series, last_series FROM arrivals ORDER BY id",
        )?;
        let rows: Arc<[RowOfArrivals]> =
            statement.query_map([], RowOfArrivals::read)?.collect::<Result<Vec<_>, _>>()?.into();
        Ok(self.arrivals.get_or_init(|| rows).clone())
    }

    /// Calls `each` with the directories of those rows that `wanted` says yes to, in the order in which they came;
    /// with `most` that may be most of them.
    fn each_directory(
        &self,
        most: bool,
        wanted: impl Fn(&RowOfArrivals) -> bool,
        mut each: impl FnMut(&RowOfArrivals, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if !most || self.arrivals.get().is_some() {
            let rows = self.arrivals()?;
            let chosen: Vec<&RowOfArrivals> = rows.iter().filter(|row| wanted(row)).collect();
            if chosen.len() < rows.len() / 4 {
                let mut statement = self.connection.prepare_cached("SELECT directory FROM arrivals WHERE id = ?")?;
                for row in chosen {
                    let mut found = statement.query([row.id])?;
                    if let Some(columns) = found.next()? {
                        each(row, blob(columns, 0)?)?;
                    }
                }
                return Ok(());
            }
        }
        // Many are passed faster one after the other than looked up, and are listed on the way.
        let mut statement = self.connection.prepare_cached(
            "SELECT id, count, first_slot, last_slot, first_series, last_series, directory FROM arrivals ORDER BY id",
        )?;
        let (mut found, mut rows) = (statement.query([])?, Vec::new());
        while let Some(columns) = found.next()? {
            let row = RowOfArrivals::read(columns)?;
            if wanted(&row) {
                each(&row, blob(columns, 6)?)?;
            }
            rows.push(row);
        }
        self.arrivals.get_or_init(|| rows.into());
        Ok(())
    }

    /// Calls `each` with key and a column of the rows that overlap `[from, to)`.
    fn each_row(
        &self,
        selection: &Selection,
        (table, column): (&str, &str),
        span: Span,
        from: i64,
        to: i64,
        mut each: impl FnMut(i64, &Row<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if from >= to {
            return Ok(());
        }
        let connection = &self.connection;
        let (first, end) = keys(span, from, to);
        match &selection.0 {
            Some(ids) if ids.len() <= LOOK_UP_MAX => {
                let (mut begin, mut last) = (span.index(from), span.index(to - 1));
                if begin < last {
                    // Only from the first to the last span that anybody has.
                    let edge = |order| self.edge(table, first, end, order);
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

    /// The first or last key of a range.
    fn edge(&self, table: &str, first: i64, end: i64, order: &str) -> Result<Option<i64>, Error> {
        let sql = format!("SELECT key FROM {table} WHERE key >= ? AND key < ? ORDER BY key {order} LIMIT 1");
        Ok(self.connection.prepare_cached(&sql)?.query_row([first, end], |row| row.get(0)).optional()?)
    }

    /// The bytes of the row with this key.
    fn by_key(&self, table: &str, index: i64, series: i64) -> Result<Option<Vec<u8>>, Error> {
        let mut statement = self.connection.prepare_cached(&format!("SELECT data FROM {table} WHERE key = ?"))?;
        let mut rows = statement.query([span::key(index, series)])?;
        rows.next()?.map(|row| Ok(blob(row, 0)?.to_vec())).transpose()
    }
}

impl Tables for Rows {
    type Error = Error;

    const SHARED_FROM: usize = 4;

    fn each_series(&self, after: i64, mut each: impl FnMut(i64, Arc<str>, Arc<str>)) -> Result<(), Error> {
        let mut statement =
            self.connection.prepare_cached("SELECT id, site, location FROM series WHERE id > ? ORDER BY id")?;
        let mut rows = statement.query([after])?;
        while let Some(row) = rows.next()? {
            each(row.get(0)?, row.get(1)?, row.get(2)?);
        }
        Ok(())
    }

    fn pruned(&self) -> Result<i64, Error> {
        let sql = "SELECT value FROM meta WHERE name = 'pruned'";
        let pruned = self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?;
        Ok(pruned.unwrap_or(i64::MIN))
    }

    fn arrivals_extent(&self, from: i64, to: i64) -> Result<Option<(i64, i64)>, Error> {
        let rows = self.arrivals()?;
        let overlapping = || rows.iter().filter(|row| row.last_slot >= from && row.first_slot < to);
        let first = overlapping().map(|row| row.first_slot).min();
        Ok(first.zip(overlapping().map(|row| row.last_slot.saturating_add(1)).max()))
    }

    fn arrivals_count(&self, selection: &Selection, from: i64, to: i64) -> Result<u64, Error> {
        Ok(self.arrivals()?.iter().map(|row| row.estimate(selection, from, to)).sum())
    }

    fn each_arrival(
        &self,
        selection: &Selection,
        before: i64,
        mut each: impl FnMut(Entry) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let wanted =
            |row: &RowOfArrivals| row.first_slot < before && selection.between(row.first_series, row.last_series) > 0;
        self.each_directory(selection.0.is_none(), wanted, |row, directory| {
            for entry in chunk::entries(row.first_slot, directory) {
                each(entry.ok_or(Damaged("an arrival"))?)?;
            }
            Ok(())
        })
    }

    fn each_record(
        &self,
        selection: &Selection,
        from: i64,
        to: i64,
        wanted: impl Fn(&Entry) -> bool,
        mut each: impl FnMut(Entry, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let rows = self.arrivals()?;
        let mut statement = statement_of_row(&self.connection)?;
        let mut chunks = self.chunks.borrow_mut();
        for row in rows.iter().filter(|row| row.estimate(selection, from, to) > 0) {
            records_of_row(&mut statement, &mut chunks, row, &wanted, &mut each)?;
        }
        Ok(())
    }

    fn each_block(
        &self,
        selection: &Selection,
        span: Span,
        from: i64,
        to: i64,
        mut each: impl FnMut(i64, i64, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.each_row(selection, (blocks(span), "data"), span, from, to, |key, row| {
            let (index, series) = span::parts(key);
            each(index, series, blob(row, 1)?)
        })
    }

    fn blocks_count(&self, selection: &Selection, span: Span, from: i64, to: i64) -> Result<u64, Error> {
        let mut count = 0;
        self.each_row(selection, (blocks(span), "count"), span, from, to, |_, row| {
            count += row.get::<_, i64>(1)? as u64;
            Ok(())
        })?;
        Ok(count)
    }

    fn blocks_extent(&self, span: Span, from: i64, to: i64) -> Result<Option<(i64, i64)>, Error> {
        let (first, end) = keys(span, from, to);
        let edge = |order| self.edge(blocks(span), first, end, order);
        Ok(edge("ASC")?.zip(edge("DESC")?).map(|(first, last)| (span::parts(first).0, span::parts(last).0)))
    }

    fn block(&self, span: Span, index: i64, series: i64) -> Result<Option<Vec<u8>>, Error> {
        self.by_key(blocks(span), index, series)
    }

    fn shape(&self, id: i64) -> Result<Option<(i64, Vec<u8>)>, Error> {
        let mut statement = self.connection.prepare_cached("SELECT seen_day, data FROM shapes WHERE id = ?")?;
        Ok(statement.query_row([id], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
    }

    fn each_rollup(
        &self,
        selection: &Selection,
        span: Span,
        from: i64,
        to: i64,
        mut each: impl FnMut(i64, i64, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.each_row(selection, (rollups(span), "data"), span, from, to, |key, row| {
            let (index, series) = span::parts(key);
            each(index, series, blob(row, 1)?)
        })
    }

    fn rollup(&self, span: Span, index: i64, series: i64) -> Result<Option<Vec<u8>>, Error> {
        self.by_key(rollups(span), index, series)
    }

    fn first_rollup(&self, span: Span) -> Result<Option<i64>, Error> {
        let sql = format!("SELECT min(key) FROM {}", rollups(span));
        let key: Option<i64> = self.connection.prepare_cached(&sql)?.query_row([], |row| row.get(0))?;
        Ok(key.map(|key| span::parts(key).0))
    }

    fn each_evidence(
        &self,
        selection: &Selection,
        from: i64,
        to: i64,
        mut each: impl FnMut(i64, i64, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut statement =
            self.connection.prepare_cached("SELECT slot, series, data FROM evidence WHERE slot >= ? AND slot < ?")?;
        let mut rows = statement.query([from, to])?;
        while let Some(row) = rows.next()? {
            let (slot, series): (i64, i64) = (row.get(0)?, row.get(1)?);
            if selection.contains(series) {
                each(slot, series, blob(row, 2)?)?;
            }
        }
        Ok(())
    }

    fn evidence(&self, slot: i64, series: i64) -> Result<Option<Vec<u8>>, Error> {
        let mut statement =
            self.connection.prepare_cached("SELECT data FROM evidence WHERE slot = ? AND series = ?")?;
        Ok(statement.query_row([slot, series], |row| row.get(0)).optional()?)
    }

    fn latest(&self, selection: &Selection) -> Result<Vec<(i64, Latest)>, Error> {
        const COLUMNS: &str = "SELECT series, slot, verdict, held_until, reach_us, rolled FROM latest";
        let read = |row: &Row<'_>| -> rusqlite::Result<(i64, Latest)> {
            let held = Held { verdict: row.get(2)?, from: Timestamp(row.get(1)?), until: Timestamp(row.get(3)?) };
            Ok((row.get(0)?, Latest { held, reach_us: row.get(4)?, rolled: row.get(5)? }))
        };
        let mut found = Vec::new();
        match &selection.0 {
            Some(ids) if ids.len() < LATEST_LOOK_UP_MAX => {
                let mut statement = self.connection.prepare_cached(&format!("{COLUMNS} WHERE series = ?"))?;
                for id in ids {
                    found.extend(statement.query_map([id], read)?.collect::<Result<Vec<_>, _>>()?);
                }
            }
            _ => {
                let mut statement = self.connection.prepare_cached(COLUMNS)?;
                for row in statement.query_map([], read)? {
                    found.push(row?);
                }
                found.retain(|(series, _)| selection.contains(*series));
            }
        }
        Ok(found)
    }

    fn each_latest(&self, mut each: impl FnMut(i64, &[u8], Option<&[u8]>) -> Result<(), Error>) -> Result<(), Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT l.series, l.record, e.data FROM latest l
             LEFT JOIN evidence e ON e.slot = l.slot AND e.series = l.series",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let evidence = row.get_ref(2)?.as_blob_or_null().map_err(|_| Damaged("evidence"))?;
            each(row.get(0)?, blob(row, 1)?, evidence)?;
        }
        Ok(())
    }
}

/// Series up to which the latest of each is looked up by its key.
const LATEST_LOOK_UP_MAX: usize = 1000;

/// The table of the blocks of a kind of span.
pub(super) const fn blocks(span: Span) -> &'static str {
    match span {
        Span::Hour => "hour_blocks",
        Span::Day => "day_blocks",
    }
}

/// The table of the statistics of a kind of span.
pub(super) const fn rollups(span: Span) -> &'static str {
    match span {
        Span::Hour => "hour_rollups",
        Span::Day => "day_rollups",
    }
}

/// The keys of the spans that overlap `[from, to)`: the first, and the one after the last.
fn keys(span: Span, from: i64, to: i64) -> (i64, i64) {
    (span::key(span.index(from), 0), span::key(span.index(to.saturating_sub(1)) + 1, 0))
}

/// The bytes of a column.
fn blob<'r>(row: &'r Row<'_>, index: usize) -> Result<&'r [u8], Error> {
    Ok(row.get_ref(index)?.as_blob().map_err(|_| Damaged("a row"))?)
}

/// The statement that reads a row of arrivals by its id.
pub(super) fn statement_of_row(connection: &Connection) -> Result<rusqlite::CachedStatement<'_>, Error> {
    Ok(connection.prepare_cached("SELECT directory, body FROM arrivals WHERE id = ?")?)
}

/// Reads those records of a row that `wanted` says yes to.
pub(super) fn records_of_row(
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
    let mut records = chunks.records(blob(columns, 1)?).ok_or(Damaged("an arrival"))?;
    for entry in chunk::entries(row.first_slot, directory) {
        let (entry, record) = entry.zip(records.take()).ok_or(Damaged("an arrival"))?;
        if wanted(&entry) {
            each(entry, record)?;
        }
    }
    Ok(())
}
