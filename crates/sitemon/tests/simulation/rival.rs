//! Another checker, elsewhere: what it observed comes by the same bus, often several times for one slot and each time
//! otherwise, as when two owned a site for a while. Which of them stays is decided by the store alone.

use crate::world::World;
use sitemon_bus::{Bus, Message, Topic};
use sitemon_model::{Cause, Code, Observation, Timestamp, Verdict, line, time};
use sitemon_store::sample::Sample;
use std::sync::Arc;
use std::time::Duration;

/// Where it runs.
pub const ELSEWHERE: &str = "elsewhere";
/// From slot to slot of its sites.
const INTERVAL: Duration = Duration::from_secs(20);

/// An observation of it.
#[derive(Debug, Clone)]
pub struct RivalNote {
    /// In which life of the process it was published.
    pub life: usize,
    /// What.
    pub observation: Arc<Observation>,
    /// That it is in the store was acknowledged.
    pub acknowledged: bool,
    /// The bus took it for certain, right before the end.
    pub last: bool,
}

/// A few observations of the last slots, some of the same slot.
fn observations(dice: &mut Sample, now: Timestamp) -> Vec<Arc<Observation>> {
    let count = 1 + dice.below(4);
    let one = |dice: &mut Sample| {
        let step = time::micros(INTERVAL) as i64;
        let slot = now.floor(step).plus(-step * dice.below(2) as i64);
        let began = (!dice.once_in(3)).then(|| slot.plus(dice.below(3) as i64 * 1_000));
        let verdict = match dice.below(5) {
            0 => Verdict::Up,
            1 => Verdict::Down(vec![Cause::new(Code::HttpStatus, format!("status {}", 500 + dice.below(3)))]),
            2 => Verdict::Unknown(vec![Cause::new(Code::SkippedHandover, "it had another owner then")]),
            _ => Verdict::Unknown(vec![Cause::new(Code::Stopped, "sitemon was stopped")]),
        };
        Arc::new(Observation {
            site: format!("site {}", dice.below(2)).into(),
            location: ELSEWHERE.into(),
            scheduled_at: slot,
            started_at: began,
            interval_us: time::micros(INTERVAL),
            timeout_us: time::micros(INTERVAL),
            verdict,
            ..Observation::default()
        })
    };
    (0..count).map(|_| one(dice)).collect()
}

/// Publishes some. `last`: nothing is wrong with this bus, and nobody waits for the acknowledgement.
pub fn publish(world: &Arc<World>, bus: &Arc<dyn Bus>, now: Timestamp, last: bool) {
    let (life, first) = {
        let notes = world.notes();
        (notes.lives.len() - 1, notes.rivals.len())
    };
    let mut dice = Sample::new(world.seed ^ (first as u64).rotate_left(32) ^ now.0 as u64);
    let observations = observations(&mut dice, now);
    let messages = observations.iter().cloned().map(Message::Observation).collect();
    let published = bus.publish(Topic::Observations, messages);
    let last = last && published.is_ok();
    // One that is refused may have been taken all the same.
    let noted = observations.into_iter().map(|observation| RivalNote { life, observation, acknowledged: false, last });
    world.notes().rivals.extend(noted);
    let mine = first..world.notes().rivals.len();
    let Ok(acknowledgement) = published else { return };
    let world = world.clone();
    tokio::spawn(async move {
        if acknowledgement.await.is_ok() {
            world.notes().rivals[mine].iter_mut().for_each(|note| note.acknowledged = true);
        }
    });
}

/// What goes first of several observations of one slot, computed anew from the interface: the smallest.
pub fn rank(observation: &Observation) -> (bool, Timestamp, String) {
    let unknown = matches!(observation.verdict, Verdict::Unknown(_));
    (unknown, observation.started_at.unwrap_or(Timestamp::MAX), line::to_string(observation))
}
