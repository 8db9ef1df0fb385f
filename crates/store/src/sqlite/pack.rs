//! Puts down what was packed, and removes the arrivals that it was made of, in transactions of milliseconds between
//! which the writer appends.

use super::Error;
use super::chunk;
use super::read::Readers;
use super::rows::{RowOfArrivals, Rows, blocks, records_of_row, rollups, statement_of_row};
use super::writer::{State, Writer};
use crate::StoreError;
use crate::tables::pack::{Packed, PackedLatest};
use crate::tables::{Driver, Latest, Reader, Source, span};
use rusqlite::{TransactionBehavior, params};

/// Rows of arrivals that are removed in one transaction.
const REMOVED: usize = 500;

/// Reads beside the writer, and has it write.
#[derive(Debug)]
pub(super) struct Packing<'s> {
    pub(super) readers: &'s Readers,
    pub(super) writer: &'s Writer,
}

impl Source for Packing<'_> {
    type Tables = Rows;

    fn read<T>(&self, work: impl FnOnce(&mut Reader<Rows>) -> Result<T, Error>) -> Result<T, StoreError> {
        self.readers.read(work)
    }
}

impl Driver for Packing<'_> {
    type Mark = Vec<RowOfArrivals>;

    fn mark(&self, end: i64) -> Result<Self::Mark, StoreError> {
        self.read(|reader| {
            let rows = reader.tables.arrivals()?;
            Ok(rows.iter().filter(|row| row.first_slot < end).copied().collect())
        })
    }

    fn put(&self, packed: Packed) -> Result<(), StoreError> {
        self.writer.run_blocking(move |state| write(packed, state))
    }

    fn packed(&self, mark: &mut Self::Mark, before: i64) -> Result<(), StoreError> {
        let whole: Vec<RowOfArrivals> = mark.extract_if(.., |row| row.last_slot < before).collect();
        self.remove(&whole, before)
    }

    fn finish(&self, mark: Self::Mark, before: i64) -> Result<(), StoreError> {
        // Rows that have later ones too are written anew with those.
        self.remove(&mark, before)
    }
}

impl Packing<'_> {
    fn remove(&self, rows: &[RowOfArrivals], end: i64) -> Result<(), StoreError> {
        for rows in rows.chunks(REMOVED) {
            let rows = rows.to_vec();
            self.writer.run_blocking(move |state| remove(state, &rows, end))?;
        }
        Ok(())
    }
}

/// Removes rows that were packed up to `end`; of one that has later ones, those stay.
fn remove(state: &mut State, rows: &[RowOfArrivals], end: i64) -> Result<(), Error> {
    let transaction = state.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for row in rows {
        let kept = if row.last_slot < end {
            None
        } else {
            let mut records = Vec::new();
            let mut statement = statement_of_row(&transaction)?;
            let mut chunks = chunk::Decoder::new()?;
            records_of_row(
                &mut statement,
                &mut chunks,
                row,
                |entry| entry.slot >= end,
                |entry, record| {
                    records.push((entry, record.to_vec()));
                    Ok(())
                },
            )?;
            (!records.is_empty()).then_some(records)
        };
        match kept {
            None => {
                transaction.prepare_cached("DELETE FROM arrivals WHERE id = ?")?.execute([row.id])?;
            }
            Some(records) => {
                let kept = state.encoder.encode_again(&records)?;
                transaction
                    .prepare_cached(
                        "UPDATE arrivals SET count = ?, first_slot = ?, last_slot = ?, first_series = ?, last_series = ?,
                           directory = ?, body = ? WHERE id = ?",
                    )?
                    .execute(params![
                        kept.count as i64,
                        kept.first_slot,
                        kept.last_slot,
                        kept.first_series,
                        kept.last_series,
                        kept.directory,
                        kept.body,
                        row.id
                    ])?;
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

/// Puts the rows down in one transaction.
fn write(mut packed: Packed, state: &mut State) -> Result<(), Error> {
    packed.blocks.sort_by_key(|block| (block.span, block.index, block.series));
    packed.rollups.sort_by_key(|(span, index, series, _)| (*span, *index, *series));
    let transaction = state.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for (id, day, data) in &packed.shapes {
        transaction
            .prepare_cached(
                "INSERT INTO shapes(id, seen_day, data) VALUES(?, ?, ?)
                 ON CONFLICT DO UPDATE SET seen_day = max(seen_day, excluded.seen_day)",
            )?
            .execute(params![id, day, data])?;
    }
    for block in &packed.blocks {
        let sql = format!(
            "INSERT INTO {}(key, count, data) VALUES(?, ?, ?)
             ON CONFLICT DO UPDATE SET count = excluded.count, data = excluded.data",
            blocks(block.span)
        );
        transaction.prepare_cached(&sql)?.execute(params![
            span::key(block.index, block.series),
            block.count as i64,
            block.data
        ])?;
    }
    for (span, index, series) in &packed.emptied {
        let sql = format!("DELETE FROM {} WHERE key = ?", blocks(*span));
        transaction.prepare_cached(&sql)?.execute([span::key(*index, *series)])?;
    }
    let new = packed.blocks.iter().filter(|block| block.new).count() as i64 - packed.emptied.len() as i64;
    if new != 0 {
        add_to(&transaction, "blocks", new)?;
    }
    for (span, index, series, data) in &packed.rollups {
        let sql = format!(
            "INSERT INTO {}(key, data) VALUES(?, ?) ON CONFLICT DO UPDATE SET data = excluded.data",
            rollups(*span)
        );
        transaction.prepare_cached(&sql)?.execute(params![span::key(*index, *series), data])?;
    }
    for (slot, series, data) in &packed.evidence {
        match data {
            Some(data) => transaction
                .prepare_cached("INSERT OR REPLACE INTO evidence(slot, series, data) VALUES(?, ?, ?)")?
                .execute(params![slot, series, data])?,
            None => transaction
                .prepare_cached("DELETE FROM evidence WHERE slot = ? AND series = ?")?
                .execute([slot, series])?,
        };
    }
    for PackedLatest { series, latest, record } in &packed.latest {
        let Latest { held, reach_us, rolled } = latest;
        match record {
            Some(record) => transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO latest(series, slot, verdict, held_until, reach_us, rolled, record)
                     VALUES(?, ?, ?, ?, ?, ?, ?)",
                )?
                .execute(params![series, held.from.0, held.verdict, held.until.0, reach_us, rolled, record])?,
            None => transaction
                .prepare_cached("UPDATE latest SET reach_us = ?, rolled = ? WHERE series = ?")?
                .execute(params![reach_us, rolled, series])?,
        };
    }
    transaction.commit()?;
    Ok(())
}

/// Adds to a number about the file.
pub(super) fn add_to(connection: &rusqlite::Connection, name: &str, added: i64) -> Result<(), Error> {
    connection
        .prepare_cached(
            "INSERT INTO meta(name, value) VALUES(?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value",
        )?
        .execute(params![name, added])?;
    Ok(())
}
