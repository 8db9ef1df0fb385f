//! Stored records and blocks: damaged ones are an answer, and what is read from one comes back the same when it
//! is written again.

use crate::mutate::below;
use crate::{Kind, Target};
use sitemon_model::{Observation, line};
use sitemon_store::raw;
use sitemon_store::sample::{EPOCH, Sample};

pub(crate) const RECORD: Kind = Kind {
    name: "record",
    about: "One observation as arrivals keep it.",
    tokens: TOKENS,
    open: || Ok(Box::new(Stored { block: false })),
};

pub(crate) const BLOCK: Kind = Kind {
    name: "block",
    about: "The packed observations of an hour.",
    tokens: TOKENS,
    open: || Ok(Box::new(Stored { block: true })),
};

/// Lengths and counts at which a reader might believe too much.
const TOKENS: &[&[u8]] = &[
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x80\x80\x80\x80\x01",
    b"\xff\xff\x3f",
    b"\x80\x80\x40",
    b"\x28\xb5\x2f\xfd",
    b"\x00",
    b"\x01\x00",
];

struct Stored {
    block: bool,
}

impl Stored {
    fn read(&self, bytes: &[u8]) -> Option<Vec<Observation>> {
        if self.block { raw::read_block(bytes) } else { raw::read_record(bytes).map(|observation| vec![observation]) }
    }

    fn write(&self, observations: &[Observation]) -> Result<Vec<u8>, String> {
        if self.block {
            return raw::block(observations).map_err(|error| format!("what was read cannot be written: {error}"));
        }
        observations.first().map(raw::record).ok_or_else(|| "a record of no observation".to_owned())
    }
}

impl Target for Stored {
    fn run(&mut self, input: &[u8]) -> Result<String, String> {
        let Some(observations) = self.read(input) else { return Ok(format!("damaged {}", input.len().min(16))) };
        let again = self.write(&observations)?;
        let back = self.read(&again).ok_or("what was written cannot be read")?;
        if lines(&observations)? != lines(&back)? {
            return Err(format!("not the same when written again:\n{observations:?}\n{back:?}"));
        }
        let first = observations.first();
        Ok(format!(
            "{} observations: {:?}",
            ["no", "one", "few", "many"][observations.len().min(3)],
            first.map(|first| (
                first.verdict.as_str(),
                first.hops.len().min(3),
                first.addresses.len().min(2),
                first.findings.len().min(2),
                first.metrics.len().min(2),
                first.evidence.is_some(),
                first.certificate.is_some(),
                first.response_time_us.is_some(),
            ))
        ))
    }

    fn make(&mut self, random: &mut Sample) -> Option<Vec<u8>> {
        let mut observations: Vec<Observation> = (0..if self.block { 1 + below(random, 12) } else { 1 })
            .map(|_| {
                let mut observation = random.any();
                if self.block {
                    observation.evidence = None;
                }
                observation
            })
            .collect();
        observations.sort_by_key(|observation| observation.scheduled_at);
        if self.block && random.once_in(2) {
            // A regular hour, as most are.
            observations = (0..20)
                .map(|k| random.regular(&"".into(), &"".into(), EPOCH.plus(k * 15_000_000), 15_000_000))
                .collect();
        }
        self.write(&observations).ok()
    }
}

/// As they are exported: each is JSON.
fn lines(observations: &[Observation]) -> Result<Vec<String>, String> {
    let lines: Vec<String> = observations.iter().map(line::to_string).collect();
    match lines.iter().find_map(|line| serde_json::from_str::<serde_json::Value>(line).err()) {
        Some(error) => Err(format!("an exported line is no JSON: {error}")),
        None => Ok(lines),
    }
}
