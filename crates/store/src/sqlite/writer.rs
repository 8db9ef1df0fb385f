//! The one writer: a thread with the only connection that writes, and a bounded queue of work for it.

use super::chunk::{CHUNK, Encoder};
use super::{Error, lock, schema};
use crate::tables::span::SERIES_MAX;
use crate::{Advance, RunStart, SiteRecord, StoreError};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Transaction, TransactionBehavior, params};
use sitemon_model::{Observation, Timestamp, time};
use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Pieces of work that wait for the writer before who brings more must wait.
const QUEUE: usize = 64;
/// How long a transaction waits for another program's lock before it fails and is tried again by the caller.
const BUSY: Duration = Duration::from_secs(1);
/// Bytes of a page. Large, because a block of an hour at 15 s is 2 to 3 KB, and what does not fit whole into
/// the rest of a page leaves it empty.
const PAGE: i64 = 16_384;
/// Pages in the write-ahead log after which it is brought into the database.
const CHECKPOINT_PAGES: i64 = 512;
/// Bytes that the write-ahead log is cut back to.
const JOURNAL_BYTES: i64 = 64 << 20;

/// Work for the writer's thread.
type Work = Box<dyn FnOnce(&mut State) + Send>;

/// The writer's thread, and the lock that makes it the only one.
#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    /// Taken when it is closed.
    queue: Mutex<Option<mpsc::Sender<Work>>>,
    /// See [`lock::Lock::database`].
    database: Option<Arc<File>>,
    /// Ends when the thread has closed the file.
    ended: tokio::sync::Mutex<Option<oneshot::Receiver<()>>>,
}

/// What the thread owns.
#[derive(Debug)]
pub(super) struct State {
    /// The only connection that writes.
    pub(super) connection: Connection,
    path: PathBuf,
    /// Device and number of the file that is open.
    file: (u64, u64),
    /// The ids of site and location, all that were ever seen.
    series: HashMap<Arc<str>, Vec<(Arc<str>, i64)>>,
    /// Makes rows of arrivals.
    pub(super) encoder: Encoder,
}

impl Writer {
    /// Takes the lock, opens or makes the file, brings it up to date.
    pub(super) fn open(path: &Path, command: &str) -> Result<Self, StoreError> {
        if let Some(folder) = path.parent()
            && !folder.as_os_str().is_empty()
        {
            std::fs::create_dir_all(folder).map_err(|error| {
                StoreError::Unusable(format!("cannot make the folder {}: {error}", folder.display()))
            })?;
        }
        let lock = lock::take(path, command)?;
        let database = lock.database();
        let mut state = State::open(path).map_err(|error| error.of(path))?;
        let (queue, mut work) = mpsc::channel::<Work>(QUEUE);
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                while let Some(work) = work.blocking_recv() {
                    work(&mut state);
                }
                // As far as no reader is in its way; what stays is read from the log as well.
                let _ = state.checkpoint();
                drop(state);
                drop(lock);
                let _ = end.send(());
            })
            .map_err(|error| StoreError::Unavailable(format!("cannot start the store's thread: {error}")))?;
        let (queue, ended) = (Mutex::new(Some(queue)), tokio::sync::Mutex::new(Some(ended)));
        Ok(Self { path: path.to_owned(), queue, database, ended })
    }

    /// The database's descriptor, to be closed after the last connection of this process.
    pub(super) fn database(&self) -> Option<Arc<File>> {
        self.database.clone()
    }

    /// Does a piece of work on the writer's thread.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (work, done) = self.prepare(work);
        let closed = || StoreError::Unavailable(format!("{} is closed", self.path.display()));
        self.queue().ok_or_else(closed)?.send(work).await.map_err(|_| closed())?;
        done.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Does a piece of work on the writer's thread, for threads that may wait.
    pub(super) fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (work, done) = self.prepare(work);
        let closed = || StoreError::Unavailable(format!("{} is closed", self.path.display()));
        self.queue().ok_or_else(closed)?.blocking_send(work).map_err(|_| closed())?;
        done.blocking_recv().unwrap_or_else(|_| Err(closed()))
    }

    /// Packs work and the way of its result.
    fn prepare<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State) -> Result<T, Error> + Send + 'static,
    ) -> (Work, oneshot::Receiver<Result<T, StoreError>>) {
        let (answer, done) = oneshot::channel();
        let path = self.path.clone();
        let work = move |state: &mut State| {
            let _ = answer.send(work(state).map_err(|error| error.of(&path)));
        };
        (Box::new(work), done)
    }

    fn queue(&self) -> Option<mpsc::Sender<Work>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets what was accepted be done, then closes the file.
    pub(super) async fn close(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(ended) = self.ended.lock().await.take() {
            let _ = ended.await;
        }
    }
}

impl State {
    fn open(path: &Path) -> Result<Self, Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY)?;
        let from = match schema::stand(&connection)? {
            schema::Stand::Empty => {
                // Both must stand before the first table does.
                connection.pragma_update(None, "page_size", PAGE)?;
                connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
                0
            }
            schema::Stand::Ours(found) if found > schema::VERSION => {
                let path = path.display().to_string();
                return Err(StoreError::Newer { path, found, known: schema::VERSION }.into());
            }
            schema::Stand::Ours(found) => found,
            schema::Stand::Foreign => {
                let told = format!("{} is another program's database", path.display());
                return Err(StoreError::Damaged(told).into());
            }
        };
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        connection.pragma_update(None, "journal_size_limit", JOURNAL_BYTES)?;
        connection.pragma_update(None, "cache_size", -32_768)?;
        connection.set_prepared_statement_cache_capacity(64);
        schema::migrate(&mut connection, from)?;
        let mut series: HashMap<Arc<str>, Vec<(Arc<str>, i64)>> = HashMap::new();
        {
            let mut statement = connection.prepare("SELECT site, location, id FROM series")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                series.entry(row.get(0)?).or_default().push((row.get(1)?, row.get(2)?));
            }
        }
        let file =
            identity(path).map_err(|error| StoreError::Unusable(format!("cannot read {}: {error}", path.display())))?;
        Ok(Self { connection, path: path.to_owned(), file, series, encoder: Encoder::new()? })
    }

    /// Fails where the file has been removed or replaced since: it could be written to all the same, and nobody would
    /// ever read it.
    fn still_there(&self) -> Result<(), Error> {
        match identity(&self.path) {
            Ok(found) if found == self.file => Ok(()),
            Err(error) if error.kind() != ErrorKind::NotFound => Ok(()),
            _ => {
                let told = format!("{} was removed or replaced while it was in use", self.path.display());
                Err(StoreError::Unusable(told).into())
            }
        }
    }

    /// Brings the write-ahead log into the database and cuts it off, as far as no reader needs it.
    pub(super) fn checkpoint(&self) -> Result<(), Error> {
        Ok(self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?)
    }

    /// See [`crate::Store::append`].
    pub(super) fn append(&mut self, batch: &[Arc<Observation>], advance: Option<&Advance>) -> Result<(), Error> {
        self.still_there()?;
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if let Some(advance) = advance {
            move_position(&transaction, advance)?;
        }
        // Ids given in this transaction are known to others only once it stands.
        let mut given: HashMap<(&Arc<str>, &Arc<str>), i64> = HashMap::new();
        let mut items: Vec<(i64, &Observation)> = Vec::with_capacity(batch.len());
        for observation in batch {
            let known = self
                .series
                .get(&observation.site)
                .and_then(|locations| locations.iter().find(|(location, _)| *location == observation.location))
                .map(|(_, id)| *id)
                .or_else(|| given.get(&(&observation.site, &observation.location)).copied());
            let id = if let Some(id) = known {
                id
            } else {
                let id = series_id(&transaction, &observation.site, &observation.location)?;
                given.insert((&observation.site, &observation.location), id);
                id
            };
            items.push((id, observation));
        }
        items.sort_by_key(|(series, observation)| (*series, observation.scheduled_at));
        {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO arrivals(count, first_slot, last_slot, first_series, last_series, directory, body)
                 VALUES(?, ?, ?, ?, ?, ?, ?)",
            )?;
            for items in items.chunks(CHUNK) {
                let row = self.encoder.encode(items)?;
                insert.execute(params![
                    row.count as i64,
                    row.first_slot,
                    row.last_slot,
                    row.first_series,
                    row.last_series,
                    row.directory,
                    row.body
                ])?;
            }
        }
        transaction.commit()?;
        for ((site, location), id) in given {
            self.series.entry(site.clone()).or_default().push((location.clone(), id));
        }
        Ok(())
    }

    /// See [`crate::Store::save_sites`].
    pub(super) fn save_sites(&mut self, origin: &str, sites: &[SiteRecord]) -> Result<(), Error> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute("UPDATE sites SET present = 0 WHERE origin = ? AND present", [origin])?;
        {
            let mut save = transaction.prepare_cached(
                "INSERT INTO sites(name, origin, url, kind, enabled, interval_us, labels, present)
                 VALUES(?, ?, ?, ?, ?, ?, ?, ?)
                 ON CONFLICT(name) DO UPDATE SET origin = excluded.origin, url = excluded.url, kind = excluded.kind,
                   enabled = excluded.enabled, interval_us = excluded.interval_us, labels = excluded.labels,
                   present = excluded.present",
            )?;
            for site in sites {
                let labels: serde_json::Map<String, serde_json::Value> =
                    site.labels.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
                save.execute(params![
                    site.name,
                    origin,
                    site.url,
                    site.kind,
                    site.enabled,
                    time::micros(site.interval) as i64,
                    serde_json::Value::Object(labels).to_string(),
                    site.present
                ])?;
            }
        }
        transaction.commit()?;
        // The pages of the sites are not wanted again soon, and with many sites there is nothing else in the cache.
        Ok(self.connection.execute_batch("PRAGMA shrink_memory")?)
    }

    /// See [`crate::Store::begin_run`].
    pub(super) fn begin_run(&mut self, run: &RunStart) -> Result<i64, Error> {
        self.connection.execute(
            "INSERT INTO runs(started, location, pid, version, alive_until) VALUES(?1, ?2, ?3, ?4, ?1)",
            params![run.at.0, run.location, run.pid, run.version],
        )?;
        Ok(self.connection.last_insert_rowid())
    }

    /// See [`crate::Store::touch_run`].
    pub(super) fn touch_run(&mut self, run: i64, at: Timestamp, ended: Option<&str>) -> Result<(), Error> {
        self.connection
            .prepare_cached(
                "UPDATE runs SET alive_until = max(alive_until, ?), ended = coalesce(?, ended) WHERE id = ?",
            )?
            .execute(params![at.0, ended, run])?;
        Ok(())
    }
}

/// What tells a file from another of the same name.
fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    std::fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

/// Moves the position of a source, where it stands as expected.
fn move_position(transaction: &Transaction<'_>, advance: &Advance) -> Result<(), Error> {
    let found: Option<i64> = transaction
        .prepare_cached("SELECT next FROM positions WHERE source = ?")?
        .query_row([&advance.source], |row| row.get(0))
        .optional()?;
    let found = found.unwrap_or_default() as u64;
    if found != advance.expected {
        let (source_name, expected) = (advance.source.clone(), advance.expected);
        return Err(StoreError::Fenced { source_name, expected, found }.into());
    }
    transaction
        .prepare_cached(
            "INSERT INTO positions(source, next) VALUES(?, ?) ON CONFLICT DO UPDATE SET next = excluded.next",
        )?
        .execute(params![advance.source, advance.next as i64])?;
    Ok(())
}

/// The id of a series that was not seen before.
fn series_id(transaction: &Transaction<'_>, site: &str, location: &str) -> Result<i64, Error> {
    transaction.prepare_cached("INSERT INTO series(site, location) VALUES(?, ?)")?.execute([site, location])?;
    let id = transaction.last_insert_rowid();
    if id > SERIES_MAX {
        let told = format!("no more than {SERIES_MAX} pairs of site and location can be stored");
        return Err(StoreError::Unusable(told).into());
    }
    Ok(id)
}
