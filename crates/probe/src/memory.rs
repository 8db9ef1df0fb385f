//! The bound on what all running checks hold in memory: `limits.memory`.
//!
//! A check reserves what it is about to hold; where that is not to be had it waits its turn, and is
//! `own.failure` if its time runs out meanwhile. Whoever waits keeps what it has, so if all might take up
//! everything, all could come to wait for each other. Therefore each leaves something free for those that are
//! nearer to their end:
//!
//! - one that needs more than most checks do (a [`USUAL_SHARE`] of all) leaves five eighths, so that it delays no other
//!   site;
//! - one that begins leaves three eighths, so that those that have begun can go on, and what the eldest that waits
//!   for its last step needs, up to three quarters: what is given back meanwhile comes to that one, and is not taken
//!   again and again by others that begin (a large JSON text is read so however many sites there are);
//! - one that goes on leaves some less, and a quarter at its last step;
//! - one that has received everything, and will end without waiting for anybody, leaves nothing;
//! - and so does the eldest of all that needed more, or had to wait, once they had begun: it comes to its end,
//!   however many there are, and then the next is the eldest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// One in so many bytes of the bound is more than most checks need for connection, TLS, HTTP/2 and the beginning of
/// a page: 256 KiB of the default.
const USUAL_SHARE: u64 = 256;

/// What all running checks may hold together. Shared by all runtimes.
#[derive(Debug)]
pub struct Memory {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes in all, for those that begin from now on.
    bound: u64,
    /// Bytes that are held.
    held: u64,
    /// Reservations so far; each has its number, so that the older have the smaller.
    numbered: u64,
    /// The numbers of those that needed more than is usual, or had to wait, once they had begun.
    pressed: BTreeSet<u64>,
    waiting: BTreeMap<(Need, u64), Waiter>,
}

/// What memory is asked for, in the order in which it is given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// To come to an end at once.
    Last,
    /// To come to an end with what most checks need.
    Usual,
    /// To go on with what most checks need.
    Next,
    /// To go on with more.
    Large,
    /// To begin.
    First,
}

/// What one asks for.
#[derive(Debug)]
struct Asks {
    bytes: u64,
    /// What it holds meanwhile.
    holds: u64,
    /// The bound when it began.
    bound: u64,
}

#[derive(Debug)]
struct Waiter {
    asks: Asks,
    granted: oneshot::Sender<()>,
}

/// More was asked for than the whole bound, so that waiting would never end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{asked} bytes are more than limits.memory ({bound}) allows at all")]
pub struct BeyondBound {
    /// Bytes that were asked for.
    pub asked: u64,
    /// Bytes that there are.
    pub bound: u64,
}

impl Memory {
    /// A bound of so many bytes.
    pub fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { bound: bytes, ..State::default() }) })
    }

    /// Bytes in all.
    pub fn bound(&self) -> u64 {
        self.lock().bound
    }

    /// Sets another bound. What is held stays held, and who began under a larger one may still use that: nothing
    /// that is under way fails by it.
    pub fn set_bound(&self, bytes: u64) {
        let mut state = self.lock();
        state.bound = bytes;
        state.hand_out();
    }

    /// Bytes that are held now.
    pub fn held(&self) -> u64 {
        self.lock().held
    }

    /// Waits until so many bytes are free to begin with, and takes them.
    pub async fn reserve(self: &Arc<Self>, bytes: usize) -> Result<Reservation, BeyondBound> {
        let mut reservation = self.nothing();
        reservation.grow(bytes).await?;
        Ok(reservation)
    }

    /// A reservation that holds nothing yet.
    pub fn nothing(self: &Arc<Self>) -> Reservation {
        let mut state = self.lock();
        state.numbered += 1;
        Reservation { memory: self.clone(), number: state.numbered, bound: state.bound, first: 0, bytes: 0 }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The bound for one that began under this one.
    fn bound_of(&self, began: u64) -> u64 {
        self.bound.max(began)
    }

    /// Whether what this one asks for may be taken now.
    fn fits(&self, need: Need, number: u64, asks: &Asks) -> bool {
        let Asks { bytes, holds, bound } = *asks;
        let (held, bound) = (self.held + bytes, self.bound_of(bound));
        let eighth = bound / 8;
        let leaves = match need {
            Need::Last => 0,
            _ if self.pressed.first() == Some(&number) => 0,
            Need::Usual => 2 * eighth,
            Need::Next => 2 * eighth + eighth / 2,
            Need::First => (3 * eighth).max(self.claimed().min(6 * eighth)),
            Need::Large => 5 * eighth,
        };
        // Who is alone waits for nobody.
        held <= bound && (held <= bound - leaves || self.held == holds)
    }

    /// Gives what there is to those that wait for it.
    fn hand_out(&mut self) {
        for need in [Need::Last, Need::Usual, Need::Next, Need::Large, Need::First] {
            let mut from = 0;
            while let Some((&key, waiter)) = self.waiting.range((need, from)..=(need, u64::MAX)).next() {
                from = key.1 + 1;
                if !self.fits(need, key.1, &waiter.asks) {
                    // Who ends at once may be overtaken: what the other gives back comes to it in a moment.
                    if need == Need::Last {
                        continue;
                    }
                    break;
                }
                let Some(waiter) = self.waiting.remove(&key) else { break };
                self.held += waiter.asks.bytes;
                // One that has stopped to wait gives it back when it notices.
                let _ = waiter.granted.send(());
            }
        }
    }

    /// Bytes that the eldest waits for that comes to its end with them.
    fn claimed(&self) -> u64 {
        let last = self.waiting.range((Need::Last, 0)..=(Need::Last, u64::MAX)).next();
        last.map_or(0, |(_, waiter)| waiter.asks.bytes)
    }

    /// Whether others are to be served before this one.
    fn must_wait(&self, need: Need, number: u64) -> bool {
        need != Need::Last && self.waiting.range((need, 0)..(need, number)).next().is_some()
    }
}

/// What one check holds. Given back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    memory: Arc<Memory>,
    number: u64,
    /// The bound when it began.
    bound: u64,
    /// Bytes that it began with.
    first: u64,
    bytes: u64,
}

impl Reservation {
    /// Bytes that are held.
    pub const fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// Waits until so many bytes more are free, and takes them too.
    pub async fn grow(&mut self, bytes: usize) -> Result<(), BeyondBound> {
        let need = match self.bytes {
            0 => Need::First,
            held if held + bytes as u64 > self.bound / USUAL_SHARE => Need::Large,
            held if held <= self.first => Need::Next,
            _ => Need::Usual,
        };
        self.take(need, bytes as u64).await
    }

    /// As [`Self::grow`], for one that will end without waiting for anything once it has it.
    pub async fn grow_to_end(&mut self, bytes: usize) -> Result<(), BeyondBound> {
        self.take(Need::Last, bytes as u64).await
    }

    /// Grows to so many bytes in all; nothing where that is held already.
    pub async fn grow_to(&mut self, bytes: usize) -> Result<(), BeyondBound> {
        match bytes.checked_sub(self.bytes()) {
            None | Some(0) => Ok(()),
            Some(more) => self.grow(more).await,
        }
    }

    async fn take(&mut self, need: Need, bytes: u64) -> Result<(), BeyondBound> {
        if let Some(granted) = self.ask(need, bytes)? {
            let mut waiting = Waiting { memory: &self.memory, key: (need, self.number), bytes };
            // The sender lives until it has sent.
            let _ = granted.await;
            waiting.bytes = 0;
        }
        if self.bytes == 0 {
            self.first = bytes;
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Takes it, or stands in line for it.
    fn ask(&self, need: Need, bytes: u64) -> Result<Option<oneshot::Receiver<()>>, BeyondBound> {
        let mut state = self.memory.lock();
        let bound = state.bound_of(self.bound);
        if self.bytes + bytes > bound {
            return Err(BeyondBound { asked: self.bytes + bytes, bound });
        }
        let asks = Asks { bytes, holds: self.bytes, bound: self.bound };
        let fits = |state: &mut State| {
            let fits = !state.must_wait(need, self.number) && state.fits(need, self.number, &asks);
            state.held += if fits { bytes } else { 0 };
            fits
        };
        if need == Need::Large {
            state.pressed.insert(self.number);
        }
        if fits(&mut state) {
            return Ok(None);
        }
        if need != Need::First && state.pressed.insert(self.number) && fits(&mut state) {
            return Ok(None);
        }
        let (granted, receiver) = oneshot::channel();
        state.waiting.insert((need, self.number), Waiter { asks, granted });
        Ok(Some(receiver))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.memory.lock();
        state.pressed.remove(&self.number);
        state.held -= self.bytes;
        state.hand_out();
    }
}

/// A place in the line; left when it is dropped.
struct Waiting<'m> {
    memory: &'m Memory,
    key: (Need, u64),
    /// 0 as soon as they were taken over.
    bytes: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut state = self.memory.lock();
        if state.waiting.remove(&self.key).is_none() {
            // It was granted at the last moment.
            state.held -= self.bytes;
        }
        state.hand_out();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const MIB: usize = 1 << 20;

    /// Whether it is had within a moment.
    async fn now<T>(future: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout(Duration::from_millis(20), future).await.ok()
    }

    #[tokio::test]
    async fn waits_in_order_and_gives_back() {
        let memory = Memory::new(1 << 20);
        let first = memory.reserve(700 << 10).await.unwrap();
        assert_eq!(memory.held(), 700 << 10);
        let waiting = tokio::spawn({
            let memory = memory.clone();
            async move { memory.reserve(512 << 10).await.map(|r| r.bytes()) }
        });
        tokio::task::yield_now().await;
        // A small one does not overtake the large one that asked first.
        assert!(now(memory.reserve(10 << 10)).await.is_none());
        drop(first);
        assert_eq!(waiting.await.unwrap(), Ok(512 << 10));
        assert_eq!(memory.held(), 0);
        assert_eq!(memory.reserve(2 * MIB).await.unwrap_err(), BeyondBound { asked: 2 << 20, bound: 1 << 20 });
    }

    #[tokio::test]
    async fn who_is_nearer_to_the_end_is_served_first() {
        let memory = Memory::new(256 << 20);
        let mut checks = Vec::new();
        while let Some(check) = now(memory.reserve(MIB / 2)).await {
            checks.push(check.unwrap());
        }
        assert_eq!(checks.len() * MIB / 2, 256 * MIB * 5 / 8);
        // Those that have begun go on, and come to an end, with what none may begin with.
        let mut steps = [0; 2];
        for count in &mut steps {
            for check in &mut checks {
                *count += usize::from(now(check.grow(MIB / 4)).await.is_some());
            }
        }
        // The eldest of those that had to wait has its step without leaving anything.
        assert_eq!(steps.map(|count| count * MIB / 4), [16 * MIB + MIB / 4, 16 * MIB]);
        checks.clear();
        assert_eq!(memory.held(), 0);
    }

    #[tokio::test]
    async fn large_ones_leave_room_for_others_and_the_oldest_takes_what_it_needs() {
        let memory = Memory::new(16 << 20);
        let mut checks = Vec::new();
        for _ in 0..8 {
            checks.push(memory.reserve(4 << 10).await.unwrap());
        }
        let take_all = async |check: &mut Reservation| while matches!(now(check.grow(MIB / 8)).await, Some(Ok(()))) {};
        checks[0].grow(MIB / 2).await.unwrap();
        for check in checks[1..].iter_mut().rev() {
            take_all(check).await;
        }
        let held = memory.held() as usize;
        assert!(held > 5 * MIB && held <= 6 * MIB, "{held}");
        // Others begin and go on all the same.
        let mut other = now(memory.reserve(4 << 10)).await.unwrap().unwrap();
        now(other.grow(50 << 10)).await.unwrap().unwrap();
        // One that can end at once does.
        let mut last = memory.nothing();
        now(last.grow_to_end(9 * MIB)).await.unwrap().unwrap();
        drop(last);
        // The oldest goes on until there is nothing left.
        take_all(&mut checks[0]).await;
        assert!(memory.held() as usize > 15 * MIB + MIB / 2, "{}", memory.held());
    }

    /// Sites enough that more than half is always held, and one whose last step needs three quarters.
    #[tokio::test]
    async fn one_that_needs_much_to_end_is_not_overtaken_by_all_that_begin() {
        let memory = Memory::new(16 << 20);
        let mut others = std::collections::VecDeque::new();
        let begin = async |others: &mut std::collections::VecDeque<_>| {
            while let Some(check) = now(memory.reserve(MIB)).await {
                others.push_back(check.unwrap());
            }
        };
        begin(&mut others).await;
        assert_eq!(others.len(), 10);
        let mut last = memory.nothing();
        let mut waiting = Box::pin(last.grow_to_end(12 * MIB));
        for _ in 0..6 {
            assert!(now(&mut waiting).await.is_none());
            others.pop_front();
            begin(&mut others).await;
        }
        now(&mut waiting).await.expect("what the others gave back is its own").unwrap();
        drop(waiting);
        assert_eq!(memory.held() as usize, 16 * MIB);
        // It has what it wants, and others begin again as before.
        drop(last);
        begin(&mut others).await;
        assert_eq!(others.len(), 10);
        // One that waits for more than that keeps nobody from beginning with a quarter, and nobody once it is gone.
        let mut more = memory.nothing();
        let mut waiting = Box::pin(more.grow_to_end(16 * MIB));
        assert!(now(&mut waiting).await.is_none());
        others.truncate(3);
        begin(&mut others).await;
        assert_eq!(others.len(), 4);
        drop(waiting);
        begin(&mut others).await;
        assert_eq!(others.len(), 10);
    }

    #[tokio::test]
    async fn another_bound_holds_for_those_that_begin() {
        let memory = Memory::new(16 << 20);
        let mut large = memory.reserve(4 * MIB).await.unwrap();
        let mut waiting = Box::pin(memory.reserve(12 * MIB));
        assert!(now(&mut waiting).await.is_none());
        // More room comes to those that wait.
        memory.set_bound(64 << 20);
        let other = now(&mut waiting).await.unwrap().unwrap();
        drop(waiting);
        // Less room takes nothing away: who began with more goes on, and ends, with what it may have.
        memory.set_bound(1 << 20);
        assert_eq!((memory.held(), memory.bound()), (16 << 20, 1 << 20));
        drop(other);
        now(large.grow_to_end(10 * MIB)).await.unwrap().unwrap();
        assert_eq!(large.grow_to_end(3 * MIB).await.unwrap_err(), BeyondBound { asked: 17 << 20, bound: 16 << 20 });
        // Who begins waits until there is less than the new bound, and cannot have more than it.
        let mut waiting = Box::pin(memory.reserve(MIB / 2));
        assert!(now(&mut waiting).await.is_none());
        assert_eq!(memory.reserve(2 * MIB).await.unwrap_err(), BeyondBound { asked: 2 << 20, bound: 1 << 20 });
        drop(large);
        assert_eq!(now(&mut waiting).await.unwrap().unwrap().bytes(), MIB / 2);
    }

    #[tokio::test]
    async fn who_stops_to_wait_loses_nothing() {
        let memory = Memory::new(1 << 20);
        let all = memory.reserve(MIB).await.unwrap();
        let mut waiting = Box::pin(memory.reserve(MIB / 2));
        assert!(now(&mut waiting).await.is_none());
        // Granted, and dropped before it could notice.
        drop(all);
        assert_eq!(memory.held(), 1 << 19);
        drop(waiting);
        assert_eq!(memory.held(), 0);
    }

    /// Checks that hold a part and want more, all at once and more than there is room for: all come to their end.
    #[tokio::test]
    async fn none_starves() {
        let memory = Memory::new(16 << 20);
        let check = |memory: Arc<Memory>| async move {
            let mut held = memory.reserve(6 << 10).await.unwrap();
            held.grow(100 << 10).await.unwrap();
            for _ in 0..125 {
                tokio::task::yield_now().await;
                held.grow(8 << 10).await.unwrap();
            }
            held.grow_to_end(2 * MIB).await.unwrap();
        };
        let checks: Vec<_> = (0..300).map(|_| tokio::spawn(check(memory.clone()))).collect();
        for check in checks {
            tokio::time::timeout(Duration::from_secs(20), check).await.expect("starved").unwrap();
        }
        assert_eq!(memory.held(), 0);
    }
}
