//! Time-weighted availability with its coverage.

use sitemon_model::{Observation, Timestamp};

/// A verdict that holds beyond the span in which it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// `Verdict::number`.
    pub verdict: u8,
    /// Its slot.
    pub from: Timestamp,
    /// It holds until the next observation, at most until here: slot, interval and timeout.
    pub until: Timestamp,
}

impl Held {
    /// What `observation` carries into the time after it.
    pub fn of(observation: &Observation) -> Self {
        let until = observation
            .scheduled_at
            .plus(i64::try_from(observation.interval_us).unwrap_or(i64::MAX))
            .plus(i64::try_from(observation.timeout_us).unwrap_or(i64::MAX));
        Self { verdict: observation.verdict.number(), from: observation.scheduled_at, until }
    }
}

/// Microseconds of a span by verdict; what is in none of them was not covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Availability {
    /// By `Verdict::number`: up, degraded, down, unknown.
    pub by_verdict_us: [u64; 4],
    /// The length of the span.
    pub span_us: u64,
}

impl Availability {
    /// Up time (degraded included) over up and down time; `None` where neither is known.
    pub fn availability(&self) -> Option<f64> {
        let [up, degraded, down, _] = self.by_verdict_us;
        let known = up + degraded + down;
        (known > 0).then(|| (up + degraded) as f64 / known as f64)
    }

    /// Known time (up, degraded, down) over all; `None` for an empty span.
    pub fn coverage(&self) -> Option<f64> {
        let [up, degraded, down, _] = self.by_verdict_us;
        (self.span_us > 0).then(|| (up + degraded + down) as f64 / self.span_us as f64)
    }
}
