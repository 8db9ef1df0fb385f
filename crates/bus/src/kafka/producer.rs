//! Hands messages to the brokers, and tells when all in-sync replicas have them.

use super::client::{Voice, brief};
use super::options::Options;
use crate::wire::{self, FORM_HEADER, TYPE_HEADER, VERSION_HEADER};
use crate::{Acknowledgement, BusError, Message, Topic};
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// The one producer of a bus.
pub struct Producer {
    /// Made anew after an error that it says it does not outlive.
    client: Mutex<Arc<Client>>,
    held: Arc<AtomicUsize>,
    messages_max: usize,
}

type Client = ThreadedProducer<Context>;

/// What a client tells us.
pub struct Context {
    voice: Voice,
    /// Messages handed over and not acknowledged.
    held: Arc<AtomicUsize>,
}

/// The messages of one call of `publish` that are on their way.
pub struct Flight {
    state: Mutex<InFlight>,
}

struct InFlight {
    count: usize,
    /// What went wrong first.
    error: Option<String>,
    /// Whom to tell when all have landed.
    sender: Option<oneshot::Sender<Result<(), BusError>>>,
}

impl Flight {
    fn landed(&self, error: Option<String>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.count -= 1;
        if state.error.is_none() {
            state.error = error;
        }
        if state.count == 0
            && let Some(sender) = state.sender.take()
        {
            // Whoever published may have stopped waiting.
            let _ = sender.send(state.error.take().map_or(Ok(()), |error| Err(BusError::Engine(error))));
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.voice.hear(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.voice.note(&error, reason);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Arc<Flight>;

    fn delivery(&self, result: &DeliveryResult<'_>, flight: Self::DeliveryOpaque) {
        self.held.fetch_sub(1, Ordering::Relaxed);
        flight.landed(result.as_ref().err().map(|(error, _)| self.voice.explain(error)));
    }
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("held", &self.held()).finish_non_exhaustive()
    }
}

impl Producer {
    /// A producer with its threads.
    pub fn new(options: &Options) -> Result<Self, BusError> {
        let held = Arc::<AtomicUsize>::default();
        let client = Mutex::new(connect(options, &held)?);
        Ok(Self { client, held, messages_max: options.messages_max })
    }

    /// Messages handed over and not acknowledged.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Asks the brokers, waiting for them; with what its connections say where they do not answer. (Other clients of
    /// rdkafka are not told that.)
    pub fn ask<T>(
        &self,
        options: &Options,
        question: impl FnOnce(&rdkafka::client::Client<Context>) -> Result<T, KafkaError>,
    ) -> Result<T, BusError> {
        let client = self.client(options)?;
        question(client.client()).map_err(|error| {
            let told = format!("the brokers cannot be reached: {}", client.context().voice.explain(&error));
            if passing(&error) { BusError::Unavailable(told) } else { BusError::Engine(told) }
        })
    }

    /// See [`crate::Bus::publish`].
    pub fn publish(&self, options: &Options, topic: Topic, messages: &[Message]) -> Result<Acknowledgement, BusError> {
        let headers = || {
            let version = wire::VERSION.to_string();
            OwnedHeaders::new_with_capacity(3)
                .insert(Header { key: TYPE_HEADER, value: Some(wire::type_of(topic)) })
                .insert(Header { key: VERSION_HEADER, value: Some(&version) })
                .insert(Header { key: FORM_HEADER, value: Some(options.format.content_type()) })
        };
        let headers = headers();
        let records = messages.iter().map(|message| Record {
            topic: options.topic(topic),
            key: Some(message.key().as_bytes()),
            payload: Some(wire::write(message, options.format)),
            headers: headers.clone(),
        });
        self.send(options, messages.len(), records)
    }

    /// Queues records, all of them or, at the bound, none.
    pub fn send<'a>(
        &self,
        options: &Options,
        count: usize,
        records: impl Iterator<Item = Record<'a>>,
    ) -> Result<Acknowledgement, BusError> {
        let client = self.client(options)?;
        let room = |held: usize| (held + count <= self.messages_max).then_some(held + count);
        if let Err(held) = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room) {
            return Err(BusError::Full { held: held as u64 });
        }
        if count == 0 {
            return Ok(Box::pin(std::future::ready(Ok(()))));
        }
        let (sender, receiver) = oneshot::channel();
        let flight = Arc::new(Flight { state: Mutex::new(InFlight { count, error: None, sender: Some(sender) }) });
        for record in records {
            let Record { topic, key, payload, headers } = &record;
            let mut base = BaseRecord::with_opaque_to(topic, flight.clone()).headers(headers.clone());
            if let Some(key) = key {
                base = base.key(*key);
            }
            if let Some(payload) = payload {
                base = base.payload(payload.as_slice());
            }
            if let Err((error, _)) = client.send(base) {
                // Told with the acknowledgement: what comes again is merged, what was never sent must come again.
                self.held.fetch_sub(1, Ordering::Relaxed);
                flight.landed(Some(brief(&error)));
            }
        }
        Ok(Box::pin(async move { receiver.await.unwrap_or(Err(BusError::Closed)) }))
    }

    /// The client, or where that is done for, another. (An idempotent producer whose numbers the brokers no longer
    /// know must not go on as if nothing had happened; what it still holds is told as failed.)
    fn client(&self, options: &Options) -> Result<Arc<Client>, BusError> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((code, why)) = client.client().fatal_error() {
            tracing::warn!("a new producer, for the one before is done for ({code}): {why}");
            *client = connect(options, &self.held)?;
        }
        Ok(client.clone())
    }
}

/// A message for the brokers.
pub struct Record<'a> {
    pub topic: &'a str,
    pub key: Option<&'a [u8]>,
    pub payload: Option<Vec<u8>>,
    pub headers: OwnedHeaders,
}

fn connect(options: &Options, held: &Arc<AtomicUsize>) -> Result<Arc<Client>, BusError> {
    let context = Context { voice: Voice::default(), held: held.clone() };
    let client = Client::from_config_and_context(&options.producer(), context);
    client.map(Arc::new).map_err(|error| BusError::Engine(format!("no producer: {}", brief(&error))))
}

/// Whether brokers may say something else later.
pub fn passing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::OperationTimedOut
                | Code::RequestTimedOut
                | Code::TimedOutQueue
                | Code::Resolve
                | Code::Authentication
                | Code::SSL
                | Code::SaslAuthenticationFailed
                | Code::CoordinatorNotAvailable
                | Code::CoordinatorLoadInProgress
                | Code::NotCoordinator
                | Code::LeaderNotAvailable
                | Code::NotLeaderForPartition
                | Code::NotController
                | Code::NetworkException
                | Code::WaitingForCoordinator
        )
    )
}
