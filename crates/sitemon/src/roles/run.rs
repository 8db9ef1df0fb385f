//! `sitemon run`: the roles checker and writer in one process, joined by the bus.

use super::checker::{self, Lanes};
use super::local::{self, Local};
use super::reload::{self, Changes, FileWatch};
use super::{Failure, patiently};
use crate::clock::{self, Clock};
use crate::config::{self, Config, ConfigError, Metrics, Source};
use crate::runtime;
use crate::serve::{Readiness, Server, Shown};
use crate::telemetry::Telemetry;
use anyhow::Context as _;
use sitemon_model::unit::show_count;
use sitemon_store::{Access, StoreError};
use std::io::Write as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The journal of runs says at least so often that the process is alive.
const JOURNAL_EVERY: Duration = Duration::from_secs(5);
/// Being told to stop again counts after so long.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// With no more sites than these, the first observation of each is told in the log.
const TELL_FIRST: usize = 100;
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
    let latests = Arc::new(OnceLock::new());
    let shown = Shown { telemetry: telemetry.clone(), readiness: readiness.clone(), latests: latests.clone() };
    let mut server = Server::new(shown);
    if let Some(Metrics { listen: address, sites }) = config.metrics {
        telemetry.show_sites(Some(sites));
        let bound = server.listen(Some(address)).await;
        // A second `run` of the same file meets the first one's port before its store; only the store can name it.
        if bound.is_err()
            && let Err(error @ StoreError::Held { .. }) = config.store.open(Access::Write("run")).await
        {
            return Err(anyhow::Error::new(error).context("cannot open the store").into());
        }
        bound.with_context(|| format!("metrics.listen: cannot listen on {address}"))?;
    }

    let store = tokio::select! {
        opened = patiently(|| config.store.open(Access::Write("run"))) => opened.context("cannot open the store")?,
        () = told_to_stop(&mut signals.terminate, &mut signals.interrupt) => return Ok(()),
    };
    readiness.waits_for(&["bus"]);
    let bus = tokio::select! {
        opened = patiently(|| config.bus.open()) => opened.context("cannot open the bus"),
        () = told_to_stop(&mut signals.terminate, &mut signals.interrupt) => {
            store.close().await;
            return Ok(());
        }
    };
    let bus = match bus {
        Ok(bus) => bus,
        Err(error) => {
            store.close().await;
            return Err(error.into());
        }
    };
    // It is there for certain when the start stands in its journal.
    readiness.waits_for(&["store", "sites"]);

    let options = local::Options {
        checker: checker::Options {
            clock: Clock::System,
            lanes: Lanes::Threads,
            pending_max: checker::PENDING_MAX,
            location: config.location.clone(),
            flush: config.flush,
            limits: config.limits,
            network: config.network.clone(),
            bus,
            telemetry: telemetry.clone(),
            sites: config.sites.len(),
            tell_first: config.sites.len() <= TELL_FIRST,
        },
        store: store.clone(),
        retention: config.retention,
        version,
    };
    let mut local = tokio::select! {
        started = Local::start(options, std::mem::take(&mut config.sites)) => started?,
        () = told_to_stop(&mut signals.terminate, &mut signals.interrupt) => {
            store.close().await;
            return Ok(());
        }
    };
    // Whoever set it first asks the same lanes.
    let _ = latests.set(local.latests());
    readiness.waits_for(&[]);
    tell_ready(local.enabled());

    let mut beat = tokio::time::interval(JOURNAL_EVERY);
    let ended: anyhow::Result<()> = loop {
        tokio::select! {
            () = told_to_stop(&mut signals.terminate, &mut signals.interrupt) => break Ok(()),
            error = local.failed() => break Err(error),
            _ = signals.hang_up.recv() => {}
            () = changed(&mut files) => {}
            _ = beat.tick() => {
                local.beat();
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
                take_over(new, &mut config, &mut local, &mut server, &telemetry).await;
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

    tokio::select! {
        stopped = local.stop(config.grace, ended) => stopped?,
        () = told_again(&mut signals.terminate, &mut signals.interrupt) => {
            return Err(Failure::Own(anyhow::anyhow!("told twice to stop: what was not stored yet is lost")));
        }
    }
    tracing::info!("stopped");
    Ok(())
}

/// Brings a new configuration into force as far as that needs no restart.
async fn take_over(new: Config, running: &mut Config, local: &mut Local, server: &mut Server, telemetry: &Telemetry) {
    for warning in &new.warnings {
        tracing::warn!("{warning}");
    }
    let keys = reload::keys_between(&running.shown, &new.shown);
    let (mut keys, later): (Vec<String>, Vec<String>) = keys.into_iter().partition(|key| comes_into_force(key));
    // A bus in memory needs no spool.
    for key in later.iter().filter(|key| !key.starts_with("spool.") || running.bus.kind() != "local") {
        tracing::warn!("{key}: the change takes effect at the next start");
    }
    if let Err(error) = server.listen(new.metrics.map(|metrics| metrics.listen)).await {
        let stays = server.bound().map_or_else(|| "nowhere".to_owned(), |bound| format!("at http://{bound}/metrics"));
        tracing::error!("metrics.listen: cannot be taken over, metrics are served {stays}: {error}");
        keys.retain(|key| key != "metrics.listen");
    }
    telemetry.show_sites(new.metrics.map(|metrics| metrics.sites));
    // Before the sites: a new one shall not be reached against what the same file refuses.
    local.limit(new.limits, &new.network, new.retention, new.sites.len()).await;
    running.grace = new.grace;
    running.shown.retain(|key, _| !comes_into_force(key));
    running.shown.extend(new.shown.into_iter().filter(|(key, _)| comes_into_force(key)));
    let before = local.sites().to_vec();
    let certificates = local.certificates();
    let compared = tokio::task::spawn_blocking(move || {
        certificates.read_again();
        Changes::between(&before, new.sites)
    })
    .await;
    let changes = match compared {
        Ok(changes) => changes,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    let mut told = changes.describe();
    if !keys.is_empty() {
        told = format!("{told}; also changed: {}", keys.join(", "));
    }
    local.change(changes).await;
    telemetry.reloaded(clock::wall(), &told);
}

/// Whether a change of this key comes into force while roles run; what else stands at the top, and is no list of sites,
/// is what they were built from.
fn comes_into_force(key: &str) -> bool {
    let top = key.split('.').next().unwrap_or_default();
    matches!(top, "limits" | "network" | "retention" | "metrics" | "grace")
}

/// The line with the word `ready`, whatever the level of the log.
fn tell_ready(count: usize) {
    if tracing::enabled!(tracing::Level::INFO) {
        tracing::info!(
            sites = count,
            "ready: every slot of {} is served from now on",
            show_count(count as u64, "site")
        );
    } else {
        // A reader of stderr that went away must not end a process that watches.
        let _ = writeln!(anstream::stderr(), "ready");
    }
    if count == 0 {
        tracing::warn!("there are no sites to check yet; add some to the configuration and send SIGHUP");
    }
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

/// Ends when it is told to stop once more. Not at once: who ends a group of processes, as timeout(1) does, often tells
/// each of them twice, and means it once.
async fn told_again(terminate: &mut Signal, interrupt: &mut Signal) {
    let since = tokio::time::Instant::now();
    loop {
        told_to_stop(terminate, interrupt).await;
        if since.elapsed() >= AGAIN_AFTER {
            return;
        }
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
