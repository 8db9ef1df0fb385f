//! `postgres`: a server of PostgreSQL 12 or newer, in a schema of our own, for any number of writers and readers.
//!
//! Arrivals lie as rows, in pieces by the time of their arrival ([`append`]); whoever holds an advisory lock packs the
//! closed ones into blocks ([`pack`]). What both mean is said in [`crate::tables`]. Functions in
//! the database unpack blocks (`schema/functions.sql`), so that all of it can be asked for in SQL.

mod append;
mod dsn;
mod pack;
mod rows;
mod schema;
mod session;
mod tls;

use crate::tables::pack::Packer;
use crate::tables::{Ahead, Reader, Source as _};
use crate::{
    Access, Advance, Config, Kind, Measures, Page, RollupQuery, Run, RunStart, Scan, SiteOverview, SiteRecord,
    SiteRollup, Store, StoreError, Upkeep, Upkept, Window,
};
use append::Writer;
use async_trait::async_trait;
use dsn::Target;
use rows::{Readers, Rows};
use serde_json::{Map, Value, json};
use session::{Error, Pool};
use sitemon_model::tree::{self, At, Faults, Fields, Node, is_path};
use sitemon_model::{Observation, Timestamp, time};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tls::Material;

/// `postgres`
pub const KIND: Kind =
    Kind { name: "postgres", about: "A server of PostgreSQL; any number write and read.", parse, schema: keys };

fn parse(fields: &mut Fields<'_>, base: &Path, faults: &mut Faults) -> Option<Box<dyn Config>> {
    let tls_at = fields.take("tls");
    let material = tls_at.as_ref().map(|at| read_tls(at, base, faults));
    let Some(at) = fields.take("dsn") else {
        fields.missing(faults, "dsn", "postgres://USER:PASSWORD@HOST:PORT/DATABASE");
        return None;
    };
    let text = at.str(faults)?;
    match dsn::read(text, material, base) {
        Ok(target) => {
            let keys = |at: At<'_>| {
                at.map(faults).all().map(|(key, at)| (key.name.to_string(), show_file(&at, base))).collect()
            };
            Some(Box::new(Options { target, tls: tls_at.map(keys) }))
        }
        Err(error) => {
            at.error(faults, error);
            None
        }
    }
}

fn read_tls(at: &At<'_>, base: &Path, faults: &mut Faults) -> Material {
    let mut fields = at.map(faults);
    let mut file = |name: &'static str, faults: &mut Faults| {
        let at = fields.take(name)?;
        let path = at.str(faults)?;
        let content = dsn::read_file(&base.join(path), may_be_told(at.node));
        content.map_err(|message| at.error(faults, message)).ok()
    };
    let (ca, certificate, key) = (file("ca", faults), file("certificate", faults), file("key", faults));
    fields.finish(faults);
    if certificate.is_some() != key.is_some() && !faults.any_errors() {
        at.error(faults, "`certificate` and `key` belong together, expected both");
    }
    Material { ca, identity: certificate.zip(key) }
}

/// Whether what stands where a path is expected looks like one, and not like the key itself.
fn may_be_told(node: &Node) -> bool {
    matches!(&node.value, tree::Value::Scalar { text, .. } if !node.secret && is_path(text))
}

/// The path of a file, to be read again wherever it is kept.
fn show_file(at: &At<'_>, base: &Path) -> Value {
    match &at.node.value {
        tree::Value::Scalar { text, .. } if may_be_told(at.node) => {
            let path = base.join(&**text);
            std::path::absolute(&path).unwrap_or(path).to_string_lossy().into()
        }
        _ => "(hidden)".into(),
    }
}

fn keys() -> Map<String, Value> {
    let file = |about: &str| json!({"type": "string", "minLength": 1, "description": about});
    let dsn = json!({
        "type": "string", "minLength": 1,
        "description": "Where and as whom: `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, or `host=... user=...`, as libpq \
            reads it. `sslmode` (also `ssl`) is one of disable, allow, prefer, require, verify-ca, verify-full; `prefer` \
            unless `tls.ca` is given, then `verify-full`.",
    });
    let tls = json!({
        "type": "object", "additionalProperties": false,
        "description": "What the connection is secured with, in PEM; paths are relative to the file that they stand in.",
        "properties": {
            "ca": file("The authorities that the server's certificate may come from, instead of those of this machine."),
            "certificate": file("Our own certificate, with its chain."),
            "key": file("The key of `certificate`."),
        },
    });
    Map::from_iter([("dsn".to_owned(), dsn), ("tls".to_owned(), tls)])
}

/// The keys of `store` with `kind: postgres`.
#[derive(Debug, Clone)]
struct Options {
    target: Target,
    /// For showing.
    tls: Option<Map<String, Value>>,
}

/// The name of the database, for messages.
fn name_of(pool: &Pool) -> &str {
    &pool.target.name
}

#[async_trait]
impl Config for Options {
    fn kind(&self) -> &'static str {
        KIND.name
    }

    fn show(&self) -> Map<String, Value> {
        let mut shown = Map::from_iter([("dsn".to_owned(), self.target.shown.clone().into())]);
        if let Some(tls) = &self.tls {
            shown.insert("tls".to_owned(), Value::Object(tls.clone()));
        }
        shown
    }

    async fn open(&self, access: Access) -> Result<Arc<dyn Store>, StoreError> {
        let pool = Pool::new(self.target.clone());
        let name = self.target.name.clone();
        pool.with(async |session| match access {
            Access::Read => Ok(schema::check(schema::version(session).await?, &name)?),
            Access::Write(_) => schema::migrate(session, &name).await,
        })
        .await?;
        let readers = Readers::new(pool.clone());
        Ok(Arc::new(Postgres { pool, readers, access, writer: tokio::sync::Mutex::default(), packer: Arc::default() }))
    }

    async fn exists(&self) -> Result<bool, StoreError> {
        Pool::new(self.target.clone()).with(async |session| Ok(schema::version(session).await? > 0)).await
    }
}

/// The store that is open.
#[derive(Debug)]
struct Postgres {
    pool: Arc<Pool>,
    readers: Arc<Readers>,
    access: Access,
    writer: tokio::sync::Mutex<Writer>,
    /// What packing remembers; upkeep is done by one at a time.
    packer: Arc<tokio::sync::Mutex<Packer>>,
}

impl Postgres {
    /// Refuses to change what is open for reading only.
    fn may_write(&self) -> Result<(), StoreError> {
        match self.access {
            Access::Write(_) => Ok(()),
            Access::Read => Err(StoreError::Unusable(format!("{} is open for reading only", name_of(&self.pool)))),
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Reader<Rows>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let readers = self.readers.clone();
        joined(tokio::task::spawn_blocking(move || readers.read(work))).await
    }
}

/// The outcome of work on a thread for blocking work.
async fn joined<T>(task: tokio::task::JoinHandle<Result<T, StoreError>>) -> Result<T, StoreError> {
    task.await.unwrap_or_else(|error| Err(StoreError::Unavailable(format!("the store's work was ended: {error}"))))
}

#[async_trait]
impl Store for Postgres {
    async fn append(&self, batch: Vec<Arc<Observation>>, advance: Option<Advance>) -> Result<(), StoreError> {
        self.may_write()?;
        self.writer.lock().await.append(&self.pool, &batch, advance.as_ref()).await
    }

    async fn position(&self, source: &str) -> Result<u64, StoreError> {
        self.pool.with(async |session| append::position(session, source).await).await
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
        self.pool
            .with(async |session| {
                let sql = "SELECT name, url, kind, enabled, interval_us, labels::text, present FROM sitemon.sites
                           ORDER BY name COLLATE \"C\"";
                let mut sites = Vec::new();
                for row in session.query(sql, &[]).await? {
                    let labels: Map<String, Value> =
                        serde_json::from_str(row.get(5)).map_err(|_| Error::Damaged("a site's labels"))?;
                    let label = |(name, value): (String, Value)| (name, value.as_str().unwrap_or_default().to_owned());
                    sites.push(SiteRecord {
                        name: row.get::<_, &str>(0).into(),
                        url: row.get::<_, &str>(1).into(),
                        kind: row.get::<_, &str>(2).into(),
                        enabled: row.get(3),
                        interval: Duration::from_micros(row.get::<_, i64>(4) as u64),
                        labels: labels.into_iter().map(label).collect(),
                        present: row.get(6),
                    });
                }
                Ok(sites)
            })
            .await
    }

    async fn save_sites(&self, origin: &str, sites: Vec<SiteRecord>) -> Result<(), StoreError> {
        self.may_write()?;
        let labels = |site: &SiteRecord| {
            let labels: Map<String, Value> =
                site.labels.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
            Value::Object(labels).to_string()
        };
        let names: Vec<&str> = sites.iter().map(|site| &*site.name).collect();
        let urls: Vec<&str> = sites.iter().map(|site| &*site.url).collect();
        let kinds: Vec<&str> = sites.iter().map(|site| &*site.kind).collect();
        let enabled: Vec<bool> = sites.iter().map(|site| site.enabled).collect();
        let intervals: Vec<i64> = sites.iter().map(|site| time::micros(site.interval) as i64).collect();
        let labels: Vec<String> = sites.iter().map(labels).collect();
        let present: Vec<bool> = sites.iter().map(|site| site.present).collect();
        self.pool
            .with(async |session| {
                session.batch("BEGIN").await?;
                let gone = "UPDATE sitemon.sites SET present = false
                            WHERE origin = $1 AND present AND name <> ALL($2::text[])";
                session.execute(gone, &[&origin, &names]).await?;
                // What is as it was is not written again.
                let save = "INSERT INTO sitemon.sites AS s(origin, name, url, kind, enabled, interval_us, labels, present)
                    SELECT $1, n, u, k, e, i, l::jsonb, p
                      FROM unnest($2::text[], $3::text[], $4::text[], $5::boolean[], $6::bigint[], $7::text[], $8::boolean[])
                        AS t(n, u, k, e, i, l, p) ORDER BY n
                    ON CONFLICT(name) DO UPDATE SET origin = excluded.origin, url = excluded.url, kind = excluded.kind,
                      enabled = excluded.enabled, interval_us = excluded.interval_us, labels = excluded.labels,
                      present = excluded.present
                    WHERE (s.origin, s.url, s.kind, s.enabled, s.interval_us, s.labels, s.present) IS DISTINCT FROM
                      (excluded.origin, excluded.url, excluded.kind, excluded.enabled, excluded.interval_us,
                       excluded.labels, excluded.present)";
                session
                    .execute(save, &[&origin, &names, &urls, &kinds, &enabled, &intervals, &labels, &present])
                    .await?;
                session.batch("COMMIT").await
            })
            .await
    }

    async fn maintain(&self, upkeep: Upkeep) -> Result<Upkept, StoreError> {
        self.may_write()?;
        let (pool, readers) = (self.pool.clone(), self.readers.clone());
        let mut packer = self.packer.clone().lock_owned().await;
        joined(tokio::task::spawn_blocking(move || pack::maintain(&pool, &readers, &mut packer, &upkeep))).await
    }

    async fn begin_run(&self, run: &RunStart) -> Result<i64, StoreError> {
        self.may_write()?;
        self.pool
            .with(async |session| {
                let sql = "INSERT INTO sitemon.runs(started, location, pid, version, alive_until)
                           VALUES($1, $2, $3, $4, $1) RETURNING id";
                let row = session.first(sql, &[&run.at.0, &&*run.location, &i64::from(run.pid), &run.version]).await?;
                row.map(|row| row.get(0)).ok_or(Error::Damaged("the journal of runs"))
            })
            .await
    }

    async fn touch_run(&self, run: i64, at: Timestamp, ended: Option<&str>) -> Result<(), StoreError> {
        self.may_write()?;
        self.pool
            .with(async |session| {
                let sql = "UPDATE sitemon.runs SET alive_until = greatest(alive_until, $2), ended = coalesce($3, ended)
                           WHERE id = $1";
                session.execute(sql, &[&run, &at.0, &ended]).await?;
                Ok(())
            })
            .await
    }

    async fn runs(&self, from: Timestamp, to: Timestamp) -> Result<Vec<Run>, StoreError> {
        self.pool
            .with(async |session| {
                let sql = "SELECT started, location, pid, version, alive_until, ended FROM sitemon.runs
                           WHERE alive_until >= $1 AND started < $2 ORDER BY started, id";
                let run = |row: tokio_postgres::Row| Run {
                    start: RunStart {
                        at: Timestamp(row.get(0)),
                        location: row.get::<_, &str>(1).into(),
                        pid: row.get::<_, i64>(2) as u32,
                        version: row.get(3),
                    },
                    alive_until: Timestamp(row.get(4)),
                    ended: row.get(5),
                };
                Ok(session.query(sql, &[&from.0, &to.0]).await?.into_iter().map(run).collect())
            })
            .await
    }

    async fn measure(&self) -> Result<Measures, StoreError> {
        self.pool
            .with(async |session| {
                let sql = "SELECT (SELECT coalesce(sum(count), 0) FROM sitemon.batches)::bigint,
                             coalesce((SELECT value FROM sitemon.meta WHERE name = 'blocks'), 0)";
                let row = session.first(sql, &[]).await?.ok_or(Error::Damaged("the numbers about the store"))?;
                let (arrivals, blocks): (i64, i64) = (row.get(0), row.get(1));
                Ok(Measures { bytes: pack::bytes(session).await?, arrivals: arrivals as u64, blocks: blocks as u64 })
            })
            .await
    }

    async fn close(&self) {
        *self.writer.lock().await = Writer::default();
        self.readers.close();
        self.pool.close();
    }
}
