//! `local`: in the process, in memory. Acknowledged means acknowledged by every group of readers.
//!
//! The log is as old as the process: the reader that first says where it begins also says which offset the
//! first message has, so that the positions of a store go on over restarts.

use crate::{
    Acknowledged, Acknowledgement, Assignment, Batch, Bus, BusError, Config, Event, Kind, Message, Offset, Partition,
    Reader, Topic,
};
use async_trait::async_trait;
use sitemon_model::tree::{Faults, Fields};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, oneshot};

/// `local`
pub const KIND: Kind = Kind {
    name: "local",
    about: "In the process, in memory; needs nothing else.",
    parse: |_: &mut Fields<'_>, _: &std::path::Path, _: &mut Faults| Some(Box::new(Options::default())),
    schema: serde_json::Map::new,
};

/// Messages that one call of `next` gives at most.
const BATCH_MESSAGES: usize = 8192;

/// The options of a local bus. None of them can be configured: one writer reads everything, and the bound
/// is what a minute without a store needs at 3,000 checks a second.
#[derive(Debug, Clone)]
pub struct Options {
    /// Partitions of each topic.
    pub partitions: Partition,
    /// Messages of one topic held before `publish` is refused.
    pub messages_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { partitions: 1, messages_max: 200_000 }
    }
}

#[async_trait]
impl Config for Options {
    fn kind(&self) -> &'static str {
        KIND.name
    }

    fn show(&self) -> serde_json::Map<String, serde_json::Value> {
        serde_json::Map::new()
    }

    async fn open(&self) -> Result<Arc<dyn Bus>, BusError> {
        Ok(Arc::new(Local::new(self.clone())))
    }
}

/// The bus in memory.
#[derive(Debug, Clone)]
pub struct Local {
    topics: Arc<BTreeMap<Topic, Queue>>,
    options: Options,
}

/// One topic: its state, and the bell that rings when it changes.
#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    logs: Vec<Log>,
    groups: BTreeMap<String, Group>,
    /// Messages held in all logs.
    held: usize,
    /// The next member's number.
    members: u64,
    closed: bool,
}

/// The messages of one partition that not every group has acknowledged.
#[derive(Debug, Default)]
struct Log {
    /// The offset of the first message held.
    base: Offset,
    messages: VecDeque<Message>,
    /// Who waits for the acknowledgement of everything before an offset, in order.
    waiting: VecDeque<(Offset, oneshot::Sender<()>)>,
    /// Whether a reader has said where it begins, so that offsets are fixed.
    begun: bool,
}

impl Log {
    fn end(&self) -> Offset {
        self.base + self.messages.len() as u64
    }
}

/// A group of readers of one topic.
#[derive(Debug, Default)]
struct Group {
    members: Vec<u64>,
    partitions: Vec<Share>,
}

/// What a group knows of one partition.
#[derive(Debug, Default)]
struct Share {
    /// Who has it.
    owner: Option<u64>,
    /// Its owner was told that it is revoked, and gives it up with the next call of `next`.
    leaving: bool,
    /// Where reading goes on; `None` until the owner has begun.
    read_to: Option<Offset>,
    acknowledged: Option<Acknowledged>,
}

impl Group {
    /// Who should have a partition.
    fn wanted(&self, partition: usize) -> Option<u64> {
        (!self.members.is_empty()).then(|| self.members[partition % self.members.len()])
    }

    /// The partitions for which `test` holds.
    fn which(&self, test: impl Fn(&Self, usize, &Share) -> bool) -> Vec<usize> {
        (0..self.partitions.len()).filter(|&index| test(self, index, &self.partitions[index])).collect()
    }
}

impl Local {
    /// A bus without messages.
    pub fn new(options: Options) -> Self {
        let queue = || {
            let logs = (0..options.partitions).map(|_| Log::default()).collect();
            Queue { state: Mutex::new(State { logs, ..State::default() }), changed: Notify::new() }
        };
        let topics = [Topic::Jobs, Topic::Observations].map(|topic| (topic, queue()));
        Self { topics: Arc::new(BTreeMap::from(topics)), options }
    }

    fn queue(&self, topic: Topic) -> &Queue {
        &self.topics[&topic]
    }
}

impl Queue {
    /// The state. A thread that panicked while it held it left it whole: every change is made at once.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Bus for Local {
    fn partitions(&self, _topic: Topic) -> Partition {
        self.options.partitions
    }

    fn stream(&self, _topic: Topic) -> Option<String> {
        None
    }

    fn publish(&self, topic: Topic, messages: Vec<Message>) -> Result<Acknowledgement, BusError> {
        let queue = self.queue(topic);
        let mut state = queue.lock();
        if state.closed {
            return Err(BusError::Closed);
        }
        if state.held + messages.len() > self.options.messages_max {
            return Err(BusError::Full { held: state.held as u64 });
        }
        state.held += messages.len();
        let mut touched = vec![false; state.logs.len()];
        for message in messages {
            let partition = partition_of(message.key(), state.logs.len());
            touched[partition] = true;
            state.logs[partition].messages.push_back(message);
        }
        let mut acknowledgements = Vec::new();
        for (log, _) in state.logs.iter_mut().zip(touched).filter(|(_, touched)| *touched) {
            let (sender, receiver) = oneshot::channel();
            log.waiting.push_back((log.end(), sender));
            acknowledgements.push(receiver);
        }
        drop(state);
        queue.changed.notify_waiters();
        Ok(Box::pin(async move {
            for acknowledgement in acknowledgements {
                acknowledgement.await.map_err(|_| BusError::Closed)?;
            }
            Ok(())
        }))
    }

    async fn subscribe(&self, topic: Topic, group: &str) -> Result<Box<dyn Reader>, BusError> {
        let queue = self.queue(topic);
        let mut state = queue.lock();
        let member = state.members;
        state.members += 1;
        let partitions = state.logs.len();
        let entry = state.groups.entry(group.to_owned()).or_default();
        entry.partitions.resize_with(partitions, Share::default);
        entry.members.push(member);
        drop(state);
        queue.changed.notify_waiters();
        Ok(Box::new(Member { bus: self.clone(), topic, group: group.to_owned(), number: member }))
    }

    async fn close(&self) {
        for queue in self.topics.values() {
            queue.lock().closed = true;
            queue.changed.notify_waiters();
        }
    }
}

/// The partition of a key. Within the process it need only be the same each time.
fn partition_of(key: &str, partitions: usize) -> usize {
    (sitemon_model::site::name_hash(key) % partitions as u64) as usize
}

/// A reader.
#[derive(Debug)]
struct Member {
    bus: Local,
    topic: Topic,
    group: String,
    number: u64,
}

impl Member {
    /// What happens next, if anything has happened.
    fn poll(&self, state: &mut State) -> Option<Event> {
        let State { logs, groups, closed, .. } = state;
        let group = groups.get_mut(&self.group)?;
        let mine = |share: &Share| share.owner == Some(self.number);

        let assigned =
            group.which(|group, index, share| share.owner.is_none() && group.wanted(index) == Some(self.number));
        if !assigned.is_empty() {
            let assigned = assigned.into_iter().map(|index| {
                let share = &mut group.partitions[index];
                *share =
                    Share { owner: Some(self.number), acknowledged: share.acknowledged.take(), ..Share::default() };
                let first = logs[index].base;
                Assignment { partition: index as Partition, acknowledged: share.acknowledged.clone(), first }
            });
            return Some(Event::Assigned(assigned.collect()));
        }
        let revoked = group.which(|group, index, share| mine(share) && group.wanted(index) != Some(self.number));
        if !revoked.is_empty() {
            for &index in &revoked {
                group.partitions[index].leaving = true;
            }
            return Some(Event::Revoked(revoked.into_iter().map(|index| index as Partition).collect()));
        }
        for (index, log) in logs.iter().enumerate() {
            let share = &mut group.partitions[index];
            let Some(first) = share.read_to.filter(|_| share.owner == Some(self.number)) else { continue };
            if first < log.end() {
                let skip = (first - log.base) as usize;
                let messages: Vec<Message> = log.messages.range(skip..).take(BATCH_MESSAGES).cloned().collect();
                let next = first + messages.len() as u64;
                share.read_to = Some(next);
                return Some(Event::Batch(Batch { partition: index as Partition, first, next, messages }));
            }
        }
        (*closed
            && logs.iter().zip(&group.partitions).all(|(log, share)| !mine(share) || share.read_to == Some(log.end())))
        .then_some(Event::Closed)
    }

    /// Partitions that were revoked are free once their owner comes back for more.
    fn release(&self, state: &mut State) -> bool {
        let Some(group) = state.groups.get_mut(&self.group) else { return false };
        let leaving = group.which(|_, _, share| share.owner == Some(self.number) && share.leaving);
        for &index in &leaving {
            let share = &mut group.partitions[index];
            *share = Share { acknowledged: share.acknowledged.take(), ..Share::default() };
        }
        !leaving.is_empty()
    }

    /// The share of a partition that is ours.
    fn share<'s>(&self, state: &'s mut State, partition: Partition) -> Result<(&'s mut Share, &'s mut Log), BusError> {
        let not_ours = BusError::NotAssigned(partition);
        let share = state.groups.get_mut(&self.group).and_then(|group| group.partitions.get_mut(partition as usize));
        match (share, state.logs.get_mut(partition as usize)) {
            (Some(share), Some(log)) if share.owner == Some(self.number) => Ok((share, log)),
            _ => Err(not_ours),
        }
    }
}

#[async_trait]
impl Reader for Member {
    async fn next(&mut self) -> Result<Event, BusError> {
        let queue = self.bus.queue(self.topic);
        if self.release(&mut queue.lock()) {
            queue.changed.notify_waiters();
        }
        loop {
            let changed = queue.changed.notified();
            tokio::pin!(changed);
            // Enabled before the look, so that a change between the look and the wait is not missed.
            changed.as_mut().enable();
            if let Some(event) = self.poll(&mut queue.lock()) {
                return Ok(event);
            }
            changed.await;
        }
    }

    async fn begin(&mut self, partition: Partition, at: Offset) -> Result<(), BusError> {
        let queue = self.bus.queue(self.topic);
        let mut state = queue.lock();
        let (share, log) = self.share(&mut state, partition)?;
        if !log.begun {
            log.begun = true;
            log.base = at;
            // Those who wait were counted from 0.
            log.waiting.iter_mut().for_each(|(offset, _)| *offset += at);
        }
        if !(log.base..=log.end()).contains(&at) {
            return Err(BusError::OutOfRange { partition, at, first: log.base, end: log.end() });
        }
        share.read_to = Some(at);
        drop(state);
        queue.changed.notify_waiters();
        Ok(())
    }

    async fn acknowledge(&mut self, partition: Partition, acknowledged: Acknowledged) -> Result<(), BusError> {
        let queue = self.bus.queue(self.topic);
        let mut state = queue.lock();
        let (share, log) = self.share(&mut state, partition)?;
        if acknowledged.next > log.end()
            || share.acknowledged.as_ref().is_some_and(|before| before.next > acknowledged.next)
        {
            return Err(BusError::Engine(format!(
                "cannot acknowledge partition {partition} up to {}: it ends at {}",
                acknowledged.next,
                log.end()
            )));
        }
        share.acknowledged = Some(acknowledged);
        // What every group has dealt with is let go.
        let safe = |group: &Group| group.partitions[partition as usize].acknowledged.as_ref().map_or(0, |a| a.next);
        let safe = state.groups.values().map(safe).min().unwrap_or(0);
        let State { logs, held, .. } = &mut *state;
        let log = &mut logs[partition as usize];
        let freed = safe.saturating_sub(log.base) as usize;
        log.messages.drain(..freed);
        log.base += freed as u64;
        *held -= freed;
        while let Some((_, sender)) = log.waiting.pop_front_if(|(offset, _)| *offset <= safe) {
            // Whoever published may have stopped waiting.
            let _ = sender.send(());
        }
        Ok(())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let queue = self.bus.queue(self.topic);
        let mut state = queue.lock();
        if let Some(group) = state.groups.get_mut(&self.group) {
            group.members.retain(|member| *member != self.number);
            for share in &mut group.partitions {
                if share.owner == Some(self.number) {
                    *share = Share { acknowledged: share.acknowledged.take(), ..Share::default() };
                }
            }
        }
        drop(state);
        queue.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::Promise;

    #[tokio::test]
    async fn conforms() {
        crate::conformance::run(Promise::DealtWith, &|partitions, messages_max| {
            let options = Options { partitions, messages_max };
            Box::pin(async move { options.open().await })
        })
        .await;
    }
}
