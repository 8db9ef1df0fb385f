//! Quantiles with a stated relative error, in few bytes; merging is exact and independent of order.

/// A quantile sketch over microseconds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sketch {}
