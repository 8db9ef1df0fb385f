//! The keys of `bus` with `kind: kafka`, and what they are for librdkafka.

use crate::wire::Format;
use crate::{Config, Partition, Topic};
use rdkafka::ClientConfig;
use serde_json::{Map, Value, json};
use sitemon_model::tree::{At, Faults, Fields};
use sitemon_model::unit;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// What `options` may not set, because a promise of the bus hangs on it, and what to use instead.
const OURS: &[(&str, &str)] = &[
    ("bootstrap.servers", "`brokers` says it"),
    ("metadata.broker.list", "`brokers` says it"),
    ("security.protocol", "`tls` and `sasl` say it"),
    ("sasl.mechanism", "`sasl.mechanism` says it"),
    ("sasl.mechanisms", "`sasl.mechanism` says it"),
    ("sasl.username", "`sasl.username` says it"),
    ("sasl.password", "`sasl.password` says it"),
    ("ssl.ca.pem", "`tls.ca` says it"),
    ("ssl.certificate.pem", "`tls.certificate` says it"),
    ("ssl.key.pem", "`tls.key` says it"),
    ("group.id", "groups have names of their own"),
    ("enable.idempotence", "it is on, so that nothing is lost or changes its order"),
    ("acks", "it is `all`, so that what is acknowledged is safe"),
    ("request.required.acks", "it is `all`, so that what is acknowledged is safe"),
    ("partitioner", "it is `murmur2_random`, as of Java's clients, so that all agree where a site is"),
    ("enable.auto.commit", "it is off: what is acknowledged is committed"),
    ("enable.auto.offset.store", "it is off: what is acknowledged is committed"),
    ("auto.offset.reset", "a position that is not held is an error, never another position"),
    ("partition.assignment.strategy", "it is `cooperative-sticky`, so that others keep what they have"),
    ("allow.auto.create.topics", "topics are created as `topics`, `partitions` and `retention` say"),
];

/// Characters of the name of a topic at most.
const TOPIC_MAX: usize = 249;
/// The option that is the bound of `publish`.
const MESSAGES_MAX: &str = "queue.buffering.max.messages";
const HOUR: Duration = Duration::from_hours(1);

/// The configuration of the bus.
#[derive(Clone)]
pub struct Options {
    pub brokers: Vec<String>,
    tls: Option<Tls>,
    sasl: Option<Sasl>,
    pub topics: Topics,
    /// Of `sitemon.sites` and `sitemon.jobs`, and of `sitemon.observations`.
    pub partitions: Partitions,
    /// `None`: what the brokers do by default.
    pub replication: Option<u32>,
    pub retention: Retention,
    pub format: Format,
    /// As librdkafka names them.
    further: BTreeMap<String, String>,
    /// Which of them are secret.
    hidden: Vec<String>,
    /// Messages handed over and not acknowledged at most, before `publish` is refused.
    pub messages_max: usize,
}

/// The names of the topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    pub sites: String,
    pub jobs: String,
    pub observations: String,
    pub dead_letters: String,
}

/// How many partitions topics are to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partitions {
    pub sites: Partition,
    pub observations: Partition,
}

/// How long topics keep what they are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub jobs: Duration,
    pub observations: Duration,
    pub dead_letters: Duration,
}

/// What connections are secured with.
#[derive(Clone, Default)]
struct Tls {
    ca: Option<String>,
    identity: Option<(String, String)>,
    /// As it was written.
    shown: Value,
}

/// As whom one comes.
#[derive(Clone)]
struct Sasl {
    mechanism: &'static str,
    username: String,
    password: String,
}

impl std::fmt::Debug for Options {
    /// Without what is secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Options").field(&self.shown()).finish()
    }
}

impl Options {
    /// The name of a topic.
    pub fn topic(&self, topic: Topic) -> &str {
        match topic {
            Topic::Jobs => &self.topics.jobs,
            Topic::Observations => &self.topics.observations,
        }
    }

    /// What every client is told.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("client.id", "sitemon").set("bootstrap.servers", self.brokers.join(","));
        // A broker that is back is to be found again within a second or two.
        config.set("reconnect.backoff.ms", "100").set("reconnect.backoff.max.ms", "2000");
        config.set("log.connection.close", "false");
        if let Some(tls) = &self.tls {
            if let Some(ca) = &tls.ca {
                config.set("ssl.ca.pem", ca);
            }
            if let Some((certificate, key)) = &tls.identity {
                config.set("ssl.certificate.pem", certificate).set("ssl.key.pem", key);
            }
        }
        if let Some(sasl) = &self.sasl {
            config.set("sasl.mechanism", sasl.mechanism);
            config.set("sasl.username", &sasl.username).set("sasl.password", &sasl.password);
        }
        let protocol = match (&self.tls, &self.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        config.set("security.protocol", protocol);
        config
    }

    /// What producers are told.
    pub fn producer(&self) -> ClientConfig {
        let mut config = self.client();
        config.set("enable.idempotence", "true").set("acks", "all").set("partitioner", "murmur2_random");
        config.set("compression.type", "zstd").set("linger.ms", "10").set("message.timeout.ms", "30000");
        config.set(MESSAGES_MAX, self.messages_max.to_string());
        self.pass(config)
    }

    /// What consumers of a group are told.
    pub fn consumer(&self, group: &str) -> ClientConfig {
        let mut config = self.client();
        config.set("group.id", group).set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
        config.set("auto.offset.reset", "error").set("fetch.wait.max.ms", "100");
        // With the newer protocol of groups (KIP-848) these are the brokers' to say.
        if self.further.get("group.protocol").is_none_or(|protocol| protocol == "classic") {
            config.set("partition.assignment.strategy", "cooperative-sticky");
            config.set("session.timeout.ms", "10000").set("heartbeat.interval.ms", "1000");
        }
        self.pass(config)
    }

    /// The user's options, which go before our own.
    pub fn pass(&self, mut config: ClientConfig) -> ClientConfig {
        for (name, value) in &self.further {
            config.set(name, value);
        }
        config
    }

    /// Its own keys in native form.
    pub fn shown(&self) -> Map<String, Value> {
        let duration = |duration| Value::from(unit::show_duration(duration));
        let mut shown = Map::new();
        shown.insert("brokers".to_owned(), self.brokers.clone().into());
        if let Some(tls) = &self.tls {
            shown.insert("tls".to_owned(), tls.shown.clone());
        }
        if let Some(Sasl { mechanism, username, .. }) = &self.sasl {
            let sasl = json!({"mechanism": mechanism, "username": username, "password": "***"});
            shown.insert("sasl".to_owned(), sasl);
        }
        let Topics { sites, jobs, observations, dead_letters } = &self.topics;
        let topics = json!({"sites": sites, "jobs": jobs, "observations": observations, "dead_letters": dead_letters});
        shown.insert("topics".to_owned(), topics);
        let Partitions { sites, observations } = self.partitions;
        shown.insert("partitions".to_owned(), json!({"sites": sites, "observations": observations}));
        if let Some(replication) = self.replication {
            shown.insert("replication".to_owned(), replication.into());
        }
        let Retention { jobs, observations, dead_letters } = self.retention;
        let retention = json!({
            "jobs": duration(jobs), "observations": duration(observations), "dead_letters": duration(dead_letters),
        });
        shown.insert("retention".to_owned(), retention);
        shown.insert("format".to_owned(), self.format.as_str().into());
        let hide =
            |name: &String, value: &String| if self.hidden.contains(name) { "***".into() } else { value.clone() };
        let options: Map<String, Value> =
            self.further.iter().map(|(name, value)| (name.clone(), hide(name, value).into())).collect();
        shown.insert("options".to_owned(), options.into());
        shown
    }
}

/// Reads the keys; relative paths are relative to `base`.
pub fn parse(fields: &mut Fields<'_>, base: &Path, faults: &mut Faults) -> Option<Box<dyn Config>> {
    let before = faults.0.iter().filter(|fault| !fault.warning).count();
    let brokers = if let Some(at) = fields.take("brokers") {
        read_brokers(&at, faults)
    } else {
        fields.missing(faults, "brokers", "a list of HOST:PORT");
        Vec::new()
    };
    let tls = fields.take("tls").map(|at| read_tls(&at, base, faults));
    let sasl_at = fields.take("sasl");
    let sasl = sasl_at.as_ref().and_then(|at| read_sasl(at, faults));
    if let (Some(at), None) = (&sasl_at, &tls) {
        at.warning(faults, "without `tls` whoever listens on the way reads what is sent");
    }
    let topics = read_topics(fields.take("topics"), faults);
    let mut partitions = Partitions { sites: 64, observations: 64 };
    if let Some(at) = fields.take("partitions") {
        let mut fields = at.map(faults);
        for (name, number) in [("sites", &mut partitions.sites), ("observations", &mut partitions.observations)] {
            if let Some(at) = fields.take(name) {
                *number = count(&at, 10_000, faults).unwrap_or(*number);
            }
        }
        fields.finish(faults);
    }
    let replication = fields.take("replication").and_then(|at| count(&at, 100, faults));
    let retention = read_retention(fields.take("retention"), faults);
    let format = fields.take("format").and_then(|at| at.one_of(faults, &Format::ALL)).unwrap_or_default();
    let (further, hidden) = fields.take("options").map(|at| read_options(&at, faults)).unwrap_or_default();
    let messages_max = further.get(MESSAGES_MAX).and_then(|text| text.parse().ok()).unwrap_or(200_000);
    let options = Options {
        brokers,
        tls,
        sasl,
        topics,
        partitions,
        replication,
        retention,
        format,
        further,
        hidden,
        messages_max,
    };
    (faults.0.iter().filter(|fault| !fault.warning).count() == before).then(|| Box::new(options) as Box<dyn Config>)
}

fn read_brokers(at: &At<'_>, faults: &mut Faults) -> Vec<String> {
    let mut brokers = Vec::new();
    let items = at.one_or_list(faults);
    if items.is_empty() && !faults.any_errors() {
        at.expected(faults, "a list of HOST:PORT");
    }
    for at in items {
        let Some(text) = at.str(faults) else { continue };
        // As librdkafka writes a list itself.
        for broker in text.split(',').map(str::trim) {
            let port = broker.rsplit_once(':').filter(|(host, _)| !host.is_empty() && !host.contains("//"));
            if port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0)) {
                brokers.push(broker.to_owned());
            } else {
                at.expected(faults, "HOST:PORT");
            }
        }
    }
    brokers
}

fn read_tls(at: &At<'_>, base: &Path, faults: &mut Faults) -> Tls {
    let mut fields = at.map(faults);
    let mut file = |name: &'static str, label: &str, faults: &mut Faults| {
        let at = fields.take(name)?;
        let path = at.str(faults)?;
        match std::fs::read_to_string(base.join(path)) {
            Ok(content) if content.contains("-----BEGIN") && content.contains(label) => return Some(content),
            Ok(_) => at.error(faults, format!("{path} holds no {} in PEM", label.to_lowercase())),
            Err(error) => at.error(faults, format!("{path} cannot be read: {}", error.kind())),
        }
        None
    };
    let before = faults.0.len();
    let (ca, certificate, key) = (
        file("ca", "CERTIFICATE", faults),
        file("certificate", "CERTIFICATE", faults),
        file("key", "PRIVATE KEY", faults),
    );
    if certificate.is_some() != key.is_some() && faults.0.len() == before {
        at.error(faults, "`certificate` and `key` belong together, expected both");
    }
    fields.finish(faults);
    Tls { ca, identity: certificate.zip(key), shown: at.node.to_json() }
}

fn read_sasl(at: &At<'_>, faults: &mut Faults) -> Option<Sasl> {
    const MECHANISMS: [(&str, &str); 3] =
        [("PLAIN", "PLAIN"), ("SCRAM-SHA-256", "SCRAM-SHA-256"), ("SCRAM-SHA-512", "SCRAM-SHA-512")];
    let mut fields = at.map(faults);
    let mechanism = if let Some(at) = fields.take("mechanism") {
        at.one_of(faults, &MECHANISMS)
    } else {
        fields.missing(faults, "mechanism", "one of: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512");
        None
    };
    let mut text = |name: &'static str, what: &str, faults: &mut Faults| {
        let Some(at) = fields.take(name) else {
            fields.missing(faults, name, what);
            return None;
        };
        at.str(faults).map(str::to_owned)
    };
    let (username, password) = (text("username", "a name", faults), text("password", "a password", faults));
    fields.finish(faults);
    Some(Sasl { mechanism: mechanism?, username: username?, password: password? })
}

fn read_topics(at: Option<At<'_>>, faults: &mut Faults) -> Topics {
    let mut topics = Topics {
        sites: "sitemon.sites".to_owned(),
        jobs: "sitemon.jobs".to_owned(),
        observations: "sitemon.observations".to_owned(),
        dead_letters: "sitemon.dead-letters".to_owned(),
    };
    let Some(at) = at else { return topics };
    let mut fields = at.map(faults);
    let mut seen: Vec<String> = Vec::new();
    for (name, topic) in [
        ("sites", &mut topics.sites),
        ("jobs", &mut topics.jobs),
        ("observations", &mut topics.observations),
        ("dead_letters", &mut topics.dead_letters),
    ] {
        if let Some(at) = fields.take(name)
            && let Some(text) = at.str(faults)
        {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            if text.is_empty() || text.len() > TOPIC_MAX || !text.chars().all(fits) || matches!(text, "." | "..") {
                at.expected(faults, "the name of a topic: up to 249 letters, digits, dots, underscores and dashes");
            } else {
                text.clone_into(topic);
            }
            if seen.contains(topic) {
                at.error(faults, format!("the topic `{topic}` is named twice, expected one for each"));
            }
        }
        seen.push(topic.clone());
    }
    fields.finish(faults);
    topics
}

fn read_retention(at: Option<At<'_>>, faults: &mut Faults) -> Retention {
    let mut retention = Retention { jobs: HOUR, observations: 7 * 24 * HOUR, dead_letters: 30 * 24 * HOUR };
    let Some(at) = at else { return retention };
    let mut fields = at.map(faults);
    for (name, value) in [
        ("jobs", &mut retention.jobs),
        ("observations", &mut retention.observations),
        ("dead_letters", &mut retention.dead_letters),
    ] {
        let Some(at) = fields.take(name) else { continue };
        match at.duration(faults) {
            Some(duration) if duration < Duration::from_secs(1) => at.expected(faults, "at least 1s"),
            Some(duration) => *value = duration,
            None => {}
        }
    }
    fields.finish(faults);
    retention
}

fn count(at: &At<'_>, most: u32, faults: &mut Faults) -> Option<u32> {
    let what = format!("a number from 1 to {most}");
    let number = at.parse::<u32>(faults, &what)?;
    if (1..=most).contains(&number) {
        return Some(number);
    }
    at.expected(faults, &what);
    None
}

/// Options with their values as texts, and the names of those that are secret.
fn read_options(at: &At<'_>, faults: &mut Faults) -> (BTreeMap<String, String>, Vec<String>) {
    let (mut options, mut hidden) = (BTreeMap::new(), Vec::new());
    for (key, at) in at.map(faults).all() {
        if let Some((_, why)) = OURS.iter().find(|(name, _)| *name == &*key.name) {
            at.error(faults, format!("`{}` cannot be set: {why}", key.name));
            continue;
        }
        let Some(value) = at.str(faults) else { continue };
        let mut probe = ClientConfig::new();
        probe.set(&*key.name, value);
        if let Err(error) = probe.create_native_config() {
            let why = match error {
                rdkafka::error::KafkaError::ClientConfig(_, why, ..) => why,
                other => other.to_string(),
            };
            // It may repeat the value.
            let why = if at.node.secret { "librdkafka does not take it".to_owned() } else { why };
            at.error(faults, format!("{why}, expected an option of librdkafka"));
            continue;
        }
        if at.node.secret || ["password", "secret", ".pem", ".key"].iter().any(|word| key.name.contains(word)) {
            hidden.push(key.name.to_string());
        }
        options.insert(key.name.to_string(), value.to_owned());
    }
    (options, hidden)
}

/// The schema of the keys.
pub fn schema() -> Map<String, Value> {
    let text = |about: &str| json!({"type": "string", "minLength": 1, "description": about});
    let object = |about: &str, properties: Value| json!({"type": "object", "additionalProperties": false, "description": about, "properties": properties});
    let number = |most: u32, default: Option<u32>, about: &str| {
        let mut schema = json!({"type": "integer", "minimum": 1, "maximum": most, "description": about});
        if let Some(default) = default {
            schema["default"] = default.into();
        }
        schema
    };
    let topic = |default: &str, about: &str| json!({"type": "string", "pattern": "^[A-Za-z0-9._-]{1,249}$", "default": default, "description": about});
    let duration =
        |default: &str, about: &str| json!({"type": ["string", "number"], "default": default, "description": about});
    Map::from_iter(
        [
            (
                "brokers",
                json!({
                    "type": ["array", "string"], "items": {"type": "string", "minLength": 1},
                    "description": "Brokers to begin with, `HOST:PORT`; they tell of the others.",
                }),
            ),
            (
                "tls",
                object(
                    "Connections by TLS, with files in PEM; `{}`: with the authorities of this machine. Relative paths are relative to the file that they stand in.",
                    json!({
                        "ca": text("The authorities that the brokers' certificates may come from, instead of those of this machine."),
                        "certificate": text("Our own certificate, with its chain."),
                        "key": text("The key of `certificate`."),
                    }),
                ),
            ),
            (
                "sasl",
                object(
                    "As whom brokers know us.",
                    json!({
                        "mechanism": {"enum": ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"], "description": "How the password is shown."},
                        "username": text("The name."),
                        "password": text("The password; a secret."),
                    }),
                ),
            ),
            (
                "topics",
                object(
                    "The names of the topics. Those that are missing are created.",
                    json!({
                        "sites": topic("sitemon.sites", "Sites, from writers to checkers; compacted."),
                        "jobs": topic("sitemon.jobs", "Jobs by request."),
                        "observations": topic("sitemon.observations", "Observations, from checkers to writers."),
                        "dead_letters": topic("sitemon.dead-letters", "Messages that could not be read, with the reason."),
                    }),
                ),
            ),
            (
                "partitions",
                object(
                    "How many partitions topics are created with: so many checkers and writers can share the work.",
                    json!({
                        "sites": number(10_000, Some(64), "Of the sites, and of the jobs. A topic that has another number is refused."),
                        "observations": number(10_000, Some(64), "Of the observations. A topic may have more."),
                    }),
                ),
            ),
            ("replication", number(100, None, "How many brokers keep each message of a topic that is created; by default what the brokers say.")),
            (
                "retention",
                object(
                    "How long topics that are created keep their messages.",
                    json!({
                        "jobs": duration("1h", "Jobs."),
                        "observations": duration("7d", "Observations: so long a store may be away."),
                        "dead_letters": duration("30d", "Messages that could not be read."),
                    }),
                ),
            ),
            ("format", json!({"enum": ["protobuf", "json"], "default": "protobuf", "description": "How messages are written; both are read."})),
            (
                "options",
                json!({
                    "type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]},
                    "description": "Further options, as librdkafka names them, for producers and consumers.",
                }),
            ),
        ]
        .map(|(name, schema)| (name.to_owned(), schema)),
    )
}
