//! Idle connections: `connection: reuse`.

use crate::http::exchange::Line;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A fresh handshake comes at least so often.
const LIFE: Duration = Duration::from_hours(1);
/// How often connections that ended while idle are looked for.
const SWEEP: Duration = Duration::from_mins(1);

/// What a connection can be used for again: the same check of the same site, at the same origin.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PoolKey {
    /// The number of the check, which a changed configuration changes.
    pub(crate) check: u64,
    pub(crate) site: Arc<str>,
    pub(crate) secure: bool,
    pub(crate) host: Box<str>,
    pub(crate) port: u16,
}

/// The idle connections of one runtime.
#[derive(Debug)]
pub(crate) struct Pool {
    /// In all; beyond it none more is kept.
    max: usize,
    idle: Mutex<Idle>,
}

#[derive(Debug)]
struct Idle {
    lines: HashMap<PoolKey, Vec<Line>>,
    count: usize,
    swept: Instant,
}

impl Pool {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, idle: Mutex::new(Idle { lines: HashMap::new(), count: 0, swept: Instant::now() }) }
    }

    /// Connections that are kept in all.
    pub(crate) const fn max(&self) -> usize {
        self.max
    }

    /// An idle connection that seems to stand still, the one used last first.
    pub(crate) fn take(&self, key: &PoolKey) -> Option<Line> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let line = idle.lines.get_mut(key)?.pop();
            let Some(mut line) = line else {
                idle.lines.remove(key);
                return None;
            };
            idle.count -= 1;
            if is_good(&mut line) {
                return Some(line);
            }
        }
    }

    /// Keeps a connection for the next check, with at most `each` others of the same key.
    pub(crate) fn give(&self, key: PoolKey, mut line: Line, each: usize) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.swept.elapsed() > SWEEP || idle.count >= self.max {
            idle.swept = Instant::now();
            idle.lines.retain(|_, lines| {
                lines.retain_mut(is_good);
                !lines.is_empty()
            });
            idle.count = idle.lines.values().map(Vec::len).sum();
        }
        if idle.count >= self.max || !is_good(&mut line) {
            return;
        }
        let lines = idle.lines.entry(key).or_default();
        if lines.len() < each {
            lines.push(line);
            idle.count += 1;
        }
    }
}

fn is_good(line: &mut Line) -> bool {
    line.born.elapsed() < LIFE && line.is_quiet()
}
