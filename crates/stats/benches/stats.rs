//! What statistics cost for each observation: an hour's rollup from 240 of them, its bytes, a year merged from
//! days, and the judgement of metrics against their baselines. Prints one line for each.

use sitemon_model::site::Baseline;
use sitemon_model::time::{HOUR, SECOND};
use sitemon_model::{Hop, Metrics, Observation, Phase, State, Timestamp};
use sitemon_stats::{Baselines, Rollup};
use std::sync::Arc;
use std::time::{Duration, Instant};

const CHECKS: u32 = 240;
const METRICS: u32 = 60;

fn main() {
    let observations = hour();
    let bare: Vec<_> = observations.iter().map(|o| Observation { metrics: Vec::new(), ..o.clone() }).collect();
    for (what, observations) in [("without metrics", &bare), ("with 60 metrics", &observations)] {
        let rounds = 200;
        let begin = Instant::now();
        let mut rollup = Rollup::default();
        for _ in 0..rounds {
            rollup = Rollup::of(Timestamp(0), Timestamp(HOUR), None, observations);
        }
        let of = begin.elapsed().as_nanos() / u128::from(rounds * CHECKS);
        let begin = Instant::now();
        let mut bytes = Vec::new();
        for _ in 0..rounds {
            bytes = rollup.encode();
        }
        let encode = begin.elapsed().as_nanos() / u128::from(rounds);
        let begin = Instant::now();
        for _ in 0..rounds {
            assert!(Rollup::decode(rollup.from, rollup.to, &bytes).is_some());
        }
        let decode = begin.elapsed().as_nanos() / u128::from(rounds);
        println!(
            "{what}: {of} ns an observation, {} bytes an hour, {encode} ns to encode, {decode} to decode",
            bytes.len()
        );
        let begin = Instant::now();
        let year = Rollup::over(Timestamp(0), Timestamp(365 * 24 * HOUR), std::iter::repeat_n(&rollup, 365));
        println!("{what}: {} us to merge 365 of them", begin.elapsed().as_micros());
        assert_eq!(year.latency.count(), u64::from(365 * CHECKS));
    }

    let rule = Baseline { window: Duration::from_hours(14 * 24), deviations: 4.0, samples: 20 };
    let mut baselines = Baselines::new();
    let begin = Instant::now();
    for observation in &observations {
        baselines.observe(observation, |_| Some(rule));
    }
    println!("{} ns to judge an observation with 60 metrics", begin.elapsed().as_nanos() / u128::from(CHECKS));
}

/// An hour of checks with six phases, times spread as over a network, and metrics of which half are constant.
fn hour() -> Vec<Observation> {
    let names: Vec<Arc<str>> = (0..METRICS).map(|k| format!("tag.{k:02}").into()).collect();
    let mut state = 1_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    (0..CHECKS)
        .map(|k| {
            let mut hop = Hop::default();
            let phases = Phase::ALL.into_iter().filter(|phase| *phase != Phase::Proxy);
            for (phase, around) in phases.zip([800.0, 10_000.0, 21_000.0, 40.0, 47_000.0, 860.0]) {
                hop.phases.set(phase, (around * (1.0 - 0.2 * (1.0 - uniform()).ln())) as u64, State::Done);
            }
            let value = |metric: u32| f64::from(if metric.is_multiple_of(2) { metric } else { (metric * k) % 17 });
            let values = (0..).zip(&names).map(|(metric, name)| (name.clone(), value(metric))).collect();
            Observation {
                scheduled_at: Timestamp(i64::from(k) * 15 * SECOND),
                interval_us: 15_000_000,
                timeout_us: 10_000_000,
                response_time_us: Some(hop.phases.sum_us()),
                hops: vec![hop],
                metrics: vec![Metrics { plugin: "html-stats".into(), values }],
                ..Observation::default()
            }
        })
        .collect()
}
