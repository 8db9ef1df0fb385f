//! The roles checker and writer in one process, joined by a bus, and the journal that says when they were.

use super::checker::{self, Checker};
use super::reload::Changes;
use super::writer::{self, Rules};
use super::{ASK_AGAIN, patiently};
use crate::clock::Clock;
use crate::config::{Limits, Watched};
use crate::telemetry::Telemetry;
use anyhow::Context as _;
use sitemon_bus::{Bus, Topic};
use sitemon_probe::http::Certificates;
use sitemon_probe::policy::Policy;
use sitemon_store::{Retention, RunStart, SiteRecord, Store, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// However short the grace is, or whatever the running checks left of it: what was observed has so long to be stored.
const DELIVERY: Duration = Duration::from_secs(2);
/// A writer whose store took nothing until then, and such a store, have so long each to end.
const CLOSING: Duration = Duration::from_secs(1);
/// Where the sites of a file come from, in the store.
const ORIGIN: &str = "file";

/// What both roles need from outside.
pub struct Options {
    /// What the checker needs; the writer has clocks, bus and counters from it.
    pub checker: checker::Options,
    /// Where observations go.
    pub store: Arc<dyn Store>,
    /// How long each is kept.
    pub retention: Retention,
    /// The version of the program, for the journal.
    pub version: &'static str,
}

/// Both roles, while they run.
pub struct Local {
    clock: Clock,
    bus: Arc<dyn Bus>,
    store: Arc<dyn Store>,
    telemetry: Arc<Telemetry>,
    checker: Checker,
    writing: Writing,
    rules: Rules,
    retention: watch::Sender<Retention>,
    /// This run in the journal.
    run: i64,
    /// The sites that are watched, sorted by name.
    sites: Vec<Arc<Watched>>,
}

impl Local {
    /// Writes the start into the journal of runs, waiting for a store that is away, and starts both roles with
    /// these sites; every slot of theirs is served when this returns.
    pub async fn start(options: Options, sites: Vec<Watched>) -> anyhow::Result<Self> {
        let Options { checker, store, retention, version } = options;
        let (flush, location) = (checker.flush, checker.location.clone());
        let (clock, bus, telemetry) = (checker.clock.clone(), checker.bus.clone(), checker.telemetry.clone());
        let first = Changes::between(&[], sites);
        let rules = Rules::default();
        rules.learn(&first.sites);
        let baselines = patiently(|| rules.seed(&*store, clock.wall())).await.context("cannot read the baselines")?;
        let (retention, keeps) = watch::channel(retention);
        let start = RunStart {
            at: clock.wall(),
            location: location.clone(),
            pid: std::process::id(),
            version: version.to_owned(),
        };
        let run = patiently(|| store.begin_run(&start)).await.context("cannot write the journal of runs")?;
        let writing = Writing(Some(tokio::spawn(writer::run(writer::Options {
            clock: clock.clone(),
            bus: bus.clone(),
            store: store.clone(),
            flush: flush.saturating_sub(checker::held(flush)),
            retention: keeps,
            telemetry: telemetry.clone(),
            rules: rules.clone(),
            baselines,
            // A store that several processes share has one bus in memory for each location.
            stream: bus.stream(Topic::Observations).unwrap_or_else(|| format!("observations/{location}")),
        }))));
        let checker = Checker::start(checker)?;
        let sites = Vec::new();
        let mut local = Self { clock, bus, store, telemetry, checker, writing, rules, retention, run, sites };
        local.change(first).await;
        local.telemetry.loaded(local.clock.wall());
        Ok(local)
    }

    /// The sites that are watched, sorted by name.
    pub fn sites(&self) -> &[Arc<Watched>] {
        &self.sites
    }

    /// A handle by which others ask for the last observations.
    pub fn latests(&self) -> checker::Latests {
        self.checker.latests()
    }

    /// What is known of certificates, to read the machine's roots again.
    pub fn certificates(&self) -> Arc<Certificates> {
        self.checker.certificates()
    }

    /// Brings other limits and another policy into force for checks that begin from now on, with so many sites to
    /// come, and keeps what is stored so long; ends when they are.
    pub async fn limit(&mut self, limits: Limits, network: &Policy, retention: Retention, sites: usize) {
        self.checker.limit(limits, network, sites).await;
        self.retention.send_if_modified(|before| std::mem::replace(before, retention) != retention);
    }

    /// Brings other sites into force, of which [`Changes::between`] told what they change; ends when they are.
    pub async fn change(&mut self, changes: Changes) {
        self.rules.learn(&changes.sites);
        self.checker.change(changes.watch, changes.forget).await;
        self.sites = changes.sites;
        self.telemetry.sites.set(self.enabled() as i64);
        self.save_sites();
    }

    /// How many sites are checked.
    pub fn enabled(&self) -> usize {
        self.sites.iter().filter(|watched| watched.site.spec.enabled).count()
    }

    /// Says in the journal that this run is alive, without waiting for it.
    pub fn beat(&self) {
        let (store, run, at) = (self.store.clone(), self.run, self.clock.wall());
        tokio::spawn(async move {
            if let Err(error) = store.touch_run(run, at, None).await {
                tracing::debug!("the journal of runs cannot be written: {error}");
            }
        });
    }

    /// Ends when a role has ended although nobody asked it to.
    pub async fn failed(&mut self) -> anyhow::Error {
        tokio::select! {
            biased;
            error = self.checker.failed() => error,
            ended = self.writing.ended() => ended.err().unwrap_or_else(|| anyhow::anyhow!("the writer has ended")),
        }
    }

    /// Stops the roles in the order of the data path, so that nothing is lost on the way; writes into the journal
    /// how the run ended, and closes the store. A store that is away is waited for until the grace is over, and no
    /// longer. An error is `ended`, why it stops, or else what was lost.
    pub async fn stop(self, grace: Duration, ended: anyhow::Result<()>) -> anyhow::Result<()> {
        let Self { clock, bus, store, checker, writing, run, .. } = self;
        // Without a writer nobody takes what would still be observed.
        let grace = if writing.0.is_none() { Duration::ZERO } else { grace };
        tracing::info!("stopping: no new slots, running checks have {grace:?}");
        let stopped = stop_roles(checker, bus, writing, grace).await;
        let how = match (&ended, &stopped) {
            (Err(error), _) | (_, Err(error)) => format!("{error:#}"),
            _ => "stopped".to_owned(),
        };
        let away = stopped.is_err();
        let closed = async {
            if let Err(error) = store.touch_run(run, clock.wall(), Some(&how)).await {
                tracing::warn!("the journal of runs does not know how this one ended: {error}");
            }
            store.close().await;
        };
        if away {
            // What it does not know by then it will not.
            let _ = tokio::time::timeout(CLOSING, closed).await;
        } else {
            closed.await;
        }
        ended.and(stopped)
    }

    /// Tells the store which sites there are, without waiting for it.
    fn save_sites(&self) {
        let (store, sites) = (self.store.clone(), self.sites.clone());
        tokio::spawn(async move {
            let records = || -> Vec<SiteRecord> { sites.iter().map(|watched| watched.record()).collect() };
            let mut told = false;
            while let Err(error) = store.save_sites(ORIGIN, records()).await {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!("the store does not know the sites yet: {error}");
                }
                if !matches!(error, StoreError::Unavailable(_)) {
                    return;
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
        });
    }
}

/// The writer's task, until it has ended.
struct Writing(Option<JoinHandle<anyhow::Result<()>>>);

impl Writing {
    /// How it ended; never when that has been told.
    async fn ended(&mut self) -> anyhow::Result<()> {
        let Some(task) = &mut self.0 else { return std::future::pending().await };
        let ended = task.await;
        self.0 = None;
        ended.context("the writer has ended")?
    }

    fn abort(self) {
        if let Some(task) = self.0 {
            task.abort();
        }
    }
}

async fn stop_roles(checker: Checker, bus: Arc<dyn Bus>, mut writing: Writing, grace: Duration) -> anyhow::Result<()> {
    let delivery = if writing.0.is_none() { Duration::ZERO } else { DELIVERY };
    let hurry = checker.hurry();
    let mut stopping = std::pin::pin!(checker.stop(grace, delivery));
    let lost = tokio::select! {
        biased;
        lost = &mut stopping => lost,
        ended = writing.ended() => {
            // Nobody takes anymore what is observed.
            hurry.now().await;
            let lost = stopping.await;
            return ended.and_then(|()| told(lost));
        }
    };
    bus.close().await;
    if writing.0.is_some() {
        let patience = if lost == 0 { DELIVERY } else { CLOSING };
        if let Ok(ended) = tokio::time::timeout(patience, writing.ended()).await {
            ended?;
        } else {
            writing.abort();
            anyhow::ensure!(lost > 0, "the store could not be written to until the end");
        }
    }
    told(lost)
}

/// An error that says how many observations were lost, where any were.
fn told(lost: u64) -> anyhow::Result<()> {
    anyhow::ensure!(lost == 0, "{lost} observations could not be stored until the end, and are lost");
    Ok(())
}
