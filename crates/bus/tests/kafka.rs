//! The driver `kafka`, against brokers of its own: the suite of all buses, and what it does not ask.

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use sitemon_bus::conformance::{self, Promise, observation, slot_of};
use sitemon_bus::{Acknowledged, Bus, BusError, Config, Event, KINDS, Message, Partition, Reader, Topic};
use sitemon_model::tree::{At, Faults, Node};
use sitemon_model::{Job, Reason, Timestamp};
use sitemon_testkit::kafka::{self, Kafka, PASSWORD, USER};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_mins(1);

fn server() -> Arc<Kafka> {
    kafka::shared().unwrap_or_else(|error| panic!("{error:#}"))
}

/// The configuration of a bus with these keys, or what is wrong with them; warnings are left out.
fn config(keys: &Value) -> Result<Box<dyn Config>, String> {
    let kind = KINDS.iter().find(|kind| kind.name == "kafka").unwrap();
    let node = Node::from_json(keys);
    let mut faults = Faults::default();
    let mut fields = At::new(&node, "bus").map(&mut faults);
    let config = (kind.parse)(&mut fields, Path::new("/"), &mut faults);
    fields.finish(&mut faults);
    let told = faults.0.iter().filter(|fault| !fault.warning);
    let told: Vec<String> = told.map(|fault| format!("{}: {}", fault.path, fault.message)).collect();
    config.filter(|_| told.is_empty()).ok_or_else(|| told.join("\n"))
}

/// Topics of one test, by a prefix.
fn topics(prefix: &str) -> Value {
    let name = |topic: &str| format!("{prefix}.{topic}");
    json!({
        "sites": name("sites"), "jobs": name("jobs"), "observations": name("observations"),
        "dead_letters": name("dead-letters"),
    })
}

/// The keys of a bus with topics of its own at these brokers.
fn keys(brokers: &[String], prefix: &str, partitions: Partition) -> Value {
    json!({
        "brokers": brokers, "topics": topics(prefix),
        "partitions": {"sites": partitions, "observations": partitions},
    })
}

/// The keys with another one.
fn with(mut keys: Value, name: &str, value: Value) -> Value {
    keys[name] = value;
    keys
}

async fn open(keys: &Value) -> Arc<dyn Bus> {
    config(keys).unwrap_or_else(|faults| panic!("{faults}")).open().await.unwrap_or_else(|error| panic!("{error}"))
}

/// Why a bus does not open.
async fn refused(keys: &Value) -> BusError {
    config(keys).unwrap_or_else(|faults| panic!("{faults}")).open().await.expect_err("it must not open")
}

async fn publish(bus: &dyn Bus, messages: Vec<Message>) {
    let acknowledged = bus.publish(Topic::Observations, messages).expect("publish");
    tokio::time::timeout(PATIENCE, acknowledged).await.expect("in time").expect("acknowledged");
}

async fn next(reader: &mut dyn Reader) -> Event {
    tokio::time::timeout(PATIENCE, reader.next()).await.expect("an event in time").expect("an event")
}

/// Begins where nothing was read before, and reads so many messages.
async fn read(reader: &mut dyn Reader, count: usize) -> Vec<Message> {
    let mut messages = Vec::new();
    while messages.len() < count {
        match next(reader).await {
            Event::Assigned(assigned) => {
                for assignment in assigned {
                    let at = assignment.acknowledged.map_or(assignment.first, |acknowledged| acknowledged.next);
                    reader.begin(assignment.partition, at).await.expect("begin");
                }
            }
            Event::Batch(batch) => messages.extend(batch.messages),
            Event::Revoked(_) => {}
            Event::Closed => panic!("closed after {} messages", messages.len()),
        }
    }
    messages
}

fn plain(server: &Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", server.plain().join(","));
    config
}

fn admin(server: &Kafka) -> AdminClient<DefaultClientContext> {
    plain(server).create().expect("a client")
}

#[tokio::test(flavor = "multi_thread")]
async fn does_what_every_bus_must() {
    let server = server();
    conformance::run(Promise::Kept, &|partitions, messages_max| {
        let keys = keys(&server.plain(), &server.unique(), partitions);
        let keys = with(keys, "options", json!({"queue.buffering.max.messages": messages_max.to_string()}));
        Box::pin(async move { config(&keys).expect("keys").open().await })
    })
    .await;
}

#[test]
fn keys_are_read_and_faults_told() {
    let told = |keys: Value| config(&keys).err().unwrap_or_default();
    assert_eq!(told(json!({})), "bus.brokers: is missing, expected a list of HOST:PORT");
    assert_eq!(told(json!({"brokers": ["a"]})), "bus.brokers[0]: `a`, expected HOST:PORT");
    assert_eq!(told(json!({"brokers": "kafka://a:1"})), "bus.brokers: `kafka://a:1`, expected HOST:PORT");
    let keys = |name: &str, value: Value| with(json!({"brokers": ["a:1"]}), name, value);
    assert_eq!(
        told(keys("sasl", json!({"mechanism": "GSSAPI", "username": "u"}))),
        "bus.sasl.mechanism: `GSSAPI`, expected one of: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512\n\
         bus.sasl.password: is missing, expected a password"
    );
    assert_eq!(told(keys("tls", json!({"ca": "/nowhere"}))), "bus.tls.ca: /nowhere cannot be read: entity not found");
    assert_eq!(told(keys("tls", json!({"ca": "/etc/passwd"}))), "bus.tls.ca: /etc/passwd holds no certificate in PEM");
    assert_eq!(
        told(keys("topics", json!({"jobs": "a b", "sites": "same", "observations": "same"}))),
        "bus.topics.jobs: `a b`, expected the name of a topic: up to 249 letters, digits, dots, underscores and dashes\n\
         bus.topics.observations: the topic `same` is named twice, expected one for each"
    );
    assert_eq!(
        told(keys("partitions", json!({"sites": 0}))),
        "bus.partitions.sites: `0`, expected a number from 1 to 10000"
    );
    assert_eq!(told(keys("format", json!("xml"))), "bus.format: `xml`, expected one of: protobuf, json");
    assert_eq!(
        told(keys("options", json!({"acks": "1"}))),
        "bus.options.acks: `acks` cannot be set: it is `all`, so that what is acknowledged is safe"
    );
    let unknown = told(keys("options", json!({"lingre.ms": "1"})));
    assert!(unknown.contains("No such configuration property") && unknown.contains("lingre.ms"), "{unknown}");
    let shown = config(&json!({
        "brokers": ["a:1", "b:2"], "sasl": {"mechanism": "PLAIN", "username": "u", "password": "hush"},
        "retention": {"jobs": "90m"}, "options": {"linger.ms": 5},
    }));
    let shown = shown.unwrap();
    assert!(!format!("{shown:?}").contains("hush"));
    assert_eq!(
        Value::from(shown.show()),
        json!({
            "brokers": ["a:1", "b:2"], "sasl": {"mechanism": "PLAIN", "username": "u", "password": "***"},
            "topics": topics("sitemon"), "partitions": {"sites": 64, "observations": 64},
            "retention": {"jobs": "1h30m", "observations": "7d", "dead_letters": "30d"},
            "format": "protobuf", "options": {"linger.ms": "5"},
        })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_are_reached_by_tls_and_sasl_and_strangers_are_refused() {
    // Those that are there already need not know our certificates.
    let server = Kafka::start(1).unwrap_or_else(|error| panic!("{error:#}"));
    let file = |name: &str| server.tls_file(name).display().to_string();
    let tls = |ca: &str, client: &str| json!({"ca": file(ca), "certificate": file(&format!("{client}.pem")), "key": file(&format!("{client}.key"))});
    let sasl =
        |mechanism: &str, password: &str| json!({"mechanism": mechanism, "username": USER, "password": password});
    let by_tls = || keys(&server.tls(), &server.unique(), 1);
    let by_sasl = || with(keys(&server.sasl(), &server.unique(), 1), "tls", json!({"ca": file("ca.pem")}));

    let mut good = vec![with(by_tls(), "tls", tls("ca.pem", "client"))];
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        good.push(with(by_sasl(), "sasl", sasl(mechanism, PASSWORD)));
    }
    for keys in good {
        let bus = open(&keys).await;
        publish(&*bus, vec![observation("a", 7)]).await;
        let mut reader = bus.subscribe(Topic::Observations, "writers").await.expect("subscribe");
        assert_eq!(read(&mut *reader, 1).await.iter().map(slot_of).collect::<Vec<_>>(), [7], "{keys}");
    }

    let bad = [
        ("no certificate", with(by_tls(), "tls", json!({"ca": file("ca.pem")})), "alert"),
        ("a stranger's certificate", with(by_tls(), "tls", tls("ca.pem", "stranger")), "alert"),
        ("brokers of a stranger", with(by_tls(), "tls", tls("stranger-ca.pem", "client")), "certificate verify failed"),
        ("a wrong password", with(by_sasl(), "sasl", sasl("SCRAM-SHA-512", "wrong")), "uthentication"),
        ("a wrong password, plain", with(by_sasl(), "sasl", sasl("PLAIN", "wrong")), "uthentication"),
    ];
    // Side by side, for each is tried for a while.
    let refused_all = bad.map(|(what, keys, why)| (what, why, tokio::spawn(async move { refused(&keys).await })));
    for (what, why, refused) in refused_all {
        let error = refused.await.expect(what);
        assert!(matches!(error, BusError::Unavailable(_)), "{what}: {error:?}");
        let told = error.to_string();
        assert!(told.contains("the brokers cannot be reached") && told.contains(why), "{what}: {told}");
    }
    // A key of another certificate is told before anything is sent.
    let mut mixed = tls("ca.pem", "client");
    mixed["key"] = file("stranger.key").into();
    let told = refused(&with(by_tls(), "tls", mixed)).await.to_string();
    assert!(told.contains("ssl.key") || told.contains("key values mismatch") || told.contains("private key"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_created_and_what_does_not_fit_is_refused() {
    let server = server();
    let prefix = server.unique();
    let bus = open(&keys(&server.plain(), &prefix, 3)).await;
    assert_eq!((bus.partitions(Topic::Jobs), bus.partitions(Topic::Observations)), (3, 3));
    let stream = bus.stream(Topic::Observations).expect("a name");
    assert!(stream.starts_with("kafka/") && stream.ends_with(&format!("/{prefix}.observations")), "{stream}");
    // Again, and with fewer partitions of observations than there are: they may have grown.
    let grown = with(keys(&server.plain(), &prefix, 3), "partitions", json!({"sites": 3, "observations": 2}));
    assert_eq!(open(&grown).await.partitions(Topic::Observations), 3);
    let told = refused(&keys(&server.plain(), &prefix, 4)).await.to_string();
    for part in
        ["sites has 3 partitions, expected 4", "jobs has 3", "observations has 3 partitions, expected 4 or more"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    // Sites that are not compacted would be forgotten.
    let other = server.unique();
    let name = format!("{other}.sites");
    let topic = NewTopic::new(&name, 3, TopicReplication::Fixed(1)).set("cleanup.policy", "delete");
    admin(&server).create_topics(&[topic], &AdminOptions::new()).await.expect("created");
    let told = refused(&keys(&server.plain(), &other, 3)).await.to_string();
    assert!(told.contains("sites has cleanup.policy=delete, expected compact"), "{told}");
    // Nothing was altered.
    let metadata = admin(&server).inner().fetch_metadata(Some(&name), PATIENCE).expect("metadata");
    assert_eq!(metadata.topics()[0].partitions().len(), 3);
    let away = refused(&keys(&["127.0.0.1:1".to_owned()], "x", 1)).await;
    assert!(matches!(away, BusError::Unavailable(_)) && away.to_string().contains("Connection refused"), "{away}");
}

/// What a topic holds: payload, and headers.
fn everything(server: &Kafka, topic: &str, count: usize) -> Vec<(Vec<u8>, BTreeMap<String, String>)> {
    let consumer: BaseConsumer = plain(server).set("group.id", server.unique()).create().expect("a client");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning).expect("an offset");
    consumer.assign(&list).expect("assigned");
    let (mut found, until) = (Vec::new(), Instant::now() + PATIENCE);
    while found.len() < count && Instant::now() < until {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.expect("a message");
        let headers = message.headers().map(|headers| {
            headers
                .iter()
                .map(|header| {
                    (header.key.to_owned(), String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned())
                })
                .collect()
        });
        found.push((message.payload().unwrap_or_default().to_vec(), headers.unwrap_or_default()));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_goes_to_the_dead_letters_and_reading_goes_on() {
    let server = server();
    let prefix = server.unique();
    let bus = open(&keys(&server.plain(), &prefix, 1)).await;
    publish(&*bus, vec![observation("a", 1)]).await;
    let topic = format!("{prefix}.observations");
    let producer: BaseProducer = plain(&server).create().expect("a client");
    let newer = OwnedHeaders::new()
        .insert(Header { key: "type", value: Some("observation") })
        .insert(Header { key: "version", value: Some("9") });
    producer.send(BaseRecord::to(&topic).key("a").payload("\u{1}poison")).expect("queued");
    producer.send(BaseRecord::to(&topic).key("a").payload("x").headers(newer)).expect("queued");
    producer.send(BaseRecord::<str, str>::to(&topic).key("a")).expect("queued");
    producer.flush(PATIENCE).expect("sent");
    publish(&*bus, vec![observation("a", 2)]).await;

    let mut reader = bus.subscribe(Topic::Observations, "writers").await.expect("subscribe");
    assert_eq!(read(&mut *reader, 2).await.iter().map(slot_of).collect::<Vec<_>>(), [1, 2]);
    let letters = everything(&server, &format!("{prefix}.dead-letters"), 3);
    let told: Vec<(&[u8], &str, &str)> = letters
        .iter()
        .map(|(payload, headers)| {
            (payload.as_slice(), &*headers["dead-letter-offset"], &*headers["dead-letter-reason"])
        })
        .collect();
    assert_eq!(told.len(), 3, "{letters:?}");
    assert_eq!((told[0].0, told[0].1), (&b"\x01poison"[..], "1"));
    assert!(told[0].2.starts_with("it is no observation in protobuf: "), "{told:?}");
    assert_eq!(told[1], (&b"x"[..], "2", "its version is 9, and the newest that is known is 1"));
    assert_eq!(told[2], (&b""[..], "3", "it is no observation in protobuf: it names no site"));
    assert_eq!(letters[1].1["version"], "9");
    assert_eq!(letters[1].1["dead-letter-topic"], topic);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_retention_took_is_an_error_with_both_figures() {
    let server = server();
    let prefix = server.unique();
    let bus = open(&keys(&server.plain(), &prefix, 1)).await;
    publish(&*bus, (0..10).map(|slot| observation("a", slot)).collect()).await;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&format!("{prefix}.observations"), 0, Offset::Offset(4)).expect("an offset");
    admin(&server).delete_records(&list, &AdminOptions::new()).await.expect("deleted");
    let mut reader = bus.subscribe(Topic::Observations, "writers").await.expect("subscribe");
    let Event::Assigned(assigned) = next(&mut *reader).await else { panic!("the partition must be assigned") };
    assert_eq!((assigned[0].first, &assigned[0].acknowledged), (4, &None));
    let told = reader.begin(0, 2).await.expect_err("it is gone").to_string();
    assert_eq!(told, "offset 2 of partition 0 is not held: 4 to 10 are");
    reader.begin(0, 4).await.expect("begin at the first");
    let slots: Vec<i64> = read(&mut *reader, 6).await.iter().map(slot_of).collect();
    assert_eq!(slots, [4, 5, 6, 7, 8, 9]);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_written_where_it_is_chosen_and_both_are_read() {
    let server = server();
    let prefix = server.unique();
    let protobuf = keys(&server.plain(), &prefix, 1);
    let json = open(&with(protobuf.clone(), "format", json!("json"))).await;
    publish(&*json, vec![observation("shop", 1)]).await;
    let protobuf = open(&protobuf).await;
    publish(&*protobuf, vec![observation("shop", 2)]).await;
    let held = everything(&server, &format!("{prefix}.observations"), 2);
    let line: Value = serde_json::from_slice(&held[0].0).expect("JSON");
    assert_eq!((&line["site"], &line["verdict"]), (&json!("shop"), &json!("up")));
    for ((_, headers), form) in held.iter().zip(["application/json", "application/protobuf"]) {
        assert_eq!((&*headers["type"], &*headers["version"], &*headers["content-type"]), ("observation", "1", form));
    }
    let mut reader = json.subscribe(Topic::Observations, "writers").await.expect("subscribe");
    assert_eq!(read(&mut *reader, 2).await.iter().map(slot_of).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_a_client_in_any_language_is_read() {
    let server = server();
    let prefix = server.unique();
    let bus = open(&keys(&server.plain(), &prefix, 4)).await;
    let mut reader = bus.subscribe(Topic::Jobs, "here").await.expect("subscribe");
    // No headers, and the default hashing of librdkafka, which is not ours.
    let producer: BaseProducer = plain(&server).create().expect("a client");
    let job = r#"{"site": "shop", "scheduled_at": "2026-11-21T10:00:00Z", "unknown": 1}"#;
    producer.send(BaseRecord::to(&format!("{prefix}.jobs")).key("shop").payload(job)).expect("queued");
    producer.flush(PATIENCE).expect("sent");
    let wanted = Job {
        site: "shop".into(),
        scheduled_at: Timestamp::parse("2026-11-21T10:00:00Z").expect("a time"),
        reason: Reason::Request,
        locations: Vec::new(),
        expires_at: None,
    };
    assert_eq!(read(&mut *reader, 1).await, [Message::Job(wanted)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sites_lie_where_the_clients_of_java_put_them() {
    let server = server();
    let prefix = server.unique();
    let bus = open(&keys(&server.plain(), &prefix, 8)).await;
    let sites = ["shop", "a", "https://shop.example/", "21", "foobar"];
    publish(&*bus, sites.iter().map(|site| observation(site, 0)).collect()).await;
    let mut reader = bus.subscribe(Topic::Observations, "writers").await.expect("subscribe");
    let mut found = BTreeMap::new();
    while found.len() < sites.len() {
        match next(&mut *reader).await {
            Event::Assigned(assigned) => {
                for assignment in assigned {
                    reader.begin(assignment.partition, 0).await.expect("begin");
                }
            }
            Event::Batch(batch) => {
                found.extend(batch.messages.iter().map(|message| (message.key().to_owned(), batch.partition)));
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    for site in sites {
        assert_eq!(found[site], (murmur2(site.as_bytes()) & 0x7fff_ffff) % 8, "{site}");
    }
    // From the tests of Java's own client.
    assert_eq!((murmur2(b"21") as i32, murmur2(b"foobar") as i32), (-973_932_308, -790_332_482));
}

/// As `org.apache.kafka.common.utils.Utils.murmur2` computes it.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        hash ^= rest.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_the_broker_is_killed() {
    let mut server = Kafka::start(1).unwrap_or_else(|error| panic!("{error:#}"));
    let bus = open(&keys(&server.plain(), &server.unique(), 4)).await;
    let mut reader = bus.subscribe(Topic::Observations, "writers").await.expect("subscribe");
    publish(&*bus, vec![observation("first", -1)]).await;
    let mut seen: BTreeSet<i64> = read(&mut *reader, 1).await.iter().map(slot_of).collect();

    // One message each time, so that the kill meets some on their way.
    let publishing = tokio::spawn({
        let bus = bus.clone();
        async move {
            let mut acknowledged = BTreeSet::new();
            for slot in 0..400_i64 {
                // What was not acknowledged is handed over again, as whoever uses a bus does.
                let message = observation(&format!("site {}", slot % 20), slot);
                loop {
                    match bus.publish(Topic::Observations, vec![message.clone()]).expect("publish").await {
                        Ok(()) => break,
                        Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                    }
                }
                acknowledged.insert(slot);
            }
            acknowledged
        }
    });
    tokio::time::sleep(Duration::from_millis(400)).await;
    server.kill(0).expect("killed");
    let server = tokio::task::spawn_blocking(move || {
        std::thread::sleep(Duration::from_secs(2));
        server.run(0).unwrap_or_else(|error| panic!("{error:#}"));
        server
    });
    let mut acknowledged = None;
    let mut publishing = publishing;
    let until = Instant::now() + PATIENCE * 2;
    while acknowledged.as_ref().is_none_or(|wanted: &BTreeSet<i64>| !wanted.is_subset(&seen)) {
        assert!(Instant::now() < until, "{} of {:?} came", seen.len(), acknowledged.map(|wanted| wanted.len()));
        tokio::select! {
            done = &mut publishing, if acknowledged.is_none() => acknowledged = Some(done.expect("published")),
            event = reader.next() => match event {
                Ok(Event::Batch(batch)) => {
                    seen.extend(batch.messages.iter().map(slot_of));
                    let note = Acknowledged { next: batch.next, metadata: String::new() };
                    // After a rebalance that the kill brought about it may be another's.
                    let _ = reader.acknowledge(batch.partition, note).await;
                }
                Ok(Event::Assigned(assigned)) => {
                    for assignment in assigned {
                        let at = assignment.acknowledged.map_or(assignment.first, |acknowledged| acknowledged.next);
                        reader.begin(assignment.partition, at).await.expect("begin");
                    }
                }
                Ok(Event::Revoked(_)) => {}
                Ok(Event::Closed) => panic!("closed"),
                // A reader that met an error is replaced.
                Err(_) => reader = bus.subscribe(Topic::Observations, "writers").await.expect("subscribe"),
            },
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
    assert_eq!(acknowledged.map(|wanted| wanted.len()), Some(400));
    drop(reader);
    server.await.expect("the broker is back");
}
