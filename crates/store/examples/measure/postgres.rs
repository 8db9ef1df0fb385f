//! What appending to `PostgreSQL` costs, in rounds that alternate with a plain COPY of the very same rows into a table
//! without index; what packing adds, what a packed check takes, and how long the questions of `docs/storage.md` take.

use crate::clock::{Clock, Spent};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use sitemon_model::Observation;
use sitemon_model::time::{HOUR, SECOND};
use sitemon_model::tree::{At, Faults, Node};
use sitemon_store::sample::{EPOCH, Sample};
use sitemon_store::{Access, Advance, KINDS, Upkeep};
use std::error::Error;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use tokio_postgres::{Client, NoTls};

/// Sites whose checks come in turn.
const SITES: usize = 1000;
const INTERVAL_US: u64 = 15_000_000;

/// In each round both take the same rows in the same batches, each batch in a synced transaction.
pub async fn run(dsn: &str, rounds: usize, batch: usize) -> Result<Value, Box<dyn Error>> {
    let node = Node::from_json(&json!({ "dsn": dsn }));
    let mut faults = Faults::default();
    let mut fields = At::new(&node, "store").map(&mut faults);
    let kind = KINDS.iter().find(|kind| kind.name == "postgres").ok_or("no such kind")?;
    let config = (kind.parse)(&mut fields, Path::new("."), &mut faults).ok_or("the DSN is refused")?;
    let store = config.open(Access::Write("measure")).await?;
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await?;
    let driven = tokio::spawn(connection);
    client.batch_execute("DROP TABLE IF EXISTS plain; CREATE TABLE plain (LIKE sitemon.arrivals)").await?;
    let mut sample = Sample::new(1);
    let location: Arc<str> = "default".into();
    let names: Vec<Arc<str>> = (0..SITES).map(|site| format!("site-{site:06}").into()).collect();
    let count = SITES * (HOUR / SECOND / 15) as usize;
    let (mut found, mut position) = (Vec::new(), 0);
    for round in 0..rounds {
        let start = EPOCH.plus(round as i64 * HOUR);
        let observations: Vec<Arc<Observation>> = (0..count)
            .map(|k| {
                let slot = start.plus(k as i64 * (INTERVAL_US as i64 / SITES as i64));
                Arc::new(sample.regular(&names[k % SITES], &location, slot, INTERVAL_US))
            })
            .collect();
        let batches: Vec<Vec<_>> = observations.chunks(batch).map(<[_]>::to_vec).collect();
        let clock = Clock::start();
        for batch in batches {
            let next = position + batch.len() as u64;
            let advance = Advance { source: "measure/0".into(), expected: position, next };
            store.append(batch, Some(advance)).await?;
            position = next;
        }
        let ours = clock.spent();
        let rows = rows(&client).await?;
        let clock = Clock::start();
        for batch in rows.chunks(batch) {
            copy(&client, batch).await?;
        }
        let theirs: Spent = clock.spent();
        let clock = Clock::start();
        let packed = store.maintain(Upkeep::Pack { now: start.plus(HOUR), everything: true }).await?;
        let packing = clock.spent();
        client.batch_execute("TRUNCATE plain").await?;
        found.push(json!({
            "rows": rows.len(), "packed": packed.arrivals, "blocks": packed.blocks,
            "ours": {"wall": ours.wall, "cpu": ours.cpu}, "plain": {"wall": theirs.wall, "cpu": theirs.cpu},
            "packing": {"wall": packing.wall, "cpu": packing.cpu},
        }));
    }
    store.maintain(Upkeep::Reclaim).await?;
    let mut tables = Vec::new();
    for row in client
        .query(
            "SELECT c.relname::text, pg_total_relation_size(c.oid) FROM pg_class c
             WHERE c.relnamespace = 'sitemon'::regnamespace AND c.relkind = 'r' ORDER BY 2 DESC",
            &[],
        )
        .await?
    {
        tables.push(json!([row.get::<_, String>(0), row.get::<_, i64>(1)]));
    }
    let mut questions = Vec::new();
    let day = format!("sitemon.instant({}), sitemon.instant({})", EPOCH.0, EPOCH.plus(24 * HOUR).0);
    let last = EPOCH.plus(rounds as i64 * HOUR);
    let hour = format!("sitemon.instant({}), sitemon.instant({})", last.plus(-HOUR).0, last.0);
    for (name, sql) in [
        ("a site, a day", format!("SELECT count(response_time_us) FROM sitemon.observations('site-000007', {day})")),
        ("all, an hour", format!("SELECT count(response_time_us) FROM sitemon.observations(NULL, {hour})")),
        (
            "a site, the view",
            "SELECT count(response_time_us) FROM sitemon.observations WHERE site = 'site-000007'".into(),
        ),
    ] {
        let mut times = Vec::new();
        let mut counted = 0;
        for _ in 0..5 {
            let clock = Clock::start();
            counted = client.query_one(&sql, &[]).await?.get::<_, i64>(0);
            times.push(clock.spent().wall);
        }
        times.sort_by(f64::total_cmp);
        questions.push(json!({"asked": name, "counted": counted, "seconds": times[times.len() / 2]}));
    }
    client.batch_execute("DROP TABLE plain").await?;
    store.close().await;
    drop(client);
    driven.await??;
    Ok(json!({"count": count, "batch": batch, "rounds": found, "tables": tables, "questions": questions}))
}

/// The rows of all arrivals, as COPY writes them.
async fn rows(client: &Client) -> Result<Vec<Bytes>, Box<dyn Error>> {
    let mut stream = pin!(client.copy_out("COPY (SELECT * FROM sitemon.arrivals) TO STDOUT BINARY").await?);
    let mut all = Vec::new();
    while let Some(part) = stream.next().await {
        all.extend_from_slice(&part?);
    }
    let all = Bytes::from(all);
    let number = |at: usize, len: usize| -> i64 {
        let bytes = all.get(at..at + len).unwrap_or_default();
        let value = bytes.iter().fold(0i64, |value, byte| value << 8 | i64::from(*byte));
        if value >> (8 * len - 1) == 1 { value - (1 << (8 * len)) } else { value }
    };
    let (mut at, mut rows) = (19, Vec::new());
    loop {
        let begin = at;
        let fields = number(at, 2);
        if fields < 0 {
            return Ok(rows);
        }
        at += 2;
        for _ in 0..fields {
            at += 4 + number(at, 4).max(0) as usize;
        }
        rows.push(all.slice(begin..at));
    }
}

/// Copies rows in a transaction of their own.
async fn copy(client: &Client, rows: &[Bytes]) -> Result<(), Box<dyn Error>> {
    let mut sink = pin!(client.copy_in::<_, Bytes>("COPY plain FROM STDIN BINARY").await?);
    let mut bytes = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for row in rows {
        bytes.extend_from_slice(row);
        if bytes.len() > 256 << 10 {
            sink.send(std::mem::take(&mut bytes).into()).await?;
        }
    }
    bytes.extend_from_slice(&[0xff, 0xff]);
    sink.send(bytes.into()).await?;
    sink.as_mut().finish().await?;
    Ok(())
}
