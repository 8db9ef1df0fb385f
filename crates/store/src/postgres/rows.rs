//! The rows of one snapshot of the database.

use super::session::{Error, Pool, Session};
use super::{name_of, schema};
use crate::StoreError;
use crate::tables::span::Span;
use crate::tables::{Ahead, Damaged, Entry, Latest, Reader, Selection, Source, Tables};
use sitemon_model::Timestamp;
use sitemon_stats::{Glance, Held};
use std::cell::{Cell, OnceCell};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

/// Rows that are held at once while many are passed.
const FETCH: usize = 1000;
/// Series that a statement names one by one; of more it names the range, and the others are left out here.
const NAMED_MAX: usize = 2000;
/// Readers that are kept for the next who asks.
const IDLE: usize = 4;

/// Readers, each with a connection of its own.
#[derive(Debug)]
pub(super) struct Readers {
    pool: Arc<Pool>,
    /// Where connections are waited for, by threads that may.
    handle: Handle,
    idle: Mutex<Vec<Reader<Rows>>>,
    /// What the scan that is under way has read ahead.
    pub(super) ahead: Mutex<Option<Ahead>>,
}

impl Readers {
    /// Over these connections.
    pub(super) fn new(pool: Arc<Pool>) -> Arc<Self> {
        Arc::new(Self { pool, handle: Handle::current(), idle: Mutex::default(), ahead: Mutex::default() })
    }

    /// Closes the connections that nobody uses.
    pub(super) fn close(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// A reader that nobody uses, or a new one.
    pub(super) fn get(&self) -> Result<Reader<Rows>, Error> {
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match idle {
                Some(reader) if reader.tables.session.client.is_closed() => {}
                Some(reader) => return Ok(reader),
                None => break,
            }
        }
        let session = self.handle.block_on(async {
            let session = self.pool.get().await?;
            schema::check(schema::version(&session).await?, name_of(&self.pool))?;
            Ok::<_, Error>(session)
        })?;
        Ok(Reader::new(Rows::new(session, self.handle.clone())))
    }
}

impl Source for Readers {
    type Tables = Rows;

    fn read<T>(&self, work: impl FnOnce(&mut Reader<Rows>) -> Result<T, Error>) -> Result<T, StoreError> {
        let done = || {
            let mut reader = self.get()?;
            let done = snapshot(&mut reader, work)?;
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < IDLE {
                idle.push(reader);
            }
            Ok(done)
        };
        done().map_err(|error: Error| error.of(name_of(&self.pool)))
    }
}

/// Does `work` within one read transaction.
///
/// The pieces of arrivals are locked before the snapshot is taken: one that is dropped before has its blocks in the
/// snapshot, and none is dropped while it lasts.
pub(super) fn snapshot<T>(
    reader: &mut Reader<Rows>,
    work: impl FnOnce(&mut Reader<Rows>) -> Result<T, Error>,
) -> Result<T, Error> {
    reader.tables.renew();
    reader
        .tables
        .batch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE sitemon.arrivals IN ACCESS SHARE MODE")?;
    reader.refresh()?;
    let done = work(reader)?;
    reader.tables.batch("COMMIT")?;
    Ok(done)
}

/// A connection that reads.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) session: Session,
    handle: Handle,
    /// Cursors of this snapshot so far.
    cursors: Cell<u32>,
    /// The largest id of a series that was seen.
    last_series: Cell<i64>,
    batches: OnceCell<Vec<Batch>>,
    /// The numbers about the store.
    meta: OnceCell<HashMap<String, i64>>,
}

/// What one transaction appended.
#[derive(Debug, Clone, Copy)]
struct Batch {
    count: u64,
    first_slot: i64,
    last_slot: i64,
}

impl Rows {
    fn new(session: Session, handle: Handle) -> Self {
        Self {
            session,
            handle,
            cursors: Cell::new(0),
            last_series: Cell::new(0),
            batches: OnceCell::new(),
            meta: OnceCell::new(),
        }
    }

    /// Forgets what was read in the snapshot before.
    fn renew(&mut self) {
        self.cursors.set(0);
        self.batches.take();
        self.meta.take();
    }

    /// Waits for work over the connection.
    pub(super) fn wait<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.handle.block_on(work)
    }

    /// Statements without parameters, one after the other.
    pub(super) fn batch(&self, sql: &str) -> Result<(), Error> {
        self.wait(self.session.batch(sql))
    }

    /// All rows of a query.
    fn query(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        self.wait(self.session.query(sql, params))
    }

    /// The first row of a query.
    fn first(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>, Error> {
        self.wait(self.session.first(sql, params))
    }

    /// Passes the rows of a query, some at a time. Other queries may be asked meanwhile.
    fn each(&self, sql: &str, mut each: impl FnMut(&Row) -> Result<(), Error>) -> Result<(), Error> {
        let number = self.cursors.replace(self.cursors.get() + 1);
        self.batch(&format!("DECLARE c{number} NO SCROLL CURSOR FOR {sql}"))?;
        let fetch = format!("FETCH {FETCH} FROM c{number}");
        loop {
            let rows = self.wait(async { Ok(self.session.client.query(&fetch, &[]).await?) })?;
            for row in &rows {
                each(row)?;
            }
            if rows.len() < FETCH {
                return self.batch(&format!("CLOSE c{number}"));
            }
        }
    }

    fn batches(&self) -> Result<&[Batch], Error> {
        if let Some(batches) = self.batches.get() {
            return Ok(batches);
        }
        let rows = self.query("SELECT count, first_slot, last_slot FROM sitemon.batches", &[])?;
        let batch =
            |row: &Row| Batch { count: row.get::<_, i64>(0) as u64, first_slot: row.get(1), last_slot: row.get(2) };
        Ok(self.batches.get_or_init(|| rows.iter().map(batch).collect()))
    }

    /// A number about the store.
    fn meta(&self, name: &str) -> Result<Option<i64>, Error> {
        if self.meta.get().is_none() {
            let rows = self.query("SELECT name, value FROM sitemon.meta", &[])?;
            let _ = self.meta.set(rows.iter().map(|row| (row.get(0), row.get(1))).collect());
        }
        Ok(self.meta.get().and_then(|meta| meta.get(name).copied()))
    }

    /// Number of the span, series and a column of the rows that overlap a span of time.
    fn each_of_span(
        &self,
        table: &str,
        selection: &Selection,
        span: Span,
        from: i64,
        to: i64,
        mut each: impl FnMut(i64, i64, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Some(wanted) = wanted(selection).filter(|_| from < to) else { return Ok(()) };
        let (first, last) = (number(span.index(from)), number(span.index(to - 1)));
        let sql = format!(
            "SELECT at, series, data FROM sitemon.{table}
             WHERE at >= {first} AND at <= {last} AND {wanted} ORDER BY at, series"
        );
        self.each(&sql, |row| {
            let (at, series): (i32, i32) = (row.get(0), row.get(1));
            if selection.contains(series.into()) {
                each(at.into(), series.into(), row.get(2))?;
            }
            Ok(())
        })
    }

    fn one_of_span(&self, table: &str, index: i64, series: i64) -> Result<Option<Vec<u8>>, Error> {
        let sql = format!("SELECT data FROM sitemon.{table} WHERE series = $1 AND at = $2");
        Ok(self.first(&sql, &[&(series as i32), &number(index)])?.map(|row| row.get(0)))
    }
}

impl Tables for Rows {
    type Error = Error;

    /// `sitemon.unpack` knows shapes by their id only.
    const SHARED_FROM: usize = 1;

    fn each_series(&self, after: i64, mut each: impl FnMut(i64, Arc<str>, Arc<str>)) -> Result<(), Error> {
        let sql = "SELECT id, site, location FROM sitemon.series WHERE id > $1 ORDER BY id";
        for row in self.query(sql, &[&(after as i32)])? {
            let id = i64::from(row.get::<_, i32>(0));
            self.last_series.set(id);
            each(id, row.get::<_, &str>(1).into(), row.get::<_, &str>(2).into());
        }
        Ok(())
    }

    fn pruned(&self) -> Result<i64, Error> {
        Ok(self.meta("pruned")?.unwrap_or(i64::MIN))
    }

    fn arrivals_extent(&self, from: i64, to: i64) -> Result<Option<(i64, i64)>, Error> {
        let batches = self.batches()?;
        let overlapping = || batches.iter().filter(|batch| batch.last_slot >= from && batch.first_slot < to);
        let first = overlapping().map(|batch| batch.first_slot).min();
        Ok(first.zip(overlapping().map(|batch| batch.last_slot.saturating_add(1)).max()))
    }

    fn arrivals_count(&self, selection: &Selection, from: i64, to: i64) -> Result<u64, Error> {
        let all = self.last_series.get().max(1) as u64;
        let wanted = selection.between(1, self.last_series.get()).min(all);
        let mut count = 0;
        for batch in self.batches()?.iter().filter(|batch| batch.last_slot >= from && batch.first_slot < to) {
            // A batch whose slots are spread lies in the span with a part of them.
            let width = batch.last_slot.abs_diff(batch.first_slot) + 1;
            let inside = batch.last_slot.saturating_add(1).min(to).abs_diff(batch.first_slot.max(from));
            count += (u128::from(batch.count) * u128::from(inside)).div_ceil(u128::from(width)) as u64;
        }
        Ok((count * wanted).div_ceil(all))
    }

    fn each_arrival(
        &self,
        selection: &Selection,
        before: i64,
        mut each: impl FnMut(Entry) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Some(wanted) = wanted(selection) else { return Ok(()) };
        let sql = format!("SELECT {ENTRY} FROM sitemon.arrivals WHERE slot < {} AND {wanted}", bigint(before));
        self.each(&sql, |row| each(entry(row)?))
    }

    fn each_record(
        &self,
        selection: &Selection,
        from: i64,
        to: i64,
        wanted: impl Fn(&Entry) -> bool,
        mut each: impl FnMut(Entry, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Some(series) = self::wanted(selection).filter(|_| from < to) else { return Ok(()) };
        let sql = format!(
            "SELECT {ENTRY}, record FROM sitemon.arrivals WHERE slot >= {} AND slot < {} AND {series}",
            bigint(from),
            bigint(to)
        );
        self.each(&sql, |row| {
            let entry = entry(row)?;
            if wanted(&entry) {
                each(entry, row.get(7))?;
            }
            Ok(())
        })
    }

    fn each_block(
        &self,
        selection: &Selection,
        span: Span,
        from: i64,
        to: i64,
        each: impl FnMut(i64, i64, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.each_of_span(blocks(span), selection, span, from, to, each)
    }

    fn blocks_count(&self, selection: &Selection, span: Span, from: i64, to: i64) -> Result<u64, Error> {
        let Some(wanted) = wanted(selection).filter(|_| from < to) else { return Ok(0) };
        let sql = format!(
            "SELECT coalesce(sum(count), 0)::bigint FROM sitemon.{} WHERE at >= $1 AND at <= $2 AND {wanted}",
            blocks(span)
        );
        let (first, last) = (number(span.index(from)), number(span.index(to - 1)));
        let count = self.wait(async { Ok(self.session.client.query_one(&sql, &[&first, &last]).await?) })?;
        Ok(count.get::<_, i64>(0) as u64)
    }

    fn blocks_extent(&self, span: Span, from: i64, to: i64) -> Result<Option<(i64, i64)>, Error> {
        let [first, last] = edges(span);
        let (Some(first), Some(last)) = (self.meta(first)?, self.meta(last)?) else { return Ok(None) };
        let (first, last) = (first.max(span.index(from)), last.min(span.index(to.saturating_sub(1))));
        Ok((first <= last).then_some((first, last)))
    }

    fn block(&self, span: Span, index: i64, series: i64) -> Result<Option<Vec<u8>>, Error> {
        self.one_of_span(blocks(span), index, series)
    }

    fn shape(&self, id: i64) -> Result<Option<(i64, Vec<u8>)>, Error> {
        let row = self.first("SELECT seen_day, data FROM sitemon.shapes WHERE id = $1", &[&id])?;
        Ok(row.map(|row| (row.get(0), row.get(1))))
    }

    fn each_rollup(
        &self,
        selection: &Selection,
        span: Span,
        from: i64,
        to: i64,
        each: impl FnMut(i64, i64, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.each_of_span(rollups(span), selection, span, from, to, each)
    }

    fn rollup(&self, span: Span, index: i64, series: i64) -> Result<Option<Vec<u8>>, Error> {
        self.one_of_span(rollups(span), index, series)
    }

    fn first_rollup(&self, span: Span) -> Result<Option<i64>, Error> {
        self.meta(first_rollup(span))
    }

    fn each_evidence(
        &self,
        selection: &Selection,
        from: i64,
        to: i64,
        mut each: impl FnMut(i64, i64, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Some(wanted) = wanted(selection) else { return Ok(()) };
        let sql = format!(
            "SELECT slot, series, data FROM sitemon.evidence WHERE slot >= {} AND slot < {} AND {wanted}",
            bigint(from),
            bigint(to)
        );
        self.each(&sql, |row| {
            let series = i64::from(row.get::<_, i32>(1));
            if selection.contains(series) {
                each(row.get(0), series, row.get(2))?;
            }
            Ok(())
        })
    }

    fn evidence(&self, slot: i64, series: i64) -> Result<Option<Vec<u8>>, Error> {
        let sql = "SELECT data FROM sitemon.evidence WHERE slot = $1 AND series = $2";
        Ok(self.first(sql, &[&slot, &(series as i32)])?.map(|row| row.get(0)))
    }

    fn latest(&self, selection: &Selection) -> Result<Vec<(i64, Latest)>, Error> {
        const COLUMNS: &str = "SELECT series, slot, verdict, held_until, reach_us, rolled FROM sitemon.latest";
        let read = |row: &Row| -> Result<(i64, Latest), Error> {
            let verdict = verdict(row.get(2))?;
            let held = Held { verdict, from: Timestamp(row.get(1)), until: Timestamp(row.get(3)) };
            Ok((row.get::<_, i32>(0).into(), Latest { held, reach_us: row.get(4), rolled: row.get(5) }))
        };
        if let Some([only]) = selection.0.as_deref() {
            let row = self.first(&format!("{COLUMNS} WHERE series = $1"), &[&(*only as i32)])?;
            return row.iter().map(read).collect();
        }
        let Some(wanted) = wanted(selection) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        self.each(&format!("{COLUMNS} WHERE {wanted}"), |row| {
            found.push(read(row)?);
            Ok(())
        })?;
        found.retain(|(series, _)| selection.contains(*series));
        Ok(found)
    }

    fn each_latest(&self, mut each: impl FnMut(i64, &[u8], Option<&[u8]>) -> Result<(), Error>) -> Result<(), Error> {
        let sql = "SELECT l.series, l.record, e.data FROM sitemon.latest l
                   LEFT JOIN sitemon.evidence e ON e.slot = l.slot AND e.series = l.series";
        self.each(sql, |row| each(row.get::<_, i32>(0).into(), row.get(1), row.get(2)))
    }
}

/// What [`entry`] reads.
const ENTRY: &str = "slot, series, verdict, scheduled, interval_us, timeout_us, response_time_us";

fn entry(row: &Row) -> Result<Entry, Error> {
    let slot: i64 = row.get(0);
    let after = |from: Timestamp, us: i64| from.plus(i64::try_from(us as u64).unwrap_or(i64::MAX));
    let until = after(after(Timestamp(slot), row.get(4)), row.get(5));
    let held = Held { verdict: verdict(row.get(2))?, from: Timestamp(slot), until };
    let response_time_us = row.get::<_, Option<i64>>(6).map(|us| us as u64);
    let glance = Glance { held, response_time_us };
    Ok(Entry { series: row.get::<_, i32>(1).into(), slot, scheduled: row.get(3), glance })
}

fn verdict(number: i16) -> Result<u8, Damaged> {
    u8::try_from(number).ok().filter(|verdict| *verdict < 4).ok_or(Damaged("a verdict"))
}

/// Which series a statement asks for; `None`: there are none.
fn wanted(selection: &Selection) -> Option<String> {
    match selection.0.as_deref() {
        None => Some("true".to_owned()),
        Some([]) => None,
        Some([first, .., last]) if selection.0.as_ref().is_some_and(|ids| ids.len() > NAMED_MAX) => {
            Some(format!("series BETWEEN {first} AND {last}"))
        }
        Some(ids) => {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            Some(format!("series = ANY('{{{}}}'::integer[])", ids.join(",")))
        }
    }
}

/// A number as it stands in a statement; unquoted, the smallest of all would be no bigint.
fn bigint(value: i64) -> String {
    format!("'{value}'::bigint")
}

/// The number of an hour or a day, held where a column can have it; nothing can be observed beyond.
pub(super) fn number(index: i64) -> i32 {
    index.clamp(i32::MIN.into(), i32::MAX.into()) as i32
}

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

/// The numbers about the store that say which spans have blocks: no earlier and no later ones.
pub(super) const fn edges(span: Span) -> [&'static str; 2] {
    match span {
        Span::Hour => ["first_hour_block", "last_hour_block"],
        Span::Day => ["first_day_block", "last_day_block"],
    }
}

/// The number about the store that says which span is the first with statistics.
pub(super) const fn first_rollup(span: Span) -> &'static str {
    match span {
        Span::Hour => "first_hour_rollup",
        Span::Day => "first_day_rollup",
    }
}
