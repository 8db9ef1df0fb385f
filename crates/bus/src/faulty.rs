//! A bus that is slow, fails, repeats, and comes back, around any other: for tests of whoever uses a bus.

use crate::Message;
use crate::{Acknowledged, Acknowledgement, Batch, Bus, BusError, Event, Offset, Partition, Reader, Topic};
use async_trait::async_trait;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// A call of a bus or of one of its readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Call {
    /// [`Bus::publish`]
    Publish,
    /// What it returned has come true.
    Acknowledgement,
    /// [`Bus::subscribe`]
    Subscribe,
    /// [`Reader::next`] has an event.
    Next,
    /// [`Reader::begin`]
    Begin,
    /// [`Reader::acknowledge`]
    Acknowledge,
}

/// What becomes of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fate {
    /// It takes so long; [`Call::Publish`] never waits, only its acknowledgement does.
    pub delay: Duration,
    /// Whether it fails, and when.
    pub failure: Option<Failure>,
    /// A batch that [`Call::Next`] gave is given once more, so long afterwards: what came meanwhile came before it.
    pub again: Option<Duration>,
}

/// When a call fails; it is [`BusError::Engine`] but for [`Failure::Full`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nothing was done. An event that a reader lost so comes to the next reader of its group.
    Before,
    /// All was done; only the answer got lost.
    After,
    /// [`Call::Publish`] is refused for want of room.
    Full,
    /// [`Call::Publish`] takes it, and nothing was done: that is told where the acknowledgement is waited for.
    Lost,
}

/// Decides on each call: its number, from 0, the topic, and which it is.
pub type Fates = dyn Fn(u64, Topic, Call) -> Fate + Send + Sync;

/// See the module. Clones share their fates.
#[derive(Clone)]
pub struct Faulty {
    inner: Arc<dyn Bus>,
    fates: Arc<Fates>,
    /// Calls made.
    calls: Arc<AtomicU64>,
}

impl Faulty {
    /// Around this bus.
    pub fn new(inner: Arc<dyn Bus>, fates: impl Fn(u64, Topic, Call) -> Fate + Send + Sync + 'static) -> Self {
        Self { inner, fates: Arc::new(fates), calls: Arc::default() }
    }

    /// Calls made so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn fate(&self, topic: Topic, call: Call) -> Fate {
        (self.fates)(self.calls.fetch_add(1, Ordering::Relaxed), topic, call)
    }

    /// Does a call that waits.
    async fn call<T>(
        &self,
        topic: Topic,
        call: Call,
        work: impl Future<Output = Result<T, BusError>>,
    ) -> Result<T, BusError> {
        let fate = self.fate(topic, call);
        pause(fate.delay).await;
        match fate.failure {
            None => work.await,
            Some(Failure::After) => work.await.and_then(|_| Err(failed(call))),
            Some(Failure::Before | Failure::Full | Failure::Lost) => Err(failed(call)),
        }
    }
}

fn failed(call: Call) -> BusError {
    BusError::Engine(format!("{call:?} fails, as it was told to"))
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

/// Ends at an instant; without one, never.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Debug for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faulty").field("inner", &self.inner).field("calls", &self.calls).finish_non_exhaustive()
    }
}

#[async_trait]
impl Bus for Faulty {
    fn partitions(&self, topic: Topic) -> Partition {
        self.inner.partitions(topic)
    }

    fn stream(&self, topic: Topic) -> Option<String> {
        self.inner.stream(topic)
    }

    fn publish(&self, topic: Topic, messages: Vec<Message>) -> Result<Acknowledgement, BusError> {
        let fate = self.fate(topic, Call::Publish);
        match fate.failure {
            Some(Failure::Lost) => {
                return Ok(Box::pin(async move {
                    pause(fate.delay).await;
                    Err(failed(Call::Publish))
                }));
            }
            Some(Failure::Before) => return Err(failed(Call::Publish)),
            Some(Failure::Full) => return Err(BusError::Full { held: messages.len() as u64 }),
            Some(Failure::After) => {
                return self.inner.publish(topic, messages).and_then(|_| Err(failed(Call::Publish)));
            }
            None => {}
        }
        let acknowledged = self.inner.publish(topic, messages)?;
        let bus = self.clone();
        Ok(Box::pin(async move {
            acknowledged.await?;
            bus.call(topic, Call::Acknowledgement, std::future::ready(Ok(()))).await
        }))
    }

    async fn subscribe(&self, topic: Topic, group: &str) -> Result<Box<dyn Reader>, BusError> {
        let inner = self.call(topic, Call::Subscribe, self.inner.subscribe(topic, group)).await?;
        Ok(Box::new(FaultyReader { bus: self.clone(), topic, inner, held: None, again: None }))
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// A reader of a faulty bus.
struct FaultyReader {
    bus: Faulty,
    topic: Topic,
    inner: Box<dyn Reader>,
    /// An event that is given at its time.
    held: Option<(Instant, Fate, Event)>,
    /// A batch that is given once more at its time.
    again: Option<(Instant, Batch)>,
}

#[async_trait]
impl Reader for FaultyReader {
    async fn next(&mut self) -> Result<Event, BusError> {
        loop {
            let (held_at, again_at) = (self.held.as_ref().map(|(at, ..)| *at), self.again.as_ref().map(|(at, _)| *at));
            tokio::select! {
                biased;
                () = until(again_at) => {
                    if let Some((_, batch)) = self.again.take() {
                        return Ok(Event::Batch(batch));
                    }
                }
                () = until(held_at) => {
                    let Some((_, fate, event)) = self.held.take() else { continue };
                    if fate.failure.is_some() {
                        return Err(failed(Call::Next));
                    }
                    if let (Event::Batch(batch), Some(after), None) = (&event, fate.again, &self.again) {
                        self.again = Some((Instant::now() + after, batch.clone()));
                    }
                    return Ok(event);
                }
                event = self.inner.next(), if held_at.is_none() => {
                    let event = event?;
                    let fate = self.bus.fate(self.topic, Call::Next);
                    self.held = Some((Instant::now() + fate.delay, fate, event));
                }
            }
        }
    }

    async fn begin(&mut self, partition: Partition, at: Offset) -> Result<(), BusError> {
        self.bus.call(self.topic, Call::Begin, self.inner.begin(partition, at)).await
    }

    async fn acknowledge(&mut self, partition: Partition, acknowledged: Acknowledged) -> Result<(), BusError> {
        self.bus.call(self.topic, Call::Acknowledge, self.inner.acknowledge(partition, acknowledged)).await
    }
}
