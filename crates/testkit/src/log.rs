//! What a faulty site saw: one entry for each request, and counters.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::now_us;

/// Requests that are kept; at the bound further ones are only counted.
const ENTRIES: usize = 2_000_000;

/// One request as the server saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// When its head had arrived whole: microseconds since the epoch on the system clock.
    pub at_us: u64,
    /// When the answer's first byte was handed to the kernel; absent while, or if, none was.
    pub answered_at_us: Option<u64>,
    /// Number of the connection it came by, from 1 in the order of acceptance over all ports.
    pub connection: u64,
    /// The port that it came to.
    pub port: u16,
    /// `http/1.0`, `http/1.1` or `http/2`.
    pub version: &'static str,
    /// The method.
    pub method: String,
    /// Path with query, as sent.
    pub target: String,
    /// Path without query.
    pub path: String,
    /// `Host` or `:authority`; empty without.
    pub host: String,
    /// The name asked for in the TLS handshake.
    pub sni: Option<String>,
    /// Status of the answer; 0 if none was sent, or one that is no number.
    pub status: u16,
}

/// How many connections, handshakes and requests there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// TCP connections accepted, over all ports.
    pub connections: u64,
    /// Connections that stand now.
    pub open: u64,
    /// Full TLS handshakes that ended well.
    pub handshakes_full: u64,
    /// TLS handshakes that resumed a session.
    pub handshakes_resumed: u64,
    /// TLS handshakes that failed, by our fault or the client's.
    pub handshakes_failed: u64,
    /// Handshakes in which the client presented a certificate that was accepted.
    pub client_certificates: u64,
    /// Requests whose head arrived whole, whether the log still has them or not.
    pub requests: u64,
}

/// Entries in the order of arrival.
#[derive(Default)]
struct Entries {
    kept: Vec<Seen>,
    /// Number of the first one kept: those before were cleared.
    first: u64,
    /// Number of the next one.
    next: u64,
}

#[derive(Default)]
pub(crate) struct Log {
    seen: Mutex<Entries>,
    pub(crate) connections: AtomicU64,
    pub(crate) open: AtomicU64,
    pub(crate) full: AtomicU64,
    pub(crate) resumed: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) client_certificates: AtomicU64,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an entry and returns its number, by which the answer is noted later.
    pub(crate) fn request(&self, mut seen: Seen) -> u64 {
        seen.at_us = now_us();
        let mut entries = self.lock();
        let number = entries.next;
        entries.next += 1;
        if entries.kept.len() < ENTRIES {
            entries.kept.push(seen);
        }
        number
    }

    /// Notes the status that is about to be sent.
    pub(crate) fn status(&self, number: u64, status: u16) {
        self.change(number, |seen| seen.status = status);
    }

    /// Notes that the answer begins now.
    pub(crate) fn answered(&self, number: u64) {
        self.change(number, |seen| {
            seen.answered_at_us.get_or_insert_with(now_us);
        });
    }

    /// The entry may have been cleared since, or never kept.
    fn change(&self, number: u64, change: impl FnOnce(&mut Seen)) {
        let mut entries = self.lock();
        let index = number.checked_sub(entries.first).and_then(|index| usize::try_from(index).ok());
        if let Some(seen) = index.and_then(|index| entries.kept.get_mut(index)) {
            change(seen);
        }
    }

    pub(crate) fn all(&self) -> Vec<Seen> {
        self.lock().kept.clone()
    }

    pub(crate) fn filtered(&self, keep: impl Fn(&Seen) -> bool) -> Vec<Seen> {
        self.lock().kept.iter().filter(|seen| keep(seen)).cloned().collect()
    }

    pub(crate) fn clear(&self) {
        let mut entries = self.lock();
        entries.kept.clear();
        entries.first = entries.next;
    }

    pub(crate) fn counts(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            connections: get(&self.connections),
            open: get(&self.open),
            handshakes_full: get(&self.full),
            handshakes_resumed: get(&self.resumed),
            handshakes_failed: get(&self.failed),
            client_certificates: get(&self.client_certificates),
            requests: self.lock().next,
        }
    }
}
