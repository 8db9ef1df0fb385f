//! What appending costs, in rounds that alternate with plain rows; and what packing adds.

use crate::clock::{Clock, Spent};
use crate::plain::Plain;
use serde_json::{Value, json};
use sitemon_model::Observation;
use sitemon_model::time::HOUR;
use sitemon_store::sample::{EPOCH, Sample};
use sitemon_store::{Access, Scan, Store, Upkeep, Window};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

/// Sites whose checks come in turn.
const SITES: usize = 1000;
const INTERVAL_US: u64 = 15_000_000;

/// In each round both take the same observations in the same batches, Sitemon's store first in every second one.
pub async fn run(folder: &Path, rounds: usize, count: usize, batch: usize) -> Result<Value, Box<dyn Error>> {
    let store = crate::store(&folder.join("packed.db"))?.open(Access::Write("measure")).await?;
    let mut plain = Plain::open(&folder.join("plain.db"))?;
    let mut sample = Sample::new(1);
    let location: Arc<str> = "default".into();
    let names: Vec<Arc<str>> = (0..SITES).map(|site| format!("site-{site:06}").into()).collect();
    let mut found = Vec::new();
    for round in 0..rounds {
        // Made before the clocks run; each round is an hour of its own.
        let start = EPOCH.plus(round as i64 * HOUR);
        let observations: Vec<Arc<Observation>> = (0..count)
            .map(|k| {
                let slot = start.plus((k as i64 * (INTERVAL_US as i64 / SITES as i64)) % HOUR);
                Arc::new(sample.regular(&names[k % SITES], &location, slot, INTERVAL_US))
            })
            .collect();
        let mut ours = Spent::default();
        let mut theirs = Spent::default();
        for turn in 0..2 {
            if (round + turn).is_multiple_of(2) {
                ours += append(&*store, &observations, batch).await?;
            } else {
                let clock = Clock::start();
                for part in observations.chunks(batch) {
                    plain.append(part)?;
                }
                theirs += clock.spent();
            }
        }
        let clock = Clock::start();
        let packed = store.maintain(Upkeep::Pack { now: start.plus(HOUR), everything: true }).await?.arrivals;
        let packing = clock.spent();
        if packed != count as u64 {
            return Err(format!("{packed} observations packed of {count}").into());
        }
        found.push(json!({
            "ours": {"wall": ours.wall, "cpu": ours.cpu}, "plain": {"wall": theirs.wall, "cpu": theirs.cpu},
            "packing": {"wall": packing.wall, "cpu": packing.cpu},
        }));
    }
    let stored = count_all(&*store).await?;
    store.close().await;
    if stored != (rounds * count) as u64 || plain.count()? != stored {
        return Err(format!("{stored} are stored, {} as plain rows, of {}", plain.count()?, rounds * count).into());
    }
    Ok(json!({"count": count, "batch": batch, "rounds": found}))
}

async fn append(store: &dyn Store, observations: &[Arc<Observation>], batch: usize) -> Result<Spent, Box<dyn Error>> {
    let batches: Vec<Vec<_>> = observations.chunks(batch).map(<[_]>::to_vec).collect();
    let clock = Clock::start();
    for batch in batches {
        store.append(batch, None).await?;
    }
    Ok(clock.spent())
}

async fn count_all(store: &dyn Store) -> Result<u64, Box<dyn Error>> {
    let window = Window { sites: None, from: EPOCH, to: EPOCH.plus(1 << 50) };
    let mut scan = Scan { window, after: None, limit: 50_000, newest_first: false };
    let mut count = 0;
    loop {
        let page = store.scan(&scan).await?;
        count += page.observations.len() as u64;
        scan.after = page.next;
        if scan.after.is_none() {
            return Ok(count);
        }
    }
}
