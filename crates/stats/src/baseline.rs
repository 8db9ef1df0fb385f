//! Findings where a plugin's metric moved away from what it was before.
//!
//! A baseline is the moments of a metric over a window, kept in at most two dozen buckets, so that what is older
//! than the window falls out of it bucket by bucket. Time is the slots of the observations themselves. Baselines
//! survive restarts because the same moments are kept in rollups, from which they are seeded.
//!
//! A metric that a plugin leaves out of those it gives is 0: so a tag that vanishes from a page is noticed, and one
//! that was never there before. How often it was left out is what the plugin gave metrics more often than this one.

use crate::Rollup;
use sitemon_model::site::Baseline;
use sitemon_model::time::{DAY, HOUR, SECOND, micros};
use sitemon_model::{Finding, Observation, Reason, Timestamp};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Metrics of one plugin on one site that are held against a baseline; further ones are left out.
pub const METRICS_MAX: usize = 1024;

/// Buckets that a window is divided into, at most; one more is being filled.
const BUCKETS_MAX: i64 = 24;

/// The widths of buckets; the first that divides a window into few enough is taken.
const WIDTHS: [i64; 17] = [
    SECOND,
    10 * SECOND,
    60 * SECOND,
    300 * SECOND,
    900 * SECOND,
    HOUR,
    2 * HOUR,
    3 * HOUR,
    4 * HOUR,
    6 * HOUR,
    8 * HOUR,
    12 * HOUR,
    DAY,
    2 * DAY,
    7 * DAY,
    28 * DAY,
    364 * DAY,
];

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
///
/// Of each metric about 32 bytes for each bucket: half a kilobyte with a window of 14 days.
#[derive(Debug, Default)]
pub struct Baselines {
    /// By site, then by location, of which there are few.
    sites: HashMap<Arc<str>, Vec<(Arc<str>, Watched)>>,
}

/// The baselines of one site and location.
#[derive(Debug)]
struct Watched {
    /// The slot that was counted last.
    last: Timestamp,
    plugins: Vec<(Arc<str>, PluginBaselines)>,
}

/// The baselines of a plugin's metrics.
#[derive(Debug)]
struct PluginBaselines {
    window_us: i64,
    /// Of a bucket.
    width_us: i64,
    /// The start of the bucket that is being filled.
    filling: Timestamp,
    /// How often the plugin gave metrics, as samples of 0.
    given: Series,
    /// Observations that were judged; says which metrics the one at hand leaves out.
    round: u64,
    /// Sorted by name.
    metrics: Vec<(Arc<str>, Series)>,
}

/// One metric.
#[derive(Debug, Default)]
struct Series {
    /// The starts of buckets and what they hold, the oldest first.
    older: VecDeque<(Timestamp, Moments)>,
    /// All of them together.
    sum: Moments,
    /// The bucket that is being filled.
    current: Moments,
    /// The round in which it was given last.
    round: u64,
}

impl Baselines {
    /// No baselines.
    pub fn new() -> Self {
        Self::default()
    }

    /// Holds an observation against the baselines of its site, then adds it to them; `rule` says against what a
    /// plugin's metrics of this site are held. To be called with each observation that is written, in the order
    /// of their slots.
    ///
    /// Every observation whose verdict is known is judged. Only those by the schedule that are up or degraded
    /// are added, each slot once, none that comes after a later one.
    pub fn observe(&mut self, observation: &Observation, rule: impl Fn(&str) -> Option<Baseline>) -> Vec<Finding> {
        let mut findings = Vec::new();
        if observation.metrics.is_empty() || observation.verdict.available().is_none() {
            return findings;
        }
        let scheduled = observation.reason == Reason::Schedule;
        let slot = observation.scheduled_at;
        let watched = self.watched(&observation.site, &observation.location);
        if scheduled && slot == watched.last {
            return findings;
        }
        let counts = scheduled && slot > watched.last && observation.verdict.available() == Some(true);
        for metrics in &observation.metrics {
            let Some(rule) = rule(&metrics.plugin) else { continue };
            let baselines = watched.plugin(&metrics.plugin, rule);
            if counts {
                baselines.advance(slot);
            }
            let given = baselines.given.all().count;
            baselines.round += 1;
            let (round, mut near) = (baselines.round, 0);
            for (metric, value) in &metrics.values {
                let Some(series) = baselines.series(metric, &mut near, counts) else { continue };
                series.round = round;
                if !fits(*value) {
                    continue;
                }
                findings.extend(judge(&metrics.plugin, metric, *value, &series.with_left_out(given), rule));
                if counts {
                    series.current.add(*value);
                }
            }
            if metrics.values.is_empty() {
                continue;
            }
            for (metric, series) in baselines.metrics.iter().filter(|(_, series)| series.round != round) {
                findings.extend(judge(&metrics.plugin, metric, 0.0, &series.with_left_out(given), rule));
            }
            // Where something is no number, it was not left out.
            if counts && metrics.values.iter().all(|(_, value)| fits(*value)) {
                baselines.given.current.add(0.0);
            }
        }
        if counts {
            watched.last = slot;
        }
        findings
    }

    /// Adds what a stored rollup knows of a site: at the start, before any observation, for all rollups of the
    /// longest window, hours or days, each span once.
    pub fn seed(
        &mut self,
        site: &Arc<str>,
        location: &Arc<str>,
        rollup: &Rollup,
        rule: impl Fn(&str) -> Option<Baseline>,
    ) {
        for group in rollup.metrics.chunk_by(|a, b| a.0 == b.0) {
            let plugin = &group[0].0;
            let Some(rule) = rule(plugin) else { continue };
            let baselines = self.watched(site, location).plugin(plugin, rule);
            let bucket = rollup.to.plus(-1).floor(baselines.width_us);
            let mut near = 0;
            let given = group.iter().map(|(_, _, moments)| moments.count).max().unwrap_or_default();
            baselines.given.place(bucket, &Moments { count: given, ..Moments::default() });
            for (_, metric, moments) in group {
                if let Some(series) = baselines.series(metric, &mut near, true) {
                    series.place(bucket, moments);
                }
            }
        }
    }

    /// Says which slot of a site was counted last: at the start, of what was seeded, so that it is not counted
    /// again when it is delivered again.
    pub fn seen(&mut self, site: &Arc<str>, location: &Arc<str>, slot: Timestamp) {
        let watched = self.watched(site, location);
        watched.last = watched.last.max(slot);
    }

    /// Forgets the sites that are not to be kept.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.sites.retain(|site, _| keep(site));
    }

    fn watched(&mut self, site: &Arc<str>, location: &Arc<str>) -> &mut Watched {
        if !self.sites.contains_key(site) {
            self.sites.insert(site.clone(), Vec::with_capacity(1));
        }
        let locations = self.sites.entry(site.clone()).or_default();
        let at = locations.iter().position(|(known, _)| known == location).unwrap_or_else(|| {
            locations.push((location.clone(), Watched { last: Timestamp::MIN, plugins: Vec::new() }));
            locations.len() - 1
        });
        &mut locations[at].1
    }
}

impl Watched {
    fn plugin(&mut self, plugin: &Arc<str>, rule: Baseline) -> &mut PluginBaselines {
        let window_us = i64::try_from(micros(rule.window)).unwrap_or(i64::MAX);
        let at = self.plugins.iter().position(|(known, _)| known == plugin).unwrap_or_else(|| {
            let width_us = width(window_us);
            let filling = Timestamp::MIN;
            let (given, metrics) = (Series::default(), Vec::new());
            let baselines = PluginBaselines { window_us, width_us, filling, given, round: 0, metrics };
            self.plugins.push((plugin.clone(), baselines));
            self.plugins.len() - 1
        });
        let baselines = &mut self.plugins[at].1;
        if baselines.window_us != window_us {
            baselines.change(window_us);
        }
        baselines
    }
}

impl PluginBaselines {
    /// Begins the bucket of `slot` where it is another one, and lets fall what is past the window.
    fn advance(&mut self, slot: Timestamp) {
        let bucket = slot.floor(self.width_us);
        if bucket <= self.filling {
            return;
        }
        let before = std::mem::replace(&mut self.filling, bucket);
        let oldest = slot.plus(-self.window_us).plus(-self.width_us);
        self.given.advance(before, oldest);
        self.metrics.retain_mut(|(_, series)| {
            series.advance(before, oldest);
            series.sum.count > 0
        });
    }

    /// Another window was configured.
    fn change(&mut self, window_us: i64) {
        (self.window_us, self.width_us) = (window_us, width(window_us));
        let before = std::mem::replace(&mut self.filling, Timestamp::MIN);
        for series in std::iter::once(&mut self.given).chain(self.metrics.iter_mut().map(|(_, series)| series)) {
            let filled = std::mem::take(&mut series.current);
            series.place(before.floor(self.width_us), &filled);
            for (start, moments) in std::mem::take(&mut series.older) {
                series.place(start.floor(self.width_us), &moments);
            }
        }
    }

    /// The series of a metric; where there is none and it shall be made, up to their most.
    fn series(&mut self, metric: &Arc<str>, near: &mut usize, make: bool) -> Option<&mut Series> {
        let at = match self.metrics.get(*near) {
            Some((known, _)) if known == metric => *near,
            _ => match self.metrics.binary_search_by(|(known, _)| (**known).cmp(metric)) {
                Ok(at) => at,
                Err(at) if make && self.metrics.len() < METRICS_MAX => {
                    self.metrics.insert(at, (metric.clone(), Series::default()));
                    at
                }
                Err(_) => return None,
            },
        };
        *near = at + 1;
        Some(&mut self.metrics[at].1)
    }
}

impl Series {
    fn all(&self) -> Moments {
        let mut all = self.sum;
        all.merge(&self.current);
        all
    }

    /// All samples, those included that were left out of `given` because they were 0.
    fn with_left_out(&self, given: u64) -> Moments {
        let mut all = self.all();
        all.merge(&Moments { count: given.saturating_sub(all.count), ..Moments::default() });
        all
    }

    /// Ends the bucket that was being filled from `before` on, and lets fall what is not later than `oldest`.
    fn advance(&mut self, before: Timestamp, oldest: Timestamp) {
        let filled = std::mem::take(&mut self.current);
        self.place(before, &filled);
        while self.older.front().is_some_and(|(start, _)| *start <= oldest) {
            self.older.pop_front();
        }
        self.sum_up();
    }

    /// Adds moments to a bucket that is not being filled.
    fn place(&mut self, bucket: Timestamp, moments: &Moments) {
        if moments.count == 0 {
            return;
        }
        self.sum.merge(moments);
        let at = self.older.partition_point(|(start, _)| *start < bucket);
        match self.older.get_mut(at).filter(|(start, _)| *start == bucket) {
            Some((_, known)) => known.merge(moments),
            None => self.older.insert(at, (bucket, *moments)),
        }
    }

    fn sum_up(&mut self) {
        self.sum = Moments::default();
        for (_, moments) in &self.older {
            self.sum.merge(moments);
        }
    }
}

/// What a value is against its baseline.
fn judge(plugin: &Arc<str>, metric: &Arc<str>, value: f64, baseline: &Moments, rule: Baseline) -> Option<Finding> {
    // One sample has no deviation, whatever is configured.
    if baseline.count < rule.samples.max(2) {
        return None;
    }
    let (mean, deviation) = (baseline.mean, baseline.deviation());
    let off = (value - mean).abs();
    let constant = baseline.m2 == 0.0;
    if off <= if constant { 0.0 } else { rule.deviations * deviation } {
        return None;
    }
    let (shown, count) = (show(value), baseline.count);
    let message = if constant {
        format!("{metric} is {shown}, was {} in all {count} samples", show(mean))
    } else {
        let times = show(off / deviation);
        format!("{metric} is {shown}, {times} standard deviations from the mean {} of {count} samples", show(mean))
    };
    Some(Finding {
        plugin: plugin.clone(),
        metric: metric.clone(),
        value: Some(value),
        mean: Some(mean),
        deviation: Some(deviation),
        message: message.into(),
    })
}

/// A number for people: whole, or with two digits after the point.
fn show(value: f64) -> String {
    if value.fract() == 0.0 || value.abs() >= 1e6 { format!("{value:.0}") } else { format!("{value:.2}") }
}

fn width(window_us: i64) -> i64 {
    WIDTHS.into_iter().find(|width| window_us / width <= BUCKETS_MAX).unwrap_or(364 * DAY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::observation;
    use proptest::prelude::*;
    use sitemon_model::Metrics;
    use std::time::Duration;

    const RULE: Baseline = Baseline { window: Duration::from_hours(14 * 24), deviations: 4.0, samples: 20 };

    #[test]
    fn a_metric_that_is_left_out_is_0() {
        let mut baselines = Baselines::new();
        let mut observe = |slot: f64, values: &[(&str, f64)]| -> Vec<String> {
            let findings = baselines.observe(&seen(slot, 'u', values), |_| Some(RULE));
            findings.iter().map(|finding| finding.message.to_string()).collect()
        };
        for slot in 0..30 {
            assert_eq!(observe(f64::from(slot) * 15.0, &[("tag.form", 2.0), ("tags", 9.0)]), [""; 0]);
        }
        assert_eq!(observe(600.0, &[("tags", 9.0)]), ["tag.form is 0, was 2 in all 30 samples"]);
        assert_eq!(observe(615.0, &[("tag.form", 2.0), ("tags", 9.0)]), [""; 0], "as before");
        let new = observe(630.0, &[("tag.form", 2.0), ("tag.iframe", 1.0), ("tags", 9.0)]);
        assert_eq!(new, ["tag.iframe is 1, was 0 in all 32 samples"]);
        assert_eq!(observe(645.0, &[]), [""; 0], "a plugin that gave nothing says nothing");
    }

    #[test]
    fn what_was_left_out_is_known_after_a_restart() {
        let all: Vec<Observation> = (0..40)
            .map(|slot| {
                let some = if slot % 2 == 0 { &[("tag.form", 2.0), ("tags", 9.0)][..] } else { &[("tags", 9.0)] };
                seen(f64::from(slot) * 15.0, 'u', some)
            })
            .collect();
        let rollup = Rollup::of(crate::samples::at(0.0), crate::samples::at(3600.0), None, &all);
        let (mut seeded, mut watched) = (Baselines::new(), Baselines::new());
        seeded.seed(&"shop".into(), &"default".into(), &rollup, |_| Some(RULE));
        for observation in &all {
            assert!(watched.observe(observation, |_| Some(RULE)).is_empty());
        }
        let changed = seen(3600.0, 'u', &[("tag.form", 9.0), ("tag.iframe", 1.0), ("tags", 9.0)]);
        let found = seeded.observe(&changed, |_| Some(RULE));
        assert_eq!(found.len(), 2, "{found:?}");
        let (other, close) = (watched.observe(&changed, |_| Some(RULE)), |a: f64, b: f64| (a - b).abs() < 1e-9);
        for (found, other) in found.iter().zip(&other) {
            assert_eq!((&found.metric, &found.message), (&other.metric, &other.message));
            assert!(close(found.mean.unwrap(), other.mean.unwrap()));
        }
    }

    fn seen(slot: f64, verdict: char, values: &[(&str, f64)]) -> Observation {
        let values = values.iter().map(|(name, value)| (Arc::from(*name), *value)).collect();
        let metrics = vec![Metrics { plugin: "html-stats".into(), values }];
        Observation { metrics, ..observation(slot, 15.0, 10.0, verdict) }
    }

    fn feed(baselines: &mut Baselines, slot: u32, verdict: char, value: f64) -> Vec<Finding> {
        baselines.observe(&seen(f64::from(slot), verdict, &[("scripts", value)]), |_| Some(RULE))
    }

    #[test]
    fn beyond_so_many_deviations() {
        let mut baselines = Baselines::new();
        for k in 0..20 {
            // 3 and 5 by turns: the mean is 4, the deviation a little above 1. However far off, too few samples.
            let value = if k % 2 == 0 { 3.0 } else { 5.0 };
            assert_eq!(feed(&mut baselines, k, 'u', value), []);
        }
        let deviation = (20.0_f64 / 19.0).sqrt();
        assert_eq!(feed(&mut baselines, 20, 'u', 8.0), []);
        let mut baselines = Baselines::new();
        (0..20).for_each(|k| drop(feed(&mut baselines, k, 'u', if k % 2 == 0 { 3.0 } else { 5.0 })));
        let found = feed(&mut baselines, 20, 'u', 8.5);
        assert_eq!(found.len(), 1);
        assert_eq!((&*found[0].plugin, &*found[0].metric), ("html-stats", "scripts"));
        assert_eq!((found[0].value, found[0].mean, found[0].deviation), (Some(8.5), Some(4.0), Some(deviation)));
        assert_eq!(&*found[0].message, "scripts is 8.50, 4.39 standard deviations from the mean 4 of 20 samples");
        // It was judged before it was added, and then was added: the same again is less far off.
        let again = feed(&mut baselines, 21, 'u', 8.5);
        assert!(again.iter().all(|finding| finding.mean > Some(4.0)));
    }

    #[test]
    fn a_constant_that_moves() {
        let mut baselines = Baselines::new();
        for k in 0..20 {
            assert_eq!(feed(&mut baselines, k, 'u', 0.1), []);
        }
        let found = feed(&mut baselines, 20, 'u', 0.100_000_1);
        assert_eq!(found.iter().map(|f| (f.mean, f.deviation)).collect::<Vec<_>>(), [(Some(0.1), Some(0.0))]);
        let mut baselines = Baselines::new();
        (0..19).for_each(|k| drop(feed(&mut baselines, k, 'u', 7.0)));
        assert_eq!(feed(&mut baselines, 19, 'u', 9.0), [], "too few samples");
        let mut baselines = Baselines::new();
        (0..20).for_each(|k| drop(feed(&mut baselines, k, 'u', 7.0)));
        assert_eq!(&*feed(&mut baselines, 20, 'u', 9.0)[0].message, "scripts is 9, was 7 in all 20 samples");
    }

    #[test]
    fn what_counts() {
        let mut baselines = Baselines::new();
        (0..20).for_each(|k| drop(feed(&mut baselines, k, if k % 2 == 0 { 'u' } else { 'g' }, 7.0)));
        let moved = |baselines: &mut Baselines, slot| feed(baselines, slot, 'u', 9.0).first().and_then(|f| f.deviation);
        // Judged, but not added.
        assert_eq!(feed(&mut baselines, 30, 'd', 9.0).len(), 1);
        let mut asked = seen(31.0, 'u', &[("scripts", 9.0)]);
        asked.reason = Reason::Request;
        assert_eq!(baselines.observe(&asked, |_| Some(RULE)).len(), 1);
        assert_eq!(feed(&mut baselines, 5, 'u', 9.0).len(), 1, "late");
        // Neither.
        assert_eq!(feed(&mut baselines, 32, '?', 9.0), []);
        assert_eq!(feed(&mut baselines, 19, 'u', 9.0), [], "repeated");
        assert_eq!(baselines.observe(&seen(33.0, 'u', &[("scripts", f64::NAN)]), |_| Some(RULE)), []);
        assert_eq!(baselines.observe(&seen(34.0, 'u', &[("scripts", 9.0)]), |_| None), []);
        assert_eq!(moved(&mut baselines, 40), Some(0.0), "still constant");
        assert!(moved(&mut baselines, 41).is_none_or(|deviation| deviation > 0.0));
    }

    #[test]
    fn sites_locations_and_metrics_are_apart() {
        let mut baselines = Baselines::new();
        for k in 0..20 {
            let first = seen(f64::from(k), 'u', &[("scripts", 7.0), ("words", 5.0)]);
            let elsewhere = Observation { location: "eu".into(), ..seen(f64::from(k), 'u', &[("scripts", 9.0)]) };
            let other = Observation { site: "blog".into(), ..seen(f64::from(k), 'u', &[("scripts", 8.0)]) };
            for o in [first, elsewhere, other] {
                assert_eq!(baselines.observe(&o, |_| Some(RULE)), []);
            }
        }
        let metrics = |values| baselines.observe(&seen(20.0, 'u', values), |_| Some(RULE)).len();
        let mut metrics = metrics;
        assert_eq!(metrics(&[("images", 0.0), ("scripts", 7.0), ("words", 4.0)]), 1);
        baselines.retain(|site| site != "shop");
        assert_eq!(feed(&mut baselines, 21, 'u', 1.0), []);
    }

    #[test]
    fn what_is_past_the_window_falls_out() {
        let rule = Baseline { window: Duration::from_hours(24), ..RULE };
        let mut baselines = Baselines::new();
        let feed = |baselines: &mut Baselines, hour: f64, value: f64, rule: Baseline| {
            baselines.observe(&seen(hour * 3600.0, 'u', &[("scripts", value)]), |_| Some(rule))
        };
        for hour in 0..24 {
            assert_eq!(feed(&mut baselines, f64::from(hour), 7.0, rule), []);
        }
        assert_eq!(feed(&mut baselines, 24.5, 8.0, rule).len(), 1);
        for hour in 25..50 {
            feed(&mut baselines, f64::from(hour), 8.0, rule);
        }
        // Of a day and an hour nothing but 8.
        let found = feed(&mut baselines, 50.0, 9.0, rule);
        assert_eq!(found.iter().map(|f| (f.mean, f.deviation)).collect::<Vec<_>>(), [(Some(8.0), Some(0.0))]);
        let metrics = &baselines.sites["shop"][0].1.plugins[0].1.metrics;
        assert!(metrics[0].1.older.len() <= 26);
        // A longer window keeps what there is; then a year without a sample leaves none.
        assert_eq!(feed(&mut baselines, 51.0, 99.0, RULE).len(), 1);
        assert_eq!(feed(&mut baselines, 51.0 + 366.0 * 24.0, 99.0, RULE), []);
    }

    #[test]
    fn widths_divide_windows() {
        for (days, width_hours) in [(1, 1), (7, 8), (14, 24), (30, 48), (365, 28 * 24)] {
            assert_eq!(width(days * DAY), width_hours * HOUR, "{days}");
        }
        assert_eq!((width(0), width(i64::MAX)), (SECOND, 364 * DAY));
    }

    #[test]
    fn hostile_metrics_are_bounded() {
        let mut baselines = Baselines::new();
        for k in 0..2 * METRICS_MAX {
            let name = format!("tag {k}");
            baselines.observe(&seen(k as f64, 'u', &[(&name, 1e300), (&name, 1.0)]), |_| Some(RULE));
        }
        assert_eq!(baselines.sites["shop"][0].1.plugins[0].1.metrics.len(), METRICS_MAX);
    }

    proptest! {
        /// Seeded from the rollups of hours, a baseline finds what it would have found without the restart.
        #[test]
        fn restarts_change_nothing(values in prop::collection::vec(0_u8..4, 30..200), last in 0_u8..20) {
            let observations: Vec<_> = (0..)
                .zip(&values)
                .map(|(k, value)| seen(f64::from(k) * 937.0, 'u', &[("scripts", f64::from(*value)), ("words", 7.0)]))
                .collect();
            let mut running = Baselines::new();
            for o in &observations {
                running.observe(o, |_| Some(RULE));
            }
            let mut seeded = Baselines::new();
            let (site, location) = (&observations[0].site, &observations[0].location);
            for hour in 0..=(values.len() as i64 * 937 / 3600) {
                let rollup = Rollup::of(Timestamp(hour * HOUR), Timestamp((hour + 1) * HOUR), None, &observations);
                let stored = Rollup::decode(rollup.from, rollup.to, &rollup.encode());
                prop_assert_eq!(stored.as_ref(), Some(&rollup));
                seeded.seed(site, location, &rollup, |_| Some(RULE));
            }
            let newest = &observations[observations.len() - 1];
            seeded.seen(site, location, newest.scheduled_at);
            prop_assert_eq!(seeded.observe(newest, |_| Some(RULE)), []);
            let next = seen(values.len() as f64 * 937.0, 'u', &[("scripts", f64::from(last)), ("words", f64::from(last))]);
            let all = running.sites["shop"][0].1.plugins[0].1.metrics[0].1.all();
            let off = (f64::from(last) - all.mean).abs();
            // The moments of both agree to the last digits only.
            prop_assume!((off - 4.0 * all.deviation()).abs() > 1e-9);
            let (a, b) = (running.observe(&next, |_| Some(RULE)), seeded.observe(&next, |_| Some(RULE)));
            prop_assert_eq!(a.len(), b.len());
            for (a, b) in a.iter().zip(&b) {
                prop_assert_eq!((&a.metric, a.value), (&b.metric, b.value));
                let near = |a: Option<f64>, b: Option<f64>| a.zip(b).is_some_and(|(a, b)| (a - b).abs() < 1e-9);
                prop_assert!(near(a.mean, b.mean) && near(a.deviation, b.deviation));
            }
            prop_assert!(a.iter().any(|f| &*f.metric == "words") == (last != 7));
        }

        #[test]
        fn moments_are_those_of_all_samples(left in prop::collection::vec(-100.0..100.0, 0..30), right in prop::collection::vec(-100.0..100.0, 0..30)) {
            let of = |values: &[f64]| values.iter().fold(Moments::default(), |mut m, v| { m.add(*v); m });
            let (mut a, mut b) = (of(&left), of(&right));
            (a, b) = ({ let mut sum = a; sum.merge(&b); sum }, { let mut sum = b; sum.merge(&a); sum });
            prop_assert_eq!(a, b);
            let all: Vec<f64> = left.into_iter().chain(right).collect();
            let count = all.len().max(1) as f64;
            let mean = all.iter().sum::<f64>() / count;
            let m2: f64 = all.iter().map(|v| (v - mean) * (v - mean)).sum();
            prop_assert_eq!(a.count as usize, all.len());
            prop_assert!((a.mean - mean).abs() < 1e-9 && (a.m2 - m2).abs() < 1e-6);
        }
    }
}
