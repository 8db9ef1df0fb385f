//! Quantiles with a stated relative error, in few bytes; merging is exact and independent of order.
//!
//! Values are whole microseconds. They are counted in buckets whose borders are fixed integers, so the same
//! values give the same sketch on every machine: each bucket holds the values that lie within 1 % of one of them;
//! below 100 µs each value has its own. The idea is `DDSketch`'s (Masson, Rim, Lee: *`DDSketch`: a fast and
//! fully-mergeable quantile sketch with relative-error guarantees*, VLDB 2019).
//!
//! An hour of checks at 15 s takes about 22 bytes, so response time and all phases can have the same error.

use crate::bits::{Reader, Writer};

/// How many buckets hold all values.
const BUCKETS: usize = bucket_count();

/// The smallest value of each bucket.
static LOWEST: [u64; BUCKETS] = lowest();

/// The bucket of each power of two, and the end: where to search for a value's bucket by its length in bits.
static OCTAVES: [u16; 65] = octaves();

/// A quantile sketch over microseconds.
///
/// Counts are held densely from the first to the last bucket that is not empty, so equal contents are equal
/// values. Counts are held at `u64::MAX`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sketch {
    /// The bucket of `counts[0]`.
    first: u16,
    /// Neither the first nor the last is 0.
    counts: Vec<u64>,
}

/// The quantiles that are shown, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percentiles {
    /// The median.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 95 %.
    pub p95: u64,
    /// 99 %.
    pub p99: u64,
}

impl Sketch {
    /// How far a quantile may lie from the exact one, as a share of the latter.
    pub const ERROR: f64 = 0.01;

    /// Counts a value.
    pub fn add(&mut self, us: u64) {
        self.add_many(us, 1);
    }

    /// Counts a value `count` times.
    pub fn add_many(&mut self, us: u64, count: u64) {
        if count > 0 {
            let slot = self.slot(bucket(us));
            *slot = slot.saturating_add(count);
        }
    }

    /// Adds all values of another sketch.
    pub fn merge(&mut self, other: &Self) {
        if other.counts.is_empty() {
            return;
        }
        self.slot(other.first);
        self.slot(other.first + (other.counts.len() - 1) as u16);
        let at = usize::from(other.first - self.first);
        for (own, added) in self.counts[at..].iter_mut().zip(&other.counts) {
            *own = own.saturating_add(*added);
        }
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The smallest value that at least the share `q` of all values do not exceed (nearest rank), within
    /// [`Sketch::ERROR`]; `q` is held to 0..=1, of which 0 gives the smallest value. `None` when empty.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let count = self.count();
        // The product of a decimal share and a count may lie a rounding above the whole number that is meant.
        let rank = (q.clamp(0.0, 1.0) * count as f64 * (1.0 - 1e-12)).ceil() as u64;
        let rank = rank.clamp(1, count.max(1));
        let mut seen = 0_u64;
        for (bucket, own) in (self.first..).zip(&self.counts) {
            seen = seen.saturating_add(*own);
            if seen >= rank {
                return Some(stands_for(LOWEST[usize::from(bucket)]));
            }
        }
        None
    }

    /// The quantiles that are shown; `None` when empty.
    pub fn percentiles(&self) -> Option<Percentiles> {
        Some(Percentiles {
            p50: self.quantile(0.5)?,
            p90: self.quantile(0.9)?,
            p95: self.quantile(0.95)?,
            p99: self.quantile(0.99)?,
        })
    }

    /// The buckets that are not empty: smallest value, largest value, count; for pictures.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        (self.first..).zip(&self.counts).filter(|(_, count)| **count > 0).map(|(bucket, count)| {
            let (low, high) = borders(bucket);
            (low, high, *count)
        })
    }

    /// Writes it: first bucket, then the counts as Exp-Golomb codes of the order that is shortest; a
    /// count of 0 is followed by how many more of them there are.
    pub(crate) fn write(&self, out: &mut Writer) {
        out.golomb(self.counts.len() as u64, 5);
        if self.counts.is_empty() {
            return;
        }
        out.bits(u64::from(self.first), 12);
        let order = (0..16).min_by_key(|order| {
            let mut size = 0_usize;
            runs(&self.counts, |value, run| {
                size += Writer::golomb_size(value, *order);
                size += run.map_or(0, |run| Writer::golomb_size(run, 0));
            });
            size
        });
        let order = order.unwrap_or(0);
        out.bits(u64::from(order), 4);
        runs(&self.counts, |value, run| {
            out.golomb(value, order);
            if let Some(run) = run {
                out.golomb(run, 0);
            }
        });
    }

    /// Reads what [`Sketch::write`] wrote; `None` where it is damaged.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let length = usize::try_from(reader.golomb(5)?).ok()?;
        if length == 0 {
            return Some(Self::default());
        }
        let first = reader.bits(12)? as u16;
        let order = reader.bits(4)? as u32;
        if length > BUCKETS || usize::from(first) + length > BUCKETS {
            return None;
        }
        let mut counts = Vec::with_capacity(length);
        let mut sum = 0_u64;
        while counts.len() < length {
            let count = reader.golomb(order)?;
            sum = sum.checked_add(count)?;
            counts.push(count);
            if count == 0 {
                let more = usize::try_from(reader.golomb(0)?).ok()?;
                if more >= length - counts.len() {
                    return None;
                }
                counts.resize(counts.len() + more, 0);
            }
        }
        (counts.first() != Some(&0) && counts.last() != Some(&0)).then_some(Self { first, counts })
    }

    /// Adds what [`Sketch::write`] wrote, in place; `None` where it is damaged, which may have added a part.
    pub(crate) fn merge_read(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let length = usize::try_from(reader.golomb(5)?).ok()?;
        if length == 0 {
            return Some(());
        }
        let first = reader.bits(12)? as u16;
        let order = reader.bits(4)? as u32;
        if length > BUCKETS || usize::from(first) + length > BUCKETS {
            return None;
        }
        self.slot(first);
        self.slot(first + (length - 1) as u16);
        let start = usize::from(first - self.first);
        let own = &mut self.counts[start..start + length];
        let mut at = 0;
        while at < length {
            let count = reader.golomb(order)?;
            own[at] = own[at].saturating_add(count);
            at += 1;
            if count == 0 {
                let more = usize::try_from(reader.golomb(0)?).ok()?;
                if more >= length - at {
                    return None;
                }
                at += more;
            }
        }
        Some(())
    }

    /// The count of a bucket, which is made to exist; the caller counts something in it.
    fn slot(&mut self, bucket: u16) -> &mut u64 {
        if self.counts.is_empty() {
            self.first = bucket;
            self.counts.push(0);
        } else if bucket < self.first {
            let missing = usize::from(self.first - bucket);
            self.counts.splice(0..0, std::iter::repeat_n(0, missing));
            self.first = bucket;
        }
        let at = usize::from(bucket - self.first);
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        &mut self.counts[at]
    }
}

/// Calls `each` with every count, and for a count of 0 with how many more zeros follow, which are passed over.
fn runs(counts: &[u64], mut each: impl FnMut(u64, Option<u64>)) {
    let mut rest = counts;
    while let Some((count, after)) = rest.split_first() {
        rest = after;
        if *count > 0 {
            each(*count, None);
        } else {
            let more = rest.iter().take_while(|count| **count == 0).count();
            rest = &rest[more..];
            each(0, Some(more as u64));
        }
    }
}

/// The bucket in which a value lies.
fn bucket(us: u64) -> u16 {
    let bits = (u64::BITS - us.leading_zeros()) as usize;
    if bits == 0 {
        return 0;
    }
    // All values with this many bits lie from the bucket of 2^(bits-1) to the one of 2^bits.
    let low = usize::from(OCTAVES[bits - 1]);
    let high = usize::from(OCTAVES[bits]).min(BUCKETS - 1);
    (low + LOWEST[low + 1..=high].partition_point(|lowest| *lowest <= us)) as u16
}

/// The smallest and the largest value of a bucket.
fn borders(bucket: u16) -> (u64, u64) {
    let at = usize::from(bucket);
    (LOWEST[at], LOWEST.get(at + 1).map_or(u64::MAX, |next| next - 1))
}

/// The value that stands for the bucket that begins with `low`: the largest within 1 % of it.
const fn stands_for(low: u64) -> u64 {
    low.saturating_add(low / 100)
}

/// The smallest value of the bucket after the one that begins with `low`; `None` after the last one. The largest
/// value of a bucket is the largest from which the one that stands for it is within 1 %.
const fn next_lowest(low: u64) -> Option<u64> {
    let next = stands_for(low) as u128 * 100 / 99 + 1;
    if next > u64::MAX as u128 { None } else { Some(next as u64) }
}

const fn bucket_count() -> usize {
    let (mut count, mut low) = (1, 0);
    while let Some(next) = next_lowest(low) {
        low = next;
        count += 1;
    }
    count
}

#[expect(clippy::large_stack_arrays, reason = "evaluated by the compiler only")]
const fn lowest() -> [u64; BUCKETS] {
    let mut lowest = [0; BUCKETS];
    let mut at = 1;
    while at < BUCKETS {
        lowest[at] = match next_lowest(lowest[at - 1]) {
            Some(next) => next,
            None => u64::MAX,
        };
        at += 1;
    }
    lowest
}

const fn octaves() -> [u16; 65] {
    let lowest = lowest();
    let mut octaves = [(BUCKETS - 1) as u16; 65];
    let (mut bits, mut at) = (0, 0);
    while bits < 64 {
        while at + 1 < BUCKETS && lowest[at + 1] <= 1 << bits {
            at += 1;
        }
        octaves[bits] = at as u16;
        bits += 1;
    }
    octaves
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[u64]) -> Sketch {
        let mut sketch = Sketch::default();
        for value in values {
            sketch.add(*value);
        }
        sketch
    }

    fn through_bytes(sketch: &Sketch) -> (Option<Sketch>, usize) {
        let mut writer = Writer::default();
        sketch.write(&mut writer);
        let bytes = writer.finish();
        let mut reader = Reader::new(&bytes);
        let read = Sketch::read(&mut reader);
        assert!(reader.ended());
        (read, bytes.len())
    }

    /// Whole numbers on both sides, so that nothing is rounded.
    fn within(found: u64, exact: u64) -> bool {
        u128::from(found.abs_diff(exact)) * 100 <= u128::from(exact)
    }

    #[test]
    fn every_border_is_within_the_stated_error() {
        for at in 0..BUCKETS as u16 {
            let (low, high) = borders(at);
            assert_eq!((bucket(low), bucket(high)), (at, at));
            for value in [low, high] {
                let found = of(&[value]).quantile(0.5);
                assert!(found.is_some_and(|found| within(found, value)), "{value} as {found:?}");
            }
        }
        assert_eq!(borders(0), (0, 0));
        assert_eq!(borders((BUCKETS - 1) as u16).1, u64::MAX);
    }

    #[test]
    fn nearest_rank() {
        let sketch = of(&(1..=100).rev().collect::<Vec<u64>>());
        for (q, value) in
            [(-1.0, 1), (0.0, 1), (0.01, 1), (0.011, 2), (0.5, 50), (0.9, 90), (0.95, 95), (1.0, 99), (7.0, 99)]
        {
            assert_eq!(sketch.quantile(q), Some(value), "{q}");
        }
        assert_eq!(Sketch::default().percentiles(), None);
        assert_eq!(of(&[0, 0, 7]).percentiles().map(|p| (p.p50, p.p99)), Some((0, 7)));
    }

    /// An hour at 15 s of a site that answers in about 80 ms.
    #[test]
    fn an_hour_is_small() {
        let mut state = 1_u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        // The sum of twelve is near enough to a normal distribution; a spread of a fifth.
        let values: Vec<u64> = (0..240)
            .map(|_| {
                let normal = (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
                (80_000.0 * (0.2 * normal).exp()) as u64
            })
            .collect();
        let (_, bytes) = through_bytes(&of(&values));
        assert!(bytes <= 36, "{bytes}");
        assert!(through_bytes(&of(&[81_234])).1 <= 4);
        assert_eq!(through_bytes(&Sketch::default()).1, 1);
    }

    fn values() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec((0_u32..64, any::<u64>()).prop_map(|(shift, value)| value >> shift), 0..60)
    }

    proptest! {
        #[test]
        fn quantiles_are_within_the_stated_error(mut values in values(), q in 0.0_f64..=1.0) {
            let sketch = of(&values);
            values.sort_unstable();
            let rank = ((q * values.len() as f64).ceil() as usize).max(1);
            let exact = values.get(rank - 1).copied();
            prop_assert_eq!(sketch.quantile(q).is_some(), exact.is_some());
            if let (Some(exact), Some(found)) = (exact, sketch.quantile(q)) {
                prop_assert!(within(found, exact), "{} as {}", exact, found);
            }
        }

        #[test]
        fn merging_is_exact_in_any_order(a in values(), b in values(), c in values()) {
            let (a, b, c) = (of(&a), of(&b), of(&c));
            let merge = |x: &Sketch, y: &Sketch| { let mut sum = x.clone(); sum.merge(y); sum };
            prop_assert_eq!(merge(&a, &b), merge(&b, &a));
            prop_assert_eq!(merge(&merge(&a, &b), &c), merge(&a, &merge(&b, &c)));
            prop_assert_eq!(merge(&a, &b).count(), a.count() + b.count());
            prop_assert_eq!(merge(&a, &Sketch::default()), a);
        }

        #[test]
        fn merged_is_as_if_counted_together(left in values(), right in values()) {
            let mut merged = of(&left);
            merged.merge(&of(&right));
            let all: Vec<u64> = left.into_iter().chain(right).collect();
            prop_assert_eq!(merged, of(&all));
        }

        #[test]
        fn written_is_read(values in values()) {
            let sketch = of(&values);
            prop_assert_eq!(through_bytes(&sketch).0, Some(sketch));
        }

        #[test]
        fn damaged_is_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Some(sketch) = Sketch::read(&mut Reader::new(&bytes)) {
                prop_assert!(sketch.counts.len() <= BUCKETS);
                prop_assert_eq!(through_bytes(&sketch).0, Some(sketch));
            }
        }
    }
}
