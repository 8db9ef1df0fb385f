//! `kafka`: Apache Kafka between checkers and writers, by librdkafka.
//!
//! Acknowledged means acknowledged by all in-sync replicas. Topics that are missing are created ([`topics`]); those that
//! are there are held against the configuration, and never altered. A message that cannot be read goes to the topic of
//! dead letters with the reason, and reading goes on ([`reader`]). Where reading begins says the caller, whose store
//! keeps it; what is committed to Kafka is for the next owner's note and for tools that show lag.

mod client;
mod options;
mod producer;
mod reader;
mod topics;

use crate::{Acknowledgement, Bus, BusError, Config, Kind, Message, Partition, Reader, Topic};
use async_trait::async_trait;
use client::blocking;
use options::Options;
use producer::Producer;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// `kafka`
pub const KIND: Kind = Kind {
    name: "kafka",
    about: "Apache Kafka, for checkers and writers on many machines.",
    parse: options::parse,
    schema: options::schema,
};

/// How long brokers may take to answer one question.
const PATIENCE: Duration = Duration::from_secs(10);

#[async_trait]
impl Config for Options {
    fn kind(&self) -> &'static str {
        KIND.name
    }

    fn show(&self) -> serde_json::Map<String, serde_json::Value> {
        self.shown()
    }

    async fn open(&self) -> Result<Arc<dyn Bus>, BusError> {
        let options = self.clone();
        let producer = Arc::new(blocking(move || Producer::new(&options)).await?);
        let known = topics::prepare(self, &producer).await?;
        let (closed, _) = watch::channel(false);
        let shared = Shared { options: self.clone(), known, producer, closed };
        Ok(Arc::new(Kafka { shared: Arc::new(shared) }))
    }
}

/// The bus that is open.
#[derive(Debug)]
struct Kafka {
    shared: Arc<Shared>,
}

/// What the bus and its readers have in common.
#[derive(Debug)]
struct Shared {
    options: Options,
    known: topics::Known,
    producer: Arc<Producer>,
    closed: watch::Sender<bool>,
}

#[async_trait]
impl Bus for Kafka {
    fn partitions(&self, topic: Topic) -> Partition {
        self.shared.known.partitions(topic)
    }

    fn stream(&self, topic: Topic) -> Option<String> {
        Some(format!("kafka/{}/{}", self.shared.known.cluster, self.shared.options.topic(topic)))
    }

    fn publish(&self, topic: Topic, messages: Vec<Message>) -> Result<Acknowledgement, BusError> {
        if *self.shared.closed.borrow() {
            return Err(BusError::Closed);
        }
        self.shared.producer.publish(&self.shared.options, topic, &messages)
    }

    async fn subscribe(&self, topic: Topic, group: &str) -> Result<Box<dyn Reader>, BusError> {
        let (shared, group) = (self.shared.clone(), format!("{}.{group}", self.shared.options.topic(topic)));
        // A client is made of threads; what it is told needs no network.
        Ok(Box::new(reader::KafkaReader::new(shared, topic, &group)?))
    }

    async fn close(&self) {
        self.shared.closed.send_replace(true);
    }
}
