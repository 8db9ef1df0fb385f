//! Removes what is past its retention, and gives freed space back.

use super::Error;
use super::pack::add_to;
use super::rows::{blocks, rollups};
use super::writer::{State, Writer};
use crate::tables::span::{self, Span};
use crate::{Retention, StoreError, Upkept};
use rusqlite::{TransactionBehavior, params};
use sitemon_model::Timestamp;
use sitemon_model::time::{DAY, micros};

/// Rows that are removed in one transaction: the writer appends between two of them.
const SLICE: i64 = 500;
/// Pages that are given back in one transaction.
const PAGES: i64 = 256;

/// See [`crate::Upkeep::Prune`].
pub(super) fn prune(writer: &Writer, now: Timestamp, retention: &Retention) -> Result<Upkept, StoreError> {
    // Whole days, so that a block goes when all that it can hold is past.
    let before = |kept| now.plus(-i64::try_from(micros(kept)).unwrap_or(i64::MAX)).floor(DAY).0;
    let observations = before(retention.observations);
    let mut done = Upkept::default();
    // First, so that what arrives later than that is not packed again into what is going.
    writer.run_blocking(move |state| {
        let sql = "INSERT INTO meta(name, value) VALUES('pruned', ?)
                   ON CONFLICT DO UPDATE SET value = max(value, excluded.value)";
        Ok(state.connection.prepare_cached(sql)?.execute([observations])?)
    })?;
    for span in Span::ALL {
        let end = span::key(span.index(observations), 0);
        let removed = sliced(writer, blocks(span), end)?;
        done.removed += removed;
        if removed > 0 {
            writer.run_blocking(move |state| add_to(&state.connection, "blocks", -(removed as i64)))?;
        }
    }
    done.removed += sliced(writer, rollups(Span::Hour), span::key(Span::Hour.index(before(retention.hour)), 0))?;
    done.removed += sliced(writer, rollups(Span::Day), span::key(Span::Day.index(before(retention.day)), 0))?;
    let evidence = before(retention.evidence).max(observations);
    done.removed += repeated(writer, move |state| {
        let sql =
            "DELETE FROM evidence WHERE (slot, series) IN (SELECT slot, series FROM evidence WHERE slot < ? LIMIT ?)";
        Ok(state.connection.prepare_cached(sql)?.execute(params![evidence, SLICE])? as u64)
    })?;
    let day = Span::Day.index(observations);
    done.removed += repeated(writer, move |state| {
        let sql = "DELETE FROM shapes WHERE id IN (SELECT id FROM shapes WHERE seen_day < ? LIMIT ?)";
        Ok(state.connection.prepare_cached(sql)?.execute(params![day, SLICE])? as u64)
    })?;
    let runs = before(retention.day);
    done.removed += repeated(writer, move |state| {
        let sql = "DELETE FROM runs WHERE id IN (SELECT id FROM runs WHERE alive_until < ? LIMIT ?)";
        Ok(state.connection.prepare_cached(sql)?.execute(params![runs, SLICE])? as u64)
    })?;
    Ok(done)
}

/// Removes the rows before a key.
fn sliced(writer: &Writer, table: &'static str, end: i64) -> Result<u64, StoreError> {
    repeated(writer, move |state| {
        let sql =
            format!("DELETE FROM {table} WHERE key IN (SELECT key FROM {table} WHERE key < ? ORDER BY key LIMIT ?)");
        Ok(state.connection.prepare_cached(&sql)?.execute([end, SLICE])? as u64)
    })
}

/// Repeats a slice until it removes nothing more.
fn repeated(
    writer: &Writer,
    slice: impl Fn(&mut State) -> Result<u64, Error> + Clone + Send + 'static,
) -> Result<u64, StoreError> {
    let mut removed = 0;
    loop {
        let now = writer.run_blocking(slice.clone())?;
        removed += now;
        if now < SLICE as u64 {
            return Ok(removed);
        }
    }
}

/// See [`crate::Upkeep::Reclaim`].
pub(super) fn reclaim(writer: &Writer) -> Result<Upkept, StoreError> {
    let pages = |state: &State| -> Result<i64, Error> {
        Ok(state.connection.query_row("PRAGMA page_count", [], |row| row.get(0))?)
    };
    let (before, page) = writer.run_blocking(move |state| {
        let page: i64 = state.connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
        Ok((pages(state)?, page))
    })?;
    loop {
        let (freed, left) = writer.run_blocking(move |state| {
            let before = pages(state)?;
            let transaction = state.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            {
                // Each row that it answers with is a page given back.
                let mut statement = transaction.prepare(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
                let mut rows = statement.query([])?;
                while rows.next()?.is_some() {}
            }
            transaction.commit()?;
            let left: i64 = state.connection.query_row("PRAGMA freelist_count", [], |row| row.get(0))?;
            Ok((before - pages(state)?, left))
        })?;
        if freed <= 0 || left == 0 {
            break;
        }
    }
    let after = writer.run_blocking(move |state| {
        state.checkpoint()?;
        pages(state)
    })?;
    Ok(Upkept { freed_bytes: (before - after).max(0) as u64 * page as u64, ..Upkept::default() })
}
