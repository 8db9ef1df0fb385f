//! Packing: closes pieces of arrivals, puts down what they come to, and drops them whole.
//!
//! Whoever packs holds an advisory lock over the very connection that it reads and writes by: a packer that has lost
//! its connection has lost the lock with it, and can write nothing more.

use super::append::join;
use super::name_of;
use super::rows::{Readers, Rows, blocks, edges, first_rollup, number, rollups, snapshot};
use super::session::{Error, Pool, Session};
use crate::block::Block;
use crate::record::Shape;
use crate::tables::pack::{Packed, Packer};
use crate::tables::span::Span;
use crate::tables::{Driver, Reader, Source};
use crate::{Retention, StoreError, Upkeep, Upkept};
use sitemon_model::Timestamp;
use sitemon_model::time::{DAY, micros};
use std::cell::RefCell;
use std::collections::BTreeMap;
use tokio_postgres::error::SqlState;

/// `SmOp`: who holds this lock packs, and removes what is past its retention.
const LOCK: i64 = 0x536d_4f70;
/// How long a piece is waited for that somebody writes to, or reads; then it is left for the next time.
const PATIENCE: &str = "2s";

/// See [`crate::Store::maintain`].
pub(super) fn maintain(
    pool: &Pool,
    readers: &Readers,
    packer: &mut Packer,
    upkeep: &Upkeep,
) -> Result<Upkept, StoreError> {
    let name = name_of(pool);
    let reader = readers.get().map_err(|error| error.of(name))?;
    let tables = &reader.tables;
    let patient = matches!(upkeep, Upkeep::Pack { everything: true, .. } | Upkeep::Reclaim);
    let locked = tables.wait(async {
        if patient {
            tables.session.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await?;
            return Ok(true);
        }
        let row = tables.session.first("SELECT pg_try_advisory_lock($1)", &[&LOCK]).await?;
        Ok(row.is_some_and(|row| row.get(0)))
    });
    if !locked.map_err(|error| error.of(name))? {
        // Another does it.
        return Ok(Upkept::default());
    }
    let packing = Packing { name, reader: RefCell::new(reader) };
    let done = match upkeep {
        Upkeep::Pack { now, everything } => packer.pack(&packing, now.0, *everything)?,
        Upkeep::Prune { now, retention } => {
            packing.write(async |session| prune_all(session, *now, *retention).await)?
        }
        Upkeep::Reclaim => packing.write(async |session| reclaim(session).await)?,
    };
    // The connection goes, and the lock with it.
    Ok(done)
}

/// Whoever holds the lock.
struct Packing<'p> {
    name: &'p str,
    reader: RefCell<Reader<Rows>>,
}

impl Packing<'_> {
    /// Does work over the connection.
    fn write<T>(&self, work: impl AsyncFnOnce(&Session) -> Result<T, Error>) -> Result<T, StoreError> {
        let reader = self.reader.borrow();
        let tables = &reader.tables;
        tables.wait(work(&tables.session)).map_err(|error| error.of(self.name))
    }
}

impl Source for Packing<'_> {
    type Tables = Rows;

    fn read<T>(&self, work: impl FnOnce(&mut Reader<Rows>) -> Result<T, Error>) -> Result<T, StoreError> {
        snapshot(&mut self.reader.borrow_mut(), work).map_err(|error| error.of(self.name))
    }
}

impl Driver for Packing<'_> {
    /// The pieces that are closed.
    type Mark = Vec<i32>;

    fn mark(&self, end: i64) -> Result<Vec<i32>, StoreError> {
        self.write(async |session| {
            let waiting = session
                .query("SELECT DISTINCT piece FROM sitemon.batches WHERE first_slot < $1 ORDER BY piece", &[&end])
                .await?;
            let newest = newest(session).await?;
            let mut closed: Vec<i32> = waiting.iter().map(|row| row.get(0)).collect();
            if closed.contains(&newest) {
                let next = newest + 1;
                session
                    .batch(&format!(
                        "BEGIN; CREATE TABLE sitemon.arrivals_{next}() INHERITS (sitemon.arrivals);
                         CREATE INDEX ON sitemon.arrivals_{next} USING brin(slot)
                           WITH (pages_per_range = 16, autosummarize = on);
                         INSERT INTO sitemon.pieces VALUES({next}); COMMIT"
                    ))
                    .await?;
            }
            let mut open = Vec::new();
            for piece in &closed {
                // Who gets this lock after a newer piece was made comes after all who wrote to this one.
                if !locked(session, *piece, "SHARE").await? {
                    open.push(*piece);
                    continue;
                }
                session.batch("COMMIT").await?;
            }
            closed.retain(|piece| !open.contains(piece));
            Ok(closed)
        })
    }

    fn put(&self, packed: Packed) -> Result<(), StoreError> {
        self.write(async |session| {
            session.batch("BEGIN").await?;
            write(session, packed).await?;
            session.batch("COMMIT").await
        })
    }

    fn packed(&self, _: &mut Vec<i32>, _: i64) -> Result<(), StoreError> {
        // A piece goes whole, in the end.
        Ok(())
    }

    fn finish(&self, mark: Vec<i32>, before: i64) -> Result<(), StoreError> {
        self.write(async |session| {
            for piece in mark {
                if !locked(session, piece, "ACCESS EXCLUSIVE").await? {
                    // It is read for long. What is in it is packed once more the next time, which changes nothing.
                    continue;
                }
                let newest = newest(session).await?;
                // What is too new to be packed goes into the piece that is written to.
                let kept = format!(
                    "WITH kept AS (INSERT INTO sitemon.arrivals_{newest}
                       SELECT * FROM sitemon.arrivals_{piece} WHERE slot >= $1 RETURNING slot)
                     INSERT INTO sitemon.batches
                       SELECT {newest}, count(*), min(slot), max(slot) FROM kept HAVING count(*) > 0"
                );
                session.client.execute(&kept, &[&before]).await?;
                session
                    .batch(&format!(
                        "DELETE FROM sitemon.batches WHERE piece = {piece};
                         DELETE FROM sitemon.pieces WHERE id = {piece};
                         DROP TABLE sitemon.arrivals_{piece}; COMMIT"
                    ))
                    .await?;
            }
            Ok(())
        })
    }
}

/// The piece that is written to.
async fn newest(session: &Session) -> Result<i32, Error> {
    let newest = session.first("SELECT max(id) FROM sitemon.pieces", &[]).await?;
    newest.and_then(|row| row.get(0)).ok_or(Error::Damaged("the list of pieces"))
}

/// Begins a transaction that holds a lock on a piece; where that would take too long, there is none.
async fn locked(session: &Session, piece: i32, mode: &str) -> Result<bool, Error> {
    let sql =
        format!("BEGIN; SET LOCAL lock_timeout = '{PATIENCE}'; LOCK TABLE sitemon.arrivals_{piece} IN {mode} MODE");
    match session.batch(&sql).await {
        Ok(()) => Ok(true),
        Err(Error::Sql(error)) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            session.batch("ROLLBACK").await?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Puts finished rows down.
async fn write(session: &Session, packed: Packed) -> Result<(), Error> {
    let Packed { blocks: new_blocks, emptied, rollups: new_rollups, shapes, evidence, latest, .. } = packed;
    if !shapes.is_empty() {
        save_shapes(session, &shapes).await?;
    }
    let added = new_blocks.iter().filter(|block| block.new).count() as i64 - emptied.len() as i64;
    let mut meta: BTreeMap<&str, (i64, Merge)> = BTreeMap::new();
    for span in Span::ALL {
        let own = || new_blocks.iter().filter(|block| block.span == span);
        if own().next().is_some() {
            let (mut series, mut at, mut counts, mut data, mut causes) = (vec![], vec![], vec![], vec![], vec![]);
            for block in own() {
                series.push(block.series as i32);
                at.push(number(block.index));
                counts.push(block.count as i32);
                data.push(&block.data[..]);
                causes.push(causes_of(block.span, block.index, &block.data)?);
                let [first, last] = edges(span);
                merge(&mut meta, first, block.index, Merge::Least);
                merge(&mut meta, last, block.index, Merge::Greatest);
            }
            let sql = format!(
                "INSERT INTO sitemon.{}(series, at, count, data, causes)
                 SELECT s, a, n, d, string_to_array(c, E'\\n')
                   FROM unnest($1::integer[], $2::integer[], $3::integer[], $4::bytea[], $5::text[]) AS t(s, a, n, d, c)
                 ON CONFLICT(series, at) DO UPDATE
                   SET count = excluded.count, data = excluded.data, causes = excluded.causes",
                blocks(span)
            );
            session.execute(&sql, &[&series, &at, &counts, &data, &causes]).await?;
        }
        for (_, index, series) in emptied.iter().filter(|(of, ..)| *of == span) {
            let sql = format!("DELETE FROM sitemon.{} WHERE series = $1 AND at = $2", blocks(span));
            session.execute(&sql, &[&(*series as i32), &number(*index)]).await?;
        }
        let own = || new_rollups.iter().filter(|(of, ..)| *of == span);
        if own().next().is_some() {
            let series: Vec<i32> = own().map(|(_, _, series, _)| *series as i32).collect();
            let at: Vec<i32> = own().map(|(_, index, ..)| number(*index)).collect();
            let data: Vec<&[u8]> = own().map(|(.., data)| &data[..]).collect();
            own().for_each(|(_, index, ..)| merge(&mut meta, first_rollup(span), *index, Merge::Least));
            let sql = format!(
                "INSERT INTO sitemon.{}(series, at, data) SELECT * FROM unnest($1::integer[], $2::integer[], $3::bytea[])
                 ON CONFLICT(series, at) DO UPDATE SET data = excluded.data",
                rollups(span)
            );
            session.execute(&sql, &[&series, &at, &data]).await?;
        }
    }
    for (slot, series, data) in &evidence {
        let series = *series as i32;
        if let Some(data) = data {
            let sql = "INSERT INTO sitemon.evidence(slot, series, data) VALUES($1, $2, $3)
                       ON CONFLICT(slot, series) DO UPDATE SET data = excluded.data";
            session.execute(sql, &[slot, &series, data]).await?;
        } else {
            let sql = "DELETE FROM sitemon.evidence WHERE slot = $1 AND series = $2";
            session.execute(sql, &[slot, &series]).await?;
        }
    }
    let renewed = || latest.iter().filter_map(|packed| Some((packed, packed.record.as_ref()?)));
    let series: Vec<i32> = renewed().map(|(packed, _)| packed.series as i32).collect();
    let slots: Vec<i64> = renewed().map(|(packed, _)| packed.latest.held.from.0).collect();
    let verdicts: Vec<i16> = renewed().map(|(packed, _)| packed.latest.held.verdict.into()).collect();
    let until: Vec<i64> = renewed().map(|(packed, _)| packed.latest.held.until.0).collect();
    let reach: Vec<i64> = renewed().map(|(packed, _)| packed.latest.reach_us).collect();
    let rolled: Vec<i64> = renewed().map(|(packed, _)| packed.latest.rolled).collect();
    let records: Vec<&[u8]> = renewed().map(|(_, record)| &record[..]).collect();
    let sql = "INSERT INTO sitemon.latest(series, slot, verdict, held_until, reach_us, rolled, record)
               SELECT * FROM unnest($1::integer[], $2::bigint[], $3::smallint[], $4::bigint[], $5::bigint[], $6::bigint[],
                                    $7::bytea[])
               ON CONFLICT(series) DO UPDATE SET slot = excluded.slot, verdict = excluded.verdict,
                 held_until = excluded.held_until, reach_us = excluded.reach_us, rolled = excluded.rolled,
                 record = excluded.record";
    session.execute(sql, &[&series, &slots, &verdicts, &until, &reach, &rolled, &records]).await?;
    let same = || latest.iter().filter(|packed| packed.record.is_none());
    let series: Vec<i32> = same().map(|packed| packed.series as i32).collect();
    let reach: Vec<i64> = same().map(|packed| packed.latest.reach_us).collect();
    let rolled: Vec<i64> = same().map(|packed| packed.latest.rolled).collect();
    let sql = "UPDATE sitemon.latest l SET reach_us = n.reach, rolled = n.rolled
               FROM unnest($1::integer[], $2::bigint[], $3::bigint[]) AS n(series, reach, rolled)
               WHERE l.series = n.series";
    session.execute(sql, &[&series, &reach, &rolled]).await?;
    if added != 0 {
        meta.insert("blocks", (added, Merge::Sum));
    }
    for (name, (value, how)) in meta {
        save_meta(session, name, value, how).await?;
    }
    Ok(())
}

async fn save_shapes(session: &Session, shapes: &[(i64, i64, Box<[u8]>)]) -> Result<(), Error> {
    // The same may be in it for two days.
    let mut latest: BTreeMap<i64, (i64, &[u8])> = BTreeMap::new();
    for (id, day, data) in shapes {
        let known = latest.entry(*id).or_insert((*day, data));
        known.0 = known.0.max(*day);
    }
    for (id, (day, data)) in latest {
        let shape = Shape::read(data).ok_or(Error::Damaged("a shape"))?;
        let columns: Vec<i16> = shape.columns.iter().map(|column| *column as i16).collect();
        let (interval, timeout) = (shape.interval_us() as i64, shape.timeout_us() as i64);
        let sql = "INSERT INTO sitemon.shapes AS s(id, seen_day, data, columns, interval_us, timeout_us, scheduled)
                   VALUES($1, $2, $3, $4, $5, $6, $7)
                   ON CONFLICT(id) DO UPDATE SET seen_day = greatest(s.seen_day, excluded.seen_day)";
        session.execute(sql, &[&id, &day, &data, &columns, &interval, &timeout, &shape.is_scheduled()]).await?;
    }
    Ok(())
}

/// The lists of causes of a block, each on a line of its own, in the order of the block's own numbers; `None` where
/// no observation has any.
fn causes_of(span: Span, index: i64, data: &[u8]) -> Result<Option<String>, Error> {
    let shape = std::sync::Arc::new(Shape::default());
    let block =
        Block::read(Timestamp(span.start(index)), data, |_| Some(shape.clone())).ok_or(Error::Damaged("a block"))?;
    let lists: Vec<String> = block.causes().map(|causes| join(causes).unwrap_or_default()).collect();
    Ok((!lists.is_empty()).then(|| lists.join("\n")))
}

/// How a number about the store takes another in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Merge {
    Sum,
    Least,
    Greatest,
}

fn merge<'n>(meta: &mut BTreeMap<&'n str, (i64, Merge)>, name: &'n str, value: i64, how: Merge) {
    let known = meta.entry(name).or_insert((value, how));
    known.0 = if how == Merge::Least { known.0.min(value) } else { known.0.max(value) };
}

async fn save_meta(session: &Session, name: &str, value: i64, how: Merge) -> Result<(), Error> {
    let merged = match how {
        Merge::Sum => "m.value + excluded.value",
        Merge::Least => "least(m.value, excluded.value)",
        Merge::Greatest => "greatest(m.value, excluded.value)",
    };
    let sql = format!(
        "INSERT INTO sitemon.meta AS m(name, value) VALUES($1, $2) ON CONFLICT(name) DO UPDATE SET value = {merged}"
    );
    session.execute(&sql, &[&name, &value]).await?;
    Ok(())
}

/// See [`Upkeep::Prune`].
async fn prune_all(session: &Session, now: Timestamp, retention: Retention) -> Result<Upkept, Error> {
    // Whole days, so that a block goes when all that it can hold is past.
    let before = |kept| now.plus(-i64::try_from(micros(kept)).unwrap_or(i64::MAX)).floor(DAY).0;
    let observations = before(retention.observations);
    // First, so that what arrives later than that is not packed again into what is going.
    save_meta(session, "pruned", observations, Merge::Greatest).await?;
    let mut removed = 0;
    for span in Span::ALL {
        let end = number(span.index(observations));
        session.batch("BEGIN").await?;
        let gone = session.execute(&format!("DELETE FROM sitemon.{} WHERE at < $1", blocks(span)), &[&end]).await?;
        if gone > 0 {
            save_meta(session, "blocks", -(gone as i64), Merge::Sum).await?;
            save_meta(session, edges(span)[0], end.into(), Merge::Greatest).await?;
        }
        session.batch("COMMIT").await?;
        removed += gone;
    }
    for (span, kept) in [(Span::Hour, retention.hour), (Span::Day, retention.day)] {
        let end = number(span.index(before(kept)));
        session.batch("BEGIN").await?;
        let gone = session.execute(&format!("DELETE FROM sitemon.{} WHERE at < $1", rollups(span)), &[&end]).await?;
        if gone > 0 {
            save_meta(session, first_rollup(span), end.into(), Merge::Greatest).await?;
        }
        session.batch("COMMIT").await?;
        removed += gone;
    }
    let evidence = before(retention.evidence).max(observations);
    removed += session.execute("DELETE FROM sitemon.evidence WHERE slot < $1", &[&evidence]).await?;
    let day = Span::Day.index(observations);
    removed += session.execute("DELETE FROM sitemon.shapes WHERE seen_day < $1", &[&day]).await?;
    let runs = before(retention.day);
    removed += session.execute("DELETE FROM sitemon.runs WHERE alive_until < $1", &[&runs]).await?;
    Ok(Upkept { removed, ..Upkept::default() })
}

/// See [`Upkeep::Reclaim`]. The server's own cleaning makes room for reuse; this gives back what is free at the end.
async fn reclaim(session: &Session) -> Result<Upkept, Error> {
    let before = bytes(session).await?;
    for table in ["hour_blocks", "day_blocks", "hour_rollups", "day_rollups", "shapes", "evidence", "latest", "status"]
    {
        session.batch(&format!("VACUUM (ANALYZE) sitemon.{table}")).await?;
    }
    Ok(Upkept { freed_bytes: before.saturating_sub(bytes(session).await?), ..Upkept::default() })
}

/// Bytes of all our tables with their indexes.
pub(super) async fn bytes(session: &Session) -> Result<u64, Error> {
    let sql = "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c
               WHERE c.relnamespace = 'sitemon'::regnamespace AND c.relkind = 'r'";
    let row = session.first(sql, &[]).await?;
    Ok(row.map_or(0, |row| row.get::<_, i64>(0) as u64))
}
