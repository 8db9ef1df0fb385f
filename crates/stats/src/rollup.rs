//! Statistics of one site and location over one span; mergeable.

use crate::availability::Tally;
use crate::bits::{Reader, Writer};
use crate::{Availability, Held, Moments, Sketch};
use sitemon_model::{Code, Observation, Phase, State, Timestamp};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The first byte of an encoded rollup.
const VERSION: u64 = 1;

/// The longest name of a plugin or metric; what has a longer one is left out.
const NAME_BYTES_MAX: usize = 1024;

/// Metrics that a rollup keeps. Sites choose some of their names (tags), so there must be a most; the ones that
/// were seen least are left out.
pub const METRICS_MAX: usize = 1024;

/// Plugin, metric, and the moments of its values.
pub type MetricMoments = (Arc<str>, Arc<str>, Moments);

/// Statistics of one site and location over one span. Of observations by the schedule only.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rollup {
    /// The start of the span, inclusive.
    pub from: Timestamp,
    /// The end of the span, exclusive.
    pub to: Timestamp,
    /// Time by verdict.
    pub availability: Availability,
    /// Observations by `Verdict::number`: up, degraded, down, unknown.
    pub checks: [u64; 4],
    /// How many observations gave each cause, sorted by code.
    pub causes: Vec<(Code, u64)>,
    /// Response times of all observations that have one.
    pub latency: Sketch,
    /// Times of each phase that was done, summed over the hops of an observation, in the order of `Phase::ALL`.
    /// An observation in which a phase failed on one of its hops has no time for it.
    pub phases: [Sketch; 7],
    /// Sorted by plugin and metric. Of the observations that feed baselines: those
    /// that are up or degraded.
    pub metrics: Vec<MetricMoments>,
    /// Findings in it.
    pub findings: u64,
}

impl Rollup {
    /// The statistics of `[from, to)` from what was carried into it and its observations, which are sorted
    /// by slot, one for each slot; those outside of the span or by request are passed over.
    pub fn of<'a>(
        from: Timestamp,
        to: Timestamp,
        carried: Option<Held>,
        observations: impl IntoIterator<Item = &'a Observation>,
    ) -> Self {
        let mut rollup = Self { from, to: to.max(from), ..Self::default() };
        let mut tally = Tally::new(from, to, carried);
        let mut causes = BTreeMap::new();
        for observation in observations {
            if tally.add(observation) {
                rollup.add(observation, &mut causes);
            }
        }
        rollup.causes = causes.into_iter().collect();
        rollup.bound();
        rollup.availability = tally.finish();
        rollup
    }

    /// The statistics of exactly `[from, to)` from those of spans of one site and location within it, which do
    /// not overlap. Time that none of them holds is not covered.
    pub fn over<'a>(from: Timestamp, to: Timestamp, parts: impl IntoIterator<Item = &'a Self>) -> Self {
        let to = to.max(from);
        let mut whole = Self { from, to, ..Self::default() };
        for part in parts {
            whole.merge(part);
        }
        whole.from = from;
        whole.to = to;
        whole.availability.span_us = to.0.abs_diff(from.0);
        whole
    }

    /// Adds the statistics of another span: time and counts are summed, sketches and moments merged, the span
    /// becomes the one that holds both. Exact and independent of order, but for the last digits of the moments and
    /// where there are more metrics than [`METRICS_MAX`].
    ///
    /// The other may be another site's, for groups. Where spans of one site leave gaps between them, use
    /// [`Rollup::over`], which counts the gaps as time.
    pub fn merge(&mut self, other: &Self) {
        if self.from == self.to {
            (self.from, self.to) = (other.from, other.to);
        } else if other.from != other.to {
            self.from = self.from.min(other.from);
            self.to = self.to.max(other.to);
        }
        self.availability.merge(&other.availability);
        for (own, added) in self.checks.iter_mut().zip(other.checks) {
            *own = own.saturating_add(added);
        }
        for (code, count) in &other.causes {
            match self.causes.binary_search_by_key(code, |(own, _)| *own) {
                Ok(at) => self.causes[at].1 = self.causes[at].1.saturating_add(*count),
                Err(at) => self.causes.insert(at, (*code, *count)),
            }
        }
        self.latency.merge(&other.latency);
        for (own, added) in self.phases.iter_mut().zip(&other.phases) {
            own.merge(added);
        }
        let mut near = 0;
        for (plugin, metric, moments) in &other.metrics {
            self.moments(plugin, metric, &mut near).merge(moments);
        }
        self.bound();
        self.findings = self.findings.saturating_add(other.findings);
    }

    /// How many observations there were.
    pub fn checks_all(&self) -> u64 {
        self.checks.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The times of one phase.
    pub const fn phase(&self, phase: Phase) -> &Sketch {
        &self.phases[phase as usize]
    }

    /// The bytes in which a store keeps everything but `from` and `to`; small, versioned.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.bits(VERSION, 8);
        let length = self.to.0.abs_diff(self.from.0);
        out.flag(self.availability.span_us == length);
        if self.availability.span_us != length {
            out.golomb(self.availability.span_us, 32);
        }
        // A span that is up all the time, the ordinary one, takes a bit.
        let all_up = self.availability.by_verdict_us == [self.availability.span_us, 0, 0, 0];
        out.flag(all_up);
        if !all_up {
            self.availability.by_verdict_us.iter().for_each(|us| write_optional(&mut out, *us, 28));
        }
        self.checks.iter().for_each(|count| write_optional(&mut out, *count, 6));
        write_optional(&mut out, self.findings, 3);
        out.golomb(self.causes.len() as u64, 0);
        for (code, count) in &self.causes {
            out.golomb(u64::from(code.number()), 8);
            out.golomb(*count, 2);
        }
        for sketch in std::iter::once(&self.latency).chain(&self.phases) {
            sketch.write(&mut out);
        }
        write_metrics(&mut out, &self.metrics);
        out.finish()
    }

    /// Reads what [`Rollup::encode`] wrote; `None` where the bytes are damaged or of a version not known.
    pub fn decode(from: Timestamp, to: Timestamp, bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let Head { availability, checks, findings } = read_head(&mut reader, to.0.abs_diff(from.0))?;
        let mut rollup = Self { from, to, availability, checks, findings, ..Self::default() };
        read_causes(&mut reader, |code, count| rollup.causes.push((code, count)))?;
        if rollup.causes.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return None;
        }
        rollup.latency = Sketch::read(&mut reader)?;
        for sketch in &mut rollup.phases {
            *sketch = Sketch::read(&mut reader)?;
        }
        rollup.metrics = read_metrics(&mut reader)?;
        reader.ended().then_some(rollup)
    }

    fn add(&mut self, observation: &Observation, causes: &mut BTreeMap<Code, u64>) {
        self.checks[usize::from(observation.verdict.number())] += 1;
        self.findings += observation.findings.len() as u64;
        let given = observation.verdict.causes();
        for (at, cause) in given.iter().enumerate() {
            if given[..at].iter().all(|before| before.code != cause.code) {
                *causes.entry(cause.code).or_insert(0) += 1;
            }
        }
        if let Some(us) = observation.response_time_us {
            self.latency.add(us);
        }
        let mut sums = [None; 7];
        let mut failed = [false; 7];
        for (phase, time) in observation.hops.iter().flat_map(|hop| hop.phases.reached()) {
            let sum: &mut Option<u64> = &mut sums[phase as usize];
            *sum = Some(sum.unwrap_or(0).saturating_add(time.us));
            failed[phase as usize] |= time.state == State::Failed;
        }
        for (at, sketch) in self.phases.iter_mut().enumerate() {
            if let Some(us) = sums[at].filter(|_| !failed[at]) {
                sketch.add(us);
            }
        }
        if observation.verdict.available() == Some(true) {
            let mut near = 0;
            for metrics in &observation.metrics {
                for (metric, value) in &metrics.values {
                    let named = metrics.plugin.len().max(metric.len()) <= NAME_BYTES_MAX;
                    if named && crate::baseline::fits(*value) {
                        self.moments(&metrics.plugin, metric, &mut near).add(*value);
                    }
                }
            }
        }
    }

    /// Leaves out the metrics beyond the most that are kept: those with fewer samples, then those later in order.
    fn bound(&mut self) {
        if self.metrics.len() <= METRICS_MAX {
            return;
        }
        let mut counts: Vec<u64> = self.metrics.iter().map(|(_, _, moments)| moments.count).collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let least = counts[METRICS_MAX - 1];
        let mut of_least = counts[..METRICS_MAX].iter().filter(|count| **count == least).count();
        self.metrics.retain(|(_, _, moments)| {
            let room = moments.count == least && of_least > 0;
            of_least -= usize::from(room);
            moments.count > least || room
        });
    }

    /// The moments of a metric, which are made to exist. `near` is where the one before was found: most come
    /// in their order.
    fn moments(&mut self, plugin: &Arc<str>, metric: &Arc<str>, near: &mut usize) -> &mut Moments {
        let compare = |entry: &MetricMoments| -> Ordering { (&*entry.0, &*entry.1).cmp(&(&**plugin, &**metric)) };
        let at = match self.metrics.get(*near).map(compare) {
            Some(Ordering::Equal) => *near,
            _ => match self.metrics.binary_search_by(compare) {
                Ok(at) => at,
                Err(at) => {
                    self.metrics.insert(at, (plugin.clone(), metric.clone(), Moments::default()));
                    at
                }
            },
        };
        *near = at + 1;
        &mut self.metrics[at].2
    }
}

/// What the bytes of a rollup begin with.
pub(crate) struct Head {
    pub(crate) availability: Availability,
    pub(crate) checks: [u64; 4],
    findings: u64,
}

/// Reads the beginning of a rollup over `length_us`; `None` where it is damaged or of a version not known.
pub(crate) fn read_head(reader: &mut Reader<'_>, length_us: u64) -> Option<Head> {
    if reader.bits(8)? != VERSION {
        return None;
    }
    let span_us = if reader.flag()? { length_us } else { reader.golomb(32)? };
    let mut by_verdict_us = [span_us, 0, 0, 0];
    if !reader.flag()? {
        for us in &mut by_verdict_us {
            *us = read_optional(reader, 28)?;
        }
    }
    let mut checks = [0; 4];
    for count in &mut checks {
        *count = read_optional(reader, 6)?;
    }
    let findings = read_optional(reader, 3)?;
    Some(Head { availability: Availability { by_verdict_us, span_us }, checks, findings })
}

/// Reads the causes, which follow the head.
pub(crate) fn read_causes(reader: &mut Reader<'_>, mut each: impl FnMut(Code, u64)) -> Option<()> {
    for _ in 0..reader.golomb(0)? {
        let code = Code::from_number(u16::try_from(reader.golomb(8)?).ok()?)?;
        each(code, reader.golomb(2)?);
    }
    Some(())
}

/// A number that is often 0: one bit then.
fn write_optional(out: &mut Writer, value: u64, order: u32) {
    out.flag(value > 0);
    if value > 0 {
        out.golomb(value - 1, order);
    }
}

fn read_optional(reader: &mut Reader<'_>, order: u32) -> Option<u64> {
    if reader.flag()? { reader.golomb(order)?.checked_add(1) } else { Some(0) }
}

/// Metrics by plugin, each name as what it shares with the one before and the rest.
fn write_metrics(out: &mut Writer, metrics: &[MetricMoments]) {
    let groups: Vec<_> = metrics.chunk_by(|a, b| a.0 == b.0).collect();
    out.golomb(groups.len() as u64, 0);
    for group in groups {
        out.text(&group[0].0);
        out.golomb(group.len() as u64, 4);
        let mut before = "";
        let mut count = 0;
        for (_, metric, moments) in group {
            let shared = shared(before, metric);
            out.golomb(shared as u64, 1);
            out.text(&metric[shared..]);
            out.flag(moments.count == count);
            if moments.count != count {
                out.golomb(moments.count, 6);
            }
            (before, count) = (metric, moments.count);
            write_number(out, moments.mean);
            write_number(out, moments.m2);
        }
    }
}

fn read_metrics(reader: &mut Reader<'_>) -> Option<Vec<MetricMoments>> {
    let mut metrics: Vec<MetricMoments> = Vec::new();
    for _ in 0..reader.golomb(0)? {
        let plugin: Arc<str> = reader.text(NAME_BYTES_MAX)?.into();
        let mut before = String::new();
        let mut count = 0;
        for _ in 0..reader.golomb(4)? {
            let shared = usize::try_from(reader.golomb(1)?).ok()?;
            let mut metric = before.get(..shared)?.to_owned();
            metric.push_str(&reader.text(NAME_BYTES_MAX - shared)?);
            if !reader.flag()? {
                count = reader.golomb(6)?;
            }
            let (mean, m2) = (read_number(reader)?, read_number(reader)?);
            let sorted = metrics.last().is_none_or(|(p, m, _)| (&**p, &**m) < (&*plugin, &*metric));
            if !sorted || m2 < 0.0 {
                return None;
            }
            metrics.push((plugin.clone(), metric.as_str().into(), Moments { count, mean, m2 }));
            before = metric;
        }
    }
    Some(metrics)
}

/// Whole numbers from 0 are short; all others take their 64 bits.
fn write_number(out: &mut Writer, value: f64) {
    let whole = value as u32;
    let short = f64::from(whole).to_bits() == value.to_bits();
    out.flag(short);
    if short {
        out.golomb(u64::from(whole), 3);
    } else {
        out.bits(value.to_bits(), 64);
    }
}

/// `None` also for what is no number.
fn read_number(reader: &mut Reader<'_>) -> Option<f64> {
    let value = if reader.flag()? { reader.golomb(3)? as f64 } else { f64::from_bits(reader.bits(64)?) };
    value.is_finite().then_some(value)
}

/// How many bytes at their beginning two texts share, whole characters only.
fn shared(before: &str, text: &str) -> usize {
    let mut shared = before.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
    while !text.is_char_boundary(shared) {
        shared -= 1;
    }
    shared
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{at, observation};
    use proptest::prelude::*;
    use sitemon_model::time::HOUR;
    use sitemon_model::{Cause, Finding, Hop, Metrics, Reason, Verdict};

    /// A check with all phases, as a site over HTTPS gives it, differing by `seed`.
    fn checked(slot: f64, seed: u64) -> Observation {
        let mut state = sitemon_model::site::name_hash(&format!("{slot} {seed}"));
        let mut spread = |around: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let uniform = (state >> 11) as f64 / (1_u64 << 53) as f64;
            // Most a little above the least, some far above: as times over a network are.
            (around as f64 * (1.0 + 0.2 * -(1.0 - uniform).ln())) as u64
        };
        let mut hop = Hop::default();
        for (phase, around) in
            Phase::ALL.into_iter().filter(|p| *p != Phase::Proxy).zip([800, 10_000, 21_000, 40, 47_000, 860])
        {
            hop.phases.set(phase, spread(around), State::Done);
        }
        Observation {
            response_time_us: Some(hop.phases.sum_us()),
            hops: vec![hop],
            ..observation(slot, 15.0, 10.0, 'u')
        }
    }

    #[test]
    fn of_observations() {
        let mut seen: Vec<_> = (0..4).map(|k| checked(f64::from(k) * 15.0, 0)).collect();
        let metrics = |value| {
            let values = vec![("scripts".into(), value), ("tags".into(), f64::NAN), ("words".into(), 2.0)];
            vec![Metrics { plugin: "html-stats".into(), values }]
        };
        seen[0].metrics = metrics(1.0);
        seen[1].metrics = metrics(3.0);
        seen[2].metrics = metrics(100.0);
        seen[2].verdict = Verdict::Down(
            [Code::BodyPatternMissing, Code::HttpStatus, Code::BodyPatternMissing]
                .map(|code| Cause::new(code, ""))
                .into(),
        );
        seen[2].findings = vec![Finding::default(); 2];
        seen[2].response_time_us = None;
        let mut second = seen[3].hops[0].clone();
        seen[3].hops[0].phases.set(Phase::Wait, 69, State::Done);
        second.phases.set(Phase::Wait, 25, State::Done);
        second.phases.set(Phase::Receive, 7, State::Failed);
        seen[3].hops.push(second);
        let mut asked = checked(50.0, 0);
        asked.reason = Reason::Request;
        seen.push(asked);
        seen.push(checked(60.0, 0));

        let rollup = Rollup::of(at(0.0), at(60.0), None, &seen);
        assert_eq!((rollup.from, rollup.to), (at(0.0), at(60.0)));
        assert_eq!(rollup.checks, [3, 0, 1, 0]);
        assert_eq!(rollup.availability.by_verdict_us, [45_000_000, 0, 15_000_000, 0]);
        assert_eq!(rollup.causes, [(Code::HttpStatus, 1), (Code::BodyPatternMissing, 1)]);
        assert_eq!(rollup.findings, 2);
        assert_eq!(rollup.latency.count(), 3);
        assert_eq!(rollup.phase(Phase::Proxy).count(), 0);
        assert_eq!(rollup.phase(Phase::Wait).count(), 4);
        assert_eq!(rollup.phase(Phase::Wait).quantile(0.0), Some(94), "summed over the hops");
        assert_eq!(rollup.phase(Phase::Receive).count(), 3, "failed on one hop");
        let moments = |count, mean, m2| Moments { count, mean, m2 };
        let expected: [MetricMoments; 2] = [
            ("html-stats".into(), "scripts".into(), moments(2, 2.0, 2.0)),
            ("html-stats".into(), "words".into(), moments(2, 2.0, 0.0)),
        ];
        assert_eq!(rollup.metrics, expected, "what is no number, and what was seen while down, is left out");
        assert_eq!(Rollup::decode(rollup.from, rollup.to, &rollup.encode()), Some(rollup));
    }

    #[test]
    fn hostile_metrics_are_bounded() {
        let names = |slot: usize| -> Vec<(Arc<str>, f64)> {
            let own = (0..32).map(|k| (Arc::from(format!("tag.{slot:03}-{k:02}")), 1.0));
            own.chain([(Arc::from("words"), 7.0)]).collect()
        };
        let seen: Vec<_> = (0..240)
            .map(|k| Observation {
                metrics: vec![Metrics { plugin: "html-stats".into(), values: names(k) }],
                ..checked(k as f64 * 15.0, 0)
            })
            .collect();
        let hour = Rollup::of(Timestamp(0), Timestamp(HOUR), None, &seen);
        let mut day = hour.clone();
        day.merge(&Rollup::of(Timestamp(0), Timestamp(HOUR), None, &seen[200..]));
        for (rollup, samples) in [(&hour, 240), (&day, 280)] {
            assert_eq!(rollup.metrics.len(), METRICS_MAX);
            assert!(rollup.metrics.is_sorted_by_key(|(_, metric, _)| metric.clone()));
            assert_eq!(rollup.metrics.last().map(|(_, metric, m)| (&**metric, m.count)), Some(("words", samples)));
            assert_eq!(rollup.metrics[0].1, "tag.000-00".into());
        }
        assert!(hour.encode().len() < 16_384);
    }

    #[test]
    fn gaps_between_parts_are_time() {
        let seen = [checked(0.0, 0), checked(120.0, 0)];
        let parts = [Rollup::of(at(0.0), at(60.0), None, &seen), Rollup::of(at(120.0), at(180.0), None, &seen)];
        let whole = Rollup::over(at(0.0), at(180.0), &parts);
        assert_eq!(whole, Rollup::of(at(0.0), at(180.0), None, &seen));
        assert_eq!(whole.availability, Availability { by_verdict_us: [50_000_000, 0, 0, 0], span_us: 180_000_000 });
        assert_eq!(Rollup::over(at(0.0), at(180.0), &[]).availability.coverage(), Some(0.0));
    }

    /// What statistics add to a stored check: 0.7 bytes at 15 s, 1.9 at 60 s.
    #[test]
    fn an_hour_is_small() {
        for (interval, bytes_max) in [(15, 180), (60, 115), (3600, 28)] {
            let hour = (0..3600 / interval)
                .map(|k| Observation { interval_us: interval * 1_000_000, ..checked((k * interval) as f64, interval) })
                .collect::<Vec<_>>();
            let rollup = Rollup::of(Timestamp(0), Timestamp(HOUR), None, &hour);
            let bytes = rollup.encode().len();
            assert!(bytes <= bytes_max, "{bytes} bytes for an hour at {interval} s");
        }
    }

    #[test]
    fn other_versions_and_damage_are_refused() {
        let seen: Vec<_> = (0..240).map(|k| checked(f64::from(k) * 15.0, 0)).collect();
        let bytes = Rollup::of(Timestamp(0), Timestamp(HOUR), None, &seen).encode();
        let decode = |bytes: &[u8]| Rollup::decode(Timestamp(0), Timestamp(HOUR), bytes);
        assert!(decode(&bytes).is_some());
        for length in 0..bytes.len() {
            assert_eq!(decode(&bytes[..length]), None, "cut at {length}");
        }
        assert_eq!(decode(&[&bytes[..], &[0]].concat()), None);
        let mut newer = bytes.clone();
        newer[0] += 1;
        assert_eq!(decode(&newer), None);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Some(read) = decode(&damaged) {
                assert_eq!(decode(&read.encode()), Some(read));
            }
        }
    }

    fn observations() -> impl Strategy<Value = Vec<Observation>> {
        let one = (1_u32..50, any::<u64>(), prop::sample::select(vec!['u', 'g', 'd', '?']), 0_usize..4, -9_i32..9);
        prop::collection::vec(one, 0..40).prop_map(|parts| {
            let mut slot = 0;
            let names: [Arc<str>; 4] = ["h1", "h2", "words", "großes"].map(Arc::from);
            let make = |(step, seed, verdict, metrics, value): (u32, u64, char, usize, i32)| {
                slot += step;
                let base = observation(slot.into(), 15.0, 10.0, verdict);
                let values = names.iter().take(metrics).map(|name| (name.clone(), f64::from(value))).collect();
                Observation {
                    verdict: base.verdict,
                    metrics: vec![Metrics { plugin: "html-stats".into(), values }],
                    findings: vec![Finding::default(); metrics],
                    ..checked(slot.into(), seed)
                }
            };
            parts.into_iter().map(make).collect()
        })
    }

    /// Moments agree to the last digits only.
    fn same(a: &Rollup, b: &Rollup) -> bool {
        let near = |x: f64, y: f64| (x - y).abs() <= 1e-9 * (1.0 + x.abs() + y.abs());
        let alike = a.metrics.iter().zip(&b.metrics).all(|((p, m, x), (q, n, y))| {
            (p, m, x.count) == (q, n, y.count) && near(x.mean, y.mean) && near(x.m2, y.m2)
        });
        let bare = |rollup: &Rollup| Rollup { metrics: Vec::new(), ..rollup.clone() };
        alike && a.metrics.len() == b.metrics.len() && bare(a) == bare(b)
    }

    proptest! {
        #[test]
        fn split_anywhere_is_the_whole(seen in observations(), cuts in prop::collection::vec(0_u32..2000, 1..6)) {
            let (from, to) = (at(0.0), at(2000.0));
            let whole = Rollup::of(from, to, None, &seen);
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| at(cut.into())).chain([to]).collect();
            cuts.sort_unstable();
            let mut parts = Vec::new();
            let (mut start, mut carried) = (from, None);
            for cut in cuts {
                parts.push(Rollup::of(start, cut, carried, &seen));
                carried = Held::after(cut, carried, &seen);
                start = cut;
            }
            let merge = |parts: &mut dyn Iterator<Item = &Rollup>| {
                parts.fold(Rollup::default(), |mut sum, part| { sum.merge(part); sum })
            };
            prop_assert!(same(&merge(&mut parts.iter()), &whole));
            prop_assert!(same(&merge(&mut parts.iter().rev()), &whole));
            prop_assert!(same(&Rollup::over(from, to, &parts), &whole));
        }

        #[test]
        fn written_is_read(seen in observations(), length in 0_u32..2000) {
            let rollup = Rollup::of(at(0.0), at(length.into()), None, &seen);
            prop_assert_eq!(Rollup::decode(rollup.from, rollup.to, &rollup.encode()), Some(rollup.clone()));
            let group = [&rollup, &rollup].into_iter().fold(Rollup::default(), |mut sum, r| { sum.merge(r); sum });
            prop_assert_eq!(Rollup::decode(group.from, group.to, &group.encode()), Some(group));
        }

        #[test]
        fn damaged_is_refused_or_read(mut bytes in prop::collection::vec(any::<u8>(), 1..200)) {
            bytes[0] = 1;
            if let Some(rollup) = Rollup::decode(at(0.0), at(9.0), &bytes) {
                prop_assert_eq!(Rollup::decode(at(0.0), at(9.0), &rollup.encode()), Some(rollup));
            }
        }
    }
}
