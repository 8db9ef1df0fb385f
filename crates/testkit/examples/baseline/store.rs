//! Rows of observations in `SQLite`, as one writes them at first: a table, and an insert for each.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::Result;
use rusqlite::{Connection, params};

/// As Sitemon's `store.flush`.
const FLUSH: Duration = Duration::from_millis(200);

/// One check. The columns are those of the aiohttp client.
pub struct Row {
    pub site: String,
    /// Seconds since the epoch.
    pub due: f64,
    pub started: f64,
    pub status: u16,
    pub matched: bool,
    /// Seconds.
    pub took: f64,
}

/// Inserts what comes until the senders are gone; returns how many rows there were, and how many did not match.
pub fn write(path: &Path, rows: &Receiver<Row>) -> Result<(u64, u64)> {
    let mut database = Connection::open(path)?;
    database.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE observations (site TEXT, due REAL, started REAL, status INTEGER, matched INTEGER, took REAL)",
    )?;
    let (mut stored, mut bad, mut open) = (0, 0, true);
    while open {
        std::thread::sleep(FLUSH);
        let transaction = database.transaction()?;
        {
            let mut insert = transaction.prepare_cached("INSERT INTO observations VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
            loop {
                match rows.recv_timeout(Duration::ZERO) {
                    Ok(row) => {
                        insert.execute(params![row.site, row.due, row.started, row.status, row.matched, row.took])?;
                        stored += 1;
                        bad += u64::from(!row.matched);
                    }
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => {
                        open = false;
                        break;
                    }
                }
            }
        }
        transaction.commit()?;
    }
    Ok((stored, bad))
}
