//! The slots of a site: aligned to the epoch, shifted by a hash of its name. Part of the interface.
//!
//! `slot(k) = k·interval + hash mod interval`, in whole microseconds since the epoch; the hash is xxh3-64 of the
//! name (`sitemon_model::site::name_hash`). So load spreads evenly, and every process, and any script outside,
//! computes the same slots. An interval of 0 counts as 1 µs. Slots past the end of [`Timestamp`] are its end.

use sitemon_model::Timestamp;

/// Microseconds by which the slots of a site lie after the multiples of its interval.
pub const fn shift(hash: u64, interval_us: u64) -> u64 {
    if interval_us == 0 { 0 } else { hash % interval_us }
}

/// The first slot at or after `at`.
pub fn at_or_after(hash: u64, interval_us: u64, at: Timestamp) -> Timestamp {
    let interval = i128::from(interval_us.max(1));
    let (at, first) = (i128::from(at.0), i128::from(shift(hash, interval_us)));
    clamp(at + (first - at).rem_euclid(interval))
}

/// The first slot after `at`.
pub fn after(hash: u64, interval_us: u64, at: Timestamp) -> Timestamp {
    at_or_after(hash, interval_us, at.plus(1))
}

/// The last slot at or before `at`.
pub fn at_or_before(hash: u64, interval_us: u64, at: Timestamp) -> Timestamp {
    let interval = i128::from(interval_us.max(1));
    let (at, first) = (i128::from(at.0), i128::from(shift(hash, interval_us)));
    clamp(at - (at - first).rem_euclid(interval))
}

/// The slots from `from`, inclusive, to `to`, exclusive.
pub fn slots(hash: u64, interval_us: u64, from: Timestamp, to: Timestamp) -> impl Iterator<Item = Timestamp> {
    let first = at_or_after(hash, interval_us, from);
    let step = i64::try_from(interval_us.max(1)).unwrap_or(i64::MAX);
    std::iter::successors(Some(first), move |slot| slot.0.checked_add(step).map(Timestamp))
        .take_while(move |slot| *slot < to)
}

/// Microseconds after the slot at which its check starts: evenly spread over `0..window_us`, by a hash of name
/// and slot, so that it differs from slot to slot and is the same wherever it is computed.
pub fn jitter(hash: u64, slot: Timestamp, window_us: u64) -> u64 {
    // The finalizer of SplitMix64 (Steele, Lea, Flood: *Fast splittable pseudorandom number generators*, 2014).
    let mut mixed = hash ^ (slot.0 as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    ((u128::from(mixed) * u128::from(window_us)) >> 64) as u64
}

fn clamp(micros: i128) -> Timestamp {
    Timestamp(i64::try_from(micros).unwrap_or(if micros < 0 { i64::MIN } else { i64::MAX }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sitemon_model::site::name_hash;
    use sitemon_model::time::SECOND;

    #[test]
    fn the_reference_of_the_interface() {
        for (name, seconds, shifted, first) in [
            ("shop", 15, 7_243_673, 1_796_000_002_243_673),
            ("a", 1, 738_719, 1_796_000_000_738_719),
            ("https://shop.example/", 60, 35_029_497, 1_796_000_015_029_497),
        ] {
            let (hash, interval) = (name_hash(name), seconds * SECOND as u64);
            assert_eq!(shift(hash, interval), shifted, "{name}");
            assert_eq!(at_or_after(hash, interval, Timestamp(1_796_000_000_000_000)), Timestamp(first), "{name}");
        }
    }

    #[test]
    fn around_a_slot() {
        let (hash, interval) = (name_hash("shop"), 15_000_000);
        let slot = Timestamp(1_796_000_002_243_673);
        let next = slot.plus(15 * SECOND);
        assert_eq!(at_or_after(hash, interval, slot), slot);
        assert_eq!(at_or_after(hash, interval, slot.plus(1)), next);
        assert_eq!(after(hash, interval, slot), next);
        assert_eq!(after(hash, interval, slot.plus(-1)), slot);
        assert_eq!(at_or_before(hash, interval, slot), slot);
        assert_eq!(at_or_before(hash, interval, next.plus(-1)), slot);
        let found: Vec<_> = slots(hash, interval, slot, next).collect();
        assert_eq!(found, [slot]);
        assert_eq!(slots(hash, interval, slot.plus(1), next).count(), 0);
        assert_eq!(slots(hash, interval, slot, slot.plus(3600 * SECOND)).count(), 240);
        assert_eq!(slots(hash, interval, next, slot).count(), 0);
    }

    #[test]
    fn the_ends_of_time() {
        for interval in [0, 1, 100_000, u64::MAX / 2, u64::MAX] {
            for hash in [0, 1, u64::MAX] {
                assert!(at_or_after(hash, interval, Timestamp::MAX) <= Timestamp::MAX);
                assert!(at_or_before(hash, interval, Timestamp::MIN) >= Timestamp::MIN);
                assert!(after(hash, interval, Timestamp::MAX) <= Timestamp::MAX);
                let end = Timestamp::MAX.plus(-3);
                assert!(slots(hash, interval, end, Timestamp::MAX).count() <= 3);
                assert!(slots(hash, interval.max(1 << 62), Timestamp::MIN, Timestamp::MAX).count() <= 4);
            }
        }
    }

    #[test]
    fn jitter_is_spread_evenly() {
        let hash = name_hash("shop");
        let mut tenths = [0_u32; 10];
        for k in 0..10_000 {
            let moved = jitter(hash, Timestamp(k * 15 * SECOND + 7_243_673), 10_000);
            tenths[(moved / 1000) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| (850..1150).contains(count)), "{tenths:?}");
        assert_eq!(jitter(hash, Timestamp(5), 0), 0);
        assert_eq!(jitter(hash, Timestamp(5), 10_000), jitter(hash, Timestamp(5), 10_000));
        assert!(jitter(u64::MAX, Timestamp::MAX, u64::MAX) < u64::MAX);
    }

    proptest! {
        #[test]
        fn as_defined(hash: u64, interval in 1_u64..700_000_000_000_000, at in -(1_i64 << 60)..1 << 60, window: u64) {
            let slot = at_or_after(hash, interval, Timestamp(at));
            let before = at_or_before(hash, interval, Timestamp(at));
            prop_assert_eq!(i128::from(slot.0 - shift(hash, interval) as i64).rem_euclid(i128::from(interval)), 0);
            prop_assert!(slot.0 >= at && slot.0 - at < interval as i64);
            prop_assert!(before.0 <= at && at - before.0 < interval as i64);
            prop_assert_eq!(slot == before, slot.0 == at);
            prop_assert_eq!(after(hash, interval, before), before.plus(interval as i64));
            prop_assert!(jitter(hash, slot, window) < window.max(1));
        }
    }
}
