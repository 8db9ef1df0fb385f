//! `sitemon run`: the roles checker and writer in one process, joined by the bus.

use super::checker::{self, Checker};
use super::reload::{Changes, FileWatch};
use super::writer::{self, Rules};
use super::{ASK_AGAIN, Failure, patiently};
use crate::config::{self, Config, ConfigError, Metrics, Source, Watched};
use crate::serve::{self, Readiness, Shown};
use crate::telemetry::Telemetry;
use crate::{clock, runtime};
use anyhow::Context as _;
use sitemon_model::Timestamp;
use sitemon_store::{Access, RunStart, SiteRecord, Store, StoreError};
use std::io::Write as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The journal of runs says at least so often that the process is alive.
const JOURNAL_EVERY: Duration = Duration::from_secs(5);
/// How long the end waits for what was observed to be acknowledged, and then for the writer to end.
const STORE_PATIENCE: Duration = Duration::from_secs(30);
/// With no more sites than these, the first observation of each is told in the log.
const TELL_FIRST: usize = 100;
/// Where the sites of a file come from, in the store.
const ORIGIN: &str = "file";

/// Runs until it is told to stop by SIGTERM or SIGINT.
pub fn run(source: &Source, watch: bool) -> Result<(), Failure> {
    runtime::block_on(supervise(source, watch)).context("cannot start a runtime")?
}

async fn supervise(source: &Source, watch: bool) -> Result<(), Failure> {
    let mut signals = Signals::new().context("cannot listen to signals")?;
    let mut config = config::load(source)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(native) = &config.converted {
        tracing::info!("the configuration is one of an earlier system; its native form is:\n{native}");
    }
    // Before anything else takes time, so that no change is missed.
    let mut files = watch_files(watch, &config);
    let version = env!("CARGO_PKG_VERSION");
    let telemetry = Arc::new(Telemetry::new(version, &config.location));
    let readiness = Arc::new(Readiness::default());
    readiness.waits_for(&["store"]);
    let stop = CancellationToken::new();
    let shown =
        Shown { telemetry: telemetry.clone(), readiness: readiness.clone(), latests: Arc::new(OnceLock::new()) };
    if let Some(Metrics { listen: address, sites }) = config.metrics {
        telemetry.show_sites(sites);
        let bound = serve::listen(address, shown.clone(), stop.clone()).await;
        // A second `run` of the same file meets the first one's port before its store; only the store can name it.
        if bound.is_err()
            && let Err(error @ StoreError::Held { .. }) = config.store.open(Access::Write("run")).await
        {
            return Err(anyhow::Error::new(error).context("cannot open the store").into());
        }
        let bound = bound.with_context(|| format!("metrics.listen: cannot listen on {address}"))?;
        tracing::info!("metrics at http://{bound}/metrics");
    }

    let store = tokio::select! {
        opened = patiently(|| config.store.open(Access::Write("run"))) => opened.context("cannot open the store")?,
        () = told_to_stop(&mut signals.terminate, &mut signals.interrupt) => return Ok(()),
    };
    let bus = config.bus.open().await.context("cannot open the bus")?;
    readiness.waits_for(&["sites"]);

    let rules = Rules::default();
    rules.learn(&config.sites);
    let baselines = patiently(|| rules.seed(&*store, clock::wall())).await.context("cannot read the baselines")?;
    let start = RunStart {
        at: clock::wall(),
        location: config.location.clone(),
        pid: std::process::id(),
        version: version.to_owned(),
    };
    let journal = tokio::select! {
        begun = patiently(|| store.begin_run(&start)) => begun.context("cannot write the journal of runs")?,
        () = told_to_stop(&mut signals.terminate, &mut signals.interrupt) => {
            store.close().await;
            return Ok(());
        }
    };
    let mut writing = tokio::spawn(writer::run(writer::Options {
        bus: bus.clone(),
        store: store.clone(),
        flush: config.flush,
        retention: config.retention,
        telemetry: telemetry.clone(),
        rules: rules.clone(),
        baselines,
    }));
    let mut checker = Checker::start(checker::Options {
        location: config.location.clone(),
        limits: config.limits,
        network: config.network.clone(),
        bus: bus.clone(),
        telemetry: telemetry.clone(),
        sites: config.sites.len(),
        keep_latest: config.metrics.is_some(),
        tell_first: config.sites.len() <= TELL_FIRST,
    })
    .await?;
    // Whoever set it first asks the same lanes.
    let _ = shown.latests.set(checker.latests());

    let first = Changes::between(&[], std::mem::take(&mut config.sites));
    checker.change(first.watch, first.forget).await;
    let mut sites = first.sites;
    count_sites(&telemetry, &sites);
    telemetry.loaded(clock::wall());
    readiness.waits_for(&[]);
    tell_ready(&sites);
    save_sites(&store, &sites);

    let mut beat = tokio::time::interval(JOURNAL_EVERY);
    let ended: anyhow::Result<()> = loop {
        tokio::select! {
            () = told_to_stop(&mut signals.terminate, &mut signals.interrupt) => break Ok(()),
            error = checker.failed() => break Err(error),
            written = &mut writing => break match written {
                Ok(Ok(())) => Err(anyhow::anyhow!("the writer has ended")),
                Ok(Err(error)) => Err(error),
                Err(error) => Err(anyhow::Error::new(error).context("the writer has ended")),
            },
            _ = signals.hang_up.recv() => {}
            () = changed(&mut files) => {}
            _ = beat.tick() => {
                touch(&store, journal, None);
                continue;
            }
        }
        // Asked to read the configuration again.
        let (again, known) = (source.clone(), config.known.clone());
        match tokio::task::spawn_blocking(move || config::load_again(&again, known)).await {
            Ok(Ok(mut new)) => {
                config.known = new.known.clone();
                if let Some(files) = &mut files {
                    files.follow(std::mem::take(&mut new.origins));
                }
                sites = take_over(new, &config, sites, &checker, &rules, &telemetry).await;
                save_sites(&store, &sites);
            }
            Ok(Err(error)) => {
                if let Some(files) = &mut files {
                    // What the refused one names may be what comes next.
                    match &error {
                        ConfigError::Faults { origins, .. } => files.follow((**origins).clone()),
                        ConfigError::Missing(_) => files.accept(),
                    }
                }
                telemetry.reload_refused(&error.lines().join("\n"));
            }
            Err(error) => telemetry.reload_refused(&error.to_string()),
        }
    };

    // Without a writer nobody takes what would still be observed.
    let grace = if writing.is_finished() { Duration::ZERO } else { config.grace };
    tracing::info!("stopping: no new slots, running checks have {grace:?}");
    let stopping = finish(checker, bus, writing, grace);
    let lost = tokio::select! {
        lost = stopping => lost,
        () = told_to_stop(&mut signals.terminate, &mut signals.interrupt) => {
            return Err(Failure::Own(anyhow::anyhow!("told twice to stop: what was not stored yet is lost")));
        }
    };
    let how = match (&ended, &lost) {
        (Err(error), _) | (_, Err(error)) => format!("{error:#}"),
        _ => "stopped".to_owned(),
    };
    if let Err(error) = store.touch_run(journal, clock::wall(), Some(&how)).await {
        tracing::warn!("the journal of runs does not know how this one ended: {error}");
    }
    store.close().await;
    stop.cancel();
    ended?;
    lost?;
    tracing::info!("stopped");
    Ok(())
}

/// Stops the roles in the order of the data path, so that nothing is lost on the way.
async fn finish(
    checker: Checker,
    bus: Arc<dyn sitemon_bus::Bus>,
    writing: tokio::task::JoinHandle<anyhow::Result<()>>,
    grace: Duration,
) -> anyhow::Result<()> {
    let patience = if writing.is_finished() { Duration::ZERO } else { STORE_PATIENCE };
    let lost = checker.stop(grace, patience).await;
    bus.close().await;
    if !writing.is_finished() {
        match tokio::time::timeout(STORE_PATIENCE, writing).await {
            Ok(Ok(written)) => written?,
            Ok(Err(error)) => return Err(anyhow::Error::new(error).context("the writer has ended")),
            Err(_) => anyhow::bail!("the store could not be written to until the end: {lost} observations are lost"),
        }
    }
    anyhow::ensure!(lost == 0, "{lost} observations could not be stored and are lost");
    Ok(())
}

/// Brings a new configuration into force as far as that needs no restart; the sites from now on.
async fn take_over(
    new: Config,
    running: &Config,
    sites: Vec<Arc<Watched>>,
    checker: &Checker,
    rules: &Rules,
    telemetry: &Telemetry,
) -> Vec<Arc<Watched>> {
    for warning in &new.warnings {
        tracing::warn!("{warning}");
    }
    let fixed = [
        ("location", new.location != running.location),
        ("limits", new.limits != running.limits),
        ("network", new.network != running.network),
        ("store", new.store.show() != running.store.show() || new.flush != running.flush),
        ("retention", new.retention != running.retention),
        ("bus", new.bus.show() != running.bus.show() || new.bus.kind() != running.bus.kind()),
        ("metrics", new.metrics != running.metrics),
        ("grace", new.grace != running.grace),
    ];
    for (key, _) in fixed.iter().filter(|(_, changed)| *changed) {
        tracing::warn!("{key}: the change takes effect at the next start");
    }
    rules.learn(&new.sites);
    let before = sites;
    let certificates = checker.certificates();
    let compared = tokio::task::spawn_blocking(move || {
        certificates.read_again();
        Changes::between(&before, new.sites)
    })
    .await;
    let changes = match compared {
        Ok(changes) => changes,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    let told = changes.describe();
    checker.change(changes.watch, changes.forget).await;
    count_sites(telemetry, &changes.sites);
    telemetry.reloaded(clock::wall(), &told);
    changes.sites
}

fn count_sites(telemetry: &Telemetry, sites: &[Arc<Watched>]) {
    telemetry.sites.set(sites.iter().filter(|watched| watched.site.spec.enabled).count() as i64);
}

/// The line with the word `ready`, whatever the level of the log.
fn tell_ready(sites: &[Arc<Watched>]) {
    let count = sites.iter().filter(|watched| watched.site.spec.enabled).count();
    if tracing::enabled!(tracing::Level::INFO) {
        tracing::info!(sites = count, "ready: every slot of {count} sites is served from now on");
    } else {
        // A reader of stderr that went away must not end a process that watches.
        let _ = writeln!(anstream::stderr(), "ready");
    }
    if count == 0 {
        tracing::warn!("there are no sites to check yet; add some to the configuration and send SIGHUP");
    }
}

/// Tells the store which sites there are, without waiting for it.
fn save_sites(store: &Arc<dyn Store>, sites: &[Arc<Watched>]) {
    let records: Vec<SiteRecord> = sites
        .iter()
        .map(|watched| SiteRecord {
            name: watched.site.name.clone(),
            url: watched.site.url.clone(),
            kind: watched.site.spec.kind.clone(),
            enabled: watched.site.spec.enabled,
            interval: watched.site.spec.interval,
            labels: watched.site.spec.labels.clone(),
            present: true,
        })
        .collect();
    let store = store.clone();
    tokio::spawn(async move {
        let mut told = false;
        while let Err(error) = store.save_sites(ORIGIN, records.clone()).await {
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

/// Says in the journal that this run is alive, without waiting for it.
fn touch(store: &Arc<dyn Store>, journal: i64, ended: Option<&'static str>) {
    let (store, at): (_, Timestamp) = (store.clone(), clock::wall());
    tokio::spawn(async move {
        if let Err(error) = store.touch_run(journal, at, ended).await {
            tracing::debug!("the journal of runs cannot be written: {error}");
        }
    });
}

fn watch_files(watch: bool, config: &Config) -> Option<FileWatch> {
    if !watch {
        return None;
    }
    match FileWatch::of(&config.origins) {
        Ok(files) => Some(files),
        Err(error) => {
            tracing::error!("the configuration's files cannot be watched, use SIGHUP: {error}");
            None
        }
    }
}

/// Ends when the configuration's files have changed; never where they are not watched.
async fn changed(files: &mut Option<FileWatch>) {
    match files {
        Some(files) => files.changed().await,
        None => std::future::pending().await,
    }
}

/// Ends at SIGTERM or SIGINT.
async fn told_to_stop(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// What a process is told from outside.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }
}
