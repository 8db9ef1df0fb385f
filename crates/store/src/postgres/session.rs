//! Connections: how one is made, what is asked over it, and what can go wrong.

use super::dsn::Target;
use super::tls::Connector;
use crate::StoreError;
use crate::tables::Damaged;
use std::collections::HashMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, NoTls, Row, Statement};

/// Statements that a connection keeps prepared; those with numbers written into them are not.
const STATEMENTS_MAX: usize = 200;
/// Connections that are kept for the next who asks.
const IDLE_MAX: usize = 4;
/// How long making a connection may take, where the DSN says nothing.
const CONNECT: Duration = Duration::from_secs(10);

/// What goes wrong inside; it gets the database's name where it leaves.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Sql(#[from] tokio_postgres::Error),
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
    /// Whether a table that it names is not there.
    pub(super) fn is_of_a_missing_table(&self) -> bool {
        matches!(self, Self::Sql(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE))
    }

    /// What it is to the caller. A server that is away, starts, stops, or has too much to do is worth another try;
    /// one that refuses us is not.
    pub(super) fn of(self, name: &str) -> StoreError {
        let error = match self {
            Self::Store(error) => return error,
            Self::Damaged(what) => return StoreError::Damaged(format!("{name} is damaged: {what} cannot be read")),
            Self::Compression(error) => return StoreError::Unavailable(format!("cannot use {name}: {error}")),
            Self::Sql(error) => error,
        };
        let Some(refused) = error.as_db_error() else {
            // The cause says more than the client's own words; the outermost may stand alone.
            let told = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            return StoreError::Unavailable(format!("cannot reach {name}: {told}"));
        };
        let told = refused.message();
        let code = refused.code();
        match code.code().get(..2).unwrap_or_default() {
            _ if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
                StoreError::Unusable(format!("{name} does not let us: {told}"))
            }
            "28" | "3D" => StoreError::Unusable(format!("{name} refuses us: {told}")),
            "XX" if *code != SqlState::INTERNAL_ERROR => StoreError::Damaged(format!("{name} is damaged: {told}")),
            _ => StoreError::Unavailable(format!("cannot use {name}: {told}")),
        }
    }
}

/// Connections to one database, made when they are needed.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) target: Target,
    idle: Mutex<Vec<Session>>,
}

impl Pool {
    /// To this database.
    pub(super) fn new(target: Target) -> Arc<Self> {
        Arc::new(Self { target, idle: Mutex::default() })
    }

    /// A connection that nobody uses, or a new one.
    pub(super) async fn get(&self) -> Result<Session, Error> {
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match idle {
                Some(session) if session.client.is_closed() => {}
                Some(session) => return Ok(session),
                None => return Session::open(&self.target).await,
            }
        }
    }

    /// Takes a connection back over which all went well.
    pub(super) fn put(&self, session: Session) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(session);
        }
    }

    /// Closes the connections that nobody uses.
    pub(super) fn close(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Does work over a connection; one over which something went wrong is given up.
    pub(super) async fn with<T>(&self, work: impl AsyncFnOnce(&Session) -> Result<T, Error>) -> Result<T, StoreError> {
        let done = async {
            let session = self.get().await?;
            let done = work(&session).await?;
            self.put(session);
            Ok(done)
        };
        done.await.map_err(|error: Error| error.of(&self.target.name))
    }
}

/// One connection. Dropped, it is closed, and what it had begun is undone.
pub(super) struct Session {
    pub(super) client: Client,
    statements: Mutex<HashMap<String, Statement>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Session {
    /// Makes a connection.
    pub(super) async fn open(target: &Target) -> Result<Self, Error> {
        let mut config = target.config.clone();
        config.application_name(config.get_application_name().unwrap_or("sitemon").to_owned());
        let limit = *config.get_connect_timeout().unwrap_or(&CONNECT);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT);
        }
        let connected = tokio::time::timeout(limit * 2, async {
            match &target.tls {
                None => {
                    let (client, connection) = config.ssl_mode(SslMode::Disable).connect(NoTls).await?;
                    drive(connection);
                    Ok::<_, tokio_postgres::Error>(client)
                }
                Some(tls) => {
                    let (client, connection) = config.connect(Connector(tls.clone())).await?;
                    drive(connection);
                    Ok(client)
                }
            }
        });
        let client = connected.await.map_err(|_| {
            StoreError::Unavailable(format!("cannot reach {}: no answer within {:?}", target.name, limit * 2))
        })??;
        let session = Self { client, statements: Mutex::default() };
        // Acknowledged means synced, whatever the server's default is. Arrivals are passed in the order in which they
        // came where nothing reads them from several ends.
        session
            .batch(
                "SELECT set_config('synchronous_commit', 'on', false)
                   WHERE current_setting('synchronous_commit') = 'off';
                 SET synchronize_seqscans = off; SET max_parallel_workers_per_gather = 0;
                 SET client_min_messages = warning; SET jit = off",
            )
            .await?;
        Ok(session)
    }

    /// A statement, prepared once for each connection.
    pub(super) async fn prepared(&self, sql: &str) -> Result<Statement, Error> {
        let known = |statements: &Mutex<HashMap<String, Statement>>| {
            statements.lock().unwrap_or_else(PoisonError::into_inner).get(sql).cloned()
        };
        if let Some(statement) = known(&self.statements) {
            return Ok(statement);
        }
        let statement = self.client.prepare(sql).await?;
        let mut statements = self.statements.lock().unwrap_or_else(PoisonError::into_inner);
        if statements.len() < STATEMENTS_MAX {
            statements.insert(sql.to_owned(), statement.clone());
        }
        Ok(statement)
    }

    /// All rows of a query.
    pub(super) async fn query(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        let statement = self.prepared(sql).await?;
        Ok(self.client.query(&statement, params).await?)
    }

    /// The first row of a query.
    pub(super) async fn first(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>, Error> {
        Ok(self.query(sql, params).await?.into_iter().next())
    }

    /// How many rows a statement touched.
    pub(super) async fn execute(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64, Error> {
        let statement = self.prepared(sql).await?;
        Ok(self.client.execute(&statement, params).await?)
    }

    /// Statements without parameters, one after the other.
    pub(super) async fn batch(&self, sql: &str) -> Result<(), Error> {
        Ok(self.client.batch_execute(sql).await?)
    }
}

/// Carries what goes over a connection, until its client is gone.
fn drive<S, T>(mut connection: tokio_postgres::Connection<S, T>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        while let Some(message) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            match message {
                Ok(AsyncMessage::Notice(notice)) => tracing::debug!("PostgreSQL: {}", notice.message()),
                Ok(_) => {}
                // Who asks over it next is told as well.
                Err(error) => {
                    tracing::debug!("a connection to PostgreSQL has ended: {error}");
                    return;
                }
            }
        }
    });
}
