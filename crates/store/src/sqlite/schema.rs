//! The tables, and how an older file is brought up to date.
//!
//! To change a table: append a migration; the numbers of those that stand are never reused. A file says its
//! version in `user_version`, and whose it is in `application_id`, both readable without opening a table.

use rusqlite::{Connection, TransactionBehavior};

/// `SmOn`, in the file's header.
const APPLICATION: i64 = 0x536d_4f6e;

/// The migrations, the first makes version 1.
const MIGRATIONS: &[&str] = &["
    -- Numbers about the file itself.
    CREATE TABLE meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    -- A site at a location; its id is its place in every key below.
    CREATE TABLE series(id INTEGER PRIMARY KEY, site TEXT NOT NULL, location TEXT NOT NULL, UNIQUE(site, location));
    -- Observations as they came; each row holds several of one transaction.
    CREATE TABLE arrivals(
        id INTEGER PRIMARY KEY, count INTEGER NOT NULL, first_slot INTEGER NOT NULL, last_slot INTEGER NOT NULL,
        first_series INTEGER NOT NULL, last_series INTEGER NOT NULL, directory BLOB NOT NULL, body BLOB NOT NULL);
    -- key: number of the hour (or day) since 1970, times 2^28, plus the id of the series. So packing appends at
    -- the end, a span of time over all sites lies together, and one site's span is found by its key.
    CREATE TABLE hour_blocks(key INTEGER PRIMARY KEY, count INTEGER NOT NULL, data BLOB NOT NULL);
    CREATE TABLE day_blocks(key INTEGER PRIMARY KEY, count INTEGER NOT NULL, data BLOB NOT NULL);
    CREATE TABLE hour_rollups(key INTEGER PRIMARY KEY, data BLOB NOT NULL);
    CREATE TABLE day_rollups(key INTEGER PRIMARY KEY, data BLOB NOT NULL);
    -- What blocks have in common: the parts of observations that hardly change. id: hash of the bytes.
    CREATE TABLE shapes(id INTEGER PRIMARY KEY, seen_day INTEGER NOT NULL, data BLOB NOT NULL);
    -- The latest packed observation by the schedule of each series; reach_us is the longest that any of its
    -- verdicts held, rolled the instant up to which its statistics are written.
    CREATE TABLE latest(
        series INTEGER PRIMARY KEY, slot INTEGER NOT NULL, verdict INTEGER NOT NULL, held_until INTEGER NOT NULL,
        reach_us INTEGER NOT NULL, rolled INTEGER NOT NULL, record BLOB NOT NULL);
    CREATE TABLE evidence(slot INTEGER NOT NULL, series INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY(slot, series))
        WITHOUT ROWID;
    CREATE TABLE positions(source TEXT PRIMARY KEY, next INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE sites(
        name TEXT PRIMARY KEY, origin TEXT NOT NULL, url TEXT NOT NULL, kind TEXT NOT NULL, enabled INTEGER NOT NULL,
        interval_us INTEGER NOT NULL, labels TEXT NOT NULL, present INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE runs(
        id INTEGER PRIMARY KEY, started INTEGER NOT NULL, location TEXT NOT NULL, pid INTEGER NOT NULL,
        version TEXT NOT NULL, alive_until INTEGER NOT NULL, ended TEXT);
    CREATE INDEX runs_by_time ON runs(alive_until);
"];

/// The version that this program writes.
pub(super) const VERSION: u32 = MIGRATIONS.len() as u32;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stand {
    /// A database without anything in it.
    Empty,
    /// One of ours, with its version.
    Ours(u32),
    /// Another program's.
    Foreign,
}

/// What the file is that `connection` has open.
pub(super) fn stand(connection: &Connection) -> rusqlite::Result<Stand> {
    let application: i64 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(match application {
        APPLICATION => Stand::Ours(u32::try_from(version).unwrap_or(u32::MAX)),
        _ if tables == 0 && version == 0 => Stand::Empty,
        _ => Stand::Foreign,
    })
}

/// Brings the file up to [`VERSION`], each step in a transaction of its own.
pub(super) fn migrate(connection: &mut Connection, from: u32) -> rusqlite::Result<()> {
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(from as usize) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", index as i64 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}
