//! What a lane has observed and the bus has not acknowledged yet. Never makes a check wait: at its bound the
//! oldest are given up, and counted.

use crate::telemetry::Telemetry;
use sitemon_bus::{Acknowledgement, Bus, BusError, Message, Topic};
use sitemon_model::Observation;
use std::collections::VecDeque;
use std::sync::Arc;

/// Observations of one lane that wait for the bus; beyond, the oldest are given up. The bus has a bound of
/// its own for those that it took.
pub const PENDING_MAX: usize = 50_000;

/// Observations that are not acknowledged: with more, a lane that need not make new ones at once waits.
const CROWDED: usize = 20_000;

/// See the module.
pub struct Outbox {
    /// Of `pending`.
    pending_max: usize,
    bus: Arc<dyn Bus>,
    telemetry: Arc<Telemetry>,
    /// Not handed to the bus yet, in order.
    pending: VecDeque<Message>,
    /// Handed over, in order, each with what it takes to hand it over again.
    flight: VecDeque<(Vec<Message>, Acknowledgement)>,
}

impl Outbox {
    /// An empty one.
    pub fn new(bus: Arc<dyn Bus>, telemetry: Arc<Telemetry>, pending_max: usize) -> Self {
        Self { pending_max, bus, telemetry, pending: VecDeque::new(), flight: VecDeque::new() }
    }

    /// Takes an observation; it is handed over by the next [`Outbox::flush`].
    pub fn push(&mut self, observation: Observation) {
        self.telemetry.unacknowledged.inc();
        self.pending.push_back(Message::Observation(Arc::new(observation)));
        if self.pending.len() > self.pending_max {
            let surplus = self.pending.len() - self.pending_max;
            self.pending.drain(..surplus);
            self.telemetry.unacknowledged.dec_by(surplus as i64);
            self.telemetry.dropped(surplus as u64);
        }
    }

    /// Whether anything waits to be handed over.
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether so many are not acknowledged that no more should be made than must be.
    pub fn is_crowded(&self) -> bool {
        self.pending.len() + self.flight.iter().map(|(messages, _)| messages.len()).sum::<usize>() > CROWDED
    }

    /// Whether everything is acknowledged.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.flight.is_empty()
    }

    /// Hands over what is pending; what the bus has no room for stays.
    pub fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let messages: Vec<Message> = self.pending.iter().cloned().collect();
        match self.bus.publish(Topic::Observations, messages.clone()) {
            Ok(acknowledgement) => {
                self.pending.clear();
                self.flight.push_back((messages, acknowledgement));
            }
            Err(BusError::Full { .. }) => {}
            Err(error) => tracing::debug!("the bus does not take observations: {error}"),
        }
    }

    /// Ends when the oldest that was handed over is acknowledged, or is pending again because it failed; never
    /// while nothing is under way. Dropping the future loses nothing.
    pub async fn settle(&mut self) {
        let Some((_, acknowledgement)) = self.flight.front_mut() else { return std::future::pending().await };
        let result = acknowledgement.await;
        let Some((messages, _)) = self.flight.pop_front() else { return };
        match result {
            Ok(()) => {
                self.telemetry.unacknowledged.dec_by(messages.len() as i64);
            }
            Err(error) => {
                tracing::debug!("the bus did not acknowledge {} observations: {error}", messages.len());
                for message in messages.into_iter().rev() {
                    self.pending.push_front(message);
                }
            }
        }
    }

    /// Gives up what is left, at the very end.
    pub fn give_up(self) -> u64 {
        let left = self.pending.len() + self.flight.iter().map(|(messages, _)| messages.len()).sum::<usize>();
        if left > 0 {
            self.telemetry.dropped(left as u64);
        }
        left as u64
    }
}
