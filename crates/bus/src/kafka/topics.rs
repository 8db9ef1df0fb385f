//! The topics: created where they are missing, held against the configuration where they are there, never altered.

use super::PATIENCE;
use super::client::{Voice, blocking, brief};
use super::options::Options;
use super::producer::{Producer, passing};
use crate::{BusError, Partition, Topic};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use sitemon_model::unit::show_duration;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is known of the brokers and their topics.
#[derive(Debug, Clone)]
pub struct Known {
    /// The id of the cluster.
    pub cluster: String,
    jobs: Partition,
    observations: Partition,
}

impl Known {
    /// How many partitions a topic has.
    pub const fn partitions(&self, topic: Topic) -> Partition {
        match topic {
            Topic::Jobs => self.jobs,
            Topic::Observations => self.observations,
        }
    }
}

type Admin = AdminClient<Voice>;

/// What one of our topics is to be.
struct Plan<'o> {
    name: &'o str,
    /// The key of its number of partitions in the configuration.
    partitions_key: &'static str,
    partitions: Partition,
    /// Whether it may have more than that.
    may_grow: bool,
    compacted: bool,
    /// `None`: for ever.
    retention: Option<Duration>,
}

/// A topic as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    partitions: Partition,
    replication: u32,
    /// Whether all its partitions have a leader.
    led: bool,
}

fn plans(options: &Options) -> [Plan<'_>; 4] {
    let (names, partitions, retention) = (&options.topics, options.partitions, options.retention);
    let plan = |name, partitions_key, partitions, retention| Plan {
        name,
        partitions_key,
        partitions,
        may_grow: false,
        compacted: false,
        retention,
    };
    [
        Plan { compacted: true, ..plan(&names.sites, "sites", partitions.sites, None) },
        plan(&names.jobs, "sites", partitions.sites, Some(retention.jobs)),
        Plan {
            may_grow: true,
            ..plan(&names.observations, "observations", partitions.observations, Some(retention.observations))
        },
        Plan { may_grow: true, ..plan(&names.dead_letters, "", 1, Some(retention.dead_letters)) },
    ]
}

/// Sees to it that all topics are there and fit.
pub async fn prepare(options: &Options, producer: &Arc<Producer>) -> Result<Known, BusError> {
    let config = options.pass(options.client());
    let admin: Admin = AdminClient::from_config_and_context(&config, Voice::default())
        .map_err(|error| BusError::Engine(format!("no client of Kafka: {}", brief(&error))))?;
    let wanted: Vec<String> = plans(options).iter().map(|plan| plan.name.to_owned()).collect();
    let there = find(options, producer, &wanted).await?;
    create(&admin, options, &there).await?;
    let until = Instant::now() + PATIENCE;
    let found = loop {
        let found = find(options, producer, &wanted).await?;
        if wanted.iter().all(|name| found.get(name).is_some_and(|found| found.led)) {
            break found;
        }
        if Instant::now() > until {
            let missing: Vec<&str> = wanted
                .iter()
                .filter(|name| found.get(*name).is_none_or(|found| !found.led))
                .map(|name| &**name)
                .collect();
            return Err(BusError::Unavailable(format!("topics have no leader: {}", missing.join(", "))));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let faults: Vec<String> = plans(options).iter().filter_map(|plan| misfit(plan, found[plan.name])).collect();
    if !faults.is_empty() {
        return Err(BusError::Engine(faults.join("; ")));
    }
    look_at_settings(&admin, options, &there, &found).await?;
    let (asked, told) = (producer.clone(), options.clone());
    let cluster = blocking(move || asked.ask(&told, |client| Ok(client.fetch_cluster_id(PATIENCE)))).await?;
    let cluster =
        cluster.ok_or_else(|| BusError::Unavailable("the brokers do not tell the id of their cluster".to_owned()))?;
    let of = |topic: &str| found[topic].partitions;
    Ok(Known { cluster, jobs: of(&options.topics.jobs), observations: of(&options.topics.observations) })
}

/// Those of the topics that are there. (Asked for by name, brokers might make them, as they think best.)
async fn find(
    options: &Options,
    producer: &Arc<Producer>,
    names: &[String],
) -> Result<BTreeMap<String, Found>, BusError> {
    let (options, producer, names) = (options.clone(), producer.clone(), names.to_vec());
    blocking(move || {
        let metadata = producer.ask(&options, |client| client.fetch_metadata(None, PATIENCE))?;
        let ours = metadata.topics().iter().filter(|topic| names.iter().any(|name| name == topic.name()));
        let found = ours.filter(|topic| topic.error().is_none()).map(|topic| {
            let partitions = topic.partitions();
            let replication = partitions.iter().map(|partition| partition.replicas().len()).min().unwrap_or(0);
            let found = Found {
                partitions: partitions.len() as u32,
                replication: replication as u32,
                led: !partitions.is_empty() && partitions.iter().all(|partition| partition.leader() >= 0),
            };
            (topic.name().to_owned(), found)
        });
        Ok(found.collect())
    })
    .await
}

async fn create(admin: &Admin, options: &Options, there: &BTreeMap<String, Found>) -> Result<(), BusError> {
    let plans = plans(options);
    let missing: Vec<&Plan<'_>> = plans.iter().filter(|plan| !there.contains_key(plan.name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let retentions: Vec<Option<String>> =
        missing.iter().map(|plan| plan.retention.map(|retention| retention.as_millis().to_string())).collect();
    let topics: Vec<NewTopic<'_>> = missing
        .iter()
        .zip(&retentions)
        .map(|(plan, retention)| {
            let replication = TopicReplication::Fixed(options.replication.map_or(-1, |replication| replication as i32));
            let topic = NewTopic::new(plan.name, plan.partitions as i32, replication);
            let topic = topic.set("cleanup.policy", if plan.compacted { "compact" } else { "delete" });
            match retention {
                Some(retention) => topic.set("retention.ms", retention),
                None => topic,
            }
        })
        .collect();
    let patience = AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE));
    let results = admin.create_topics(&topics, &patience).await.map_err(|error| refused("topics", &error))?;
    let mut faults = Vec::new();
    for result in results {
        match result {
            Ok(name) => tracing::info!("the topic {name} was created"),
            // By whoever started with us.
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => faults.push(format!("{name} ({code})")),
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(BusError::Engine(format!("topics cannot be created: {}", faults.join(", "))))
}

fn refused(what: &str, error: &KafkaError) -> BusError {
    let told = format!("{what} cannot be created: {}", brief(error));
    if passing(error) { BusError::Unavailable(told) } else { BusError::Engine(told) }
}

/// What is wrong with the partitions of a topic, and what to do.
fn misfit(plan: &Plan<'_>, found: Found) -> Option<String> {
    let (have, want) = (found.partitions, plan.partitions);
    if have == want || plan.may_grow && have > want {
        return None;
    }
    let (name, key) = (plan.name, plan.partitions_key);
    Some(if plan.may_grow {
        format!(
            "the topic {name} has {have} partitions, expected {want} or more: give it more by Kafka's own tools \
             (kafka-topics.sh --alter --topic {name} --partitions {want}), or set bus.partitions.{key} to {have}"
        )
    } else {
        format!(
            "the topic {name} has {have} partitions, expected {want}: its keys would change their partitions, so give new \
             names in bus.topics, or set bus.partitions.{key} to {have}"
        )
    })
}

/// Reports settings of topics that were there before and are not as configured; those that would lose what is theirs
/// are errors.
async fn look_at_settings(
    admin: &Admin,
    options: &Options,
    there: &BTreeMap<String, Found>,
    found: &BTreeMap<String, Found>,
) -> Result<(), BusError> {
    let plans = plans(options);
    let plans: Vec<&Plan<'_>> = plans.iter().filter(|plan| there.contains_key(plan.name)).collect();
    if plans.is_empty() {
        return Ok(());
    }
    for plan in &plans {
        let have = found[plan.name].replication;
        if let Some(want) = options.replication.filter(|want| *want != have) {
            tracing::warn!("the topic {} is kept by {have} brokers, not by {want} as bus.replication says", plan.name);
        }
    }
    let names: Vec<ResourceSpecifier<'_>> = plans.iter().map(|plan| ResourceSpecifier::Topic(plan.name)).collect();
    let patience = AdminOptions::new().request_timeout(Some(PATIENCE));
    let described = match admin.describe_configs(&names, &patience).await {
        Ok(described) => described,
        Err(error) => {
            // Brokers may forbid to ask.
            tracing::warn!("the settings of topics that are there cannot be looked at: {}", brief(&error));
            return Ok(());
        }
    };
    let mut faults = Vec::new();
    for (plan, described) in plans.iter().zip(described) {
        let described = match described {
            Ok(described) => described,
            Err(code) => {
                tracing::warn!("the settings of the topic {} cannot be looked at: {code}", plan.name);
                continue;
            }
        };
        let value = |name: &str| described.get(name).and_then(|entry| entry.value.clone()).unwrap_or_default();
        let policy = value("cleanup.policy");
        if plan.compacted && !policy.contains("compact") {
            faults.push(format!("the topic {} has cleanup.policy={policy}, expected compact", plan.name));
        }
        if !plan.compacted && policy.contains("compact") {
            faults.push(format!("the topic {} has cleanup.policy={policy}, expected delete", plan.name));
        }
        let kept = value("retention.ms").parse::<i64>().ok();
        if let (Some(want), Some(kept)) = (plan.retention, kept)
            && u128::try_from(kept).ok() != Some(want.as_millis())
        {
            let shown =
                u64::try_from(kept).map_or("for ever".to_owned(), |ms| show_duration(Duration::from_millis(ms)));
            let want = show_duration(want);
            tracing::warn!("the topic {} keeps messages {shown}, not {want} as bus.retention says", plan.name);
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(BusError::Engine(format!("{} (topics that are there are not altered)", faults.join("; "))))
}
