//! Makes a check from its configuration, does it, and shows what it came to in one line.

use sitemon_model::tree::{At, Faults, Node};
use sitemon_model::{Job, Observation, Phase, Reason, Site, Spec, State, Timestamp};
use sitemon_plugin::Plugin;
use sitemon_probe::{Check, Common, KINDS, Shared, SharedOptions, Task};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// A site that is ready to be checked.
pub struct Ready {
    pub site: Site,
    pub check: Arc<dyn Check>,
    pub shared: Arc<Shared>,
}

/// The check of a configuration: the keys of a site in native form (`request`, `expect`).
pub fn compile(options: &serde_json::Value, plugins: Vec<Arc<dyn Plugin>>) -> Result<Arc<dyn Check>, String> {
    let node = Node::from_json(options);
    let mut faults = Faults::default();
    let mut fields = At::new(&node, "").map(&mut faults);
    let common = Common { plugins, ..Common::default() };
    let check = (KINDS[0].parse)(&mut fields, &common, &mut faults);
    fields.finish(&mut faults);
    match check {
        Some(check) if !faults.any_errors() => Ok(check),
        _ => Err(faults
            .0
            .iter()
            .map(|fault| format!("{}: {}", fault.path, fault.message))
            .collect::<Vec<_>>()
            .join("; ")),
    }
}

/// A site with these options, in a runtime of its own.
pub fn ready(url: &str, timeout: Duration, options: &serde_json::Value) -> Ready {
    ready_in(url, timeout, options, Shared::new(SharedOptions::default()))
}

/// The same, sharing what is given.
pub fn ready_in(url: &str, timeout: Duration, options: &serde_json::Value, shared: Arc<Shared>) -> Ready {
    let check = compile(options, Vec::new()).unwrap_or_else(|faults| panic!("{url}: {faults}"));
    let spec = Spec {
        kind: "http".into(),
        enabled: true,
        interval: Duration::from_mins(1),
        jitter: Duration::ZERO,
        timeout,
        labels: BTreeMap::new(),
        plugins: Vec::new(),
        options: serde_json::Map::new(),
        digest: 0,
    };
    Ready { site: Site { name: url.into(), url: url.into(), spec: Arc::new(spec) }, check, shared }
}

impl Ready {
    /// Does the check.
    pub async fn check(&self) -> Observation {
        self.check_after(0).await
    }

    /// Does the check, knowing the fingerprint of the last verdict.
    pub async fn check_after(&self, last: u64) -> Observation {
        let job = Job {
            site: self.site.name.clone(),
            scheduled_at: Timestamp(1_796_000_000_000_000),
            reason: Reason::Schedule,
            locations: Vec::new(),
            expires_at: None,
        };
        let location = Arc::from("default");
        self.check.check(Task { site: &self.site, job: &job, location: &location, shared: &self.shared, last }).await
    }
}

/// `down: http.status`
pub fn told(observation: &Observation) -> String {
    let codes: Vec<&str> = observation.verdict.causes().iter().map(|cause| cause.code.as_str()).collect();
    match codes.as_slice() {
        [] => observation.verdict.as_str().to_owned(),
        codes => format!("{}: {}", observation.verdict.as_str(), codes.join(", ")),
    }
}

/// The phases of each hop: `dns connect send wait! | ...`, where `!` failed.
pub fn phases(observation: &Observation) -> String {
    let mut shown = String::new();
    for (index, hop) in observation.hops.iter().enumerate() {
        if index > 0 {
            shown.push_str(" | ");
        }
        for (count, (phase, time)) in hop.phases.reached().enumerate() {
            let failed = if time.state == State::Failed { "!" } else { "" };
            let space = if count > 0 { " " } else { "" };
            let _ = write!(shown, "{space}{}{failed}", phase.as_str());
        }
    }
    shown
}

/// The cause of the check, for messages.
pub fn why(observation: &Observation) -> String {
    observation.verdict.causes().iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Microseconds of a phase of a hop.
#[track_caller]
pub fn us(observation: &Observation, hop: usize, phase: Phase) -> u64 {
    observation.hops[hop].phases.get(phase).unwrap_or_else(|| panic!("no {phase:?} in {observation:?}")).us
}

/// Whether what an observation says of its times holds together: the phases of all hops add up to the response
/// time where there is one, and no more than one phase failed, the last.
#[track_caller]
pub fn consistent(observation: &Observation) {
    if let Some(response) = observation.response_time_us {
        let sum: u64 = observation.hops.iter().map(|hop| hop.phases.sum_us()).sum();
        assert!(sum <= response && response - sum < 20_000, "{sum} of {response}: {observation:?}");
    }
    for (index, hop) in observation.hops.iter().enumerate() {
        let reached: Vec<_> = hop.phases.reached().collect();
        for (place, (phase, time)) in reached.iter().enumerate() {
            let last = index + 1 == observation.hops.len() && place + 1 == reached.len();
            assert!(time.state == State::Done || last, "{phase:?} failed before the end: {observation:?}");
        }
    }
}
