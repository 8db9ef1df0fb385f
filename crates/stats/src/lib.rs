//! What observations add up to. Pure: no clock, no input or output, no async.
//!
//! - [`rollup`]: statistics of one site and location over one span (an hour, a day, any window); mergeable.
//! - [`availability`]: time-weighted, with its coverage.
//! - [`overview`]: the part of a rollup that a table of many sites shows.
//! - [`sketch`]: quantiles with a stated relative error; merging is exact and independent of order.
//! - [`baseline`]: findings where a metric moved away from what it was.

pub mod availability;
pub mod baseline;
mod bits;
pub mod overview;
pub mod rollup;
pub mod sketch;

pub use availability::{Availability, Held};
pub use baseline::{Baselines, Moments};
pub use overview::{Glance, Overview, Passing};
pub use rollup::Rollup;
pub use sketch::{Percentiles, Sketch};

#[cfg(test)]
mod samples {
    //! Observations for the tests.

    use sitemon_model::{Cause, Code, Observation, Timestamp, Verdict, time::SECOND};

    /// Seconds since the epoch, also fractions.
    pub fn at(seconds: f64) -> Timestamp {
        Timestamp((seconds * SECOND as f64).round() as i64)
    }

    /// An observation by the schedule. The verdict is its first letter, `?` for unknown; all in seconds.
    pub fn observation(slot: f64, interval: f64, timeout: f64, verdict: char) -> Observation {
        let causes = |code| vec![Cause::new(code, "")];
        Observation {
            site: "shop".into(),
            location: "default".into(),
            scheduled_at: at(slot),
            interval_us: at(interval).0 as u64,
            timeout_us: at(timeout).0 as u64,
            verdict: match verdict {
                'u' => Verdict::Up,
                'g' => Verdict::Degraded(causes(Code::ResponseTimeExceeded)),
                'd' => Verdict::Down(causes(Code::HttpStatus)),
                _ => Verdict::Unknown(causes(Code::SkippedOverload)),
            },
            ..Observation::default()
        }
    }
}
