//! Bits in bytes, most significant first: what rollups are written in.

/// Appends bits to bytes.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
    /// Bits used of the last byte; 0: all of them.
    used: u32,
}

/// Bits that are looked at together: a word less those of its first byte that may be read already.
const AHEAD: u32 = 57;

/// Reads bits from bytes; every reading is `None` past the end.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    /// Bits already read.
    at: usize,
}

impl Writer {
    /// The lowest `width` bits of `value`, at most 64.
    pub(crate) fn bits(&mut self, value: u64, width: u32) {
        let mut left = width;
        while left > 0 {
            if self.used == 0 {
                self.bytes.push(0);
            }
            let free = 8 - self.used;
            let take = free.min(left);
            let part = (value >> (left - take)) & ((1 << take) - 1);
            if let Some(last) = self.bytes.last_mut() {
                *last |= (part as u8) << (free - take);
            }
            self.used = (self.used + take) % 8;
            left -= take;
        }
    }

    /// One bit.
    pub(crate) fn flag(&mut self, value: bool) {
        self.bits(u64::from(value), 1);
    }

    /// A whole number as Exp-Golomb code of an order below 64: short where it is around `2^order`.
    pub(crate) fn golomb(&mut self, value: u64, order: u32) {
        let high = u128::from(value >> order) + 1;
        let length = high.ilog2();
        self.bits(0, length);
        self.flag(true);
        self.bits(high as u64, length);
        self.bits(value, order);
    }

    /// The bits that [`Writer::golomb`] takes.
    pub(crate) fn golomb_size(value: u64, order: u32) -> usize {
        let high = u128::from(value >> order) + 1;
        (2 * high.ilog2() + 1 + order) as usize
    }

    /// A text: its length, its bytes.
    pub(crate) fn text(&mut self, text: &str) {
        self.golomb(text.len() as u64, 3);
        for byte in text.bytes() {
            self.bits(u64::from(byte), 8);
        }
    }

    /// The bytes, the last one filled with zeros.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next `width` bits, at most 64.
    pub(crate) fn bits(&mut self, width: u32) -> Option<u64> {
        if width > AHEAD {
            let high = self.bits(width - 32)?;
            return Some(high << 32 | self.bits(32)?);
        }
        if width as usize > self.left() {
            return None;
        }
        let value = self.ahead().checked_shr(64 - width).unwrap_or(0);
        self.at += width as usize;
        Some(value)
    }

    /// What comes next, from the highest bit on; at least [`AHEAD`] bits of it hold, zeros beyond the end.
    fn ahead(&self) -> u64 {
        let rest = self.bytes.get(self.at / 8..).unwrap_or_default();
        let word = rest.first_chunk().copied().unwrap_or_else(|| {
            let mut padded = [0; 8];
            padded[..rest.len()].copy_from_slice(rest);
            padded
        });
        u64::from_be_bytes(word) << (self.at % 8)
    }

    /// One bit.
    pub(crate) fn flag(&mut self) -> Option<bool> {
        Some(self.bits(1)? == 1)
    }

    /// See [`Writer::golomb`].
    pub(crate) fn golomb(&mut self, order: u32) -> Option<u64> {
        let mut length = 0;
        loop {
            // Zeros up to the next one; a statistic has hundreds of these, so they are not read bit by bit.
            let zeros = self.ahead().leading_zeros().min(AHEAD);
            if zeros as usize >= self.left() {
                return None;
            }
            self.at += zeros as usize;
            length += zeros;
            if zeros < AHEAD {
                self.at += 1;
                break;
            }
            if length > 64 {
                return None;
            }
        }
        if length > 64 {
            return None;
        }
        let high = u64::try_from((1_u128 << length | u128::from(self.bits(length)?)) - 1).ok()?;
        if high.leading_zeros() < order {
            return None;
        }
        Some(high << order | self.bits(order)?)
    }

    /// See [`Writer::text`]; at most `bytes_max` bytes.
    pub(crate) fn text(&mut self, bytes_max: usize) -> Option<String> {
        let length = usize::try_from(self.golomb(3)?).ok()?;
        if length > bytes_max || length > self.left() / 8 {
            return None;
        }
        let bytes = (0..length).map(|_| self.bits(8).map(|byte| byte as u8)).collect::<Option<Vec<u8>>>()?;
        String::from_utf8(bytes).ok()
    }

    /// Bits that are left.
    pub(crate) fn left(&self) -> usize {
        self.bytes.len() * 8 - self.at
    }

    /// Whether everything was read, but for the zeros that fill the last byte.
    pub(crate) fn ended(&mut self) -> bool {
        let left = self.left();
        left < 8 && self.bits(left as u32) == Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn written_is_read(parts in proptest::collection::vec((any::<u64>(), 0_u32..64, 0_u32..64), 0..20), text in ".*") {
            let mut writer = Writer::default();
            let mut size = 0;
            for (value, shift, order) in &parts {
                writer.golomb(value >> shift, *order);
                writer.bits(value >> shift, 64 - shift);
                size += Writer::golomb_size(value >> shift, *order) + (64 - shift) as usize;
            }
            prop_assert_eq!(size.div_ceil(8), writer.bytes.len());
            writer.text(&text);
            let bytes = writer.finish();
            let mut reader = Reader::new(&bytes);
            for (value, shift, order) in &parts {
                prop_assert_eq!(reader.golomb(*order), Some(value >> shift));
                prop_assert_eq!(reader.bits(64 - shift), Some(value >> shift));
            }
            prop_assert_eq!(reader.text(text.len()), Some(text));
            prop_assert!(reader.ended());
        }

        #[test]
        fn damaged_is_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..40), order in 0_u32..64) {
            let mut reader = Reader::new(&bytes);
            while reader.golomb(order).is_some() {}
            let mut reader = Reader::new(&bytes);
            while reader.text(16).is_some_and(|text| !text.is_empty()) {}
        }
    }
}
