//! The baseline: a row for each observation, with a primary key and the same durability as Sitemon's store. Only
//! numbers are kept, no address, no certificate: that is to its advantage.

use rusqlite::{Connection, params};
use sitemon_model::{Observation, Phase};
use std::path::Path;
use std::sync::Arc;

pub struct Plain(Connection);

impl Plain {
    pub fn open(file: &Path) -> rusqlite::Result<Self> {
        let connection = Connection::open(file)?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE observations(
                site TEXT NOT NULL, location TEXT NOT NULL, scheduled_at INTEGER NOT NULL, started_at INTEGER,
                interval_us INTEGER NOT NULL, verdict INTEGER NOT NULL, response_time_us INTEGER, status INTEGER,
                dns_us INTEGER, connect_us INTEGER, tls_us INTEGER, send_us INTEGER, wait_us INTEGER,
                receive_us INTEGER, wire_bytes INTEGER, decoded_bytes INTEGER,
                PRIMARY KEY(site, location, scheduled_at)) WITHOUT ROWID",
        )?;
        Ok(Self(connection))
    }

    /// One transaction.
    pub fn append(&mut self, batch: &[Arc<Observation>]) -> rusqlite::Result<()> {
        let transaction = self.0.transaction()?;
        {
            let mut insert = transaction.prepare_cached(
                "INSERT OR IGNORE INTO observations VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16)",
            )?;
            for o in batch {
                let us = |phase| o.hops.first().and_then(|hop| hop.phases.get(phase)).map(|time| time.us as i64);
                insert.execute(params![
                    &*o.site,
                    &*o.location,
                    o.scheduled_at.0,
                    o.started_at.map(|at| at.0),
                    o.interval_us as i64,
                    o.verdict.number(),
                    o.response_time_us.map(|us| us as i64),
                    o.status,
                    us(Phase::Dns),
                    us(Phase::Connect),
                    us(Phase::Tls),
                    us(Phase::Send),
                    us(Phase::Wait),
                    us(Phase::Receive),
                    o.body.map(|body| body.wire_bytes as i64),
                    o.body.map(|body| body.decoded_bytes as i64),
                ])?;
            }
        }
        transaction.commit()
    }

    pub fn count(&self) -> rusqlite::Result<u64> {
        self.0.query_row("SELECT count(*) FROM observations", [], |row| row.get::<_, i64>(0)).map(|count| count as u64)
    }
}
