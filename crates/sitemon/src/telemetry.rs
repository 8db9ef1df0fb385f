//! What the roles tell about themselves: one function for each thing that happens, which counts it and, where
//! a person should know, says it in the log. Names in `probe_*` mean what they mean in
//! `blackbox_exporter`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use sitemon_model::unit::show_count;
use sitemon_model::{Body, Code, Observation, Phase, State, Timestamp, Verdict};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The verdicts in the order of their numbers.
const VERDICTS: [&str; 4] = ["up", "degraded", "down", "unknown"];

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VerdictLabel {
    verdict: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CauseLabel {
    cause: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// Slots that were recorded without a check are told at most so often.
const TELL_SKIPPED_EVERY: Duration = Duration::from_secs(10);

/// A pause is told when no lane has noticed it for so long: each notices it for itself, and slots of many sites that
/// passed meanwhile are recorded piece by piece.
const PAUSE_NOTICED_WITHIN: Duration = Duration::from_millis(500);

/// Slots that were recorded without a check, and not told yet.
#[derive(Debug, Default)]
struct Untold {
    slots: u64,
    /// Whose the last one was, and why.
    last: Option<(Arc<str>, &'static str)>,
    told_at: Option<Instant>,
}

/// A pause of the process that was not told yet.
#[derive(Debug)]
struct Pause {
    us: u64,
    /// Slots that are recorded as unknown.
    stored: u64,
    /// Older ones.
    absent: u64,
    noticed: Instant,
}

/// All counters of a process. Cheap to share; the ones on the way of every check are looked up once.
#[derive(Debug)]
pub struct Telemetry {
    registry: Registry,
    checks: [Counter; 4],
    causes: Family<CauseLabel, Counter>,
    verdict_changes: Counter,
    phases: [Histogram; 7],
    response_time: Histogram,
    lag: Histogram,
    /// Checks that run.
    pub in_flight: Gauge,
    /// Checks whose turn has come and that wait for a limit of checks in flight.
    pub waiting: Gauge,
    /// Sites that are checked.
    pub sites: Gauge,
    /// Series of single sites are shown while there are no more sites than these; negative: never.
    sites_shown_max: AtomicI64,
    slots_passed: Counter,
    clock_steps: Counter,
    untold: Mutex<Untold>,
    pause: Mutex<Option<Pause>>,
    /// Whether the store does not take batches now.
    away: AtomicBool,
    /// Observations that no acknowledgement has come for.
    pub unacknowledged: Gauge,
    dropped: Counter,
    /// Transactions that appended observations.
    pub batches: Counter,
    /// Observations appended.
    pub appended: Counter,
    append_seconds: Histogram,
    store_failures: Counter,
    store_away: Counter<f64, AtomicU64>,
    upkeep_failures: Counter,
    /// Bytes of the store's files.
    pub store_bytes: Gauge,
    /// Observations stored and not packed.
    pub store_arrivals: Gauge,
    /// Blocks stored.
    pub store_blocks: Gauge,
    packed: Counter,
    removed: Counter,
    upkeep: Family<KindLabel, Counter<f64, AtomicU64>>,
    findings: Counter,
    reloads: Family<ResultLabel, Counter>,
    reloaded_at: Gauge,
}

/// Bounds of a histogram of seconds: from 50 µs, each a third more than twice the one before, to 70 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_05, 2.36, 17))
}

impl Telemetry {
    /// All counters at zero.
    pub fn new(version: &str, location: &str) -> Self {
        let mut registry = Registry::default();
        let r = &mut registry;

        let info = vec![("version", version.to_owned()), ("location", location.to_owned())];
        r.register("sitemon_build", "The version that runs, and where", Info::new(info));

        let checks = Family::<VerdictLabel, Counter>::default();
        r.register("sitemon_checks", "Observations made, by verdict", checks.clone());
        let causes = Family::default();
        r.register("sitemon_causes", "Causes given, by code", causes.clone());
        let phases = Family::<PhaseLabel, Histogram>::new_with_constructor(seconds);
        r.register_with_unit("sitemon_phase_duration", "Times of phases that were done", Unit::Seconds, phases.clone());
        let response_time = seconds();
        r.register_with_unit("sitemon_response_time", "Response times", Unit::Seconds, response_time.clone());
        let lag = Histogram::new(exponential_buckets(0.000_05, 2.0, 18));
        let help = "From the slot to the start of the check, less the jitter";
        r.register_with_unit("sitemon_lag", help, Unit::Seconds, lag.clone());

        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            r.register(name, help, gauge.clone());
            gauge
        };
        let in_flight = gauge("sitemon_checks_in_flight", "Checks that run");
        let waiting = gauge("sitemon_checks_waiting", "Checks that wait for a limit of checks in flight");
        let sites = gauge("sitemon_sites", "Sites that are checked");
        let unacknowledged = gauge("sitemon_observations_unacknowledged", "Observations that are not stored yet");
        let store_bytes = gauge("sitemon_store_bytes", "Bytes of the store's files");
        let store_arrivals = gauge("sitemon_store_arrivals", "Observations stored and not packed");
        let store_blocks = gauge("sitemon_store_blocks", "Blocks of packed observations");
        let reloaded_at = gauge(
            "sitemon_config_last_reload_success_timestamp_seconds",
            "When the configuration that is in force was read, in seconds since the epoch",
        );

        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            r.register(name, help, counter.clone());
            counter
        };
        let slots_passed = counter(
            "sitemon_slots_passed",
            "Slots older than an hour that passed while the process was paused, and stay without observation",
        );
        let clock_steps = counter("sitemon_clock_steps", "Steps of the system's clock");
        let dropped = counter("sitemon_observations_dropped", "Observations given up because the bound was reached");
        let batches = counter("sitemon_store_batches", "Transactions that appended observations");
        let appended = counter("sitemon_store_observations", "Observations appended to the store");
        let store_failures = counter("sitemon_store_failures", "Appends that failed and were tried again");
        let upkeep_failures = counter("sitemon_store_upkeep_failures", "Pieces of upkeep that were put off");
        let verdict_changes = counter("sitemon_verdict_changes", "Changes of a verdict, or of its set of causes");
        let packed = counter("sitemon_store_packed", "Observations packed into blocks");
        let removed = counter("sitemon_store_removed", "Rows removed by retention");
        let findings = counter("sitemon_findings", "Findings against a baseline");

        let store_away = Counter::default();
        let help = "Time during which the store could not be written to";
        r.register_with_unit("sitemon_store_away", help, Unit::Seconds, store_away.clone());
        let append_seconds = seconds();
        r.register_with_unit("sitemon_store_append", "Times of appends", Unit::Seconds, append_seconds.clone());
        let upkeep = Family::default();
        r.register("sitemon_store_upkeep_seconds", "Time spent in upkeep of the store", upkeep.clone());
        let reloads = Family::default();
        r.register("sitemon_reloads", "Reloads of the configuration, by result", reloads.clone());

        Self {
            checks: VERDICTS.map(|verdict| checks.get_or_create_owned(&VerdictLabel { verdict })),
            causes,
            verdict_changes,
            phases: Phase::ALL.map(|phase| phases.get_or_create_owned(&PhaseLabel { phase: phase.as_str() })),
            response_time,
            lag,
            in_flight,
            waiting,
            sites,
            sites_shown_max: AtomicI64::new(-1),
            slots_passed,
            clock_steps,
            untold: Mutex::default(),
            pause: Mutex::default(),
            away: AtomicBool::new(false),
            unacknowledged,
            dropped,
            batches,
            appended,
            append_seconds,
            store_failures,
            store_away,
            upkeep_failures,
            store_bytes,
            store_arrivals,
            store_blocks,
            packed,
            removed,
            upkeep,
            findings,
            reloads,
            reloaded_at,
            registry,
        }
    }

    /// Shows series of single sites, as long as there are no more sites than these; at first, and with `None`, never.
    pub fn show_sites(&self, most: Option<usize>) {
        let most = most.map_or(-1, |most| i64::try_from(most).unwrap_or(i64::MAX));
        self.sites_shown_max.store(most, Ordering::Relaxed);
    }

    /// Whether series of single sites are shown now.
    pub fn shows_sites(&self) -> bool {
        self.sites.get() <= self.sites_shown_max.load(Ordering::Relaxed)
    }

    /// Everything in the text form of `OpenMetrics`, with these lines before its end.
    pub fn encode(&self, more: &str) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode_registry(&mut text, &self.registry);
        text.push_str(more);
        text.push_str("# EOF\n");
        text
    }

    /// A check ended, or a slot was recorded without one.
    pub fn observed(&self, observation: &Observation, jitter_us: u64) {
        self.checks[usize::from(observation.verdict.number())].inc();
        for cause in observation.verdict.causes() {
            self.causes.get_or_create(&CauseLabel { cause: cause.code.as_str() }).inc();
        }
        if let Some(lag) = observation.lag_us() {
            self.lag.observe((lag - jitter_us as i64).max(0) as f64 / 1e6);
        }
        if let Some(us) = observation.response_time_us {
            self.response_time.observe(us as f64 / 1e6);
        }
        for hop in &observation.hops {
            for (phase, time) in hop.phases.reached().filter(|(_, time)| time.state == State::Done) {
                self.phases[phase as usize].observe(time.us as f64 / 1e6);
            }
        }
    }

    /// The verdict of a site, or its set of causes, is not what it was.
    pub fn verdict_changed(&self, observation: &Observation) {
        self.verdict_changes.inc();
        let site = &*observation.site;
        let verdict = observation.verdict.as_str();
        let response_ms = observation.response_time_us.map(|us| us as f64 / 1000.0);
        let causes = observation.verdict.causes().iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        match &observation.verdict {
            Verdict::Up => tracing::info!(site, verdict, response_ms, "{site} is up"),
            Verdict::Degraded(_) => tracing::warn!(site, verdict, response_ms, "{site} is degraded: {causes}"),
            Verdict::Down(_) => tracing::warn!(site, verdict, "{site} is down: {causes}"),
            Verdict::Unknown(_) => tracing::warn!(site, verdict, "{site} is unknown: {causes}"),
        }
    }

    /// A slot was recorded without a check; told by [`Telemetry::tell_gathered`].
    pub fn skipped(&self, site: &Arc<str>, why: &'static str) {
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        untold.slots += 1;
        untold.last = Some((site.clone(), why));
    }

    /// Tells what lanes noticed each for itself, and what comes by thousands a second: pauses, and slots that were
    /// recorded without a check; all of it where it is the last time.
    pub fn tell_gathered(&self, last: bool) {
        self.tell_paused(last);
        self.tell_skipped(last);
    }

    fn tell_skipped(&self, last: bool) {
        let (slots, last) = {
            let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
            if !last && untold.told_at.is_some_and(|at| at.elapsed() < TELL_SKIPPED_EVERY) {
                return;
            }
            let Some(last) = untold.last.take() else { return };
            untold.told_at = Some(Instant::now());
            (std::mem::take(&mut untold.slots), last)
        };
        let (site, why) = (&*last.0, last.1);
        tracing::warn!(slots, site, "skipped {}, the last of {site}: {why}", show_count(slots, "slot"));
    }

    /// The clock of the system was set.
    pub fn clock_stepped(&self, by_us: i64) {
        self.clock_steps.inc();
        let seconds = by_us as f64 / 1e6;
        let way =
            if by_us < 0 { "back: no slot is served twice" } else { "forwards: the schedule goes on at the next slot" };
        tracing::warn!(seconds, "the system's clock was set {way} ({seconds:+.3} s)");
    }

    /// The process did not run for a while; told by [`Telemetry::tell_gathered`].
    pub fn paused(&self, us: u64, stored: u64, absent: u64) {
        self.slots_passed.inc_by(absent);
        let mut pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        let before = pause.take().map_or((0, 0, 0), |pause| (pause.us, pause.stored, pause.absent));
        let (us, stored, absent) = (before.0.max(us), before.1 + stored, before.2 + absent);
        *pause = Some(Pause { us, stored, absent, noticed: Instant::now() });
    }

    fn tell_paused(&self, last: bool) {
        let over = |pause: &mut Pause| last || pause.noticed.elapsed() >= PAUSE_NOTICED_WITHIN;
        let pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner).take_if(over);
        let Some(Pause { us, stored, absent, .. }) = pause else { return };
        let seconds = us as f64 / 1e6;
        tracing::warn!(
            seconds,
            stored,
            absent,
            "the process was paused, starved or suspended for {seconds:.1} s: {stored} slots are unknown, {absent} older ones stay absent"
        );
    }

    /// Observations were given up.
    pub fn dropped(&self, count: u64) {
        if self.dropped.get() == 0 {
            tracing::error!(count, "observations are given up: the store does not take them");
        }
        self.dropped.inc_by(count);
    }

    /// A batch is in the store.
    pub fn appended(&self, observations: u64, took: Duration) {
        self.batches.inc();
        self.appended.inc_by(observations);
        self.append_seconds.observe(took.as_secs_f64());
    }

    /// The store could not take a batch, and was away for so long since that was counted before; said once until it
    /// can again.
    pub fn append_failed(&self, error: &dyn std::fmt::Display, first: bool, away: Duration) {
        self.store_failures.inc();
        self.store_away.inc_by(away.as_secs_f64());
        self.away.store(true, Ordering::Relaxed);
        if first {
            tracing::warn!("the store cannot be written to, trying again: {error}");
        }
    }

    /// Whether the store does not take batches now.
    pub fn is_store_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// The store takes batches again; it was away for so long since that was counted before.
    pub fn append_recovered(&self, after: Duration, away: Duration) {
        self.store_away.inc_by(away.as_secs_f64());
        self.away.store(false, Ordering::Relaxed);
        tracing::info!("the store can be written to again, after {:.1} s", after.as_secs_f64());
    }

    /// Findings were made against a baseline.
    pub fn found(&self, observation: &Observation) {
        for finding in &observation.findings {
            self.findings.inc();
            tracing::info!(
                site = &*observation.site,
                metric = &*finding.metric,
                "{}: {}",
                observation.site,
                finding.message
            );
        }
    }

    /// A piece of upkeep was done.
    pub fn upkept(&self, kind: &'static str, took: Duration, done: sitemon_store::Upkept) {
        self.upkeep.get_or_create(&KindLabel { kind }).inc_by(took.as_secs_f64());
        self.packed.inc_by(done.arrivals);
        self.removed.inc_by(done.removed);
        tracing::debug!(kind, ?took, ?done, "upkeep");
    }

    /// A piece of upkeep could not be done now.
    pub fn upkeep_failed(&self, kind: &'static str, error: &dyn std::fmt::Display) {
        self.upkeep_failures.inc();
        tracing::warn!("upkeep of the store ({kind}) is put off: {error}");
    }

    /// The configuration was read again.
    pub fn reloaded(&self, at: Timestamp, changed: &str) {
        self.reloads.get_or_create(&ResultLabel { result: "done" }).inc();
        self.loaded(at);
        tracing::info!("the configuration was read again: {changed}");
    }

    /// The configuration was read.
    pub fn loaded(&self, at: Timestamp) {
        self.reloaded_at.set(at.micros() / 1_000_000);
    }

    /// The configuration could not be read again.
    pub fn reload_refused(&self, faults: &str) {
        self.reloads.get_or_create(&ResultLabel { result: "refused" }).inc();
        tracing::error!("the configuration has faults, the running one stays:\n{faults}");
    }
}

/// What is kept of the last observation of a site for `probe_*`.
#[derive(Debug, Clone)]
pub struct Latest {
    verdict: u8,
    status: Option<u16>,
    duration_us: Option<u64>,
    hops: u32,
    phases: [Option<u64>; 7],
    http_version: Option<&'static str>,
    ip: Option<u8>,
    body: Option<Body>,
    pattern: bool,
    not_after: Option<Timestamp>,
    tls: bool,
}

impl Latest {
    /// Of this observation.
    pub fn of(observation: &Observation) -> Self {
        let mut phases = [None; 7];
        for (phase, time) in observation.hops.iter().flat_map(|hop| hop.phases.reached()) {
            *phases[phase as usize].get_or_insert(0) += time.us;
        }
        let last = observation.hops.last();
        Self {
            verdict: observation.verdict.number(),
            status: observation.status,
            duration_us: observation
                .response_time_us
                .or_else(|| (!observation.hops.is_empty()).then(|| phases.iter().flatten().sum())),
            hops: observation.hops.len() as u32,
            phases,
            http_version: last.and_then(|hop| hop.http_version).map(sitemon_model::HttpVersion::as_str),
            ip: last.and_then(|hop| hop.address).map(|address| if address.is_ipv4() { 4 } else { 6 }),
            body: observation.body,
            pattern: observation
                .verdict
                .causes()
                .iter()
                .any(|cause| matches!(cause.code, Code::BodyPatternMissing | Code::BodyPatternPresent)),
            not_after: observation.certificate.as_ref().map(|certificate| certificate.not_after),
            tls: last.and_then(|hop| hop.url.get(..6)).is_some_and(|start| start.eq_ignore_ascii_case("https:")),
        }
    }
}

/// The `probe_*` lines of the sites' last observations. `instance` is the name of the site.
pub fn encode_latest(mut sites: Vec<(Arc<str>, Latest)>) -> String {
    if sites.is_empty() {
        return String::new();
    }
    sites.sort_by(|a, b| a.0.cmp(&b.0));
    let mut text = String::new();
    let escape = |name: &str| name.replace('\\', "\\\\").replace('"', "\\\"");
    let mut family = |name: &str, help: &str, lines: &dyn Fn(&Latest) -> Vec<(String, f64)>| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (site, latest) in &sites {
            for (labels, value) in lines(latest) {
                let _ = writeln!(text, "{name}{{instance=\"{}\"{labels}}} {value}", escape(site));
            }
        }
    };
    let plain = |value: Option<f64>| value.map(|value| (String::new(), value)).into_iter().collect::<Vec<_>>();
    let us = |value: u64| value as f64 / 1e6;

    family("probe_success", "Whether the site is up or degraded (1) or not (0)", &|latest| {
        plain(Some(if latest.verdict <= 1 { 1.0 } else { 0.0 }))
    });
    family("sitemon_verdict", "The verdict: 1 for the one that holds", &|latest| {
        let verdict = VERDICTS[usize::from(latest.verdict)];
        vec![(format!(",verdict=\"{verdict}\""), 1.0)]
    });
    family("probe_duration_seconds", "How long the check took", &|latest| plain(latest.duration_us.map(us)));
    family("probe_dns_lookup_time_seconds", "Time of name lookups", &|latest| {
        plain(latest.phases[Phase::Dns as usize].map(us))
    });
    family("probe_http_status_code", "The status of the answer; 0 where there was none", &|latest| {
        plain(Some(latest.status.map_or(0.0, f64::from)))
    });
    family("probe_http_version", "The protocol version of the answer", &|latest| {
        plain(latest.http_version.and_then(|version| version.parse().ok()))
    });
    family("probe_http_redirects", "Redirects that were followed", &|latest| {
        plain(Some(f64::from(latest.hops.saturating_sub(1))))
    });
    family("probe_http_ssl", "Whether the last hop used TLS", &|latest| plain(Some(f64::from(u8::from(latest.tls)))));
    family("probe_http_uncompressed_body_length", "Bytes of the decoded body", &|latest| {
        plain(latest.body.map(|body| body.decoded_bytes as f64))
    });
    family("probe_http_content_length", "Bytes of the body as they came", &|latest| {
        plain(latest.body.map(|body| body.wire_bytes as f64))
    });
    family("probe_failed_due_to_regex", "Whether a pattern was missing, or there against expectation", &|latest| {
        plain(Some(f64::from(u8::from(latest.pattern))))
    });
    family("probe_ip_protocol", "The version of the address's protocol, of the last hop", &|latest| {
        plain(latest.ip.map(f64::from))
    });
    family(
        "probe_ssl_earliest_cert_expiry",
        "The end of the certificate's validity, in seconds since the epoch",
        &|latest| plain(latest.not_after.map(|at| (at.micros() / 1_000_000) as f64)),
    );
    // blackbox_exporter's names for the phases: what it calls processing lasts from the connection to the first byte of
    // the answer, so it holds our send; and a proxy belongs to its connect.
    let named: [(&str, &[Phase]); 5] = [
        ("resolve", &[Phase::Dns]),
        ("connect", &[Phase::Connect, Phase::Proxy]),
        ("tls", &[Phase::Tls]),
        ("processing", &[Phase::Send, Phase::Wait]),
        ("transfer", &[Phase::Receive]),
    ];
    family("probe_http_duration_seconds", "Times of the phases, summed over redirects", &|latest| {
        let sum =
            |phases: &[Phase]| phases.iter().filter_map(|phase| latest.phases[*phase as usize]).reduce(|a, b| a + b);
        named.iter().filter_map(|(name, phases)| Some((format!(",phase=\"{name}\""), us(sum(phases)?)))).collect()
    });
    text
}

/// The lines that every Prometheus client shows of its process, where the system tells them.
pub fn encode_process() -> String {
    let mut text = String::new();
    let mut line = |name: &str, kind: &str, value: Option<f64>| {
        if let Some(value) = value {
            let family = name.strip_suffix("_total").unwrap_or(name);
            let _ = writeln!(text, "# TYPE {family} {kind}\n{name} {value}");
        }
    };
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    line("process_cpu_seconds_total", "counter", Some(cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9));
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let resident = pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<f64>().ok());
    line("process_resident_memory_bytes", "gauge", resident.map(|pages| pages * rustix::param::page_size() as f64));
    line("process_open_fds", "gauge", std::fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as f64));
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    line("process_max_fds", "gauge", files.map(|files| files as f64));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitemon_model::Hop;

    #[test]
    fn what_is_counted_is_shown() {
        let telemetry = Telemetry::new("1.2.3", "here");
        let mut hop = Hop {
            url: "https://[::1]/".into(),
            status: Some(200),
            address: "[::1]:443".parse().ok(),
            ..Hop::default()
        };
        hop.phases.set(Phase::Connect, 1500, State::Done);
        hop.phases.set(Phase::Send, 10, State::Done);
        hop.phases.set(Phase::Wait, 240, State::Done);
        let observation = Observation {
            site: "a \"b\"".into(),
            scheduled_at: Timestamp(1_000_000),
            started_at: Some(Timestamp(1_000_300)),
            status: Some(200),
            hops: vec![hop],
            ..Observation::default()
        };
        telemetry.observed(&observation, 100);
        let latest = encode_latest(vec![(observation.site.clone(), Latest::of(&observation))]);
        let text = telemetry.encode(&latest);
        for line in [
            "sitemon_checks_total{verdict=\"up\"} 1",
            "sitemon_lag_seconds_count 1",
            "sitemon_phase_duration_seconds_count{phase=\"connect\"} 1",
            "probe_success{instance=\"a \\\"b\\\"\"} 1",
            "probe_http_status_code{instance=\"a \\\"b\\\"\"} 200",
            "probe_failed_due_to_regex{instance=\"a \\\"b\\\"\"} 0",
            "probe_ip_protocol{instance=\"a \\\"b\\\"\"} 6",
            "probe_http_ssl{instance=\"a \\\"b\\\"\"} 1",
            "probe_http_duration_seconds{instance=\"a \\\"b\\\"\",phase=\"connect\"} 0.0015",
            "probe_http_duration_seconds{instance=\"a \\\"b\\\"\",phase=\"processing\"} 0.00025",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
