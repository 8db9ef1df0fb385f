//! Tagged fields as protobuf writes them: what is added later is passed over by who does not know it.
//!
//! Written by hand on borrowed bytes: an observation has a dozen texts, and a million of them an hour are
//! read without making a copy of each first.

/// Appends a number in seven bits a byte, the low ones first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a number off the front; `None` where the bytes end before it or it is longer than a `u64`.
pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let (first, rest) = bytes.split_first()?;
    if *first < 0x80 {
        *bytes = rest;
        return Some(u64::from(*first));
    }
    let mut value = 0u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        let part = u64::from(byte & 0x7f);
        if index == 9 && part > 1 {
            return None;
        }
        value |= part << (7 * index);
        if byte & 0x80 == 0 {
            *bytes = &bytes[index + 1..];
            return Some(value);
        }
    }
    None
}

/// The bytes of a number as [`put_varint`] writes it.
pub(crate) const fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// A signed number as one without sign, small where it is near 0.
pub(crate) const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The number that [`zigzag`] was given.
pub(crate) const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Takes `len` bytes off the front.
pub(crate) fn take<'a>(bytes: &mut &'a [u8], len: u64) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(usize::try_from(len).ok()?)?;
    *bytes = rest;
    Some(taken)
}

/// Appends bytes with their length before them.
pub(crate) fn put_slice(out: &mut Vec<u8>, value: &[u8]) {
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Takes bytes with their length before them.
pub(crate) fn take_slice<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = take_varint(bytes)?;
    take(bytes, len)
}

/// Appends a number as a field.
pub(crate) fn number(out: &mut Vec<u8>, tag: u32, value: u64) {
    put_varint(out, u64::from(tag) << 3);
    put_varint(out, value);
}

/// Appends the bits of a float as a field.
pub(crate) fn float(out: &mut Vec<u8>, tag: u32, value: f64) {
    put_varint(out, u64::from(tag) << 3 | 1);
    out.extend_from_slice(&value.to_bits().to_le_bytes());
}

/// Appends bytes as a field.
pub(crate) fn bytes(out: &mut Vec<u8>, tag: u32, value: &[u8]) {
    put_varint(out, u64::from(tag) << 3 | 2);
    put_slice(out, value);
}

/// Appends a message as a field.
pub(crate) fn message(out: &mut Vec<u8>, tag: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    write(&mut inner);
    bytes(out, tag, &inner);
}

/// The value of a field.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'a> {
    /// A whole number.
    Number(u64),
    /// A float.
    Float(f64),
    /// Bytes, a text, or a message.
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The number.
    pub(crate) const fn number(self) -> Option<u64> {
        if let Value::Number(value) = self { Some(value) } else { None }
    }

    /// The float.
    pub(crate) const fn float(self) -> Option<f64> {
        if let Value::Float(value) = self { Some(value) } else { None }
    }

    /// The bytes.
    pub(crate) const fn bytes(self) -> Option<&'a [u8]> {
        if let Value::Bytes(value) = self { Some(value) } else { None }
    }

    /// The text.
    pub(crate) fn text(self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }
}

/// Reads the fields of a message one by one; `None` where its bytes are damaged.
pub(crate) fn fields<'a>(mut bytes: &'a [u8], mut each: impl FnMut(u32, Value<'a>) -> Option<()>) -> Option<()> {
    while !bytes.is_empty() {
        let key = take_varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Number(take_varint(&mut bytes)?),
            1 => Value::Float(f64::from_bits(u64::from_le_bytes(take(&mut bytes, 8)?.try_into().ok()?))),
            2 => Value::Bytes(take_slice(&mut bytes)?),
            _ => return None,
        };
        each(u32::try_from(key >> 3).ok()?, value)?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for value in [0, 1, 127, 128, 300, 1 << 35, u64::MAX - 1, u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_len(value));
            let mut rest = &out[..];
            assert_eq!(take_varint(&mut rest), Some(value));
            assert!(rest.is_empty());
            assert_eq!(take_varint(&mut &out[..out.len() - 1]), None);
        }
        for value in [0, -1, 1, i64::MIN, i64::MAX] {
            assert_eq!(unzigzag(zigzag(value)), value);
        }
        assert_eq!(take_varint(&mut &[0xff; 11][..]), None);
    }

    #[test]
    fn fields_come_back_in_order() {
        let mut out = Vec::new();
        number(&mut out, 1, 7);
        float(&mut out, 2, 1.5);
        message(&mut out, 300, |out| bytes(out, 1, b"x"));
        let mut told = Vec::new();
        fields(&out, |tag, value| {
            told.push(format!("{tag} {value:?}"));
            Some(())
        })
        .unwrap();
        assert_eq!(told, ["1 Number(7)", "2 Float(1.5)", "300 Bytes([10, 1, 120])"]);
        assert!(fields(&out[..out.len() - 1], |_, _| Some(())).is_none());
    }
}
