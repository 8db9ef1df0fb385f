//! A row of arrivals: up to [`CHUNK`] observations of one transaction, sorted by series and slot.
//!
//! Its directory says whose they are and when, so that a reader passes over what it does not look for, and what an
//! overview shows of each, so that ten thousand sites are looked over without opening a record; the records follow in the same order, compressed together, because texts repeat from site to site. The order
//! by series keeps each row's span of series narrow where there are many, so that packing, which goes by
//! series, opens each row a few times at most, however many series there are.

use crate::record::Parts;
use crate::tables::Entry;
use crate::wire::{put_slice, put_varint, take_slice, take_varint};
use sitemon_model::{Observation, Timestamp};
use sitemon_stats::{Glance, Held};

/// Observations in a row at most.
pub(super) const CHUNK: usize = 64;
/// Bytes of records below which they are kept as they are.
const COMPRESS_FROM: usize = 256;
/// Bytes of records that a row may claim; more is damage.
const BYTES_MAX: u64 = 1 << 30;
/// Fast, and still a fifth of the size.
const LEVEL: i32 = 1;

/// A row to be.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// Observations in it.
    pub(super) count: usize,
    /// The earliest slot.
    pub(super) first_slot: i64,
    /// The latest slot.
    pub(super) last_slot: i64,
    /// The smallest id of a series.
    pub(super) first_series: i64,
    /// The largest id of a series.
    pub(super) last_series: i64,
    /// For each record: series as the difference to the one before, times 8, plus twice the verdict, plus one
    /// where it is no job of the schedule; the slot from the earliest on; how long its verdict holds, plus one,
    /// or 0 where it is as long as the one before; its response time plus one, or 0 where it has none.
    pub(super) directory: Vec<u8>,
    /// A flag byte (0 as they are, 1 compressed), then the records, each after its length.
    pub(super) body: Vec<u8>,
}

/// Makes rows; keeps its buffers.
pub(super) struct Encoder {
    parts: Parts,
    raw: Vec<u8>,
    record: Vec<u8>,
    zstd: zstd::bulk::Compressor<'static>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

impl Encoder {
    /// An encoder.
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            parts: Parts::default(),
            raw: Vec::new(),
            record: Vec::new(),
            zstd: zstd::bulk::Compressor::new(LEVEL)?,
        })
    }

    /// The row of observations that are sorted by series and slot.
    pub(super) fn encode(&mut self, items: &[(i64, &Observation)]) -> std::io::Result<Chunk> {
        self.raw.clear();
        for (_, observation) in items {
            self.parts.fill(observation);
            self.record.clear();
            self.parts.write(&mut self.record);
            put_slice(&mut self.raw, &self.record);
        }
        self.row(items.iter().map(|(series, observation)| Entry::of(*series, observation)))
    }

    /// The row of records that were read from one.
    pub(super) fn encode_again(&mut self, records: &[(Entry, Vec<u8>)]) -> std::io::Result<Chunk> {
        self.raw.clear();
        for (_, record) in records {
            put_slice(&mut self.raw, record);
        }
        self.row(records.iter().map(|(entry, _)| *entry))
    }

    /// The row of the records that lie in `raw`.
    fn row(&mut self, entries: impl Iterator<Item = Entry> + Clone) -> std::io::Result<Chunk> {
        let mut chunk = Chunk {
            count: entries.clone().count(),
            first_slot: entries.clone().map(|entry| entry.slot).min().unwrap_or_default(),
            last_slot: entries.clone().map(|entry| entry.slot).max().unwrap_or_default(),
            first_series: entries.clone().map(|entry| entry.series).min().unwrap_or_default(),
            last_series: entries.clone().map(|entry| entry.series).max().unwrap_or_default(),
            ..Chunk::default()
        };
        let (mut before, mut held_before) = (0, 0);
        for entry in entries {
            let Glance { held, response_time_us } = entry.glance;
            let whose = ((entry.series - before) as u64) << 3 | u64::from(held.verdict) << 1;
            put_varint(&mut chunk.directory, whose | u64::from(!entry.scheduled));
            put_varint(&mut chunk.directory, entry.slot.wrapping_sub(chunk.first_slot) as u64);
            let holds = held.until.0.wrapping_sub(held.from.0) as u64;
            put_varint(&mut chunk.directory, if holds == held_before { 0 } else { holds.wrapping_add(1) });
            put_varint(&mut chunk.directory, response_time_us.map_or(0, |us| us.saturating_add(1)));
            (before, held_before) = (entry.series, holds);
        }
        if self.raw.len() < COMPRESS_FROM {
            chunk.body.push(0);
            chunk.body.extend_from_slice(&self.raw);
        } else {
            chunk.body.push(1);
            put_varint(&mut chunk.body, self.raw.len() as u64);
            let compressed = self.zstd.compress(&self.raw)?;
            chunk.body.extend_from_slice(&compressed);
        }
        Ok(chunk)
    }
}

/// Reads the directory of a row; the iterator ends with `None` in its item where the bytes are damaged.
pub(super) fn entries(first_slot: i64, mut directory: &[u8]) -> impl Iterator<Item = Option<Entry>> {
    let (mut series, mut holds) = (0i64, 0u64);
    std::iter::from_fn(move || {
        if directory.is_empty() {
            return None;
        }
        let mut entry = || {
            let whose = take_varint(&mut directory)?;
            let slot = first_slot.wrapping_add(take_varint(&mut directory)? as i64);
            holds = take_varint(&mut directory)?.checked_sub(1).unwrap_or(holds);
            let response_time_us = take_varint(&mut directory)?.checked_sub(1);
            series = series.checked_add_unsigned(whose >> 3)?;
            let held = Held {
                verdict: (whose >> 1 & 3) as u8,
                from: Timestamp(slot),
                until: Timestamp(slot.wrapping_add(holds as i64)),
            };
            Some(Entry { series, slot, scheduled: whose & 1 == 0, glance: Glance { held, response_time_us } })
        };
        let entry = entry();
        if entry.is_none() {
            directory = &[];
        }
        Some(entry)
    })
}

/// Reads the records of rows; keeps its buffers.
pub(super) struct Decoder {
    raw: Vec<u8>,
    zstd: zstd::bulk::Decompressor<'static>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

impl Decoder {
    /// A decoder.
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self { raw: Vec::new(), zstd: zstd::bulk::Decompressor::new()? })
    }

    /// The records of a row, in the order of its directory; `None` where the bytes are damaged.
    pub(super) fn records<'a>(&'a mut self, body: &'a [u8]) -> Option<Records<'a>> {
        let (flag, mut rest) = body.split_first()?;
        match flag {
            0 => Some(Records(rest)),
            1 => {
                let len = take_varint(&mut rest).filter(|len| *len <= BYTES_MAX)?;
                // What is claimed is reserved only as far as such compression can reach.
                if len / 20_000 > rest.len() as u64 {
                    return None;
                }
                self.raw.clear();
                self.raw.reserve(len as usize);
                let read = self.zstd.decompress_to_buffer(rest, &mut self.raw).ok()?;
                (read as u64 == len).then_some(Records(&self.raw))
            }
            _ => None,
        }
    }
}

/// The records of a row.
#[derive(Debug)]
pub(super) struct Records<'a>(&'a [u8]);

impl<'a> Records<'a> {
    /// The next record; `None` where there is none.
    pub(super) fn take(&mut self) -> Option<&'a [u8]> {
        take_slice(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record;
    use crate::sample::Sample;

    #[test]
    fn rows_come_back_and_damage_is_an_answer() {
        let mut sample = Sample::new(3);
        let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new().unwrap());
        let mut reader = record::Reader::default();
        for count in [1usize, 2, 7, CHUNK] {
            let mut items: Vec<(i64, Observation)> =
                (0..count).map(|_| (sample.below(9) as i64 + 1, sample.any())).collect();
            items.sort_by_key(|(series, o)| (*series, o.scheduled_at));
            let borrowed: Vec<(i64, &Observation)> = items.iter().map(|(series, o)| (*series, o)).collect();
            let chunk = encoder.encode(&borrowed).unwrap();
            let told: Vec<Entry> = entries(chunk.first_slot, &chunk.directory).map(Option::unwrap).collect();
            assert_eq!(told.len(), count);
            let mut records = decoder.records(&chunk.body).unwrap();
            for (entry, (series, o)) in told.iter().zip(&items) {
                assert_eq!(*entry, Entry::of(*series, o));
                let record = records.take().unwrap();
                assert_eq!(reader.observation(&o.site, &o.location, record).as_ref(), Some(o));
            }
            assert!(records.take().is_none());
            for at in 0..chunk.body.len() {
                let mut body = chunk.body.clone();
                body[at] ^= 0x41;
                if let Some(mut records) = decoder.records(&body) {
                    while records.take().is_some() {}
                }
                let _ = decoder.records(&chunk.body[..at]);
            }
            for at in 0..chunk.directory.len() {
                assert!(entries(chunk.first_slot, &chunk.directory[..at]).count() <= count);
            }
        }
    }
}
