//! The limits of checks in flight: in all, and for each host and port.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Both limits, shared by all lanes. A host takes memory only while checks of it run or wait.
#[derive(Debug)]
pub struct Gates {
    total: Arc<Semaphore>,
    per_host: usize,
    hosts: Mutex<HashMap<u64, Host>>,
}

#[derive(Debug)]
struct Host {
    /// Checks that run or wait.
    users: usize,
    room: Arc<Semaphore>,
}

/// A check's place in flight; given back on drop.
#[derive(Debug)]
pub struct Pass {
    // Declared in this order so that the host's room is given back before its entry is looked at.
    _host: OwnedSemaphorePermit,
    _total: OwnedSemaphorePermit,
    _turn: Turn,
}

/// A check's place in the line for a host.
#[derive(Debug)]
pub struct Turn {
    gates: Arc<Gates>,
    host: u64,
    room: Arc<Semaphore>,
}

impl Gates {
    /// With so many checks in flight in all, and for each host.
    pub fn new(total: usize, per_host: usize) -> Arc<Self> {
        let total = Arc::new(Semaphore::new(total.clamp(1, Semaphore::MAX_PERMITS)));
        let per_host = per_host.clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Self { total, per_host, hosts: Mutex::new(HashMap::new()) })
    }

    /// Stands in line for a host, named by a hash of it.
    pub fn turn(self: &Arc<Self>, host: u64) -> Turn {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Host { users: 0, room: Arc::new(Semaphore::new(self.per_host)) };
        let entry = hosts.entry(host).or_insert_with(new);
        entry.users += 1;
        Turn { gates: self.clone(), host, room: entry.room.clone() }
    }
}

impl Turn {
    /// The pass, if both limits leave room now; else the place in line again.
    pub fn pass_now(self) -> Result<Pass, Self> {
        let Ok(host) = self.room.clone().try_acquire_owned() else { return Err(self) };
        let Ok(total) = self.gates.total.clone().try_acquire_owned() else { return Err(self) };
        Ok(Pass { _host: host, _total: total, _turn: self })
    }

    /// The pass, as soon as both limits leave room; first come, first served.
    pub async fn pass(self) -> Option<Pass> {
        let host = self.room.clone().acquire_owned().await.ok()?;
        let total = self.gates.total.clone().acquire_owned().await.ok()?;
        Some(Pass { _host: host, _total: total, _turn: self })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut hosts = self.gates.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts.get_mut(&self.host) {
            host.users -= 1;
            if host.users == 0 {
                hosts.remove(&self.host);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_limits_hold_and_idle_hosts_are_forgotten() {
        let gates = Gates::new(3, 2);
        let first = gates.turn(1).pass_now().unwrap();
        let second = gates.turn(1).pass_now().unwrap();
        let third = gates.turn(1).pass_now().unwrap_err();
        let other = gates.turn(2).pass_now().unwrap();
        let full = gates.turn(3).pass_now().unwrap_err();
        drop(first);
        let third = third.pass().await.unwrap();
        assert!(gates.turn(3).pass_now().is_err(), "the total is reached again");
        drop((second, other));
        drop(full.pass().await);
        drop(third);
        assert!(gates.hosts.lock().unwrap().is_empty());
    }
}
