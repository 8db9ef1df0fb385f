//! Waits that end when they should: the asynchronous runtime's timer rounds up to milliseconds, this one does not.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

/// Microseconds since the epoch on the system clock.
pub fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}

/// A thread that sleeps until the next deadline and wakes whoever waits for it.
#[derive(Clone)]
pub(crate) struct Clock {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Waiters by deadline; the number keeps equal deadlines in their order.
    waiting: BinaryHeap<Reverse<Waiting>>,
    count: u64,
    stopped: bool,
}

struct Waiting {
    at: Instant,
    number: u64,
    wake: oneshot::Sender<()>,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Ends the clock's thread when dropped.
pub(crate) struct ClockGuard(Arc<Shared>);

impl Clock {
    /// Starts the thread; it ends with the guard.
    pub(crate) fn start() -> std::io::Result<(Self, ClockGuard)> {
        let shared = Arc::new(Shared::default());
        let running = shared.clone();
        std::thread::Builder::new().name("testkit-clock".to_owned()).spawn(move || running.run())?;
        Ok((Self { shared: shared.clone() }, ClockGuard(shared)))
    }

    /// Waits until this instant, to some tens of microseconds.
    pub(crate) async fn until(&self, at: Instant) {
        if at <= Instant::now() {
            return;
        }
        let (wake, woken) = oneshot::channel();
        {
            let mut state = self.shared.lock();
            let number = state.count;
            state.count += 1;
            state.waiting.push(Reverse(Waiting { at, number, wake }));
        }
        self.shared.changed.notify_one();
        let _ = woken.await;
    }

    /// Waits for this long.
    pub(crate) async fn sleep(&self, time: Duration) {
        self.until(Instant::now() + time).await;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        // The kernel delays wake-ups by 50 µs to save power; here exactness is worth more. Without it: less exact.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        let mut state = self.lock();
        while !state.stopped {
            let now = Instant::now();
            match state.waiting.peek() {
                Some(Reverse(first)) if first.at <= now => {
                    if let Some(Reverse(first)) = state.waiting.pop() {
                        let _ = first.wake.send(());
                    }
                }
                Some(Reverse(first)) => {
                    let left = first.at - now;
                    state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
                }
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
        state.waiting.clear();
    }
}

impl Drop for ClockGuard {
    fn drop(&mut self) {
        self.0.lock().stopped = true;
        self.0.changed.notify_all();
    }
}
