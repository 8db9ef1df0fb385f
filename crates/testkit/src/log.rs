//! What a faulty site saw: one entry for each request, and counters.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::now_us;

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
    /// Requests whose head arrived whole.
    pub requests: u64,
}

#[derive(Default)]
pub(crate) struct Log {
    seen: Mutex<Vec<Seen>>,
    pub(crate) connections: AtomicU64,
    pub(crate) open: AtomicU64,
    pub(crate) full: AtomicU64,
    pub(crate) resumed: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) client_certificates: AtomicU64,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an entry and returns its number, by which the answer is noted later.
    pub(crate) fn request(&self, mut seen: Seen) -> usize {
        seen.at_us = now_us();
        let mut all = self.lock();
        all.push(seen);
        all.len() - 1
    }

    /// Notes the status that is about to be sent.
    pub(crate) fn status(&self, number: usize, status: u16) {
        // The log may have been cleared since.
        if let Some(seen) = self.lock().get_mut(number) {
            seen.status = status;
        }
    }

    /// Notes that the answer begins now.
    pub(crate) fn answered(&self, number: usize) {
        if let Some(seen) = self.lock().get_mut(number) {
            seen.answered_at_us.get_or_insert_with(now_us);
        }
    }

    pub(crate) fn all(&self) -> Vec<Seen> {
        self.lock().clone()
    }

    pub(crate) fn filtered(&self, keep: impl Fn(&Seen) -> bool) -> Vec<Seen> {
        self.lock().iter().filter(|seen| keep(seen)).cloned().collect()
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
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
            requests: self.lock().len() as u64,
        }
    }
}
