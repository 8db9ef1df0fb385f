//! Durations and sizes as people write them: `250ms`, `1m30s`, `14d`, `64KiB`, `10MB`.

use std::fmt::Write as _;
use std::time::Duration;

/// The units of a duration, longest first, with their microseconds. A year has 365 days.
const DURATION_UNITS: &[(&str, u64)] = &[
    ("y", 365 * 86_400_000_000),
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// The units of a size with their bytes.
const SIZE_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("KB", 1_000),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Reads `250ms`, `15s`, `1m30s`, `14d`, or a number of seconds, whole or fractional. A fraction of a
/// microsecond is rounded. `None` where the text is no duration, is negative or beyond `u64` microseconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Some(micros) = scaled(text, 1_000_000) {
        return Some(Duration::from_micros(micros));
    }
    let mut total = 0u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let (_, scale) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(scaled(number, *scale)?)?;
        rest = tail;
    }
    (!text.is_empty()).then(|| Duration::from_micros(total))
}

/// Reads `64KiB`, `10MB` or a number of bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    if unit.is_empty() {
        return number.parse().ok();
    }
    let (_, scale) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    scaled(number, *scale)
}

/// Shows a duration so that [`parse_duration`] reads the same again: `1m30s`, `14d`, `250ms`, `0s`.
pub fn show_duration(duration: Duration) -> String {
    let mut left = crate::time::micros(duration);
    let mut shown = String::new();
    for (unit, scale) in &DURATION_UNITS[1..] {
        if left >= *scale {
            let _ = write!(shown, "{}{unit}", left / scale);
            left %= scale;
        }
    }
    if shown.is_empty() { "0s".to_owned() } else { shown }
}

/// Shows a size so that [`parse_size`] reads the same again: `64KiB`, `1MiB`, `1500`.
pub fn show_size(bytes: u64) -> String {
    for (unit, scale) in [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= scale && bytes.is_multiple_of(scale) {
            return format!("{}{unit}", bytes / scale);
        }
    }
    bytes.to_string()
}

/// A decimal number times `scale`, rounded, without going through floating point.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction = &fraction[..fraction.len().min(18)];
    let power = 10u128.pow(fraction.len() as u32);
    let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let scale = u128::from(scale);
    let value = whole.checked_mul(scale)?.checked_add((fraction * scale + power / 2) / power)?;
    u64::try_from(value).ok()
}

/// How many there are: `1 site`, `2 sites`.
pub fn show_count(number: u64, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, micros) in [
            ("250ms", 250_000),
            ("15s", 15_000_000),
            ("1m30s", 90_000_000),
            ("14d", 14 * 86_400_000_000),
            ("2.5", 2_500_000),
            ("60", 60_000_000),
            ("0", 0),
            ("0.1", 100_000),
            ("1.5h", 5_400_000_000),
            ("7us", 7),
            ("1y", 365 * 86_400_000_000),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_micros(micros)), "{text}");
        }
        for text in ["", "s", "-1", "1x", "1 m", "1e3", "99999999999999y", ".", "1s30"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("64KiB"), Some(65536));
        assert_eq!(parse_size("10MB"), Some(10_000_000));
        assert_eq!(parse_size("1.5 KiB"), Some(1536));
        assert_eq!(parse_size("12"), Some(12));
        for text in ["", "KiB", "-1", "1XB", "1.5"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn shown_is_read_again() {
        for micros in [0, 1, 999, 250_000, 90_000_000, 86_400_000_000, 1_296_000_500_007] {
            let duration = Duration::from_micros(micros);
            assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
        }
        for bytes in [0, 1, 1500, 65536, 1 << 20, 3 << 30] {
            assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
        }
    }
}
