//! Changes inputs: bytes, words, lines and numbers.

use sitemon_store::sample::Sample;

/// Bytes of an input at most.
pub(crate) const INPUT_BYTES_MAX: usize = 24 << 10;

/// Numbers at which readers go wrong.
const NUMBERS: &[&str] = &[
    "0",
    "-1",
    "1",
    "127",
    "255",
    "256",
    "999",
    "1000",
    "65535",
    "65536",
    "2147483647",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e400",
    "00",
    "0x10",
    "+1",
    "1.5",
];

/// Bytes that mean something to most readers.
const BYTES: &[u8] = b"\x00\x01\x7f\x80\xff\r\n \t:;,.\"'{}[]()<>/\\%$#&*-_=~?!|^`0a";

/// A changed copy of `input`; `other` is another input, of which parts may be taken.
pub(crate) fn mutate(input: &[u8], other: &[u8], tokens: &[&[u8]], random: &mut Sample) -> Vec<u8> {
    let mut bytes = input.to_vec();
    // Mostly a few changes, so that what is deep in a reader is reached; sometimes many.
    let count = if random.once_in(8) { 1 + random.below(16) } else { 1 + random.below(3) };
    for _ in 0..count {
        once(&mut bytes, other, tokens, random);
        bytes.truncate(INPUT_BYTES_MAX);
    }
    bytes
}

fn once(bytes: &mut Vec<u8>, other: &[u8], tokens: &[&[u8]], random: &mut Sample) {
    let at = below(random, bytes.len() + 1);
    let on = below(random, bytes.len());
    match random.below(16) {
        0 if !bytes.is_empty() => bytes[on] ^= 1 << random.below(8),
        1 if !bytes.is_empty() => bytes[on] = pick(BYTES, random),
        2 if !bytes.is_empty() => bytes[on] = bytes[on].wrapping_add(if random.once_in(2) { 1 } else { 0xff }),
        3 => bytes.insert(at, pick(BYTES, random)),
        4 => {
            let range = range(bytes, random);
            bytes.drain(range);
        }
        5 => {
            let part = bytes[range(bytes, random)].to_vec();
            insert(bytes, at, &part);
        }
        6 => bytes.truncate(at),
        7 | 8 => {
            let part = &other[range(other, random)];
            if random.once_in(2) {
                insert(bytes, at, part);
            } else {
                let end = (at + part.len()).min(bytes.len());
                bytes.splice(at..end, part.iter().copied());
            }
        }
        9 | 10 if !tokens.is_empty() => insert(bytes, at, pick(tokens, random)),
        11 => number(bytes, random),
        12 | 13 => line(bytes, tokens, random),
        14 if bytes.len() >= 4 => {
            // A length or a count in the middle of bytes.
            let at = below(random, bytes.len() - 3);
            let value = random.next() as u32 >> random.below(32);
            bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        15 => {
            // The same again and again: what grows too fast shows itself.
            let part = bytes[range(bytes, random)].to_vec();
            let part = &part[..part.len().min(64)];
            for _ in 0..random.below(200) {
                insert(bytes, at.min(bytes.len()), part);
            }
        }
        _ => insert(bytes, at, &random.next().to_le_bytes()[..below(random, 8)]),
    }
}

/// Puts another number where one stands.
fn number(bytes: &mut Vec<u8>, random: &mut Sample) {
    let starts: Vec<usize> = (0..bytes.len())
        .filter(|at| bytes[*at].is_ascii_digit() && (*at == 0 || !bytes[*at - 1].is_ascii_digit()))
        .collect();
    if starts.is_empty() {
        return;
    }
    let start = pick(&starts, random);
    let length = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    bytes.splice(start..start + length, pick(NUMBERS, random).bytes());
}

/// Takes a line away, doubles it, moves it, or puts a word at its end.
fn line(bytes: &mut Vec<u8>, tokens: &[&[u8]], random: &mut Sample) {
    let mut lines: Vec<Vec<u8>> = bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    if lines.is_empty() {
        return;
    }
    let (from, to) = (below(random, lines.len()), below(random, lines.len()));
    match random.below(5) {
        0 => drop(lines.remove(from)),
        1 => lines.insert(to, lines[from].clone()),
        2 => lines.swap(from, to),
        3 => lines[from].splice(0..0, b"  ".iter().copied()).for_each(drop),
        _ if !tokens.is_empty() => {
            let end = lines[from].trim_ascii_end().len();
            lines[from].splice(end..end, pick(tokens, random).iter().copied());
        }
        _ => {}
    }
    *bytes = lines.concat();
}

fn insert(bytes: &mut Vec<u8>, at: usize, part: &[u8]) {
    if bytes.len() + part.len() <= INPUT_BYTES_MAX {
        bytes.splice(at..at, part.iter().copied());
    }
}

/// A part of these bytes, mostly a short one.
fn range(bytes: &[u8], random: &mut Sample) -> std::ops::Range<usize> {
    let start = below(random, bytes.len() + 1);
    let most = if random.once_in(4) { bytes.len() - start } else { (bytes.len() - start).min(16) };
    start..start + below(random, most + 1)
}

pub(crate) fn below(random: &mut Sample, end: usize) -> usize {
    if end == 0 { 0 } else { random.below(end as u64) as usize }
}

pub(crate) fn pick<T: Copy>(of: &[T], random: &mut Sample) -> T {
    of[below(random, of.len())]
}
