//! Wall and processor time of the whole process.

use rustix::time::{ClockId, clock_gettime};
use std::ops::AddAssign;
use std::time::Instant;

/// Seconds that something took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    pub wall: f64,
    /// User and system time of all threads.
    pub cpu: f64,
}

impl AddAssign for Spent {
    fn add_assign(&mut self, other: Self) {
        self.wall += other.wall;
        self.cpu += other.cpu;
    }
}

pub struct Clock {
    wall: Instant,
    cpu: f64,
}

impl Clock {
    pub fn start() -> Self {
        Self { wall: Instant::now(), cpu: cpu() }
    }

    pub fn spent(&self) -> Spent {
        Spent { wall: self.wall.elapsed().as_secs_f64(), cpu: cpu() - self.cpu }
    }
}

fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
