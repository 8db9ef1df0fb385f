//! The role writer: observations from the bus into the store, findings made against the baselines on the way,
//! and the upkeep of the store.

use super::patiently;
use crate::clock::Clock;
use crate::config::Watched;
use crate::telemetry::Telemetry;
use anyhow::Context as _;
use sitemon_bus::{Acknowledged, Batch, Bus, BusError, Event, Message, Offset, Partition, Reader, Topic};
use sitemon_model::site::Baseline;
use sitemon_model::time::{DAY, HOUR};
use sitemon_model::{Observation, Timestamp, time};
use sitemon_stats::Baselines;
use sitemon_store::{Advance, Retention, RollupQuery, SiteRollup, Store, StoreError, Upkeep, Window};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Observations of one transaction at most.
const BATCH_MAX: usize = 20_000;
/// Pauses between attempts while the store cannot be written to: from this...
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// ...doubling up to this.
const RETRY_LAST: Duration = Duration::from_secs(1);
/// Packing is looked after so often.
const PACK_EVERY: Duration = Duration::from_secs(10);
/// Retention is looked after so often.
const PRUNE_EVERY: Duration = Duration::from_mins(10);
/// Freed space is given back to the file system so often: what is freed by packing is needed again within hours.
const RECLAIM_EVERY: Duration = Duration::from_hours(24);

/// Which plugins of which sites have a baseline. Cheap to clone; shared with whoever reloads the configuration.
#[derive(Debug, Clone, Default)]
pub struct Rules(Arc<RwLock<HashMap<Arc<str>, SiteRules>>>);

/// The plugins of one site that have a baseline.
type SiteRules = Arc<[(Arc<str>, Baseline)]>;

impl Rules {
    /// The rules of these sites, in place of those before.
    pub fn learn(&self, sites: &[Arc<Watched>]) {
        let of = |watched: &Arc<Watched>| {
            let plugins = watched.check.plugins();
            let found = plugins.iter().filter_map(|plugin| Some((Arc::<str>::from(plugin.name()), plugin.baseline()?)));
            let found: SiteRules = found.collect();
            (!found.is_empty()).then(|| (watched.site.name.clone(), found))
        };
        let learnt = sites.iter().filter_map(of).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = learnt;
    }

    /// The rules of a site.
    fn of(&self, site: &str) -> Option<SiteRules> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(site).cloned()
    }

    /// The baselines as the store's statistics tell them: whole days, and the hours of the day that runs.
    pub async fn seed(&self, store: &dyn Store, now: Timestamp) -> Result<Baselines, StoreError> {
        let mut baselines = Baselines::new();
        let (names, window): (Vec<Arc<str>>, Option<Duration>) = {
            let rules = self.0.read().unwrap_or_else(PoisonError::into_inner);
            let windows = rules.values().flat_map(|rules| rules.iter()).map(|(_, rule)| rule.window);
            (rules.keys().cloned().collect(), windows.max())
        };
        let Some(window) = window else { return Ok(baselines) };
        let window_us = i64::try_from(time::micros(window)).unwrap_or(i64::MAX);
        let (from, today, to) = (now.plus(-window_us).floor(DAY), now.floor(DAY), now.floor(HOUR).plus(HOUR));
        for (from, to, width) in [(from, today, DAY), (today, to, HOUR)] {
            let query = RollupQuery { window: Window { sites: Some(names.clone()), from, to }, width };
            for SiteRollup { site, location, rollup } in store.rollups(&query).await? {
                if let Some(rules) = self.of(&site) {
                    baselines.seed(&site, &location, &rollup, |plugin| rule(&rules, plugin));
                }
            }
        }
        for latest in store.latest().await? {
            if self.of(&latest.site).is_some() {
                baselines.seen(&latest.site, &latest.location, latest.scheduled_at);
            }
        }
        Ok(baselines)
    }
}

/// The rule of a plugin among those of a site.
fn rule(rules: &SiteRules, plugin: &str) -> Option<Baseline> {
    rules.iter().find(|(name, _)| &**name == plugin).map(|(_, rule)| *rule)
}

/// What a writer needs from outside.
pub struct Options {
    /// The clocks.
    pub clock: Clock,
    /// Where observations come from.
    pub bus: Arc<dyn Bus>,
    /// Where they go.
    pub store: Arc<dyn Store>,
    /// The longest time that an observation waits for its transaction after it was read.
    pub flush: Duration,
    /// How long each is kept; what is kept too long by another one is removed when it comes.
    pub retention: watch::Receiver<Retention>,
    /// Counters.
    pub telemetry: Arc<Telemetry>,
    /// Which metrics are held against a baseline.
    pub rules: Rules,
    /// What they were before.
    pub baselines: Baselines,
    /// Under which name the store keeps the positions of the bus's partitions: another for each bus.
    pub stream: String,
}

/// Reads the bus to its end (it ends when it is closed) and writes what it reads. An error is one that waiting
/// does not mend.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let Options { clock, bus, store, flush, retention, telemetry, rules, baselines, stream } = options;
    let upkeep = tokio::spawn(keep_up(clock, store.clone(), retention, telemetry.clone()));
    let result = Writer { bus, store, telemetry, rules, baselines, stream }.write(flush).await;
    // It may die anywhere, and the end does not wait for it.
    upkeep.abort();
    result
}

struct Writer {
    bus: Arc<dyn Bus>,
    store: Arc<dyn Store>,
    telemetry: Arc<Telemetry>,
    rules: Rules,
    baselines: Baselines,
    stream: String,
}

/// A member of the group of writers.
struct Member {
    reader: Box<dyn Reader>,
    /// Where each partition's position in the store stands.
    expected: BTreeMap<Partition, Offset>,
}

/// What a writer meets.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// Of the bus: worth another try.
    #[error("cannot read observations: {0}")]
    Bus(#[from] BusError),
    /// Waiting does not mend it.
    #[error(transparent)]
    Own(#[from] anyhow::Error),
}

impl Writer {
    /// The name of a partition among the store's positions.
    fn source(&self, partition: Partition) -> String {
        format!("{}/{partition}", self.stream)
    }

    /// Reads and writes until the bus is closed. Where the bus fails it joins the group anew, and reads from where
    /// the store stands.
    async fn write(&mut self, flush: Duration) -> anyhow::Result<()> {
        loop {
            match self.read(flush).await {
                Ok(()) => return Ok(()),
                Err(Trouble::Bus(error)) if !matches!(error, BusError::Closed) => {
                    tracing::warn!("observations cannot be read, trying again: {error}");
                    tokio::time::sleep(RETRY_LAST).await;
                }
                Err(Trouble::Own(error)) => return Err(error),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads and writes until the bus is closed, or fails.
    async fn read(&mut self, flush: Duration) -> Result<(), Trouble> {
        let reader = self.bus.subscribe(Topic::Observations, "writers").await?;
        let mut member = Member { reader, expected: BTreeMap::new() };
        let mut batches: Vec<Batch> = Vec::new();
        let mut deadline = None;
        loop {
            let event = match deadline {
                None => Some(member.reader.next().await),
                Some(at) => tokio::time::timeout_at(at, member.reader.next()).await.ok(),
            };
            match event.transpose()? {
                Some(Event::Assigned(assigned)) => {
                    for assignment in assigned {
                        let partition = assignment.partition;
                        let source = self.source(partition);
                        let at = patiently(|| self.store.position(&source)).await.context("cannot read positions")?;
                        member.expected.insert(partition, at);
                        // Nothing of it was ever stored: what is old enough to be let go is for nobody.
                        let from = if at == 0 { assignment.first } else { at };
                        match member.reader.begin(partition, from).await {
                            Err(error @ BusError::OutOfRange { .. }) => {
                                let what = format!("the store's position in {source} cannot be gone on from");
                                return Err(anyhow::Error::new(error).context(what).into());
                            }
                            begun => begun?,
                        }
                    }
                }
                Some(Event::Revoked(revoked)) => {
                    self.append(&mut member, std::mem::take(&mut batches)).await?;
                    deadline = None;
                    for partition in revoked {
                        member.expected.remove(&partition);
                    }
                }
                Some(Event::Batch(batch)) => {
                    deadline.get_or_insert_with(|| Instant::now() + flush);
                    batches.push(batch);
                    if batches.iter().map(|batch| batch.messages.len()).sum::<usize>() >= BATCH_MAX {
                        self.append(&mut member, std::mem::take(&mut batches)).await?;
                        deadline = None;
                    }
                }
                Some(Event::Closed) => return self.append(&mut member, batches).await,
                None => {
                    self.append(&mut member, std::mem::take(&mut batches)).await?;
                    deadline = None;
                }
            }
        }
    }

    /// Appends what was read, a transaction for each partition, and acknowledges it.
    async fn append(&mut self, member: &mut Member, batches: Vec<Batch>) -> Result<(), Trouble> {
        let mut partitions: BTreeMap<Partition, (Offset, Vec<Arc<Observation>>)> = BTreeMap::new();
        for batch in batches {
            // What comes once more after it was written.
            if member.expected.get(&batch.partition).is_none_or(|expected| batch.next <= *expected) {
                continue;
            }
            let (next, observations) = partitions.entry(batch.partition).or_default();
            *next = batch.next.max(*next);
            for message in batch.messages {
                if let Message::Observation(observation) = message {
                    observations.push(self.judge(observation));
                }
            }
        }
        for (partition, (next, observations)) in partitions {
            let Some(expected) = member.expected.get(&partition).copied() else { continue };
            let advance = Advance { source: self.source(partition), expected, next };
            self.append_one(partition, observations, advance).await?;
            member.expected.insert(partition, next);
            let acknowledged = Acknowledged { next, metadata: String::new() };
            member.reader.acknowledge(partition, acknowledged).await?;
        }
        Ok(())
    }

    /// Tries until the store has it, however long that takes.
    async fn append_one(
        &mut self,
        partition: Partition,
        observations: Vec<Arc<Observation>>,
        advance: Advance,
    ) -> Result<(), Trouble> {
        let count = observations.len() as u64;
        let (mut pause, mut failing_since, mut counted) = (RETRY_FIRST, None, Instant::now());
        loop {
            let start = Instant::now();
            match self.store.append(observations.clone(), Some(advance.clone())).await {
                Ok(()) => {
                    self.telemetry.appended(count, start.elapsed());
                    self.recovered(failing_since, counted);
                    return Ok(());
                }
                Err(error @ StoreError::Unavailable(_)) => {
                    self.telemetry.append_failed(&error, failing_since.is_none(), counted.elapsed());
                    counted = Instant::now();
                    failing_since.get_or_insert(start);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_LAST);
                }
                Err(StoreError::Fenced { found, .. }) if failing_since.is_some() && found == advance.next => {
                    // An attempt that seemed to fail had come through.
                    self.recovered(failing_since, counted);
                    return Ok(());
                }
                Err(StoreError::Fenced { .. }) if self.bus.stream(Topic::Observations).is_some() => {
                    // Another writer has it, and this one was not told yet.
                    return Err(BusError::NotAssigned(partition).into());
                }
                Err(error) => return Err(anyhow::Error::new(error).context("cannot write observations").into()),
            }
        }
    }

    /// Tells that the store can be written to again, where it could not since `failing_since`.
    fn recovered(&self, failing_since: Option<Instant>, counted: Instant) {
        if let Some(since) = failing_since {
            self.telemetry.append_recovered(since.elapsed(), counted.elapsed());
        }
    }

    /// Holds an observation's metrics against their baselines.
    fn judge(&mut self, observation: Arc<Observation>) -> Arc<Observation> {
        if observation.metrics.is_empty() {
            return observation;
        }
        let Some(rules) = self.rules.of(&observation.site) else { return observation };
        let findings = self.baselines.observe(&observation, |plugin| rule(&rules, plugin));
        if findings.is_empty() {
            return observation;
        }
        let mut observation = observation;
        let with = Arc::make_mut(&mut observation);
        with.findings.extend(findings);
        self.telemetry.found(with);
        observation
    }
}

/// Packs, prunes and measures the store, for ever.
async fn keep_up(
    clock: Clock,
    store: Arc<dyn Store>,
    mut retention: watch::Receiver<Retention>,
    telemetry: Arc<Telemetry>,
) {
    let mut pack = tokio::time::interval(PACK_EVERY);
    pack.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut pruned, mut reclaimed) = (None, Instant::now());
    loop {
        tokio::select! {
            biased;
            Ok(()) = retention.changed() => pruned = None,
            _ = pack.tick() => {
                let now = clock.wall();
                upkeep(&*store, &telemetry, "pack", Upkeep::Pack { now, everything: false }).await;
            }
        }
        let now = clock.wall();
        if pruned.is_none_or(|at: Instant| at.elapsed() >= PRUNE_EVERY) {
            let retention = *retention.borrow_and_update();
            upkeep(&*store, &telemetry, "prune", Upkeep::Prune { now, retention }).await;
            pruned = Some(Instant::now());
        }
        if reclaimed.elapsed() >= RECLAIM_EVERY {
            upkeep(&*store, &telemetry, "reclaim", Upkeep::Reclaim).await;
            reclaimed = Instant::now();
        }
        if let Ok(measures) = store.measure().await {
            telemetry.store_bytes.set(measures.bytes as i64);
            telemetry.store_arrivals.set(measures.arrivals as i64);
            telemetry.store_blocks.set(measures.blocks as i64);
        }
    }
}

async fn upkeep(store: &dyn Store, telemetry: &Telemetry, kind: &'static str, piece: Upkeep) {
    let start = Instant::now();
    match store.maintain(piece).await {
        Ok(done) => telemetry.upkept(kind, start.elapsed(), done),
        Err(error) => telemetry.upkeep_failed(kind, &error),
    }
}
