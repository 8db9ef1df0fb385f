//! `sqlite`: embedded, in one file, without a server.
//!
//! One thread of its own writes ([`writer`]); reads have connections of their own that never wait for it
//! ([`read`]). Arrivals lie as rows of several observations ([`chunk`]) until they are packed into blocks
//! ([`pack`]); what both mean is said in [`crate::tables`].

mod chunk;
mod lock;
mod pack;
mod prune;
mod read;
mod rows;
mod schema;
#[cfg(test)]
mod tests;
mod writer;

use crate::tables::pack::Packer;
use crate::tables::{Ahead, Damaged, Reader, Source as _};
use crate::{
    Access, Advance, Config, Kind, Measures, Page, RollupQuery, Run, RunStart, Scan, SiteOverview, SiteRecord,
    SiteRollup, Store, StoreError, Upkeep, Upkept, Window,
};
use async_trait::async_trait;
use pack::Packing;
use read::Readers;
use rows::Rows;
use rusqlite::ffi::SQLITE_IOERR_WRITE;
use sitemon_model::tree::{Faults, Fields};
use sitemon_model::{Observation, Timestamp};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use writer::Writer;

/// `sqlite`
pub const KIND: Kind =
    Kind { name: "sqlite", about: "Embedded, in one file; one process writes, any number read.", parse, schema };

/// The file where none is named.
const PATH: &str = "sitemon.db";

fn parse(fields: &mut Fields<'_>, base: &Path, faults: &mut Faults) -> Option<Box<dyn Config>> {
    let path = match fields.take("path") {
        None => PathBuf::from(PATH),
        Some(at) => {
            let text = at.str(faults)?;
            if text.is_empty() {
                at.expected(faults, "the path of a file");
                return None;
            }
            PathBuf::from(text)
        }
    };
    Some(Box::new(Options { path: base.join(path) }))
}

fn schema() -> serde_json::Map<String, serde_json::Value> {
    let about = "The database's file; a relative path is relative to the file that it stands in.";
    let path = serde_json::json!({"type": "string", "default": PATH, "minLength": 1, "description": about});
    serde_json::Map::from_iter([("path".to_owned(), path)])
}

/// The keys of `store` with `kind: sqlite`.
#[derive(Debug, Clone)]
struct Options {
    path: PathBuf,
}

#[async_trait]
impl Config for Options {
    fn kind(&self) -> &'static str {
        KIND.name
    }

    fn show(&self) -> serde_json::Map<String, serde_json::Value> {
        serde_json::Map::from_iter([("path".to_owned(), self.path.to_string_lossy().into())])
    }

    async fn open(&self, access: Access) -> Result<Arc<dyn Store>, StoreError> {
        let path = self.path.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let writer = match access {
                Access::Read => None,
                Access::Write(command) => Some(Arc::new(Writer::open(&path, command)?)),
            };
            let readers = Readers::open(&path, writer.as_ref().and_then(|writer| writer.database()))?;
            Ok(Sqlite { path, readers, writer, packer: Arc::default() })
        });
        Ok(Arc::new(joined(opened).await?))
    }

    async fn exists(&self) -> Result<bool, StoreError> {
        match self.path.metadata() {
            Ok(found) if found.len() == 0 => Ok(false),
            Ok(_) => {
                let path = self.path.clone();
                joined(tokio::task::spawn_blocking(move || Ok(!read::is_empty(&path)))).await
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::Unusable(format!("cannot read {}: {error}", self.path.display()))),
        }
    }
}

/// The outcome of work on a thread for blocking work.
async fn joined<T>(task: tokio::task::JoinHandle<Result<T, StoreError>>) -> Result<T, StoreError> {
    task.await.unwrap_or_else(|error| Err(StoreError::Unavailable(format!("the store's work was ended: {error}"))))
}

/// The store that is open.
#[derive(Debug)]
struct Sqlite {
    path: PathBuf,
    readers: Arc<Readers>,
    writer: Option<Arc<Writer>>,
    /// What packing remembers; upkeep is done by one at a time.
    packer: Arc<tokio::sync::Mutex<Packer>>,
}

impl Sqlite {
    fn writer(&self) -> Result<&Arc<Writer>, StoreError> {
        let refused = || StoreError::Unusable(format!("{} is open for reading only", self.path.display()));
        self.writer.as_ref().ok_or_else(refused)
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Reader<Rows>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let readers = self.readers.clone();
        joined(tokio::task::spawn_blocking(move || readers.read(work))).await
    }
}

#[async_trait]
impl Store for Sqlite {
    async fn append(&self, batch: Vec<Arc<Observation>>, advance: Option<Advance>) -> Result<(), StoreError> {
        self.writer()?.run(move |state| state.append(&batch, advance.as_ref())).await
    }

    async fn position(&self, source: &str) -> Result<u64, StoreError> {
        let source = source.to_owned();
        self.read(move |reader| reader.tables.position(&source)).await
    }

    async fn scan(&self, scan: &Scan) -> Result<Page, StoreError> {
        let (readers, scan) = (self.readers.clone(), scan.clone());
        joined(tokio::task::spawn_blocking(move || Ahead::scan(&*readers, &readers.ahead, &scan))).await
    }

    async fn latest(&self) -> Result<Vec<Arc<Observation>>, StoreError> {
        self.read(Reader::latest).await
    }

    async fn rollups(&self, query: &RollupQuery) -> Result<Vec<SiteRollup>, StoreError> {
        let query = query.clone();
        self.read(move |reader| reader.rollups(&query)).await
    }

    async fn summary(&self, query: &Window) -> Result<Vec<SiteRollup>, StoreError> {
        let query = query.clone();
        self.read(move |reader| reader.summary(&query)).await
    }

    async fn overview(&self, query: &Window) -> Result<Vec<SiteOverview>, StoreError> {
        let query = query.clone();
        self.read(move |reader| reader.overview(&query)).await
    }

    async fn since(&self, of: &[(Arc<str>, Arc<str>)]) -> Result<Vec<Option<Timestamp>>, StoreError> {
        let of = of.to_vec();
        self.read(move |reader| reader.since(&of)).await
    }

    async fn sites(&self) -> Result<Vec<SiteRecord>, StoreError> {
        self.read(|reader| reader.tables.sites()).await
    }

    async fn save_sites(&self, origin: &str, sites: Vec<SiteRecord>) -> Result<(), StoreError> {
        let origin = origin.to_owned();
        self.writer()?.run(move |state| state.save_sites(&origin, &sites)).await
    }

    async fn maintain(&self, upkeep: Upkeep) -> Result<Upkept, StoreError> {
        let (readers, writer) = (self.readers.clone(), self.writer()?.clone());
        let mut packer = self.packer.clone().lock_owned().await;
        let work = move || match upkeep {
            Upkeep::Pack { now, everything } => {
                packer.pack(&Packing { readers: &readers, writer: &writer }, now.0, everything)
            }
            Upkeep::Prune { now, retention } => prune::prune(&writer, now, &retention),
            Upkeep::Reclaim => prune::reclaim(&writer),
        };
        joined(tokio::task::spawn_blocking(work)).await
    }

    async fn begin_run(&self, run: &RunStart) -> Result<i64, StoreError> {
        let run = run.clone();
        self.writer()?.run(move |state| state.begin_run(&run)).await
    }

    async fn touch_run(&self, run: i64, at: Timestamp, ended: Option<&str>) -> Result<(), StoreError> {
        let ended = ended.map(str::to_owned);
        self.writer()?.run(move |state| state.touch_run(run, at, ended.as_deref())).await
    }

    async fn runs(&self, from: Timestamp, to: Timestamp) -> Result<Vec<Run>, StoreError> {
        self.read(move |reader| reader.tables.runs(from, to)).await
    }

    async fn measure(&self) -> Result<Measures, StoreError> {
        self.read(|reader| reader.tables.measure()).await
    }

    async fn close(&self) {
        // The writer's connection is the last, so that it can bring the write-ahead log into the database.
        self.readers.close();
        if let Some(writer) = &self.writer {
            writer.close().await;
        }
    }
}

/// What goes wrong inside; it gets the file's name where it leaves.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
    #[error("compression failed: {0}")]
    Compression(#[from] std::io::Error),
    #[error("damaged {0}")]
    Damaged(&'static str),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<Damaged> for Error {
    fn from(Damaged(what): Damaged) -> Self {
        Self::Damaged(what)
    }
}

impl Error {
    /// What it is to the caller. Locked, full and failing disks are worth another try; the rest is not: what the
    /// database says about itself that cannot be true is damage.
    fn of(self, path: &Path) -> StoreError {
        use rusqlite::ErrorCode as Code;
        let shown = path.display();
        let error = match self {
            Self::Store(error) => return error,
            Self::Damaged(what) => return StoreError::Damaged(format!("{shown} is damaged: {what} cannot be read")),
            Self::Compression(error) => return StoreError::Unavailable(format!("cannot use {shown}: {error}")),
            Self::Sql(error) => error,
        };
        let grows_no_more = || error.sqlite_error().is_some_and(|error| error.extended_code == SQLITE_IOERR_WRITE);
        match error.sqlite_error_code() {
            Some(Code::DatabaseBusy | Code::DatabaseLocked) => {
                StoreError::Unavailable(format!("{shown} is locked by another program"))
            }
            Some(Code::DiskFull) => StoreError::Unavailable(format!("no space left for {shown}")),
            Some(Code::SystemIoFailure) if grows_no_more() => StoreError::Unavailable(format!(
                "the system does not let {shown} grow: a limit of the size of files, a quota, or a failing disk"
            )),
            Some(Code::CannotOpen) => StoreError::Unusable(format!("cannot open {shown}: {error}")),
            Some(Code::ReadOnly | Code::PermissionDenied) => {
                StoreError::Unusable(format!("cannot write {shown}: {error}"))
            }
            Some(Code::DatabaseCorrupt | Code::NotADatabase) => {
                StoreError::Damaged(format!("{shown} is damaged, or no database: {error}"))
            }
            Some(Code::ConstraintViolation | Code::TypeMismatch | Code::Unknown) | None => {
                StoreError::Damaged(format!("{shown} is damaged: {error}"))
            }
            _ => StoreError::Unavailable(format!("cannot use {shown}: {error}")),
        }
    }
}
