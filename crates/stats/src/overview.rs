//! What an overview of many sites shows of their statistics, read without the rest.
//!
//! Statistics of an hour hold sketches of seven phases and moments of hundreds of metrics; a table of ten thousand
//! sites shows none of them. So what is shown is read alone, and added up in place.

use crate::availability::Tally;
use crate::bits::Reader;
use crate::{Availability, Held, Rollup, Sketch, rollup};
use sitemon_model::{Observation, Timestamp};

/// The part of a [`Rollup`] that an overview shows. Of observations by the schedule only.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overview {
    /// Time by verdict.
    pub availability: Availability,
    /// Observations by `Verdict::number`: up, degraded, down, unknown.
    pub checks: [u64; 4],
    /// Response times of all observations that have one.
    pub latency: Sketch,
}

/// An [`Overview`] while the observations of its span pass.
#[derive(Debug)]
pub struct Passing {
    from: Timestamp,
    to: Timestamp,
    tally: Tally,
    overview: Overview,
    /// Whether anything holds or was checked in the span.
    any: bool,
}

/// What an overview needs of an observation by the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance {
    /// Its verdict, its slot, and until when it holds at most.
    pub held: Held,
    /// Its response time, where it has one.
    pub response_time_us: Option<u64>,
}

impl Glance {
    /// What is needed of `observation`.
    pub fn of(observation: &Observation) -> Self {
        Self { held: Held::of(observation), response_time_us: observation.response_time_us }
    }
}

impl Overview {
    /// The part of whole statistics that an overview shows.
    pub fn of_rollup(rollup: &Rollup) -> Self {
        Self { availability: rollup.availability, checks: rollup.checks, latency: rollup.latency.clone() }
    }

    /// Adds the statistics of another span.
    pub fn merge(&mut self, other: &Self) {
        self.availability.merge(&other.availability);
        for (own, added) in self.checks.iter_mut().zip(other.checks) {
            *own = own.saturating_add(added);
        }
        self.latency.merge(&other.latency);
    }

    /// Adds statistics of a span of `length_us` as [`Rollup::encode`] wrote them; `None` where the bytes are damaged,
    /// as far as they are read.
    pub fn merge_encoded(&mut self, length_us: u64, bytes: &[u8]) -> Option<()> {
        let mut reader = Reader::new(bytes);
        let head = rollup::read_head(&mut reader, length_us)?;
        rollup::read_causes(&mut reader, |_, _| {})?;
        self.availability.merge(&head.availability);
        for (own, added) in self.checks.iter_mut().zip(head.checks) {
            *own = own.saturating_add(added);
        }
        self.latency.merge_read(&mut reader)
    }

    /// How many observations of each verdict statistics count, as [`Rollup::encode`] wrote them; `None` where the
    /// bytes are damaged.
    pub fn checks_encoded(length_us: u64, bytes: &[u8]) -> Option<[u64; 4]> {
        Some(rollup::read_head(&mut Reader::new(bytes), length_us)?.checks)
    }
}

impl Passing {
    /// Begins with `[from, to)` and what was carried into it.
    pub fn new(from: Timestamp, to: Timestamp, carried: Option<Held>) -> Self {
        let carried = carried.filter(|held| held.until > from);
        let tally = Tally::new(from, to, carried);
        Self { from, to, tally, overview: Overview::default(), any: carried.is_some() }
    }

    /// The next observation; they come sorted by slot, one for each slot. One before the span is what is carried
    /// into it, one beyond is passed over.
    pub fn add(&mut self, glance: Glance) {
        if glance.held.from < self.from {
            *self = Self::new(self.from, self.to, Some(glance.held));
        } else if self.tally.hold(glance.held) {
            self.any = true;
            if let Some(count) = self.overview.checks.get_mut(usize::from(glance.held.verdict)) {
                *count += 1;
            }
            if let Some(us) = glance.response_time_us {
                self.overview.latency.add(us);
            }
        }
    }

    /// What they come to; `None` where nothing holds in the span and nothing was checked.
    pub fn finish(self) -> Option<Overview> {
        let Self { tally, mut overview, any, .. } = self;
        overview.availability = tally.finish();
        any.then_some(overview)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{at, observation};
    use proptest::prelude::*;

    /// Observations by the schedule, sorted, one for each slot, in an hour of 15 s.
    fn observations() -> impl Strategy<Value = Vec<Observation>> {
        let one = (prop::sample::select(vec!['u', 'g', 'd', '?']), prop::option::of(0_u64..9_000_000), 1_u64..30);
        prop::collection::vec(one, 0..40).prop_map(|given| {
            let mut slot = 0;
            given
                .into_iter()
                .map(|(verdict, response_time_us, gap)| {
                    slot += gap * 5;
                    Observation { response_time_us, ..observation(slot as f64, 15.0, 10.0, verdict) }
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn is_the_part_of_the_whole(
            observations in observations(), from in 0_u32..600, length in 1_u32..900, carried in any::<bool>(),
        ) {
            let (from, to) = (at(f64::from(from)), at(f64::from(from + length)));
            let carried = carried.then(|| Held::of(&observation(-5.0, 3600.0, 10.0, 'd')));
            let before = Held::after(from, carried, &observations);
            let whole = Rollup::of(from, to, before, &observations);
            let mut passing = Passing::new(from, to, carried);
            for observation in &observations {
                passing.add(Glance::of(observation));
            }
            let expected = Overview::of_rollup(&whole);
            let found = passing.finish();
            prop_assert_eq!(found.is_none(), before.is_none() && whole.checks_all() == 0);
            prop_assert_eq!(&found.unwrap_or_else(|| expected.clone()), &expected);

            let mut read = Overview::default();
            let length = to.0.abs_diff(from.0);
            prop_assert!(read.merge_encoded(length, &whole.encode()).is_some());
            prop_assert_eq!(&read, &expected);
            prop_assert_eq!(Overview::checks_encoded(length, &whole.encode()), Some(expected.checks));
            prop_assert!(read.merge_encoded(length, &whole.encode()).is_some());
            let mut twice = expected.clone();
            twice.merge(&expected);
            prop_assert_eq!(read, twice);
        }

        #[test]
        fn damaged_is_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Overview::default().merge_encoded(1, &bytes);
            let mut versioned = vec![1];
            versioned.extend(bytes);
            let _ = Overview::default().merge_encoded(1, &versioned);
        }
    }
}
