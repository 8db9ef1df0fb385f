//! The bytes of records and blocks, for whoever feeds damaged ones to their readers.

use crate::block::{self, Block};
use crate::record::{self, Reader};
use crate::sample::EPOCH;
use sitemon_model::Observation;

/// The record of an observation, as arrivals keep it: without its site and location.
pub fn record(observation: &Observation) -> Vec<u8> {
    record::to_bytes(observation)
}

/// The observation of a record; `None` where the bytes are damaged.
pub fn read_record(bytes: &[u8]) -> Option<Observation> {
    Reader::default().observation(&"".into(), &"".into(), bytes)
}

/// The block of observations of one site and location, from [`EPOCH`] on.
pub fn block(observations: &[Observation]) -> std::io::Result<Vec<u8>> {
    block::encode(EPOCH, None, observations, |_, _| None)
}

/// The observations of a block from [`EPOCH`] on; `None` where the bytes are damaged.
pub fn read_block(bytes: &[u8]) -> Option<Vec<Observation>> {
    let block = Block::read(EPOCH, bytes, |_| None)?;
    let mut observations = Vec::new();
    block.observations(&"".into(), &"".into(), i64::MIN, i64::MAX, |observation| observations.push(observation))?;
    Some(observations)
}
