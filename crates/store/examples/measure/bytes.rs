//! The bytes that a check takes, with the timings of a real run.
//!
//! What a run recorded from real servers is given other slots, nothing else: of each class of sites (same server, same
//! page, same scheme) the observations in their real succession, one site's after the other's, become those of a site
//! at the interval asked for, over and over. Times, lags and sizes stay what they were; names, addresses and slots are
//! the new site's. Blocks are packed each by itself, so that the repetition saves nothing.

use crate::plain::Plain;
use serde_json::{Value, json};
use sitemon_model::time::HOUR;
use sitemon_model::{Observation, Timestamp};
use sitemon_store::sample::EPOCH;
use sitemon_store::{Access, Scan, Upkeep, Window};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

/// Sites of a recorded run are named s0, s1, ...; those with the same rest have server, page and scheme in common.
const CLASSES: usize = 60;
/// Observations in a transaction.
const BATCH: usize = 5000;

/// The observations of a recorded run by class, site by site in the order of their slots.
pub async fn recorded(file: &Path) -> Result<Vec<Vec<Arc<Observation>>>, Box<dyn Error>> {
    let store = crate::store(file)?.open(Access::Read).await?;
    let window = Window { sites: None, from: Timestamp(0), to: Timestamp(i64::MAX) };
    let mut scan = Scan { window, after: None, limit: 50_000, newest_first: false };
    let mut sites: BTreeMap<usize, Vec<Arc<Observation>>> = BTreeMap::new();
    loop {
        let page = store.scan(&scan).await?;
        for observation in page.observations {
            let number = observation.site.trim_start_matches('s').parse()?;
            sites.entry(number).or_default().push(observation);
        }
        scan.after = page.next;
        if scan.after.is_none() {
            break;
        }
    }
    store.close().await;
    let mut classes = vec![Vec::new(); CLASSES];
    for (number, observations) in sites {
        classes[number % CLASSES].extend(observations);
    }
    if let Some(empty) = classes.iter().position(Vec::is_empty) {
        return Err(format!("nothing was recorded of class {empty}").into());
    }
    Ok(classes)
}

/// Stores so many sites for so many hours, packs each hour as a run does, and tells the bytes.
pub async fn run(
    folder: &Path,
    recorded: &[Vec<Arc<Observation>>],
    interval_s: i64,
    sites: i64,
    hours: i64,
) -> Result<Value, Box<dyn Error>> {
    let interval = interval_s * 1_000_000;
    let file = folder.join("packed.db");
    let store = crate::store(&file)?.open(Access::Write("measure")).await?;
    let mut plain = Plain::open(&folder.join("plain.db"))?;
    let names: Vec<Arc<str>> = (0..sites).map(|site| format!("site-{site:06}").into()).collect();
    let (location, rounds): (Arc<str>, i64) = ("default".into(), HOUR / interval);
    let mut batch: Vec<Arc<Observation>> = Vec::with_capacity(BATCH);
    for hour in 0..hours {
        for round in hour * rounds..(hour + 1) * rounds {
            for site in 0..sites {
                let class = &recorded[site as usize % CLASSES];
                let source = &class[(round as usize + site as usize / CLASSES) % class.len()];
                let slot = EPOCH.plus(round * interval + site * interval / sites);
                batch.push(Arc::new(given(source, &names[site as usize], &location, slot, interval)));
                if batch.len() == BATCH {
                    plain.append(&batch)?;
                    store.append(std::mem::take(&mut batch), None).await?;
                }
            }
        }
        plain.append(&batch)?;
        store.append(std::mem::take(&mut batch), None).await?;
        let now = EPOCH.plus((hour + 1) * HOUR + 100_000_000);
        store.maintain(Upkeep::Pack { now, everything: false }).await?;
    }
    store.maintain(Upkeep::Pack { now: EPOCH.plus(hours * HOUR), everything: true }).await?;
    store.close().await;
    let store = crate::store(&file)?.open(Access::Write("measure")).await?;
    let running = size(&file);
    store.maintain(Upkeep::Reclaim).await?;
    store.close().await;
    drop(plain);
    let count = hours * rounds * sites;
    let plain = folder.join("plain.db");
    let (tables, rows) = (tables(&file)?, tables(&plain)?);
    Ok(json!({
        "count": count, "recorded": recorded.iter().map(Vec::len).sum::<usize>(),
        "file": size(&file), "before_reclaim": running, "tables": tables,
        "plain": {"file": size(&plain), "tables": rows},
    }))
}

/// The observation as that of another site and slot.
fn given(source: &Observation, site: &Arc<str>, location: &Arc<str>, slot: Timestamp, interval: i64) -> Observation {
    let by = slot.0 - source.scheduled_at.0;
    let (old, new) = (format!("//{}.", source.site), format!("//{site}."));
    let mut observation = Observation {
        site: site.clone(),
        location: location.clone(),
        scheduled_at: slot,
        started_at: source.started_at.map(|at| at.plus(by)),
        interval_us: interval as u64,
        timeout_us: 10_000_000.min(interval as u64),
        ..source.clone()
    };
    for hop in &mut observation.hops {
        hop.url = hop.url.replace(&old, &new).into();
    }
    observation
}

/// Bytes of each table, and of all, as `SQLite` counts its pages.
fn tables(file: &Path) -> rusqlite::Result<Value> {
    let connection = rusqlite::Connection::open(file)?;
    let mut statement = connection.prepare("SELECT name, sum(pgsize) FROM dbstat GROUP BY name ORDER BY 2 DESC")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().map(|(name, bytes)| json!([name, bytes])).collect())
}

fn size(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |found| found.len())
}
