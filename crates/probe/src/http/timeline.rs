//! The timeline of a running check: instants as they pass, kept outside of the future that does the work, so
//! that a check whose time ran out still tells where it was.

use sitemon_model::{Attempt, Code, Hop, Phase, State, Timestamp};
use smallvec::SmallVec;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// The hops of a running check. All instants are microseconds since its start, so that the phases add up to
/// the response time without a rounding error.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    start: Instant,
    /// The wall clock at the start.
    pub(crate) started_at: Timestamp,
    /// The hops so far; the last is under way.
    pub(crate) hops: Vec<Hop>,
    /// The phase under way with its start.
    under_way: Option<(Phase, u64)>,
    /// Addresses that are being dialled, with the instant at which each began.
    pub(crate) dialling: SmallVec<[(SocketAddr, u64); 2]>,
}

impl Trace {
    /// Begins now: the first lookup or connect is about to be made.
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
            started_at: wall_clock(),
            hops: Vec::with_capacity(1),
            under_way: None,
            dialling: SmallVec::new(),
        }
    }

    /// When it began.
    pub(crate) fn began(&self) -> Instant {
        self.start
    }

    /// Microseconds since the start.
    pub(crate) fn now(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// The next request of the check is about to be made.
    pub(crate) fn hop(&mut self, url: Arc<str>, method: Arc<str>) {
        self.under_way = None;
        self.hops.push(Hop { url, method, ..Hop::default() });
    }

    /// The hop under way.
    pub(crate) fn current(&mut self) -> &mut Hop {
        if self.hops.is_empty() {
            self.hops.push(Hop::default());
        }
        let last = self.hops.len() - 1;
        &mut self.hops[last]
    }

    /// The phase under way.
    pub(crate) fn phase(&self) -> Option<Phase> {
        self.under_way.map(|(phase, _)| phase)
    }

    /// A phase begins at the instant at which the one before ended, or now where none is under way.
    pub(crate) fn enter(&mut self, phase: Phase) {
        let now = self.now();
        self.enter_at(phase, now);
    }

    /// As [`Trace::enter`], at an instant that was taken before.
    pub(crate) fn enter_when(&mut self, phase: Phase, at: Instant) {
        self.enter_at(phase, at.saturating_duration_since(self.start).as_micros() as u64);
    }

    /// As [`Trace::enter`], in microseconds since the start.
    pub(crate) fn enter_at(&mut self, phase: Phase, at: u64) {
        self.end(at, State::Done);
        self.under_way = Some((phase, at));
    }

    /// The phase under way is done; what follows is not measured.
    pub(crate) fn done(&mut self) -> u64 {
        let now = self.now();
        self.end(now, State::Done);
        now
    }

    /// The phase under way failed, and with it the hop. What was being dialled becomes attempts, but for the
    /// address that the hop names.
    pub(crate) fn fail(&mut self, error: Code) {
        let now = self.now();
        self.end(now, State::Failed);
        let dialling = std::mem::take(&mut self.dialling);
        let hop = self.current();
        for (address, began) in dialling {
            if hop.address != Some(address) {
                hop.attempts.push(Attempt { address, us: now.saturating_sub(began), error: Some(error) });
            }
        }
    }

    fn end(&mut self, at: u64, state: State) {
        if let Some((phase, began)) = self.under_way.take() {
            self.current().phases.set(phase, at.saturating_sub(began), state);
        }
    }

    /// Takes back the hop under way as if it had not been begun: an idle connection that turned out to be
    /// closed leaves no trace but its time.
    pub(crate) fn again(&mut self) {
        self.under_way = None;
        let hop = self.current();
        *hop = Hop { url: hop.url.clone(), method: hop.method.clone(), ..Hop::default() };
    }
}

/// The wall clock, in microseconds since the epoch.
pub(crate) fn wall_clock() -> Timestamp {
    Timestamp(match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => since.as_micros() as i64,
        Err(before) => -(before.duration().as_micros() as i64),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_follow_each_other_without_a_gap() {
        let mut trace = Trace::start();
        trace.hop("http://a/".into(), "GET".into());
        trace.enter_at(Phase::Dns, 0);
        trace.enter_at(Phase::Connect, 40);
        trace.enter_at(Phase::Send, 90);
        assert_eq!(trace.phase(), Some(Phase::Send));
        trace.dialling.push(("192.0.2.1:80".parse().unwrap(), 50));
        trace.fail(Code::SendTimeout);
        let hop = &trace.hops[0];
        assert_eq!(hop.phases.get(Phase::Dns).unwrap().us, 40);
        assert_eq!(hop.phases.get(Phase::Connect).unwrap().us, 50);
        assert_eq!(hop.phases.get(Phase::Send).unwrap().state, State::Failed);
        assert_eq!(hop.phases.get(Phase::Tls), None);
        assert_eq!(hop.attempts.len(), 1);
        assert_eq!(trace.phase(), None);
    }
}
