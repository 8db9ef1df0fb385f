//! A member of a group of readers.
//!
//! A rebalance is taken over whole: what is assigned is told to the caller, and is given to librdkafka together with
//! the offset that the caller says, so that nothing is sought afterwards; what is revoked stays ours until the caller
//! comes back for more, and is committed before it is given away.

use super::client::{Voice, blocking, brief};
use super::producer::{Record, passing};
use super::{PATIENCE, Shared};
use crate::wire::{self, FORM_HEADER, Head, TYPE_HEADER, VERSION_HEADER};
use crate::{
    Acknowledged, Acknowledgement, Assignment, Batch, BusError, Event, Message, Offset, Partition, Reader, Topic,
};
use async_trait::async_trait;
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset as KafkaOffset, TopicPartitionList};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Messages that are read before those that were are given to the caller.
const BATCH_MESSAGES: usize = 8192;
/// What was acknowledged is committed so often.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// After the bus was closed a reader that has no part in its group waits so long to get one.
const JOINING: Duration = Duration::from_secs(5);
/// Leaving a group, with a last commit, is waited for so long. Who does not leave in time is taken for dead after the
/// session timeout.
const LEAVING: Duration = Duration::from_secs(3);
/// Bytes of a dead letter's reason.
const REASON_MAX: usize = 1000;

type Consumer = StreamConsumer<Context>;

/// What happens in the group, as librdkafka tells it.
#[derive(Debug, Clone)]
enum Change {
    Assigned(Vec<Partition>),
    Revoked(Vec<Partition>),
}

/// What a client tells us.
struct Context {
    voice: Voice,
    changes: Mutex<VecDeque<Change>>,
    changed: Notify,
    /// Nobody listens any more: changes are agreed to at once.
    leaving: AtomicBool,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.voice.hear(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.voice.note(&error, reason);
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, what: RDKafkaRespErr, list: &mut TopicPartitionList) {
        if self.leaving.load(Ordering::Acquire) {
            let _ = consumer.unassign();
            return;
        }
        let mut partitions: Vec<Partition> =
            list.elements().iter().filter_map(|element| u32::try_from(element.partition()).ok()).collect();
        partitions.sort_unstable();
        let change = match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Change::Assigned(partitions),
            _ => Change::Revoked(partitions),
        };
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).push_back(change);
        self.changed.notify_one();
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            // The caller's store has the positions; the next commit has this one in it.
            tracing::debug!(target: "sitemon_bus::kafka", "offsets were not committed: {}", brief(&error));
        }
    }
}

/// A partition that is ours.
#[derive(Debug, Default)]
struct Share {
    /// The first offset that is held, and the one after the last, when it became ours.
    held: (Offset, Offset),
    /// Where the caller begins; `None` until it has said so.
    begin: Option<Offset>,
    /// Whether librdkafka has it.
    given: bool,
    /// It is revoked, and given up when the caller comes back for more.
    leaving: bool,
    /// Up to where the caller was given.
    read_to: Offset,
    acknowledged: Option<Acknowledged>,
    /// Whether that is not committed yet.
    dirty: bool,
}

/// What the brokers say of a partition.
struct Looked {
    partition: Partition,
    acknowledged: Option<Acknowledged>,
    held: (Offset, Offset),
}

/// See the module.
pub struct KafkaReader {
    shared: Arc<Shared>,
    topic: Topic,
    /// `None` only while this is dropped.
    consumer: Option<Arc<Consumer>>,
    context: Arc<Context>,
    shares: BTreeMap<Partition, Share>,
    /// Read, and not given to the caller yet.
    ready: VecDeque<Batch>,
    /// Dead letters on their way, which what is ready waits for.
    dead: VecDeque<Acknowledgement>,
    /// Dead letters since it was told.
    untold: u64,
    told_at: Option<Instant>,
    /// What reading met, which is to be told.
    trouble: Option<KafkaError>,
    /// Whether librdkafka waits to hear what becomes of an assignment.
    owes_assign: bool,
    /// Whether it waits to hear of what is revoked.
    owes_unassign: bool,
    /// Whether there was an assignment at all.
    joined: bool,
    committed_at: Instant,
    closing: Option<Closing>,
}

/// Since the bus was closed.
struct Closing {
    /// How long a part in the group, and our own messages, are waited for.
    until: Instant,
    /// Where partitions then ended.
    ends: BTreeMap<Partition, Offset>,
}

impl KafkaReader {
    /// Joins a group; what comes of it is told by [`Reader::next`].
    pub fn new(shared: Arc<Shared>, topic: Topic, group: &str) -> Result<Self, BusError> {
        let context = Context {
            voice: Voice::default(),
            changes: Mutex::default(),
            changed: Notify::new(),
            leaving: AtomicBool::new(false),
        };
        let failed = |error: KafkaError| BusError::Engine(format!("no consumer: {}", brief(&error)));
        let consumer = Consumer::from_config_and_context(&shared.options.consumer(group), context).map_err(failed)?;
        consumer.subscribe(&[shared.options.topic(topic)]).map_err(failed)?;
        Ok(Self {
            shared,
            topic,
            context: consumer.context().clone(),
            consumer: Some(Arc::new(consumer)),
            shares: BTreeMap::new(),
            ready: VecDeque::new(),
            dead: VecDeque::new(),
            untold: 0,
            told_at: None,
            trouble: None,
            owes_assign: false,
            owes_unassign: false,
            joined: false,
            committed_at: Instant::now(),
            closing: None,
        })
    }

    fn consumer(&self) -> Result<Arc<Consumer>, BusError> {
        self.consumer.clone().ok_or(BusError::Closed)
    }

    /// The name of the topic.
    fn name(&self) -> String {
        self.shared.options.topic(self.topic).to_owned()
    }

    /// An error of librdkafka.
    fn failed(&self, what: &str, error: &KafkaError) -> BusError {
        let told = format!("{what}: {}", self.context.voice.explain(error));
        if passing(error) { BusError::Unavailable(told) } else { BusError::Engine(told) }
    }

    /// Tells librdkafka where to begin in what was assigned.
    fn take_over(&mut self) -> Result<(), BusError> {
        let name = self.name();
        let mut list = TopicPartitionList::new();
        for (partition, share) in self.shares.iter().filter(|(_, share)| !share.given && !share.leaving) {
            if let Some(begin) = share.begin {
                list.add_partition_offset(&name, *partition as i32, KafkaOffset::Offset(begin as i64))
                    .map_err(|error| self.failed("an offset is refused", &error))?;
            }
        }
        if list.count() == 0 && !self.owes_assign {
            return Ok(());
        }
        self.consumer()?
            .incremental_assign(&list)
            .map_err(|error| self.failed("partitions cannot be taken over", &error))?;
        self.owes_assign = false;
        for element in list.elements() {
            if let Some(share) = self.shares.get_mut(&(element.partition() as Partition)) {
                share.given = true;
            }
        }
        Ok(())
    }

    /// Gives away what was revoked, after a last commit.
    async fn give_away(&mut self) -> Result<(), BusError> {
        if !self.owes_unassign {
            return Ok(());
        }
        let (consumer, commits) = (self.consumer()?, self.commits(|share| share.leaving));
        if commits.count() > 0 {
            let done = blocking(move || Ok(consumer.commit(&commits, CommitMode::Sync))).await?;
            if let Err(error) = done {
                // Another may have it already.
                tracing::debug!(target: "sitemon_bus::kafka", "a last commit failed: {}", brief(&error));
            }
        }
        let name = self.name();
        let mut list = TopicPartitionList::new();
        for (partition, _) in self.shares.iter().filter(|(_, share)| share.leaving && share.given) {
            list.add_partition(&name, *partition as i32);
        }
        self.consumer()?
            .incremental_unassign(&list)
            .map_err(|error| self.failed("partitions cannot be given away", &error))?;
        self.owes_unassign = false;
        self.shares.retain(|_, share| !share.leaving);
        let shares = &self.shares;
        self.ready.retain(|batch| shares.contains_key(&batch.partition));
        Ok(())
    }

    /// What was acknowledged of some partitions, for a commit.
    fn commits(&self, which: impl Fn(&Share) -> bool) -> TopicPartitionList {
        let name = self.name();
        let mut list = TopicPartitionList::new();
        for (partition, share) in self.shares.iter().filter(|(_, share)| which(share)) {
            let Some(Acknowledged { next, metadata }) = &share.acknowledged else { continue };
            let mut element = list.add_partition(&name, *partition as i32);
            // It refuses only what no offset is.
            let _ = element.set_offset(KafkaOffset::Offset(*next as i64));
            element.set_metadata(metadata);
        }
        list
    }

    /// Commits what was acknowledged, if it is time, without waiting for it.
    fn commit_in_time(&mut self) {
        if self.committed_at.elapsed() < COMMIT_EVERY {
            return;
        }
        let list = self.commits(|share| share.dirty);
        if list.count() == 0 {
            return;
        }
        self.committed_at = Instant::now();
        self.shares.values_mut().for_each(|share| share.dirty = false);
        if let Some(consumer) = &self.consumer
            && let Err(error) = consumer.commit(&list, CommitMode::Async)
        {
            tracing::debug!(target: "sitemon_bus::kafka", "offsets cannot be committed: {}", brief(&error));
        }
    }

    /// What has changed in the group, if anything that the caller is to know.
    async fn rebalanced(&mut self) -> Result<Option<Event>, BusError> {
        loop {
            let change = self.changes().front().cloned();
            match change {
                None => return Ok(None),
                Some(Change::Assigned(partitions)) => {
                    let looked = self.look(partitions).await?;
                    self.changes().pop_front();
                    self.joined = true;
                    self.owes_assign = true;
                    if looked.is_empty() {
                        self.take_over()?;
                        continue;
                    }
                    let assigned = looked.into_iter().map(|Looked { partition, acknowledged, held }| {
                        self.shares.insert(partition, Share { held, ..Share::default() });
                        Assignment { partition, acknowledged, first: held.0 }
                    });
                    return Ok(Some(Event::Assigned(assigned.collect())));
                }
                Some(Change::Revoked(partitions)) => {
                    self.changes().pop_front();
                    self.owes_unassign = true;
                    let mut ours = partitions;
                    ours.retain(|partition| self.shares.contains_key(partition));
                    for partition in &ours {
                        if let Some(share) = self.shares.get_mut(partition) {
                            share.leaving = true;
                        }
                    }
                    if !ours.is_empty() {
                        return Ok(Some(Event::Revoked(ours)));
                    }
                    self.give_away().await?;
                }
            }
        }
    }

    fn changes(&self) -> std::sync::MutexGuard<'_, VecDeque<Change>> {
        self.context.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks what was committed of partitions, and what of them is held.
    async fn look(&mut self, partitions: Vec<Partition>) -> Result<Vec<Looked>, BusError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let (consumer, name) = (self.consumer()?, self.name());
        let ask = move || {
            // Brokers that are just told of a partition, or have just lost one of them, need a moment.
            let until = std::time::Instant::now() + PATIENCE;
            loop {
                match look(&consumer, &name, &partitions) {
                    Err(error) if passing(&error) && std::time::Instant::now() < until => {
                        std::thread::sleep(Duration::from_millis(50));
                    }
                    done => return Ok(done),
                }
            }
        };
        let looked = blocking(ask).await?;
        looked.map_err(|error| self.failed("what was read before cannot be asked for", &error))
    }

    /// Takes in a message, and what else is there.
    async fn take_in(&mut self, consumer: &Consumer, message: Result<BorrowedMessage<'_>, KafkaError>) {
        let mut batches = BTreeMap::new();
        let mut next = Some(message);
        let mut count = 0;
        while let Some(message) = next.take() {
            match message {
                Ok(message) => self.sort(&message, &mut batches),
                Err(error) => {
                    self.trouble = Some(error);
                    break;
                }
            }
            count += 1;
            if count < BATCH_MESSAGES {
                next = tokio::select! {
                    biased;
                    message = consumer.recv() => Some(message),
                    () = std::future::ready(()) => None,
                };
            }
        }
        self.ready.extend(batches.into_values());
    }

    /// Puts a message into the batch of its partition.
    fn sort(&mut self, message: &BorrowedMessage<'_>, batches: &mut BTreeMap<Partition, Batch>) {
        let (partition, offset) = (message.partition() as Partition, message.offset() as Offset);
        // What was fetched before it was given away is for its new owner.
        if self.shares.get(&partition).is_none_or(|share| !share.given || share.leaving) {
            return;
        }
        let batch = batches.entry(partition).or_insert_with(|| Batch {
            partition,
            first: offset,
            next: offset,
            messages: Vec::new(),
        });
        batch.next = offset + 1;
        match read(self.topic, message) {
            Ok(message) => batch.messages.push(message),
            Err(reason) => self.bury(message, &reason),
        }
    }

    /// Sends a message that cannot be read to the dead letters; its batch waits for that.
    fn bury(&mut self, message: &BorrowedMessage<'_>, reason: &str) {
        let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
        self.untold += 1;
        if self.told_at.is_none_or(|at| at.elapsed() > Duration::from_secs(10)) {
            let count = std::mem::take(&mut self.untold);
            self.told_at = Some(Instant::now());
            tracing::warn!(
                count,
                "messages that cannot be read go to {}, such as offset {offset} of {topic}/{partition}: {reason}",
                self.shared.options.topics.dead_letters
            );
        }
        let end = reason.floor_char_boundary(REASON_MAX);
        let mut headers = message.headers().map_or_else(OwnedHeaders::new, BorrowedHeaders::detach);
        for (key, value) in [
            ("dead-letter-reason", reason[..end].to_owned()),
            ("dead-letter-topic", topic.to_owned()),
            ("dead-letter-partition", partition.to_string()),
            ("dead-letter-offset", offset.to_string()),
        ] {
            headers = headers.insert(Header { key, value: Some(&value) });
        }
        let options = &self.shared.options;
        let letter = Record {
            topic: &options.topics.dead_letters,
            key: message.key(),
            payload: message.payload().map(<[u8]>::to_vec),
            headers,
        };
        let sent = self.shared.producer.send(options, 1, std::iter::once(letter));
        self.dead.push_back(sent.unwrap_or_else(|error| Box::pin(std::future::ready(Err(error)))));
    }

    /// What becomes of an error that reading met; `Ok` where librdkafka mends it.
    async fn judge(&mut self, error: &KafkaError) -> Result<(), BusError> {
        use RDKafkaErrorCode as Code;
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                let reading = self.shares.iter().filter(|(_, share)| share.given).map(|(partition, _)| *partition);
                let reading = reading.collect();
                for Looked { partition, held, .. } in self.look(reading).await? {
                    let at = self.shares.get(&partition).map_or(0, |share| share.read_to);
                    within(partition, at, held)?;
                }
                Err(self.failed("a position is not held", error))
            }
            // It joins again, or asks again.
            Some(Code::PollExceeded | Code::NoOffset | Code::PartitionEOF | Code::UnknownMemberId) => Ok(()),
            _ if passing(error) => Ok(()),
            _ => Err(self.failed("messages cannot be read", error)),
        }
    }

    /// Whether, since the bus was closed, all has been read that there was.
    async fn at_the_end(&mut self) -> bool {
        let closing =
            self.closing.get_or_insert_with(|| Closing { until: Instant::now() + JOINING, ends: BTreeMap::new() });
        let in_time = Instant::now() < closing.until;
        if in_time && (!self.joined || self.shared.producer.held() > 0) {
            return false;
        }
        let unknown: Vec<Partition> =
            self.shares.keys().filter(|partition| !closing.ends.contains_key(partition)).copied().collect();
        // Where brokers do not say how much there is, what they have is for the next start.
        let Ok(looked) = self.look(unknown).await else { return true };
        let Some(closing) = &mut self.closing else { return false };
        closing.ends.extend(looked.into_iter().map(|looked| (looked.partition, looked.held.1)));
        self.shares.iter().all(|(partition, share)| closing.ends.get(partition).is_none_or(|end| share.read_to >= *end))
    }
}

/// Whether a position is held.
fn within(partition: Partition, at: Offset, (first, end): (Offset, Offset)) -> Result<(), BusError> {
    if (first..=end).contains(&at) { Ok(()) } else { Err(BusError::OutOfRange { partition, at, first, end }) }
}

/// See [`KafkaReader::look`].
fn look(consumer: &Consumer, topic: &str, partitions: &[Partition]) -> KafkaResult<Vec<Looked>> {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition(topic, *partition as i32);
    }
    let committed = consumer.committed_offsets(list, PATIENCE)?;
    let mut looked = Vec::with_capacity(partitions.len());
    for element in committed.elements() {
        element.error()?;
        let acknowledged = match element.offset() {
            KafkaOffset::Offset(next) => {
                Some(Acknowledged { next: next as Offset, metadata: element.metadata().to_owned() })
            }
            _ => None,
        };
        let (first, end) = consumer.fetch_watermarks(topic, element.partition(), PATIENCE)?;
        let partition = element.partition() as Partition;
        looked.push(Looked { partition, acknowledged, held: (first as Offset, end as Offset) });
    }
    Ok(looked)
}

/// The message of what came, or why it is none.
fn read(topic: Topic, message: &BorrowedMessage<'_>) -> Result<Message, String> {
    let mut head = Head::default();
    if let Some(headers) = message.headers() {
        for header in headers.iter() {
            match header.key {
                TYPE_HEADER => head.kind = header.value,
                VERSION_HEADER => head.version = header.value,
                FORM_HEADER => head.form = header.value,
                _ => {}
            }
        }
    }
    wire::read(topic, head, message.payload().unwrap_or_default())
}

#[async_trait]
impl Reader for KafkaReader {
    async fn next(&mut self) -> Result<Event, BusError> {
        self.give_away().await?;
        self.take_over()?;
        let consumer = self.consumer()?;
        let context = self.context.clone();
        let mut closed = self.shared.closed.subscribe();
        loop {
            if let Some(event) = self.rebalanced().await? {
                return Ok(event);
            }
            while let Some(letter) = self.dead.front_mut() {
                let sent = letter.await;
                self.dead.pop_front();
                sent?;
            }
            if let Some(batch) = self.ready.pop_front() {
                if let Some(share) = self.shares.get_mut(&batch.partition) {
                    share.read_to = batch.next;
                    return Ok(Event::Batch(batch));
                }
                continue;
            }
            if let Some(error) = self.trouble.clone() {
                self.judge(&error).await?;
                self.trouble = None;
            }
            self.commit_in_time();
            let is_closed = *closed.borrow_and_update();
            if is_closed && self.at_the_end().await {
                return Ok(Event::Closed);
            }
            let wait = if is_closed { Duration::from_millis(20) } else { COMMIT_EVERY };
            tokio::select! {
                biased;
                () = context.changed.notified() => {}
                message = consumer.recv() => self.take_in(&consumer, message).await,
                _ = closed.changed(), if !is_closed => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn begin(&mut self, partition: Partition, at: Offset) -> Result<(), BusError> {
        let share = self.shares.get(&partition).filter(|share| !share.given);
        let held = share.ok_or(BusError::NotAssigned(partition))?.held;
        within(partition, at, held)?;
        if let Some(share) = self.shares.get_mut(&partition) {
            share.begin = Some(at);
            share.read_to = at;
        }
        Ok(())
    }

    async fn acknowledge(&mut self, partition: Partition, acknowledged: Acknowledged) -> Result<(), BusError> {
        let share = self.shares.get_mut(&partition).ok_or(BusError::NotAssigned(partition))?;
        let before = share.acknowledged.as_ref().map_or(0, |before| before.next);
        if acknowledged.next > share.read_to || acknowledged.next < before {
            return Err(BusError::Engine(format!(
                "cannot acknowledge partition {partition} up to {}: it was read up to {}",
                acknowledged.next, share.read_to
            )));
        }
        share.dirty |= share.acknowledged.as_ref() != Some(&acknowledged);
        share.acknowledged = Some(acknowledged);
        self.commit_in_time();
        Ok(())
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        let Some(consumer) = self.consumer.take() else { return };
        self.context.leaving.store(true, Ordering::Release);
        let commits = self.commits(|_| true);
        // It waits for brokers, which may be away, so that a thread does it that is waited for in moderation.
        let (done, left) = std::sync::mpsc::sync_channel::<()>(1);
        let leave = move || {
            if commits.count() > 0
                && let Err(error) = consumer.commit(&commits, CommitMode::Sync)
            {
                tracing::debug!(target: "sitemon_bus::kafka", "a last commit failed: {}", brief(&error));
            }
            drop(consumer);
            drop(done);
        };
        if std::thread::Builder::new().name("kafka-leave".to_owned()).spawn(leave).is_ok() {
            let _ = left.recv_timeout(LEAVING);
        }
    }
}
