//! What only a test inside can do: let the file run out of space at every page.

use super::{Options, Sqlite};
use crate::sample::{EPOCH, Sample};
use crate::{Access, Advance, Config, Scan, Store, StoreError, Upkeep, Window};
use rusqlite::{Connection, Row};
use sitemon_model::time::{HOUR, SECOND};
use sitemon_model::{Observation, Timestamp, line};
use std::path::Path;
use std::sync::Arc;

/// Observations in a batch: a dozen pages.
const COUNT: i64 = 1500;

/// An open store, as the type that it is.
async fn open(options: &Options) -> Sqlite {
    let (path, packer) = (options.path.clone(), Arc::default());
    // The folder is made and the file is brought up to date as by everybody else.
    options.open(Access::Write("test")).await.unwrap().close().await;
    let writer = super::Writer::open(&path, "test").unwrap();
    let readers = super::Readers::open(&path, writer.database()).unwrap();
    Sqlite { readers, writer: Some(Arc::new(writer)), path, packer }
}

/// Lets the file have that many pages more than it has.
async fn grant(store: &Sqlite, pages: i64) {
    let granted = store.writer().unwrap().run(move |state| {
        let used: i64 = state.connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        let free: i64 = state.connection.query_row("PRAGMA freelist_count", [], |row| row.get(0))?;
        let bound = used - free + pages;
        Ok(state.connection.query_row(&format!("PRAGMA max_page_count = {bound}"), [], |row| row.get::<_, i64>(0))?)
    });
    granted.await.unwrap();
}

async fn export(store: &Sqlite) -> Vec<String> {
    let window = Window { sites: None, from: Timestamp::MIN, to: Timestamp::MAX };
    let scan = Scan { window, after: None, limit: usize::MAX, newest_first: false };
    store.scan(&scan).await.unwrap().observations.iter().map(|found| line::to_string(found)).collect()
}

#[tokio::test]
async fn a_full_disk_at_every_page_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&Options { path: folder.path().join("full.db") }).await;
    let mut sample = Sample::new(41);
    let mut expected: Vec<Arc<Observation>> = Vec::new();
    let (mut refused, mut next) = (0, 0);
    for round in 0..6 {
        let batch: Vec<_> = (0..COUNT)
            .map(|count| {
                let (site, at) = (format!("site-{}", count % 40), EPOCH.plus(round * HOUR / 2 + count * SECOND));
                Arc::new(sample.mixed(&site.into(), &"default".into(), at, 30_000_000))
            })
            .collect();
        let advance = Advance { source: "t/0".into(), expected: next, next: next + COUNT as u64 };
        let mut pages = 0;
        loop {
            grant(&store, pages).await;
            match store.append(batch.clone(), Some(advance.clone())).await {
                Ok(()) => break,
                Err(StoreError::Unavailable(_)) => refused += 1,
                Err(other) => panic!("{other:?}"),
            }
            assert_eq!(store.position("t/0").await.unwrap(), next, "nothing of it is written");
            assert_eq!(export(&store).await.len(), expected.len());
            pages += 1;
        }
        next += COUNT as u64;
        expected.extend(batch);
        let lines: Vec<String> = expected.iter().map(|observation| line::to_string(observation)).collect();
        let upkeep = Upkeep::Pack { now: EPOCH.plus(round * HOUR / 2), everything: round % 2 == 1 };
        let mut pages = 0;
        loop {
            grant(&store, pages).await;
            match store.maintain(upkeep.clone()).await {
                Ok(_) => break,
                Err(StoreError::Unavailable(_)) => refused += 1,
                Err(other) => panic!("{other:?}"),
            }
            assert_eq!(export(&store).await, lines, "with {pages} pages more");
            pages += 1;
        }
        assert_eq!(export(&store).await, lines);
    }
    assert!(refused > 10, "{refused}");
    store.close().await;
}

/// All that lies in a table, as text.
fn rows(path: &Path, table: &str) -> Vec<String> {
    let connection = Connection::open(path).unwrap();
    let mut statement = connection.prepare(&format!("SELECT * FROM {table}")).unwrap();
    let columns = statement.column_count();
    let row = |row: &Row<'_>| (0..columns).map(|at| Ok(format!("{:?}", row.get_ref(at)?))).collect::<Result<_, _>>();
    statement.query_map([], row).unwrap().collect::<Result<_, _>>().unwrap()
}

/// Several hours of a backlog are packed at once, and come to the same as one after the other.
#[tokio::test]
async fn a_backlog_is_packed_as_if_it_had_been_packed_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut sample = Sample::new(43);
    let mut slots: Vec<(i64, u64)> = (0..40 * 60).map(|minute| (minute * 60 * SECOND, minute as u64)).collect();
    // Two hours in which nothing was observed.
    slots.retain(|(at, _)| !(30 * HOUR..32 * HOUR).contains(at));
    let observations: Vec<Arc<Observation>> = slots
        .into_iter()
        .filter_map(|(at, minute)| {
            // One of each kind of block, and one that changes its interval.
            let (site, interval) = [("minute", 1), ("seldom", 20), ("changed", if at < 20 * HOUR { 1 } else { 60 })]
                [sample.below(3) as usize];
            let due = minute.is_multiple_of(interval);
            let slot = EPOCH.plus(at);
            due.then(|| Arc::new(sample.mixed(&site.into(), &"default".into(), slot, interval * 60_000_000)))
        })
        .collect();
    let mut found = Vec::new();
    for (name, at_once) in [("late.db", true), ("in-time.db", false)] {
        let store = open(&Options { path: folder.path().join(name) }).await;
        for batch in observations.chunk_by(|a, b| a.scheduled_at.floor(HOUR) == b.scheduled_at.floor(HOUR)) {
            store.append(batch.to_vec(), None).await.unwrap();
            if !at_once {
                let now = batch[0].scheduled_at.floor(HOUR).plus(HOUR + 100 * SECOND);
                store.maintain(Upkeep::Pack { now, everything: false }).await.unwrap();
            }
        }
        let packed = store.maintain(Upkeep::Pack { now: EPOCH.plus(41 * HOUR), everything: false }).await.unwrap();
        assert_eq!(packed.arrivals, if at_once { observations.len() as u64 } else { 0 });
        assert_eq!(export(&store).await.len(), observations.len());
        let path = store.path.clone();
        store.close().await;
        found.push(
            ["hour_blocks", "day_blocks", "hour_rollups", "day_rollups", "latest", "evidence"]
                .map(|table| rows(&path, table)),
        );
    }
    assert!(found[0].iter().all(|rows| !rows.is_empty()));
    assert_eq!(found[0], found[1]);
}
