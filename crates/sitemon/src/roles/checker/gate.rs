//! The limits of checks in flight: in all, and for each host and port.
//!
//! Where more wait than there is room for, those go first whose slots before were left out most often: by the
//! order of coming alone the same sites might have their turn again and again, and others never.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Both limits, shared by all lanes. A host takes memory only while checks of it run or wait.
#[derive(Debug)]
pub struct Gates {
    total: Arc<Seats>,
    hosts: Mutex<Hosts>,
}

#[derive(Debug)]
struct Hosts {
    /// The limit of each.
    room: usize,
    by_hash: HashMap<u64, Host>,
}

#[derive(Debug)]
struct Host {
    /// Checks that run or wait.
    users: usize,
    room: Arc<Seats>,
}

/// Seats for a number of checks.
#[derive(Debug)]
struct Seats(Mutex<Places>);

#[derive(Debug)]
struct Places {
    /// How many there are; fewer than are taken, where there were more before.
    count: usize,
    taken: usize,
    /// Counts those that came, so that of equal ones the first goes first.
    came: u64,
    waiting: BTreeMap<(Reverse<u32>, u64), oneshot::Sender<Place>>,
}

/// A place in a room; given back on drop.
#[derive(Debug)]
struct Place(Option<Arc<Seats>>);

impl Seats {
    fn new(places: usize) -> Arc<Self> {
        let count = places.max(1);
        Arc::new(Self(Mutex::new(Places { count, taken: 0, came: 0, waiting: BTreeMap::new() })))
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, if one is free and nobody waits for it.
    fn take_now(self: &Arc<Self>) -> Option<Place> {
        let mut places = self.lock();
        if places.is_full() {
            return None;
        }
        places.taken += 1;
        Some(Place(Some(self.clone())))
    }

    /// A place, as soon as it is one's turn. Dropping the future leaves the line.
    async fn take(self: &Arc<Self>, left_out: u32) -> Option<Place> {
        if let Some(place) = self.take_now() {
            return Some(place);
        }
        let (sender, receiver) = oneshot::channel();
        let waiting = {
            let mut places = self.lock();
            places.came += 1;
            let key = (Reverse(left_out), places.came);
            places.waiting.insert(key, sender);
            Waiting { room: self, key }
        };
        let place = receiver.await.ok();
        drop(waiting);
        place
    }

    /// Takes a place back.
    fn give_back(self: &Arc<Self>) {
        let mut places = self.lock();
        places.taken -= 1;
        self.hand_out(&mut places);
    }

    /// Sets how many places there are. Those that are taken stay taken.
    fn set(self: &Arc<Self>, count: usize) {
        let mut places = self.lock();
        places.count = count.max(1);
        self.hand_out(&mut places);
    }

    /// Gives the places that are free to the next in line.
    fn hand_out(self: &Arc<Self>, places: &mut Places) {
        while !places.is_full()
            && let Some((_, next)) = places.waiting.pop_first()
        {
            match next.send(Place(Some(self.clone()))) {
                Ok(()) => places.taken += 1,
                // It has stopped to wait: the place is for the next.
                Err(mut place) => place.0 = None,
            }
        }
    }
}

impl Places {
    fn is_full(&self) -> bool {
        self.taken >= self.count
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(room) = self.0.take() {
            room.give_back();
        }
    }
}

/// Being in line for a place.
struct Waiting<'r> {
    room: &'r Seats,
    key: (Reverse<u32>, u64),
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.room.lock().waiting.remove(&self.key);
    }
}

/// A check's place in flight; given back on drop.
#[derive(Debug)]
pub struct Pass {
    // Declared in this order so that the host's room is given back before its entry is looked at.
    _host: Place,
    _total: Place,
    _turn: Turn,
}

/// A check's place in the line for a host.
#[derive(Debug)]
pub struct Turn {
    gates: Arc<Gates>,
    host: u64,
    room: Arc<Seats>,
}

impl Gates {
    /// With so many checks in flight in all, and for each host.
    pub fn new(total: usize, per_host: usize) -> Arc<Self> {
        let hosts = Hosts { room: per_host, by_hash: HashMap::new() };
        Arc::new(Self { total: Seats::new(total), hosts: Mutex::new(hosts) })
    }

    /// Sets other limits. Checks in flight keep their places; where there are more than may be, none begins until
    /// enough have ended.
    pub fn set(&self, total: usize, per_host: usize) {
        self.total.set(total);
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.room = per_host;
        for host in hosts.by_hash.values() {
            host.room.set(per_host);
        }
    }

    /// Whether no more checks may be in flight.
    pub fn is_full(&self) -> bool {
        self.total.lock().is_full()
    }

    /// Stands in line for a host, named by a hash of it.
    pub fn turn(self: &Arc<Self>, host: u64) -> Turn {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let room = hosts.room;
        let entry = hosts.by_hash.entry(host).or_insert_with(|| Host { users: 0, room: Seats::new(room) });
        entry.users += 1;
        Turn { gates: self.clone(), host, room: entry.room.clone() }
    }
}

impl Turn {
    /// The pass, if both limits leave room now; else the place in line again.
    pub fn pass_now(self) -> Result<Pass, Self> {
        let Some(host) = self.room.take_now() else { return Err(self) };
        let Some(total) = self.gates.total.take_now() else { return Err(self) };
        Ok(Pass { _host: host, _total: total, _turn: self })
    }

    /// The pass, as soon as both limits leave room: those first that were left out most often, of these the
    /// first that came.
    pub async fn pass(self, left_out: u32) -> Option<Pass> {
        let host = self.room.take(left_out).await?;
        let total = self.gates.total.take(left_out).await?;
        Some(Pass { _host: host, _total: total, _turn: self })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut hosts = self.gates.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts.by_hash.get_mut(&self.host) {
            host.users -= 1;
            if host.users == 0 {
                hosts.by_hash.remove(&self.host);
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
        let third = third.pass(0).await.unwrap();
        assert!(gates.turn(3).pass_now().is_err(), "the total is reached again");
        drop((second, other));
        drop(full.pass(0).await);
        drop(third);
        assert!(gates.hosts.lock().unwrap().by_hash.is_empty());
    }

    #[tokio::test]
    async fn other_limits_come_into_force_without_losing_a_place() {
        let gates = Gates::new(2, 1);
        let first = gates.turn(1).pass_now().unwrap();
        let second = gates.turn(2).pass_now().unwrap();
        let waits = |host| tokio::spawn(gates.turn(host).pass(0));
        let (third, fourth) = (waits(1), waits(3));
        tokio::task::yield_now().await;
        // More room is theirs at once.
        gates.set(4, 2);
        let (third, fourth) = (third.await.unwrap().unwrap(), fourth.await.unwrap().unwrap());
        assert!(gates.is_full());
        // With less, nobody begins until enough have ended.
        gates.set(2, 1);
        let fifth = waits(4);
        drop(first);
        drop(second);
        tokio::task::yield_now().await;
        assert!(gates.is_full() && !fifth.is_finished());
        assert!(gates.turn(1).pass_now().is_err(), "the other check of this host still runs");
        drop(fourth);
        let fifth = fifth.await.unwrap().unwrap();
        drop(third);
        let sixth = gates.turn(1).pass_now().unwrap();
        assert!(gates.is_full());
        drop((fifth, sixth));
        assert_eq!(gates.total.lock().taken, 0);
        assert!(gates.hosts.lock().unwrap().by_hash.is_empty());
    }

    #[tokio::test]
    async fn those_left_out_most_often_go_first() {
        let gates = Gates::new(1, 1);
        let first = gates.turn(1).pass_now().unwrap();
        let (sender, mut order) = tokio::sync::mpsc::channel(8);
        for (host, left_out) in [(2, 0), (3, 2), (4, 1), (1, 7), (5, 2)] {
            let (turn, sender) = (gates.turn(host), sender.clone());
            tokio::spawn(async move {
                let pass = turn.pass(left_out).await;
                sender.send(host).await.unwrap();
                drop(pass);
            });
        }
        tokio::task::yield_now().await;
        // One that stops to wait is passed over.
        let given_up = tokio::time::timeout(std::time::Duration::from_millis(10), gates.turn(6).pass(9)).await;
        assert!(given_up.is_err());
        drop(first);
        let mut seen = Vec::new();
        for _ in 0..5 {
            seen.push(order.recv().await.unwrap());
        }
        // The host's own line comes before the line of all.
        assert_eq!(seen, [3, 1, 5, 4, 2]);
        assert!(gates.hosts.lock().unwrap().by_hash.is_empty());
        assert!(gates.turn(1).pass_now().is_ok());
    }
}
