//! What observations add up to. Pure: no clock, no input or output, no async.
//!
//! - [`rollup`]: statistics of one site and location over one span (an hour, a day, any window); mergeable.
//! - [`availability`]: time-weighted, with its coverage.
//! - [`sketch`]: quantiles with a stated relative error; merging is exact and independent of order.
//! - [`baseline`]: findings where a metric moved away from what it was.

pub mod availability;
pub mod baseline;
pub mod rollup;
pub mod sketch;

pub use availability::{Availability, Held};
pub use baseline::{Baselines, Moments};
pub use rollup::Rollup;
pub use sketch::Sketch;
