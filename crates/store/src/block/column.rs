//! A column of numbers by frame of reference with exceptions.
//!
//! ```text
//! byte      width in bits, 0 to 64; 128 is added where there are exceptions
//! varint    the reference, zigzag
//! [varint   number of exceptions; for each: varint index less the index before, varint the difference to the
//!           reference without its low `width` bits, shifted down by them, zigzag]
//! bits      for each number: the low `width` bits of its difference to the reference, the first bit the lowest
//! ```
//!
//! Reference and width are those that take the fewest bytes, so exceptions lie on either side.
//! A number that is the same throughout takes two bytes; a few far-away ones do not widen the others.

use crate::wire::{put_varint, take, take_varint, unzigzag, varint_len, zigzag};
use std::ops::Range;

/// The bit of the first byte that says that there are exceptions.
const EXCEPTIONS: u8 = 0x80;

/// Appends the column of `values`.
pub(super) fn encode(values: &[i64], out: &mut Vec<u8>) {
    let (reference, width) = best(values);
    let offset = |value: i64| value.wrapping_sub(reference);
    let exceptions = values.iter().filter(|value| high(offset(**value), width) != 0).count();
    out.push(width as u8 | if exceptions > 0 { EXCEPTIONS } else { 0 });
    put_varint(out, zigzag(reference));
    if exceptions > 0 {
        put_varint(out, exceptions as u64);
        let mut before = 0;
        for (index, value) in values.iter().enumerate() {
            let high = high(offset(*value), width);
            if high != 0 {
                put_varint(out, (index - before) as u64);
                put_varint(out, zigzag(high));
                before = index;
            }
        }
    }
    if width == 0 {
        return;
    }
    let mask = if width == 64 { u64::MAX } else { (1 << width) - 1 };
    let (mut held, mut bits) = (0u128, 0u32);
    for value in values {
        held |= u128::from(offset(*value) as u64 & mask) << bits;
        bits += width;
        while bits >= 8 {
            out.push(held as u8);
            held >>= 8;
            bits -= 8;
        }
    }
    if bits > 0 {
        out.push(held as u8);
    }
}

/// Takes a column of `count` numbers off the front; `None` where the bytes are damaged.
pub(super) fn decode(bytes: &mut &[u8], count: usize) -> Option<Vec<i64>> {
    decode_part(bytes, count, 0..count)
}

/// Takes a column of `count` numbers off the front, and gives those in `part`; `None` where the bytes are damaged, or
/// `part` goes beyond them.
pub(super) fn decode_part(bytes: &mut &[u8], count: usize, part: Range<usize>) -> Option<Vec<i64>> {
    let first = take(bytes, 1)?[0];
    let width = u32::from(first & !EXCEPTIONS);
    if width > 64 || part.start > part.end || part.end > count {
        return None;
    }
    let reference = unzigzag(take_varint(bytes)?);
    let mut exceptions = Vec::new();
    if first & EXCEPTIONS != 0 {
        let mut index = 0usize;
        for _ in 0..take_varint(bytes)? {
            index = index.checked_add(usize::try_from(take_varint(bytes)?).ok()?)?;
            let high = unzigzag(take_varint(bytes)?);
            if index >= count || width >= 64 {
                return None;
            }
            if part.contains(&index) {
                exceptions.push((index - part.start, high << width));
            }
        }
    }
    let packed = take(bytes, (count as u64).checked_mul(u64::from(width))?.div_ceil(8))?;
    let mut values = vec![reference; part.len()];
    if width > 0 && !values.is_empty() {
        let mask = if width == 64 { u64::MAX } else { (1 << width) - 1 };
        // What comes before the part: whole bytes, then bits.
        let before = part.start.checked_mul(width as usize)?;
        let (first, mut rest) = packed.get(before / 8..)?.split_first()?;
        let (mut held, mut bits) = (u128::from(first >> (before % 8)), 8 - (before % 8) as u32);
        for value in &mut values {
            while bits < width {
                if let Some((word, tail)) = rest.split_first_chunk::<8>().filter(|_| bits <= 64) {
                    held |= u128::from(u64::from_le_bytes(*word)) << bits;
                    bits += 64;
                    rest = tail;
                } else {
                    let (byte, tail) = rest.split_first()?;
                    held |= u128::from(*byte) << bits;
                    bits += 8;
                    rest = tail;
                }
            }
            *value = reference.wrapping_add((held as u64 & mask) as i64);
            held >>= width;
            bits -= width;
        }
    }
    for (index, high) in exceptions {
        values[index] = values[index].wrapping_add(high);
    }
    Some(values)
}

/// The difference without its low bits.
const fn high(offset: i64, width: u32) -> i64 {
    if width >= 64 { 0 } else { offset >> width }
}

/// The reference and the width in bits at which `values` take the fewest bytes, exceptions included: for each
/// width the reference below which and beyond which the fewest lie.
fn best(values: &[i64]) -> (i64, u32) {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let (Some(&smallest), Some(&largest)) = (sorted.first(), sorted.last()) else { return (0, 0) };
    let bits_of = |span: u64| 64 - span.leading_zeros();
    let widest = bits_of(largest.wrapping_sub(smallest) as u64);
    let mut best = (usize::MAX, smallest, widest);
    for width in 0..=widest {
        let bytes = (values.len() * width as usize).div_ceil(8);
        if bytes >= best.0 {
            break;
        }
        let (mut first, mut covered, mut reference) = (0, 0, smallest);
        for (index, value) in sorted.iter().enumerate() {
            while bits_of(value.wrapping_sub(sorted[first]) as u64) > width {
                first += 1;
            }
            if index + 1 - first > covered {
                covered = index + 1 - first;
                reference = sorted[first];
            }
        }
        let exception = |value: &i64| match high(value.wrapping_sub(reference), width) {
            0 => 0,
            high => 1 + varint_len(zigzag(high)),
        };
        let bytes = bytes + values.iter().map(exception).sum::<usize>();
        if bytes < best.0 {
            best = (bytes, reference, width);
        }
    }
    (best.1, best.2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(values: &[i64]) -> usize {
        let mut out = Vec::new();
        encode(values, &mut out);
        let mut rest = &out[..];
        assert_eq!(decode(&mut rest, values.len()).as_deref(), Some(values));
        assert!(rest.is_empty());
        for part in [0..values.len() / 2, values.len() / 3..values.len(), values.len()..values.len()] {
            let mut rest = &out[..];
            assert_eq!(decode_part(&mut rest, values.len(), part.clone()).as_deref(), Some(&values[part]));
            assert!(rest.is_empty());
        }
        out.len()
    }

    #[test]
    fn what_repeats_takes_two_bytes_and_outliers_little() {
        assert_eq!(round_trip(&[0; 240]), 2);
        assert_eq!(round_trip(&[]), 2);
        let mut values = vec![0; 240];
        values[7] = 15_000_000;
        values[200] = -15_000_000;
        assert!(round_trip(&values) < 50);
        round_trip(&[i64::MIN, i64::MAX, 0, -1]);
        let thousand: Vec<i64> = (0..1000).collect();
        assert!(round_trip(&thousand) <= 1250 + 3);
    }

    proptest! {
        #[test]
        fn any_numbers_come_back(
            values in proptest::collection::vec(prop_oneof![4 => 0i64..5000, 1 => any::<i64>(), 1 => Just(0)], 0..300),
        ) {
            round_trip(&values);
        }

        #[test]
        fn any_bytes_are_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200), count in 0usize..2000) {
            let _ = decode(&mut &bytes[..], count);
        }
    }
}
