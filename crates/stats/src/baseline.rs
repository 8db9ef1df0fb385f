//! Findings where a plugin's metric moved away from what it was before.

/// Values beyond this are left out: their squares would not be numbers.
const VALUE_MAX: f64 = 1e100;

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

impl Moments {
    /// Adds a sample (Welford's method). Equal samples have a deviation of exactly 0.
    pub fn add(&mut self, value: f64) {
        self.count = self.count.saturating_add(1);
        let delta = value - self.mean;
        if delta != 0.0 {
            self.mean += delta / self.count as f64;
            self.m2 += delta * (value - self.mean);
        }
    }

    /// Adds the samples of another (the method of Chan, Golub and `LeVeque`). Which is added to which makes no
    /// difference; the order of several does in the last digits only, and none where all samples are equal.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = *other;
            return;
        }
        let (own, added) = (self.count as f64, other.count as f64);
        let delta = other.mean - self.mean;
        if delta != 0.0 {
            self.mean = (self.mean * own + other.mean * added) / (own + added);
        }
        self.m2 = self.m2 + other.m2 + delta * delta * (own * added / (own + added));
        self.count = self.count.saturating_add(other.count);
    }

    /// The standard deviation of the samples as an estimate for what they were taken from (n - 1); 0 with fewer
    /// than two.
    pub fn deviation(&self) -> f64 {
        if self.count < 2 { 0.0 } else { (self.m2.max(0.0) / (self.count - 1) as f64).sqrt() }
    }
}

/// Whether a value can be a sample.
pub(crate) fn fits(value: f64) -> bool {
    value.abs() <= VALUE_MAX
}

/// The baselines of all sites, kept where observations are written.
#[derive(Debug, Default)]
pub struct Baselines {}
