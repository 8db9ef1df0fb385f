//! What every bus must do; each driver runs it against the real thing.

use crate::{Acknowledged, Bus, BusError, Event, Message, Offset, Partition, Reader, Topic};
use sitemon_model::{Job, Observation, Reason, Timestamp};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Opens a bus without messages that has so many partitions, and holds so many messages at most (where the
/// driver has such a bound).
pub type Open<'a> =
    &'a dyn Fn(Partition, usize) -> Pin<Box<dyn Future<Output = Result<Arc<dyn Bus>, BusError>> + Send>>;

/// Nothing that a bus is asked here takes longer, so that a driver that hangs fails instead.
const PATIENCE: Duration = Duration::from_mins(1);

/// When a bus acknowledges what was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// When every group of readers has dealt with it: the bus itself forgets with the process.
    DealtWith,
    /// When the bus itself has it, so that no crash takes it away.
    Kept,
}

/// Runs the whole suite.
///
/// # Panics
/// Where the bus does not do what it must.
pub async fn run(promise: Promise, open: Open<'_>) {
    order_within_a_key(open).await;
    match promise {
        Promise::DealtWith => acknowledged_only_when_dealt_with(open).await,
        Promise::Kept => acknowledged_when_kept(open).await,
    }
    jobs_keep_all_their_words(open).await;
    a_dropped_next_loses_nothing(open).await;
    partitions_move_with_their_notes(open).await;
    positions_go_on(open).await;
    a_position_that_is_not_held_is_refused(open).await;
    closing_reads_to_the_end(open).await;
    the_bound_refuses(open).await;
}

/// An observation of a site, told apart by its slot.
pub fn observation(site: &str, slot: i64) -> Message {
    Message::Observation(Arc::new(Observation {
        site: site.into(),
        location: "here".into(),
        scheduled_at: Timestamp(slot),
        interval_us: 1_000_000,
        ..Observation::default()
    }))
}

/// The slot that tells a message apart.
pub fn slot_of(message: &Message) -> i64 {
    match message {
        Message::Observation(observation) => observation.scheduled_at.0,
        Message::Job(job) => job.scheduled_at.0,
    }
}

async fn next(reader: &mut dyn Reader) -> Event {
    tokio::time::timeout(PATIENCE, reader.next()).await.expect("an event in time").expect("an event")
}

/// Begins each partition that is assigned at its start, and reads until `count` messages are there.
async fn read(reader: &mut dyn Reader, count: usize) -> (Vec<Message>, BTreeMap<Partition, Offset>) {
    let (mut messages, mut ends) = (Vec::new(), BTreeMap::new());
    while messages.len() < count {
        match next(reader).await {
            Event::Assigned(assigned) => {
                for assignment in assigned {
                    let at = assignment.acknowledged.map_or(0, |acknowledged| acknowledged.next);
                    reader.begin(assignment.partition, at).await.expect("begin");
                }
            }
            Event::Batch(batch) => {
                assert!(batch.first < batch.next);
                ends.insert(batch.partition, batch.next);
                messages.extend(batch.messages);
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    (messages, ends)
}

async fn order_within_a_key(open: Open<'_>) {
    let bus = open(4, 100_000).await.expect("open");
    assert_eq!(bus.partitions(Topic::Observations), 4);
    let mut reader = bus.subscribe(Topic::Observations, "writers").await.expect("subscribe");
    for round in 0..10 {
        let batch = (0..40).map(|site| observation(&format!("site {site}"), round)).collect();
        drop(bus.publish(Topic::Observations, batch).expect("publish"));
    }
    let (messages, ends) = read(&mut *reader, 400).await;
    assert_eq!(messages.len(), 400);
    assert!(ends.len() > 1, "forty keys lie in more than one partition");
    let mut seen: BTreeMap<String, i64> = BTreeMap::new();
    for message in &messages {
        let expected = seen.entry(message.key().to_owned()).or_default();
        assert_eq!(slot_of(message), *expected, "{}", message.key());
        *expected += 1;
    }
}

async fn acknowledged_only_when_dealt_with(open: Open<'_>) {
    let bus = open(1, 100_000).await.expect("open");
    let mut reader = bus.subscribe(Topic::Observations, "writers").await.expect("subscribe");
    let mut first = bus.publish(Topic::Observations, vec![observation("a", 1)]).expect("publish");
    let mut second = bus.publish(Topic::Observations, vec![observation("a", 2), observation("a", 3)]).expect("publish");
    let (messages, _) = read(&mut *reader, 3).await;
    assert_eq!(messages.iter().map(slot_of).collect::<Vec<_>>(), [1, 2, 3]);
    let short = Duration::from_millis(50);
    assert!(tokio::time::timeout(short, &mut first).await.is_err(), "read is not dealt with");
    reader.acknowledge(0, Acknowledged { next: 2, metadata: String::new() }).await.expect("acknowledge");
    tokio::time::timeout(PATIENCE, first).await.expect("in time").expect("acknowledged");
    assert!(tokio::time::timeout(short, &mut second).await.is_err(), "its last message is not dealt with");
    reader.acknowledge(0, Acknowledged { next: 3, metadata: String::new() }).await.expect("acknowledge");
    tokio::time::timeout(PATIENCE, second).await.expect("in time").expect("acknowledged");
}

async fn acknowledged_when_kept(open: Open<'_>) {
    let bus = open(1, 100_000).await.expect("open");
    let acknowledged = bus.publish(Topic::Observations, vec![observation("a", 1), observation("b", 2)]);
    tokio::time::timeout(PATIENCE, acknowledged.expect("publish")).await.expect("in time").expect("acknowledged");
    // Nobody read it, and whoever comes later still can.
    let mut reader = bus.subscribe(Topic::Observations, "writers").await.expect("subscribe");
    let (messages, _) = read(&mut *reader, 2).await;
    assert_eq!(messages.iter().map(slot_of).collect::<Vec<_>>(), [1, 2]);
}

async fn jobs_keep_all_their_words(open: Open<'_>) {
    let bus = open(2, 100_000).await.expect("open");
    let mut reader = bus.subscribe(Topic::Jobs, "here").await.expect("subscribe");
    let job = Job {
        site: "shop".into(),
        scheduled_at: Timestamp(7),
        reason: Reason::Request,
        locations: vec!["here".into(), "there".into()],
        expires_at: Some(Timestamp(60_000_007)),
    };
    drop(bus.publish(Topic::Jobs, vec![Message::Job(job.clone())]).expect("publish"));
    let (messages, _) = read(&mut *reader, 1).await;
    assert_eq!(messages, [Message::Job(job)]);
}

async fn a_dropped_next_loses_nothing(open: Open<'_>) {
    let bus = open(1, 100_000).await.expect("open");
    let mut reader = bus.subscribe(Topic::Observations, "writers").await.expect("subscribe");
    let mut slots = Vec::new();
    for slot in 0..50 {
        drop(bus.publish(Topic::Observations, vec![observation("a", slot)]).expect("publish"));
        // Given up at once, or after whatever the driver does in this time.
        match tokio::time::timeout(Duration::from_micros(slot.unsigned_abs() * 20), reader.next()).await {
            Ok(Ok(Event::Assigned(_))) => reader.begin(0, 0).await.expect("begin"),
            Ok(Ok(Event::Batch(batch))) => slots.extend(batch.messages.iter().map(slot_of)),
            Ok(other) => panic!("unexpected {other:?}"),
            Err(_) => {}
        }
    }
    let missing = 50 - slots.len();
    slots.extend(read(&mut *reader, missing).await.0.iter().map(slot_of));
    assert_eq!(slots, (0..50).collect::<Vec<_>>());
}

async fn partitions_move_with_their_notes(open: Open<'_>) {
    let bus = open(4, 100_000).await.expect("open");
    let mut first = bus.subscribe(Topic::Observations, "writers").await.expect("subscribe");
    let batch: Vec<Message> = (0..40).map(|site| observation(&format!("site {site}"), 0)).collect();
    drop(bus.publish(Topic::Observations, batch).expect("publish"));
    let (_, ends) = read(&mut *first, 40).await;
    for (&partition, &next) in &ends {
        let metadata = format!("note {partition}");
        first.acknowledge(partition, Acknowledged { next, metadata }).await.expect("acknowledge");
    }
    let mut second = bus.subscribe(Topic::Observations, "writers").await.expect("subscribe");
    let Event::Revoked(revoked) = next(&mut *first).await else { panic!("a partition must be given away") };
    assert!(!revoked.is_empty() && revoked.len() < 4);
    // The partitions are ours until we come back for more: what was begun may still be acknowledged.
    let kept = revoked[0];
    let again = Acknowledged { next: ends.get(&kept).copied().unwrap_or(0), metadata: format!("note {kept}") };
    first.acknowledge(kept, again).await.expect("acknowledge while it is given away");
    let (given, ()) = tokio::join!(next(&mut *second), async {
        // Coming back for more gives them away; there is nothing to read.
        assert!(tokio::time::timeout(Duration::from_millis(200), first.next()).await.is_err());
    });
    let Event::Assigned(assigned) = given else { panic!("unexpected {given:?}") };
    assert_eq!(assigned.iter().map(|assignment| assignment.partition).collect::<Vec<_>>(), revoked);
    for assignment in &assigned {
        if let Some(end) = ends.get(&assignment.partition) {
            let note = assignment.acknowledged.as_ref().expect("what the last owner left");
            assert_eq!((note.next, note.metadata.clone()), (*end, format!("note {}", assignment.partition)));
        }
    }
    let refused = first.acknowledge(kept, Acknowledged::default()).await;
    assert!(matches!(refused, Err(BusError::NotAssigned(partition)) if partition == kept), "{refused:?}");
    // When a reader dies, the other has everything again.
    drop(second);
    let Event::Assigned(back) = next(&mut *first).await else { panic!("the partitions must come back") };
    assert_eq!(back.len(), revoked.len());
}

async fn positions_go_on(open: Open<'_>) {
    let bus = open(1, 100_000).await.expect("open");
    let mut reader = bus.subscribe(Topic::Observations, "writers").await.expect("subscribe");
    drop(bus.publish(Topic::Observations, vec![observation("a", 1), observation("a", 2)]).expect("publish"));
    let (_, ends) = read(&mut *reader, 2).await;
    reader.acknowledge(0, Acknowledged { next: ends[&0], metadata: String::new() }).await.expect("acknowledge");
    drop(reader);
    let mut reader = bus.subscribe(Topic::Observations, "writers").await.expect("subscribe");
    drop(bus.publish(Topic::Observations, vec![observation("a", 3)]).expect("publish"));
    let (messages, after) = read(&mut *reader, 1).await;
    assert_eq!(messages.iter().map(slot_of).collect::<Vec<_>>(), [3]);
    assert!(after[&0] > ends[&0]);
    let beyond = reader.acknowledge(0, Acknowledged { next: after[&0] + 1, metadata: String::new() }).await;
    assert!(matches!(beyond, Err(BusError::Engine(_))), "{beyond:?}");
}

async fn a_position_that_is_not_held_is_refused(open: Open<'_>) {
    let bus = open(1, 100_000).await.expect("open");
    let mut reader = bus.subscribe(Topic::Observations, "writers").await.expect("subscribe");
    drop(bus.publish(Topic::Observations, vec![observation("a", 1), observation("a", 2)]).expect("publish"));
    let _ = read(&mut *reader, 2).await;
    drop(reader);
    let mut reader = bus.subscribe(Topic::Observations, "writers").await.expect("subscribe");
    let Event::Assigned(assigned) = next(&mut *reader).await else { panic!("the partition must be assigned") };
    assert_eq!((assigned.len(), assigned[0].first), (1, 0));
    let refused = reader.begin(0, 3).await.expect_err("there is nothing");
    assert!(matches!(refused, BusError::OutOfRange { partition: 0, at: 3, first: 0, end: 2 }), "{refused:?}");
    assert_eq!(refused.to_string(), "offset 3 of partition 0 is not held: 0 to 2 are");
    // At the end is where the next message will be.
    reader.begin(0, 2).await.expect("begin at the end");
    drop(bus.publish(Topic::Observations, vec![observation("a", 3)]).expect("publish"));
    let (messages, _) = read(&mut *reader, 1).await;
    assert_eq!(messages.iter().map(slot_of).collect::<Vec<_>>(), [3]);
}

async fn closing_reads_to_the_end(open: Open<'_>) {
    let bus = open(1, 100_000).await.expect("open");
    let mut reader = bus.subscribe(Topic::Observations, "writers").await.expect("subscribe");
    drop(bus.publish(Topic::Observations, vec![observation("a", 1)]).expect("publish"));
    bus.close().await;
    assert!(matches!(bus.publish(Topic::Observations, vec![observation("a", 2)]), Err(BusError::Closed)));
    assert_eq!(read(&mut *reader, 1).await.0.len(), 1);
    assert!(matches!(next(&mut *reader).await, Event::Closed));
}

async fn the_bound_refuses(open: Open<'_>) {
    let bus = open(1, 10).await.expect("open");
    let batch = |count: i64| (0..count).map(|slot| observation("a", slot)).collect::<Vec<_>>();
    let refused = bus.publish(Topic::Observations, batch(11)).err();
    assert!(matches!(refused, Some(BusError::Full { held: 0 })), "{refused:?}");
    let first = bus.publish(Topic::Observations, batch(10)).expect("publish up to the bound");
    let mut reader = bus.subscribe(Topic::Observations, "writers").await.expect("subscribe");
    // Nothing was queued of what was refused.
    let (messages, ends) = read(&mut *reader, 10).await;
    assert_eq!(messages.len(), 10);
    reader.acknowledge(0, Acknowledged { next: ends[&0], metadata: String::new() }).await.expect("acknowledge");
    tokio::time::timeout(PATIENCE, first).await.expect("in time").expect("acknowledged");
    drop(bus.publish(Topic::Observations, batch(10)).expect("room again"));
}
