//! The clocks that a process lives by, and an alarm.
//!
//! The async runtime's timer counts milliseconds, which is too coarse for the start of a check, so each lane
//! has a timer of the system's own where there is one. A simulation hands in clocks of its own.

use sitemon_model::Timestamp;
use sitemon_schedule::plan::Now;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// The clocks that a process lives by. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The machine's.
    #[default]
    System,
    /// A simulation's, which runs with the async runtime's time.
    Simulated(Arc<Simulated>),
}

impl Clock {
    /// The time on the wall clock.
    pub fn wall(&self) -> Timestamp {
        match self {
            Self::System => wall(),
            Self::Simulated(clock) => clock.now().wall,
        }
    }

    /// All three clocks, read together.
    pub fn now(&self) -> Now {
        match self {
            Self::System => now(),
            Self::Simulated(clock) => clock.now(),
        }
    }

    /// An alarm that is not set, as exact as there is one. Needs a runtime.
    pub fn alarm(&self) -> io::Result<Alarm> {
        match self {
            #[cfg(target_os = "linux")]
            Self::System => Ok(Alarm::Exact(exact::Alarm::new()?)),
            clock => Ok(Alarm::Coarse(coarse::Alarm::new(clock.clone()))),
        }
    }
}

/// Clocks that run with the async runtime's time, which a simulation lets pass as it likes, and that can be
/// stepped.
#[derive(Debug)]
pub struct Simulated {
    /// When they were made.
    made: Instant,
    /// The monotonic clock then.
    mono: u64,
    /// The wall clock less the monotonic one.
    wall_ahead: AtomicI64,
    /// The clock that goes on during a suspend, less the monotonic one.
    boot_ahead: AtomicI64,
}

impl Simulated {
    /// Clocks that show this now.
    pub fn new(now: Now) -> Arc<Self> {
        let ahead = |clock: i64| AtomicI64::new(clock.saturating_sub_unsigned(now.mono));
        let (wall_ahead, boot_ahead) = (ahead(now.wall.0), ahead(now.boot.cast_signed()));
        Arc::new(Self { made: Instant::now(), mono: now.mono, wall_ahead, boot_ahead })
    }

    /// What they show.
    pub fn now(&self) -> Now {
        let mono = self.mono + self.made.elapsed().as_micros() as u64;
        let ahead = |clock: &AtomicI64| mono.cast_signed().saturating_add(clock.load(Ordering::Relaxed));
        Now { wall: Timestamp(ahead(&self.wall_ahead)), mono, boot: ahead(&self.boot_ahead).unsigned_abs() }
    }

    /// Somebody sets the wall clock, forwards or back.
    pub fn step(&self, by_us: i64) {
        self.wall_ahead.fetch_add(by_us, Ordering::Relaxed);
    }

    /// The machine has slept: the monotonic clock stood still meanwhile.
    pub fn suspend(&self, for_us: u64) {
        self.step(for_us.cast_signed());
        self.boot_ahead.fetch_add(for_us.cast_signed(), Ordering::Relaxed);
    }
}

/// Rings once at an instant of the monotonic clock.
#[derive(Debug)]
pub enum Alarm {
    /// To the microsecond.
    #[cfg(target_os = "linux")]
    Exact(exact::Alarm),
    /// To the millisecond.
    Coarse(coarse::Alarm),
}

impl Alarm {
    /// Sets it to an instant, in microseconds of the monotonic clock; one that has passed rings at once.
    pub fn set(&mut self, at: u64) -> io::Result<()> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Exact(alarm) => alarm.set(at),
            Self::Coarse(alarm) => {
                alarm.set(at);
                Ok(())
            }
        }
    }

    /// Ends when it rings. Dropping the future loses nothing.
    pub async fn ring(&mut self) -> io::Result<()> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Exact(alarm) => alarm.ring().await,
            Self::Coarse(alarm) => {
                alarm.ring().await;
                Ok(())
            }
        }
    }
}

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
fn now() -> Now {
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

/// A timerfd.
#[cfg(target_os = "linux")]
pub mod exact {
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
    };
    use std::io;
    use std::os::fd::OwnedFd;
    use tokio::io::unix::AsyncFd;

    /// So much later it rings: the instant of a slot, computed from several clocks, is a microsecond earlier or
    /// later each time, for which it is not set anew.
    const SLACK_US: u64 = 2;

    /// Rings at the microsecond.
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

/// The async runtime's timer.
pub mod coarse {
    use super::{Clock, Duration, Instant};

    /// Rings at the next millisecond.
    #[derive(Debug)]
    pub struct Alarm {
        clock: Clock,
        at: Instant,
    }

    impl Alarm {
        /// An alarm that is not set.
        pub(super) fn new(clock: Clock) -> Self {
            Self { clock, at: Instant::now() }
        }

        pub(super) fn set(&mut self, at: u64) {
            let wait = at.saturating_sub(self.clock.now().mono);
            self.at = Instant::now() + Duration::from_micros(wait);
        }

        pub(super) async fn ring(&mut self) {
            tokio::time::sleep_until(self.at).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn alarms_ring_in_time() {
        for mut alarm in [Clock::System.alarm().unwrap(), Alarm::Coarse(coarse::Alarm::new(Clock::System))] {
            for wait in [0, 300, 5_000] {
                let at = now().mono + wait;
                alarm.set(at).unwrap();
                alarm.ring().await.unwrap();
                assert!(now().mono >= at, "{alarm:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn simulated_clocks_run_apart() {
        let start = Now { wall: Timestamp(1_796_000_000_000_000), mono: 10, boot: 500 };
        let simulated = Simulated::new(start);
        let clock = Clock::Simulated(simulated.clone());
        assert_eq!(clock.now(), start);
        let mut alarm = clock.alarm().unwrap();
        alarm.set(3_000_010).unwrap();
        alarm.ring().await.unwrap();
        simulated.step(-7);
        simulated.suspend(1_000);
        let expected = Now { wall: start.wall.plus(3_000_993), mono: 3_000_010, boot: 3_001_500 };
        assert_eq!(clock.now(), expected);
    }
}
