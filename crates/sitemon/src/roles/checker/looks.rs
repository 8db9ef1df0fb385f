//! When a lane looks at its clocks, and what a look that comes late says: the process was paused or suspended, or the
//! lane got no time.

use sitemon_model::{Cause, Code, Verdict};

/// A lane that has not looked for so long was paused, starved or suspended: nothing that was under way is true.
const PAUSED_AFTER_US: u64 = 2_000_000;
/// A look that comes so much too late took time away from the checks under way; less is usual on a busy machine.
const LATE_MIN_US: u64 = 50_000;
/// While checks are under way, looks are at most so far apart, so that none of their time is lost unnoticed.
const LOOK_EVERY_US: u64 = 100_000;
/// A check that lost more than this part of its timeout was not given the time that the site has.
const LOST_PART: u64 = 4;

/// The looks of one lane, in microseconds of its monotonic clock.
#[derive(Debug)]
pub struct Looks {
    last: u64,
    /// When the next one was to come.
    next: u64,
}

/// The time that a check under way was not given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// In pauses of the whole process, suspends of the machine included.
    pub paused_us: u64,
    /// By looks that came too late, for whatever reason.
    pub late_us: u64,
}

impl Looks {
    /// The first look is now.
    pub const fn new(now: u64) -> Self {
        Self { last: now, next: now }
    }

    /// When to look again at the latest: at `wake`, or sooner while checks are under way. In whole steps, so that the
    /// alarm need not be set anew at each look.
    pub fn next(&mut self, now: u64, wake: u64, under_way: bool) -> u64 {
        let soon = (now / LOOK_EVERY_US + 1) * LOOK_EVERY_US;
        self.next = if under_way { wake.min(soon) } else { wake };
        self.next
    }

    /// Looks; the time that was lost since the look before.
    pub fn look(&mut self, now: u64) -> Lost {
        let gap = now.saturating_sub(self.last);
        let late = now.saturating_sub(self.last.max(self.next));
        self.last = now;
        let counted = |us: u64, from: u64| if us >= from { us } else { 0 };
        Lost { paused_us: counted(gap, PAUSED_AFTER_US), late_us: counted(late, LATE_MIN_US) }
    }
}

impl Lost {
    /// Adds what was lost in one more look.
    pub fn add(&mut self, more: Self) {
        self.paused_us += more.paused_us;
        self.late_us += more.late_us;
    }

    /// The verdict instead, where what was lost makes it ours: any after a pause, and slowness after less.
    pub fn excuse(self, verdict: &Verdict, timeout_us: u64) -> Option<Verdict> {
        let causes = verdict.causes();
        let slow = !causes.is_empty() && causes.iter().all(|cause| cause.code.is_slowness());
        let late = slow && self.late_us > timeout_us / LOST_PART;
        let us = if self.paused_us > 0 { self.paused_us } else { self.late_us };
        (self.paused_us > 0 || late).then(|| {
            let seconds = us as f64 / 1e6;
            let message = format!("the process was paused, starved or suspended for {seconds:.1} s during the check");
            Verdict::Unknown(vec![Cause::new(Code::OwnFailure, message)])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_comes_too_late_is_lost() {
        let mut looks = Looks::new(1_000_000);
        assert_eq!(looks.next(1_000_000, 1_900_000, false), 1_900_000);
        assert_eq!(looks.look(1_900_100), Lost::default());
        // With checks under way the look after comes soon, whatever the plan says.
        assert_eq!(looks.next(1_900_100, 2_900_000, true), 2_000_000);
        assert_eq!(looks.look(3_200_000), Lost { paused_us: 0, late_us: 1_200_000 });
        assert_eq!(looks.next(3_200_000, 3_210_000, true), 3_210_000);
        assert_eq!(looks.look(5_300_000), Lost { paused_us: 2_100_000, late_us: 2_090_000 });
        // A look by another event, before the alarm.
        looks.next(5_300_000, 6_000_000, false);
        assert_eq!(looks.look(5_400_000), Lost::default());
    }

    #[test]
    fn slowness_is_excused_by_a_quarter_of_the_time_and_anything_by_a_pause() {
        let down = |codes: &[Code]| Verdict::Down(codes.iter().map(|code| Cause::new(*code, "")).collect());
        let late = |late_us| Lost { paused_us: 0, late_us };
        let (slow, refused) = (down(&[Code::WaitTimeout]), down(&[Code::ConnectRefused]));
        let both = down(&[Code::HttpStatus, Code::ResponseTimeExceeded]);
        assert_eq!(late(250_000).excuse(&slow, 1_000_000), None);
        assert!(matches!(late(250_001).excuse(&slow, 1_000_000), Some(Verdict::Unknown(_))));
        for kept in [&refused, &both, &Verdict::Up] {
            assert_eq!(late(900_000).excuse(kept, 1_000_000), None);
            assert!(Lost { paused_us: 2_000_000, late_us: 0 }.excuse(kept, 1_000_000).is_some());
        }
    }
}
