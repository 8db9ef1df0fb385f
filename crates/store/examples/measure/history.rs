//! A store with a long history, made through the store itself in minutes: what `status` over many sites and
//! `stats` of one over a year are timed on.
//!
//! The sites `site-…` have an observation each hour for the days asked for, and each minute in the last two hours and
//! the running one, which is not packed, as in a run. The site `year` has one each minute for as many days as
//! are asked for; the same stands as plain rows in `plain.db`.

use crate::clock::Clock;
use crate::plain::Plain;
use serde_json::{Value, json};
use sitemon_model::time::{DAY, HOUR, SECOND};
use sitemon_model::{Cause, Code, Observation, Timestamp, Verdict};
use sitemon_store::sample::Sample;
use sitemon_store::{Access, Store, Upkeep};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

const MINUTE: i64 = 60 * SECOND;
/// Observations in a transaction.
const BATCH: usize = 10_000;
/// One in so many observations is down.
const DOWN_EVERY: u64 = 1000;

pub async fn run(folder: &Path, sites: i64, days: i64, year: i64) -> Result<Value, Box<dyn Error>> {
    let clock = Clock::start();
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as i64;
    let hour = now.div_euclid(HOUR) * HOUR;
    let store = crate::store(&folder.join("history.db"))?.open(Access::Write("measure")).await?;
    let plain = Plain::open(&folder.join("plain.db"))?;
    let mut filling =
        Filling { store: &*store, plain, sample: Sample::new(1), batch: Vec::new(), count: 0, filled: i64::MIN };

    let alone: Vec<Arc<str>> = vec!["year".into()];
    let from = hour - year * DAY;
    for day in 0..year {
        filling.fill(&alone, from + day * DAY, from + (day + 1) * DAY, MINUTE, true).await?;
    }
    let names: Vec<Arc<str>> = (0..sites).map(|site| format!("site-{site:05}").into()).collect();
    let (from, dense) = (hour - days * DAY, hour - 2 * HOUR);
    let mut day = from;
    while day < dense {
        let end = (day + DAY).min(dense);
        filling.fill(&names, day, end, HOUR, false).await?;
        day = end;
    }
    filling.fill(&names, dense, hour, MINUTE, false).await?;
    filling.fill(&names, hour, now, MINUTE, false).await?;
    let count = filling.count;
    let plain_rows = filling.plain.count()?;
    store.maintain(Upkeep::Reclaim).await?;
    let measures = store.measure().await?;
    store.close().await;
    let spent = clock.spent();
    Ok(json!({
        "count": count, "plain": plain_rows, "waiting": measures.arrivals, "bytes": measures.bytes,
        "wall": spent.wall, "cpu": spent.cpu,
    }))
}

struct Filling<'a> {
    store: &'a dyn Store,
    plain: Plain,
    sample: Sample,
    batch: Vec<Arc<Observation>>,
    count: u64,
    /// Up to where slots were appended.
    filled: i64,
}

impl Filling<'_> {
    /// Slots of all sites in `[from, to)`, while what came before is packed, as in a run.
    async fn fill(
        &mut self,
        names: &[Arc<str>],
        from: i64,
        to: i64,
        interval: i64,
        plain: bool,
    ) -> Result<(), Box<dyn Error>> {
        let (store, now) = (self.store, Timestamp(self.filled.saturating_add(100 * SECOND)));
        let packed = async { Ok(store.maintain(Upkeep::Pack { now, everything: false }).await?) };
        tokio::try_join!(packed, self.append(names, from, to, interval, plain))?;
        self.filled = to;
        Ok(())
    }

    /// Slots of all sites in `[from, to)`, in the order of time.
    async fn append(
        &mut self,
        names: &[Arc<str>],
        from: i64,
        to: i64,
        interval: i64,
        plain: bool,
    ) -> Result<(), Box<dyn Error>> {
        let location: Arc<str> = "default".into();
        for round in from.div_euclid(interval)..=to.div_euclid(interval) {
            for (number, site) in (0..).zip(names) {
                let slot = Timestamp(round * interval + number * interval / names.len() as i64);
                if slot.0 < from || slot.0 >= to {
                    continue;
                }
                let mut observation = self.sample.regular(site, &location, slot, interval as u64);
                if self.sample.once_in(DOWN_EVERY) {
                    let cause = Cause::new(Code::HttpStatus, "status 503, expected 200-299");
                    observation.verdict = Verdict::Down(vec![cause]);
                    observation.status = Some(503);
                }
                self.batch.push(Arc::new(observation));
                if self.batch.len() == BATCH {
                    self.flush(plain).await?;
                }
            }
        }
        self.flush(plain).await
    }

    async fn flush(&mut self, plain: bool) -> Result<(), Box<dyn Error>> {
        if plain {
            self.plain.append(&self.batch)?;
        }
        self.count += self.batch.len() as u64;
        self.store.append(std::mem::take(&mut self.batch), None).await?;
        Ok(())
    }
}
