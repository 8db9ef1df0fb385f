//! Findings where a plugin's metric moved away from what it was before.

/// Count, mean and the sum of squared deviations; mergeable.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Moments {
    /// Samples.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// The sum of their squared deviations from the mean.
    pub m2: f64,
}

/// The baselines of all sites, kept where observations are written.
#[derive(Debug, Default)]
pub struct Baselines {}
