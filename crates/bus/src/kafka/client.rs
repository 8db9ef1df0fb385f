//! What all clients of librdkafka have in common: where their words go, and how what blocks is waited for.

use crate::BusError;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Takes what a client has to say: into the log, and the last of it to be told where something fails.
#[derive(Debug, Default)]
pub struct Voice {
    last: Mutex<Option<String>>,
    /// When it was told that no broker can be reached.
    told: Mutex<Option<Instant>>,
}

/// That no broker can be reached is told so often while it lasts.
const TELL_EVERY: Duration = Duration::from_mins(1);

impl Voice {
    /// What it said last of its connections.
    pub fn last(&self) -> Option<String> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Of an error, with what was said last.
    pub fn explain(&self, error: &KafkaError) -> String {
        match self.last() {
            Some(last) => format!("{}: {last}", brief(error)),
            None => brief(error),
        }
    }

    /// Takes a line for the log. librdkafka says what it does again and again, so that most of it is only for who looks
    /// for it; whoever uses the bus tells once what comes of it.
    pub fn hear(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        use RDKafkaLogLevel::{Alert, Critical, Emerg, Error};
        // Of connections that fail a client that only asks says it here alone.
        if matches!(level, Error) && facility == "FAIL" {
            let told = message.rsplit_once("]: ").map_or(message, |(_, told)| told);
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(told.to_owned());
        }
        if matches!(level, Emerg | Alert | Critical) {
            tracing::error!(target: "sitemon_bus::kafka", "{facility}: {message}");
        } else {
            tracing::debug!(target: "sitemon_bus::kafka", "{facility}: {message}");
        }
    }

    /// Takes down an error of the client as a whole.
    pub fn note(&self, error: &KafkaError, reason: &str) {
        tracing::debug!(target: "sitemon_bus::kafka", "{error}: {reason}");
        // `ssl://host:port/bootstrap: ` and what it says; that all are down tells nothing of why.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
            return;
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            *told = Some(Instant::now());
            tracing::warn!("no broker of Kafka can be reached: {}", self.last().unwrap_or_default());
        }
    }
}

/// For a client with nothing else to tell.
impl ClientContext for Voice {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.hear(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.note(&error, reason);
    }
}

/// An error in the words of librdkafka, without the names of Rust's.
pub fn brief(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, why, name, _) => format!("{name}: {why}"),
        KafkaError::ClientCreation(why) => why.clone(),
        other => other.rdkafka_error_code().map_or_else(|| other.to_string(), |code| code.to_string()),
    }
}

/// Does what waits for the network on a thread for that.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BusError> + Send + 'static,
) -> Result<T, BusError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(BusError::Engine(format!("the bus's work was ended: {error}"))))
}
