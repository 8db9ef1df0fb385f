//! Carries jobs and observations between roles.
//!
//! To add a bus: write `src/<name>.rs` exporting `KIND`, then add its two lines below; it must pass
//! `conformance`. The words are those of a partitioned log, because the widest driver is one: a message has a
//! key, a key a partition, a message in a partition an offset; a reader is assigned partitions, says where it
//! begins, and acknowledges up to an offset.

pub mod conformance;
pub mod faulty;
mod kafka;
pub mod local;
mod wire;

use async_trait::async_trait;
use sitemon_model::tree::{Faults, Fields};
use sitemon_model::{Job, Observation};
use std::fmt::Debug;
use std::sync::Arc;

/// All buses; the first is the default.
pub const KINDS: &[Kind] = &[local::KIND, kafka::KIND];

/// A bus as it stands in the table.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// As in the configuration.
    pub name: &'static str,
    /// One sentence for the reference.
    pub about: &'static str,
    /// Reads the bus's own keys (those beside `kind`), noting each fault; does not finish the map. Relative paths are
    /// relative to `base`.
    pub parse: fn(&mut Fields<'_>, &std::path::Path, &mut Faults) -> Option<Box<dyn Config>>,
    /// The JSON Schema of the bus's own keys: a map of property name to schema.
    pub schema: fn() -> serde_json::Map<String, serde_json::Value>,
}

/// The configuration of a bus. Parsing needs no network; opening does.
#[async_trait]
pub trait Config: Send + Sync + Debug {
    /// The name of its kind.
    fn kind(&self) -> &'static str;

    /// Its own keys in native form, defaults filled in, secrets hidden.
    fn show(&self) -> serde_json::Map<String, serde_json::Value>;

    /// Opens the bus.
    async fn open(&self) -> Result<Arc<dyn Bus>, BusError>;
}

/// What is carried; each topic has partitions of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// Jobs by request.
    Jobs,
    /// Observations.
    Observations,
}

/// One message. Its key is the name of its site.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// On [`Topic::Jobs`].
    Job(Job),
    /// On [`Topic::Observations`].
    Observation(Arc<Observation>),
}

impl Message {
    /// What decides its partition, within which order is kept.
    pub fn key(&self) -> &str {
        match self {
            Self::Job(job) => &job.site,
            Self::Observation(observation) => &observation.site,
        }
    }
}

/// The number of a partition of a topic.
pub type Partition = u32;
/// The place of a message in its partition; the first is 0.
pub type Offset = u64;

/// Messages of one partition, in order.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Where they come from.
    pub partition: Partition,
    /// The offset of the first.
    pub first: Offset,
    /// The offset after the last: what [`Reader::acknowledge`] is given once all are dealt with. Not always
    /// `first + messages.len()`: a log may have holes.
    pub next: Offset,
    /// The messages.
    pub messages: Vec<Message>,
}

/// What happens to a reader.
#[derive(Debug)]
pub enum Event {
    /// These partitions are ours from now on; nothing is read of them before [`Reader::begin`].
    Assigned(Vec<Assignment>),
    /// These are no longer ours once the next call of [`Reader::next`] is made.
    Revoked(Vec<Partition>),
    /// Messages.
    Batch(Batch),
    /// The bus was closed, and everything has been read.
    Closed,
}

/// A partition that becomes ours, and what its last owner left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The partition.
    pub partition: Partition,
    /// What was acknowledged last; `None`: nothing ever.
    pub acknowledged: Option<Acknowledged>,
    /// The first offset that is held: where to begin who never read of it before. Not 0 where a log has let go of what
    /// is old.
    pub first: Offset,
}

/// What was acknowledged of a partition: everything before `next`, and a note that its owner left with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Acknowledged {
    /// The offset after the last that was dealt with.
    pub next: Offset,
    /// Free text of the owner.
    pub metadata: String,
}

/// A bus that is open.
#[async_trait]
pub trait Bus: Send + Sync + Debug {
    /// How many partitions a topic has.
    fn partitions(&self, topic: Topic) -> Partition;

    /// The name under which a store keeps positions in a topic's partitions, unlike that of any other topic of any
    /// other engine. `None`: the topic is as old as this process, and nobody else's.
    fn stream(&self, topic: Topic) -> Option<String>;

    /// Hands over messages, in order for each key. They are queued when this returns; what it returns ends
    /// when all are acknowledged: safe by the promise of this bus, so that no crash takes them away. On an
    /// error some may have been delivered; delivering them again is safe.
    ///
    /// At the bus's bound it is refused with [`BusError::Full`], and nothing was queued.
    fn publish(&self, topic: Topic, messages: Vec<Message>) -> Result<Acknowledgement, BusError>;

    /// Joins a group of readers, among which the partitions of a topic are shared out.
    async fn subscribe(&self, topic: Topic, group: &str) -> Result<Box<dyn Reader>, BusError>;

    /// No more messages: readers are told after they have read what there is.
    async fn close(&self);
}

/// Ends when the messages of one `publish` are acknowledged.
pub type Acknowledgement = std::pin::Pin<Box<dyn Future<Output = Result<(), BusError>> + Send>>;

/// A member of a group of readers.
#[async_trait]
pub trait Reader: Send {
    /// What happens next. Dropping the future loses nothing. A batch may come again, whole or in part; after an
    /// error a reader is of no use, and what it had is for the next one to read.
    async fn next(&mut self) -> Result<Event, BusError>;

    /// Where to begin in a partition that was assigned.
    async fn begin(&mut self, partition: Partition, at: Offset) -> Result<(), BusError>;

    /// Everything before `acknowledged.next` is dealt with; the note is kept for the next owner.
    async fn acknowledge(&mut self, partition: Partition, acknowledged: Acknowledged) -> Result<(), BusError>;
}

/// What can go wrong with a bus.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The bound is reached; nothing was queued.
    #[error("the bus holds {held} messages, its bound")]
    Full {
        /// Messages held.
        held: u64,
    },
    /// The bus was closed, or its other side is gone.
    #[error("the bus is closed")]
    Closed,
    /// The partition is another's by now.
    #[error("partition {0} is not assigned to this reader")]
    NotAssigned(Partition),
    /// A position is not held: what came there was let go, or never was.
    #[error("offset {at} of partition {partition} is not held: {first} to {end} are")]
    OutOfRange {
        /// The partition.
        partition: Partition,
        /// The position.
        at: Offset,
        /// The first that is held.
        first: Offset,
        /// The one after the last.
        end: Offset,
    },
    /// The engine cannot be reached, or cannot do it now: waiting may mend it.
    #[error("{0}")]
    Unavailable(String),
    /// The engine said no.
    #[error("{0}")]
    Engine(String),
}
