//! Numbers, times and foreign text as people read them. All times are UTC.

use sitemon_model::Timestamp;
use sitemon_model::time::{DAY, HOUR, SECOND};
use std::borrow::Cow;
use std::time::Duration;

/// A measured time in microseconds, with three digits or so: `41 µs`, `10.4 ms`, `1.23 s`, `2m 5s`.
pub fn took(us: u64) -> String {
    let value = us as f64;
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..9_995 => format!("{:.2} ms", value / 1e3),
        9_995..99_950 => format!("{:.1} ms", value / 1e3),
        99_950..999_500 => format!("{:.0} ms", value / 1e3),
        999_500..9_995_000 => format!("{:.2} s", value / 1e6),
        9_995_000..60_000_000 => format!("{:.1} s", value / 1e6),
        _ => span(i64::try_from(us).unwrap_or(i64::MAX)),
    }
}

/// A span in microseconds by its two largest units: `12s`, `3m 20s`, `4h 5m`, `6d 3h`; below a second in
/// milliseconds. Negative ones count as none.
pub fn span(us: i64) -> String {
    let us = us.max(0);
    if us < SECOND {
        return format!("{}ms", us / 1000);
    }
    let units = [(365 * DAY, "y"), (DAY, "d"), (HOUR, "h"), (60 * SECOND, "m"), (SECOND, "s")];
    let first = units.iter().position(|(size, _)| us >= *size).unwrap_or(units.len() - 1);
    let (size, unit) = units[first];
    match units.get(first + 1) {
        Some((below, name)) if us % size >= *below => format!("{}{unit} {}{name}", us / size, us % size / below),
        _ => format!("{}{unit}", us / size),
    }
}

/// A share of 1 in percent. Never rounded up to 100 and never down to 0: `100 %` means all.
pub fn percent(share: f64) -> String {
    match share {
        1.0.. => "100 %".to_owned(),
        0.999.. => format!("{:.4} %", (share * 1e6).floor() / 1e4),
        0.001.. => format!("{:.2} %", (share * 1e4).floor() / 1e2),
        share if share > 0.0 => "< 0.1 %".to_owned(),
        _ => "0 %".to_owned(),
    }
}

/// A number of bytes: `812 B`, `4.1 KiB`, `1.3 GiB`.
pub fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB"].iter();
    let mut unit = units.next().unwrap_or(&"B");
    while value >= 1023.95 {
        let Some(next) = units.next() else { break };
        value /= 1024.0;
        unit = next;
    }
    if *unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// A count with commas: `10,000`.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// `1 block`, `1,234 blocks`
pub fn counted(number: u64, one: &str) -> String {
    format!("{} {one}{}", count(number), if number == 1 { "" } else { "s" })
}

/// An instant to the second: `2026-11-21 10:00:07`.
pub fn time(at: Timestamp) -> String {
    let text = at.to_string();
    match text.split_once('.') {
        Some((seconds, _)) => seconds.replace('T', " "),
        None => text,
    }
}

/// An instant as short as an axis over `width_us` needs it.
pub fn axis_time(at: Timestamp, width_us: i64) -> String {
    let text = time(at);
    let part = match width_us {
        ..=7_200_000_000 => text.get(11..19),
        7_200_000_001..=86_400_000_000 => text.get(11..16),
        86_400_000_001..=1_209_600_000_000 => text.get(5..16),
        _ => text.get(..10),
    };
    part.unwrap_or(&text).to_owned()
}

/// Foreign text on one line, with nothing in it that a terminal would obey: control characters, those that turn
/// the direction of writing among them, become `\u{..}` or, for line ends and tabs, a space.
pub fn plain(text: &str) -> Cow<'_, str> {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.chars().any(|c| c.is_control() || turns(c)) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => shown.push(' '),
            c if c.is_control() || turns(c) => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// A number as in the observation's line: a whole one without a point.
pub fn number(value: f64) -> serde_json::Value {
    if value.fract() == 0.0 && value.abs() < 9e15 { (value as i64).into() } else { value.into() }
}

/// Microseconds of a duration, signed, at most `i64::MAX`.
pub fn signed_micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_times_keep_three_digits() {
        for (us, text) in [
            (0, "0 µs"),
            (999, "999 µs"),
            (1_000, "1.00 ms"),
            (10_420, "10.4 ms"),
            (99_960, "100 ms"),
            (999_600, "1.00 s"),
            (59_900_000, "59.9 s"),
            (125_000_000, "2m 5s"),
        ] {
            assert_eq!(took(us), text);
        }
    }

    #[test]
    fn spans_have_two_units() {
        for (us, text) in [
            (-5, "0ms"),
            (250_000, "250ms"),
            (SECOND, "1s"),
            (200 * SECOND, "3m 20s"),
            (2 * HOUR + 30 * SECOND, "2h"),
            (6 * DAY + 3 * HOUR, "6d 3h"),
            (400 * DAY, "1y 35d"),
        ] {
            assert_eq!(span(us), text);
        }
    }

    #[test]
    fn a_hundred_percent_means_all() {
        for (share, text) in [
            (1.0, "100 %"),
            (0.999_999_9, "99.9999 %"),
            (0.999_5, "99.9500 %"),
            (0.998_999, "99.89 %"),
            (0.5, "50.00 %"),
            (0.000_01, "< 0.1 %"),
            (0.0, "0 %"),
        ] {
            assert_eq!(percent(share), text);
        }
    }

    #[test]
    fn sizes_and_counts() {
        assert_eq!(
            [bytes(812), bytes(4_198), bytes(1 << 20), bytes(1_048_575)].join(" "),
            "812 B 4.1 KiB 1.0 MiB 1.0 MiB"
        );
        assert_eq!([count(0), count(999), count(1_000), count(12_345_678)].join(" "), "0 999 1,000 12,345,678");
    }

    #[test]
    fn foreign_text_commands_nothing() {
        assert_eq!(plain("a\u{1b}[31mb\nc\u{202e}"), "a\\u{1b}[31mb c\\u{202e}");
        assert!(matches!(plain("ünïcode 漢"), Cow::Borrowed(_)));
    }

    #[test]
    fn times_are_utc() {
        let at = Timestamp(1_796_000_002_243_673);
        assert_eq!(time(at), "2026-11-30 00:53:22");
        assert_eq!(axis_time(at, HOUR), "00:53:22");
        assert_eq!(axis_time(at, DAY), "00:53");
        assert_eq!(axis_time(at, 7 * DAY), "11-30 00:53");
        assert_eq!(axis_time(at, 60 * DAY), "2026-11-30");
    }
}
