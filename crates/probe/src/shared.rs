//! What the checks of one runtime share: resolvers, certificates, idle connections, the memory bound.

use crate::http::pool::Pool;
use crate::http::{Certificates, Names};
use crate::memory::Memory;
use crate::policy::Policy;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::sync::Notify;

/// Bytes of one buffer into which answers are read.
const BUFFER_BYTES: usize = 32 << 10;

/// What is shared is made from. What stands behind an `Arc` may be shared by several runtimes.
#[derive(Debug, Clone)]
pub struct SharedOptions {
    /// `network.refuse`
    pub policy: Policy,
    /// `limits.memory`
    pub memory: Arc<Memory>,
    /// The machine's roots and the chains that were seen.
    pub certificates: Arc<Certificates>,
    /// The machine's name servers and search list: `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// The machine's own names: `/etc/hosts`.
    pub hosts: PathBuf,
    /// Idle connections kept in all, because each holds a descriptor and memory; beyond it none more is kept.
    pub idle_connections_max: usize,
}

impl Default for SharedOptions {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            memory: Memory::new(64 << 20),
            certificates: Arc::new(Certificates::default()),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            hosts: PathBuf::from("/etc/hosts"),
            idle_connections_max: 256,
        }
    }
}

/// What the checks of one runtime share.
#[derive(Debug)]
pub struct Shared {
    pub(crate) memory: Arc<Memory>,
    pub(crate) certificates: Arc<Certificates>,
    pub(crate) names: Names,
    pub(crate) buffers: Buffers,
    rules: RwLock<Arc<Rules>>,
    stopping: AtomicBool,
    stop: Notify,
}

/// What may change while checks run; each ends by those with which it began.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) policy: Policy,
    /// Idle connections: those to addresses that another policy allowed are not used under this one.
    pub(crate) pool: Pool,
}

impl Rules {
    fn new(policy: Policy, idle_connections_max: usize) -> Arc<Self> {
        Arc::new(Self { policy, pool: Pool::new(idle_connections_max) })
    }
}

impl Shared {
    /// Opens nothing yet: files and sockets are opened when a check needs them.
    pub fn new(options: SharedOptions) -> Arc<Self> {
        Arc::new(Self {
            memory: options.memory,
            certificates: options.certificates,
            names: Names::new(options.resolv_conf, options.hosts),
            buffers: Buffers(Mutex::new(Vec::new())),
            rules: RwLock::new(Rules::new(options.policy, options.idle_connections_max)),
            stopping: AtomicBool::new(false),
            stop: Notify::new(),
        })
    }

    /// Ends all checks, also those that begin later: as a timeout does, with what they have seen until now, but
    /// `unknown(stopped)`.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.stop.notify_waiters();
    }

    /// Ends when checks are told to end; a check waits for this beside all that it waits for.
    pub async fn stopped(&self) {
        // Made before the look, so that it is not missed between the two.
        let told = self.stop.notified();
        if !self.stopping.load(Ordering::Acquire) {
            told.await;
        }
    }

    /// Refuses other addresses, and keeps so many idle connections at most, for checks that begin from now on. Where
    /// one of the two is new, idle connections are closed.
    pub fn set_rules(&self, policy: &Policy, idle_connections_max: usize) {
        let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        if rules.policy != *policy || rules.pool.max() != idle_connections_max {
            *rules = Rules::new(policy.clone(), idle_connections_max);
        }
    }

    /// For a check that begins.
    pub(crate) fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Buffers into which answers are read. A check holds one only while there is something in it, so that
/// thousands of checks that wait hold none.
#[derive(Debug)]
pub(crate) struct Buffers(Mutex<Vec<Box<[u8]>>>);

/// Buffers that are kept for the next use.
const BUFFERS_KEPT: usize = 4;

impl Buffers {
    /// A buffer of [`BUFFER_BYTES`], with old content.
    pub(crate) fn take(&self) -> Box<[u8]> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
    }

    /// Gives a buffer back.
    pub(crate) fn give(&self, buffer: Box<[u8]>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < BUFFERS_KEPT {
            kept.push(buffer);
        }
    }
}
