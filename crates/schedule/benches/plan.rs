//! What the plan costs with a million sites: to take them in, to hand out what is due, to step the clock, and the
//! bytes that it holds. Prints one line for each.

use sitemon_model::Timestamp;
use sitemon_schedule::plan::{Entry, Now, Plan};
use std::time::Instant;

const SITES: u32 = 1_000_000;

fn main() {
    for (what, jitter_us) in [("without jitter", 0), ("with jitter", 10_000_000)] {
        let mut now = Now { wall: Timestamp(1_796_000_000_000_000), mono: 0, boot: 0 };
        let mut plan = Plan::new(now);
        plan.reserve(SITES as usize);
        let begin = Instant::now();
        for id in 0..SITES {
            // The finalizer of SplitMix64 stands in for the hash of a name.
            let mut hash = u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            hash ^= hash >> 27;
            plan.insert(id, Entry { hash, interval_us: 60_000_000, jitter_us }, now.wall);
        }
        let insert = begin.elapsed().as_nanos() / u128::from(SITES);
        println!("{what}: {insert} ns to take in a site, {:.1} bytes for each", plan.bytes() as f64 / f64::from(SITES));

        // A minute and a half, as the caller's clock would run: what is due each millisecond.
        let (mut out, mut count) = (Vec::with_capacity(1024), 0_usize);
        let begin = Instant::now();
        for _ in 0..90_000 {
            now = Now { wall: now.wall.plus(1000), mono: now.mono + 1000, boot: now.boot + 1000 };
            out.clear();
            let step = plan.due(now, usize::MAX, &mut out);
            assert_eq!(step.missed, 0);
            count += out.len();
        }
        let due = begin.elapsed().as_nanos() / count as u128;
        println!("{what}: {due} ns for a slot, of {count} handed out in 90 s");

        let begin = Instant::now();
        for by in [3_600_000_000, -3_600_000_000] {
            now.wall = now.wall.plus(by);
            out.clear();
            assert_eq!(plan.due(now, 0, &mut out).clock_stepped_us, by);
        }
        println!("{what}: {} ms for a step of the clock", begin.elapsed().as_millis() / 2);
    }
}
