//! Reads: connections of their own, each read under one snapshot of the database.

use super::rows::Rows;
use super::{Error, schema};
use crate::tables::{Ahead, Reader, Source};
use crate::{Measures, Run, RunStart, SiteRecord, StoreError};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _};
use sitemon_model::Timestamp;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a read waits where it must (only while the file is being made or recovered).
const BUSY: Duration = Duration::from_secs(5);
/// How the file is opened.
const FLAGS: OpenFlags = OpenFlags::SQLITE_OPEN_READ_ONLY.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);
/// Pages kept by a connection. Few: what is read is mostly passed over once, and the memory for more would first have to
/// be cleared by the system, which takes longer than reading the page again.
const CACHE_KIB: i64 = 4096;
/// Connections kept for the next read.
const IDLE: usize = 4;

/// The connections for reading.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Reader<Rows>>>,
    /// What the scan that is under way has read ahead.
    pub(super) ahead: Mutex<Option<Ahead>>,
    /// Closed after all of them.
    _database: Option<Arc<File>>,
}

impl Readers {
    /// Opens the first, so that what is wrong with the file is told now. `database` is the writer's descriptor.
    pub(super) fn open(path: &Path, database: Option<Arc<File>>) -> Result<Arc<Self>, StoreError> {
        let first = open(path).map_err(|error| error.of(path))?;
        let idle = Mutex::new(vec![first]);
        Ok(Arc::new(Self { path: path.to_owned(), idle, ahead: Mutex::new(None), _database: database }))
    }

    /// Closes the connections that nobody uses.
    pub(super) fn close(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Source for Readers {
    type Tables = Rows;

    fn read<T>(&self, work: impl FnOnce(&mut Reader<Rows>) -> Result<T, Error>) -> Result<T, StoreError> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle().pop();
        let mut reader = match kept {
            Some(reader) => reader,
            None => open(&self.path).map_err(|error| error.of(&self.path))?,
        };
        let done = snapshot(&mut reader, work);
        let mut idle = idle();
        if idle.len() < IDLE {
            idle.push(reader);
        }
        done.map_err(|error| error.of(&self.path))
    }
}

/// Whether the file is a database without tables, as one is for a moment that is being made. What cannot be read is
/// told by who opens it.
pub(super) fn is_empty(path: &Path) -> bool {
    matches!(connect(path), Ok((_, schema::Stand::Empty)))
}

/// Opens a connection, and looks what the file is.
///
/// To be read, a database needs its log beside it, which is made anew where it was closed well. Where no file can be
/// made, as on a read-only medium, and no log tells of somebody who writes, it is read as one that does not change.
fn connect(path: &Path) -> rusqlite::Result<(Connection, schema::Stand)> {
    let open = |path: &Path, flags| {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY)?;
        let stand = schema::stand(&connection)?;
        Ok((connection, stand))
    };
    let opened = open(path, FLAGS);
    let refused = |error: &rusqlite::Error| {
        matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly))
    };
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    match opened {
        Err(error) if refused(&error) && path.is_file() && !Path::new(&log).exists() => {
            open(Path::new(&unchanging(path)), FLAGS | OpenFlags::SQLITE_OPEN_URI)
        }
        opened => opened,
    }
}

/// The address of a file that does not change while it is read: <https://sqlite.org/uri.html>.
fn unchanging(path: &Path) -> OsString {
    let mut address = b"file:".to_vec();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'%' | b'?' | b'#' => address.extend(format!("%{byte:02x}").bytes()),
            byte => address.push(*byte),
        }
    }
    address.extend(b"?immutable=1");
    OsString::from_vec(address)
}

/// Opens a connection for reading.
fn open(path: &Path) -> Result<Reader<Rows>, Error> {
    let (connection, stand) = connect(path)?;
    match stand {
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
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(Reader::new(Rows::new(connection)?))
}

/// Does `work` within one read transaction.
fn snapshot<T>(
    reader: &mut Reader<Rows>,
    work: impl FnOnce(&mut Reader<Rows>) -> Result<T, Error>,
) -> Result<T, Error> {
    reader.tables.renew();
    reader.tables.connection.execute_batch("BEGIN")?;
    let done = reader.refresh().and_then(|()| work(reader));
    let ended = reader.tables.connection.execute_batch("ROLLBACK");
    let done = done?;
    ended?;
    Ok(done)
}

impl Rows {
    /// See [`crate::Store::position`].
    pub(super) fn position(&self, source: &str) -> Result<u64, Error> {
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
}
