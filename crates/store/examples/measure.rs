//! Measures the default store: what appending, packing and reading cost, and the bytes that a check takes.
//!
//! `cargo run --release -p sitemon-store --example measure -- [SITES] [HOURS] [INTERVAL_SECONDS] [FOLDER]`.
//! Observations are made before the clock runs: one hop over HTTPS, six phases with log-normal times.

use rustix::time::{ClockId, clock_gettime};
use sitemon_model::time::{DAY, HOUR};
use sitemon_model::tree::{At, Faults, Node};
use sitemon_model::{Observation, Timestamp};
use sitemon_store::sample::{EPOCH, Sample};
use sitemon_store::{Access, Config, KINDS, RollupQuery, Scan, StoreError, Upkeep, Window};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Observations in a transaction while the most is appended.
const BATCH: usize = 5000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), StoreError> {
    let mut numbers = std::env::args().skip(1);
    let mut number = |default: i64| numbers.next().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (sites, hours, seconds) = (number(1000), number(4), number(15));
    let folder: PathBuf = std::env::args().nth(4).map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = folder.join(format!("sitemon-measure-{}", std::process::id()));
    println!("{sites} sites at {seconds} s for {hours} h");
    let done = measure(&folder, sites, hours, seconds * 1_000_000).await;
    let _ = std::fs::remove_dir_all(&folder);
    done
}

async fn measure(folder: &Path, sites: i64, hours: i64, interval: i64) -> Result<(), StoreError> {
    let config = config(folder)?;
    let store = config.open(Access::Write("measure")).await?;
    let mut sample = Sample::new(1);
    let location: Arc<str> = "default".into();
    let names: Vec<Arc<str>> = (0..sites).map(|site| format!("site-{site:06}").into()).collect();
    let per_hour = sites * HOUR / interval;
    let (mut wall, mut cpu, mut packing, mut packing_cpu, mut written, mut arrivals) = (0.0, 0.0, 0.0, 0.0, 0, 0);
    for hour in 0..hours {
        let start = EPOCH.plus(hour * HOUR);
        // In the order of time over all sites, as they come.
        let mut batches: Vec<Vec<Arc<Observation>>> = Vec::new();
        for k in 0..per_hour {
            let site = &names[(k % sites) as usize];
            let slot = start.plus(k / sites * interval + k % sites * interval / sites);
            if (k as usize).is_multiple_of(BATCH) {
                batches.push(Vec::with_capacity(BATCH));
            }
            let observation = Arc::new(sample.regular(site, &location, slot, interval as u64));
            if let Some(batch) = batches.last_mut() {
                batch.push(observation);
            }
        }
        let clock = Clock::start();
        for batch in batches {
            store.append(batch, None).await?;
        }
        wall += clock.wall();
        cpu += clock.cpu();
        arrivals = store.measure().await?.bytes;
        let clock = Clock::start();
        let now = start.plus(HOUR + 100_000_000);
        written += store.maintain(Upkeep::Pack { now, everything: false }).await?.arrivals;
        packing += clock.wall();
        packing_cpu += clock.cpu();
    }
    let count = (per_hour * hours) as f64;
    println!("append: {:.0} a second, {:.2} µs CPU each", count / wall, cpu * 1e6 / count);
    let share = packing_cpu * 1e6 / written as f64;
    println!(
        "pack: {:.0} a second, {share:.2} µs CPU each; before the last, the files had {arrivals} bytes",
        written as f64 / packing
    );
    let clock = Clock::start();
    let end = EPOCH.plus(hours * HOUR);
    store.maintain(Upkeep::Pack { now: end, everything: true }).await?;
    let freed = store.maintain(Upkeep::Reclaim).await?.freed_bytes;
    println!("compact: {:.2} s, {freed} bytes given back", clock.wall());
    store.close().await;
    let file = folder.join("sitemon.db");
    let bytes = std::fs::metadata(&file).map_or(0, |found| found.len());
    println!("file: {bytes} bytes, {:.2} a check", bytes as f64 / count);
    tables(&file, count);
    reads(&*config, &names, end).await
}

async fn reads(config: &dyn Config, names: &[Arc<str>], end: Timestamp) -> Result<(), StoreError> {
    let clock = Clock::start();
    let store = config.open(Access::Read).await?;
    let all = Window { sites: None, from: EPOCH, to: end };
    let one = Window { sites: Some(vec![names[0].clone()]), from: EPOCH.plus(-365 * DAY + 1), to: end.plus(-1) };
    println!("open: {:.1} ms", clock.wall() * 1e3);
    told("latest", || store.latest()).await?;
    told("summary of all, whole hours", || store.summary(&all)).await?;
    told("summary of one over a year", || store.summary(&one)).await?;
    let query = RollupQuery { window: one.clone(), width: DAY };
    told("days of one", || store.rollups(&query)).await?;
    let mut scan = Scan { window: all, after: None, limit: 5000, newest_first: false };
    let (clock, mut count) = (Clock::start(), 0);
    while count < 2_000_000 {
        let page = store.scan(&scan).await?;
        count += page.observations.len();
        scan.after = page.next;
        if scan.after.is_none() {
            break;
        }
    }
    println!("scan of all: {count} observations, {:.0} a second", count as f64 / clock.wall());
    let (clock, mut count) = (Clock::start(), 0);
    scan = Scan { window: one, after: None, limit: 5000, newest_first: true };
    loop {
        let page = store.scan(&scan).await?;
        count += page.observations.len();
        scan.after = page.next;
        if scan.after.is_none() {
            break;
        }
    }
    println!("scan of one: {count} observations, {:.1} ms", clock.wall() * 1e3);
    store.close().await;
    Ok(())
}

async fn told<T, F: Future<Output = Result<Vec<T>, StoreError>>>(
    what: &str,
    read: impl Fn() -> F,
) -> Result<(), StoreError> {
    for _ in 0..2 {
        let clock = Clock::start();
        let found = read().await?.len();
        println!("{what}: {found} in {:.1} ms", clock.wall() * 1e3);
    }
    Ok(())
}

/// The bytes of each table, with the pages that it has to itself.
fn tables(file: &Path, count: f64) {
    let read = || -> rusqlite::Result<Vec<(String, i64)>> {
        let connection = rusqlite::Connection::open(file)?;
        let sql = "SELECT name, sum(pgsize) FROM dbstat GROUP BY name ORDER BY 2 DESC LIMIT 6";
        connection.prepare(sql)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    };
    for (name, bytes) in read().unwrap_or_default() {
        println!("  {name}: {bytes} bytes, {:.2} a check", bytes as f64 / count);
    }
}

fn config(folder: &Path) -> Result<Box<dyn Config>, StoreError> {
    let node = Node::empty_map();
    let mut faults = Faults::default();
    let mut fields = At::new(&node, "store").map(&mut faults);
    let config = (KINDS[0].parse)(&mut fields, folder, &mut faults);
    config.ok_or_else(|| StoreError::Unusable("the default configuration is refused".into()))
}

/// Wall and processor time of the whole process.
struct Clock {
    wall: Instant,
    cpu: f64,
}

impl Clock {
    fn start() -> Self {
        Self { wall: Instant::now(), cpu: cpu() }
    }

    fn wall(&self) -> f64 {
        self.wall.elapsed().as_secs_f64()
    }

    fn cpu(&self) -> f64 {
        cpu() - self.cpu
    }
}

fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
