//! The bound on what all running checks hold in memory: `limits.memory`.
//!
//! A check reserves what it is about to hold; where that is not to be had it waits its turn, and is
//! `own.failure` if its time runs out meanwhile.

use std::sync::Arc;
use tokio::sync::Semaphore;

/// Bytes for one permit: fine enough for the smallest check, coarse enough for any bound.
const UNIT: u64 = 256;

/// What all running checks may hold together. Cheap to clone by its `Arc`; shared by all runtimes.
#[derive(Debug)]
pub struct Memory {
    /// One permit for each [`UNIT`]; waits in the order of asking.
    free: Arc<Semaphore>,
    /// Bytes in all.
    bytes: u64,
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
        let permits = usize::try_from(bytes / UNIT).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Arc::new(Self { free: Arc::new(Semaphore::new(permits)), bytes })
    }

    /// Bytes in all.
    pub fn bound(&self) -> u64 {
        self.bytes
    }

    /// Bytes that are held now.
    pub fn held(&self) -> u64 {
        self.bytes.saturating_sub(self.free.available_permits() as u64 * UNIT)
    }

    /// Waits, in the order of asking, until so many bytes are free, and takes them.
    pub async fn reserve(self: &Arc<Self>, bytes: usize) -> Result<Reservation, BeyondBound> {
        let mut reservation = self.nothing();
        reservation.grow(bytes).await?;
        Ok(reservation)
    }

    /// A reservation that holds nothing yet.
    pub fn nothing(self: &Arc<Self>) -> Reservation {
        Reservation { memory: self.clone(), units: 0 }
    }
}

/// What one check holds. Given back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    memory: Arc<Memory>,
    units: u64,
}

impl Reservation {
    /// Bytes that are held.
    pub fn bytes(&self) -> usize {
        (self.units * UNIT) as usize
    }

    /// Waits until so many bytes more are free, and takes them too.
    pub async fn grow(&mut self, bytes: usize) -> Result<(), BeyondBound> {
        let units = (bytes as u64).div_ceil(UNIT);
        let beyond = || BeyondBound { asked: (self.units + units) * UNIT, bound: self.memory.bytes };
        if (self.units + units) * UNIT > self.memory.bytes {
            return Err(beyond());
        }
        let count = u32::try_from(units).map_err(|_| beyond())?;
        // The semaphore lives as long as this and is never closed.
        let permit = self.memory.free.acquire_many(count).await.map_err(|_| beyond())?;
        permit.forget();
        self.units += units;
        Ok(())
    }

    /// Grows to so many bytes in all; nothing where that is held already.
    pub async fn grow_to(&mut self, bytes: usize) -> Result<(), BeyondBound> {
        match bytes.checked_sub(self.bytes()) {
            None | Some(0) => Ok(()),
            Some(more) => self.grow(more).await,
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.memory.free.add_permits(self.units as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn waits_in_order_and_gives_back() {
        let memory = Memory::new(1 << 20);
        let mut first = memory.reserve(512 << 10).await.unwrap();
        first.grow(256 << 10).await.unwrap();
        assert_eq!(memory.held(), 768 << 10);
        let waiting = tokio::spawn({
            let memory = memory.clone();
            async move { memory.reserve(512 << 10).await.map(|r| r.bytes()) }
        });
        tokio::task::yield_now().await;
        // A small one does not overtake the large one that asked first.
        assert!(tokio::time::timeout(Duration::from_millis(20), memory.reserve(300 << 10)).await.is_err());
        drop(first);
        assert_eq!(waiting.await.unwrap(), Ok(512 << 10));
        assert_eq!(memory.held(), 0);
        assert_eq!(memory.reserve(2 << 20).await.unwrap_err(), BeyondBound { asked: 2 << 20, bound: 1 << 20 });
    }
}
