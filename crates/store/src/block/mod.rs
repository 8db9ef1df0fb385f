//! A block: the observations of one site and location over an hour or a day, packed without loss.
//!
//! ```text
//! byte      version
//! varint    number of observations, in the order of their slots, one for each
//! carried   what held at the start of the span: byte 0, or byte 1, byte verdict, and by how much earlier than
//!           the start it began and how much later it ends (varints, the second zigzag)
//! byte      the parts that are not empty throughout, a bit for each, shapes first
//! parts     for each of them: varint number of different ones, for shapes: for each 0 and 8 bytes (the id of a
//!           shape that blocks share) or 1; then, where there are several, a column that says which one each
//!           observation has
//! rest      the parts that are not shared, each after its length: varint bytes plus 1, or 0, varint bytes
//!           when unpacked and varint bytes, where they are compressed
//! columns   slots as differences: to the start of the span, then to the slot before plus the interval;
//!           then the other numbers in ascending order, each for those observations whose shape has it
//! ```

mod column;

use crate::record::{BLOCK_PARTS, Parts, Rest, SLOT, Shape};
use crate::wire::{put_slice, put_varint, take, take_slice, take_varint, unzigzag, zigzag};
use sitemon_model::{Cause, Observation, Timestamp};
use sitemon_stats::{Glance, Held};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// The layout above.
const VERSION: u8 = 1;
/// Observations of a block at most; an hour at 100 ms has 36,000.
const COUNT_MAX: u64 = 1 << 20;
/// Numbers of a block at most.
const NUMBERS_MAX: usize = 1 << 25;
/// Bytes of the parts of a block at most.
const REST_MAX: u64 = 1 << 30;
/// Slower than for arrivals: a block is written once and kept for a year.
const LEVEL: i32 = 9;
/// Bytes of parts below which compression gains nothing.
const COMPRESS_FROM: usize = 64;

/// The block of observations that are sorted by slot, one for each, from `start` on. `share` is asked for the
/// id under which a shape is kept outside, given its bytes and how many observations have it; without one it
/// is kept inside.
pub(crate) fn encode<'o>(
    start: Timestamp,
    carried: Option<Held>,
    observations: impl IntoIterator<Item = &'o Observation>,
    mut share: impl FnMut(&[u8], usize) -> Option<i64>,
) -> std::io::Result<Vec<u8>> {
    let mut dictionaries: [Dictionary; BLOCK_PARTS] = Default::default();
    let mut columns: BTreeMap<u16, Vec<i64>> = BTreeMap::new();
    let mut shapes: Vec<Shape> = Vec::new();
    let mut parts = Parts::default();
    let mut expected = start.0;
    let mut count = 0u64;
    for observation in observations {
        count += 1;
        parts.fill(observation);
        for (dictionary, bytes) in dictionaries.iter_mut().zip(&parts.parts) {
            dictionary.add(bytes);
        }
        let place = dictionaries[0].last();
        if place == shapes.len() {
            let damaged = || std::io::Error::other("an observation has a shape that cannot be read back");
            shapes.push(Shape::read(&parts.parts[0]).ok_or_else(damaged)?);
        }
        let interval = observation.interval_us as i64;
        for (column, number) in shapes[place].columns.iter().zip(&parts.numbers) {
            let number = if *column == SLOT { number.wrapping_sub(expected) } else { *number };
            columns.entry(*column).or_default().push(number);
        }
        expected = observation.scheduled_at.0.wrapping_add(interval);
    }

    let mut out = vec![VERSION];
    put_varint(&mut out, count);
    match carried {
        None => out.push(0),
        Some(held) => {
            out.extend([1, held.verdict]);
            put_varint(&mut out, start.0.wrapping_sub(held.from.0) as u64);
            put_varint(&mut out, zigzag(held.until.0.wrapping_sub(start.0)));
        }
    }
    let filled = |dictionary: &Dictionary| dictionary.entries.iter().any(|entry| !entry.is_empty());
    let mask: u8 = dictionaries.iter().enumerate().map(|(part, dictionary)| u8::from(filled(dictionary)) << part).sum();
    out.push(mask);
    let mut rest = Vec::new();
    for (part, dictionary) in dictionaries.iter().enumerate().filter(|(part, _)| mask >> part & 1 != 0) {
        put_varint(&mut out, dictionary.entries.len() as u64);
        for (index, entry) in dictionary.entries.iter().enumerate() {
            let shared = if part == 0 { share(entry, dictionary.uses(index)) } else { None };
            if let Some(id) = shared {
                out.push(0);
                out.extend_from_slice(&id.to_le_bytes());
            } else {
                if part == 0 {
                    out.push(1);
                }
                put_slice(&mut rest, entry);
            }
        }
        if dictionary.entries.len() > 1 {
            column::encode(&dictionary.indices, &mut out);
        }
    }
    let compressed = if rest.len() < COMPRESS_FROM { rest.clone() } else { zstd::bulk::compress(&rest, LEVEL)? };
    if compressed.len() + 3 < rest.len() {
        out.push(0);
        put_varint(&mut out, rest.len() as u64);
        put_slice(&mut out, &compressed);
    } else {
        // One more than there are, because 0 says that they are compressed.
        put_varint(&mut out, rest.len() as u64 + 1);
        out.extend_from_slice(&rest);
    }
    for values in columns.values() {
        column::encode(values, &mut out);
    }
    Ok(out)
}

/// The different values of a part, and which one each observation has.
#[derive(Debug, Default)]
struct Dictionary {
    entries: Vec<Vec<u8>>,
    by_bytes: HashMap<Vec<u8>, i64>,
    indices: Vec<i64>,
}

impl Dictionary {
    fn add(&mut self, bytes: &[u8]) {
        // Mostly it is the one of the observation before.
        if let Some(last) = self.indices.last().copied()
            && self.entries[last as usize] == bytes
        {
            self.indices.push(last);
            return;
        }
        let index = if let Some(index) = self.by_bytes.get(bytes) {
            *index
        } else {
            let index = self.entries.len() as i64;
            self.entries.push(bytes.to_vec());
            self.by_bytes.insert(bytes.to_vec(), index);
            index
        };
        self.indices.push(index);
    }

    /// The index of the one added last.
    fn last(&self) -> usize {
        self.indices.last().map_or(0, |index| *index as usize)
    }

    fn uses(&self, index: usize) -> usize {
        if self.entries.len() == 1 {
            return self.indices.len();
        }
        self.indices.iter().filter(|used| **used == index as i64).count()
    }
}

/// Numbers that are walked side by side.
type Columns = BTreeMap<u16, std::vec::IntoIter<i64>>;

/// A block that was read: its head, slots and parts; the other numbers once they are asked for.
#[derive(Debug)]
pub(crate) struct Block<'a> {
    /// What held at the start of its span.
    pub(crate) carried: Option<Held>,
    /// The slots of its observations, ascending.
    pub(crate) slots: Vec<i64>,
    shapes: Vec<Arc<Shape>>,
    /// By part; empty where all observations have the first.
    indices: [Vec<i64>; BLOCK_PARTS],
    /// By part: its different ones. Those of shapes are empty.
    entries: [Vec<Rest>; BLOCK_PARTS],
    /// The columns after the slots.
    columns: &'a [u8],
}

impl<'a> Block<'a> {
    /// Reads the block of the span from `start` on; `shared` gives the shape of an id. `None` where the bytes
    /// are damaged.
    pub(crate) fn read(
        start: Timestamp,
        mut bytes: &'a [u8],
        mut shared: impl FnMut(i64) -> Option<Arc<Shape>>,
    ) -> Option<Self> {
        let bytes = &mut bytes;
        if take(bytes, 1)? != [VERSION] {
            return None;
        }
        let count = take_varint(bytes).filter(|count| *count <= COUNT_MAX)? as usize;
        let carried = match take(bytes, 1)? {
            [0] => None,
            [1] => {
                let verdict = take(bytes, 1)?[0];
                let from = Timestamp(start.0.wrapping_sub(take_varint(bytes)? as i64));
                let until = Timestamp(start.0.wrapping_add(unzigzag(take_varint(bytes)?)));
                (verdict < 4).then_some(())?;
                Some(Held { verdict, from, until })
            }
            _ => return None,
        };
        let mask = take(bytes, 1)?[0];
        let mut indices: [Vec<i64>; BLOCK_PARTS] = Default::default();
        let mut sizes = [0usize; BLOCK_PARTS];
        let mut ids = Vec::new();
        for part in (0..BLOCK_PARTS).filter(|part| mask >> part & 1 != 0) {
            let size = take_varint(bytes).filter(|size| (1..=count as u64).contains(size))? as usize;
            sizes[part] = size;
            for _ in 0..if part == 0 { size } else { 0 } {
                ids.push(match take(bytes, 1)? {
                    [0] => Some(i64::from_le_bytes(take(bytes, 8)?.try_into().ok()?)),
                    [1] => None,
                    _ => return None,
                });
            }
            if size > 1 {
                indices[part] = column::decode(bytes, count)?;
                if indices[part].iter().any(|index| !(0..size as i64).contains(index)) {
                    return None;
                }
            }
        }
        let (rest_kept, mut rest_unpacked);
        let mut rest: &[u8] = match take_varint(bytes)? {
            0 => {
                let len = take_varint(bytes).filter(|len| *len <= REST_MAX)?;
                let compressed = take_slice(bytes)?;
                // What is claimed is reserved only as far as such compression can reach.
                (len / 20_000 <= compressed.len() as u64).then_some(())?;
                rest_unpacked = zstd::bulk::decompress(compressed, len as usize).ok()?;
                &mut rest_unpacked
            }
            len => {
                rest_kept = take(bytes, len - 1)?;
                rest_kept
            }
        };
        let mut shapes = Vec::with_capacity(ids.len());
        for id in ids {
            shapes.push(match id {
                Some(id) => shared(id)?,
                None => Arc::new(Shape::read(take_slice(&mut rest)?)?),
            });
        }
        if shapes.is_empty() && count > 0 {
            return None;
        }
        let mut entries: [Vec<Rest>; BLOCK_PARTS] = Default::default();
        for part in 1..BLOCK_PARTS {
            for _ in 0..sizes[part] {
                let mut entry = Rest::default();
                entry.set(part, take_slice(&mut rest)?)?;
                entries[part].push(entry);
            }
        }
        let mut block = Self {
            carried,
            slots: if count == 0 { Vec::new() } else { column::decode(bytes, count)? },
            shapes,
            indices,
            entries,
            columns: bytes,
        };
        let mut expected = start.0;
        for index in 0..count {
            let slot = block.slots[index].wrapping_add(expected);
            block.slots[index] = slot;
            expected = slot.wrapping_add(block.shape(index).interval_us() as i64);
        }
        Some(block)
    }

    /// The different lists of causes of its observations, in the order in which it numbers them.
    pub(crate) fn causes(&self) -> impl Iterator<Item = &[Cause]> {
        self.entries[1].iter().map(Rest::causes)
    }

    /// The shape of an observation.
    fn shape(&self, index: usize) -> &Arc<Shape> {
        &self.shapes[self.indices[0].get(index).map_or(0, |shape| *shape as usize)]
    }

    /// The numbers of its observations from `wanted.start` to `wanted.end`, or of all where they are not of one shape,
    /// by column, and which these are; `None` where the bytes are damaged.
    fn numbers(&self, wanted: Range<usize>) -> Option<(Range<usize>, Columns)> {
        if wanted.is_empty() {
            return Some((wanted, Columns::new()));
        }
        let count = self.slots.len();
        // How many observations each shape has, so how long each column is.
        let mut uses = vec![0usize; self.shapes.len()];
        match &self.indices[0][..] {
            [] => uses[0] = count,
            indices => indices.iter().for_each(|shape| uses[*shape as usize] += 1),
        }
        let mut lengths: BTreeMap<u16, usize> = BTreeMap::new();
        for (shape, uses) in self.shapes.iter().zip(uses).filter(|(_, uses)| *uses > 0) {
            for column in &shape.columns {
                *lengths.entry(*column).or_default() += uses;
            }
        }
        if lengths.values().sum::<usize>() > NUMBERS_MAX {
            return None;
        }
        let part = if self.shapes.len() == 1 { wanted } else { 0..count };
        let mut rest = self.columns;
        let mut columns = Columns::new();
        for (column, length) in lengths {
            let values = match column {
                SLOT => self.slots.get(part.clone())?.to_vec(),
                _ if length == count => column::decode_part(&mut rest, length, part.clone())?,
                _ => column::decode(&mut rest, length)?,
            };
            columns.insert(column, values.into_iter());
        }
        Some((part, columns))
    }

    /// What an overview needs of its observations by the schedule, by their slots; `None` where the bytes are damaged.
    pub(crate) fn glances(&self, mut each: impl FnMut(Glance)) -> Option<()> {
        let (all, mut columns) = self.numbers(0..self.slots.len())?;
        let mut numbers = Vec::new();
        for index in all {
            let shape = self.shape(index);
            numbers.clear();
            for column in &shape.columns {
                numbers.push(columns.get_mut(column)?.next()?);
            }
            if shape.is_scheduled() {
                each(shape.glance(&numbers)?);
            }
        }
        Some(())
    }

    /// The observations whose slot lies in `[from, to)`, ascending; `None` where the bytes are damaged.
    pub(crate) fn observations(
        &self,
        site: &Arc<str>,
        location: &Arc<str>,
        from: i64,
        to: i64,
        mut each: impl FnMut(Observation),
    ) -> Option<()> {
        let first = self.slots.partition_point(|slot| *slot < from);
        let end = self.slots.partition_point(|slot| *slot < to);
        let (part, mut columns) = self.numbers(first..end)?;
        // Where all have the same shape, which is the rule, the columns are walked side by side.
        let mut numbers = Vec::new();
        let mut parts = Rest::default();
        let mut current = [usize::MAX; BLOCK_PARTS];
        for index in part {
            let shape = self.shape(index);
            numbers.clear();
            for column in &shape.columns {
                numbers.push(columns.get_mut(column)?.next()?);
            }
            if !(from..to).contains(&self.slots[index]) {
                continue;
            }
            for (part, current) in current.iter_mut().enumerate().skip(1) {
                let entry = self.indices[part].get(index).map_or(0, |entry| *entry as usize);
                if *current != entry {
                    *current = entry;
                    if let Some(entry) = self.entries[part].get(entry) {
                        parts.copy(part, entry);
                    }
                }
            }
            each(shape.observation(site, location, &numbers, &parts)?);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{EPOCH, Sample};

    /// A block's observations back, with the shapes that it shares.
    fn read(bytes: &[u8], shared: &HashMap<i64, Vec<u8>>) -> Option<(Option<Held>, Vec<Observation>)> {
        let block = Block::read(EPOCH, bytes, |id| Some(Arc::new(Shape::read(shared.get(&id)?)?)))?;
        let mut found = Vec::new();
        block.observations(&"shop".into(), &"default".into(), i64::MIN, i64::MAX, |o| found.push(o))?;
        Some((block.carried, found))
    }

    /// Observations of one series, sorted, one for each slot, without evidence.
    fn hour(sample: &mut Sample, count: u64) -> Vec<Observation> {
        let mut observations: Vec<Observation> = (0..count)
            .map(|slot| {
                let slot = EPOCH.plus(slot as i64 * 15_000_000);
                let mut o = match sample.below(3) {
                    0 => Observation { scheduled_at: slot, ..sample.any() },
                    _ => sample.mixed(&"shop".into(), &"default".into(), slot, 15_000_000),
                };
                o.site = "shop".into();
                o.location = "default".into();
                o.evidence = None;
                o
            })
            .collect();
        observations.sort_by_key(|o| o.scheduled_at);
        observations
    }

    #[test]
    fn any_observations_come_back_and_damage_is_an_answer() {
        let mut sample = Sample::new(11);
        for count in [0, 1, 2, 17, 240] {
            let observations = hour(&mut sample, count);
            let held = Held { verdict: 2, from: EPOCH.plus(-7), until: EPOCH.plus(99) };
            let carried = sample.once_in(2).then_some(held);
            let mut shared = HashMap::new();
            let bytes = encode(EPOCH, carried, &observations, |bytes, uses| {
                let id = shared.len() as i64;
                (uses > 2).then(|| {
                    shared.insert(id, bytes.to_vec());
                    id
                })
            })
            .unwrap();
            assert_eq!(read(&bytes, &shared), Some((carried, observations)));
            for at in (0..bytes.len()).step_by(bytes.len() / 200 + 1) {
                let _ = read(&bytes[..at], &shared);
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << (at % 8);
                let _ = read(&flipped, &shared);
            }
        }
    }

    #[test]
    fn a_regular_hour_is_small() {
        let mut sample = Sample::new(12);
        let observations: Vec<Observation> = (0..240)
            .map(|k| sample.regular(&"shop".into(), &"default".into(), EPOCH.plus(7 + k * 15_000_000), 15_000_000))
            .collect();
        let bytes = encode(EPOCH, None, &observations, |_, _| Some(1)).unwrap();
        assert!(bytes.len() < 2700, "{}", bytes.len());
        let narrow = Block::read(EPOCH, &bytes, |_| Shape::read(&shape(&observations[0])).map(Arc::new)).unwrap();
        let mut found = Vec::new();
        let (from, to) = (observations[3].scheduled_at.0, observations[5].scheduled_at.0);
        narrow.observations(&"shop".into(), &"default".into(), from, to, |o| found.push(o)).unwrap();
        assert_eq!(found, observations[3..5]);
        let mut glances = Vec::new();
        narrow.glances(|glance| glances.push(glance)).unwrap();
        assert_eq!(glances, observations.iter().map(Glance::of).collect::<Vec<_>>());
    }

    fn shape(observation: &Observation) -> Vec<u8> {
        let mut parts = Parts::default();
        parts.fill(observation);
        parts.parts[0].clone()
    }
}
