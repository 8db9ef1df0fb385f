//! The tables, and how an older database is brought up to date.
//!
//! To change a table: append a migration; the numbers of those that stand are never reused. Older programs may still
//! run beside a newer one for a while, so what they use is taken away only by the version after the one that stopped
//! using it.

use super::session::{Error, Session};
use crate::StoreError;

/// The migrations, the first makes version 1.
const MIGRATIONS: &[&str] = &[concat!(include_str!("schema/1.sql"), include_str!("schema/functions.sql"))];

/// The version that this program writes.
const VERSION: u32 = MIGRATIONS.len() as u32;

/// `SmOn`: whoever migrates holds this lock, so that any number may start at once.
const LOCK: i64 = 0x536d_4f6e;

/// The version of the database, 0 where nothing was made yet.
pub(super) async fn version(session: &Session) -> Result<u32, Error> {
    let made = session.query("SELECT to_regclass('sitemon.meta') IS NOT NULL", &[]).await?;
    if !made.first().is_some_and(|row| row.get(0)) {
        return Ok(0);
    }
    let rows = session.query("SELECT value FROM sitemon.meta WHERE name = 'schema'", &[]).await?;
    let found: i64 = rows.first().map_or(0, |row| row.get(0));
    Ok(u32::try_from(found).unwrap_or(u32::MAX))
}

/// Refuses a database that this program does not know.
pub(super) fn check(found: u32, name: &str) -> Result<(), StoreError> {
    match found {
        VERSION => Ok(()),
        0 => Err(StoreError::Unavailable(format!("{name} has no tables of Sitemon yet: nothing was stored in it"))),
        newer if newer > VERSION => Err(StoreError::Newer { path: name.to_owned(), found, known: VERSION }),
        _ => Err(StoreError::Unusable(format!(
            "{name} was made by an older version; `sitemon migrate` brings it up to date"
        ))),
    }
}

/// Brings the tables up to [`VERSION`], each step in a transaction of its own.
pub(super) async fn migrate(session: &Session, name: &str) -> Result<(), Error> {
    if version(session).await? == VERSION {
        return Ok(());
    }
    session.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await?;
    let found = version(session).await?;
    if found > VERSION {
        return Err(StoreError::Newer { path: name.to_owned(), found, known: VERSION }.into());
    }
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(found as usize) {
        let version = index + 1;
        session
            .batch(&format!(
                "BEGIN;\n{migration}\n
                 INSERT INTO sitemon.meta(name, value) VALUES('schema', {version})
                 ON CONFLICT(name) DO UPDATE SET value = excluded.value;\nCOMMIT"
            ))
            .await?;
    }
    session.execute("SELECT pg_advisory_unlock($1)", &[&LOCK]).await?;
    Ok(())
}
