//! Time-weighted availability with its coverage.
//!
//! A verdict holds from its slot until the next observation of the site and location by the schedule, at most
//! the interval and the timeout that were in force. Lag and jitter play no role, slots do. All times are whole
//! microseconds, so spans can be split and merged anywhere without a difference.

use sitemon_model::{Observation, Reason, Timestamp};

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

    /// What is carried over the instant `at`: by the last observation by the schedule before it, or where there
    /// is none by what was carried in already; `None` where nothing holds any more. The order of the
    /// observations does not matter.
    pub fn after<'a>(
        at: Timestamp,
        carried: Option<Self>,
        observations: impl IntoIterator<Item = &'a Observation>,
    ) -> Option<Self> {
        observations
            .into_iter()
            .filter(|observation| observation.reason == Reason::Schedule && observation.scheduled_at < at)
            .max_by_key(|observation| observation.scheduled_at)
            .map(Self::of)
            .or(carried)
            .filter(|held| held.until > at)
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
    /// Of `[from, to)`, from what was carried into it and its observations, sorted by slot, one for each slot;
    /// those outside of the span or by request are passed over.
    pub fn of<'a>(
        from: Timestamp,
        to: Timestamp,
        carried: Option<Held>,
        observations: impl IntoIterator<Item = &'a Observation>,
    ) -> Self {
        let mut tally = Tally::new(from, to, carried);
        for observation in observations {
            tally.add(observation);
        }
        tally.finish()
    }

    /// Adds another span, or another site over the same one.
    ///
    /// Exact up to `u64::MAX` microseconds, which is 584,942 years of sites together, and held there.
    pub fn merge(&mut self, other: &Self) {
        for (own, added) in self.by_verdict_us.iter_mut().zip(other.by_verdict_us) {
            *own = own.saturating_add(added);
        }
        self.span_us = self.span_us.saturating_add(other.span_us);
    }

    /// Up time (degraded included) over up and down time; `None` where neither is known.
    pub fn availability(&self) -> Option<f64> {
        let known = self.known_us();
        let up = known - u128::from(self.by_verdict_us[2]);
        (known > 0).then(|| up as f64 / known as f64)
    }

    /// Known time (up, degraded, down) over all; `None` for an empty span.
    pub fn coverage(&self) -> Option<f64> {
        (self.span_us > 0).then(|| (self.known_us() as f64 / self.span_us as f64).min(1.0))
    }

    /// Microseconds that are up, degraded or down.
    pub fn known_us(&self) -> u128 {
        self.by_verdict_us[..3].iter().map(|us| u128::from(*us)).sum()
    }
}

/// Adds up the time by verdict while the observations of a span pass.
#[derive(Debug)]
pub(crate) struct Tally {
    to: Timestamp,
    /// Up to here time is distributed.
    at: Timestamp,
    held: Option<Held>,
    sum: Availability,
}

impl Tally {
    pub(crate) fn new(from: Timestamp, to: Timestamp, carried: Option<Held>) -> Self {
        let to = to.max(from);
        let sum = Availability { by_verdict_us: [0; 4], span_us: to.0.abs_diff(from.0) };
        Self { to, at: from, held: carried, sum }
    }

    /// The next observation; says whether it counts: by the schedule, within the span.
    pub(crate) fn add(&mut self, observation: &Observation) -> bool {
        observation.reason == Reason::Schedule && self.hold(Held::of(observation))
    }

    /// What the next observation by the schedule holds; says whether it counts: within the span.
    pub(crate) fn hold(&mut self, held: Held) -> bool {
        if held.from < self.at || held.from >= self.to {
            return false;
        }
        self.hold_until(held.from);
        self.held = Some(held);
        true
    }

    pub(crate) fn finish(mut self) -> Availability {
        self.hold_until(self.to);
        self.sum
    }

    fn hold_until(&mut self, next: Timestamp) {
        if let Some(held) = self.held {
            let end = held.until.min(next);
            if end > self.at
                && let Some(us) = self.sum.by_verdict_us.get_mut(usize::from(held.verdict))
            {
                *us += end.0.abs_diff(self.at.0);
            }
        }
        self.at = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{at, observation};
    use proptest::prelude::*;
    use sitemon_model::time::{DAY, HOUR, SECOND};

    /// A case by hand: the span in seconds, what is carried in (slot, interval, timeout, verdict), the
    /// observations likewise, and the seconds that are to be up, degraded, down and unknown by verdict.
    type Sample = (f64, f64, f64, char);

    #[track_caller]
    fn check(what: &str, span: (f64, f64), carried: Option<Sample>, seen: &[Sample], seconds: [f64; 4]) {
        let make = |s: &Sample| observation(s.0, s.1, s.2, s.3);
        let held = carried.as_ref().map(|s| Held::of(&make(s)));
        let seen: Vec<_> = seen.iter().map(make).collect();
        let found = Availability::of(at(span.0), at(span.1), held, &seen);
        let expected = Availability {
            by_verdict_us: seconds.map(|s| at(s).0 as u64),
            span_us: (at(span.1).0 - at(span.0).0) as u64,
        };
        assert_eq!(found, expected, "{what}");
    }

    #[test]
    fn by_hand() {
        let u = |slot| (slot, 15.0, 10.0, 'u');
        let d = |slot| (slot, 15.0, 10.0, 'd');
        check("nothing seen", (0.0, 60.0), None, &[], [0.0; 4]);
        check(
            "whole minute, held at its end",
            (0.0, 60.0),
            None,
            &[u(0.0), u(15.0), u(30.0), u(45.0)],
            [60.0, 0.0, 0.0, 0.0],
        );
        check(
            "from the slot on, not before",
            (0.0, 60.0),
            None,
            &[u(7.0), u(22.0), u(37.0), u(52.0)],
            [53.0, 0.0, 0.0, 0.0],
        );
        check("carried in", (0.0, 60.0), Some(u(-8.0)), &[u(7.0), u(22.0), u(37.0), u(52.0)], [60.0, 0.0, 0.0, 0.0]);
        check(
            "down between two that are up",
            (0.0, 60.0),
            None,
            &[u(0.0), d(15.0), u(30.0), u(45.0)],
            [45.0, 0.0, 15.0, 0.0],
        );
        check(
            "degraded has its own time",
            (0.0, 30.0),
            None,
            &[(0.0, 15.0, 10.0, 'g'), u(15.0)],
            [15.0, 15.0, 0.0, 0.0],
        );
        // A gap: what was seen at 15 holds for the interval and the timeout, until 40; nothing holds until 60.
        check("a gap", (0.0, 75.0), None, &[u(0.0), u(15.0), u(60.0)], [55.0, 0.0, 0.0, 0.0]);
        check(
            "a gap within interval and timeout",
            (0.0, 60.0),
            None,
            &[u(0.0), u(25.0), u(40.0), u(55.0)],
            [60.0, 0.0, 0.0, 0.0],
        );
        check("a gap after down", (0.0, 75.0), None, &[u(0.0), d(15.0), u(60.0)], [30.0, 0.0, 25.0, 0.0]);
        // A restart of a minute: stopped after the slot at 30, back with the slot at 90.
        check("a restart", (0.0, 120.0), None, &[u(0.0), u(15.0), u(30.0), u(90.0), u(105.0)], [85.0, 0.0, 0.0, 0.0]);
        check("a restart that misses no slot", (0.0, 45.0), None, &[u(0.0), u(15.0), u(30.0)], [45.0, 0.0, 0.0, 0.0]);
        // From 15 s to 60 s at 30: the last old one holds until the first new one at 50.
        check(
            "a longer interval",
            (0.0, 110.0),
            None,
            &[u(0.0), u(15.0), u(30.0), (50.0, 60.0, 10.0, 'd')],
            [50.0, 0.0, 60.0, 0.0],
        );
        // From 60 s to 1 s: the old verdict ends with the first new slot, and 58 s of down are 58, not one of 61.
        check(
            "a shorter interval re-weights nothing",
            (0.0, 61.0),
            None,
            &[(0.0, 60.0, 10.0, 'd'), (58.0, 1.0, 1.0, 'u'), (59.0, 1.0, 1.0, 'u'), (60.0, 1.0, 1.0, 'u')],
            [3.0, 0.0, 58.0, 0.0],
        );
        check(
            "the interval in force counts, not the later one",
            (0.0, 100.0),
            None,
            &[(0.0, 1.0, 1.0, 'u'), (50.0, 60.0, 10.0, 'u')],
            [52.0, 0.0, 0.0, 0.0],
        );
        // Forwards: the slots at 30 to 3630 never were. Backwards: no slot is served until the clock is past 30 again.
        check("the clock stepped forwards", (0.0, 3660.0), None, &[u(0.0), u(15.0), u(3645.0)], [55.0, 0.0, 0.0, 0.0]);
        check(
            "the clock stepped back by a second",
            (0.0, 60.0),
            None,
            &[u(0.0), u(15.0), u(30.0), u(45.0)],
            [60.0, 0.0, 0.0, 0.0],
        );
        check(
            "maintenance is unknown, not down",
            (0.0, 60.0),
            None,
            &[u(0.0), (15.0, 15.0, 10.0, '?'), (30.0, 15.0, 10.0, '?'), u(45.0)],
            [30.0, 0.0, 0.0, 30.0],
        );
        check(
            "missed slots are unknown",
            (0.0, 60.0),
            None,
            &[d(0.0), (15.0, 15.0, 10.0, '?'), d(30.0), d(45.0)],
            [0.0, 0.0, 45.0, 15.0],
        );
        check("cut at both ends", (20.0, 35.0), Some(u(15.0)), &[d(30.0)], [10.0, 0.0, 5.0, 0.0]);
        check("carried, but no longer holding", (0.0, 60.0), Some(u(-25.0)), &[], [0.0; 4]);
        check(
            "carried over an empty span",
            (3600.0, 7200.0),
            Some((0.0, 86400.0, 10.0, 'd')),
            &[],
            [0.0, 0.0, 3600.0, 0.0],
        );
        check("outside of the span", (0.0, 15.0), None, &[d(-1.0), u(0.0), d(15.0)], [15.0, 0.0, 0.0, 0.0]);
        check("an empty span", (15.0, 15.0), Some(u(0.0)), &[u(15.0)], [0.0; 4]);
    }

    #[test]
    fn a_late_arrival_takes_its_place() {
        let slots = [(0.0, 'u'), (15.0, 'd'), (30.0, 'u'), (45.0, 'u')];
        let all = slots.map(|(slot, verdict)| observation(slot, 15.0, 0.0, verdict));
        let without: Vec<_> = all.iter().filter(|o| o.scheduled_at != at(15.0)).collect();
        assert_eq!(Availability::of(at(0.0), at(60.0), None, without).by_verdict_us, [45_000_000, 0, 0, 0]);
        assert_eq!(Availability::of(at(0.0), at(60.0), None, &all).by_verdict_us, [45_000_000, 0, 15_000_000, 0]);
    }

    #[test]
    fn requests_do_not_count() {
        let mut asked = observation(5.0, 15.0, 10.0, 'd');
        asked.reason = Reason::Request;
        let seen = [observation(0.0, 15.0, 10.0, 'u'), asked.clone()];
        assert_eq!(Availability::of(at(0.0), at(15.0), None, &seen).by_verdict_us, [15_000_000, 0, 0, 0]);
        assert_eq!(Held::after(at(15.0), None, &seen), Some(Held::of(&seen[0])));
        assert_eq!(Held::after(at(15.0), None, &[asked]), None);
    }

    /// A site that is always up is covered wholly, in every hour, day and window that begins with a slot of it.
    #[test]
    fn always_up_is_covered_exactly() {
        for interval in [SECOND, 45 * SECOND, HOUR, DAY] {
            let first = Timestamp(1_796_000_000_000_000 + 7_243_673 % interval);
            let days = 4;
            let observations: Vec<_> = (0..=days * DAY / interval)
                .map(|k| Observation {
                    scheduled_at: first.plus(k * interval),
                    interval_us: interval as u64,
                    timeout_us: interval.min(10 * SECOND) as u64,
                    ..Observation::default()
                })
                .collect();
            let mut carried = None;
            let mut from = first;
            let mut hours = Availability::default();
            while from < first.plus(days * DAY) {
                let to = from.floor(HOUR).plus(HOUR).min(first.plus(days * DAY));
                let within = || observations.iter().filter(|o| o.scheduled_at >= from && o.scheduled_at < to);
                let hour = Availability::of(from, to, carried, within());
                assert_eq!((hour.coverage(), hour.availability()), (Some(1.0), Some(1.0)), "{interval} {from}");
                hours.merge(&hour);
                carried = Held::after(to, carried, within());
                from = to;
            }
            assert_eq!(
                hours,
                Availability { by_verdict_us: [days as u64 * DAY as u64, 0, 0, 0], span_us: (days * DAY) as u64 }
            );
            for (skip, length) in [(0, 1), (1, interval), (interval / 3, 3 * interval / 2), (7, DAY)] {
                let (from, to) = (first.plus(skip), first.plus(skip + length));
                let before = observations.iter().filter(|o| o.scheduled_at < from);
                let carried = Held::after(from, None, before);
                let window = Availability::of(from, to, carried, &observations);
                assert_eq!(window.coverage(), Some(1.0), "{interval} {skip} {length}");
            }
        }
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut odd = observation(0.0, 1.0, 1.0, 'u');
        odd.interval_us = u64::MAX;
        odd.timeout_us = u64::MAX;
        odd.scheduled_at = Timestamp::MIN;
        let whole = Availability::of(Timestamp::MIN, Timestamp::MAX, None, [&odd]);
        assert_eq!(whole.span_us, u64::MAX);
        let mut sum = whole;
        sum.by_verdict_us = [u64::MAX; 4];
        sum.merge(&whole);
        assert_eq!(sum.coverage(), Some(1.0));
        assert!(sum.availability().is_some_and(|share| (0.66..0.67).contains(&share)));
        assert_eq!(Availability::of(Timestamp::MAX, Timestamp::MIN, None, [&odd]).span_us, 0);
    }

    fn observations() -> impl Strategy<Value = Vec<Observation>> {
        let one = (1_u32..50, 1_u32..80, 0_u32..40, prop::sample::select(vec!['u', 'g', 'd', '?']));
        prop::collection::vec(one, 0..40).prop_map(|parts| {
            let mut slot = 0;
            parts
                .into_iter()
                .map(|(step, interval, timeout, verdict)| {
                    slot += step;
                    observation(slot.into(), interval.into(), timeout.into(), verdict)
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn split_anywhere_is_the_whole(seen in observations(), cuts in prop::collection::vec(-10_i64..2000, 1..6)) {
            let (from, to) = (at(-10.0), at(2000.0));
            let whole = Availability::of(from, to, None, &seen);
            prop_assert!(whole.by_verdict_us.iter().sum::<u64>() <= whole.span_us);
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| Timestamp(cut * SECOND)).chain([to]).collect();
            cuts.sort_unstable();
            let mut parts = Vec::new();
            let (mut start, mut carried) = (from, None);
            for cut in cuts {
                let within = || seen.iter().filter(|o| o.scheduled_at >= start && o.scheduled_at < cut);
                parts.push(Availability::of(start, cut, carried, within()));
                carried = Held::after(cut, carried, within());
                start = cut;
            }
            let merge = |parts: &mut dyn Iterator<Item = &Availability>| {
                parts.fold(Availability::default(), |mut sum, part| { sum.merge(part); sum })
            };
            prop_assert_eq!(merge(&mut parts.iter()), whole);
            prop_assert_eq!(merge(&mut parts.iter().rev()), whole);
        }

        /// Against the definition, second by second.
        #[test]
        fn as_defined(seen in observations()) {
            let found = Availability::of(at(0.0), at(500.0), None, &seen);
            let mut by_verdict_us = [0; 4];
            for second in 0..500 {
                let now = Timestamp(second * SECOND);
                let last = seen.iter().rfind(|o| o.scheduled_at <= now);
                if let Some(last) = last
                    && now.since(last.scheduled_at) < (last.interval_us + last.timeout_us) as i64
                {
                    by_verdict_us[usize::from(last.verdict.number())] += SECOND as u64;
                }
            }
            prop_assert_eq!(found.by_verdict_us, by_verdict_us);
        }
    }
}
