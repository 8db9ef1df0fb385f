//! The clocks of the machine, and an alarm that is exact to microseconds.
//!
//! The async runtime's timer counts milliseconds, which is too coarse for the start of a check, so each lane
//! has a timer of the system's own where there is one.

use sitemon_model::Timestamp;
use sitemon_schedule::plan::Now;
use std::time::{SystemTime, UNIX_EPOCH};

/// The time on the system's clock.
pub fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    // A clock before 1970 is shown as 1970: no slot is due then.
    Timestamp(since.map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX)))
}

/// All three clocks: the system's, and microseconds since the machine's start without and with its sleep.
///
/// They are read one after another, so a pause in between would look like a step of one of them; then they are
/// read again.
pub fn now() -> Now {
    let mut before = micros(BOOT);
    loop {
        let (mono, wall, boot) = (micros(MONOTONIC), wall(), micros(BOOT));
        if boot.saturating_sub(before) <= APART_MAX_US {
            return Now { wall, mono, boot };
        }
        before = boot;
    }
}

/// Readings of clocks that were taken within this time belong together.
const APART_MAX_US: u64 = 1_000;

const MONOTONIC: rustix::time::ClockId = rustix::time::ClockId::Monotonic;
#[cfg(target_os = "linux")]
const BOOT: rustix::time::ClockId = rustix::time::ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const BOOT: rustix::time::ClockId = rustix::time::ClockId::Monotonic;

fn micros(clock: rustix::time::ClockId) -> u64 {
    let time = rustix::time::clock_gettime(clock);
    time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1_000
}

#[cfg(not(target_os = "linux"))]
pub use coarse::Alarm;
#[cfg(target_os = "linux")]
pub use exact::Alarm;

#[cfg(target_os = "linux")]
mod exact {
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
    };
    use std::io;
    use std::os::fd::OwnedFd;
    use tokio::io::unix::AsyncFd;

    /// So much later it rings: the instant of a slot, computed from several clocks, is a microsecond earlier or
    /// later each time, for which it is not set anew.
    const SLACK_US: u64 = 2;

    /// Rings once at an instant of the monotonic clock: a timerfd.
    #[derive(Debug)]
    pub struct Alarm {
        timer: AsyncFd<OwnedFd>,
        set_to: u64,
    }

    impl Alarm {
        /// An alarm that is not set. Needs a runtime.
        pub fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            #[expect(deprecated, reason = "its successor is unsafe; an OwnedFd is not replaced or closed meanwhile")]
            Ok(Self { timer: AsyncFd::new(timerfd_create(TimerfdClockId::Monotonic, flags)?)?, set_to: 0 })
        }

        /// Sets it to an instant, in microseconds of the monotonic clock; one that has passed rings at once.
        pub fn set(&mut self, at: u64) -> io::Result<()> {
            if self.set_to > 0 && (at..=at + 2 * SLACK_US).contains(&self.set_to) {
                return Ok(());
            }
            // Also because an instant of 0 would switch the timer off.
            let at = at + SLACK_US;
            let value =
                Timespec { tv_sec: (at / 1_000_000).cast_signed(), tv_nsec: (at % 1_000_000 * 1_000).cast_signed() };
            let spec = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
            timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::ABSTIME, &spec)?;
            self.set_to = at;
            Ok(())
        }

        /// Ends when it rings. Dropping the future loses nothing.
        pub async fn ring(&mut self) -> io::Result<()> {
            loop {
                let mut ready = self.timer.readable().await?;
                let mut count = [0; 8];
                let read = rustix::io::read(self.timer.get_ref(), &mut count);
                // A timer that rang says nothing more until it rings again.
                ready.clear_ready();
                match read {
                    Ok(_) => {
                        self.set_to = 0;
                        return Ok(());
                    }
                    // It was set anew meanwhile.
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod coarse {
    use super::{MONOTONIC, micros};
    use std::io;

    /// Rings once at an instant of the monotonic clock, as exactly as the async runtime's timer.
    #[derive(Debug)]
    pub struct Alarm {
        at: tokio::time::Instant,
    }

    impl Alarm {
        /// An alarm that is not set. Needs a runtime.
        pub fn new() -> io::Result<Self> {
            Ok(Self { at: tokio::time::Instant::now() })
        }

        /// Sets it to `at`, or to `at_most` from now where that is sooner; an instant that has passed rings at once.
        pub fn set(&mut self, at: Option<u64>, at_most: Duration) -> io::Result<()> {
            let wait =
                at.map_or(at_most, |at| Duration::from_micros(at.saturating_sub(micros(MONOTONIC))).min(at_most));
            self.at = tokio::time::Instant::now() + wait;
            Ok(())
        }

        /// Ends when it rings. Dropping the future loses nothing.
        pub async fn ring(&mut self) -> io::Result<()> {
            tokio::time::sleep_until(self.at).await;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_alarm_rings_in_time() {
        let mut alarm = Alarm::new().unwrap();
        for wait in [0, 300, 5_000] {
            let at = now().mono + wait;
            alarm.set(at).unwrap();
            alarm.ring().await.unwrap();
            assert!(now().mono >= at);
        }
    }
}
