//! The sites of a simulation: a kind of check whose answers the seed decides.

use crate::scenario::Config;
use crate::world::World;
use async_trait::async_trait;
use sitemon::config::{Compiled, Watched};
use sitemon_model::site::name_hash;
use sitemon_model::{Cause, Code, Observation, Site, Spec, Timestamp, Verdict, time};
use sitemon_plugin::Plugin;
use sitemon_probe::{Check, Task};
use sitemon_store::sample::Sample;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What a site answers at one slot.
#[derive(Debug)]
pub struct Answer {
    /// It comes by these steps.
    pub steps: Vec<Duration>,
    /// What it is worth.
    pub verdict: Verdict,
    /// The check itself fails inside.
    pub panics: bool,
}

impl Answer {
    /// What the seed says that a site answers.
    pub fn of(seed: u64, site: &str, slot: Timestamp) -> Self {
        let mut character = Sample::new(seed ^ name_hash(site));
        let (typical, flaps, hangs) = (10 + character.below(200), character.below(5), character.below(8));
        let mut dice = Sample::new(seed ^ name_hash(site).rotate_left(21) ^ slot.0 as u64);
        let steps = 1 + dice.below(4);
        let most = match (flaps, dice.below(8) < hangs && hangs > 4) {
            (_, true) => 30_000,
            (0, _) => 10 * typical,
            _ => typical,
        };
        let steps: Vec<Duration> = (0..steps).map(|_| Duration::from_millis(1 + dice.below(most))).collect();
        let verdict = match dice.below(10) {
            roll if roll < flaps => Verdict::Down(vec![Cause::new(Code::HttpStatus, "status 503, expected 200-299")]),
            9 => Verdict::Degraded(vec![Cause::new(Code::ResponseTimeExceeded, "slower than it should be")]),
            _ => Verdict::Up,
        };
        Self { steps, verdict, panics: dice.once_in(60) }
    }

    /// What a check with this timeout must come to; `None` where it is a matter of milliseconds.
    pub fn within(&self, timeout: Duration) -> Option<Verdict> {
        let takes: Duration = self.steps.iter().sum();
        // The runtime's timer counts milliseconds, and each step may take one more.
        if takes + Duration::from_millis(8) < timeout {
            Some(self.verdict.clone())
        } else if takes > timeout + Duration::from_millis(8) {
            Some(timed_out())
        } else {
            None
        }
    }
}

fn timed_out() -> Verdict {
    Verdict::Down(vec![Cause::new(Code::WaitTimeout, "no answer in time")])
}

/// A check of a simulated site.
#[derive(Debug)]
struct Simulated {
    world: Arc<World>,
    host: u64,
}

#[async_trait]
impl Check for Simulated {
    async fn check(&self, task: Task<'_>) -> Observation {
        let (site, job) = (task.site, task.job);
        let timeout = site.spec.timeout;
        let answer = Answer::of(self.world.seed, &site.name, job.scheduled_at);
        let (number, began) = self.world.check_began(&site.name, job, timeout);
        let (start, slept) = (tokio::time::Instant::now(), self.world.slept());
        let work = tokio::time::timeout(timeout, async {
            for step in &answer.steps {
                tokio::time::sleep(*step).await;
                if self.world.slept() != slept {
                    // No connection outlives a sleep of the machine.
                    return Verdict::Down(vec![Cause::new(Code::WaitReset, "the connection was reset")]);
                }
            }
            if answer.panics {
                // Not by `panic!`, which would tell of it on standard error.
                std::panic::resume_unwind(Box::new("as the seed says"));
            }
            answer.verdict.clone()
        });
        // Some do not end when they are told to.
        let heeds = job.scheduled_at.0 % 3 != 0;
        let verdict = tokio::select! {
            biased;
            answered = work => answered.unwrap_or_else(|_| timed_out()),
            () = task.shared.stopped(), if heeds => {
                Verdict::Unknown(vec![Cause::new(Code::Stopped, "told to end")])
            }
        };
        self.world.check_ended(number);
        let answered = verdict != timed_out() && !matches!(verdict, Verdict::Unknown(_));
        let response_time_us = answered.then(|| time::micros(start.elapsed()));
        Observation {
            site: site.name.clone(),
            location: task.location.clone(),
            reason: job.reason,
            scheduled_at: job.scheduled_at,
            started_at: Some(began),
            interval_us: time::micros(site.spec.interval),
            timeout_us: time::micros(timeout),
            verdict,
            response_time_us,
            ..Observation::default()
        }
    }

    fn host(&self, _url: &str) -> Box<str> {
        self.host.to_string().into()
    }

    fn plugins(&self) -> &[Arc<dyn Plugin>] {
        &[]
    }

    fn show(&self) -> serde_json::Map<String, serde_json::Value> {
        serde_json::Map::new()
    }
}

/// The site of a configuration.
pub fn watched(world: &Arc<World>, config: &Config) -> Watched {
    let spec = Spec {
        kind: "simulated".into(),
        enabled: config.enabled,
        interval: config.interval,
        jitter: config.jitter,
        timeout: config.timeout,
        labels: BTreeMap::new(),
        plugins: Vec::new(),
        options: serde_json::Map::new(),
        digest: u128::from(config.host),
    };
    let url = format!("simulated://{}/", config.host).into();
    let site = Site { name: config.name.clone(), url, spec: Arc::new(spec) };
    Watched { site, check: Compiled::new(Arc::new(Simulated { world: world.clone(), host: config.host })) }
}
